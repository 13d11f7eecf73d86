"""One Protocol per kind of plugin. `share.kernel.testing` holds the contract suite that every backend must pass.

A backend is named by a target "module:attribute": a function or class whose first parameter is annotated with the
`ConfigModel` that configures it. A class is built once per run (`registry.build(choice)`); a trainer is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from share.kernel.contracts.experience import Finding, Record, RecordType
from share.kernel.contracts.run import RunContext
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import OperationResult, Scene
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from share.kernel.config import ConfigModel
    from share.kernel.experience.disk import Disk


class Trainer(Protocol):
    """Kind `trainer`: trains until done or stopped, writes below `run.run_dir`.

    Reports through `run.metrics` and `run.artifacts`; raises `Interrupted` when `run.stop` made it end early.
    """

    def __call__(self, config: ConfigModel, run: RunContext, /) -> None: ...


@runtime_checkable
class Operation(Protocol):
    """Kind `operation`: a visual operation, named as the policy writes it (`ZOOM_IN`).

    `Arguments` is the pydantic model of the call's arguments; its JSON schema, with the docstring of the operation's
    class, becomes the prompt's tool schema. `run` is pure with respect to the scene: the caller registers the view
    and region of the result. It raises OperationError for arguments or images that it refuses.
    """

    Arguments: ClassVar[type[BaseModel]]

    def run(self, scene: Scene, arguments: Any, /) -> OperationResult:
        """`arguments` is an instance of this operation's own `Arguments`."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Kind `reward`: one reward component over the group of a prompt. None = not scored, 0.0 = scored zero.

    `correctness` is what the task's `check` said of each trajectory's answer, in [0, 1] (0.0 without an answer): the
    trainer asks the task once, and no reward needs to know it. A reward that learns has `state_dict` and
    `load_state_dict` beside `score`; both are kept in checkpoints.
    """

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
        /,
    ) -> list[float | None]: ...


@runtime_checkable
class Task(Protocol):
    """Kind `task`: a source of prompts.

    `prompt` is a pure function of its arguments, so that a run can be resumed anywhere.
    `size` is the number of distinct prompts of a split, None when they are generated without end.
    `check` judges an answer against the prompt's ground truth in [0, 1].
    `demonstrate` returns what an expert would do on the prompt in a scene that holds the views the policy was shown,
    or None when the source knows none.
    """

    def size(self, split: Split, /) -> int | None: ...

    def prompt(self, split: Split, index: int, /) -> Prompt: ...

    def check(self, prompt: Prompt, answer: str, /) -> float: ...

    def demonstrate(self, prompt: Prompt, scene: Scene, /) -> Demonstration | None: ...


class RecordLog(Protocol):
    """An open log of a storage. Not thread-safe for appending; reading may go on beside it.

    Sequences are given without gaps. Errors: BufferFull, BufferUnavailable, BufferFenced, BufferCorrupt.
    """

    @property
    def next_sequence(self) -> int:
        """The sequence that the next appended record gets; 1 in a new log."""
        ...

    @property
    def epoch(self) -> int:
        """Number of this writer, greater than that of every writer before; of a reader, that of the last writer."""
        ...

    def append(
        self,
        records: Sequence[tuple[RecordType, Sequence[bytes | memoryview]]],
        /,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Append records (type, parts of the payload), all durable at return, with one sync for all of them.

        Returns their locations. `meanwhile` is called before they are durable, if it can be while the disk works on
        them: it may prepare what is to be seen afterwards, and nothing of that may be seen if there is an error, of
        which one that it raises itself is one. After an error none of them counts as accepted, a later append may
        succeed, and whatever of them reached the disk is never read again.
        """
        ...

    def scan(self, after: int = 0, /, *, until: int | None = None) -> Iterator[Record]:
        """Records with after < sequence <= until in order, checksums verified. Raises BufferCorrupt.

        A reader passes as `until` what the writer says is durable. Erased records are left out.
        """
        ...

    def read(self, location: int, sequence: int, /) -> Record:
        """One record, checksum verified. Raises KeyError when it has been erased or truncated away."""
        ...

    def truncate(self, before: int, /) -> int:
        """Give back space of records with sequence < before, as far as that is cheap. Returns bytes given back."""
        ...

    def compact(self, is_dead: Callable[[Record], bool], /) -> int:
        """Erase the payloads of all dead records from every file; locations of others stay. Returns bytes erased.

        Crash-safe and repeatable. Calls `is_dead` on records from the oldest on, skipping ones erased already; while
        it asks, another thread may append.
        """
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    @property
    def cut(self) -> Finding | None:
        """The unacknowledged tail that opening to write found and left out; None if the log ended cleanly."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Storage(Protocol):
    """Kind `buffer`: durable storage of an experience buffer's records."""

    def open(
        self, directory: Path, disk: Disk, mode: Literal["write", "read"], /, *, salvage: bool = False
    ) -> RecordLog:
        """Open the log below `directory`, which a writer makes if needed. One writer at a time is the caller's care.

        Opening to write recovers: an unacknowledged tail is cut. Raises BufferCorrupt for damage to acknowledged
        records, unless `salvage`: then everything sound is kept, and the rest is left out of `scan`.
        """
        ...

    def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """Read every byte; yields what is wrong. `progress(bytes done, bytes in all)` is called along the way."""
        ...


class BuiltIndex(Protocol):
    """A built index over rows of a matrix, never changed afterwards; searched from many threads."""

    @property
    def is_exact(self) -> bool:
        """True if the similarities are exact; else they only rank candidates, and the caller computes exact ones."""
        ...

    @property
    def num_rows(self) -> int: ...

    def search(self, query_D: NDArray[np.float32], k: int, /) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best rows (the numbers given to `build`), or all, with their similarities, best first.

        One that is not exact may return more: candidates that the caller ranks exactly.
        """
        ...

    def save(self) -> bytes:
        """What `Index.load` takes."""
        ...


@runtime_checkable
class Index(Protocol):
    """Kind `index`: makes k-NN indexes by inner product of unit vectors."""

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> BuiltIndex:
        """Index `vectors_ND` (float16 or float32, unit length) under the numbers `rows_N`. Raises IndexUnavailable."""
        ...

    def load(self, content: memoryview, /) -> BuiltIndex:
        """An index from what `save` gave; may go on using `content`. Raises IndexUnavailable if it is not one."""
        ...


@runtime_checkable
class Voter(Protocol):
    """Kind `voter`: makes one answer of the policy's and those of similar experiences."""

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        """The consensus, whatever the order of `others`; a pure function.

        Answers that are the same after normalisation are one. Of several votes of one source the nearest counts, of
        the policy's source the policy's. Without others, answer and confidence are the policy's.
        """
        ...


__all__ = ["BuiltIndex", "Index", "Operation", "RecordLog", "Reward", "Storage", "Task", "Trainer", "Voter"]
