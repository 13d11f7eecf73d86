"""The envelope of manifest, snapshot and index: what a file is, how long, its checksums, and what it covers.

FAISS's own writer returned normally with a truncated file on a full disk, and its format has no checksum: no derived
file is believed that is not in an envelope.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isal.isal_zlib import crc32

from share.kernel.errors import BufferProblem
from share.kernel.experience.disk import Disk, opened, publish

MAGIC = b"PIXENVL1"
HEADER_BYTES = 64
_CHECKSUM = struct.Struct("<I")
_REST = struct.Struct("<IQQQ16s8x")


class Damaged(BufferProblem):
    """A derived file that does not validate: it is left aside, and made again from the log."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A checked file. `covers` is the last sequence its content knows; `content` is a view of the mapped file."""

    covers: int
    rows: int
    checksum: int
    content: memoryview


def write_envelope(
    disk: Disk,
    path: Path,
    kind: str,
    covers: int,
    rows: int,
    parts: Sequence[bytes | memoryview],
    *,
    replace: bool = False,
) -> int:
    """Publish `parts` in an envelope, durable at return. Returns the checksum of the content.

    `kind` is at most 16 characters of ASCII. Raises OSError; FileExistsError if the name is taken and not `replace`.
    """
    views = [memoryview(part).cast("B") for part in parts]
    checksum = 0
    for view in views:
        checksum = crc32(view, checksum)
    rest = _REST.pack(checksum, sum(map(len, views)), covers, rows, _kind(kind))
    publish(disk, path, [MAGIC, _CHECKSUM.pack(crc32(rest)), rest, *views], replace=replace)
    return checksum


def read_envelope(disk: Disk, path: Path, kind: str) -> Envelope:
    """Map a file and check every byte of it. Raises Damaged, naming the file; FileNotFoundError, OSError."""
    with opened(disk, path) as file:
        mapped = file.map()
    if len(mapped) < HEADER_BYTES or mapped[:8] != MAGIC:
        raise Damaged(f"{path}: not a file of an experience buffer")
    (expected,) = _CHECKSUM.unpack_from(mapped, 8)
    if crc32(mapped[12:HEADER_BYTES]) != expected:
        raise Damaged(f"{path}: its header is damaged")
    checksum, size, covers, rows, found = _REST.unpack_from(mapped, 12)
    content = mapped[HEADER_BYTES:]
    if found != _kind(kind):
        raise Damaged(f"{path}: holds {found.rstrip(bytes(1)).decode('ascii', 'replace')!r}, not {kind!r}")
    if len(content) != size:
        raise Damaged(f"{path}: has {len(content):,} bytes of content, should have {size:,}")
    if crc32(content) != checksum:
        raise Damaged(f"{path}: its content is damaged")
    return Envelope(covers, rows, checksum, content)


def _kind(kind: str) -> bytes:
    encoded = kind.encode("ascii")
    assert 0 < len(encoded) <= 16
    return encoded.ljust(16, b"\0")


__all__ = ["HEADER_BYTES", "MAGIC", "Damaged", "Envelope", "read_envelope", "write_envelope"]
