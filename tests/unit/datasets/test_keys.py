"""Keys as numbers: equal exactly when the keys are, whatever the types; found exactly among sorted ones."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.versions.keys import KeyIndex, Keys, keys_of

TEXT = st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["", "a", "a\0", "aa", "é", "e\u0301", "x" * 300]))
NUMBER = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
REAL = st.one_of(st.none(), st.floats(allow_nan=False))
ROWS = st.lists(st.tuples(TEXT, NUMBER, REAL, st.one_of(st.none(), st.booleans())), min_size=1, max_size=40)


@settings(max_examples=200)
@given(ROWS, st.sampled_from([("t",), ("n",), ("t", "n"), ("n", "r", "b"), ("t", "n", "r", "b")]))
def test_equal_exactly_when_the_keys_are(rows: list[tuple[object, ...]], key: tuple[str, ...]) -> None:
    columns = list(zip(*rows, strict=True))
    kinds = [pa.string(), pa.int64(), pa.float64(), pa.bool_()]
    table = pa.table([pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)], names=["t", "n", "r", "b"])
    found = keys_of(table, key)
    plain = [tuple(repr(row["tnrb".index(name)]) for name in key) for row in rows]
    numbers = list(zip(*(word.tolist() for word in found.words), strict=True))
    assert len(set(numbers)) == len(set(plain)) == len(set(zip(numbers, plain, strict=True)))


def test_no_number_depends_on_the_other_rows() -> None:
    """An index of yesterday is asked for keys of today: chunks, offsets and longer neighbours change nothing."""
    texts = [f"键{n}" for n in range(5)]
    alone = keys_of(pa.table({"t": texts, "n": range(5)}), ["t", "n"])
    whole = pa.table({"t": ["y" * 999, *texts], "n": [7, *range(5)]}).slice(1)
    chunks = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    for other in (whole, chunks):
        assert all((a == b).all() for a, b in zip(alone.words, keys_of(other, ["t", "n"]).words, strict=True))


def test_order_of_one_word_is_the_order_of_the_keys() -> None:
    numbers = np.array([5, -1, 2**62, -(2**62), 0])
    words = keys_of(pa.table({"n": numbers}), ["n"]).words
    assert np.argsort(words[0]).tolist() == np.argsort(numbers).tolist()


@pytest.mark.parametrize("clash", [False, True])
def test_holds_also_where_first_words_clash(clash: bool) -> None:
    first = np.array([1, 1, 1, 4] if clash else [1, 2, 3, 4], np.uint64)
    kept = Keys((first, np.array([1, 2, 9, 4], np.uint64)))
    asked = Keys((np.array([1, 1, 1, 4, 4, 7], np.uint64), np.array([2, 9, 3, 4, 5, 1], np.uint64)))
    assert kept.holds(asked).tolist() == (
        [True, True, False, True, False, False] if clash else [False, False, False, True, False, False]
    )


def test_the_last_state_of_a_key_says_whether_it_is_there() -> None:
    keys = keys_of(pa.table({"n": [3, 1, 3, 2, 1]}), ["n"])
    index = KeyIndex.of(keys, np.array([False, False, True, False, False]))
    asked = keys_of(pa.table({"n": [1, 2, 3, 4]}), ["n"])
    assert index.alive.holds(asked).tolist() == [True, True, False, False]
    assert index.gone.holds(asked).tolist() == [False, False, True, False]


@pytest.mark.parametrize("gap", [1, 2, 1000])
@pytest.mark.parametrize("asked_of", [10, 3000, 60_000])
@pytest.mark.parametrize("again", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_numbers_are_found_whatever_their_gaps_order_and_number(
    gap: int, asked_of: int, again: int, shuffled: bool
) -> None:
    """Numbers without gaps, as many as are there, many more or few, each once or twice, sorted or not."""
    random = np.random.default_rng(gap + asked_of)
    there = np.unique(random.integers(0, 20_000 * gap, 20_000)) if gap > 1 else np.arange(5000, 25_000)
    index = KeyIndex.of(keys_of(pa.table({"n": random.permutation(there)}), ["n"]), np.zeros(len(there), bool))
    some = random.choice(there, min(asked_of // 2, len(there)), replace=False)
    others = random.integers(0, 30_000 * gap, asked_of // 2)
    asked = np.repeat(np.unique(np.r_[-1, some, others, 30_000 * gap]), again)
    asked = random.permutation(asked) if shuffled else asked
    found = index.holds(keys_of(pa.table({"n": asked}), ["n"]))
    assert 0 < found.sum() < len(asked)
    assert found.tolist() == np.isin(asked, there).tolist()


@pytest.mark.parametrize("key", [["n"], ["n", "t"]])
def test_keys_that_repeat_are_told(key: list[str]) -> None:
    assert keys_of(pa.table({"n": [3, 1, 3], "t": ["a", "a", "a"]}), key).repeats()
    assert not keys_of(pa.table({"n": [3, 1, 2], "t": ["a", "a", "a"]}), key).repeats()
