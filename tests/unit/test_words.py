"""What text spells which number or truth value."""

import math

import pytest

from holdfast.core.words import number_of, truth_of, whole_of


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), (" -2.5 ", -2.5), ("+3.", 3.0), (".5", 0.5), ("1e3", 1000.0), ("1E-2", 0.01), ("1e999", math.inf)],
)
def test_numbers(text: str, value: float) -> None:
    assert number_of(text) == value


@pytest.mark.parametrize(
    "text", ["", "1_0", "nan", "NaN", "inf", "-Infinity", "１", "0x1", "1,5", "1 2", ".", "e5", "真"]
)
def test_what_is_no_number(text: str) -> None:
    assert number_of(text) is None
    assert whole_of(text) is None


def test_whole_numbers() -> None:
    assert whole_of(" -12 ") == -12
    assert whole_of("007") == 7
    assert whole_of("9" * 30) == 10**30 - 1
    assert whole_of("9" * 5000) is None
    assert whole_of("1.0") is None
    assert whole_of("1e3") is None


def test_truth() -> None:
    assert [truth_of(text) for text in ("True", " yes", "1", "是", "T")] == [True] * 5
    assert [truth_of(text) for text in ("FALSE", "no", "0", "否", "n")] == [False] * 5
    assert truth_of("2") is None
    assert truth_of("") is None
