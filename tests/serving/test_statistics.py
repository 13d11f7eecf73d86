"""What an engine counts, and as what."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action
from share.kernel.errors import RequestDropped
from tests.serving.engines import Maker, ask


class Gone:
    """A client that has hung up."""

    is_gone = True

    def wrote(self, text: str, /) -> None: ...

    def acted(self, action: Action, /) -> None: ...


def test_a_client_that_hangs_up_is_no_failure(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path)
    for number in range(3):
        with pytest.raises(RequestDropped):
            parts.engine.submit(ask(questions[number]), Gone()).result()
    parts.ask(questions[3])
    requests = parts.engine.get_statistics().requests
    assert (requests.answered, requests.failed, requests.dropped) == (1, 0, 3)
