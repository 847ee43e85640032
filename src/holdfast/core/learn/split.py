"""Which rows train, which validate, which test.

Parts are int8: 0 train, 1 validate, 2 test, -1 unused.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from holdfast.core.timeline import NEVER
from holdfast.errors import InputError

__all__ = ["TEST", "TRAIN", "UNUSED", "VALIDATE", "Bounds", "drop_late_labels", "split", "time_bounds"]

TRAIN, VALIDATE, TEST, UNUSED = 0, 1, 2, -1
Bounds = tuple[int, int, int]
"""Ends of the three parts as instants; a part holds what is before its end and not before the end of the one before."""


def split(
    by: str,
    parts: Sequence[float],
    cutoffs: npt.NDArray[np.int64],
    *,
    seed: int,
    bounds: Bounds | None = None,
    strata: npt.NDArray[np.int64] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int8]:
    """The part of each row, int8 [n].

    `by` is time (by `bounds`, else by the shares `parts` of the time order), random, stratified (the shares hold
    within each value of `strata` [n]) or group (all rows of a value of `groups` [n] are in one part). Rows at or after
    the last bound are unused. InputError when no row is left to train on.
    """
    rows = len(cutoffs)
    rng = np.random.default_rng(seed)
    if by == "time":
        ends = bounds or (time_bounds(cutoffs, parts) if rows else (NEVER, NEVER, NEVER))
        if not ends[0] <= ends[1] <= ends[2]:
            raise InputError("the bounds of train, validate and test must follow each other in time")
        part = np.searchsorted(np.array(ends, np.int64), cutoffs, side="right").astype(np.int8)
        part[part == 3] = UNUSED
    elif by == "stratified":
        assert strata is not None
        part = _stratified(strata, parts, rng)
    elif by == "group":
        assert groups is not None
        part = _grouped(groups, parts, rng)
    else:
        part = _stratified(np.zeros(rows, np.int64), parts, rng)
    if not (part == TRAIN).any():
        raise InputError(
            f"the split by {by} leaves none of the {rows} rows to train on",
            where={"key": "split"},
            hint="Give `train` a larger share or a later end, or split by random.",
        )
    return part


def time_bounds(cutoffs: npt.NDArray[np.int64], parts: Sequence[float]) -> Bounds:
    """Ends that part n > 0 cutoffs by their order into about these shares; equal cutoffs are never parted."""
    values, counts = np.unique(cutoffs, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    ends = []
    for share in (parts[0], parts[0] + parts[1]):
        place = int(np.abs(before - share * len(cutoffs)).argmin())
        place = max(place, 1)  # something must train
        ends.append(int(values[place]) if place < len(values) else NEVER)
    return ends[0], ends[1], NEVER


def drop_late_labels(
    part: npt.NDArray[np.int8], label_known: npt.NDArray[np.int64], ends: Bounds
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """The parts without rows whose label was not known before the end of their part, and which those are.

    On the last day of training nobody could have used them; the same holds for choosing rounds and a threshold.
    """
    # An end of NEVER is no end; a label that is never known (NEVER) is late even there.
    late = (part != UNUSED) & (label_known >= np.array([*ends, NEVER], np.int64)[part])
    return np.where(late, np.int8(UNUSED), part), late


def _stratified(
    strata: npt.NDArray[np.int64], parts: Sequence[float], rng: np.random.Generator
) -> npt.NDArray[np.int8]:
    part = np.empty(len(strata), np.int8)
    shares = np.array(parts, np.float64)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        quota = shares * len(rows)
        counts = np.floor(quota + 1e-9).astype(np.int64)
        left = len(rows) - int(counts.sum())
        if left:  # drawn by the fractions, so that small strata are shared out fairly over all
            fractions = np.clip(quota - counts, 0, None)
            counts[rng.choice(3, left, replace=False, p=fractions / fractions.sum())] += 1
        part[rows] = np.repeat(np.array([TRAIN, VALIDATE, TEST], np.int8), counts)
    return part


def _grouped(groups: npt.NDArray[np.int64], parts: Sequence[float], rng: np.random.Generator) -> npt.NDArray[np.int8]:
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / max(1, len(groups))
    of_group = np.empty(len(sizes), np.int8)
    of_group[order] = np.searchsorted(np.cumsum(parts)[:2], middle, side="right")
    return of_group[codes]
