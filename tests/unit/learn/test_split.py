import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.learn.split import TEST, TRAIN, UNUSED, VALIDATE, drop_late_labels, split, time_bounds
from holdfast.core.timeline import NEVER
from holdfast.errors import InputError

SHARES = (0.7, 0.15, 0.15)


def test_time_bounds_are_exclusive_ends() -> None:
    cutoffs = np.array([9, 10, 19, 20, 29, 30], np.int64)
    part = split("time", SHARES, cutoffs, bounds=(10, 20, 30), seed=1)
    assert part.tolist() == [TRAIN, VALIDATE, VALIDATE, TEST, TEST, UNUSED]
    assert part.dtype == np.int8


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="follow each other"):
        split("time", SHARES, np.arange(5), bounds=(20, 10, 30), seed=1)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_time_shares_never_part_equal_cutoffs_and_keep_order(times: list[int]) -> None:
    cutoffs = np.array(times, np.int64)
    part = split("time", SHARES, cutoffs, seed=0)
    assert set(part.tolist()) <= {TRAIN, VALIDATE, TEST}
    for cutoff in set(times):
        assert len(set(part[cutoffs == cutoff].tolist())) == 1
    assert (np.diff(part[np.argsort(cutoffs, kind="stable")]) >= 0).all()
    assert (part == TRAIN).any()


def test_time_shares_are_about_right_without_ties() -> None:
    part = split("time", SHARES, np.arange(1000, dtype=np.int64), seed=0)
    assert np.bincount(part).tolist() == [700, 150, 150]


@given(st.integers(20, 300), st.integers(0, 5))
def test_random_has_the_shares_and_depends_on_the_seed_only(rows: int, seed: int) -> None:
    part = split("random", SHARES, np.zeros(rows, np.int64), seed=seed)
    assert np.abs(np.bincount(part, minlength=3) - rows * np.array(SHARES)).max() <= 1
    assert np.array_equal(part, split("random", SHARES, np.zeros(rows, np.int64), seed=seed))


def test_stratified_keeps_rare_combinations_in_every_part() -> None:
    strata = np.repeat([0, 1, 2], [900, 80, 20]).astype(np.int64)
    part = split("stratified", SHARES, np.zeros(1000, np.int64), strata=strata, seed=3)
    for stratum, size in ((0, 900), (1, 80), (2, 20)):
        counts = np.bincount(part[strata == stratum], minlength=3)
        assert np.abs(counts - size * np.array(SHARES)).max() <= 1


@given(st.lists(st.integers(0, 12), min_size=3, max_size=200))
def test_a_group_is_never_in_two_parts(members: list[int]) -> None:
    groups = np.array(members, np.int64)
    try:
        part = split("group", SHARES, np.zeros(len(groups), np.int64), groups=groups, seed=5)
    except InputError:
        assert len(set(members)) <= 3  # so few groups that none fell to training
        return
    for group in set(members):
        assert len(set(part[groups == group].tolist())) == 1


def test_nothing_to_train_on_is_an_error_with_a_way_out() -> None:
    with pytest.raises(InputError) as caught:
        split("time", SHARES, np.array([50, 60], np.int64), bounds=(10, 20, 100), seed=0)
    assert "none of the 2 rows" in caught.value.message
    assert caught.value.hint


def test_labels_known_after_the_end_of_their_part_are_dropped_and_counted() -> None:
    cutoffs = np.array([5, 9, 15, 19, 25], np.int64)
    known = np.array([5, 10, 16, 25, NEVER], np.int64)
    part = split("time", SHARES, cutoffs, bounds=(10, 20, 30), seed=0)
    kept, late = drop_late_labels(part, known, (10, 20, 30))
    assert kept.tolist() == [TRAIN, UNUSED, VALIDATE, UNUSED, UNUSED]
    assert late.tolist() == [False, True, False, True, True]


def test_time_bounds_of_one_instant_leave_everything_to_training() -> None:
    assert time_bounds(np.array([7, 7, 7], np.int64), SHARES) == (NEVER, NEVER, NEVER)
