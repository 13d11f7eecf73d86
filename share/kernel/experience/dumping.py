"""Experiences into a file that other programs read: JSON Lines or Parquet. It appears whole or not at all."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from share.kernel.contracts.experience import Experience
from share.kernel.errors import ConfigError, PluginLoadError
from share.kernel.experience.problem import problem

SUFFIXES = (".jsonl", ".parquet")
ROWS_PER_GROUP = 1024
"""Rows of a Parquet file that are in memory at once."""


def dump_experiences(experiences: Iterable[Experience], path: Path) -> int:
    """Write them in their order, as the suffix of the path says. Returns how many.

    Raises ConfigError for another suffix, PluginLoadError without pyarrow, BufferFull, BufferUnavailable.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output: {path} must end in {' or '.join(SUFFIXES)}")
    write: Callable[[Iterable[Experience], Path], int] = _write_lines if path.suffix == ".jsonl" else _write_parquet
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            count = write(experiences, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise problem(error, f"{path}: cannot be written") from error
    return count


def as_fields(experience: Experience) -> dict[str, Any]:
    """What JSON can hold of an experience, which is all of it: arrays of features are base64 with dtype and shape."""
    trajectory = experience.trajectory
    return {
        "id": experience.id,
        "question": experience.question,
        "answer": experience.answer,
        "confidence": experience.confidence,
        "created_at": experience.created_at,
        "reward": experience.reward,
        "reward_components": dict(experience.reward_components),
        "policy_version": experience.policy_version,
        "subject": experience.subject,
        "priority": experience.priority,
        "retrieval_count": experience.retrieval_count,
        "success_count": experience.success_count,
        "status": experience.status.name.lower(),
        "metadata": dict(experience.metadata),
        "trajectory": None if trajectory is None else asdict(trajectory),
        "features": {name: _array(array) for name, array in experience.features.items()},
        "embedding": experience.embedding.tolist(),
    }


def _array(array: np.typing.NDArray[np.generic]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": data}


def _write_lines(experiences: Iterable[Experience], path: Path) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for experience in experiences:
            file.write(json.dumps(as_fields(experience), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(experiences: Iterable[Experience], path: Path) -> int:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError as error:
        raise PluginLoadError("--output: .parquet needs pyarrow: pip install pyarrow, or write .jsonl") from error
    # What has no fixed columns is JSON in a text column, so that every file has the same schema.
    as_json = ("reward_components", "metadata", "trajectory", "features")
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("confidence", pa.float64()),
            ("created_at", pa.float64()),
            ("reward", pa.float64()),
            ("reward_components", pa.string()),
            ("policy_version", pa.string()),
            ("subject", pa.string()),
            ("priority", pa.float32()),
            ("retrieval_count", pa.int64()),
            ("success_count", pa.int64()),
            ("status", pa.string()),
            ("metadata", pa.string()),
            ("trajectory", pa.string()),
            ("features", pa.string()),
            ("embedding", pa.list_(pa.float32())),
        ]
    )
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for group in _groups(experiences):
            rows = [as_fields(experience) for experience in group]
            for row in rows:
                row.update({name: json.dumps(row[name], ensure_ascii=False) for name in as_json})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _groups(experiences: Iterable[Experience]) -> Iterator[list[Experience]]:
    group: list[Experience] = []
    for experience in experiences:
        group.append(experience)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


__all__ = ["ROWS_PER_GROUP", "SUFFIXES", "as_fields", "dump_experiences"]
