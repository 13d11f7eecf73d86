"""What lies where in a buffer's directory, and what it is a buffer of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from share.kernel.errors import BufferCorrupt, BufferUnavailable, ConfigError
from share.kernel.experience.disk import Disk, opened, publish
from share.kernel.experience.problem import problem

FORMAT = 1
IDENTITY = "buffer.json"
LOG = "log"
IDENTITY_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Identity:
    """What a buffer is from its first day on: the format, the numbers in an embedding, the storage of its log."""

    format: int
    dimension: int
    storage: str


def read_identity(disk: Disk, directory: Path) -> Identity:
    """Raises BufferUnavailable if there is no buffer, or one of a later format."""
    path = directory / IDENTITY
    try:
        with opened(disk, path) as file:
            said = json.loads(file.pread(IDENTITY_BYTES_MAX, 0))
        identity = Identity(**said)
        if not (isinstance(identity.format, int) and isinstance(identity.storage, str)):
            raise TypeError("a format is a number, a storage a name")
        if not (isinstance(identity.dimension, int) and identity.dimension > 0):
            raise TypeError("a dimension is a number above 0")
    except FileNotFoundError:
        inner = directory / "buffer"
        meant = f"; did you mean {inner}?" if (inner / IDENTITY).exists() else ""
        raise BufferUnavailable(f"{directory}: is not an experience buffer, it has no {IDENTITY}{meant}") from None
    except OSError as error:
        raise problem(error, f"{path}: cannot be read") from error
    except (ValueError, TypeError) as error:
        raise BufferUnavailable(
            f'{path}: is damaged; write it again: {{"format": {FORMAT}, "dimension": …, "storage": "file"}}'
        ) from error
    if identity.format > FORMAT:
        raise BufferUnavailable(f"{path}: format {identity.format}, this Pixelis reads {FORMAT}: upgrade pixelis")
    return identity


def check_dimension(dimension: int, vectors_ND: NDArray[np.float32]) -> None:
    """Raises BufferCorrupt when embeddings of the log, shape (N, D), are not those of such a buffer."""
    if vectors_ND.shape[1] != dimension:
        raise BufferCorrupt(
            f"{IDENTITY}: its dimension is {dimension}, but embeddings in the log have {vectors_ND.shape[1]} numbers; "
            "put that there"
        )


def settle_identity(disk: Disk, directory: Path, dimension: int, storage: str) -> Identity:
    """The identity of the buffer, which is made if there is none. Raises ConfigError if it is another one."""
    if IDENTITY not in disk.names(directory):
        content = json.dumps(asdict(Identity(FORMAT, dimension, storage)), indent=1).encode()
        try:
            publish(disk, directory / IDENTITY, [content])
            disk.sync_directory(directory.parent)
        except FileExistsError:
            pass
        except OSError as error:
            raise problem(error, f"{directory / IDENTITY}: cannot be made") from error
    identity = read_identity(disk, directory)
    if identity.dimension != dimension:
        raise ConfigError(f"dimension: is {identity.dimension} in {directory}, not {dimension}; that cannot change")
    if identity.storage != storage:
        raise ConfigError(f"storage: is {identity.storage!r} in {directory}, not {storage!r}; copy it with buffer dump")
    return identity


__all__ = ["FORMAT", "IDENTITY", "LOG", "Identity", "check_dimension", "read_identity", "settle_identity"]
