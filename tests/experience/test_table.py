"""The table against an ordered dictionary."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.experience.table import Table

Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("capacity"), st.integers(0, 8)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("snapshot"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=60,
)


def add(table: Table, sequence: int, key: bytes) -> list[int]:
    return table.add(sequence, sequence * 8, key, 7, 1.5, 0.5, 0).tolist()


def keys_of(table: Table) -> list[bytes]:
    columns = table.columns
    return [bytes(columns.id[row - columns.row_base]) for row in table.living()]


@given(STEPS)
def test_the_table_is_a_bounded_dictionary_in_order_of_addition(steps: list[Step]) -> None:
    table = Table()
    model: OrderedDict[bytes, int] = OrderedDict()  # id: sequence
    capacity = 0
    for sequence, (what, number) in enumerate(steps, 1):
        key = b"id-%d" % number
        if what == "add" and key not in model:
            add(table, sequence, key)
            model[key] = sequence
        elif what == "remove" and key in model:
            row = table.find(key)
            assert table.remove(np.array([row])).tolist() == [row]
            del model[key]
        elif what == "capacity":
            capacity = number
            table.set_capacity(sequence, number)
        elif what == "rotate":
            table.rotate()
        elif what in ("snapshot", "reopen"):
            if what == "snapshot":
                table.rotate()
            snapshot = Table.from_content(memoryview(b"".join(table.content())))
            if what == "snapshot":
                table.adopt(snapshot)
            else:
                table = snapshot
        while 0 < capacity < len(model):
            model.popitem(last=False)
        assert keys_of(table) == list(model)
        assert table.num_alive == len(model)
        assert table.oldest_sequence(-1) == next(iter(model.values()), -1)
        for known in range(31):
            row = table.find(b"id-%d" % known)
            assert (row >= 0) == (b"id-%d" % known in model)
            if row >= 0:
                assert int(table.columns.sequence[row - table.row_base]) == model[b"id-%d" % known]


@given(st.integers(0, 5), st.lists(st.integers(1, 7), max_size=12))
def test_many_rows_at_once_are_the_same_as_one_after_the_other(capacity: int, sizes: list[int]) -> None:
    one, many = Table(), Table()
    one.set_capacity(1, capacity)
    many.set_capacity(1, capacity)
    sequence = 1
    for size in sizes:
        sequences = list(range(sequence + 1, sequence + 1 + size))
        keys = [b"%d" % each for each in sequences]
        evicted = many.extend(
            sequences, [8 * each for each in sequences], keys, [7] * size, [1.5] * size, [0.5] * size, [0] * size
        )
        one_by_one = [row for each, key in zip(sequences, keys, strict=True) for row in add(one, each, key)]
        assert evicted.tolist() == one_by_one
        sequence += size
    assert b"".join(one.content()) == b"".join(many.content())


def test_the_dead_at_the_beginning_are_forgotten_when_room_is_needed() -> None:
    table = Table()
    table.set_capacity(1, 10)
    for sequence in range(2, 10_000):
        add(table, sequence, b"%d" % sequence)
    assert len(table.columns.alive) == 1024
    assert table.row_base > 8000
    assert keys_of(table) == [b"%d" % sequence for sequence in range(9990, 10_000)]
    rows, is_known = table.rows_of(np.array([5, 9989, 9990, 9999, 10_000], np.uint64))
    assert is_known.tolist() == [False, False, True, True, False]
    assert table.columns.sequence[rows[is_known] - table.row_base].tolist() == [9990, 9999]


def test_a_snapshot_keeps_nothing_of_the_dead_but_their_number() -> None:
    table = Table()
    for sequence, key in enumerate([b"alpha", b"beta", b"gamma"], 1):
        add(table, sequence, key)
    table.remove(np.array([1]))
    content = b"".join(table.content())
    assert b"alpha" in content
    assert b"beta" not in content
    again = Table.from_content(memoryview(content))
    assert (again.stop, again.num_alive, again.find(b"gamma"), again.find(b"beta")) == (3, 2, 2, -1)
    columns = again.columns
    assert [columns.subject[1], columns.location[1], columns.created[1]] == [0, 0, 0]


def test_the_capacity_that_held_before_a_record() -> None:
    table = Table()
    table.set_capacity(3, 10)
    table.set_capacity(9, 20)
    assert [table.capacity_at(sequence) for sequence in (1, 3, 4, 9, 10)] == [0, 0, 10, 10, 20]
