"""docs/formats/buffer.md is enough to read a buffer by: Pixelis is used here only to compare what was read."""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from share.kernel.contracts.trajectory import Action
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from tests.buffer.test_golden import GOLDEN

ADD, HOLE = 1, 8
COLUMNS = (
    ("sequence", "<u8"),
    ("location", "<u8"),
    ("subject", "<u8"),
    ("created", "<f8"),
    ("priority", "<f4"),
    ("retrieval", "<u4"),
    ("success", "<u4"),
    ("status", "u1"),
    ("alive", "u1"),
    ("id", "S40"),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / "buffer-1-file.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def frames(segment: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Sequence, type, offset and payload of each frame of a segment."""
    magic, header_crc, seed = struct.unpack_from("<8sII", segment)
    assert magic == b"PIXELOG1"
    assert header_crc == zlib.crc32(segment[12:64])
    offset = 64
    while offset + 40 <= len(segment):
        frame_crc, payload_crc, length, _, sequence, _, type_ = struct.unpack_from("<IIIIQQB", segment, offset)
        payload = segment[offset + 40 : offset + 40 + length]
        if zlib.crc32(segment[offset + 4 : offset + 40], seed) != frame_crc:
            return
        assert zlib.crc32(payload[:8] if type_ == HOLE else payload) == payload_crc
        yield sequence, type_, offset, payload
        offset += 40 + -(-length // 8) * 8


def addition(payload: bytes) -> dict[str, Any]:
    version, status, id_bytes, kind, dimension, subject, created, priority, body_bytes = struct.unpack_from(
        "<BBBBIQdfI", payload
    )
    assert version == 1
    dtype: np.dtype[Any] = np.dtype({1: "<f4", 2: "<f2"}[kind])
    at = 32 + dimension * dtype.itemsize
    assert len(payload) == at + id_bytes + body_bytes
    return {
        "id": payload[at : at + id_bytes].decode(),
        "embedding": np.frombuffer(payload, dtype, dimension, 32),
        "subject_hash": subject,
        "created_at": created,
        "priority": priority,
        "status": status,
        **msgpack.unpackb(payload[at + id_bytes :]),
    }


def unwrapped(path: Path, kind: str) -> bytes:
    """What is in an envelope."""
    content = path.read_bytes()
    magic, header_crc, content_crc, size, _, _, told = struct.unpack_from("<8sIIQQQ16s", content)
    assert (magic, told.rstrip(b"\0").decode()) == (b"PIXENVL1", kind)
    assert header_crc == zlib.crc32(content[12:64])
    assert content_crc == zlib.crc32(content[64:])
    assert size == len(content) - 64
    return content[64:]


def hashed(id_: bytes) -> int:
    value = 0
    for word in struct.unpack("<5Q", id_.ljust(40, b"\0")):
        value = ((value ^ word) * 0x9E3779B97F4A7C15) % 2**64
        value ^= value >> 29
    return value


def test_the_log_is_read_by_its_document(directory: Path, registry: Registry) -> None:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((directory / "log").glob("*.segment")):
        for _, type_, _, payload in frames(path.read_bytes()):
            if type_ == ADD:
                each = addition(payload)
                found[each["id"]] = each
    assert json.loads((directory / "buffer.json").read_text()).keys() == {"format", "dimension", "storage"}
    with ExperienceReader(directory, registry) as reader:
        living = list(reader)
    assert len(living) > 10
    for experience in living:
        each = found[experience.id]
        for name in ("question", "answer", "confidence"):
            assert each[name] == getattr(experience, name)
        assert np.array_equal(each["embedding"], experience.embedding)
        assert each["created_at"] == experience.created_at
    rich = next(each for each in living if each.id == "erich")
    told = found["erich"]
    assert rich.trajectory is not None
    prompt_id, (action,), answer, finish = told["trajectory"]
    assert (prompt_id, Action(**action), answer, finish) == (
        rich.trajectory.prompt_id,
        rich.trajectory.actions[0],
        rich.trajectory.answer,
        rich.trajectory.finish,
    )
    dtype, shape, content = told["features"]["visual"]
    assert np.array_equal(np.frombuffer(content, dtype).reshape(shape), rich.features["visual"])
    for name in ("reward", "reward_components", "policy_version", "subject", "metadata"):
        assert told[name] == getattr(rich, name)


def test_what_is_derived_is_read_by_its_document(directory: Path, registry: Registry) -> None:
    manifest = json.loads(unwrapped(max(directory.glob("MANIFEST-*")), "manifest"))
    assert manifest.keys() | {"index_chosen"} == {
        "generation",
        "covers",
        "snapshot",
        "vectors",
        "index",
        "dimension",
        "dtype",
        "index_backend",
        "index_rows",
        "index_chosen",
        "capacity_changes",
    }
    content = unwrapped(directory / manifest["snapshot"], "snapshot")
    (length,) = struct.unpack_from("<I", content)
    head = json.loads(content[4 : 4 + length])
    count = head["stop"] - head["row_base"]
    at = -(-(4 + length) // 8) * 8
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name, dtype in COLUMNS:
        columns[name] = np.frombuffer(content, dtype, count, at)
        at += -(-columns[name].nbytes // 8) * 8
    keys = np.frombuffer(content, "<u8", head["num_alive"], at)
    rows = np.frombuffer(content, "<i8", head["num_alive"], at + keys.nbytes)
    assert at + keys.nbytes + rows.nbytes == len(content)
    assert (columns["alive"] != 0).sum() == head["num_alive"] > 10

    row_bytes = manifest["dimension"] * np.dtype(manifest["dtype"]).itemsize
    matrix = (directory / manifest["vectors"]).read_bytes()
    log = {path.name: path.read_bytes() for path in (directory / "log").glob("*.segment")}
    for key, row in zip(keys.tolist(), rows.tolist(), strict=True):
        here = row - head["row_base"]
        id_ = columns["id"][here]
        assert hashed(id_) == key
        ordinal, offset = divmod(int(columns["location"][here]), 1 << 40)
        (sequence, type_, _, payload), *_ = (
            frame for frame in frames(log[f"{ordinal:010d}.segment"]) if frame[2] == offset
        )
        each = addition(payload)
        assert (sequence, type_, each["id"].encode()) == (columns["sequence"][here], ADD, id_)
        stored = np.frombuffer(matrix, manifest["dtype"], manifest["dimension"], row * row_bytes)
        assert np.array_equal(stored, each["embedding"].astype(manifest["dtype"]))

    index = unwrapped(directory / manifest["index"], "index")
    (length,) = struct.unpack_from("<I", index)
    said = json.loads(index[4 : 4 + length])
    assert (said["kind"], said["rows"]) == (manifest["index_backend"], (columns["alive"] != 0).sum())
