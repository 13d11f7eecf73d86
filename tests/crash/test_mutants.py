"""Every mistake that was made on purpose is noticed, by the checks that find nothing wrong with the real code."""

from __future__ import annotations

import pytest

from tests.crash.buffer import BufferCheck, BufferWorld
from tests.crash.explore import SUBJECTS, Depth, Found, Subject, explore, explore_workload
from tests.crash.log import LogCheck, LogWorld, file_storage
from tests.crash.mutants import BUFFER_MUTANTS, LOG_MUTANTS, Mutant

STATES_MAX = 500
STATES_MAX_ELSEWHERE = 50_000

# A mistake shows in some workloads, and there at many of the points: a part of many workloads finds it soonest.
LOG_DEPTH = Depth(share_of_points=0.5, images=4, share_of_recoveries=0.01)
BUFFER_DEPTH = Depth(share_of_points=0.15, images=2, share_of_recoveries=0.01)


def log_of(mutant: Mutant) -> Subject:
    return Subject(
        "log",
        lambda seed: LogWorld(file_storage, seed, mutate=mutant.mutate),
        lambda: LogCheck(file_storage, mutate=mutant.mutate),
    )


def buffer_of(mutant: Mutant) -> Subject:
    return Subject(
        "buffer",
        lambda seed: BufferWorld(file_storage, seed, mutate=mutant.mutate),
        lambda: BufferCheck(file_storage, mutate=mutant.mutate),
    )


MUTANTS = [
    *(pytest.param(each, log_of(each), LOG_DEPTH, id=f"log: {each.name}") for each in LOG_MUTANTS),
    *(pytest.param(each, buffer_of(each), BUFFER_DEPTH, id=f"buffer: {each.name}") for each in BUFFER_MUTANTS),
]


@pytest.mark.parametrize(("mutant", "subject", "depth"), MUTANTS)
def test_a_mistake_is_noticed(mutant: Mutant, subject: Subject, depth: Depth, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    with pytest.raises(Found) as found:
        explore(subject, STATES_MAX, seed=mutant.seed, depth=depth)
    assert found.value.kind != "broken", found.value


@pytest.mark.parametrize(
    ("of", "mutants", "depth"), [("log", LOG_MUTANTS, LOG_DEPTH), ("buffer", BUFFER_MUTANTS, BUFFER_DEPTH)]
)
def test_without_a_mistake_nothing_is_noticed(of: str, mutants: tuple[Mutant, ...], depth: Depth) -> None:
    """In the workloads in which the mistakes are: what is noticed there is theirs."""
    explored = explore(SUBJECTS[of], STATES_MAX, depth=depth)
    for seed in {mutant.seed for mutant in mutants} - {0}:
        explore_workload(SUBJECTS[of], seed, explored, depth)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mutant", "subject", "depth"), MUTANTS)
def test_a_mistake_is_noticed_wherever_one_begins(
    mutant: Mutant, subject: Subject, depth: Depth, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.patch(monkeypatch)
    with pytest.raises(Found) as found:
        explore(subject, STATES_MAX_ELSEWHERE, seed=mutant.seed + 1000, depth=depth)
    assert found.value.kind != "broken", found.value
