"""What a person is told of a training while it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.contracts.run import RunContext
from share.kernel.events import StructuredLogger
from share.kernel.registry import Registry
from share.kernel.trainer.monitor import Monitor


@pytest.mark.parametrize(
    ("resume", "done", "says"),
    [
        (False, 0, ""),
        (True, 0, "grpo goes on from step 0: no checkpoint yet\n"),
        (True, 4, "grpo goes on after step 4 of 8\n"),
    ],
)
def test_a_resumed_run_says_from_where_it_goes_on(
    resume: bool, done: int, says: str, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = StructuredLogger(None, run_id="grpo-1", backend="grpo")
    run = RunContext("grpo-1", "train", tmp_path, tmp_path, logger, 0, registry, resume=resume)
    with Monitor(run, steps=8, done=done, trackers=(), title="grpo"):
        pass
    assert capsys.readouterr().err == says
