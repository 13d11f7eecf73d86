"""Every mistake that was made on purpose is noticed, by the checks that find nothing wrong with the real code."""

from __future__ import annotations

import pytest

from tests.crash.buffer import BufferCheck, BufferWorld
from tests.crash.explore import Depth, Found, Subject, explore
from tests.crash.log import LogCheck, LogWorld, file_storage
from tests.crash.mutants import BUFFER_MUTANTS, LOG_MUTANTS, Mutant

STATES_MAX = 4000


def each(mutants: tuple[Mutant, ...]) -> list[object]:
    return [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.is_slow else []) for one in mutants]


@pytest.mark.parametrize("mutant", each(LOG_MUTANTS))
def test_a_mistake_of_the_log_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    subject = Subject(
        "log",
        lambda seed: LogWorld(file_storage, seed, mutate=mutant.mutate),
        lambda: LogCheck(file_storage, mutate=mutant.mutate),
    )
    with pytest.raises(Found) as found:
        explore(subject, STATES_MAX, depth=Depth(share_of_recoveries=0.02))
    assert found.value.kind != "broken", found.value


@pytest.mark.parametrize("mutant", each(BUFFER_MUTANTS))
def test_a_mistake_of_the_buffer_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    subject = Subject(
        "buffer",
        lambda seed: BufferWorld(file_storage, seed, mutate=mutant.mutate),
        lambda: BufferCheck(file_storage, mutate=mutant.mutate),
    )
    with pytest.raises(Found) as found:
        explore(subject, STATES_MAX, depth=Depth(images=3, share_of_recoveries=0.0))
    assert found.value.kind != "broken", found.value
