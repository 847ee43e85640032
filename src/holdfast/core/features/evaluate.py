"""The one evaluator: definitions at (entity, cutoff) pairs over a world.

A `_Subject` is n rows of one table, each with its cutoff. A feature of a subject is computed by recursion: direct
features move to the parent's state as of the cutoff, aggregates move to the ranges of child rows (and, where their
input is itself computed, to a subject of those child rows at the same cutoff). What several features share (states,
ranges, one pass over a column) is computed once per subject.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features import kernels
from holdfast.core.features.definitions import Condition, Feature, FeatureSet, Kind
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.world import NULL_TIME, World, categories_of, floats_of, instants_of
from holdfast.core.schema import DType, Link
from holdfast.core.timeline import ZoneOffsets
from holdfast.errors import InputError

__all__ = ["evaluate", "visible_rows"]

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64] | Ints | Categories
"""Numbers and truth values (float64), times (int64), or categories."""

_NUMBERS = {name: getattr(kernels, name) for name in ("SUM", "MEAN", "STD", "MIN", "MAX", "FIRST", "LAST", "TREND")}
_NUMBERS["PERCENT_TRUE"] = kernels.MEAN
_CATEGORIES = {
    "NUM_UNIQUE": kernels.NUM_UNIQUE,
    "MODE": kernels.MODE,
    "FIRST": kernels.CATEGORY_FIRST,
    "LAST": kernels.CATEGORY_LAST,
}
_NO_MASK = np.zeros(0, np.uint8)
_MAX_PAIRS = 4_000_000
"""Child rows looked at together where inputs of aggregates are themselves computed: bounds memory, not results."""


def evaluate(
    feature_set: FeatureSet,
    world: World,
    entities: pa.Array,
    cutoffs: Ints,
    context: Mapping[str, pa.Array] | None = None,
) -> FeatureFrame:
    """Values of all features for n asked rows.

    `entities` (Arrow [n], the entity table's key), `cutoffs` (int64 microseconds UTC [n]), `context` (name → Arrow
    [n]; a name of the set that is absent counts as null). An entity that the world does not know has no rows: counts
    and sums are 0, the rest null. InputError when lengths or types do not fit.
    """
    given = _context(feature_set, context or {}, len(entities))
    if len(cutoffs) != len(entities):
        raise InputError(f"{len(entities)} entities but {len(cutoffs)} cutoffs")
    codes = world.codes(feature_set.entity, entities)
    parts = []
    for rows in _chunks(feature_set, world, codes, cutoffs):
        here = {name: _sliced(values, rows) for name, values in given.items()}
        subject = _Subject.of_entities(world, feature_set, codes[rows], cutoffs[rows], here)
        parts.append([subject.value(feature) for feature in feature_set.features])
    columns = {}
    for position, feature in enumerate(feature_set.features):
        columns[feature.name] = _joined([part[position] for part in parts])
    return FeatureFrame(
        rows=len(entities),
        columns=columns,
        dtypes={feature.name: feature.dtype for feature in feature_set.features},
        units={feature.name: feature.unit for feature in feature_set.features},
        descriptions={feature.name: feature.describe() for feature in feature_set.features},
    )


def visible_rows(
    feature_set: FeatureSet, world: World, entity: pa.Array, cutoff: int
) -> dict[str, list[tuple[str, int]]]:
    """The raw (file, row) pairs, per table, that the features of one entity at one cutoff could see.

    `entity` is an Arrow array of one key. Only tables that the features read, at any depth.
    """
    found: dict[str, set[tuple[str, int]]] = {}
    codes, cutoffs = world.codes(feature_set.entity, entity), np.array([cutoff], np.int64)
    for feature in feature_set.features:
        subject = _Subject.of_entities(world, feature_set, codes, cutoffs, {})
        _collect(subject, feature, found)
    return {table: sorted(rows) for table, rows in sorted(found.items())}


def _collect(subject: "_Subject", feature: Feature, found: dict[str, set[tuple[str, int]]]) -> None:
    world = subject.world
    if feature.table and feature.kind in (Kind.COLUMN, Kind.DIRECT):
        rows = subject.rows[subject.rows >= 0]
        found.setdefault(subject.table, set()).update(world.tables[subject.table].sources(rows))
    below = subject
    if feature.kind is Kind.DIRECT and feature.link:
        below = subject.parent(feature.link)
    elif feature.kind is Kind.AGGREGATE and feature.link:
        below, _ = subject.children(feature.link, feature.window or 0, feature.condition)
        found.setdefault(below.table, set()).update(world.tables[below.table].sources(below.rows))
    for inner in feature.inputs:
        _collect(below, inner, found)


@dataclass
class _Subject:
    """n rows of `table` at `cutoffs`: `rows` are positions in the table (-1 = no row), `codes` their keys' codes."""

    world: World
    table: str
    rows: Ints
    codes: Ints | None
    cutoffs: Ints
    inclusive: bool
    context: Mapping[str, Values] = field(default_factory=dict)
    _parents: dict[Link, "_Subject"] = field(default_factory=dict)
    _children: dict[tuple[Link, int, Condition | None], tuple["_Subject", Ints]] = field(default_factory=dict)
    _ranges: dict[tuple[Link, int], tuple[Ints, Ints]] = field(default_factory=dict)
    _passes: dict[tuple[Link, int, Condition | None, Feature | None], npt.NDArray[np.float64] | Ints] = field(
        default_factory=dict
    )
    _values: dict[Feature, Values] = field(default_factory=dict)

    @staticmethod
    def of_entities(
        world: World, feature_set: FeatureSet, codes: Ints, cutoffs: Ints, context: Mapping[str, Values]
    ) -> "_Subject":
        rows = _rows_as_of(world, feature_set.entity, codes, cutoffs, feature_set.include_cutoff)
        return _Subject(world, feature_set.entity, rows, codes, cutoffs, feature_set.include_cutoff, context)

    def parent(self, link: Link) -> "_Subject":
        """The parents of the rows, as of the same cutoffs."""
        if link not in self._parents:
            linked = self.world.link_codes(link)
            codes = np.where(self.rows >= 0, linked[self.rows], -1) if len(linked) else np.full(len(self.rows), -1)
            rows = _rows_as_of(self.world, link.parent, codes, self.cutoffs, self.inclusive)
            self._parents[link] = _Subject(self.world, link.parent, rows, codes, self.cutoffs, self.inclusive)
        return self._parents[link]

    def range_of(self, link: Link, window: int) -> tuple[Ints, Ints]:
        """The range of each row's children within the window, in the link's index."""
        if (link, window) not in self._ranges:
            index = self.world.index(link)
            codes = self._key_codes()
            self._ranges[link, window] = kernels.ranges(
                codes, self.cutoffs, window, self.inclusive, index.offsets, index.times
            )
        return self._ranges[link, window]

    def children(self, link: Link, window: int, condition: Condition | None) -> tuple["_Subject", Ints]:
        """All visible child rows as a subject of their own, and where those of each row start (int64 [n + 1])."""
        key = (link, window, condition)
        if key not in self._children:
            index, (lo, hi) = self.world.index(link), self.range_of(link, window)
            mask = self._mask(link, condition)
            starts, positions = kernels.expand(
                lo, hi, self.cutoffs, index.known_from, index.known_to, index.checked, mask, condition is not None
            )
            rows = index.order[positions]
            cutoffs = np.repeat(self.cutoffs, np.diff(starts))
            self._children[key] = _Subject(self.world, link.child, rows, None, cutoffs, self.inclusive), starts
        return self._children[key]

    def value(self, feature: Feature) -> Values:
        """The feature's value for each row."""
        if feature not in self._values:
            self._values[feature] = self._compute(feature)
        return self._values[feature]

    def _compute(self, feature: Feature) -> Values:
        match feature.kind:
            case Kind.COLUMN:
                return _taken(self.world.tables[self.table].column(feature.column), self.rows)
            case Kind.CONTEXT:
                return self.context[feature.column]
            case Kind.CUTOFF:
                return self.cutoffs
            case Kind.DIRECT:
                assert feature.link is not None
                return self.parent(feature.link).value(feature.inputs[0])
            case Kind.TRANSFORM:
                moments = self.value(feature.inputs[0])
                assert isinstance(moments, np.ndarray)
                return _transform(feature.primitive, moments.astype(np.int64), self.cutoffs, self.world.schema.timezone)
            case Kind.AGGREGATE:
                return self._aggregate(feature)

    def _aggregate(self, feature: Feature) -> Values:
        assert feature.link is not None
        link, window, condition = feature.link, feature.window or 0, feature.condition
        if not feature.inputs:
            return self._of_rows(feature.primitive, self._pass(link, window, condition, None))
        inner = feature.inputs[0]
        out = self._pass(link, window, condition, inner)
        if inner.dtype is DType.CATEGORY:
            codes = out[:, _CATEGORIES[feature.primitive]].astype(np.int64)
            if feature.primitive == "NUM_UNIQUE":
                return np.where(codes < 0, np.nan, codes.astype(np.float64))
            return Categories(codes, self._category_values(link, window, condition, inner))
        return np.ascontiguousarray(out[:, _NUMBERS[feature.primitive]], np.float64)

    def _of_rows(self, primitive: str, out: npt.NDArray[np.float64] | Ints) -> npt.NDArray[np.float64]:
        count = out[:, kernels.COUNT]
        if primitive == "COUNT":
            return count.astype(np.float64)
        moment = out[:, kernels.LAST_TIME if primitive == "TIME_SINCE_LAST" else kernels.FIRST_TIME]
        return np.where(count > 0, (self.cutoffs - moment).astype(np.float64) / 1e6, np.nan)

    def _pass(
        self, link: Link, window: int, condition: Condition | None, inner: Feature | None
    ) -> npt.NDArray[np.float64] | Ints:
        """One kernel pass over the children: everything the kernel knows of one input."""
        key = (link, window, condition, inner)
        if key not in self._passes:
            stored = inner is None or inner.kind is Kind.COLUMN
            self._passes[key] = (self._pass_stored if stored else self._pass_computed)(link, window, condition, inner)
        return self._passes[key]

    def _pass_stored(
        self, link: Link, window: int, condition: Condition | None, inner: Feature | None
    ) -> npt.NDArray[np.float64] | Ints:
        index, (lo, hi) = self.world.index(link), self.range_of(link, window)
        mask = self._mask(link, condition)
        seen = (lo, hi, self.cutoffs, index.known_from, index.known_to, index.checked, mask, condition is not None)
        return _run(seen, index.times, None if inner is None else self.world.sorted_column(link, inner.column))

    def _pass_computed(
        self, link: Link, window: int, condition: Condition | None, inner: Feature | None
    ) -> npt.NDArray[np.float64] | Ints:
        below, starts = self.children(link, window, condition)
        values = None if inner is None else below.value(inner)
        times = self.world.tables[link.child].times[below.rows]
        nothing = np.zeros(0, np.int64)
        seen = (starts[:-1], starts[1:], self.cutoffs, nothing, nothing, False, _NO_MASK, False)
        return _run(seen, times, values)

    def _category_values(self, link: Link, window: int, condition: Condition | None, inner: Feature) -> list[str]:
        if inner.kind is Kind.COLUMN:
            values = self.world.sorted_column(link, inner.column)
        else:
            values = self.children(link, window, condition)[0].value(inner)
        assert isinstance(values, Categories)
        return list(values.values)

    def _mask(self, link: Link, condition: Condition | None) -> Bytes:
        if condition is None:
            return _NO_MASK
        return self.world.matches(link.child, condition)[self.world.index(link).order]

    def _key_codes(self) -> Ints:
        if self.codes is None:
            own = self.world.key_codes(self.table)
            self.codes = np.where(self.rows >= 0, own[self.rows], -1) if len(own) else np.full(len(self.rows), -1)
        return self.codes


def _run(seen: tuple[object, ...], times: Ints, values: Values | None) -> npt.NDArray[np.float64] | Ints:
    """The kernel that fits the values: rows for None, else categories or numbers."""
    if values is None:
        out: npt.NDArray[np.float64] | Ints = kernels.rows(*seen, times)
    elif isinstance(values, Categories):
        out = kernels.categories(*seen, values.codes)
    else:
        out = kernels.numbers(*seen, times, values)
    return out


def _rows_as_of(world: World, table: str, codes: Ints, cutoffs: Ints, inclusive: bool) -> Ints:
    states = world.states(table)
    found = kernels.as_of(codes, cutoffs, inclusive, states.offsets, states.known_from, states.known_to, states.times)
    return np.where(found >= 0, states.order[found], -1) if len(states.order) else found


def _sliced(values: Values, rows: slice) -> Values:
    return Categories(values.codes[rows], values.values) if isinstance(values, Categories) else values[rows]


def _taken(column: Values, rows: Ints) -> Values:
    """The column's values at the rows; null where the row is -1."""
    if isinstance(column, Categories):
        return Categories(np.append(column.codes, -1)[rows], column.values)
    out = np.full(len(rows), np.nan) if column.dtype == np.float64 else np.full(len(rows), NULL_TIME, np.int64)
    there = rows >= 0
    out[there] = column[rows[there]]
    return out


def _transform(primitive: str, moments: Ints, cutoffs: Ints, timezone: str) -> npt.NDArray[np.float64]:
    """A transform of times (int64 microseconds), in the project's time zone; null stays null."""
    null = moments == NULL_TIME
    safe = np.where(null, 0, moments)
    if primitive == "TIME_SINCE":
        return np.where(null, np.nan, (cutoffs - safe).astype(np.float64) / 1e6)
    local = ZoneOffsets.of(timezone).local(safe).astype("datetime64[us]")
    days = local.astype("datetime64[D]").astype(np.int64)
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday
    months = local.astype("datetime64[M]").astype(np.int64)
    match primitive:
        case "YEAR":
            out = months // 12 + 1970
        case "MONTH":
            out = months % 12 + 1
        case "DAY":
            out = days - local.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + 1
        case "WEEKDAY":
            out = weekday
        case "HOUR":
            out = local.astype("datetime64[h]").astype(np.int64) % 24
        case _:
            assert primitive == "IS_WEEKEND", primitive
            out = weekday // 5
    return np.where(null, np.nan, out.astype(np.float64))


def _chunks(feature_set: FeatureSet, world: World, codes: Ints, cutoffs: Ints) -> Iterator[slice]:
    """Slices of the asked rows such that the children that must be looked at one by one stay within _MAX_PAIRS."""
    nested = {
        (feature.link, feature.window or 0)
        for feature in feature_set.features
        if feature.kind is Kind.AGGREGATE
        and feature.link
        and feature.inputs
        and feature.inputs[0].kind is not Kind.COLUMN
    }
    pairs = np.zeros(len(codes), np.int64)
    for link, window in nested:
        index = world.index(link)
        lo, hi = kernels.ranges(codes, cutoffs, window, feature_set.include_cutoff, index.offsets, index.times)
        pairs += hi - lo
    chunk = np.cumsum(pairs) // _MAX_PAIRS
    bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(codes)]
    yield from (slice(start, stop) for start, stop in pairwise(bounds))


def _joined(parts: list[Values]) -> npt.NDArray[np.float64] | Categories:
    first = parts[0]
    if isinstance(first, Categories):
        if all(isinstance(part, Categories) and part.values == first.values for part in parts):
            return Categories(np.concatenate([p.codes for p in parts if isinstance(p, Categories)]), first.values)
        raise AssertionError("chunks of one world share their categories")
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def _context(feature_set: FeatureSet, given: Mapping[str, pa.Array], rows: int) -> dict[str, Values]:
    known = {column.name for column in feature_set.context}
    if unknown := sorted(set(given) - known):
        raise InputError(
            f"{unknown[0]!r} is not a context column", where={"column": unknown[0]},
            hint=f"Context columns are: {', '.join(sorted(known)) or 'none'}",
        )  # fmt: skip
    values: dict[str, Values] = {}
    for column in feature_set.context:
        data = given.get(column.name)
        data = pa.nulls(rows, column.dtype.arrow) if data is None else data
        if len(data) != rows:
            raise InputError(f"context {column.name!r} has {len(data)} values for {rows} questions")
        chunked = pa.chunked_array([data])
        if column.dtype.is_number:
            values[column.name] = floats_of(chunked)
        elif column.dtype is DType.TIME:
            values[column.name] = instants_of(chunked, NULL_TIME)
        else:
            values[column.name] = categories_of(chunked)
    return values
