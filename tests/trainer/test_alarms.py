from __future__ import annotations

from share.kernel.trainer.alarms import AlarmConfig, Alarms

HEALTHY = {"operation_share": 0.5, "entropy": 0.5, "zero_variance_share": 0.2, "accuracy": 0.5}


def names(alarms: Alarms, **changes: float) -> list[str]:
    return [alarm.name for alarm in alarms.observe(**{**HEALTHY, **changes})]


def test_no_alarm_before_the_window_is_full() -> None:
    alarms = Alarms(AlarmConfig(window_steps=3))
    assert [names(alarms, operation_share=0.0) for _ in range(3)] == [[], [], ["operation_collapse"]]


def test_an_alarm_is_raised_once_until_it_ends() -> None:
    alarms = Alarms(AlarmConfig(window_steps=1))
    assert names(alarms, operation_share=0.0) == ["operation_collapse"]
    assert names(alarms, operation_share=0.0) == []
    assert names(alarms) == []
    assert names(alarms, operation_share=0.0) == ["operation_collapse"]


def test_low_entropy_and_equal_rewards_alarm_unless_the_task_is_solved() -> None:
    alarms = Alarms(AlarmConfig(window_steps=1))
    stuck = {"entropy": 0.0, "zero_variance_share": 1.0}
    assert names(alarms, **stuck, accuracy=1.0) == []
    assert names(alarms, **stuck, accuracy=0.3) == ["entropy_collapse", "zero_variance"]


def test_alarms_survive_a_checkpoint() -> None:
    alarms = Alarms(AlarmConfig(window_steps=2))
    names(alarms, operation_share=0.0)
    restored = Alarms(AlarmConfig(window_steps=2))
    restored.load_state_dict(alarms.state_dict())
    assert names(restored, operation_share=0.0) == ["operation_collapse"]
