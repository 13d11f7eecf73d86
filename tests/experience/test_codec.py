"""Experiences survive being encoded; what cannot be stored is refused by name; the bytes stay readable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.contracts.experience import Experience, RecordType, Status
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.errors import BufferCorrupt, BufferProblem, ExperienceRefused
from share.kernel.experience.codec import (
    check_experience,
    decode_changes,
    decode_experience,
    encode_changes,
    encode_experience,
    read_head,
    read_heads,
    subject_hash,
)

GOLDEN = Path(__file__).parent.parent / "golden"


def full() -> Experience:
    """One with every field in use. The golden file holds it: change this only together with the version."""
    return Experience(
        id="ärger-1",
        question="How many red discs?",
        answer="3",
        embedding=np.array([0.5, -0.5, 0.5, 0.5], np.float32),
        confidence=0.75,
        created_at=1_700_000_000.125,
        trajectory=Trajectory(
            "prompt-7",
            (
                Action("operation", "<call>", "ZOOM_IN", {"bbox": [1, 2, 3, 4]}, "image_2", "image_2", "r1", None, 1.5),
                Action("operation", "<call>", "READ_TEXT", {}, error="no such view"),
                Action("answer", "<answer>3</answer>"),
            ),
            "3",
            "answer",
        ),
        features={
            "visual": np.arange(6, dtype=np.float16).reshape(2, 3),
            "mask": np.array([True, False]),
            "none": np.empty((0, 4), np.int64),
        },
        reward=0.0,
        reward_components={"task": 1.0, "coherence": None},
        policy_version="step-40",
        subject="person-9",
        priority=0.5,
        retrieval_count=7,
        success_count=3,
        status=Status.APPROVED,
        metadata={"camera": "north", "tags": ["a", None, 1.5, {"deep": True}]},
    )


def payload(experience: Experience, priority: float = 0.5) -> bytes:
    return b"".join(encode_experience(experience, priority))


def same(one: Experience, other: Experience) -> bool:
    plain = [name for name in Experience.__dataclass_fields__ if name not in ("embedding", "features")]
    arrays, others = ({"": each.embedding, **each.features} for each in (one, other))
    return (
        all(getattr(one, name) == getattr(other, name) for name in plain)
        and arrays.keys() == others.keys()
        and all(arrays[name].dtype == others[name].dtype for name in arrays)
        and all(np.array_equal(arrays[name], others[name]) for name in arrays)
    )


def test_an_experience_comes_back_as_it_was() -> None:
    assert same(decode_experience(payload(full())), full())


def test_one_with_only_what_is_needed_comes_back_as_it_was() -> None:
    bare = Experience("a", "q", "", np.array([1, 0], np.float32), 0.0, 0.0, priority=0.0)
    assert same(decode_experience(payload(bare, 0.0)), bare)


def test_the_golden_file_of_version_1_is_read_and_written() -> None:
    golden = (GOLDEN / "experience-1.bin").read_bytes()
    assert same(decode_experience(golden), full())
    assert payload(full()) == golden


def test_the_head_is_read_without_the_body_and_without_copying_the_embedding() -> None:
    whole = payload(full(), 0.25)
    head = read_head(whole[:-5] + b"\xc1" * 5)  # no MessagePack
    assert (head.id, head.priority, head.status) == ("ärger-1".encode(), 0.25, Status.APPROVED)
    assert (head.subject_hash, head.created_at) == (subject_hash("person-9"), 1_700_000_000.125)
    assert head.embedding.tolist() == [0.5, -0.5, 0.5, 0.5]
    assert head.embedding.base is not None
    with pytest.raises(BufferCorrupt, match="rger-1"):
        decode_experience(whole[:-5] + b"\xc1" * 5)


def test_a_float16_embedding_is_kept_as_such_and_read_as_float32() -> None:
    half = replace(full(), embedding=full().embedding.astype(np.float16))
    check_experience(half, 4)
    assert len(payload(full())) - len(payload(half)) == 4 * 2
    assert same(decode_experience(payload(half)), full())


def test_a_payload_cut_anywhere_is_corrupt() -> None:
    whole = payload(full())
    for cut in range(len(whole)):
        with pytest.raises(BufferCorrupt):
            read_head(whole[:cut])


def test_the_heads_of_many_are_those_of_each() -> None:
    half = full().embedding.astype(np.float16)
    alike = [payload(replace(full(), id="x" * number, subject=None), number / 8) for number in range(1, 9)]
    for payloads in (
        alike,
        [*alike, payload(replace(full(), embedding=half))],
        [payload(replace(full(), embedding=half))],
    ):
        heads, each = read_heads([memoryview(one) for one in payloads]), [read_head(one) for one in payloads]
        assert heads.ids == [head.id for head in each]
        for column, name in ((heads.subject_hash, "subject_hash"), (heads.created_at, "created_at")):
            assert column.tolist() == [getattr(head, name) for head in each]
        assert heads.priority.tolist() == [head.priority for head in each]
        assert heads.status.tolist() == [head.status for head in each]
        assert heads.embeddings.dtype == np.float32
        assert np.array_equal(heads.embeddings, [head.embedding for head in each])


@pytest.mark.parametrize("place", range(32))
def test_a_head_is_refused_among_many_exactly_when_it_is_alone(place: int) -> None:
    damaged = bytearray(payload(full()))
    damaged[place] ^= 0x41
    outcomes = []
    for payloads in ([damaged], [payload(full()), damaged], [damaged, payload(full())]):
        try:
            outcomes.append(read_heads([bytes(one) for one in payloads]).priority.tolist() != [])
        except BufferProblem as problem:
            outcomes.append((type(problem), str(problem)))
    assert len(set(outcomes)) == 1


def test_a_payload_cut_anywhere_is_corrupt_among_many() -> None:
    whole = payload(full())
    for cut in range(len(whole)):
        with pytest.raises(BufferCorrupt):
            read_heads([whole, whole[:cut]])


def test_a_later_version_is_named() -> None:
    with pytest.raises(BufferProblem, match="version 2"):
        read_head(b"\2" + payload(full())[1:])


def test_a_field_that_a_later_version_adds_is_passed_over() -> None:
    bare = Experience("a", "q", "x", np.array([1, 0], np.float32), 0.5, 0.0, priority=0.0)
    head, embedding, id_bytes, _ = encode_experience(bare, 0.0)
    body = msgpack.packb({"question": "q", "answer": "x", "confidence": 0.5, "mood": "good"})
    head = bytes(head)[:28] + len(body).to_bytes(4, "little")
    assert same(decode_experience(b"".join([head, embedding, id_bytes, body])), bare)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ""),
        ("id", "x" * 41),
        ("id", "ä" * 21),
        ("id", "a\0"),
        ("id", 7),
        ("question", None),
        ("answer", 3),
        ("embedding", np.ones(4, np.float32)),
        ("embedding", np.array([np.nan, 0, 0, 0], np.float32)),
        ("embedding", np.array([0.6, 0.8], np.float32)),
        ("embedding", np.array([1.0, 0, 0, 0])),
        ("embedding", [1.0, 0, 0, 0]),
        ("confidence", 1.5),
        ("confidence", float("nan")),
        ("confidence", "high"),
        ("created_at", float("inf")),
        ("reward", float("nan")),
        ("reward_components", {"task": float("inf")}),
        ("priority", -1.0),
        ("priority", float("nan")),
        ("success_count", 8),
        ("subject", ""),
        ("features", {"names": np.array(["a"])}),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(name: str, value: object) -> None:
    check_experience(full(), 4)
    with pytest.raises(ExperienceRefused, match=name):
        check_experience(replace(full(), **{name: value}), 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", {"a": object()}),
        ("metadata", {"a": 2**70}),
        ("question", "\ud800"),
        ("trajectory", Trajectory("p", (Action("operation", "", "X", {"a": {1, 2}}),), None, "invalid")),
        ("answer", "x" * (17 << 20)),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ExperienceRefused, match=name):
        encode_experience(replace(full(), **{name: value}), 0.0)


metadata = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    text=st.text(),
    id=st.text("aß漢-", min_size=1, max_size=13),
    data=st.dictionaries(st.text(), metadata, max_size=4),
    dtype=st.sampled_from(["<f2", ">f4", "<f8", "|u1", "<i8", "<c8"]),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
def test_texts_metadata_and_arrays_of_all_kinds_come_back(text, id, data, dtype, shape) -> None:  # type: ignore[no-untyped-def]  # noqa: A002
    experience = replace(
        full(), id=id, question=text, answer=text, metadata=data, features={text: np.ones(shape, dtype)}
    )
    check_experience(experience, 4)
    assert same(decode_experience(payload(experience)), experience)


def test_changes_come_back_as_columns() -> None:
    sequences = [1, 2**63]
    cases: list[tuple[RecordType, list[list[float]], int]] = [
        (RecordType.REMOVE, [sequences], 16),
        (RecordType.PRIORITY, [sequences, [0.5, 2.0]], 24),
        (RecordType.RETRIEVAL, [sequences, [1, 2], [0, 2]], 32),
        (RecordType.STATUS, [sequences, [0, 3]], 18),
        (RecordType.CAPACITY, [[100]], 8),
    ]
    for type_, columns, size in cases:
        encoded = encode_changes(type_, *columns)
        assert len(encoded) == size
        assert [column.tolist() for column in decode_changes(type_, encoded)] == columns
        with pytest.raises(BufferCorrupt, match=type_.name):
            decode_changes(type_, encoded + b"\0")


def test_the_golden_bytes_of_changes() -> None:
    golden = (GOLDEN / "changes-1.bin").read_bytes()
    assert golden == encode_changes(RecordType.RETRIEVAL, [5, 2**40], [3, 2**32 - 1], [1, 0])


def test_subjects_have_hashes_of_their_own_and_none_has_zero() -> None:
    assert subject_hash(None) == 0
    assert len({subject_hash(str(number)) for number in range(1000)} | {0}) == 1001
