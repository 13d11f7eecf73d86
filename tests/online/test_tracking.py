"""The trackers of trainings are told how the service does."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from share.kernel.contracts.run import Metric
from share.kernel.online.tracking import figures_of
from share.kernel.registry import Registry
from share.kernel.report.trackers import DIRECTORY
from share.kernel.serving.statistics import (
    EvidenceStatistics,
    ExpertStatistics,
    LearningStatistics,
    MemoryStatistics,
    Quantiles,
    ReleaseStatistics,
    RequestStatistics,
    Statistics,
)
from share.kernel.serving.update_task import Counters, UpdateResult
from tests.online.running import question, start


def test_what_is_tracked_is_what_the_engine_says_and_nothing_that_is_not_known() -> None:
    last = UpdateResult(
        outcome="learned",
        parent="frozen",
        mode="adapted",
        beta=0.05,
        kl_frozen=0.02,
        counters=Counters(updates=3),
        label_accuracy=0.5,
        reward_accuracy=0.875,
        majority_ratio=0.75,
    )
    buffer: dict[str, Metric] = {"experiences": 40, "log_bytes": 9000, "recall": None, "index": "flat"}
    told = Statistics(
        started_at=0.0,
        behind=0,
        requests=RequestStatistics(
            50, 1, 0, 2, {"frozen": 30, "adapted": 20}, 0.4, {"ZOOM_IN": 49}, {"total": Quantiles(50, 12.0, 20.0, 30.0)}
        ),
        memory=MemoryStatistics(0, {}, 40, {}, 0.1, buffer),
        evidence=EvidenceStatistics(
            8, {"frozen": ExpertStatistics(0.6, 8, 6), "memory": ExpertStatistics(0.15, 0, 0)}, {}, None, 0.07
        ),
        learning=LearningStatistics("on", 4, 3, {"learned": 3}, {}, {"accepted": 5, "redundant": 2}, last, None),
        releases=ReleaseStatistics("v000003-0", (), 3, 1, 3, 1, 0),
        reviews={"waiting": 4},
        feedback={},
        erasures=0,
        troubles={},
    )
    figures = figures_of(told)
    assert figures["accuracy/frozen"] == 0.75
    assert (figures["updates/kl_frozen"], figures["updates/beta"], figures["updates/confirmed"]) == (0.02, 0.05, 3)
    shares = [figures[f"updates/{name}"] for name in ("label_accuracy", "reward_accuracy", "majority_ratio")]
    assert shares == [0.5, 0.875, 0.75]
    assert (figures["latency/total_p50_ms"], figures["latency/total_p99_ms"]) == (12.0, 30.0)
    assert (figures["buffer/experiences"], figures["releases/rollbacks"], figures["gate/redundant"]) == (40, 1, 2)
    unknown = {"accuracy/memory", "buffer/recall", "updates/kl_served", "worker/deaths", "buffer/index"}
    assert not unknown & figures.keys()


def test_the_files_of_tensorboard_have_the_figures(tmp_path: Path, registry: Registry) -> None:
    running = start(tmp_path, "read_only=true", "trackers=[tensorboard]", "track_every_s=0.5")
    running.make_keys()
    messages, _ = question(registry)
    for _ in range(3):
        asked = {"model": "pixelis", "messages": messages}
        assert running.call("POST", "/v1/chat/completions", asked, key=running.keys["client"]).status == 200
    time.sleep(1.0)
    assert running.stop() == 0, running.said
    (run_dir,) = (tmp_path / "runs").iterdir()
    (written,) = {path.parent for path in (run_dir / DIRECTORY).rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(written))
    events.Reload()
    answered = [event.value for event in events.Scalars("requests/answered")]
    assert len(answered) >= 2
    assert answered == sorted(answered)
    assert answered[-1] == 3, "what was answered last is told when it ends"
    assert {"latency/total_p99_ms", "weight/frozen", "releases/rollbacks"} <= set(events.Tags()["scalars"])
