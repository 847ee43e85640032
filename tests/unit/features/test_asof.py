"""The kernels of the join of stored rows against numpy."""

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.features.asof import Arrays, ascending, fetch, last_at_most, match

COMPILING = settings(deadline=None)  # the first example of a process loads the compiler
EDGE = 2**63
# Near each other, even, and as far apart as 64 bits allow: what interpolation guesses well, badly and not at all.
NUMBERS = st.one_of(
    st.integers(-5, 5), st.integers(-EDGE, EDGE - 1), st.integers(0, 62).map(lambda bits: 1 << bits),
    st.integers(EDGE - 9, EDGE - 1), st.integers(-EDGE, -EDGE + 9),
    st.integers(-20, 20).map(lambda days: days * 86_400_000_000),
)  # fmt: skip


@COMPILING
@given(st.lists(NUMBERS, max_size=60), st.lists(NUMBERS, max_size=30))
@example([], [0])
@example([-EDGE, EDGE - 1], [-EDGE, -1, 0, EDGE - 2, EDGE - 1])
@example([3, 3, 3], [2, 3, 4])
@example([EDGE - 3, EDGE - 2], [EDGE - 4, EDGE - 1])  # different, and the same as floating-point numbers
@example([*range(40), EDGE - 1], [39, 40, EDGE - 2])
def test_last_at_most_is_a_binary_search(held, wanted):
    a, b = np.array(sorted(held), np.int64), np.array(wanted + held, np.int64)
    assert last_at_most(a, b).tolist() == (np.searchsorted(a, b, "right") - 1).tolist()


@COMPILING
@given(st.sets(NUMBERS, max_size=60), st.lists(NUMBERS, min_size=1, max_size=30), st.data())
def test_match_finds_what_is_there(held, keys, data):
    keys = [*keys, *sorted(held)[:9]]
    asked = data.draw(st.lists(st.integers(0, len(keys) - 1)))
    ordered = sorted(held)
    found = match(np.array(ordered, np.int64), np.array(keys, np.int64), np.array(asked, np.int64))
    assert found.tolist() == [ordered.index(keys[place]) if keys[place] in held else -1 for place in asked]


@COMPILING
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, EDGE - 1), st.integers(0, 5000))))
def test_ascending_sorts_stably(numbers):
    numbers = np.array(numbers, np.int64)
    assert ascending(numbers).tolist() == np.argsort(numbers, kind="stable").tolist()


VALUES = st.lists(st.one_of(st.none(), st.integers(-EDGE, EDGE - 1)), min_size=1, max_size=40)


@COMPILING
@given(st.lists(st.tuples(VALUES, st.integers(0, 20)), max_size=4), st.data())
def test_fetch_reads_slices_and_nulls(given_arrays, data):
    chunks = [pa.array([None] * cut + values, pa.int64()).slice(cut) for values, cut in given_arrays]
    rows = [data.draw(st.lists(st.integers(0, len(chunk) - 1), max_size=20)) for chunk in chunks]
    flat = [row for some in rows for row in some]
    places = data.draw(st.permutations(range(len(flat) + 2)))[: len(flat)]
    arrays = Arrays(
        np.array([chunk.buffers()[1].address + 8 * chunk.offset for chunk in chunks], np.int64),
        np.array([chunk.buffers()[0].address if chunk.buffers()[0] else 0 for chunk in chunks], np.int64),
        np.array([chunk.offset for chunk in chunks], np.int64),
    )
    out, known = np.zeros(len(flat) + 2, np.int64), np.full(len(flat) + 2, 7, np.uint8)
    ends = np.cumsum(np.array([len(some) for some in rows], np.int64))
    fetch(arrays, ends, np.array(flat, np.int64), np.array(places, np.int64), (out, known))
    wanted = [chunk[row].as_py() for chunk, some in zip(chunks, rows, strict=True) for row in some]
    for place, value in zip(places, wanted, strict=True):
        assert (known[place] != 0) == (value is not None)
        assert value is None or out[place] == value
    assert all(known[place] == 7 for place in set(range(len(known))) - set(places))
