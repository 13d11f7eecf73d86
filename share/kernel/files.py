"""Files that are either the old or the new content, whatever is killed in between."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace a file: temporary file beside it, fsync, rename, directory fsync. Leaves nothing behind when it fails.

    `mode` is what the new file may be used for, less what the process's umask takes away.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically. Not-a-number and infinities, which JSON lacks, become strings.

    Half a character, as a path that is no UTF-8 has it, becomes its JSON escape.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode(errors="backslashreplace") + b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int) else str(value)


__all__ = ["write_atomically", "write_json"]
