"""Computed feature values: columns of numbers and of categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from holdfast.core.schema import DType

__all__ = ["Categories", "FeatureFrame"]


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of categories: `codes` (int32 [n], -1 = null) into `values` (distinct, by Unicode code point)."""

    codes: npt.NDArray[np.int32]
    values: Sequence[str]

    def decode(self) -> npt.NDArray[np.object_]:
        """The strings, None for null."""
        return np.array([*self.values, None], dtype=object)[self.codes]


@dataclass(frozen=True)
class FeatureFrame:
    """Values of features for n asked rows, in the order of the definitions.

    A column is float64 [n] (null = NaN; truth values are 0/1) or Categories. `dtypes` tells BOOL, INT and FLOAT apart.
    """

    rows: int
    columns: Mapping[str, npt.NDArray[np.float64] | Categories]
    dtypes: Mapping[str, DType]
    units: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows
