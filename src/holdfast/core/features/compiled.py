"""Alignment decided when a model is loaded: rows that need no repair go from JSON to numbers without looking at names.

A row type with one typed field a feature is made once (msgspec compiles it); what it cannot take, and every row with a
null, an unseen category or a value outside the training range, is left to `align_rows`, which repairs and reports. So
the two give the same matrix, row by row: tests hold them against each other.
"""

import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numba
import numpy as np
import numpy.typing as npt

from holdfast.core.features.alignment import FeatureSpec, Names

__all__ = ["CompiledRows", "compilable"]

_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_TYPES: Mapping[str, Any] = {"number": float | None, "truth": bool | float | None, "category": str | None}


def compilable(names: Iterable[str]) -> bool:
    """Whether rows with these names can be: msgspec takes no names that JSON writes with a backslash."""
    return not any(_ESCAPED.search(name) for name in names)


class CompiledRows:
    """Rows of one encoding whose names are `compilable`. Immutable; safe in any number of threads."""

    def __init__(self, names: Names, known: Collection[str]) -> None:
        """`known` are names that may be sent besides and are not looked at."""
        specs = names.specs
        self._width = len(specs)
        self._names = tuple(spec.name for spec in specs)
        self._pack = struct.Struct(f"={self._width}d").pack
        self._codes = [(place, names.codes[place]) for place, spec in enumerate(specs) if spec.is_category]
        self._low = np.array([_bound(spec, spec.minimum, -np.inf) for spec in specs])
        self._high = np.array([_bound(spec, spec.maximum, np.inf) for spec in specs])
        others = sorted(name for name in set(known) - set(self._names) if compilable([name]))
        fields: list[Any] = [(f"f{place}", _TYPES[spec.kind]) for place, spec in enumerate(specs)]
        fields += [(f"f{self._width + place}", Any, msgspec.UNSET) for place in range(len(others))]
        rename = {f"f{place}": name for place, name in enumerate((*self._names, *others))}
        self.row: Any = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)
        """The type that a row is decoded to; msgspec.ValidationError from decoding says that it needs `align_rows`."""

    def numbers(self, row: Any) -> bytes | None:
        """A row of type `row` as float64 in native order; None when it has a null or an unseen category."""
        values: Sequence[Any] = msgspec.structs.astuple(row)
        if len(values) > self._width:
            values = values[: self._width]
        if self._codes:
            values = list(values)
            for place, codes in self._codes:
                code = codes.get(values[place])
                if code is None:
                    return None
                values[place] = code
        try:
            return self._pack(*values)
        except struct.error:  # of a null
            return None

    def plain(self, row: Any) -> dict[str, Any]:
        """The row as name → value, for `align_rows`."""
        return dict(zip(self._names, msgspec.structs.astuple(row), strict=False))

    def matrix(self, rows: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """Rows of `numbers` as float64 [rows, features]."""
        return np.frombuffer(b"".join(rows)).reshape(len(rows), self._width)

    def outside(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which rows have a value outside the training range, bool [rows]."""
        found: npt.NDArray[np.bool_] = _outside(matrix, self._low, self._high)
        return found


def _bound(spec: FeatureSpec, bound: float | None, none: float) -> float:
    """A bound counts only where both are known."""
    return none if bound is None or spec.minimum is None or spec.maximum is None or spec.is_category else bound


@numba.njit(cache=True, nogil=True)
def _outside(matrix, low, high):  # type: ignore[no-untyped-def]
    rows, features = matrix.shape
    out = np.zeros(rows, np.bool_)
    for i in range(rows):
        for j in range(features):
            if not (low[j] <= matrix[i, j] <= high[j]):
                out[i] = True
                break
    return out
