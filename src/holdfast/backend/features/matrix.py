"""A matrix: features and labels of the asked rows of one target."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.backend.records import MatrixRecord
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.frame import FeatureFrame

__all__ = ["Matrix"]


@dataclass(frozen=True)
class Matrix:
    """n asked rows in a fixed order (cutoff, then entity).

    `entities` (Arrow [n]) and `cutoffs` (int64 microseconds [n]) say what was asked. `labels`: per label float64 [n],
    NaN where there is none: 0/1 for multilabel and binary, the number for regression, the index into `classes` for
    multiclass. `label_known` (int64 [n]): when the label became known. `task` is multilabel, binary, multiclass or
    regression. `dropped` counts asked rows left out, by reason (such as no label at all).
    """

    record: MatrixRecord
    task: str
    feature_set: FeatureSet
    frame: FeatureFrame
    entities: pa.Array
    cutoffs: npt.NDArray[np.int64]
    labels: Mapping[str, npt.NDArray[np.float64]]
    label_known: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()
    dropped: Mapping[str, int] | None = None
