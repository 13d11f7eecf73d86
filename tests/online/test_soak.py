"""Five minutes of the two-hour soak, beside the other tests: `tests/conftest.py` starts it with the session."""

from __future__ import annotations

import json

import pytest

from tests.online.soaking import START_S, Soaking, minutes


@pytest.mark.timeout(60 * minutes() + 2 * START_S)
def test_a_service_that_is_used_learns_and_loses_hands_back_and_forgets_costs_the_same_all_the_time(
    soaking: Soaking,
) -> None:
    said = soaking.wait()
    report = json.loads((soaking.output / "soak.json").read_text())
    verdicts = {verdict["name"]: verdict for verdict in report["verdicts"]}
    assert {"requests", "engine memory", "worker memory", "descriptors", "buffer", "audit log"} <= verdicts.keys()
    assert [verdict for verdict in verdicts.values() if not verdict["is_good"]] == [], said
    assert soaking.process.returncode == 0, said
    assert (soaking.output / "soak.png").stat().st_size > 10_000
