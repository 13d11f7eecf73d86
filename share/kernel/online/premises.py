"""Whether a service can live where it is told to: looked at before its run begins, and nothing is left of the look."""

from __future__ import annotations

import tempfile
from pathlib import Path

from share.kernel.errors import ConfigError
from share.kernel.experience.lock import holder, is_locked


def check_directory(directory: Path) -> None:
    """Raises ConfigError when the directory is no directory, cannot be made or written, or another process uses it."""
    what = "made"
    try:
        what = "written" if directory.exists() else "made"
        inside = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        # Tried, not asked: what a user may do says little of a disk that is mounted read-only, and nothing of root.
        with tempfile.TemporaryDirectory(prefix=".pixelis-", dir=inside):
            pass
    except OSError as error:
        raise ConfigError(f"directory: {directory} cannot be {what}: {error.strerror}; set directory=…") from error
    buffer = directory / "buffer"
    if is_locked(buffer):
        raise ConfigError(
            f"directory: {directory} is in use by {holder(buffer)}; stop that one, or set directory=… to another"
        )


__all__ = ["check_directory"]
