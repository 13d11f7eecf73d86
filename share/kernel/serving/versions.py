"""Versions of a policy's weights on disk, and the pointer to the one that is live.

A version is a directory `v000123-<8 hex digits>` with `weights.safetensors` and `manifest.json`: its parent, what was
measured of it, dtype and shape of every tensor, and the SHA-256 of the file of weights. The digits are those of the
manifest's own SHA-256, so that a name stands for one content. It is written under a temporary name, synced file by
file, renamed, and the parent directory synced: a version that has its name is whole, and one that is damaged later is
refused whole.

The weights are read and hashed as one piece: a thread that serves meanwhile waits for the interpreter whenever another
comes back from a call that had let go of it, some 0.1 ms each time.

`live` holds the name of the version that is served and those published before it; it is replaced atomically, under a
lock that dies with its holder, only by somebody who knows what it said. `frozen` names the weights that were shipped:
they are always there and have no directory. Several processes may share a store.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors.torch import save_file

from share.kernel.errors import UnknownVersion, VersionConflict, VersionDamaged
from share.kernel.files import write_atomically

FROZEN = "frozen"
"""The name of the shipped weights."""

_NAME = re.compile(r"v(\d{6,})-([0-9a-f]{8})")
_WEIGHTS, _MANIFEST, _LIVE, _LOCK = "weights.safetensors", "manifest.json", "live", "lock"
_WRITING, _REMOVING = ".writing-", ".removing-"
_SIZE_BYTES, _HEADER_BYTES_MAX = 8, 100_000_000
"""A safetensors file: the length of its header, the header, the tensors. The second is the format's own bound."""


class TensorRecord(BaseModel):
    """What a tensor of a version is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[int, ...]


class Manifest(BaseModel):
    """What is known of a version. `parent` is the version that it was learned from, `facts` what qualified it.

    `sha256` is that of the weights' file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    number: int
    parent: str
    facts: dict[str, JsonValue]
    tensors: dict[str, TensorRecord]
    sha256: str


class VersionStore:
    """The versions below a directory. `keep` published ones stay when others are removed. Thread-safe.

    A version's tensors are the full values of the parameters that were trained, by the name of the parameter.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        assert keep >= 1
        self.directory = directory
        self.keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, tensors: Mapping[str, torch.Tensor], parent: str, facts: Mapping[str, JsonValue]) -> str:
        """Write a version, not live yet; returns its name. What is killed in between leaves nothing behind for long."""
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        with self._writing() as temporary:
            weights = temporary / _WEIGHTS
            save_file(copies, weights)
            _sync(weights)
            records = {name: _record(tensor) for name, tensor in copies.items()}
            with weights.open("rb") as file:
                digest = _digest(_header(file), copies)
            with self._locked():
                number = 1 + max((_number(name) for name in [*self.newest(), *self._pointer().published]), default=0)
                manifest = Manifest(number=number, parent=parent, facts=dict(facts), tensors=records, sha256=digest)
                content = manifest.model_dump_json().encode()
                (temporary / _MANIFEST).write_bytes(content)
                _sync(temporary / _MANIFEST)
                _sync(temporary)
                name = f"v{number:06d}-{hashlib.sha256(content).hexdigest()[:8]}"
                temporary.rename(self.directory / name)
                _sync(self.directory)
        return name

    def read(self, version: str) -> dict[str, torch.Tensor]:
        """The tensors of a version, on the CPU, every byte checked; they are parts of one piece of memory.

        Raises UnknownVersion, or VersionDamaged when anything at all is not as it was written.
        """
        records, path = self.manifest(version).tensors, self._directory(version) / _WEIGHTS
        header, data = self._content(version)
        places = json.loads(header)
        if set(places) - {"__metadata__"} != set(records):
            raise VersionDamaged(f"{path} does not hold the tensors that its manifest names; remove {version}")
        return {name: _part(data, places[name]["data_offsets"], record) for name, record in records.items()}

    def manifest(self, version: str) -> Manifest:
        """What is known of a version. Raises UnknownVersion, VersionDamaged."""
        directory = self._directory(version)
        try:
            content = (directory / _MANIFEST).read_bytes()
            manifest = Manifest.model_validate_json(content)
        except (OSError, ValidationError) as error:
            raise VersionDamaged(f"{directory / _MANIFEST} cannot be read: {_first_line(error)}") from error
        if hashlib.sha256(content).hexdigest()[:8] != version[-8:] or manifest.number != _number(version):
            raise VersionDamaged(f"{directory / _MANIFEST} is not the manifest of {version}")
        return manifest

    def newest(self) -> list[str]:
        """The names of all versions, newest first, published or not."""
        names = [path.name for path in self.directory.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(names, key=_number, reverse=True)

    def live(self) -> str:
        """The version that is to be served. Raises VersionDamaged when the pointer cannot be read."""
        return self._pointer().live

    def published(self) -> list[str]:
        """The versions that were made live, newest first: `keep` at most, none twice."""
        return self._pointer().published[::-1]

    def publish(self, expected: str, version: str) -> None:
        """Make `version` live in place of `expected`; killed in between, one of the two is.

        Raises VersionConflict when another one is live by now; UnknownVersion or VersionDamaged when `version` could
        not be read, and then nothing has changed.
        """
        if version != FROZEN:
            self._content(version)
        self.point(expected, version)

    def point(self, expected: str, version: str) -> None:
        """`publish` of a version that was just read. Raises VersionConflict."""
        with self._locked():
            pointer = self._pointer()
            if pointer.live != expected:
                raise VersionConflict(f"{version} was to replace {expected}, but {pointer.live} is live")
            published = [name for name in pointer.published if name != version]
            published += [version] if version != FROZEN else []
            after = _Pointer(live=version, published=published[-self.keep :])
            write_atomically(self.directory / _LIVE, after.to_bytes())

    def prune(self) -> list[str]:
        """Remove what is no longer needed; returns the names.

        What stays: the version that is live, the last `keep` published, and the `keep` newest of those written after
        the live one, which may be published yet.
        """
        with self._locked():
            pointer = self._pointer()
            live = _number(pointer.live) if pointer.live != FROZEN else 0
            names = self.newest()
            younger = [name for name in names if _number(name) > live]
            needed = {pointer.live, *pointer.published, *younger[: self.keep]}
            removed = [name for name in names if name not in needed]
            for name in removed:
                (self.directory / name).rename(self.directory / f"{_REMOVING}{name}")
            if removed:
                _sync(self.directory)
            self._remove_leftovers()
        return removed

    def _content(self, version: str) -> tuple[bytes, torch.Tensor]:
        """The weights' file as it was written: its header, JSON, and the bytes of the tensors, uint8[bytes]."""
        manifest, path = self.manifest(version), self._directory(version) / _WEIGHTS
        try:
            with path.open("rb") as file:
                header = _header(file)
                data = torch.empty(os.fstat(file.fileno()).st_size - file.tell(), dtype=torch.uint8)
                file.readinto(data.numpy().data)
        except OSError as error:
            raise VersionDamaged(f"{path} cannot be read: {_first_line(error)}; remove {version}") from error
        digest = hashlib.sha256(header)
        digest.update(data.numpy().data)
        if digest.hexdigest() != manifest.sha256:
            raise VersionDamaged(f"{path} is not what was written; remove {version}")
        return header[_SIZE_BYTES:], data

    def _directory(self, version: str) -> Path:
        directory = self.directory / version
        if not _NAME.fullmatch(version) or not directory.is_dir():
            raise UnknownVersion(f"{self.directory} holds no version {version!r}")
        return directory

    def _pointer(self) -> _Pointer:
        path = self.directory / _LIVE
        try:
            return _Pointer.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return _Pointer(live=FROZEN, published=[])
        except (OSError, ValueError) as error:
            raise VersionDamaged(f"{path} is damaged; remove it to serve the shipped weights") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, whatever its process; the lock goes with whoever holds it."""
        file = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """A directory for a version in the making, which is nobody else's leftover while this process lives."""
        with self._locked():
            temporary = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self.directory))
            held = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(held)

    def _remove_leftovers(self) -> None:
        """What a killed process was writing, or removing."""
        for path in self.directory.iterdir():
            if path.name.startswith(_REMOVING):
                shutil.rmtree(path)
            elif path.name.startswith(_WRITING):
                held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                except BlockingIOError:
                    continue
                finally:
                    os.close(held)


class _Pointer(BaseModel):
    """The file `live`: this as JSON, a line break, and its SHA-256. `published`: oldest first, none twice."""

    live: str
    published: list[str]

    def to_bytes(self) -> bytes:
        content = self.model_dump_json().encode()
        return content + b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> _Pointer:
        """Raises ValueError."""
        content, _, digest = data.partition(b"\n")
        if digest != hashlib.sha256(content).hexdigest().encode() + b"\n":
            raise ValueError("the checksum does not fit")
        return cls.model_validate_json(content)


def _record(tensor: torch.Tensor) -> TensorRecord:
    return TensorRecord(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape))


def _header(file: BinaryIO) -> bytes:
    """What stands before the tensors: how long the header is, and the header."""
    size = file.read(_SIZE_BYTES)
    return size + file.read(min(int.from_bytes(size, "little"), _HEADER_BYTES_MAX))


def _digest(header: bytes, tensors: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of a weights' file: of its tensors as they are here, not as the disk has them."""
    digest, places = hashlib.sha256(header), json.loads(header[_SIZE_BYTES:])
    for name in sorted(tensors, key=lambda name: tuple(places[name]["data_offsets"])):
        if tensors[name].numel():
            digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _part(data: torch.Tensor, offsets: list[int], record: TensorRecord) -> torch.Tensor:
    """A tensor, of the bytes that it was written as."""
    return data[slice(*offsets)].view(getattr(torch, record.dtype)).view(record.shape)


def _number(version: str) -> int:
    match = _NAME.fullmatch(version)
    assert match is not None
    return int(match[1])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


__all__ = ["FROZEN", "Manifest", "TensorRecord", "VersionStore"]
