"""Strings as numbers: the same words as before, whatever their length, their place, or their nulls."""

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features.columns import categories_of
from holdfast.core.features.words import number_words

LONG = "a" * 8 + "{}" + "z" * 8
"""Words that differ only between their first eight bytes and their last eight."""


def spelled(*chunks: pa.Array) -> list[str | None]:
    """The rows as their codes spell them."""
    numbered = number_words(pa.chunked_array(chunks, pa.string()))
    assert numbered is not None
    codes, words = numbered
    assert words.null_count == 0
    assert len(set(words.to_pylist())) == len(words), "each word once"
    return [words[int(code)].as_py() if code >= 0 else None for code in codes]


@pytest.mark.parametrize(
    "words",
    [
        ["web", "app", "电话", ""],
        ["12345678", "123456789", "1234567", "123456780", "023456789"],
        ["a", "a\0", "a\0\0", "\0"],
        [LONG.format("x"), LONG.format("y"), LONG.format("xy"), LONG.format("")],
        ["été" * n for n in range(30)],
        [f"{n}" for n in range(8192)],
    ],
)
def test_rows_spell_what_they_did(words: list[str]) -> None:
    rng = np.random.default_rng(5)
    rows = [None if rng.random() < 0.1 else words[k] for k in rng.integers(0, len(words), 20_000)]
    data = pa.array(rows, pa.string())
    assert spelled(data) == rows
    assert spelled(data.slice(777, 9_001)) == rows[777:9778], "a part of a column"
    assert spelled(data[:3], data[3:3], data[3:5000], data[5000:]) == rows, "a column in chunks"


def test_nothing_and_only_nulls() -> None:
    assert spelled() == spelled(pa.array([], pa.string())) == []
    assert spelled(pa.nulls(3, pa.string())) == [None, None, None]


def test_words_longer_than_a_block() -> None:
    rows = ["x" * 300_000, "y", "x" * 299_999 + "z", "x" * 300_000]
    assert spelled(pa.array(rows)) == rows


def test_buffers_that_end_with_the_last_word_and_begin_anywhere() -> None:
    text = np.frombuffer(b"?abcabdabc", np.uint8)
    offsets = pa.py_buffer(np.array([0, 3, 6, 9], np.int32))
    data = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(text[1:])])
    assert spelled(data) == ["abc", "abd", "abc"]


def test_too_many_words_are_left_to_arrow() -> None:
    rows = [f"客户 {n:05}" for n in range(8193)]
    assert number_words(pa.chunked_array([rows])) is None
    found = categories_of(pa.chunked_array([rows[4000:], rows[:4000], [None, rows[0]]]))
    assert list(found.values) == sorted(rows)
    assert found.decode().tolist() == [*rows[4000:], *rows[:4000], None, rows[0]]


def test_other_types_are_left_to_arrow() -> None:
    assert number_words(pa.chunked_array([pa.array(["a"], pa.large_string())])) is None
    found = categories_of(pa.chunked_array([pa.array(["b", None, "a"], pa.large_string())]))
    assert (list(found.values), found.codes.tolist()) == (["a", "b"], [1, -1, 0])


def test_categories_ascend_by_code_point() -> None:
    found = categories_of(pa.chunked_array([["z", "é", None], ["上", "a", "z"]]))
    assert list(found.values) == ["a", "z", "é", "上"]
    assert found.codes.tolist() == [1, 2, -1, 3, 0, 1]
