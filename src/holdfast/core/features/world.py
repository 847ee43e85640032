"""Tables as sorted arrays: what the evaluator reads.

Each table's key values (and the links that point at it, also those without a parent row) form a *key space*; a key is
then an integer code. `Rows` holds a table's columns; an `Index` holds the rows of a child table sorted by (link code,
event time, key, canonical content), so that one (entity, window) is one contiguous range in an order that does not
depend on where the rows came from; `States` finds a parent's row as it was known at a cutoff.

Conversions are done on first use and kept: a world is as cheap as what is asked of it.
"""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features import ranges
from holdfast.core.features.arrays import Array, ArrayRows
from holdfast.core.features.columns import NULL_TIME, Rows
from holdfast.core.features.definitions import Condition
from holdfast.core.features.frame import Categories
from holdfast.core.features.keys import ArrowKeys, DenseKeys, Keys, ListedKeys
from holdfast.core.schema import DType, Link, Schema
from holdfast.core.timeline import ALWAYS, NEVER
from holdfast.errors import InputError

__all__ = ["Index", "States", "World"]

Ints = npt.NDArray[np.int64]
_COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Index:
    """The rows of a child table behind one link, sorted; `order` gives each sorted position's row in the table."""

    order: Ints
    offsets: Ints
    times: Ints
    known_from: Ints
    known_to: Ints
    odd: npt.NDArray[np.uint8]
    """Per code, whether a row was known later than it happened, or was superseded. Where none was, the range alone
    decides: then this and the known times are empty."""


@dataclass(frozen=True)
class States:
    """The states of a keyed table, sorted by (key code, known_from)."""

    order: Ints
    offsets: Ints
    times: Ints
    known_from: Ints
    known_to: Ints


class World:
    """All tables of a schema, ready for the evaluator. Safe to share between threads that only evaluate."""

    def __init__(self, schema: Schema, tables: Mapping[str, Rows]) -> None:
        self.schema = schema
        self.tables = tables
        self._spaces: dict[str, Keys] = {}
        self._links: dict[tuple[str, str], Ints] = {}
        self._indexes: dict[Link, Index] = {}
        self._states: dict[str, States] = {}
        self._places: dict[Link, Ints] = {}
        self._numbers: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.float64]] = {}
        self._codes: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.int32]] = {}
        self._masks: dict[tuple[Link, tuple[Condition, ...]], npt.NDArray[np.uint8]] = {}
        self._matches: dict[tuple[str, Condition], npt.NDArray[np.uint8]] = {}

    @staticmethod
    def build(schema: Schema, tables: Mapping[str, pa.Table | Mapping[str, Array]]) -> "World":
        """A world of tables with the schema's columns (a table that is absent counts as empty).

        Arrow tables with the system columns of `core.schema` keep their history; without them, and where a table is
        given as arrays (see `ArrayRows`), every row counts as known always. InputError when a column is absent or of
        another type.
        """
        rows: dict[str, Rows] = {}
        for name, table in schema.tables.items():
            data = tables.get(name)
            if isinstance(data, Mapping):
                rows[name] = ArrayRows(table, data)
                continue
            if data is None:
                data = pa.table({column.name: pa.array([], column.dtype.arrow) for column in table.columns})
            for column in table.columns:
                if column.name not in data.column_names:
                    raise InputError(
                        f"table {name!r} lacks the column {column.name!r}", where={"table": name, "column": column.name}
                    )
            rows[name] = Rows(table, data)
        return World(schema, rows)

    def codes(self, table: str, values: pa.Array | npt.NDArray[np.generic] | Sequence[object]) -> Ints:
        """Codes of key values of `table`, int64 [n]; -1 for null and for keys that nothing mentions."""
        return self._space(table).codes(values)

    def key_codes(self, table: str) -> Ints:
        """The code of each row's own key, for a table with a one-column key."""
        return self._coded(table, self.schema.table(table).key[0], table)

    def link_codes(self, link: Link) -> Ints:
        """The code, in the parent's key space, of each child row's link; -1 for null."""
        return self._coded(link.child, link.column, link.parent)

    def index(self, link: Link, pool: Executor | None = None) -> Index:
        """Child rows behind the link. Rows without a link value or without a time are never in it.

        Here and below: with a `pool`, its threads share the work, and the caller must not be one of them.
        """
        if link not in self._indexes:
            self._indexes[link] = self._build_index(link, pool)
        return self._indexes[link]

    def states(self, table: str) -> States:
        """States by key. InputError when two states of one key are valid at once."""
        if table not in self._states:
            self._states[table] = self._build_states(table)
        return self._states[table]

    def places(self, link: Link) -> Ints:
        """The position of each row of the child table in the link's index; -1 for rows that are not in it."""
        if link not in self._places:
            order = self.index(link).order
            places = np.full(len(self.tables[link.child]), -1, np.int64)
            places[order] = np.arange(len(order))
            self._places[link] = places
        return self._places[link]

    def sorted_numbers(self, link: Link, columns: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """Columns of a child in the order of the link's index, float64 [columns, rows]."""
        if (link, columns) not in self._numbers:
            rows, order = self.tables[link.child], self.index(link).order
            values = np.empty((len(columns), len(order)))
            for column, out in zip(columns, values, strict=True):
                _take_numbers(rows, column, order, out)
            self._numbers[link, columns] = values
        return self._numbers[link, columns]

    def sorted_codes(self, link: Link, columns: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """Columns of categories of a child in the order of the link's index, int32 [columns, rows]."""
        if (link, columns) not in self._codes:
            rows, order = self.tables[link.child], self.index(link).order
            codes = np.empty((len(columns), len(order)), np.int32)
            for column, out in zip(columns, codes, strict=True):
                _take_codes(rows, column, order, out)
            self._codes[link, columns] = codes
        return self._codes[link, columns]

    def arrange(self, wanted: Sequence[tuple[Link, tuple[str, ...], tuple[str, ...]]], pool: Executor) -> None:
        """Make `sorted_numbers` and `sorted_codes` of links, columns of numbers and of categories.

        All at once: no thread waits until others are done with one link, or one kind.
        """
        jobs: list[Callable[[], None]] = []
        numbers: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.float64]] = {}
        codes: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.int32]] = {}
        for link, counted, coded in wanted:
            rows, order = self.tables[link.child], self.index(link).order
            if (link, counted) not in self._numbers and (link, counted) not in numbers:
                numbers[link, counted] = lines = np.empty((len(counted), len(order)))
                for column, out in zip(counted, lines, strict=True):
                    jobs.append(partial(_take_numbers, rows, column, order, out))
            if (link, coded) not in self._codes and (link, coded) not in codes:
                codes[link, coded] = places = np.empty((len(coded), len(order)), np.int32)
                for column, line in zip(coded, places, strict=True):
                    jobs.append(partial(_take_codes, rows, column, order, line))
        for done in [pool.submit(job) for job in jobs]:
            done.result()
        # Only now may other threads find them.
        self._numbers |= numbers
        self._codes |= codes

    def sorted_masks(self, link: Link, conditions: tuple[Condition, ...]) -> npt.NDArray[np.uint8]:
        """Which rows meet each condition, uint8 [conditions, rows], in the order of the link's index."""
        key = (link, conditions)
        if key not in self._masks:
            order = self.index(link).order
            masks = np.empty((len(conditions), len(order)), np.uint8)
            for place, condition in enumerate(conditions):
                masks[place] = self.matches(link.child, condition)[order]
            self._masks[key] = masks
        return self._masks[key]

    def keyed(self, table: str) -> bool:
        """Whether the table has a key of one column."""
        return len(self.schema.table(table).key) == 1

    def size(self, table: str) -> int:
        """How many keys of the table there are, among its own rows and those that link to it."""
        return len(self._space(table))

    def values(self, table: str, column: str) -> list[str]:
        """The categories of a column, by code."""
        found = self.tables[table].column(column)
        assert isinstance(found, Categories)
        return list(found.values)

    def matches(self, table: str, condition: Condition) -> npt.NDArray[np.uint8]:
        """Which rows of the table (in its own order) meet the condition, as 0/1."""
        if (table, condition) not in self._matches:
            rows = self.tables[table]
            column = rows.column(condition.column)
            compare = _COMPARE[condition.operator]
            if isinstance(column, Categories):
                wanted = str(condition.value)
                code = next((c for c, value in enumerate(column.values) if value == wanted), -2)
                met = compare(column.codes, code) & (column.codes >= 0)
            elif rows.table.column(condition.column).dtype is DType.INT and isinstance(condition.value, int):
                met = compare(rows.ordinal(condition.column), condition.value) & ~np.isnan(column)
            else:
                met = compare(column, float(condition.value)) & ~np.isnan(column)
            self._matches[table, condition] = met.astype(np.uint8)
        return self._matches[table, condition]

    def _space(self, table: str) -> Keys:
        """Distinct key values of the table: of its own rows and of every link to it."""
        if table not in self._spaces:
            parts = [(self.tables[table], self.schema.table(table).key[0])]
            parts += [(self.tables[link.child], link.column) for link in self.schema.children(table)]
            if all(isinstance(rows, ArrayRows) for rows, _ in parts):
                self._spaces[table] = ListedKeys(rows.keys(name) for rows, name in parts if isinstance(rows, ArrayRows))
            else:
                columns = [rows.raw(name) for rows, name in parts]
                self._spaces[table] = DenseKeys.fitting(table, columns) or ArrowKeys(table, columns)
        return self._spaces[table]

    def _coded(self, table: str, column: str, space: str) -> Ints:
        if (table, column) not in self._links:
            self._links[table, column] = self._coding(table, column, space)
        return self._links[table, column]

    def _coding(self, table: str, column: str, space: str) -> Ints:
        if (table, column) in self._links:
            return self._links[table, column]
        rows = self.tables[table]
        return self._space(space).codes(rows.keys(column) if isinstance(rows, ArrayRows) else rows.raw(column))

    def _build_index(self, link: Link, pool: Executor | None) -> Index:
        rows = self.tables[link.child]
        # Not kept: what follows links downwards needs them here only, and they are as large as a column.
        codes, times = self._coding(link.child, link.column, link.parent), rows.times
        if rows.table.time is not None and (untimed := times == NULL_TIME).any():
            codes = np.where(untimed, -1, codes)
        order, happened, offsets = _sort_blocks(codes, times, len(self._space(link.parent)), pool)
        order = _break_ties(order, ranges.ties(offsets, happened), rows)
        nothing = np.zeros(0, np.int64)
        if not rows.has_history:
            return Index(order, offsets, happened, nothing, nothing, np.zeros(0, np.uint8))
        known_from, known_to = rows.known_from[order], rows.known_to[order]
        odd = (known_to != NEVER) | (known_from > happened)
        if not odd.any():
            return Index(order, offsets, happened, nothing, nothing, np.zeros(0, np.uint8))
        odd_codes = np.zeros(len(offsets) - 1, np.uint8)
        odd_codes[codes[order[odd]]] = 1
        return Index(order, offsets, happened, known_from, known_to, odd_codes)

    def _build_states(self, table: str) -> States:
        rows = self.tables[table]
        codes, size = self.key_codes(table), len(self._space(table))
        if rows.has_history:
            order = np.lexsort((rows.known_to, rows.known_from, codes))
            order = order[np.searchsorted(codes[order], 0) :]
            offsets = np.searchsorted(codes[order], np.arange(size + 1)).astype(np.int64)
            known_from, known_to = rows.known_from[order], rows.known_to[order]
            same = codes[order[1:]] == codes[order[:-1]]
            overlap = np.flatnonzero(same & (known_from[1:] < known_to[:-1]))
        else:
            order, _, offsets = ranges.sort_blocks(codes, codes, size)
            known_from, known_to = np.full(len(order), ALWAYS, np.int64), np.full(len(order), NEVER, np.int64)
            overlap = offsets[1:][offsets[1:] > offsets[:-1] + 1] - 2
        if len(overlap):
            key = rows.table.key[0]
            value = rows.raw(key)[int(order[overlap[0]])].as_py()
            raise InputError(
                f"table {table!r} has two rows with {key} = {value!r} at the same time",
                where={"table": table, "column": key, "key": value},
                hint="A key names one row; send only the newest.",
            )
        times = rows.times[order]
        # A state without a time has not happened at any cutoff.
        times = np.where(times == NULL_TIME, NEVER, times) if rows.table.time else times
        return States(order, offsets, times, known_from, known_to)


def _take_numbers(rows: Rows, column: str, order: Ints, out: npt.NDArray[np.float64]) -> None:
    ranges.take_numbers(rows.fresh(column), order, out)


def _take_codes(rows: Rows, column: str, order: Ints, out: npt.NDArray[np.int32]) -> None:
    values = rows.column(column)
    assert isinstance(values, Categories)
    ranges.take_codes(values.codes, order, out)


def _sort_blocks(codes: Ints, times: Ints, blocks: int, pool: Executor | None) -> tuple[Ints, Ints, Ints]:
    """`ranges.sort_blocks`, in a pool a part of the codes at a time, of about equally many rows."""
    if pool is None:
        order, moments, offsets = ranges.sort_blocks(codes, times, blocks)
        return order, moments, offsets
    offsets = ranges.block_offsets(codes, blocks)
    order, moments = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
    parts = os.cpu_count() or 1
    ends = np.searchsorted(offsets[1:], np.arange(parts + 1) * offsets[-1] // parts)
    ends[-1] = blocks

    def fill(part: int) -> None:
        ranges.fill_blocks(codes, times, offsets, int(ends[part]), int(ends[part + 1]), order, moments)

    for _ in pool.map(fill, range(parts)):
        pass
    return order, moments, offsets


def _break_ties(order: Ints, same: npt.NDArray[np.uint8], rows: Rows) -> Ints:
    """Reorder runs of rows of one block and moment by their content, so that the order never depends on position.

    `same` uint8 [n]: whether a row is of the same run as the one before it.
    """
    follows = same.view(np.bool_)
    if not follows.any():
        return order
    there = follows.copy()
    there[:-1] |= follows[1:]
    tied = np.flatnonzero(there)
    run = np.cumsum(~follows[tied])
    members = order[tied]
    keys = [key[members] for key in reversed(rows.tie_breakers())]
    order = order.copy()
    if len(keys) == 1 and keys[0].dtype == np.int64:
        within, _, _ = ranges.sort_blocks(run - 1, keys[0], int(run[-1]))
    else:
        within = np.lexsort((*keys, run))
    order[tied] = members[within]
    return order
