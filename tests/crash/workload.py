"""What all workloads share: writers on a disk that fails, who die in any call, on a machine that loses its power.

A workload does moves at random and keeps a `Point` for each of its calls; a recovery opens what a power cut left. What
the moves are, and what must be found, is said by `log.py` and `buffer.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar, cast

from share.kernel.contracts.kinds import Storage
from share.kernel.experience.disk import Disk, File
from tests.crash.disk import Call, SimulatedDisk
from tests.crash.faults import FailsAt, Fault
from tests.crash.images import Frozen, Image
from tests.crash.interposed import Between, Interposed
from tests.crash.model import BufferModel, LogModel

Mutate = Callable[[Disk], Disk]
MakeStorage = Callable[[Random], Storage]
Moves = Mapping[Callable[[], None], float]
"""What may be done, the first to begin with, and how likely each is."""


def unchanged(disk: Disk) -> Disk:
    """The protocol as it is."""
    return disk


@dataclass(frozen=True)
class Point:
    """A crash point: the disk after a call, and what had been promised by then."""

    call: Call
    frozen: Frozen
    model: LogModel | BufferModel


class Killed(BaseException):
    """The process has died: nothing that it still does reaches the disk."""


class Writer:
    """A writer's life. Nothing of it reaches the disk after its end, not even from threads that it leaves behind."""

    def __init__(self, disk: Disk, fault: Between | None = None) -> None:
        self.is_over = False
        self.fault = fault
        self.dies_at = 0
        self.disk = Interposed(disk, self._between)

    def end(self) -> None:
        """It is killed."""
        self.is_over = True

    def fail(self, fault: Fault, after: int, count: int) -> int:
        """So many calls from now the disk fails, and `count` calls more. Returns the number of the first."""
        first = self.disk.num_calls + after
        self.fault = FailsAt(fault, first, first + count)
        return first

    def die(self, after: int) -> int:
        """So many calls from now the process dies. Returns the number of the call."""
        self.dies_at = self.disk.num_calls + after
        return self.dies_at

    def _between(self, call: Call, perform: Callable[[], object], file: File | None) -> object:
        self.is_over |= call.number == self.dies_at
        if self.is_over:
            raise Killed
        return perform() if self.fault is None else self.fault(call, perform, file)


AnyWriter = TypeVar("AnyWriter", bound=Writer)
AnyModel = TypeVar("AnyModel", LogModel, BufferModel)


class Workload(ABC, Generic[AnyWriter, AnyModel]):
    """Random moves over a disk that begins empty. `points` are its calls, `moves` what it did, in words."""

    def __init__(self, storage: MakeStorage, seed: int, model: AnyModel, mutate: Mutate) -> None:
        self.rng = Random(seed)
        self.storage = storage
        self.mutate = mutate
        self.model = model
        self.points: list[Point] = []
        self.moves: list[str] = []
        self.session: AnyWriter | None = None
        self.disk: SimulatedDisk

    def run(self, num_moves: int) -> list[Point]:
        """The crash points of so many moves and an orderly end."""
        moves = self.what_may_be_done()
        next(iter(moves))()
        for _ in range(num_moves - 1):
            [move] = self.rng.choices(list(moves), list(moves.values()))
            move()
        self.close()
        return self.points

    @abstractmethod
    def what_may_be_done(self) -> Moves: ...

    @abstractmethod
    def open(self) -> AnyWriter:
        """A new writer, held against the model."""

    @abstractmethod
    def close(self) -> None:
        """The writer ends in order."""

    @property
    def writer(self) -> AnyWriter:
        """The one who lives; opened if there is none."""
        if self.session is None:
            self.moves.append("open")
            self.session = self.open()
        return self.session

    def kill(self) -> None:
        """The process dies; the machine lives, so that the next one finds what was written and never synced."""
        self.writer  # noqa: B018  there is one to be killed
        self.moves.append("kill")
        self.end()

    def cut_power(self) -> None:
        self.moves.append("cut the power")
        self.end()
        images = list(self.disk.freeze().images(self.rng, 6))
        self.disk = SimulatedDisk(self.disk.root, self.rng.choice(images), observe=self.observe)

    def end(self) -> None:
        """Whoever lives is killed."""
        if self.session is not None:
            self.session.end()
        self.session = None

    def observe(self, call: Call) -> None:
        self.points.append(Point(call, self.disk.freeze(), self.model.copy()))


class Recovery(ABC, Generic[AnyModel]):
    """Recovers from an image and holds what it finds against a model; what it does so on can be crashed again."""

    def __init__(self, storage: MakeStorage, *, mutate: Mutate = unchanged) -> None:
        self.rng = Random(0)
        self.storage = storage
        self.mutate = mutate
        self.points: list[Point] = []
        self.model: AnyModel
        self.disk: SimulatedDisk

    def __call__(self, image: Image, point: Point, *, deep: bool) -> None:
        """Raises Violation. If `deep`, `points` are the crash points of the recovery afterwards."""
        self.points = []
        self.model = cast(AnyModel, point.model.copy())
        self.disk = SimulatedDisk(image.root, image, observe=self._observe if deep else None)
        self.check(image)

    @abstractmethod
    def check(self, image: Image) -> None:
        """Recover, and what else shows that all is well. Raises Violation."""

    def is_recovered(self) -> None:
        """From here on what was found is on the disk."""
        self.model.is_quiescent()
        if self.disk.observe is not None:
            self._observe(Call(0, "recovered", ""))

    def _observe(self, call: Call) -> None:
        self.points.append(Point(call, self.disk.freeze(), self.model.copy()))


__all__ = [
    "Killed",
    "MakeStorage",
    "Moves",
    "Mutate",
    "Point",
    "Recovery",
    "Workload",
    "Writer",
    "unchanged",
]
