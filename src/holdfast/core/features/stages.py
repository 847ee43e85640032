"""Runs a plan: the values of all features of a stage, for n rows of its table, each at its cutoff.

The stage of the entity's rows, below it those of parents (their state as of the cutoff) and of children (every child
row that is visible at the cutoff): computed from the inside out by the loops of `kernels`.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.features import kernels, ranges
from holdfast.core.features.columns import NULL_TIME
from holdfast.core.features.definitions import Feature, Kind
from holdfast.core.features.frame import Categories
from holdfast.core.features.own import run_own
from holdfast.core.features.plan import Children, Loops, Program, Stage, is_code
from holdfast.core.features.steps import run_step
from holdfast.core.features.world import World
from holdfast.core.schema import DType, Link

__all__ = ["Pairs", "Place", "Range", "Subject", "Values", "empty_subject", "prepare", "rows_as_of", "run_stage",
           "visiting"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Values = Floats | Ints | Categories
"""Numbers and truth values (float64), times (int64), or categories."""
_NO_INTS = np.zeros(0, np.int64)
_NO_BYTES = np.zeros(0, np.uint8)
_CELLS = 4_000_000
"""Values that a part of the asked rows may hold at once over its stages: bounds memory, not results."""
_SMALLEST = 100_000
"""Values below which another part costs more than it brings."""
_NO_MASKS = np.zeros((0, 0), np.uint8)
Jobs = dict[tuple[object, ...], Callable[[], object]]


@dataclass(frozen=True)
class Place:
    """Where and how a plan runs."""

    world: World
    inclusive: bool
    pool: ThreadPoolExecutor | None = None
    """Threads for what is large; those that run in it have none themselves."""


@dataclass(frozen=True)
class Pairs:
    """n rows at cutoffs: `rows` int64 of a table (-1: none), `codes` those of their keys (None: not looked up yet).

    `positions` int64, if given, are the rows' own in the index by which they were found: what is near in it is visited
    together, for its values are read and written together.
    """

    rows: Ints
    codes: Ints | None
    cutoffs: Ints
    positions: Ints | None = None


@dataclass
class Subject:
    """The values of a stage: `numbers` float64 [slots, n], `codes` int32 [slots, n], `words` slot → the categories."""

    numbers: Floats
    codes: Codes
    times: list[Ints] = field(default_factory=list)
    words: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The child rows of each of n pairs, as the loops take them; see `kernels`."""

    perm: Ints
    start: Ints
    lo: Ints
    hi: Ints
    cutoffs: Ints
    odd: Bytes
    known_from: Ints
    known_to: Ints
    masks: Bytes
    times: Ints
    numbers: Floats
    codes: Codes


def empty_subject(stage: Stage, rows: int) -> Subject:
    """A subject with nothing computed yet."""
    return Subject(np.empty((stage.numbers, rows)), np.empty((stage.codes, rows), np.int32))


def rows_as_of(place: Place, table: str, codes: Ints, cutoffs: Ints) -> Ints:
    """The row that each key's state was in as of its cutoff; -1 for none."""
    states = place.world.states(table)
    found = ranges.as_of(
        codes, cutoffs, place.inclusive, states.offsets, states.known_from, states.known_to, states.times
    )
    return np.where(found >= 0, states.order[found], -1) if len(states.order) else np.asarray(found)


def visiting(codes: Ints, cutoffs: Ints, size: int) -> Ints:
    """The order in which pairs are visited: those of one code together, by cutoff. Codes are below `size`, or -1."""
    n = len(codes)
    if n < 2 or cutoffs[0] == cutoffs[-1] == cutoffs.min() == cutoffs.max():
        return np.arange(n)
    if size > 8 * n:
        return np.lexsort((cutoffs, codes))
    order, _, _ = ranges.sort_blocks(codes + 1, cutoffs, size + 1)
    return np.asarray(order)


def run_stage(stage: Stage, place: Place, pairs: Pairs, context: Mapping[str, Values] | None = None) -> Subject:
    """The values of all features of a stage for rows of its table; `context` are the asked rows' own columns."""
    subject = empty_subject(stage, len(pairs.rows))
    subject.times = [_NO_INTS] * stage.times
    world = place.world
    for feature, slot in stage.columns:
        _put(subject, feature.dtype, slot, world.tables[stage.table].column(feature.column), pairs.rows)
    for feature, slot in stage.asked:
        values = pairs.cutoffs if feature.kind is Kind.CUTOFF else (context or {})[feature.column]
        _put(subject, feature.dtype, slot, values)
    for parent in stage.parents:
        _from_parent(subject, place, parent, pairs)
    if stage.children:
        codes = _key_codes(world, stage.table, pairs.rows) if pairs.codes is None else pairs.codes
        order = _order(pairs, codes, world.size(stage.table))
        for children in stage.children:
            _from_children(subject, place, children, (codes, pairs.cutoffs, order))
    for step in stage.steps:
        run_step(step, subject, place, pairs.rows, pairs.cutoffs)
    return subject


def _order(pairs: Pairs, codes: Ints, size: int) -> Ints:
    if pairs.positions is None or not len(codes):
        return visiting(codes, pairs.cutoffs, size)
    first = pairs.positions.min()
    return visiting(pairs.positions - first, pairs.cutoffs, int(pairs.positions.max() - first) + 1)


def _put(subject: Subject, dtype: DType, slot: int, values: Values, rows: Ints | None = None) -> None:
    """Values of a column at `rows` (None: as they are) into their slot; null where the row is -1."""
    if isinstance(values, Categories):
        subject.words[slot] = list(values.values)
        codes = values.codes if rows is None else np.append(values.codes, np.int32(-1))[rows]
        subject.codes[slot] = codes
    elif dtype is DType.TIME:
        moments = values.astype(np.int64, copy=False)
        subject.times[slot] = moments if rows is None else np.append(moments, NULL_TIME)[rows]
    elif rows is None:
        subject.numbers[slot] = values
    else:
        ranges.take_numbers(values, rows, subject.numbers[slot])


def _key_codes(world: World, table: str, rows: Ints) -> Ints:
    own = world.key_codes(table)
    return np.where(rows >= 0, own[rows], -1) if len(own) else np.full(len(rows), -1)


def _from_parent(
    subject: Subject, place: Place, parent: tuple[Link, Stage, list[tuple[Feature, int, int]]], pairs: Pairs
) -> None:
    link, above, taken = parent
    linked, rows, cutoffs = place.world.link_codes(link), pairs.rows, pairs.cutoffs
    codes = np.where(rows >= 0, linked[rows], -1) if len(linked) else np.full(len(rows), -1)
    inverse: Ints | None = None
    if above.heavy and len(rows) > 1:
        firsts, inverse = _distinct(codes, cutoffs, place.world.size(link.parent))
        codes, cutoffs = codes[firsts], cutoffs[firsts]
    parents = run_stage(above, place, Pairs(rows_as_of(place, link.parent, codes, cutoffs), codes, cutoffs))
    for feature, inner, slot in taken:
        if is_code(feature):
            found = parents.codes[inner]
            subject.words[slot] = parents.words[inner]
            subject.codes[slot] = found if inverse is None else found[inverse]
        elif feature.dtype is DType.TIME:
            subject.times[slot] = parents.times[inner] if inverse is None else parents.times[inner][inverse]
        else:
            subject.numbers[slot] = parents.numbers[inner] if inverse is None else parents.numbers[inner][inverse]


def _distinct(codes: Ints, cutoffs: Ints, size: int) -> tuple[Ints, Ints]:
    """One position of each distinct (code, cutoff), and for each pair which of them is its."""
    many = size > 8 * len(codes)
    order = np.lexsort((cutoffs, codes)) if many else ranges.sort_blocks(codes + 1, cutoffs, size + 1)[0]
    one, two = codes[order], cutoffs[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return np.asarray(order[new]), inverse


def _from_children(subject: Subject, place: Place, children: Children, asked: tuple[Ints, Ints, Ints]) -> None:
    """`asked`: codes of the keys, cutoffs, and the order in which to visit them."""
    world, link = place.world, children.link
    codes, cutoffs, order = asked
    index = world.index(link)
    start, hi, lo, odd = ranges.ranges(
        codes, cutoffs, children.windows, place.inclusive, index.offsets, index.times, index.odd
    )
    masks = world.sorted_masks(link, children.conditions) if children.conditions else _NO_MASKS
    found = Range(
        order, start, lo, hi, cutoffs, odd, index.known_from, index.known_to, masks, index.times,
        world.sorted_numbers(link, children.numbers), world.sorted_codes(link, children.codes),
    )  # fmt: skip
    words = [world.values(link.child, name) for name in children.codes]
    begin = start if children.widest < 0 else lo[children.widest]
    alone = replace(place, pool=None) if place.pool else place

    def run(part: Ints) -> None:
        here = found if part is order else replace(found, perm=part)
        _loop(subject, children.stored, here, words)
        if children.stage is not None and children.computed is not None:
            inner, names = _below(alone, children, children.stage, here, begin)
            _loop(subject, children.computed, inner, names)

    parts = _parts(order, hi - begin, children, subject, least=2 * (os.cpu_count() or 1) if place.pool else 1)
    if place.pool is None or len(parts) == 1:
        for part in parts:
            run(part)
    else:
        list(place.pool.map(run, parts))


def _parts(order: Ints, lengths: Ints, children: Children, subject: Subject, *, least: int) -> list[Ints]:
    """The visiting order in parts that hold few enough values, `least` of them where it is long."""
    below = children.stage.cells if children.stage else 0
    cells = int(lengths.sum()) * (1 + below) + len(order) * (len(subject.numbers) + len(subject.codes))
    size = max(min(_CELLS, cells // least), _SMALLEST)
    if cells <= size:
        return [order]
    weights = np.cumsum(lengths[order] * (1 + below) + len(subject.numbers) + len(subject.codes))
    ends = np.searchsorted(weights, np.arange(size, cells, size))
    return [part for part in np.split(order, ends) if len(part)]


def _below(place: Place, children: Children, stage: Stage, found: Range, begin: Ints) -> tuple[Range, list[list[str]]]:
    """The children themselves as a stage: their features, as the rows of a range, and the categories of its codes."""
    index, nothing = place.world.index(children.link), _NO_BYTES
    start, stop, positions = ranges.visible(
        found.perm, begin, found.hi, found.cutoffs, found.odd, found.known_from, found.known_to, nothing
    )
    rows, times, moments = ranges.expand(found.perm, start, stop, positions, index.order, index.times, found.cutoffs)
    below = run_stage(stage, place, Pairs(rows, None, moments, positions))
    lo = ranges.within(found.perm, start, stop, found.cutoffs, children.windows, times)
    inner = Range(
        found.perm, start, lo, stop, found.cutoffs, np.zeros(len(found.cutoffs), np.uint8), _NO_INTS, _NO_INTS,
        found.masks[:, positions] if len(found.masks) else found.masks, times, below.numbers, below.codes,
    )  # fmt: skip
    return inner, [below.words[slot] for slot in range(stage.codes)]


def _loop(subject: Subject, loops: Loops, found: Range, words: list[list[str]]) -> None:
    """Run what is asked over the rows, into the subject's slots."""
    seen = (found.cutoffs, found.odd, found.known_from, found.known_to, found.masks)
    for forward in (True, False):
        side = 0 if forward else 1
        walk = (found.perm, found.start, found.lo, found.hi, forward, *seen)
        if program := loops.rows[side]:
            kernels.rows(*walk, program.which, found.times, program.slots, subject.numbers)
        if program := loops.numbers[side]:
            kernels.numbers(*walk, program.which, found.numbers, program.slots, subject.numbers)
        if program := loops.shapes[side]:
            kernels.shapes(*walk, program.which, found.times, found.numbers, program.slots, subject.numbers)
        if program := loops.categories[side]:
            _categories(subject, program, walk, found, words)
        if asked := loops.quantiles[side]:
            kernels.quantiles(
                found.perm, found.start, found.lo, found.hi, forward, *seen, asked.which, found.numbers, asked.wanted,
                asked.shares, subject.numbers,
            )  # fmt: skip
    for own in loops.own:
        run_own(own, found, subject.numbers)


def _categories(
    subject: Subject, program: Program, walk: tuple[Any, ...], found: Range, words: list[list[str]]
) -> None:
    size = max(len(word) for word in words)
    kernels.categories(*walk, program.which, found.codes, program.slots, subject.numbers, subject.codes, max(size, 1))
    for slot, source in program.coded:
        subject.words[slot] = words[source]


def prepare(world: World, stage: Stage, pool: ThreadPoolExecutor) -> None:
    """Make what is dear of all that a plan reads of a large world, on all cores, before threads share it."""
    needs = _Needs()
    needs.jobs["states", stage.table] = partial(world.states, stage.table)
    needs.collect(world, stage)
    making = [pool.submit(job) for job in needs.jobs.values()]
    for link in needs.indexes:
        world.index(link, pool)
    for done in making:
        done.result()
    world.arrange(list(needs.sorted), pool)
    for standing in needs.last.values():
        standing()


class _Needs:
    """What must be made: jobs for a thread each, indexes and columns sorted by them that threads share, and `last` what
    stands on the indexes.
    """

    def __init__(self) -> None:
        self.jobs: Jobs = {}
        self.indexes: dict[Link, None] = {}
        self.sorted: dict[tuple[Link, tuple[str, ...], tuple[str, ...]], None] = {}
        self.last: Jobs = {}

    def collect(self, world: World, stage: Stage) -> None:
        """Of a stage, and those it stands on."""
        rows = world.tables[stage.table]
        for feature, _ in stage.columns:
            self.jobs["column", stage.table, feature.column] = partial(rows.column, feature.column)
        for link, above, _ in stage.parents:
            self.jobs["link", link] = partial(world.link_codes, link)
            self.jobs["states", link.parent] = partial(world.states, link.parent)
            self.collect(world, above)
        for step in stage.steps:
            if step.feature.link:
                self.indexes[step.feature.link] = None
                self.last["places", step.feature.link] = partial(world.places, step.feature.link)
        for children in stage.children:
            link, child = children.link, world.tables[children.link.child]
            self.indexes[link] = None
            for name in children.codes:
                self.jobs["column", link.child, name] = partial(child.column, name)
            self.sorted[link, children.numbers, children.codes] = None
            self.last["masks", link, children.conditions] = partial(world.sorted_masks, link, children.conditions)
            if children.stage is not None:
                self.collect(world, children.stage)
