"""The embeddings of all rows as one matrix in a file, mapped by whoever searches.

Derived: every row of it is also in the log. Row r stands at `(r - row_base) * dimension * bytes per number`, without a
header, so that rows can be appended, read and punched out in place. float16 halves memory and costs about 5e-4 of
similarity.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from share.kernel.errors import BufferProblem
from share.kernel.experience.disk import Disk

BLOCK_ROWS = 4096


class Vectors:
    """The matrix of one vectors file: one process appends, any may read.

    With `write` the file is opened as it is, or made; a reader needs it to exist. Rows before `row_base` are
    not in the file. Rows that were never written, were zeroed or dropped read as zeros. Reading is thread-safe, also
    beside one appending thread. Methods raise OSError as the disk does.
    """

    def __init__(
        self,
        disk: Disk,
        path: Path,
        dimension: int,
        dtype: DTypeLike = np.float16,
        row_base: int = 0,
        *,
        write: bool = False,
    ) -> None:
        self.dimension = dimension
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.row_base = row_base
        self.path = path
        self._row_bytes = dimension * self.dtype.itemsize
        if write and path.name not in disk.names(path.parent):
            self._file = disk.open(path, write=True, create=True)
        else:
            self._file = disk.open(path, write=write)
        self._lock = threading.Lock()
        self._matrix_ND: NDArray[Any] = np.empty((0, dimension), self.dtype)
        self._remap()

    @property
    def stop(self) -> int:
        """One behind the last row that the file has room for."""
        return self.row_base + len(self._matrix_ND)

    def append(self, first_row: int, vectors_ND: NDArray[Any]) -> None:
        """Write rows first_row, first_row + 1, …; shape (N, D). Not durable before `sync`."""
        assert vectors_ND.shape[1:] == (self.dimension,)
        assert first_row >= self.row_base
        if len(vectors_ND) == 0:
            return
        # Grown in steps: a mapping made now then stays good for many appends.
        needed = first_row + len(vectors_ND) - self.row_base
        if needed > len(self._matrix_ND):
            self._file.resize(
                -(-max(needed, len(self._matrix_ND) * 9 // 8) // BLOCK_ROWS) * BLOCK_ROWS * self._row_bytes
            )
            self._remap()
        stored_ND = np.ascontiguousarray(vectors_ND, self.dtype)
        self._file.pwrite([stored_ND.data.cast("B")], self._offset(first_row))
        if self._matrix_ND[needed - 1].tobytes() != stored_ND[-1].tobytes():  # a disk whose mappings stay as they were
            self._remap()

    def gather(self, rows_N: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Copies of these rows in this order, float32 of shape (N, D)."""
        if len(rows_N) == 0:
            return np.empty((0, self.dimension), np.float32)
        local_N = np.asarray(rows_N) - self.row_base
        return to_float32(self._matrix_to(int(local_N.max()) + 1).take(local_N, axis=0))

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start <= row < stop, float32 of shape (stop - start, D); a view of the file if it is kept as float32."""
        assert self.row_base <= start <= stop
        return to_float32(self.stored(start, stop))

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """The same rows as they are kept, a view of the file."""
        return self._matrix_to(stop - self.row_base)[start - self.row_base : stop - self.row_base]

    def zero(self, rows_N: NDArray[np.integer[Any]]) -> None:
        """Erase rows in place. Durable after `sync`."""
        for row in np.asarray(rows_N).tolist():
            self._file.pwrite([bytes(self._row_bytes)], self._offset(row))

    def drop_before(self, row: int) -> None:
        """Give the space of all rows < row back; later rows stay where they are."""
        self._file.punch(0, self._offset(min(max(row, self.row_base), self.stop)))

    def drop_from(self, row: int) -> None:
        """Erase all rows >= row: nobody was told of them, and the next ones to be appended take their place."""
        offset = self._offset(max(row, self.row_base))
        self._file.punch(offset, max(0, self._file.size - offset))

    def sync(self) -> None:
        """What was written is durable at return."""
        self._file.sync()

    def close(self) -> None:
        """Arrays that were handed out stay good: they keep the mapping."""
        self._file.close()

    def _offset(self, row: int) -> int:
        return (row - self.row_base) * self._row_bytes

    def _matrix_to(self, rows: int) -> NDArray[Any]:
        """The mapped matrix, mapped anew if the file has grown past it."""
        matrix_ND = self._matrix_ND
        if rows > len(matrix_ND):
            matrix_ND = self._remap()
            if rows > len(matrix_ND):
                raise BufferProblem(
                    f"{self.path}: holds rows up to {self.stop}, row {self.row_base + rows - 1} was asked for"
                )
        return matrix_ND

    def _remap(self) -> NDArray[Any]:
        with self._lock:
            mapped = self._file.map()
            rows = len(mapped) // self._row_bytes
            matrix = np.frombuffer(mapped, self.dtype, rows * self.dimension)
            self._matrix_ND = matrix.reshape(rows, self.dimension)
            return self._matrix_ND


def to_float32(stored_ND: NDArray[Any]) -> NDArray[np.float32]:
    """float16 or float32 as float32. numpy converts float16 number by number; shifting bits is several times faster.

    The exponent's bias is corrected by the multiplication, which is exact; infinities and NaN do not occur.
    """
    if stored_ND.dtype != np.float16 or stored_ND.size < _FEW:
        return stored_ND.astype(np.float32, copy=False)
    bits = stored_ND.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_EXPONENT_MANTISSA
    single_ND: NDArray[np.float32] = bits.view(np.float32)
    single_ND *= _BIAS
    return single_ND


_FEW = 2048  # numbers for which one call costs less than four
_SIGN_EXPONENT_MANTISSA = np.int32(0x8FFFE000 - (1 << 32))
_BIAS = np.float32(2.0**112)

__all__ = ["BLOCK_ROWS", "Vectors", "to_float32"]
