"""Alignment: values that somebody sends are matched to the definitions, and every repair is told.

Matched are names (any order, aliases), types, categories, missing values and training ranges. What can be repaired is
repaired and reported; what cannot is an AlignmentError that names row and feature. In strict mode nothing is repaired.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.words import number_of, truth_of
from holdfast.errors import AlignmentError

__all__ = ["UNKNOWN", "Aligned", "FeatureSpec", "Names", "Repair", "align_rows", "refuse"]

UNKNOWN = "未知"
"""The category that stands for a missing or unseen one; its code is 0."""
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """How one feature becomes a number, and what training saw of it.

    `kind` is number, truth or category. `missing`: `keep` (NaN), `median` or `constant` (then `fill` is it; for a
    category its code), or `unknown` (the category of code 0).
    `minimum`, `maximum`, `mean`, `std` are over non-null training values (None for categories or when all are null).
    `rare` counts training values beyond the most frequent categories, which became unknown. `aliases` are other names
    under which the feature may be sent.
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
    aliases: tuple[str, ...] = ()

    @property
    def is_category(self) -> bool:
        """Whether the value is a category."""
        return self.kind == "category"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        data = {field: getattr(self, field) for field in FeatureSpec.__dataclass_fields__}
        return data | {"categories": list(self.categories), "aliases": list(self.aliases)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "FeatureSpec":
        """The inverse of `to_dict`."""
        lists = {name: tuple(data.get(name, ())) for name in ("categories", "aliases")}
        return FeatureSpec(**{**data, **lists})


@dataclass(frozen=True, slots=True)
class Repair:
    """Something about a value that was mended or is worth knowing.

    `kind` is renamed (an alias), missing (null), cast (another type), unseen (category), range or extra (no feature).
    """

    feature: str
    kind: str
    detail: str

    def plain(self) -> dict[str, str]:
        """Plain data."""
        return {"feature": self.feature, "kind": self.kind, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows matched to the definitions: `matrix` float64 [rows, features] and the repairs of each row."""

    matrix: npt.NDArray[np.float64]
    repairs: tuple[tuple[Repair, ...], ...]


@dataclass(frozen=True, slots=True)
class Names:
    """Features with their places, category codes, and the place of each alias."""

    specs: tuple[FeatureSpec, ...]
    position: Mapping[str, int]
    codes: Sequence[Mapping[str, int]]
    aliases: Mapping[str, int]

    @staticmethod
    def of(specs: Sequence[FeatureSpec]) -> "Names":
        """Index the specs. AlignmentError when one name could mean two features."""
        position = {spec.name: place for place, spec in enumerate(specs)}
        aliases: dict[str, int] = {}
        for place, spec in enumerate(specs):
            for alias in spec.aliases:
                other = position.get(alias, aliases.get(alias, place))
                if other != place:
                    raise AlignmentError(
                        f"{alias!r} is an alias of {spec.name!r} and means {specs[other].name!r} too",
                        where={"feature": spec.name},
                        hint="Give each feature names of its own.",
                    )
                if alias != spec.name:
                    aliases[alias] = place
        codes = [{UNKNOWN: 0, **{c: i + 1 for i, c in enumerate(spec.categories)}} for spec in specs]
        return Names(tuple(specs), position, codes, aliases)


def align_rows(
    names: Names, rows: Sequence[Mapping[str, Any]], *, partial: bool, strict: bool, known: Collection[str]
) -> Aligned:
    """See `Encoding.align`."""
    matrix = np.empty((len(rows), len(names.specs)))
    repairs, problems = [], []
    for number, row in enumerate(rows):
        found: list[Repair] = []
        if not isinstance(row, Mapping):
            raise AlignmentError("a row must be an object of feature values", where={"row": number})
        extra = [name for name in row if name not in names.position and name not in known]
        if extra and names.aliases:
            row, extra = _renamed(names, row, number, extra, found)  # noqa: PLW2901
        for index, spec in enumerate(names.specs):
            try:
                if spec.name not in row and not partial:
                    raise _absent(spec, number)
                matrix[number, index] = _align_one(names, index, row.get(spec.name), number, found)
            except AlignmentError as error:
                if not strict:
                    raise
                problems.append({"row": number, "feature": spec.name, "kind": "refused", "detail": error.message})
        found.extend(Repair(name, "extra", "not a feature; ignored") for name in extra)
        if strict:
            problems += [
                {"row": number, "feature": repair.feature, "kind": repair.kind, "detail": repair.detail}
                for repair in found
                if not _left_alone(names, repair)
            ]
        repairs.append(tuple(found))
    refuse(problems)
    return Aligned(matrix, tuple(repairs))


def refuse(problems: Sequence[Mapping[str, Any]]) -> None:
    """AlignmentError of strict mode when there are problems (`row`, `feature`, `kind`, `detail`); it names all."""
    if not problems:
        return
    first = problems[0]
    more = f", the first of {len(problems):,} problems" if len(problems) > 1 else ""
    raise AlignmentError(
        f"strict: feature {first['feature']!r}: {first['detail']}{more}",
        where={"row": first["row"], "feature": first["feature"], "problems": [dict(one) for one in problems]},
        hint="Mend the values, or ask without `strict` to have them repaired and reported.",
    )


def _left_alone(names: Names, repair: Repair) -> bool:
    """A null that stays null is no repair: the definition says `keep`."""
    if repair.kind != "missing":
        return False
    return names.specs[names.position[repair.feature]].missing == "keep"


def _absent(spec: FeatureSpec, row: int) -> AlignmentError:
    return AlignmentError(
        f"feature {spec.name!r} is missing",
        where={"row": row, "feature": spec.name},
        hint="Send null where the value is not known.",
    )


def _renamed(
    names: Names, row: Mapping[str, Any], number: int, extra: list[str], repairs: list[Repair]
) -> tuple[Mapping[str, Any], list[str]]:
    """The row with aliases replaced by features' own names, and what still is no feature."""
    said, rest = dict(row), []
    for alias in extra:
        place = names.aliases.get(alias)
        if place is None:
            rest.append(alias)
            continue
        name = names.specs[place].name
        if name in said:
            others = [key for key in row if key != alias and (key == name or names.aliases.get(key) == place)]
            raise AlignmentError(
                f"feature {name!r} is given twice: as {others[0]!r} and as {alias!r}",
                where={"row": number, "feature": name},
                hint="Send one of the two names.",
            )
        said[name] = said.pop(alias)
        repairs.append(Repair(name, "renamed", f"sent as {alias!r}"))
    return said, rest


def _align_one(names: Names, index: int, value: object, row: int, repairs: list[Repair]) -> float:
    spec = names.specs[index]
    if value is None:
        repairs.append(Repair(spec.name, "missing", _filled(spec)))
        return (0.0 if spec.is_category else math.nan) if spec.fill is None else spec.fill
    if spec.is_category:
        return float(_category_code(spec, names.codes[index], value, row, repairs))
    number = _as_number(spec, value, row, repairs)
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None and not low <= number <= high:
        repairs.append(Repair(spec.name, "range", f"{number:g} is outside the training range {low:g}..{high:g}"))
    return number


def _category_code(spec: FeatureSpec, codes: Mapping[str, int], value: object, row: int, repairs: list[Repair]) -> int:
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(spec, value, row, "text")
        repairs.append(Repair(spec.name, "cast", f"number {value} read as text"))
        value = str(value)
    if value not in codes:
        repairs.append(Repair(spec.name, "unseen", f"category {value!r} was never seen in training; unknown"))
    return codes.get(value, 0)


def _filled(spec: FeatureSpec) -> str:
    if spec.is_category:
        return f"counts as {UNKNOWN if spec.fill is None else spec.categories[int(spec.fill) - 1]}"
    if spec.fill is None:
        return "left to the model"
    return f"filled with the {'training median' if spec.missing == 'median' else 'constant'} {spec.fill:g}"


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
    return AlignmentError(
        f"feature {spec.name!r} must be {wanted}, not {type(value).__name__} {repr(value)[:_SHOWN]}",
        where={"row": row, "feature": spec.name},
    )
