"""The population stability index of one column between two sets of rows.

PSI = Σ (p_i − q_i) · ln(p_i / q_i) over bins i, with p_i the share of the rows looked at and q_i that of the reference
(Siddiqi, *Credit Risk Scorecards*, 2006; it is the symmetric Kullback-Leibler divergence of Jeffreys 1946). Numbers are
binned at the reference's quantiles (deciles; equal edges fall together), categories are their own bins, and null (with
NaN) is a bin. A share of 0 counts as half a row, so that the sum is finite. Between two samples of one distribution PSI
is about (B − 1)(1/n + 1/m) for B bins (Yurdakul and Naranjo, 2020): the `noise` that a shift must exceed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["BINS", "SHIFTED", "Shift", "column_shift", "psi"]

BINS = 10
"""Bins of numbers: deciles of the reference."""
SHIFTED = 0.2
"""From this PSI on a distribution counts as shifted (the usual rule of thumb), unless the noise is a third of it."""
_SAMPLE = 200_000
"""Edges of longer references are quantiles of evenly spaced rows of so many; the counts are always of all rows."""
_MOST = 1000
"""Categories beyond the reference's so many most frequent are one bin."""


@dataclass(frozen=True, slots=True)
class Shift:
    """PSI over `bins` bins, what chance alone would give (`noise`), and whether that is a shift."""

    psi: float
    noise: float
    bins: int
    shifted: bool


def psi(reference: npt.NDArray[np.int64], current: npt.NDArray[np.int64]) -> float:
    """The index of two arrays of counts over the same bins, int64 [B]; 0 when either is empty."""
    if not reference.sum() or not current.sum():
        return 0.0
    either = (reference > 0) | (current > 0)
    q, p = (np.maximum(counts[either], 0.5) / counts.sum() for counts in (reference, current))
    return float(np.sum((p - q) * np.log(p / q)))


def column_shift(reference: pa.ChunkedArray, current: pa.ChunkedArray, less: pa.ChunkedArray | None = None) -> Shift:
    """The shift of a column of bool, numbers or text from `reference` to `current`; all of one type.

    With `less`, what is looked at is the reference without `less` and with `current` (each of its rows, as counted).
    """
    numbers = pa.types.is_floating(reference.type) or pa.types.is_integer(reference.type)
    columns = [reference, current, reference.slice(0, 0) if less is None else less]
    counts = _numbers(columns) if numbers else _categories(columns)
    now = counts[1] if less is None else counts[0] - counts[2] + counts[1]
    bins = int(((counts[0] > 0) | (now > 0)).sum())
    rows = int(counts[0].sum()), int(now.sum())
    noise = (bins - 1) * (1 / rows[0] + 1 / rows[1]) if min(rows) and bins else 0.0
    value = psi(counts[0], now)
    return Shift(value, noise, bins, value > max(SHIFTED, 3 * noise))


def _numbers(columns: Sequence[pa.ChunkedArray]) -> list[npt.NDArray[np.int64]]:
    plain = [_plain(column) for column in columns]
    sample = plain[0][:: max(1, len(plain[0]) // _SAMPLE)]
    sample = sample[~np.isnan(sample)]
    edges = np.unique(np.quantile(sample, np.arange(1, BINS) / BINS, method="lower")) if len(sample) else np.zeros(0)
    return [_binned(values, edges) for values in plain]


def _plain(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy(), np.float64)


def _binned(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Counts of (−∞, e0], (e0, e1] ... (en, ∞) and NaN: a value at an edge, as of whole numbers, is below it."""
    missing = int(np.isnan(values).sum())
    # Few edges: comparing with each is several times as fast as a binary search for each value.
    above = np.array([np.count_nonzero(values > edge) for edge in edges], np.int64)
    total = np.r_[len(values) - missing, above, 0]
    counts: npt.NDArray[np.int64] = np.r_[total[:-1] - total[1:], missing]
    return counts


def _categories(columns: Sequence[pa.ChunkedArray]) -> list[npt.NDArray[np.int64]]:
    found = [
        dict(zip(*(part.to_pylist() for part in pc.value_counts(column.combine_chunks()).flatten()), strict=True))
        for column in columns
    ]
    names = sorted(found[0], key=lambda name: (-found[0][name], str(name)))[:_MOST]
    names += [name for name in found[1] if name not in found[0]][: max(0, _MOST - len(names))]
    shown = set(names)
    return [
        np.array(
            [*(counts.get(name, 0) for name in names), sum(c for n, c in counts.items() if n not in shown)], np.int64
        )
        for counts in found
    ]
