"""A whole experience buffer under everything that can happen to it: the moves of a workload, and the check of a disk.

Locks and the live page are real files in a directory of the machine; all else is on the simulated disk.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np

from share.kernel.config import Choice
from share.kernel.contracts.experience import Experience, Status
from share.kernel.contracts.kinds import Index, Storage
from share.kernel.errors import BufferFull, BufferProblem, BufferUnavailable, IndexUnavailable
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.builder import InlineBuilder
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk, RealDisk
from share.kernel.experience.lock import NAME as LOCK
from share.kernel.experience.upkeep import Upkeep
from share.kernel.index.flat import Flat, FlatConfig
from share.kernel.registry import Registry
from tests.crash.disk import SimulatedDisk
from tests.crash.faults import FAULTS
from tests.crash.images import Image
from tests.crash.model import BufferModel, BufferState, Item, Violation
from tests.crash.workload import Killed, MakeStorage, Moves, Mutate, Recovery, Workload, Writer, unchanged
from tests.experience.making import DIMENSION, FAR, experience

FIRST_PRIORITY = 0.5
BALLAST = 10**7
"""Numbers from here on are of experiences that are only there so that an index has something to build on."""

BALLAST_LOOKED_AT = 64

_PLACE = tempfile.TemporaryDirectory(prefix="pixelis-crash-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
ROOT = Path(_PLACE.name)
DIRECTORY = ROOT / "buffer"
FLAT: tuple[str, Index] = ("flat", Flat(FlatConfig()))


class Parts:
    """Stands for the registry: one storage, and one index."""

    def __init__(self, storage: Storage, index: Index) -> None:
        self.storage = storage
        self.index = index

    def build(self, choice: Choice) -> Any:
        return self.storage if choice.kind == "buffer" else self.index


def mark(number: int) -> str:
    """What is written in no other experience."""
    return blake2b(number.to_bytes(8, "little"), digest_size=12).hexdigest()


def made(number: int) -> Experience:
    return experience(number, question=mark(number), subject=f"s{number % 3}")


class Session(Writer):
    """A writer's life with a buffer."""

    def __init__(
        self,
        storage: Storage,
        disk: Disk,
        capacity: int,
        mutate: Mutate = unchanged,
        directory: Path = DIRECTORY,
        index: tuple[str, Index] = FLAT,
    ) -> None:
        super().__init__(disk)
        above = mutate(self.disk)
        config = ExperienceBufferConfig(
            dimension=DIMENSION,
            capacity=capacity,
            index=Choice("index", index[0]),
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
                cast(Registry, Parts(storage, index[1])),
                disk=above,
                clock=lambda: 1.7e9,
                random=np.random.default_rng(0),
                builder=InlineBuilder(directory, above, storage, index[1]),
            )

    def close(self) -> None:
        self.buffer.close()
        self.is_over = True

    def end(self) -> None:
        """What the kernel does for a process that has died."""
        super().end()
        with contextlib.suppress(Killed, BufferProblem):
            self.buffer.close()
        self.buffer._recovered.lock.release()


def found_in(buffer: ExperienceBuffer, capacity: int) -> BufferState:
    """All that a buffer says of itself. Raises Violation if store and index disagree, or one with itself.

    Each item is got by its id and found by its embedding, but of the ballast only one in `BALLAST_LOOKED_AT`.
    """
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
        number = int(item.id[1:])
        expected = made(number)
        if item.question != expected.question or not np.array_equal(item.embedding, expected.embedding):
            raise Violation("changed", f"{item.id} holds {item.question!r}")
        if number >= BALLAST and number % BALLAST_LOOKED_AT:
            continue
        got = buffer.get(item.id)
        if got is None or got.question != item.question or not np.array_equal(got.embedding, item.embedding):
            raise Violation("disagree", f"{item.id} is not what get gives")
        [nearest] = buffer.search_index(item.embedding, 1)
        if nearest.id != item.id or abs(nearest.similarity - 1) > 1e-2:
            raise Violation("disagree", f"nearest to {item.id} is {nearest.id} with {nearest.similarity:.3f}")
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


class BufferWorld(Workload[Session, BufferModel]):
    """Adds, changes, rebuilds, compacts; is killed, cut off and refused meanwhile."""

    def __init__(self, storage: MakeStorage, seed: int, *, mutate: Mutate = unchanged) -> None:
        super().__init__(storage, seed, BufferModel(), mutate)
        self.model.capacity = self.rng.choice([0, 4, 8])
        self.disk = SimulatedDisk(ROOT, observe=self.observe)
        self.next_number = 1

    def what_may_be_done(self) -> Moves:
        return {
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

    def open(self) -> Session:
        session = self.new_session()
        self.model.adopt(found_in(session.buffer, self.model.capacity))
        return session

    def new_session(self) -> Session:
        return Session(self.storage(self.rng), self.disk, self.model.capacity, self.mutate)

    @property
    def buffer(self) -> ExperienceBuffer:
        return self.writer.buffer

    def add(self) -> None:
        count = self.rng.choice([1, 1, 2, 4])
        numbers = range(self.next_number, self.next_number + count)
        self.next_number += count
        self.add_numbers(numbers)

    def add_numbers(self, numbers: range) -> None:
        buffer = self.buffer
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
        self.end()

    def fail(self) -> None:
        """The disk fails while something is done; what was acknowledged is still there, and then all works again."""
        buffer, now = self.buffer, self.model.now
        after, fault = self.rng.randint(1, 12), self.rng.choice(FAULTS)
        first = self.writer.fail(fault, after, self.rng.choice([0, 1, 3, 20]))
        self.moves.append(f"{fault} from call {first} on")
        try:
            self.rng.choice([self.add, self.add, self.change, self.rebuild, self.compact])()
        except (BufferFull, BufferUnavailable, IndexUnavailable) as problem:
            self.moves.append(f"  {type(problem).__name__}: {problem}")
            self.writer.fault = None
            if found_in(buffer, self.model.capacity) != now:
                raise Violation("resurrected", "what was refused is there") from problem
        self.writer.fault = None
        self.add()

    def die(self) -> None:
        """The process dies while something is done."""
        dies_at = self.writer.die(self.rng.randint(1, 25))
        self.moves.append(f"die in call {dies_at}")
        with contextlib.suppress(Killed):
            self.rng.choice([self.add, self.change, self.rebuild, self.compact])()
        self.end()

    def look(self) -> None:
        """The buffer, opened if it is not, holds and finds what the model says."""
        if self.session is None:
            self.buffer  # noqa: B018  opening compares
        else:
            self._compare()

    def _compare(self) -> None:
        if found_in(self.buffer, self.model.capacity) != self.model.now:
            raise Violation("unstable", "the buffer is another one than before")


class RealWorld(BufferWorld):
    """The same moves on files of this machine; the power is not cut, but a process may be killed.

    Other storages keep their own files, so dying is being looked at through a copy of the directory. With a `ballast`
    it begins with so many experiences more: some indexes need them to be built, others to be more than a scan.
    """

    def __init__(
        self,
        storage: MakeStorage,
        seed: int,
        directory: Path,
        *,
        index: tuple[str, Index] = FLAT,
        ballast: int = 0,
    ) -> None:
        super().__init__(storage, seed)
        self.directory = directory
        self.real_disk = RealDisk()
        self.index = index
        if ballast:
            self.model.capacity = 0
            self.add_numbers(range(BALLAST, BALLAST + ballast))

    def new_session(self) -> Session:
        capacity = self.model.capacity
        return Session(self.storage(self.rng), self.real_disk, capacity, directory=self.directory, index=self.index)

    def rebuild(self) -> None:
        """An index that needs more than there is refuses, and nothing else changes."""
        try:
            super().rebuild()
        except IndexUnavailable as refusal:
            if "rows are too few" not in str(refusal):
                raise
            self._compare()

    def compact(self) -> None:
        """As `rebuild`, which it begins with."""
        try:
            super().compact()
        except IndexUnavailable as refusal:
            if "rows are too few" not in str(refusal):
                raise
            self._compare()

    def kill(self) -> None:
        self.buffer  # noqa: B018  there is one to be killed
        copy = self.directory.with_name(f"{self.directory.name}+")
        shutil.copytree(self.directory, copy)
        self.end()
        shutil.rmtree(self.directory)
        self.directory = copy


class BufferCheck(Recovery[BufferModel]):
    """Recovers a buffer from an image and holds it against the model, adds to it, rebuilds it and recovers it again."""

    def check(self, image: Image) -> None:
        self._check_erased(image)
        session = self._recover()
        self.is_recovered()
        session.end()
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
        self._recover().end()

    def _recover(self) -> Session:
        try:
            session = Session(self.storage(self.rng), self.disk, self.model.capacity, self.mutate)
        except BufferProblem as problem:
            raise Violation("refused", str(problem)) from problem
        try:
            self.model.adopt(found_in(session.buffer, self.model.capacity))
        except BaseException:
            session.end()
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
