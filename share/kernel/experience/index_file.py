"""The file of a built index. One that cannot be used, for whatever reason, is IndexUnavailable to the buffer."""

from __future__ import annotations

from pathlib import Path

from share.kernel.contracts.kinds import BuiltIndex, Index
from share.kernel.errors import IndexUnavailable
from share.kernel.experience.disk import Disk
from share.kernel.experience.envelope import read_envelope

INDEX = "index"


def load_index(disk: Disk, path: Path, index: Index) -> BuiltIndex:
    """Raises Damaged, OSError, IndexUnavailable, also for what a library below an index raises of its own accord."""
    content = read_envelope(disk, path, INDEX).content
    try:
        return index.load(content)
    except IndexUnavailable:
        raise
    except Exception as error:
        raise IndexUnavailable(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error


__all__ = ["INDEX", "load_index"]
