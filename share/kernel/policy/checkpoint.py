"""Checkpoints: everything a trainer needs to go on as if it had never stopped.

A checkpoint is a directory `step_00000050` of parts, one file each, and a `manifest.json` with the size and SHA-256
of every part. It is written under a temporary name, synced file by file, renamed, and the parent directory synced: a
checkpoint that has its name is complete. Reading verifies every hash and falls back to the newest checkpoint that is
good. A part is a tree of dicts, lists, tuples, numbers, strings and tensors; nothing is executed when it is read.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel

from share.kernel.errors import CheckpointError

_MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read whole. `damaged` names newer ones that had to be passed over, with the reason."""

    step: int
    parts: Mapping[str, object]
    path: Path
    damaged: tuple[str, ...] = ()


def write_checkpoint(directory: Path, step: int, identity: str, parts: Mapping[str, object], keep: int = 2) -> Path:
    """Write a checkpoint below `directory` and remove all but the newest `keep`.

    `identity` says which training it belongs to; `read_checkpoint` refuses one of another. An existing checkpoint of
    the same step is replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory)
    target = directory / _name(step)
    temporary = directory / f".writing-{target.name}"
    temporary.mkdir()
    files: dict[str, _File] = {}
    for name, part in parts.items():
        path = temporary / f"{name}.pt"
        torch.save(part, path)
        _sync(path)
        files[path.name] = _File(bytes=path.stat().st_size, sha256=_sha256(path))
    manifest = temporary / _MANIFEST
    manifest.write_text(_Manifest(format=1, step=step, identity=identity, files=files).model_dump_json(indent=1))
    _sync(manifest)
    _sync(temporary)
    if target.exists():
        target.rename(directory / f".replaced-{target.name}")
    temporary.rename(target)
    _sync(directory)
    _remove_leftovers(directory)
    for old in _newest_first(directory)[keep:]:
        shutil.rmtree(old)
    return target


def read_checkpoint(directory: Path, identity: str, step: int | None = None) -> Checkpoint | None:
    """The newest good checkpoint below `directory`, or that of `step` alone; None when there never was one.

    Raises CheckpointError when there are checkpoints and none is good, or the newest good one is another training's.
    """
    damaged: list[str] = []
    for path in _newest_first(directory):
        if step is not None and path.name != _name(step):
            continue
        try:
            manifest = _verified_manifest(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if manifest.identity != identity:
            raise CheckpointError(f"{path}: is a checkpoint of {manifest.identity!r}, this run is {identity!r}")
        parts = {
            Path(name).stem: torch.load(path / name, map_location="cpu", weights_only=True) for name in manifest.files
        }
        return Checkpoint(manifest.step, parts, path, tuple(damaged))
    if damaged:
        raise CheckpointError(f"{directory}: no checkpoint is good; start a new run. {'; '.join(damaged)}")
    return None


def random_state() -> dict[str, object]:
    """The state of every random generator a trainer may use: Python, NumPy, torch, and each CUDA device."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.uint32).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, object]) -> None:
    """Restore what `random_state` returned, possibly read from a checkpoint."""
    python, numpy, cuda, generator = state["python"], state["numpy"], state["cuda"], state["torch"]
    assert isinstance(python, tuple | list)
    assert isinstance(numpy, Mapping)
    assert isinstance(cuda, list)
    assert isinstance(generator, torch.Tensor)
    random.setstate((python[0], tuple(python[1]), python[2]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(generator)
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """One hash of names, dtypes, shapes and bytes, in the order of the names: equal exactly when bitwise equal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hexadecimal digits that tell policies apart: names, shapes and up to 256 values of every tensor.

    Cheap for billions of weights, and blind to a change of few of them; `sha256_of_tensors` sees every bit.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().reshape(-1)
        some = flat[:: max(len(flat) // 256, 1)].cpu().contiguous()
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class _File(BaseModel):
    bytes: int
    sha256: str


class _Manifest(BaseModel):
    format: Literal[1]
    step: int
    identity: str
    files: dict[str, _File]


def _verified_manifest(path: Path) -> _Manifest:
    """The manifest of a checkpoint whose files all have their hashes. Raises CheckpointError."""
    try:
        manifest = _Manifest.model_validate_json((path / _MANIFEST).read_bytes())
        for name, expected in manifest.files.items():
            if _sha256(path / name) != expected.sha256:
                raise CheckpointError(f"{path.name}: {name} does not have the hash of the manifest")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {' '.join(str(error).split())}") from error
    return manifest


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step_*"), reverse=True) if directory.is_dir() else []


def _remove_leftovers(directory: Path) -> None:
    for pattern in (".writing-*", ".replaced-*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "Checkpoint",
    "fingerprint",
    "random_state",
    "read_checkpoint",
    "restore_random_state",
    "sha256_of_tensors",
    "write_checkpoint",
]
