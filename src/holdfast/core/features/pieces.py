"""Frames put together from pieces: of partitions, of an older matrix, of what was computed anew."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from holdfast.core.features.definitions import Feature, FeatureSet
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.plan import is_code

__all__ = ["Column", "assemble", "compact"]

Ints = npt.NDArray[np.int64]
Column = npt.NDArray[np.float64] | Categories


def assemble(
    feature_set: FeatureSet, rows: int, pieces: Sequence[tuple[Ints, Sequence[int], Sequence[Column]]]
) -> FeatureFrame:
    """A frame of n rows from pieces that cover every row and feature: (positions int64 [m], features, columns [m]).

    `features` are places in the set. The categories of a column are those that occur, by code point: they do not
    depend on how the rows were parted.
    """
    columns: dict[str, Column] = {}
    held = [(at, dict(zip(places, values, strict=True))) for at, places, values in pieces]
    for place, (name, feature) in enumerate(zip(feature_set.names, feature_set.features, strict=True)):
        found = [(at, values[place]) for at, values in held if place in values]
        columns[name] = _codes(rows, found) if is_code(feature) else _numbers(rows, found)
    return _frame(feature_set, rows, columns)


def compact(feature_set: FeatureSet, frame: FeatureFrame) -> FeatureFrame:
    """The frame with only those categories that occur."""
    everything = np.arange(len(frame))
    places = range(len(feature_set.features))
    return assemble(feature_set, len(frame), [(everything, places, list(frame.columns.values()))])


def _frame(feature_set: FeatureSet, rows: int, columns: dict[str, Column]) -> FeatureFrame:
    features: tuple[Feature, ...] = feature_set.features
    return FeatureFrame(
        rows,
        columns,
        {feature.name: feature.dtype for feature in features},
        {feature.name: feature.unit for feature in features},
        {feature.name: feature.describe() for feature in features},
    )


def _numbers(rows: int, pieces: Sequence[tuple[Ints, Column]]) -> npt.NDArray[np.float64]:
    out = np.empty(rows)
    for at, values in pieces:
        assert isinstance(values, np.ndarray)
        out[at] = values
    return out


def _codes(rows: int, pieces: Sequence[tuple[Ints, Column]]) -> Categories:
    used: list[list[str]] = []
    for _, values in pieces:
        assert isinstance(values, Categories)
        there = np.zeros(len(values.values) + 1, np.bool_)
        there[values.codes] = True
        used.append([value for value, met in zip(values.values, there, strict=False) if met])
    words = sorted({value for values in used for value in values})
    place = {value: code for code, value in enumerate(words)}
    out = np.full(rows, -1, np.int32)
    for at, values in pieces:
        assert isinstance(values, Categories)
        codes = np.array([*(place.get(value, -1) for value in values.values), -1], np.int32)
        out[at] = codes[values.codes]
    return Categories(out, words)
