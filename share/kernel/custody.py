"""Custody of an experience buffer, from the shell: what is in it, whether it is sound, and what must go.

`stat`, `verify` and `dump` only read, also beside a living writer. The others write, and say who does if another does.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from share.kernel.command import flattened
from share.kernel.config import Choice, layered, validate
from share.kernel.contracts.experience import Experience
from share.kernel.contracts.kinds import Storage
from share.kernel.contracts.run import Metric
from share.kernel.errors import BufferLocked, ConfigError
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.dumping import as_fields, dump_experiences
from share.kernel.experience.inspection import inspect
from share.kernel.experience.layout import read_identity
from share.kernel.experience.lock import holder, is_locked
from share.kernel.experience.manifest import newest_manifest
from share.kernel.experience.problem import problem
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from share.kernel.serving.subjects import SECRET, Subjects


def care(registry: Registry, arguments: argparse.Namespace) -> int:
    """Do what the command line asks for. Returns 1 if `verify` found something, or `erase` nobody; else 0.

    Raises PixelisError.
    """
    for name, works in _ONLY_FOR.items():
        if getattr(arguments, name) and arguments.work not in works:
            raise ConfigError(f"--{name.replace('_', '-')}: is for {', '.join(works)}, not for {arguments.work}")
    return _WORK[arguments.work](registry, arguments)


def _stat(registry: Registry, arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory
    disk = RealDisk()
    identity = read_identity(disk, directory)
    manifest = newest_manifest(disk, directory)
    with ExperienceReader(directory, registry) as reader:
        summary = reader.summary()
    files = [path for path in directory.rglob("*") if path.is_file()]
    report: dict[str, Metric] = {
        "directory": str(directory),
        "format": identity.format,
        "dimension": identity.dimension,
        "storage": identity.storage,
        "writer": holder(directory) if is_locked(directory) else None,
        **summary,
        "generation": manifest.generation if manifest else 0,
        "snapshot_covers": manifest.covers if manifest else 0,
        "index": manifest.index_said if manifest else "",
        "index_rows": manifest.index_rows if manifest else 0,
        "bytes_on_disk": sum(path.stat().st_blocks * 512 for path in files),
    }
    _print(report, arguments.json)
    return 0


def _verify(registry: Registry, arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory
    disk = RealDisk()
    identity = read_identity(disk, directory)
    storage: Storage = registry.build(Choice("buffer", identity.storage))
    with _bar("verify", "B") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        findings = list(inspect(directory, disk, storage, identity.dimension, progress))
    if arguments.json:
        keys = ("path", "offset", "problem", "is_loss")
        print(json.dumps([{key: getattr(finding, key) for key in keys} for finding in findings], indent=2))
    else:
        for finding in findings:
            print(
                f"{'LOSS' if finding.is_loss else 'note'}: {finding.path}: offset {finding.offset}: {finding.problem}"
            )
        if any(finding.is_loss for finding in findings):
            print(f"to keep all that is sound: python -m share.kernel buffer rebuild {directory} --salvage")
        print(f"{directory}: {len(findings)} found" if findings else f"{directory}: sound, nothing wrong was found")
    return 1 if findings else 0


def _dump(registry: Registry, arguments: argparse.Namespace) -> int:
    with ExperienceReader(arguments.directory, registry) as reader, _bar("dump", "experience") as bar:
        bar.total = len(reader)

        def counted() -> Iterator[Experience]:
            for experience in reader:
                yield experience
                bar.update()

        if arguments.output is None:
            try:
                for experience in counted():
                    print(json.dumps(as_fields(experience), ensure_ascii=False))
                sys.stdout.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise problem(error, "standard output: cannot be written") from error
            return 0
        count = dump_experiences(counted(), arguments.output)
    _print({"experiences": count, "output": str(arguments.output)}, arguments.json)
    return 0


def _compact(registry: Registry, arguments: argparse.Namespace) -> int:
    with _opened(registry, arguments) as buffer:
        erased = _compacted(buffer)
        _print({"experiences": len(buffer), "log_bytes_erased": erased}, arguments.json)
    return 0


def _rebuild(registry: Registry, arguments: argparse.Namespace) -> int:
    with _opened(registry, arguments) as buffer:
        with _clock("rebuild"):
            buffer.rebuild()
        metrics = buffer.metrics()
        _print({key: metrics[key] for key in ("experiences", "generation", "index", "index_rows")}, arguments.json)
    return 0


def _erase(registry: Registry, arguments: argparse.Namespace) -> int:
    if (arguments.subject is None) == (arguments.older_than_days is None):
        raise ConfigError("erase: say whose with --subject NAME, or of what age with --older-than-days N")
    # Beside the buffer of a service is the secret under which it hashes the names of those whom its answers are about.
    subjects = Subjects(arguments.directory.absolute().parent / SECRET)
    with _opened(registry, arguments) as buffer:
        if arguments.subject is not None:
            removed = sum(buffer.erase(key) for key in (arguments.subject, *subjects.keys(arguments.subject)))
        else:
            removed = buffer.expire(arguments.older_than_days)
        erased = _compacted(buffer)
        _print({"removed": removed, "experiences": len(buffer), "log_bytes_erased": erased}, arguments.json)
    if arguments.subject is not None and not removed:
        print(f"nothing is about {arguments.subject!r} here", file=sys.stderr)
    if arguments.subject is not None and subjects.is_made:
        print(
            "this is the buffer alone; what else the service has about a person, such as reviews, goes with its "
            "POST /v1/admin/erase, also when it is started later",
            file=sys.stderr,
        )
    return 1 if arguments.subject is not None and not removed else 0


@contextmanager
def _opened(registry: Registry, arguments: argparse.Namespace) -> Iterator[ExperienceBuffer]:
    """The buffer with the settings that it tells itself, and those of the command line."""
    disk = RealDisk()
    identity = read_identity(disk, arguments.directory)
    manifest = newest_manifest(disk, arguments.directory)
    told = {
        "dimension": identity.dimension,
        "storage": identity.storage,
        "capacity": None,
        "rebuild_after": sys.maxsize,
    }
    if manifest is not None:
        told["vectors"] = manifest.dtype
        if manifest.index_backend:
            told["index"] = manifest.index_backend
    config = validate(ExperienceBufferConfig, layered([], {}, arguments.set, told), registry)
    try:
        with _clock("open"):
            buffer = open_buffer(arguments.directory, config, registry, salvage=arguments.salvage)
    except BufferLocked as error:
        raise BufferLocked(
            f"{arguments.directory}: {holder(arguments.directory)} is writing to it; stop it first (an online service "
            "erases and compacts by itself: POST /v1/admin/erase)"
        ) from error
    with buffer:
        yield buffer


@contextmanager
def _bar(title: str, unit: str) -> Iterator[tqdm[None]]:
    with tqdm(desc=title, unit=unit, unit_scale=True, file=sys.stderr, disable=None, leave=False) as bar:
        yield bar


@contextmanager
def _clock(title: str) -> Iterator[None]:
    """Shows how long work has taken of which nobody can tell how much is left."""
    with tqdm(desc=title, bar_format="{desc}: {elapsed}", file=sys.stderr, disable=None, leave=False) as bar:
        is_done = threading.Event()

        def tick() -> None:
            while not is_done.wait(0.5):
                bar.refresh()

        ticking = threading.Thread(target=tick, name="clock", daemon=True)
        ticking.start()
        try:
            yield
        finally:
            is_done.set()
            ticking.join()


def _compacted(buffer: ExperienceBuffer) -> int:
    with _bar("compact", "record") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return buffer.compact(progress)


def _print(report: dict[str, Metric], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=2))
        return
    lines = dict(flattened(report))
    for key in ("created_first", "created_last"):
        if isinstance(seconds := report.get(key), float):
            lines[key] = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:{width}}  {'-' if value is None or value == '' else value}")


_ONLY_FOR = {
    "output": ("dump",),
    "subject": ("erase",),
    "older_than_days": ("erase",),
    "salvage": ("compact", "rebuild", "erase"),
    "set": ("compact", "rebuild", "erase"),
}
"""Which work an option is for."""

_WORK: dict[str, Callable[[Registry, argparse.Namespace], int]] = {
    "stat": _stat,
    "verify": _verify,
    "dump": _dump,
    "compact": _compact,
    "rebuild": _rebuild,
    "erase": _erase,
}

__all__ = ["care"]
