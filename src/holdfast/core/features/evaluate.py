"""The one evaluator: definitions at (entity, cutoff) pairs over a world.

`Evaluator` compiles the definitions to a plan (`plan`) once, and runs it (`stages`).
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features import ranges
from holdfast.core.features.columns import NULL_TIME, categories_of, floats_of, instants_of
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.plan import compile_plan, is_code
from holdfast.core.features.stages import (
    Pairs,
    Place,
    Subject,
    Values,
    prepare,
    rows_as_of,
    run_stage,
)
from holdfast.core.features.world import World
from holdfast.core.schema import DType, Link
from holdfast.errors import InputError

__all__ = ["REVISION", "Evaluator", "evaluate", "frozen", "visible_rows"]

REVISION = 2
"""Of what definitions mean here: to be raised whenever a value changes, in a single bit, that they had before.

Values that were stored under another revision are not reused: else a matrix would mix two meanings.
"""

Ints = npt.NDArray[np.int64]
_SMALL = 50_000
"""Rows, of tables and asked ones, below which threads cost more than they bring."""
_NO_MASK = np.zeros(0, np.uint8)


class Evaluator:
    """Evaluates one feature set, many times. Safe to share between threads."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        self.plan = compile_plan(feature_set)
        names = feature_set.names
        self._slots = [(f.name, is_code(f), self.plan.slots[f]) for f in feature_set.features]
        self._dtypes = dict(zip(names, (feature.dtype for feature in feature_set.features), strict=True))
        self._units = dict(zip(names, (feature.unit for feature in feature_set.features), strict=True))
        self._words = dict(zip(names, (feature.describe() for feature in feature_set.features), strict=True))

    def evaluate(
        self, world: World, entities: pa.Array, cutoffs: Ints, context: Mapping[str, pa.Array] | None = None
    ) -> FeatureFrame:
        """Values of all features for n asked rows; see `evaluate`."""
        given = _context(self.feature_set, context or {}, len(entities))
        if len(cutoffs) != len(entities):
            raise InputError(f"{len(entities)} entities but {len(cutoffs)} cutoffs")
        codes = world.codes(self.feature_set.entity, entities)
        moments = np.ascontiguousarray(frozen(self.feature_set, cutoffs), np.int64)
        large = sum(len(table) for table in world.tables.values()) + len(codes) > _SMALL
        with ThreadPoolExecutor(os.cpu_count() or 1) if large else nullcontext() as pool:
            if pool:
                prepare(world, self.plan, pool)
            place = Place(world, self.feature_set.include_cutoff, pool)
            rows = rows_as_of(place, self.feature_set.entity, codes, moments)
            subject = run_stage(self.plan, place, Pairs(rows, codes, moments), given)
        return self._frame(subject, len(entities))

    def _frame(self, subject: Subject, rows: int) -> FeatureFrame:
        numbers, codes, words = subject.numbers, subject.codes, subject.words
        columns: dict[str, npt.NDArray[np.float64] | Categories] = {
            name: Categories(codes[slot], words[slot]) if coded else numbers[slot] for name, coded, slot in self._slots
        }
        return FeatureFrame(rows, columns, self._dtypes, self._units, self._words)


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
    return Evaluator(feature_set).evaluate(world, entities, cutoffs, context)


def frozen(feature_set: FeatureSet, cutoffs: Ints) -> Ints:
    """The cutoffs that count: none is after the moment at which the set freezes history."""
    return cutoffs if feature_set.frozen_at is None else np.minimum(cutoffs, feature_set.frozen_at)


def visible_rows(
    feature_set: FeatureSet, world: World, entity: pa.Array, cutoff: int
) -> dict[str, list[tuple[str, int]]]:
    """The raw (file, row) pairs, per table, that the features of one entity at one cutoff could see.

    `entity` is an Arrow array of one key. Only tables that the features read, at any depth.
    """
    cutoff = cutoff if feature_set.frozen_at is None else min(cutoff, feature_set.frozen_at)
    trace = _Trace(Place(world, feature_set.include_cutoff), cutoff)
    codes = world.codes(feature_set.entity, entity)
    rows = rows_as_of(trace.place, feature_set.entity, codes, np.array([cutoff], np.int64))
    for feature in feature_set.features:
        trace.collect(feature, rows, codes)
    return {table: sorted(rows) for table, rows in sorted(trace.found.items())}


class _Trace:
    """Collects the raw rows that features see at one cutoff."""

    def __init__(self, place: Place, cutoff: int) -> None:
        self.place = place
        self.cutoff = cutoff
        self.found: dict[str, set[tuple[str, int]]] = {}

    def collect(self, feature: Feature, rows: Ints, codes: Ints) -> None:
        """What a feature of rows of its table sees; `codes` are the rows' keys'."""
        world, link = self.place.world, feature.link
        if feature.kind in (Kind.COLUMN, Kind.DIRECT):
            self._see(feature.table, rows[rows >= 0])
        if feature.kind is Kind.DIRECT and link:
            codes = world.link_codes(link)[rows[rows >= 0]]
            rows = rows_as_of(self.place, link.parent, codes, np.full(len(codes), self.cutoff, np.int64))
        elif feature.kind is Kind.AGGREGATE and link:
            rows, codes = self._children(feature, link, codes)
            self._see(link.child, rows)
        elif feature.kind is Kind.WITHIN and link:
            self._see(link.child, self._before(link, rows))
        for inner in feature.inputs:
            self.collect(inner, rows, codes)

    def _see(self, table: str, rows: Ints) -> None:
        self.found.setdefault(table, set()).update(self.place.world.tables[table].sources(rows))

    def _children(self, feature: Feature, link: Link, codes: Ints) -> tuple[Ints, Ints]:
        """The child rows that an aggregate sees, and the codes of their own keys (none where the table has no key)."""
        world = self.place.world
        index, moments = world.index(link), np.full(len(codes), self.cutoff, np.int64)
        windows = np.array([feature.window] if feature.window else [], np.int64)
        start, hi, lo, odd = ranges.ranges(
            codes, moments, windows, self.place.inclusive, index.offsets, index.times, index.odd
        )
        mask = world.sorted_masks(link, (feature.condition,))[0] if feature.condition else _NO_MASK
        begin = lo[0] if len(lo) else start
        seen = (begin, hi, moments, odd, index.known_from, index.known_to, mask)
        _, _, positions = ranges.visible(np.arange(len(hi)), *seen)
        rows = index.order[positions]
        return rows, world.key_codes(link.child)[rows] if world.keyed(link.child) else np.full(len(rows), -1)

    def _before(self, link: Link, rows: Ints) -> Ints:
        """The rows before each of the rows that have the same parent."""
        index, places = self.place.world.index(link), self.place.world.places(link)
        here = places[rows[rows >= 0]]
        here = here[here >= 0]
        begin = index.offsets[np.searchsorted(index.offsets, here, side="right") - 1]
        moments = np.full(len(here), self.cutoff, np.int64)
        odd = np.full(len(here), len(index.odd) > 0, np.uint8)
        seen = (begin, here + 1, moments, odd, index.known_from, index.known_to, _NO_MASK)
        _, _, positions = ranges.visible(np.arange(len(here)), *seen)
        return np.asarray(index.order[positions])


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
