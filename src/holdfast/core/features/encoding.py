"""From feature values to the numbers a model sees: fitted once on training rows, replayed at every prediction.

A model sees a float64 matrix, one column a feature: numbers as they are (null = NaN, left to the booster, or the
training median), truth values as 0/1, categories as codes. Code 0 is the unknown category (missing or never seen in
training); seen ones follow by descending training frequency, ties by Unicode code point.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import DType
from holdfast.core.words import number_of, truth_of
from holdfast.errors import AlignmentError

__all__ = ["UNKNOWN", "Aligned", "Encoding", "FeatureSpec", "Repair"]

UNKNOWN = "未知"
"""The category that stands for a missing or unseen one; its code is 0."""
MAX_CATEGORIES = 1000


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """How one feature becomes a number, and what training saw of it.

    `kind` is number, truth or category. `missing`: `keep` (NaN), `median` (then `fill` is it) or `unknown`.
    `minimum`, `maximum`, `mean`, `std` are over non-null training values (None for categories or when all are null).
    `rare` counts training values beyond the MAX_CATEGORIES most frequent, which became unknown.
    """

    name: str
    kind: str
    missing: str
    fill: float | None = None
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    nulls: int = 0
    rare: int = 0
    unit: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Repair:
    """Something about a value that was mended or is worth knowing: `kind` is missing, cast, unseen, range or extra."""

    feature: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows matched to the definitions: `matrix` float64 [rows, features] and the repairs of each row."""

    matrix: npt.NDArray[np.float64]
    repairs: tuple[tuple[Repair, ...], ...]


class Encoding:
    """The fitted rules of all features, in training order."""

    def __init__(self, specs: Sequence[FeatureSpec]) -> None:
        self.specs = tuple(specs)
        self.names = tuple(spec.name for spec in self.specs)
        self._position = {name: index for index, name in enumerate(self.names)}
        self._codes = [{UNKNOWN: 0, **{c: i + 1 for i, c in enumerate(spec.categories)}} for spec in self.specs]

    @staticmethod
    def fit(frame: FeatureFrame, rows: npt.NDArray[np.bool_], *, median: Sequence[str] = ()) -> "Encoding":
        """Fit on the rows of `frame` where `rows` (bool [n]) is true. Numbers named in `median` are filled with it."""
        specs = []
        for name, column in frame.columns.items():
            unit, description = frame.units.get(name, ""), frame.descriptions.get(name, "")
            if isinstance(column, Categories):
                spec = _fit_category(name, column, rows)
            else:
                spec = _fit_number(name, column[rows], truth=frame.dtypes[name] is DType.BOOL, median=name in median)
            specs.append(replace(spec, unit=unit, description=description))
        return Encoding(specs)

    @property
    def categorical_categories(self) -> dict[str, dict[str, int]]:
        """Of each categorical feature, the code of each category; `未知` is 0."""
        return {
            spec.name: dict(codes) for spec, codes in zip(self.specs, self._codes, strict=True) if _is_category(spec)
        }

    def encode(self, frame: FeatureFrame) -> npt.NDArray[np.float64]:
        """The matrix of computed features, float64 [rows, features]. AlignmentError when a feature is absent."""
        matrix = np.empty((len(frame), len(self.specs)))
        for index, (spec, codes) in enumerate(zip(self.specs, self._codes, strict=True)):
            column = frame.columns.get(spec.name)
            if column is None or isinstance(column, Categories) != _is_category(spec):
                raise AlignmentError(
                    f"feature {spec.name!r} is {'absent' if column is None else 'of another type'}",
                    where={"feature": spec.name},
                )
            if isinstance(column, Categories):
                table = np.array([codes.get(value, 0) for value in column.values] + [0], np.float64)
                matrix[:, index] = table[column.codes]
            else:
                matrix[:, index] = column
                if spec.fill is not None:
                    matrix[np.isnan(column), index] = spec.fill
        return matrix

    def align(self, rows: Sequence[Mapping[str, Any]], *, partial: bool = False) -> Aligned:
        """Match rows of feature values (name → value, any order) to the definitions.

        Repaired and reported: other order, null values, numbers and truth values written as text, unseen categories,
        values outside the training range (kept), extra names (ignored). AlignmentError, naming row and feature:
        a feature that is absent (unless `partial`, then it counts as null), a value of another type, NaN or infinity.
        """
        matrix = np.empty((len(rows), len(self.specs)))
        repairs = []
        for number, row in enumerate(rows):
            found: list[Repair] = []
            if not isinstance(row, Mapping):
                raise AlignmentError("a row must be an object of feature values", where={"row": number})
            for index, spec in enumerate(self.specs):
                if spec.name not in row and not partial:
                    raise AlignmentError(
                        f"feature {spec.name!r} is missing",
                        where={"row": number, "feature": spec.name},
                        hint="Send null where the value is not known.",
                    )
                matrix[number, index] = self._align_one(index, row.get(spec.name), number, found)
            found.extend(Repair(name, "extra", "not a feature; ignored") for name in row if name not in self._position)
            repairs.append(tuple(found))
        return Aligned(matrix, tuple(repairs))

    def _align_one(self, index: int, value: object, row: int, repairs: list[Repair]) -> float:
        spec = self.specs[index]
        if value is None:
            repairs.append(Repair(spec.name, "missing", _filled(spec)))
            return 0.0 if _is_category(spec) else math.nan if spec.fill is None else spec.fill
        if _is_category(spec):
            return float(self._category_code(index, value, row, repairs))
        number = _as_number(spec, value, row, repairs)
        low, high = spec.minimum, spec.maximum
        if low is not None and high is not None and not low <= number <= high:
            repairs.append(Repair(spec.name, "range", f"{number:g} is outside the training range {low:g}..{high:g}"))
        return number

    def _category_code(self, index: int, value: object, row: int, repairs: list[Repair]) -> int:
        spec, codes = self.specs[index], self._codes[index]
        if not isinstance(value, str):
            if isinstance(value, bool) or not isinstance(value, int):
                raise _wrong_type(spec, value, row, "text")
            repairs.append(Repair(spec.name, "cast", f"number {value} read as text"))
            value = str(value)
        if value not in codes:
            repairs.append(Repair(spec.name, "unseen", f"category {value!r} was never seen in training; unknown"))
        return codes.get(value, 0)

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain data, the inverse of `from_dict`."""
        return [
            {field: getattr(spec, field) for field in FeatureSpec.__dataclass_fields__}
            | {"categories": list(spec.categories)}
            for spec in self.specs
        ]

    @staticmethod
    def from_dict(data: Sequence[Mapping[str, Any]]) -> "Encoding":
        """The inverse of `to_dict`."""
        return Encoding([FeatureSpec(**{**item, "categories": tuple(item["categories"])}) for item in data])


def _is_category(spec: FeatureSpec) -> bool:
    return spec.kind == "category"


def _filled(spec: FeatureSpec) -> str:
    if _is_category(spec):
        return f"counts as {UNKNOWN}"
    return "left to the model" if spec.fill is None else f"filled with the training median {spec.fill:g}"


def _as_number(spec: FeatureSpec, value: object, row: int, repairs: list[Repair]) -> float:
    if isinstance(value, str):
        truth = truth_of(value) if spec.kind == "truth" else None
        read = number_of(value) if truth is None else float(truth)
        if read is None:
            raise _wrong_type(spec, value, row, "a number")
        number = read
        repairs.append(Repair(spec.name, "cast", f"text {value!r} read as {number:g}"))
    elif isinstance(value, bool | int | float | np.number):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if isinstance(value, bool) and spec.kind != "truth":
            repairs.append(Repair(spec.name, "cast", f"{value} read as {number:g}"))
    else:
        raise _wrong_type(spec, value, row, "a number")
    if not math.isfinite(number):
        raise AlignmentError(
            f"feature {spec.name!r} is {value!r}; only finite numbers are allowed",
            where={"row": row, "feature": spec.name},
            hint="Send null where the value is not known.",
        )
    return number


def _wrong_type(spec: FeatureSpec, value: object, row: int, wanted: str) -> AlignmentError:
    shown = repr(value)
    return AlignmentError(
        f"feature {spec.name!r} must be {wanted}, not {type(value).__name__} {shown[:80]}",
        where={"row": row, "feature": spec.name},
    )


def _fit_number(name: str, values: npt.NDArray[np.float64], *, truth: bool, median: bool) -> FeatureSpec:
    present = values[~np.isnan(values)]
    nulls = len(values) - len(present)
    kind = "truth" if truth else "number"
    if not len(present):
        return FeatureSpec(name, kind, "keep", nulls=nulls)
    return FeatureSpec(
        name,
        kind,
        "median" if median else "keep",
        fill=float(np.median(present)) if median else None,
        minimum=float(present.min()),
        maximum=float(present.max()),
        mean=float(present.mean()),
        std=float(present.std(ddof=1)) if len(present) > 1 else None,
        nulls=nulls,
    )


def _fit_category(name: str, column: Categories, rows: npt.NDArray[np.bool_]) -> FeatureSpec:
    codes = column.codes[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], column.values[code]))
    # A category that is spelt like the unknown one is the unknown one.
    kept = [column.values[code] for code in order[:MAX_CATEGORIES] if column.values[code] != UNKNOWN]
    rare = int(counts[order[MAX_CATEGORIES:]].sum())
    return FeatureSpec(name, "category", "unknown", categories=tuple(kept), nulls=int((codes < 0).sum()), rare=rare)
