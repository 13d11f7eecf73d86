"""Updates that come to nothing say why in a word."""

from __future__ import annotations

from pathlib import Path

from share.kernel.contracts.task import Prompt
from tests.serving.engines import Maker

NOBODY = {"preload": ["no_such_module"], "deaths_max": 1000}
"""Transport that is on and never gets a worker."""


def test_an_update_about_somebody_who_is_erased_is_withdrawn_and_called_so(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True, transport=NOBODY)
    parts.ask(questions[0], "trace", subject="joe")
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "update"
    parts.engine.erase("joe", actor="alice")
    parts.until(lambda: parts.engine.get_statistics().troubles.get("update_not_done") == {"withdrawn": 1})


def test_an_update_that_closing_interrupts_is_called_so(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, learns=True, transport=NOBODY)
    parts.ask(questions[0], "trace")
    parts.engine.process_human_review_decision("trace", True, reviewer="anna")
    assert parts.supervisor is not None
    parts.supervisor.close(timeout_s=0.0)
    parts.until(lambda: parts.engine.get_statistics().troubles.get("update_not_done") == {"closed": 1})
