"""Feature definitions as data: what a feature is, its name, its content hash, its JSON.

A feature describes one row of `table` (for the top level: the entity) at a cutoff:

- COLUMN     the value of a column of the row, as known at the cutoff
- CONTEXT    a column of the asking row that is known beforehand
- CUTOFF     the cutoff itself (a time; useful under a transform)
- DIRECT     a feature of the parent row behind `link`
- AGGREGATE  a primitive over the child rows behind `link` that are visible at the cutoff, happened within `window`
             and meet `condition`, of the input feature of each (none for COUNT and the TIME_SINCE_* primitives)
- TRANSFORM  a primitive of the input features of the same row
- WITHIN     a primitive of the input feature, of the row among the rows before it of the same parent behind `link`

Names follow Featuretools: `MEAN(inspections.Score, 90d)`, `COUNT(violations WHERE risk_category = High Risk)`,
`QUANTILE(orders.total, q=0.9)`, `DIFF(total BY customer_id)`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from holdfast.core.features.describing import described
from holdfast.core.features.primitives import Primitive, find_primitive
from holdfast.core.schema import Column, DType, Link, Schema
from holdfast.core.timeline import format_duration
from holdfast.core.words import exactly
from holdfast.errors import ConfigError, NotFoundError

__all__ = ["OPERATORS", "Condition", "Feature", "FeatureSet", "Kind"]


class Kind(StrEnum):
    """The kind of a feature."""

    COLUMN = "column"
    CONTEXT = "context"
    CUTOFF = "cutoff"
    DIRECT = "direct"
    AGGREGATE = "aggregate"
    TRANSFORM = "transform"
    WITHIN = "within"


OPERATORS: Mapping[str, str] = {
    "=": "is",
    "!=": "is not",
    "<": "is below",
    "<=": "is at most",
    ">": "is above",
    ">=": "is at least",
}
"""How a condition may compare, and how it reads in words. Only `=` and `!=` compare categories."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Child rows count only where `column` compares so with `value` (a string for categories, else a number or bool).

    A null meets no condition.
    """

    column: str
    value: str | float | bool
    operator: str = "="

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {_said(self.value)}"

    def describe(self) -> str:
        """The condition in words."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.column} {OPERATORS[self.operator]} {value}"


_FORMULA_LIKE = re.compile(r'\s.*|.*\s|".*|.*,\s*(\d+\s*\w+|\w+\s*=\s*[-+0-9.eE]+)', re.DOTALL)
"""Values that would read as something else at the end of a formula: blanks, a window, a parameter."""


def _said(value: str | float | bool) -> str:
    """A condition's value in a formula: quoted where it would read as something else."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and _FORMULA_LIKE.fullmatch(text) else text


@dataclass(frozen=True)
class Feature:
    """One definition; `dtype` is BOOL, INT, FLOAT, CATEGORY or, for inputs of transforms only, TIME or TEXT.

    `window` is in microseconds (None: all). `parameters` are the primitive's, by name.
    """

    kind: Kind
    table: str
    dtype: DType
    column: str = ""
    primitive: Primitive | None = None
    inputs: tuple["Feature", ...] = ()
    link: Link | None = None
    window: int | None = None
    condition: Condition | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    alias: str = ""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Definitions are trees: without remembering it, every look-up would walk the whole tree.
        own = self.primitive.name if self.primitive else ""
        parts = (self.kind, self.table, self.column, own, self.link, self.window, self.condition, self.parameters)
        return hash((*parts, self.alias, self.inputs))

    @cached_property
    def name(self) -> str:
        """The alias, else the formula as text; unique within a feature set."""
        return self.alias or self.formula

    @cached_property
    def formula(self) -> str:
        """The formula as text; `formulas.parse_feature` reads it back."""
        inner = ", ".join(feature.name for feature in self.inputs)
        call = self.primitive.name if self.primitive else ""
        settings = "".join(f", {name}={exactly(value)}" for name, value in self.parameters)
        match self.kind:
            case Kind.COLUMN:
                return self.column
            case Kind.CONTEXT:
                return f"context.{self.column}"
            case Kind.CUTOFF:
                return "cutoff"
            case Kind.TRANSFORM:
                return f"{call}({inner}{settings})"
            case Kind.WITHIN:
                assert self.link is not None
                return f"{call}({inner}{' ' if inner else ''}BY {self.link.column}{settings})"
            case Kind.DIRECT:
                return f"{self._through(by_child=True)}.{inner}"
            case Kind.AGGREGATE:
                over = self._through(by_child=False)
                inputs = ", ".join(f"{over}.{feature.name}" for feature in self.inputs) or over
                where = f" WHERE {self.condition}" if self.condition else ""
                window = f", {format_duration(self.window)}" if self.window else ""
                return f"{call}({inputs}{where}{settings}{window})"

    def _through(self, *, by_child: bool) -> str:
        assert self.link is not None
        other = self.link.parent if by_child else self.link.child
        return other if self.link.alone else f"{other}[{self.link.column}]"

    @property
    def depth(self) -> int:
        """How many primitives and links are stacked."""
        below = max((feature.depth for feature in self.inputs), default=0)
        return below + (self.kind not in (Kind.COLUMN, Kind.CONTEXT, Kind.CUTOFF))

    @property
    def unit(self) -> str:
        """The unit of the values where one is known: `s`, `1/day`, ..."""
        if self.primitive and self.primitive.unit != "input":
            return self.primitive.unit
        return self.inputs[0].unit if self.inputs else ""

    def describe(self) -> str:
        """The feature in words, for those who do not read formulas."""
        return described(self)

    def walk(self) -> Iterator["Feature"]:
        """This feature and all below it."""
        yield self
        for feature in self.inputs:
            yield from feature.walk()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`; empty fields are left out."""
        data: dict[str, Any] = {"kind": self.kind.value, "table": self.table, "dtype": self.dtype.value}
        if self.column:
            data["column"] = self.column
        if self.primitive:
            data["primitive"] = self.primitive.name
            if self.primitive.code:
                data["code"] = self.primitive.code
        if self.inputs:
            data["inputs"] = [feature.to_dict() for feature in self.inputs]
        if self.link:
            data["link"] = {name: getattr(self.link, name) for name in ("child", "column", "parent", "alone")}
        if self.window:
            data["window"] = self.window
        if self.condition:
            data["condition"] = {"column": self.condition.column, "value": self.condition.value}
            if self.condition.operator != "=":
                data["condition"]["operator"] = self.condition.operator
        if self.parameters:
            data["parameters"] = dict(self.parameters)
        if self.alias:
            data["alias"] = self.alias
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any], own: Iterable[Primitive] = ()) -> "Feature":
        """The inverse of `to_dict`; `own` are the user's primitives.

        ConfigError for a primitive that is not there, or whose code is another than when the feature was defined.
        """
        return Feature(
            kind=Kind(data["kind"]),
            table=data["table"],
            dtype=DType(data["dtype"]),
            column=data.get("column", ""),
            primitive=_primitive(data, own) if "primitive" in data else None,
            inputs=tuple(Feature.from_dict(item, own) for item in data.get("inputs", ())),
            link=Link(**data["link"]) if "link" in data else None,
            window=data.get("window"),
            condition=Condition(**data["condition"]) if "condition" in data else None,
            parameters=tuple(data.get("parameters", {}).items()),
            alias=data.get("alias", ""),
        )


def _primitive(data: Mapping[str, Any], own: Iterable[Primitive]) -> Primitive:
    found = find_primitive(data["primitive"], own)
    if found.code != data.get("code", ""):
        raise ConfigError(
            f"primitive {found.name!r} was changed since the feature was defined",
            where={"primitive": found.name},
            hint="Bring its old code back, or synthesise the features anew and train again.",
        )
    return found


@dataclass(frozen=True)
class FeatureSet:
    """Ordered definitions for one entity table and the context of its questions.

    `schema` holds the tables that the features read, so that raw rows can be typed wherever the set goes.
    """

    entity: str
    features: tuple[Feature, ...]
    schema: Schema
    context: tuple[Column, ...] = ()
    include_cutoff: bool = False
    frozen_at: int | None = None
    """History is frozen at this instant: a cutoff after it counts as it."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """The feature of that name, or NotFoundError."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise NotFoundError(f"there is no feature {name!r}", where={"feature": name})

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex of `to_json`: equal definitions have equal hashes."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The canonical JSON, UTF-8."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "entity": self.entity,
            "features": [feature.to_dict() for feature in self.features],
            "schema": self.schema.to_dict(),
            "context": [column.to_dict() for column in self.context],
            "include_cutoff": self.include_cutoff,
            **({} if self.frozen_at is None else {"frozen_at": self.frozen_at}),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any], own: Iterable[Primitive] = ()) -> "FeatureSet":
        """The inverse of `to_dict`; `own` are the user's primitives (see `Feature.from_dict`)."""
        return FeatureSet(
            entity=data["entity"],
            features=tuple(Feature.from_dict(item, own) for item in data["features"]),
            schema=Schema.from_dict(data["schema"]),
            context=tuple(Column.from_dict(item) for item in data["context"]),
            include_cutoff=data["include_cutoff"],
            frozen_at=data.get("frozen_at"),
        )
