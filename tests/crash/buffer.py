"""A whole experience buffer under everything that can happen to it: the moves of a workload, and the check of a disk.

Locks and the live page are real files in a directory of the machine; all else is on the simulated disk.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

import numpy as np

from share.kernel.config import Choice
from share.kernel.contracts.experience import Experience, Status
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferFull, BufferProblem, BufferUnavailable, IndexUnavailable
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.builder import InlineBuilder
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk, File, RealDisk
from share.kernel.experience.lock import NAME as LOCK
from share.kernel.experience.upkeep import Upkeep
from share.kernel.index.flat import Flat, FlatConfig
from share.kernel.registry import Registry
from tests.crash.disk import FAULTS, Call, FailsAt, Image, Interposed, SimulatedDisk
from tests.crash.log import Killed, MakeStorage, Mutate, Point, unchanged
from tests.crash.model import BufferModel, BufferState, Item, Violation
from tests.experience.making import DIMENSION, FAR, experience

FIRST_PRIORITY = 0.5

_PLACE = tempfile.TemporaryDirectory(prefix="pixelis-crash-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
ROOT = Path(_PLACE.name)
DIRECTORY = ROOT / "buffer"


class Parts:
    """Stands for the registry: one storage, and the flat index."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.index = Flat(FlatConfig())

    def build(self, choice: Choice) -> Any:
        return self.storage if choice.kind == "buffer" else self.index


def mark(number: int) -> str:
    """What is written in no other experience."""
    return blake2b(number.to_bytes(8, "little"), digest_size=12).hexdigest()


def made(number: int) -> Experience:
    return experience(number, question=mark(number), subject=f"s{number % 3}")


class Session:
    """A writer's life. Nothing of it reaches the disk after its end, not even from threads that it leaves behind."""

    def __init__(
        self, storage: Storage, disk: Disk, capacity: int, mutate: Mutate = unchanged, directory: Path = DIRECTORY
    ) -> None:
        self.is_over = False
        self.fault: FailsAt | None = None
        self.dies_at = 0
        self.disk = Interposed(disk, self._between)
        above = mutate(self.disk)
        parts = Parts(storage)
        config = ExperienceBufferConfig(
            dimension=DIMENSION,
            capacity=capacity,
            index=Choice("index", "flat", FlatConfig()),
            rebuild_after=FAR,
            check_recall_every=0,
        )
        directory.mkdir(exist_ok=True)
        if directory == DIRECTORY:  # whoever held the lock is over, however it ended
            (directory / LOCK).unlink(missing_ok=True)
        # No rebuild is due unless it is asked for: the thread of the upkeep would only wait, and be a second order.
        with mock.patch.object(Upkeep, "start"):
            self.buffer: ExperienceBuffer = open_buffer(
                directory,
                config,
                cast(Registry, parts),
                disk=above,
                clock=lambda: 1.7e9,
                random=np.random.default_rng(0),
                builder=InlineBuilder(directory, above, storage, parts.index),
            )

    def close(self) -> None:
        self.buffer.close()
        self.is_over = True

    def die(self) -> None:
        """What the kernel does for a process that has died."""
        self.is_over = True
        with contextlib.suppress(Killed, BufferProblem):
            self.buffer.close()
        self.buffer._recovered.lock.release()

    def _between(self, call: Call, perform: Callable[[], object], file: File | None) -> object:
        self.is_over |= call.number == self.dies_at
        if self.is_over:
            raise Killed
        return perform() if self.fault is None else self.fault(call, perform, file)


def found_in(buffer: ExperienceBuffer, capacity: int) -> BufferState:
    """All that a buffer says of itself. Raises Violation if store and index disagree, or one with itself."""
    items = list(buffer)
    if len(buffer) != len(items):
        raise Violation("disagree", f"len is {len(buffer)}, iterating gives {len(items)}")
    neighbors = {}
    if items:
        found = buffer.search_index(items[0].embedding, len(items) + 3)
        neighbors = {neighbor.id: neighbor for neighbor in found}
        if len(found) != len(neighbors) or neighbors.keys() != {item.id for item in items}:
            missing = {item.id for item in items} ^ neighbors.keys()
            raise Violation("disagree", f"store and index disagree over {sorted(missing)}")
    for item in items:
        got = buffer.get(item.id)
        if got is None or got.question != item.question or not np.array_equal(got.embedding, item.embedding):
            raise Violation("disagree", f"{item.id} is not what get gives")
        [nearest] = buffer.search_index(item.embedding, 1)
        if nearest.id != item.id or abs(nearest.similarity - 1) > 1e-2:
            raise Violation("disagree", f"nearest to {item.id} is {nearest.id} with {nearest.similarity:.3f}")
        expected = made(int(item.id[1:]))
        if item.question != expected.question or not np.array_equal(item.embedding, expected.embedding):
            raise Violation("changed", f"{item.id} holds {item.question!r}")
    return BufferState(
        tuple(
            Item(
                int(item.id[1:]),
                neighbors[item.id].sequence,
                item.priority if item.priority is not None else -1.0,
                item.retrieval_count,
                item.success_count,
                item.status,
            )
            for item in items
        ),
        capacity,
    )


class BufferWorld:
    """Runs a workload of random moves on a buffer, and keeps a `Point` for each of its calls."""

    def __init__(self, storage: MakeStorage, seed: int, *, mutate: Mutate = unchanged) -> None:
        self.rng = Random(seed)
        self.storage = storage
        self.mutate = mutate
        self.model = BufferModel()
        self.model.capacity = self.rng.choice([0, 4, 8])
        self.points: list[Point] = []
        self.moves: list[str] = []
        self.disk = SimulatedDisk(ROOT, observe=self._observe)
        self.session: Session | None = None
        self.next_number = 1

    def _observe(self, call: Call) -> None:
        self.points.append(Point(call, self.disk.freeze(), self.model.copy()))

    def run(self, num_moves: int) -> list[Point]:
        moves: dict[Callable[[], None], float] = {
            self.add: 8,
            self.change: 5,
            self.rebuild: 3,
            self.compact: 1.5,
            self.change_capacity: 1,
            self.close: 1,
            self.kill: 1,
            self.cut_power: 1,
            self.fail: 3,
            self.die: 2,
        }
        self.add()
        for _ in range(num_moves - 1):
            [move] = self.rng.choices(list(moves), list(moves.values()))
            move()
        self.close()
        return self.points

    @property
    def buffer(self) -> ExperienceBuffer:
        if self.session is None:
            self.moves.append("open")
            self.session = self._open()
            self.model.adopt(found_in(self.session.buffer, self.model.capacity))
        return self.session.buffer

    def _open(self) -> Session:
        return Session(self.storage(self.rng), self.disk, self.model.capacity, self.mutate)

    def add(self) -> None:
        count = self.rng.choice([1, 1, 2, 4])
        buffer = self.buffer
        numbers = range(self.next_number, self.next_number + count)
        self.next_number += count
        self.moves.append(f"add {numbers.start}-{numbers.stop - 1}")
        states = [self.model.now]
        for number in numbers:
            states.append(states[-1].add(Item(number, None, FIRST_PRIORITY)))
        self.model.begin(states[1:], numbers)
        sequences = buffer.add_many([made(number) for number in numbers])
        known = dict(zip(numbers, sequences, strict=True))
        items = [replace(item, sequence=known.get(item.number, item.sequence)) for item in states[-1].items]
        self.model.acknowledge(states[-1].with_items(items))

    def change(self) -> None:
        """Remove, or set priority, counts or status."""
        buffer, now = self.buffer, self.model.now
        numbers = sorted(self.rng.sample([item.number for item in now.items], min(len(now.items), 2)))
        if not numbers:
            return
        ids = [f"e{number}" for number in numbers]
        kind = self.rng.choice(["remove", "priority", "retrieval", "status"])
        self.moves.append(f"{kind} {numbers}")
        if kind == "remove":
            state = now.remove(numbers)
            self.model.begin([state])
            buffer.remove(ids)
        elif kind == "priority":
            priority = self.rng.randint(1, 16) / 8
            state = now.change(numbers, lambda item: replace(item, priority=priority))
            self.model.begin([state])
            buffer.update_priorities(ids, [priority] * len(ids))
        elif kind == "retrieval":
            succeeded = self.rng.random() < 0.5
            state = now.change(
                numbers,
                lambda item: replace(
                    item,
                    retrieval_count=item.retrieval_count + 1,
                    success_count=item.success_count + succeeded,
                ),
            )
            self.model.begin([state])
            buffer.record_retrieval(ids, succeeded)
        else:
            status = self.rng.choice(list(Status))
            state = now.change(numbers, lambda item: replace(item, status=status))
            self.model.begin([state])
            buffer.update_status(ids, status)
        self.model.acknowledge(state)

    def rebuild(self) -> None:
        """A new index and snapshot, or only a snapshot; then the log is truncated."""
        buffer = self.buffer
        if self.rng.random() < 0.3:
            self.moves.append("snapshot")
            buffer.save_snapshot()
        else:
            self.moves.append("rebuild")
            buffer.rebuild()
        self._compare()

    def compact(self) -> None:
        buffer = self.buffer
        self.moves.append("compact")
        buffer.compact()
        self.model.compacted()
        self._compare()

    def change_capacity(self) -> None:
        if self.session is not None:
            self.close()
        self.model.set_capacity(self.rng.choice([0, 3, 6, 12]))
        self.moves.append(f"capacity {self.model.capacity}")

    def close(self) -> None:
        self.buffer.close()
        self.moves.append("close")
        self._end()

    def kill(self) -> None:
        self.buffer  # noqa: B018  there is one to be killed
        self.moves.append("kill")
        self._end()

    def cut_power(self) -> None:
        self.moves.append("cut the power")
        self._end()
        images = list(self.disk.freeze().images(self.rng, 6))
        self.disk = SimulatedDisk(ROOT, self.rng.choice(images), observe=self._observe)

    def fail(self) -> None:
        """The disk fails while something is done; what was acknowledged is still there, and then all works again."""
        buffer, now = self.buffer, self.model.now
        assert self.session is not None
        first = self.session.disk.num_calls + self.rng.randint(1, 12)
        fault = FailsAt(self.rng.choice(FAULTS), first, first + self.rng.choice([0, 1, 3, 20]))
        self.session.fault = fault
        self.moves.append(f"{fault.fault} from call {first} on")
        try:
            self.rng.choice([self.add, self.add, self.change, self.rebuild, self.compact])()
        except (BufferFull, BufferUnavailable, IndexUnavailable) as problem:
            self.moves.append(f"  {type(problem).__name__}: {problem}")
            self.session.fault = None
            if found_in(buffer, self.model.capacity) != now:
                raise Violation("resurrected", "what was refused is there") from problem
        self.session.fault = None
        self.add()

    def die(self) -> None:
        """The process dies while something is done."""
        self.buffer  # noqa: B018  there is one to be killed
        assert self.session is not None
        self.session.dies_at = self.session.disk.num_calls + self.rng.randint(1, 25)
        self.moves.append(f"die in call {self.session.dies_at}")
        with contextlib.suppress(Killed):
            self.rng.choice([self.add, self.change, self.rebuild, self.compact])()
        self._end()

    def _compare(self) -> None:
        if found_in(self.buffer, self.model.capacity) != self.model.now:
            raise Violation("unstable", "the buffer is another one than before")

    def _end(self) -> None:
        if self.session is not None:
            self.session.die()
        self.session = None


class RealWorld(BufferWorld):
    """The same moves on files of this machine; the power is not cut, but a process may be killed.

    Other storages keep their own files, so dying is being looked at through a copy of the directory.
    """

    def __init__(self, storage: MakeStorage, seed: int, directory: Path) -> None:
        super().__init__(storage, seed)
        self.directory = directory
        self.real_disk = RealDisk()

    def _open(self) -> Session:
        return Session(self.storage(self.rng), self.real_disk, self.model.capacity, directory=self.directory)

    def kill(self) -> None:
        self.buffer  # noqa: B018  there is one to be killed
        copy = self.directory.with_name(f"{self.directory.name}+")
        shutil.copytree(self.directory, copy)
        self._end()
        shutil.rmtree(self.directory)
        self.directory = copy


class BufferCheck:
    """Recovers a buffer from an image and holds it against the model; the disk it does so on can be crashed again."""

    def __init__(self, storage: MakeStorage, *, mutate: Mutate = unchanged) -> None:
        self.rng = Random(0)
        self.storage = storage
        self.mutate = mutate
        self.points: list[Point] = []

    def __call__(self, image: Image, point: Point, *, deep: bool) -> None:
        """Raises Violation. If `deep`, `points` are the crash points of the recovery afterwards."""
        self.points = []
        self.model = cast(BufferModel, point.model).copy()
        self.disk = SimulatedDisk(ROOT, image, observe=self._observe if deep else None)
        self._check_erased(image)
        session = self._recover()
        self.model.is_quiescent()
        if deep:
            self.points.append(Point(Call(0, "recovered", ""), self.disk.freeze(), self.model.copy()))
        session.die()
        session = self._recover()
        taken = {item.number for item in self.model.now.items}  # by an earlier crash of this very check
        number = next(free for free in itertools.count(10**6) if free not in taken)
        state = self.model.now.add(Item(number, None, FIRST_PRIORITY))
        self.model.begin([state], [number])
        [sequence] = session.buffer.add_many([made(number)])
        items = [replace(item, sequence=sequence) if item.number == number else item for item in state.items]
        self.model.acknowledge(state.with_items(items))
        session.buffer.rebuild()
        session.close()
        self._recover().die()

    def _observe(self, call: Call) -> None:
        self.points.append(Point(call, self.disk.freeze(), self.model.copy()))

    def _recover(self) -> Session:
        try:
            session = Session(self.storage(self.rng), self.disk, self.model.capacity, self.mutate)
        except BufferProblem as problem:
            raise Violation("refused", str(problem)) from problem
        try:
            self.model.adopt(found_in(session.buffer, self.model.capacity))
        except BaseException:
            session.die()
            raise
        return session

    def _check_erased(self, image: Image) -> None:
        contents = {name: image.contents[number] for name, number in image.files.items()}
        for number in self.model.gone:
            embedding = made(number).embedding
            for what, needle in (
                ("question", mark(number).encode()),
                ("embedding", embedding.astype("<f4").tobytes()[:24]),
                ("row", embedding.astype("<f2").tobytes()[:20]),
            ):
                for name, content in contents.items():
                    if needle in content:
                        raise Violation("not erased", f"{what} of e{number} in {name}")
