"""Supervisors of real processes, closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue

from share.kernel.events import StructuredLogger
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.supervisor import WorkerSupervisor

PATIENCE_S = 300.0
"""How long a test waits for what must come. It is a bound on hanging, not on speed."""

HANDLERS = "tests.transport.handlers"
Supervise = Callable[..., WorkerSupervisor]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start a supervisor over `tmp_path`; by default its circuit never opens, and its worker is not idle-scheduled."""
    started: list[WorkerSupervisor] = []

    def start(
        handler: str = "Tally", settings: dict[str, JsonValue] | None = None, **config: object
    ) -> WorkerSupervisor:
        lenient = {"num_slots": 16, "slot_bytes": 1 << 16, "deaths_max": 100_000, "scheduling": "normal"}
        supervisor = WorkerSupervisor(
            TransportConfig.model_validate({**lenient, **config}),
            target=f"{HANDLERS}:{handler}",
            settings={"directory": str(tmp_path), **(settings or {})},
            directory=tmp_path,
            logger=StructuredLogger(None, run_id="test", backend="transport"),
        )
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.close(timeout_s=0.0)
