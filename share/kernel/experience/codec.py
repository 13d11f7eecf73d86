"""Experiences and changes to them as the payloads of log records; docs/formats/buffer.md has the bytes.

An ADD payload is a fixed head with everything that recovery and search need, then the embedding, the id, and a body
that is read only when somebody asks for the experience itself. The body is a MessagePack map: a field at its default
is left out, and a later version may add fields without a new version of the payload.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from share.kernel.contracts.experience import Experience, RecordType, Status
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.errors import BufferCorrupt, BufferProblem, ExperienceRefused

VERSION = 1
ID_BYTES_MAX = 40
BODY_BYTES_MAX = 16 << 20
UNIT_TOLERANCE = 2e-3
"""How far the squared length of an embedding may be from one: float16 rounds to about 5e-4."""

_HEAD = struct.Struct("<BBBBIQdfI")
_SINGLE, _HALF = 1, 2
_DTYPES: Mapping[int, np.dtype[Any]] = {_SINGLE: np.dtype("<f4"), _HALF: np.dtype("<f2")}
_COLUMNS: Mapping[RecordType, tuple[np.dtype[Any], ...]] = {
    RecordType.REMOVE: (np.dtype("<u8"),),
    RecordType.PRIORITY: (np.dtype("<u8"), np.dtype("<f4")),
    RecordType.RETRIEVAL: (np.dtype("<u8"), np.dtype("<u4"), np.dtype("<u4")),
    RecordType.STATUS: (np.dtype("<u8"), np.dtype("<u1")),
    RecordType.CAPACITY: (np.dtype("<u8"),),
}


class Heads(NamedTuple):
    """The heads of N ADD payloads, in columns; `embeddings` has shape (N, D)."""

    ids: list[bytes]
    subject_hash: NDArray[np.uint64]
    created_at: NDArray[np.float64]
    priority: NDArray[np.float32]
    status: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


class Head(NamedTuple):
    """What an ADD payload says without its body being read. `embedding` has shape (D,), a view if it is float32."""

    id: bytes
    subject_hash: int
    created_at: float
    priority: float
    status: int
    embedding: NDArray[np.float32]


def check_experience(experience: Experience, dimension: int) -> None:
    """Raises ExperienceRefused, naming the field, for an experience that cannot be stored in such a buffer."""
    for name in ("id", "question", "answer", "policy_version"):
        if not isinstance(getattr(experience, name), str):
            raise ExperienceRefused(f"{name}: must be text, not {getattr(experience, name)!r:.80}")
    if not experience.id or len(experience.id.encode(errors="replace")) > ID_BYTES_MAX or "\0" in experience.id:
        raise ExperienceRefused(
            f"id: {experience.id!r:.80} must have 1 to {ID_BYTES_MAX} bytes of UTF-8, none of them 0"
        )
    _check_embedding(experience.embedding, dimension)
    for name in ("confidence", "created_at"):
        if not _is_number(getattr(experience, name)):
            raise ExperienceRefused(f"{name}: must be a finite number, not {getattr(experience, name)!r:.80}")
    if not 0 <= experience.confidence <= 1:
        raise ExperienceRefused(f"confidence: {experience.confidence} is not between 0 and 1")
    rewards = {"reward": experience.reward}
    rewards |= {f"reward_components.{name}": value for name, value in experience.reward_components.items()}
    for name, value in rewards.items():
        if value is not None and not _is_number(value):
            raise ExperienceRefused(f"{name}: must be a finite number or None, not {value!r:.80}")
    if experience.priority is not None and not (_is_number(experience.priority) and 0 <= experience.priority < 1e30):
        raise ExperienceRefused(f"priority: must be from 0 to 1e30, not {experience.priority!r:.80}")
    if not 0 <= experience.success_count <= experience.retrieval_count < 2**32:
        raise ExperienceRefused(
            f"success_count: {experience.success_count} of retrieval_count {experience.retrieval_count} cannot be"
        )
    if experience.subject is not None and not (isinstance(experience.subject, str) and experience.subject):
        raise ExperienceRefused(f"subject: must be a key or None, not {experience.subject!r:.80}")
    for name, array in experience.features.items():
        if array.dtype.kind not in "biufc":
            raise ExperienceRefused(f"features.{name}: an array of {array.dtype} cannot be stored, only numbers")


def encode_experience(experience: Experience, priority: float) -> list[bytes | memoryview]:
    """The parts of an ADD payload. The embedding is stored as float16 if it is float16, else as float32.

    Raises ExperienceRefused for what MessagePack cannot hold. `check_experience` comes before.
    """
    embedding_D = np.ascontiguousarray(experience.embedding)
    kind = _HALF if embedding_D.dtype == np.float16 else _SINGLE
    body = _encode_body(experience)
    id_bytes = experience.id.encode()
    head = _HEAD.pack(
        VERSION,
        experience.status,
        len(id_bytes),
        kind,
        len(embedding_D),
        subject_hash(experience.subject),
        experience.created_at,
        priority,
        len(body),
    )
    return [head, embedding_D.astype(_DTYPES[kind], copy=False).data.cast("B"), id_bytes, body]


def read_head(payload: bytes | memoryview) -> Head:
    """The head of an ADD payload. Raises BufferCorrupt, or BufferProblem for a payload of a later version."""
    return _read_head(payload)[0]


def read_heads(payloads: Sequence[bytes | memoryview]) -> Heads:
    """The heads of some ADD payloads, at least one, at a third of what reading each costs. Raises as `read_head`."""
    heads = _read_alike(payloads)
    if heads is not None:
        return heads
    each = [read_head(payload) for payload in payloads]
    return Heads(
        [head.id for head in each],
        np.array([head.subject_hash for head in each], np.uint64),
        np.array([head.created_at for head in each]),
        np.array([head.priority for head in each], np.float32),
        np.array([head.status for head in each], np.uint8),
        np.concatenate([head.embedding for head in each]).reshape(len(each), -1),
    )


def decode_experience(payload: bytes | memoryview) -> Experience:
    """The experience as it was added, with the priority it was added with. Raises as `read_head`."""
    head, body_offset = _read_head(payload)
    try:
        fields = msgpack.unpackb(memoryview(payload)[body_offset:])
        trajectory = fields.pop("trajectory", None)
        features = fields.pop("features", {})
        return Experience(
            id=head.id.decode(),
            embedding=head.embedding.copy(),
            created_at=head.created_at,
            priority=head.priority,
            status=Status(head.status),
            trajectory=None if trajectory is None else _trajectory(trajectory),
            features={
                name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in features.items()
            },
            **{name: value for name, value in fields.items() if name in _BODY_FIELDS},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BufferCorrupt(f"the body of experience {head.id!r} cannot be read: {error}") from error


def encode_changes(type: RecordType, *columns: ArrayLike) -> bytes:  # noqa: A002 - the word of the contract
    """The payload of a REMOVE, PRIORITY, RETRIEVAL, STATUS or CAPACITY record: its columns, one behind the other."""
    dtypes = _COLUMNS[type]
    arrays = [np.asarray(column, dtype).reshape(-1) for column, dtype in zip(columns, dtypes, strict=True)]
    assert len({len(array) for array in arrays}) == 1, "the columns of a record have one length"
    return b"".join(array.tobytes() for array in arrays)


def decode_changes(type: RecordType, payload: bytes | memoryview) -> tuple[NDArray[Any], ...]:  # noqa: A002
    """The columns of such a payload: sequences (u64) and, by type, priorities (f32), counts (u32 twice), states (u8).

    CAPACITY has one column of one number. Views of the payload. Raises BufferCorrupt.
    """
    dtypes = _COLUMNS[type]
    count, rest = divmod(len(payload), sum(dtype.itemsize for dtype in dtypes))
    if rest or (type is RecordType.CAPACITY and count != 1):
        raise BufferCorrupt(f"a {type.name} record cannot have {len(payload)} bytes")
    columns, offset = [], 0
    for dtype in dtypes:
        columns.append(np.frombuffer(payload, dtype, count, offset))
        offset += dtype.itemsize * count
    return tuple(columns)


def subject_hash(subject: str | None) -> int:
    """What an ADD's head says of the subject: never 0 for one, 0 without."""
    if subject is None:
        return 0
    return int.from_bytes(hashlib.blake2b(subject.encode(), digest_size=8).digest(), "little") or 1


def _check_embedding(embedding_D: NDArray[Any], dimension: int) -> None:
    if not isinstance(embedding_D, np.ndarray) or embedding_D.dtype not in (np.float32, np.float16):
        what = getattr(embedding_D, "dtype", type(embedding_D).__name__)
        raise ExperienceRefused(f"embedding: must be an array of float32, not {what}")
    if embedding_D.shape != (dimension,):
        raise ExperienceRefused(f"embedding: has shape {embedding_D.shape}, this buffer keeps ({dimension},)")
    single_D = embedding_D.astype(np.float32, copy=False)
    squared = float(single_D @ single_D)
    if not abs(squared - 1) <= UNIT_TOLERANCE:  # also true of a sum that is not finite
        raise ExperienceRefused(
            f"embedding: has length {math.sqrt(squared):.4g}, must be finite and of unit length: divide by its norm"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_BODY_FIELDS = {
    "question",
    "answer",
    "confidence",
    "reward",
    "reward_components",
    "policy_version",
    "subject",
    "retrieval_count",
    "success_count",
    "metadata",
}


def _encode_body(experience: Experience) -> bytes:
    fields: dict[str, Any] = {
        "question": experience.question,
        "answer": experience.answer,
        "confidence": experience.confidence,
    }
    if experience.trajectory is not None:
        trajectory = experience.trajectory
        actions = [_action_fields(action) for action in trajectory.actions]
        fields["trajectory"] = [trajectory.prompt_id, actions, trajectory.answer, trajectory.finish]
    if experience.features:
        fields["features"] = {
            name: (array.dtype.str, array.shape, array.tobytes()) for name, array in experience.features.items()
        }
    for name in ("reward", "policy_version", "subject", "retrieval_count", "success_count"):
        value = getattr(experience, name)
        if value:
            fields[name] = value
    if experience.reward is not None:
        fields["reward"] = experience.reward
    for name in ("reward_components", "metadata"):
        mapping = getattr(experience, name)
        if mapping:
            fields[name] = dict(mapping)
    try:
        body: bytes = msgpack.packb(fields)
    except (TypeError, ValueError, OverflowError) as error:  # also UnicodeEncodeError: a lone surrogate
        raise ExperienceRefused(f"{_culprit(fields)}: cannot be stored: {error}") from error
    if len(body) > BODY_BYTES_MAX:
        raise ExperienceRefused(f"{_largest(fields)}: {len(body):,} bytes in all, at most {BODY_BYTES_MAX:,} are kept")
    return body


def _action_fields(action: Action) -> dict[str, Any]:
    """The fields of an action that are not None; a loop over dataclasses.fields costs ten times as much."""
    fields: dict[str, Any] = {"kind": action.kind, "text": action.text}
    if action.operation is not None:
        fields["operation"] = action.operation
    if action.arguments is not None:
        fields["arguments"] = dict(action.arguments)
    if action.observation is not None:
        fields["observation"] = action.observation
    if action.view is not None:
        fields["view"] = action.view
    if action.region is not None:
        fields["region"] = action.region
    if action.error is not None:
        fields["error"] = action.error
    if action.elapsed_ms:
        fields["elapsed_ms"] = action.elapsed_ms
    return fields


def _trajectory(fields: Sequence[Any]) -> Trajectory:
    prompt_id, actions, answer, finish = fields
    return Trajectory(prompt_id, tuple(Action(**action) for action in actions), answer, finish)


def _culprit(fields: Mapping[str, Any]) -> str:
    for name, value in fields.items():
        try:
            msgpack.packb(value)
        except (TypeError, ValueError, OverflowError):
            return name
    raise AssertionError("one of the fields did not pack")


def _largest(fields: Mapping[str, Any]) -> str:
    return max(fields, key=lambda name: len(msgpack.packb(fields[name])))


def _read_alike(payloads: Sequence[bytes | memoryview]) -> Heads | None:
    """The heads of payloads that are sound and have embeddings of one form, which is nearly always; else None."""
    if len(payloads[0]) < _HEAD.size:
        return None
    _, _, _, kind, dimension, *_ = _HEAD.unpack_from(payloads[0])
    if kind not in _DTYPES:
        return None
    id_offset = _HEAD.size + dimension * _DTYPES[kind].itemsize
    beginnings = b"".join([payload[:id_offset] for payload in payloads])
    if len(beginnings) != id_offset * len(payloads):
        return None
    fields = np.frombuffer(beginnings, _head_dtype(kind, dimension))
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    is_sound = (fields["version"] == VERSION) & (fields["kind"] == kind) & (fields["dimension"] == dimension)
    is_sound &= fields["id_bytes"] + fields["body_bytes"].astype(np.int64) + id_offset == sizes
    if not is_sound.all():
        return None
    return Heads(
        [
            bytes(payload[id_offset : id_offset + id_bytes])
            for payload, id_bytes in zip(payloads, fields["id_bytes"].tolist(), strict=True)
        ],
        fields["subject_hash"],
        fields["created_at"],
        fields["priority"],
        fields["status"],
        fields["embedding"].astype(np.float32, copy=False),
    )


@lru_cache(maxsize=8)
def _head_dtype(kind: int, dimension: int) -> np.dtype[Any]:
    """`_HEAD` and the embedding behind it."""
    return np.dtype(
        [
            ("version", "u1"),
            ("status", "u1"),
            ("id_bytes", "u1"),
            ("kind", "u1"),
            ("dimension", "<u4"),
            ("subject_hash", "<u8"),
            ("created_at", "<f8"),
            ("priority", "<f4"),
            ("body_bytes", "<u4"),
            ("embedding", _DTYPES[kind], (dimension,)),
        ]
    )


def _read_head(payload: bytes | memoryview) -> tuple[Head, int]:
    """Head of an ADD payload, and where its body begins."""
    size = len(payload)
    if size < _HEAD.size:
        raise BufferCorrupt(f"an ADD record cannot have {size} bytes")
    version, status, id_bytes, kind, dimension, subject, created_at, priority, body_bytes = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise BufferProblem(
            f"a record of version {version}: this Pixelis reads version {VERSION}; use the one that wrote it"
        )
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise BufferCorrupt(f"an ADD record with embeddings of unknown type {kind}")
    id_offset = _HEAD.size + dimension * dtype.itemsize
    if id_offset + id_bytes + body_bytes != size:
        raise BufferCorrupt(f"an ADD record of {size} bytes says that it has {id_offset + id_bytes + body_bytes}")
    body_offset = id_offset + id_bytes
    embedding_D = np.frombuffer(payload, dtype, dimension, _HEAD.size)
    if kind != _SINGLE:
        embedding_D = embedding_D.astype(np.float32)
    return Head(bytes(payload[id_offset:body_offset]), subject, created_at, priority, status, embedding_D), body_offset


__all__ = [
    "BODY_BYTES_MAX",
    "ID_BYTES_MAX",
    "UNIT_TOLERANCE",
    "VERSION",
    "Head",
    "Heads",
    "check_experience",
    "decode_changes",
    "decode_experience",
    "encode_changes",
    "encode_experience",
    "read_head",
    "read_heads",
    "subject_hash",
]
