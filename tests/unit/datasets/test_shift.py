"""The population stability index: by hand, by identity, and against chance."""

import math

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.drift.shift import column_shift, psi


def column(values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def test_by_hand() -> None:
    expected = (0.5 - 0.25) * math.log(0.5 / 0.25) + (0.5 - 0.75) * math.log(0.5 / 0.75)
    assert psi(np.array([25, 75]), np.array([10, 10])) == pytest.approx(expected, abs=1e-15)
    assert psi(np.array([3, 5]), np.array([6, 10])) == 0.0
    empty = (0.5 / 10 - 0.5) * math.log(0.5 / 10 / 0.5) + (1 - 0.5) * math.log(1 / 0.5)
    assert psi(np.array([5, 5]), np.array([0, 10])) == pytest.approx(empty, abs=1e-15)
    assert psi(np.array([0, 0]), np.array([1, 2])) == 0.0


def test_numbers_are_binned_at_the_references_deciles() -> None:
    reference = column(np.arange(1000.0))
    assert column_shift(reference, reference).psi == 0.0
    upper = column_shift(reference, column(np.arange(500.0, 1000.0)))
    half = 5 * (0.2 - 0.1) * math.log(0.2 / 0.1) + 5 * (0.001 - 0.1) * math.log(0.001 / 0.1)
    assert upper.bins == 10
    assert upper.psi == pytest.approx(half, rel=1e-9)
    assert upper.shifted


def test_nulls_and_nan_are_a_bin_and_constants_one() -> None:
    some = column([1.0, None, float("nan"), 1.0])
    found = column_shift(some, column([1.0, 1.0, 1.0, None]))
    assert found.bins == 2
    assert found.psi == pytest.approx((0.75 - 0.5) * math.log(1.5) + (0.25 - 0.5) * math.log(0.5))
    assert column_shift(column([None, None]).cast(pa.float64()), column([1.0])).bins == 2


@pytest.mark.parametrize("kind", ["number", "category", "whole", "truth"])
def test_what_goes_and_comes_is_what_is_there(kind: str) -> None:
    random = np.random.default_rng(3)
    made = {
        "number": lambda n: random.normal(size=n), "whole": lambda n: random.integers(0, 7, n),
        "category": lambda n: random.choice(["甲", "乙", "丙"], n), "truth": lambda n: random.random(n) < 0.3,
    }[kind]  # fmt: skip
    before, fresh = column(made(5000)), column(made(700))
    now = pa.chunked_array([*before.slice(300).chunks, *fresh.chunks])
    assert column_shift(before, fresh, before.slice(0, 300)) == column_shift(before, now)


def test_samples_of_one_distribution_are_not_shifted() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        found = column_shift(column(random.normal(size=300)), column(random.normal(size=60)))
        assert not found.shifted
        assert found.noise == pytest.approx(9 * (1 / 300 + 1 / 60))
    assert column_shift(column(random.normal(size=3000)), column(random.normal(1, 1, 600))).shifted


def test_rare_categories_are_one_bin() -> None:
    many = column([f"n{n}" for n in range(5000)])
    found = column_shift(many, column([f"n{n}" for n in range(5000, 9000)]))
    assert found.bins <= 1001
