"""Feature definitions as data: what a feature is, its name, its content hash, its JSON.

A feature describes one row of `table` (for the top level: the entity) at a cutoff:

- COLUMN     the value of a column of the row, as known at the cutoff
- CONTEXT    a column of the asking row that is known beforehand
- CUTOFF     the cutoff itself (a time; useful under a transform)
- DIRECT     a feature of the parent row behind `link`
- AGGREGATE  a primitive over the child rows behind `link` that are visible at the cutoff, happened within `window`
             and meet `condition`, of the input feature of each (none for COUNT and the TIME_SINCE_* primitives)
- TRANSFORM  a primitive of the input feature

Names follow Featuretools: `MEAN(inspections.Score, 90d)`, `COUNT(violations WHERE risk_category = High Risk)`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from holdfast.core.features.primitives import PRIMITIVES
from holdfast.core.schema import Column, DType, Link, Schema
from holdfast.core.timeline import format_duration
from holdfast.errors import NotFoundError

__all__ = ["Condition", "Feature", "FeatureSet", "Kind"]


class Kind(StrEnum):
    """The kind of a feature."""

    COLUMN = "column"
    CONTEXT = "context"
    CUTOFF = "cutoff"
    DIRECT = "direct"
    AGGREGATE = "aggregate"
    TRANSFORM = "transform"


@dataclass(frozen=True, slots=True)
class Condition:
    """Child rows count only where `column` equals `value` (a string for categories, else a number or bool)."""

    column: str
    value: str | float | bool


@dataclass(frozen=True)
class Feature:
    """One definition; `dtype` is BOOL, INT, FLOAT, CATEGORY or, for inputs of transforms only, TIME."""

    kind: Kind
    table: str
    dtype: DType
    column: str = ""
    primitive: str = ""
    inputs: tuple["Feature", ...] = ()
    link: Link | None = None
    window: int | None = None
    condition: Condition | None = None
    alias: str = ""

    @cached_property
    def name(self) -> str:
        """The alias, else the formula as text; unique within a feature set."""
        return self.alias or self.formula

    @cached_property
    def formula(self) -> str:
        """The formula as text."""
        inner = self.inputs[0].name if self.inputs else ""
        match self.kind:
            case Kind.COLUMN:
                return self.column
            case Kind.CONTEXT:
                return f"context.{self.column}"
            case Kind.CUTOFF:
                return "cutoff"
            case Kind.TRANSFORM:
                return f"{self.primitive}({inner})"
            case Kind.DIRECT:
                return f"{self._through(by_child=True)}.{inner}"
            case Kind.AGGREGATE:
                over = self._through(by_child=False) + (f".{inner}" if inner else "")
                where = f" WHERE {self.condition.column} = {self.condition.value}" if self.condition else ""
                window = f", {format_duration(self.window)}" if self.window else ""
                return f"{self.primitive}({over}{where}{window})"

    def _through(self, *, by_child: bool) -> str:
        assert self.link is not None
        other = self.link.parent if by_child else self.link.child
        return other if self.link.alone else f"{other}[{self.link.column}]"

    @property
    def depth(self) -> int:
        """How many primitives and links are stacked."""
        below = max((feature.depth for feature in self.inputs), default=0)
        return below + (self.kind in (Kind.DIRECT, Kind.AGGREGATE, Kind.TRANSFORM))

    @property
    def unit(self) -> str:
        """The unit of the values where one is known: `s`, `1/day`, ..."""
        if self.primitive:
            unit = PRIMITIVES[self.primitive].unit
            return (self.inputs[0].unit if self.inputs else "") if unit == "input" else unit
        return self.inputs[0].unit if self.inputs else ""

    def describe(self) -> str:
        """The feature in words."""
        inner = self.inputs[0].describe() if self.inputs else ""
        match self.kind:
            case Kind.COLUMN:
                return f"{self.column} of {self.table}"
            case Kind.CONTEXT:
                return f"{self.column} of the question"
            case Kind.CUTOFF:
                return "the moment of the question"
            case Kind.DIRECT:
                by = f" by {self.link.column}" if self.link and not self.link.alone else ""
                return f"{inner}, of the parent in {self.link.parent}{by}" if self.link else inner
            case Kind.TRANSFORM:
                return PRIMITIVES[self.primitive].words.format(inner)
            case Kind.AGGREGATE:
                by = f" by {self.link.column}" if self.link and not self.link.alone else ""
                rows = f"rows of {self.link.child if self.link else ''}"
                text = PRIMITIVES[self.primitive].words.format(inner or rows) + by
                where = f" where {self.condition.column} is {self.condition.value}" if self.condition else ""
                window = f" in the last {format_duration(self.window)}" if self.window else ""
                return f"{text}{where}{window}"

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
            data["primitive"] = self.primitive
        if self.inputs:
            data["inputs"] = [feature.to_dict() for feature in self.inputs]
        if self.link:
            data["link"] = {name: getattr(self.link, name) for name in ("child", "column", "parent", "alone")}
        if self.window:
            data["window"] = self.window
        if self.condition:
            data["condition"] = {"column": self.condition.column, "value": self.condition.value}
        if self.alias:
            data["alias"] = self.alias
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Feature":
        """The inverse of `to_dict`."""
        return Feature(
            kind=Kind(data["kind"]),
            table=data["table"],
            dtype=DType(data["dtype"]),
            column=data.get("column", ""),
            primitive=data.get("primitive", ""),
            inputs=tuple(Feature.from_dict(item) for item in data.get("inputs", ())),
            link=Link(**data["link"]) if "link" in data else None,
            window=data.get("window"),
            condition=Condition(**data["condition"]) if "condition" in data else None,
            alias=data.get("alias", ""),
        )


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
        """SHA-256 in hex of the canonical JSON: equal definitions have equal hashes."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "entity": self.entity,
            "features": [feature.to_dict() for feature in self.features],
            "schema": self.schema.to_dict(),
            "context": [column.to_dict() for column in self.context],
            "include_cutoff": self.include_cutoff,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "FeatureSet":
        """The inverse of `to_dict`."""
        return FeatureSet(
            entity=data["entity"],
            features=tuple(Feature.from_dict(item) for item in data["features"]),
            schema=Schema.from_dict(data["schema"]),
            context=tuple(Column.from_dict(item) for item in data["context"]),
            include_cutoff=data["include_cutoff"],
        )
