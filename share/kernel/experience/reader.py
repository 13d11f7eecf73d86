"""Reading a buffer from another process than the writer's: it follows the log, and waits for nobody.

Every call first looks at the live page, which costs a few reads of memory, and applies what has become durable since:
what is acknowledged anywhere is found here. When the writer commits a new manifest, its index is loaded beside and
swapped in. A reader outlives its writer, and follows the next one.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import Choice
from share.kernel.contracts.experience import Experience, Neighbor
from share.kernel.contracts.kinds import BuiltIndex, Index, Storage
from share.kernel.contracts.run import Metric
from share.kernel.errors import BufferCorrupt, BufferUnavailable, IndexUnavailable
from share.kernel.events import StructuredLogger
from share.kernel.experience.config import PriorityConfig
from share.kernel.experience.disk import Disk, RealDisk
from share.kernel.experience.envelope import Damaged
from share.kernel.experience.following import Following, load
from share.kernel.experience.index_file import load_index
from share.kernel.experience.layout import read_identity
from share.kernel.experience.live import LiveView, Said
from share.kernel.experience.manifest import Manifest, newest_manifest
from share.kernel.experience.memory import Memory, Sample
from share.kernel.experience.problem import problem
from share.kernel.experience.state import read_snapshot
from share.kernel.experience.vectors import Vectors
from share.kernel.registry import Registry

TRIES_MAX = 20
"""How often a state is loaded anew because the writer changed it meanwhile."""


class ExperienceReader:
    """A buffer as any process of the machine can read it; safe for many threads.

    `index` is the writer's choice, and `priority` is needed only to sample otherwise than by the defaults. Raises
    BufferUnavailable if there is no buffer, BufferCorrupt.
    """

    def __init__(
        self,
        directory: Path | str,
        registry: Registry,
        *,
        index: Choice | None = None,
        priority: PriorityConfig | None = None,
        disk: Disk | None = None,
        random: np.random.Generator | None = None,
        logger: StructuredLogger | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._registry = registry
        self._choice = index
        self._priority = priority or PriorityConfig()
        self._disk = disk or RealDisk()
        self._random = random or np.random.default_rng()
        self._logger = logger or StructuredLogger(None, run_id="", backend="experience_reader")
        self._identity = read_identity(self._disk, self.directory)
        storage: Storage = registry.build(Choice("buffer", self._identity.storage))
        self._live = LiveView(self.directory)
        self._log = storage.open(self.directory, self._disk, "read")
        self._lock = threading.Lock()
        self._renewing: threading.Thread | None = None
        self._is_closed = False
        self._is_renewal_due = False
        self._said: Said | None = None
        self._following: Following
        self._load()

    def __enter__(self) -> ExperienceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._memory().table.num_alive

    def __iter__(self) -> Iterator[Experience]:
        """All experiences, oldest first."""
        return iter(self._memory())

    @property
    def sequence(self) -> int:
        """The last sequence that is known here."""
        self._memory()
        return self._following.sequence

    @property
    def generation(self) -> int:
        """Generation of the manifest whose index is searched; 0 without one."""
        manifest = self._following.manifest
        return manifest.generation if manifest is not None else 0

    def get(self, id_: str) -> Experience | None:
        """See `ExperienceBuffer.get`."""
        return self._memory().get(id_)

    def search_index(self, embedding: NDArray[np.floating], k: int, exclude: Collection[str] = ()) -> list[Neighbor]:
        """See `ExperienceBuffer.search_index`."""
        return self._memory().search(embedding, k, exclude)

    def sample(self, n: int) -> list[Sample]:
        """See `ExperienceBuffer.sample`."""
        samples = self._memory().sample(n)
        if len(samples) < n:
            raise BufferUnavailable(f"{self.directory}: is empty, nothing can be sampled")
        return samples

    def summary(self) -> dict[str, Metric]:
        """What is in the buffer, in numbers."""
        return {"sequence": self.sequence, **self._memory().summary()}

    def close(self) -> None:
        self._is_closed = True
        with self._lock:
            thread = self._renewing
        if thread is not None:
            thread.join()
        self._live.close()
        self._log.close()

    def _memory(self) -> Memory:
        """Memory with all that is durable at this moment."""
        if self._is_closed:
            raise BufferUnavailable(f"{self.directory}: this reader has been closed")
        said = self._live.read()
        if said != self._said and said is not None:
            with self._lock:
                said = self._live.read()
                if said != self._said and said is not None:
                    self._follow(said)
        return self._following.memory

    def _follow(self, said: Said) -> None:
        """Apply what is new, or begin anew where the log has lost what that needs."""
        following = self._following
        if self._said is None or said[:2] != self._said[:2]:
            # Without a manifest of its own, a writer may have salvaged, and numbers rows anew.
            if said.generation == 0 or self._is_behind(following.sequence):
                self._load()
                return
            self._renew_soon()
        start = following.sequence
        try:
            following.catch_up(self._log, said.sequence)
        except BufferCorrupt:
            if not self._has_changed(said):
                raise
        if self._has_changed(said) and self._is_behind(start):  # what was read may have been truncated under us
            self._load()
            return
        self._said = said

    def _is_behind(self, sequence: int) -> bool:
        """Whether records after `sequence` may have been truncated or erased by now."""
        manifest = newest_manifest(self._disk, self.directory)
        return manifest is not None and sequence < manifest.covers

    def _has_changed(self, said: Said | None) -> bool:
        """Whether another writer or another manifest came since."""
        now = self._live.read()
        return now is not None and (said is None or now[:2] != said[:2])

    def _load(self) -> None:
        """Begin anew, again while a writer changes what is read. Raises BufferCorrupt, BufferUnavailable."""
        for _ in range(TRIES_MAX):
            said = self._live.read()
            try:
                self._following = load(
                    self.directory,
                    self._disk,
                    self._log,
                    self._index_of,
                    self._priority,
                    self._random,
                    self._logger,
                    dimension=self._identity.dimension,
                    until=None if said is None else said.sequence,
                )
            except (BufferCorrupt, OSError) as error:
                if self._has_changed(said):
                    continue
                if isinstance(error, OSError):
                    raise problem(error, f"{self.directory}: cannot be read") from error
                raise
            if not self._has_changed(said):
                self._said = said
                return
        raise BufferUnavailable(f"{self.directory}: changes faster than it can be read")

    def _renew_soon(self) -> None:
        """Load the index of the newest manifest beside, in a thread."""
        self._is_renewal_due = True
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew, name="experience-reader-renewal", daemon=True)
            self._renewing.start()

    def _renew(self) -> None:
        while True:
            with self._lock:
                if not self._is_renewal_due or self._is_closed:
                    self._renewing = None
                    return
                self._is_renewal_due = False
                following = self._following
            manifest = newest_manifest(self._disk, self.directory)
            if manifest is None or (following.manifest and following.manifest.generation == manifest.generation):
                continue
            try:
                self._use(following, manifest)
            except (Damaged, IndexUnavailable, OSError, ValueError, KeyError, struct.error) as error:
                newest = newest_manifest(self._disk, self.directory)
                if newest is not None and newest.generation != manifest.generation:  # its files went with it
                    self._is_renewal_due = True
                else:
                    self._logger.warn("buffer_index_unusable", f"{self.directory}: going on with the old one: {error}")

    def _use(self, following: Following, manifest: Manifest) -> None:
        """Search with the files of a manifest from now on, or begin anew if its rows are numbered otherwise."""
        snapshot = read_snapshot(self._disk, self.directory, manifest)
        shared = Vectors(self._disk, self.directory / manifest.vectors, manifest.dimension, manifest.dtype)
        built: BuiltIndex | None = None
        if manifest.index is not None:
            built = load_index(self._disk, self.directory / manifest.index, self._index_of(manifest.index_backend))
        with self._lock:
            if self._following is not following:
                return
            if following.can_use(manifest, snapshot):
                following.use(manifest, shared, built, snapshot.stop)
                following.memory.table.adopt(snapshot)
            else:
                self._load()

    def _index_of(self, backend: str) -> Index:
        choice = self._choice if self._choice is not None and self._choice.name == backend else Choice("index", backend)
        index: Index = self._registry.build(choice)
        return index


__all__ = ["TRIES_MAX", "ExperienceReader"]
