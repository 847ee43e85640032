"""From feature values to the numbers a model sees: fitted once on training rows, replayed at every prediction.

A model sees a float64 matrix, one column a feature: numbers as they are (null = NaN, left to the booster, or filled by
the feature's missing rule), truth values as 0/1, categories as codes. Code 0 is the unknown category (missing or never
seen in training); seen ones follow by descending training frequency, ties by Unicode code point.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from holdfast.core.features.alignment import UNKNOWN, Aligned, FeatureSpec, Names, Repair, align_rows
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import DType
from holdfast.errors import AlignmentError, ConfigError

if TYPE_CHECKING:
    from holdfast.core.features.compiled import CompiledRows

__all__ = ["UNKNOWN", "Aligned", "Constant", "Encoding", "FeatureSpec", "MissingRule", "Repair"]

MAX_CATEGORIES = 1000


@dataclass(frozen=True, slots=True)
class Constant:
    """A missing rule: null becomes this number or, for a category, this category."""

    value: float | str


MissingRule = str | Constant
"""`keep` and `median` for numbers and truth values, `unknown` for categories, or a Constant."""


class Encoding:
    """The fitted rules of all features, in training order."""

    def __init__(self, specs: Sequence[FeatureSpec]) -> None:
        """AlignmentError when one name could mean two features."""
        self.specs = tuple(specs)
        self.names = tuple(spec.name for spec in self.specs)
        self._names = Names.of(self.specs)

    @staticmethod
    def fit(
        frame: FeatureFrame,
        rows: npt.NDArray[np.bool_],
        *,
        missing: Mapping[str, MissingRule] | None = None,
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> "Encoding":
        """Fit on the rows of `frame` where `rows` (bool [n]) is true.

        `missing` gives features another rule than `keep` (numbers, truth values) or `unknown` (categories), `aliases`
        other names. ConfigError when a rule does not suit its feature.
        """
        specs = []
        for name, column in frame.columns.items():
            rule = (missing or {}).get(name)
            if isinstance(column, Categories):
                spec = _fit_category(name, column, rows, rule)
            else:
                spec = _fit_number(name, column[rows], rule, truth=frame.dtypes[name] is DType.BOOL)
            unit, description = frame.units.get(name, ""), frame.descriptions.get(name, "")
            specs.append(
                replace(spec, unit=unit, description=description, aliases=tuple((aliases or {}).get(name, ())))
            )
        return Encoding(specs)

    @property
    def categorical_categories(self) -> dict[str, dict[str, int]]:
        """Of each categorical feature, the code of each category; `未知` is 0."""
        return {
            spec.name: dict(codes)
            for spec, codes in zip(self.specs, self._names.codes, strict=True)
            if spec.is_category
        }

    def name_of(self, name: str) -> str | None:
        """The feature that a name or an alias means; None where it means none."""
        place = self._names.position.get(name, self._names.aliases.get(name))
        return None if place is None else self.names[place]

    def only(self, places: Sequence[int]) -> "Encoding":
        """The encoding of some of the features, given by their places."""
        return Encoding([self.specs[place] for place in places])

    def encode(self, frame: FeatureFrame) -> npt.NDArray[np.float64]:
        """The matrix of computed features, float64 [rows, features]. AlignmentError when a feature is absent."""
        matrix = np.empty((len(frame), len(self.specs)))
        for index, (spec, codes) in enumerate(zip(self.specs, self._names.codes, strict=True)):
            column = frame.columns.get(spec.name)
            if column is None or isinstance(column, Categories) != spec.is_category:
                raise AlignmentError(
                    f"feature {spec.name!r} is {'absent' if column is None else 'of another type'}",
                    where={"feature": spec.name},
                )
            if isinstance(column, Categories):
                table = np.array([codes.get(value, 0) for value in column.values] + [spec.fill or 0], np.float64)
                matrix[:, index] = table[column.codes]
            else:
                matrix[:, index] = column
                if spec.fill is not None:
                    matrix[np.isnan(column), index] = spec.fill
        return matrix

    def inspect(self, frame: FeatureFrame, matrix: npt.NDArray[np.float64]) -> tuple[tuple[Repair, ...], ...]:
        """Of each computed row the categories that training never saw, which became unknown.

        `matrix` is `encode(frame)`. Nulls and values outside the training range are not told: they are what the
        definitions give of the rows (a year that is over, a time since), not what somebody sent.
        """
        found: list[list[Repair]] = [[] for _ in range(len(frame))]
        for index, spec in enumerate(self.specs):
            column = frame.columns[spec.name]
            if isinstance(column, Categories):
                for row in np.flatnonzero((matrix[:, index] == 0) & (column.codes >= 0)):
                    value = column.values[column.codes[row]]
                    if value != UNKNOWN:
                        detail = f"category {value!r} was never seen in training; unknown"
                        found[row].append(Repair(spec.name, "unseen", detail))
        return tuple(tuple(repairs) for repairs in found)

    def align(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        partial: bool = False,
        strict: bool = False,
        known: Collection[str] = (),
    ) -> Aligned:
        """Match rows of feature values (name → value, any order) to the definitions.

        Repaired and reported: aliases, null values, numbers and truth values written as text, unseen categories,
        values outside the training range (kept), extra names (ignored; those of `known` silently).
        AlignmentError, naming row and feature: a feature that is absent (unless `partial`, then it counts as null) or
        given under two names, a value of another type, NaN or infinity. With `strict` every repair is an error, which
        lists all of them for all rows; only a null that stays null (rule `keep`) and the order of names are none.
        """
        return align_rows(self._names, rows, partial=partial, strict=strict, known=known)

    def compiled(self, known: Collection[str] = ()) -> "CompiledRows":
        """`align` for rows of a request's JSON, decided now; `known` as there."""
        from holdfast.core.features.compiled import CompiledRows

        return CompiledRows(self._names, known)

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain data, the inverse of `from_dict`."""
        return [spec.to_dict() for spec in self.specs]

    @staticmethod
    def from_dict(data: Sequence[Mapping[str, Any]]) -> "Encoding":
        """The inverse of `to_dict`."""
        return Encoding([FeatureSpec.from_dict(item) for item in data])


def _unsuited(name: str, rule: MissingRule, kind: str) -> ConfigError:
    said = rule.value if isinstance(rule, Constant) else rule
    return ConfigError(
        f"the missing rule {said!r} does not suit {name!r}, which is a {kind}",
        where={"key": "features.missing", "feature": name},
        hint="Numbers and truth values take keep, median or a number; categories unknown or one of their categories.",
    )


def _fit_number(name: str, values: npt.NDArray[np.float64], rule: MissingRule | None, *, truth: bool) -> FeatureSpec:
    present = values[~np.isnan(values)]
    nulls = len(values) - len(present)
    kind = "truth" if truth else "number"
    missing: MissingRule = rule or "keep"
    fill: float | None = None
    if isinstance(missing, Constant):
        if isinstance(missing.value, str) or not math.isfinite(missing.value):
            raise _unsuited(name, missing, kind)
        fill, missing = float(missing.value), "constant"
    elif missing not in ("keep", "median"):
        raise _unsuited(name, missing, kind)
    if not len(present):
        # Nothing to take a median of: null stays null.
        return FeatureSpec(name, kind, "keep" if missing == "median" else missing, fill, nulls=nulls)
    return FeatureSpec(
        name,
        kind,
        missing,
        fill=float(np.median(present)) if missing == "median" else fill,
        minimum=float(present.min()),
        maximum=float(present.max()),
        mean=float(present.mean()),
        std=float(present.std(ddof=1)) if len(present) > 1 else None,
        nulls=nulls,
    )


def _fit_category(name: str, column: Categories, rows: npt.NDArray[np.bool_], rule: MissingRule | None) -> FeatureSpec:
    codes = column.codes[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], column.values[code]))
    # A category that is spelt like the unknown one is the unknown one.
    kept = [column.values[code] for code in order[:MAX_CATEGORIES] if column.values[code] != UNKNOWN]
    rare = int(counts[order[MAX_CATEGORIES:]].sum())
    missing: MissingRule = rule or "unknown"
    fill: float | None = None
    if isinstance(missing, Constant):
        if missing.value not in kept:
            raise ConfigError(
                f"the constant {missing.value!r} is no category of {name!r} in the training rows",
                where={"key": "features.missing", "feature": name},
            )
        fill, missing = float(kept.index(str(missing.value)) + 1), "constant"
    elif missing != "unknown":
        raise _unsuited(name, missing, "category")
    nulls = int((codes < 0).sum())
    return FeatureSpec(name, "category", missing, fill=fill, categories=tuple(kept), nulls=nulls, rare=rare)
