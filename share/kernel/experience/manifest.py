"""The manifest: which snapshot, vectors and index belong together. Its link is their one commit point.

The one before is kept, without its files: were the newest damaged, it still says which capacity held where the log
begins, and so which rows had been evicted.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from share.kernel.experience.disk import Disk
from share.kernel.experience.envelope import Damaged, read_envelope, write_envelope

KIND = "manifest"
_PREFIX = "MANIFEST-"
_DERIVED = ("snapshot-", "vectors-", "index-")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One generation. `vectors` names the lineage of the row numbers: with other vectors rows mean nothing.

    `index` is None while searching is exact; else it holds all living rows below `index_rows`. `capacity_changes`
    are (sequence, capacity) of the CAPACITY records up to `covers`. `index_chosen` is what an index of the backend
    `auto` says of itself; empty for the others, and in files of before it was kept.
    """

    generation: int
    covers: int
    snapshot: str
    vectors: str
    dimension: int
    dtype: str
    index: str | None
    index_backend: str
    index_rows: int
    capacity_changes: tuple[tuple[int, int], ...]
    index_chosen: str = ""

    @property
    def index_said(self) -> str:
        """The index, and if its backend has chosen one, which and why; empty while searching is exact."""
        return self.index_chosen or self.index_backend

    @property
    def files(self) -> set[str]:
        return {name for name in (self.snapshot, self.vectors, self.index) if name is not None}


def file_name(generation: int) -> str:
    return f"{_PREFIX}{generation:010d}"


def generations(disk: Disk, directory: Path) -> list[int]:
    """The generations that have a file, greatest first."""
    texts = [name.removeprefix(_PREFIX) for name in disk.names(directory) if name.startswith(_PREFIX)]
    return sorted((int(text) for text in texts if text.isdigit()), reverse=True)


def read_manifest(disk: Disk, directory: Path, generation: int) -> Manifest:
    """Raises Damaged, FileNotFoundError."""
    content = read_envelope(disk, directory / file_name(generation), KIND).content
    said = json.loads(bytes(content))
    said["capacity_changes"] = tuple((sequence, capacity) for sequence, capacity in said["capacity_changes"])
    return Manifest(**said)


def manifests(disk: Disk, directory: Path) -> list[Manifest]:
    """All that are sound, greatest generation first."""
    found = []
    for generation in generations(disk, directory):
        with contextlib.suppress(Damaged, FileNotFoundError):
            found.append(read_manifest(disk, directory, generation))
    return found


def newest_manifest(disk: Disk, directory: Path) -> Manifest | None:
    """The one of the greatest generation, None if there is none or it is not sound."""
    while True:
        found = generations(disk, directory)
        if not found:
            return None
        try:
            return read_manifest(disk, directory, found[0])
        except Damaged:
            return None
        except FileNotFoundError:  # two newer ones were committed meanwhile
            continue


def commit_manifest(disk: Disk, directory: Path, manifest: Manifest) -> None:
    """Make it count. Raises FileExistsError if another writer has made that generation, OSError."""
    content = json.dumps(asdict(manifest), indent=1).encode()
    path = directory / file_name(manifest.generation)
    write_envelope(disk, path, KIND, manifest.covers, manifest.index_rows, [content])


def clean(disk: Disk, directory: Path, manifest: Manifest | None, keep: set[str]) -> None:
    """Delete what no manifest that counts names: files of older ones, and what was left half made."""
    kept = keep | (manifest.files if manifest else set())
    if manifest is not None:
        kept |= {file_name(generation) for generation in generations(disk, directory)[:2]}
    for name in disk.names(directory):
        is_derived = name.startswith(_DERIVED) or (manifest is not None and name.startswith(_PREFIX))
        is_half_made = name.startswith((*_DERIVED, _PREFIX)) and name.endswith(".tmp")
        if (is_derived and name not in kept) or is_half_made:
            disk.unlink(directory / name)


__all__ = [
    "KIND",
    "Manifest",
    "clean",
    "commit_manifest",
    "file_name",
    "generations",
    "manifests",
    "newest_manifest",
    "read_manifest",
]
