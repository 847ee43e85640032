"""Row identity, numbering, supersession, against plain Python."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.prepare import current_states, row_ids, superseded_at
from holdfast.core.prepare.states import number_equal

CELLS = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(["", "甲", "b"])), st.one_of(st.none(), st.floats(), st.just(-0.0)))
)


def table(rows):
    texts, numbers = [row[0] for row in rows], [row[1] for row in rows]
    return pa.table({"t": pa.array(texts, pa.string()), "n": pa.array(numbers, pa.float64())})


def plain(row):
    return row[0], None if row[1] is None else np.float64(row[1]).tobytes() if row[1] == row[1] else "nan"


@given(CELLS, CELLS)
def test_equal_ids_mean_equal_rows(one, other):
    ids = np.concatenate(row_ids([table(one), table(other)], ["t", "n"])).tolist()
    rows = [plain(row) for row in (*one, *other)]
    seen = {}
    assert ids == [seen.setdefault(row, len(seen)) for row in rows]


@given(st.lists(st.integers(0, 4)))
def test_numbers_last_and_supersession(ids):
    array = np.array(ids, np.int64)
    known = np.arange(100, 100 + len(ids))
    assert number_equal(array).tolist() == [ids[:n].count(i) for n, i in enumerate(ids)]
    assert current_states(array).tolist() == [i not in ids[n + 1 :] for n, i in enumerate(ids)]
    following = [next((100 + m for m in range(n + 1, len(ids)) if ids[m] == i), -1) for n, i in enumerate(ids)]
    assert superseded_at(array, known, -1).tolist() == following
