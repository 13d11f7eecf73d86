"""Every call of many workloads a crash point, every crash point many disks, every recovery crashed too.

    python -m tests.crash.explore --states 100000 --seed 0

prints how many states were checked, by the kind of disk and by the last call. A state that breaks the promise is
printed with its workload's seed, its crash point and the calls that led there; `--workload SEED` explores that workload
alone. A disk that was seen before with the same promise is not counted again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from share.kernel.errors import BufferProblem
from tests.crash.buffer import BufferCheck, BufferWorld
from tests.crash.images import Image
from tests.crash.log import LogCheck, LogWorld, file_storage
from tests.crash.model import Violation
from tests.crash.workload import Point

CALLS_SHOWN = 40


class World(Protocol):
    """A workload: its crash points, and what it did, in words."""

    moves: list[str]
    points: list[Point]

    def run(self, num_moves: int) -> list[Point]: ...


class Check(Protocol):
    """Recovers from an image and holds it against what was promised at a point. Raises Violation.

    `points` are the crash points of the recovery itself if it was `deep`.
    """

    points: list[Point]

    def __call__(self, image: Image, point: Point, *, deep: bool) -> None: ...


@dataclass(frozen=True)
class Subject:
    """What is explored: how to make a workload from a seed, and how to check a state."""

    name: str
    world: Callable[[int], World]
    check: Callable[[], Check]


@dataclass(frozen=True)
class Depth:
    """How closely a workload is looked at: its moves, at which share of its crash points, disks for each of those and
    for each one of a recovery, and of which share of the disks the recovery is crashed at its every call.

    Neighboring crash points are alike: where states are few, more workloads show more than all points of one.
    """

    num_moves: int = 14
    share_of_points: float = 1.0
    images: int = 4
    images_of_recovery: int = 3
    share_of_recoveries: float = 0.1


@dataclass
class Explored:
    """How many different states were checked, by what they were."""

    states: int = 0
    of_recovery: int = 0
    workloads: int = 0
    crash_points: int = 0
    by_disk: Counter[str] = field(default_factory=Counter)
    by_call: Counter[str] = field(default_factory=Counter)
    by_move: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[bytes, bytes]] = field(default_factory=set)

    def is_new(self, image: Image, point: Point) -> bool:
        """Whether this disk was not seen with this promise; then it is counted."""
        key = image.key(), point.model.key()
        if key in self.seen:
            return False
        self.seen.add(key)
        self.states += 1
        self.by_disk[image.kind] += 1
        self.by_call[point.call.name] += 1
        return True


class Found(AssertionError):
    """A state that breaks the promise, with all that is needed to see it again."""

    def __init__(self, error: Exception, subject: str, seed: int, place: str, world: World, last: int) -> None:
        refused = "refused" if isinstance(error, BufferProblem) else "broken"
        self.kind = error.kind if isinstance(error, Violation) else refused
        calls = [str(point.call) for point in world.points[:last]][-CALLS_SHOWN:]
        lines = [
            str(error) if isinstance(error, Violation) else repr(error),
            f"  python -m tests.crash.explore --of {subject} --workload {seed}",
            f"  {place}",
            "  moves:",
            *(f"    {move}" for move in world.moves),
            "  calls:",
            *(f"    {call}" for call in calls),
        ]
        super().__init__("\n".join(lines))


def explore(
    subject: Subject,
    states: int,
    *,
    seed: int = 0,
    depth: Depth = Depth(),
    progress: Callable[[Explored], None] = lambda explored: None,
) -> Explored:
    """Check at least `states` states over as many workloads as that takes, seeds from `seed` on. Raises Found."""
    explored = Explored()
    while explored.states < states:
        explore_workload(subject, seed, explored, depth, progress)
        seed += 1
    return explored


def explore_workload(
    subject: Subject,
    seed: int,
    explored: Explored,
    depth: Depth = Depth(),
    progress: Callable[[Explored], None] = lambda explored: None,
) -> None:
    """Check all crash points of one workload. Raises Found."""
    rng = Random(seed)
    world = subject.world(seed)
    try:
        world.run(depth.num_moves)
    except Exception as error:
        raise Found(error, subject.name, seed, "without a crash", world, sys.maxsize) from error
    explored.workloads += 1
    explored.by_move.update(move.split()[0] for move in world.moves)
    for number, point in enumerate(world.points, 1):
        if depth.share_of_points < 1 and rng.random() >= depth.share_of_points:
            continue
        explored.crash_points += 1
        for image in point.frozen.images(rng, depth.images, shuffled=True):
            if not explored.is_new(image, point):
                continue
            check = subject.check()
            place = f"crash point {number}, {image.kind}"
            try:
                check(image, point, deep=rng.random() < depth.share_of_recoveries)
                for inner in check.points:
                    for again in inner.frozen.images(rng, depth.images_of_recovery, shuffled=True):
                        if explored.is_new(again, inner):
                            explored.of_recovery += 1
                            place = (
                                f"crash point {number}, {image.kind}; "
                                f"crash of the recovery after {str(inner.call).strip()}, {again.kind}"
                            )
                            subject.check()(again, inner, deep=False)
            except Exception as error:
                raise Found(error, subject.name, seed, place, world, number) from error
            progress(explored)


SUBJECTS = {
    "log": Subject("log", lambda seed: LogWorld(file_storage, seed), lambda: LogCheck(file_storage)),
    "buffer": Subject("buffer", lambda seed: BufferWorld(file_storage, seed), lambda: BufferCheck(file_storage)),
}
"""What `--of` can name."""


def table(explored: Explored, seconds: float) -> str:
    """What was explored, for people."""
    lines = [
        f"{explored.states:,} different states, {explored.of_recovery:,} of them of a crashed recovery, at "
        f"{explored.crash_points:,} crash points of {explored.workloads:,} workloads in {seconds:.0f} s: 0 violations"
    ]
    for title, counter in (("disk", explored.by_disk), ("last call", explored.by_call), ("move", explored.by_move)):
        lines.append(f"  by {title}: " + ", ".join(f"{name} {count:,}" for name, count in counter.most_common()))
    return "\n".join(lines)


def show_progress(total: int) -> Callable[[Explored], None]:
    """A bar on the standard error stream, at most ten times a second."""
    last = 0.0

    def progress(explored: Explored) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            done = min(1.0, explored.states / total)
            bar = ("#" * int(40 * done)).ljust(40)
            print(f"\r[{bar}] {explored.states:,} of {total:,}", end="", file=sys.stderr, flush=True)

    return progress


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if a state broke the promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.explore", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", choices=sorted(SUBJECTS), default="log", help="what is crashed")
    parser.add_argument("--states", type=int, default=100_000, help="how many states at least")
    parser.add_argument("--seed", type=int, default=0, help="of the first workload; the next ones count up")
    parser.add_argument("--workload", type=int, help="explore the workload of this seed only")
    options = parser.parse_args(argv)
    subject = SUBJECTS[options.of]
    progress = show_progress(options.states) if sys.stderr.isatty() else lambda explored: None
    begun = time.monotonic()
    try:
        if options.workload is None:
            explored = explore(subject, options.states, seed=options.seed, progress=progress)
        else:
            explored = Explored()
            explore_workload(subject, options.workload, explored)
    except Found as found:
        print(f"\n{found}", file=sys.stderr)
        return 1
    print(f"\n{table(explored, time.monotonic() - begun)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
