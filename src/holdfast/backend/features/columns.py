"""Computed features as Arrow columns with their own types, and as plain values."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from holdfast.backend.records import Value
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import DType

__all__ = ["arrow_columns", "plain_rows"]


def arrow_columns(frame: FeatureFrame) -> dict[str, pa.Array]:
    """Each feature as int64, float64, bool or string; what is not known is null.

    A whole number that int64 does not hold leaves its column as float64.
    """
    return {name: _column(values, frame.dtypes[name]) for name, values in frame.columns.items()}


def _column(values: "np.ndarray[tuple[int], np.dtype[np.float64]] | Categories", dtype: DType) -> pa.Array:
    if isinstance(values, Categories):
        codes = pa.array(values.codes.astype(np.int64), mask=values.codes < 0)
        return pa.array(list(values.values), pa.string()).take(codes)
    missing = np.isnan(values)
    whole = np.where(missing, 0.0, values)
    if dtype is DType.BOOL:
        return pa.array(whole != 0, pa.bool_(), mask=missing)
    # 2^63 itself is a float64 that int64 does not hold.
    if dtype is DType.INT and bool(((np.abs(whole) < 2.0**63) & (whole == np.trunc(whole))).all()):
        return pa.array(whole.astype(np.int64), pa.int64(), mask=missing)
    return pa.array(values, pa.float64(), mask=missing)


def plain_rows(table: pa.Table) -> Iterator[tuple[Value, ...]]:
    """The rows as tuples of Python values."""
    if not table.num_columns:
        return iter([()] * table.num_rows)
    return zip(*(column.to_pylist() for column in table.columns), strict=True)
