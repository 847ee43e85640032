"""Tables as sorted arrays: what the evaluator reads.

Each table's key values (and the links that point at it, also those without a parent row) form a *key space*; a key is
then an integer code. `Rows` holds a table's columns; an `Index` holds the rows of a child table sorted by (link code,
event time, key, canonical content), so that one (entity, window) is one contiguous range in an order that does not
depend on where the rows came from; `States` finds a parent's row as it was known at a cutoff.

Conversions are done on first use and kept: a world is as cheap as what is asked of it.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.features import kernels
from holdfast.core.features.definitions import Condition
from holdfast.core.features.frame import Categories
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, DType, Link, Schema, Table
from holdfast.core.timeline import ALWAYS, NEVER
from holdfast.errors import InputError

__all__ = ["NULL_TIME", "Index", "Rows", "States", "World", "categories_of", "floats_of", "instants_of"]

Ints = npt.NDArray[np.int64]
_COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NULL_TIME = -(2**63)
"""A time that is not known (numpy's not-a-time)."""


class Rows:
    """The rows (all their states) of one table as arrays of equal length."""

    def __init__(self, table: Table, data: pa.Table) -> None:
        self.table = table
        self._data = data
        self._columns: dict[str, npt.NDArray[np.float64] | Ints | Categories] = {}

    def __len__(self) -> int:
        return int(self._data.num_rows)

    def raw(self, column: str) -> pa.ChunkedArray:
        """The column as it came."""
        return self._data.column(column)

    def column(self, name: str) -> npt.NDArray[np.float64] | Ints | Categories:
        """Numbers and truth values as float64 (NaN = null), times as int64 (NULL_TIME), strings as Categories."""
        if name not in self._columns:
            dtype, data = self.table.column(name).dtype, self.raw(name)
            if dtype.is_number:
                self._columns[name] = floats_of(data)
            elif dtype is DType.TIME:
                self._columns[name] = instants_of(data, NULL_TIME)
            else:
                self._columns[name] = categories_of(data)
        return self._columns[name]

    @cached_property
    def times(self) -> Ints:
        """When each row happened; ALWAYS for a table without a time, NULL_TIME where it is null."""
        if self.table.time is None:
            return np.full(len(self), ALWAYS, np.int64)
        times = self.column(self.table.time)
        assert isinstance(times, np.ndarray)
        return times.astype(np.int64, copy=False)

    @property
    def has_history(self) -> bool:
        """Whether the table says when rows became known."""
        return KNOWN_FROM in self._data.column_names or KNOWN_TO in self._data.column_names

    @cached_property
    def known_from(self) -> Ints:
        """When each state became known; ALWAYS where the table does not say."""
        if KNOWN_FROM not in self._data.column_names:
            return np.full(len(self), ALWAYS, np.int64)
        return instants_of(self.raw(KNOWN_FROM), ALWAYS)

    @cached_property
    def known_to(self) -> Ints:
        """When each state was superseded; NEVER while current."""
        if KNOWN_TO not in self._data.column_names:
            return np.full(len(self), NEVER, np.int64)
        return instants_of(self.raw(KNOWN_TO), NEVER)

    def sources(self, positions: Ints) -> list[tuple[str, int]]:
        """The raw file and row of each of the rows; empty where the table does not say."""
        if SOURCE_FILE not in self._data.column_names:
            return []
        taken = self._data.select([SOURCE_FILE, SOURCE_ROW]).take(pa.array(positions))
        return list(zip(taken.column(0).to_pylist(), taken.column(1).to_pylist(), strict=True))

    def fresh(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers as float64 [n], perhaps with several zeros and NaNs; not kept."""
        kept = self._columns.get(name)
        if isinstance(kept, np.ndarray) and kept.dtype == np.float64:
            return kept
        data = self.raw(name)
        return np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64) if len(data) else np.empty(0)

    def tie_breakers(self) -> list[npt.NDArray[np.float64] | Ints]:
        """Sort keys, most significant first, that order rows of one moment by content alone: key, else every column."""
        return [*(self.ordinal(name) for name in self.table.key or self.table.names), self.known_from]

    def ordinal(self, name: str) -> npt.NDArray[np.float64] | Ints:
        """The column as numbers that compare as its values do, exactly: large integers are not rounded."""
        if self.table.column(name).dtype is DType.INT:
            return integers_of(self.raw(name))
        column = self.column(name)
        return column.codes if isinstance(column, Categories) else column


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
        self._spaces: dict[str, pa.Array] = {}
        self._links: dict[tuple[str, str], Ints] = {}
        self._indexes: dict[Link, Index] = {}
        self._states: dict[str, States] = {}
        self._places: dict[Link, Ints] = {}
        self._numbers: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.float64]] = {}
        self._codes: dict[tuple[Link, tuple[str, ...]], npt.NDArray[np.int32]] = {}
        self._masks: dict[tuple[Link, tuple[Condition, ...]], npt.NDArray[np.uint8]] = {}
        self._matches: dict[tuple[str, Condition], npt.NDArray[np.uint8]] = {}

    @staticmethod
    def build(schema: Schema, tables: Mapping[str, pa.Table]) -> "World":
        """A world of Arrow tables with the schema's columns (a table that is absent counts as empty).

        Tables with the system columns of `core.schema` keep their history; without them every row counts as known
        always. InputError when a column is absent or of another type.
        """
        rows = {}
        for name, table in schema.tables.items():
            data = tables.get(name)
            if data is None:
                data = pa.table({column.name: pa.array([], column.dtype.arrow) for column in table.columns})
            for column in table.columns:
                if column.name not in data.column_names:
                    raise InputError(
                        f"table {name!r} lacks the column {column.name!r}", where={"table": name, "column": column.name}
                    )
            rows[name] = Rows(table, data)
        return World(schema, rows)

    def codes(self, table: str, values: pa.Array) -> Ints:
        """Codes of key values of `table`, int64 [n]; -1 for null and for keys that nothing mentions."""
        space = self._space(table)
        if values.type != space.type:
            try:
                values = values.cast(space.type)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"keys of {table!r} are {space.type}, not {values.type}: {error}", where={"table": table}
                ) from error
        return _index_in(values, space)

    def key_codes(self, table: str) -> Ints:
        """The code of each row's own key, for a table with a one-column key."""
        return self._coded(table, self.schema.table(table).key[0], table)

    def link_codes(self, link: Link) -> Ints:
        """The code, in the parent's key space, of each child row's link; -1 for null."""
        return self._coded(link.child, link.column, link.parent)

    def index(self, link: Link) -> Index:
        """Child rows behind the link. Rows without a link value or without a time are never in it."""
        if link not in self._indexes:
            self._indexes[link] = self._build_index(link)
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
        key = (link, columns)
        if key not in self._numbers:
            rows, order = self.tables[link.child], self.index(link).order
            values = np.empty((len(columns), len(order)))
            for place, name in enumerate(columns):
                kernels.take_numbers(rows.fresh(name), order, values[place])
            self._numbers[key] = values
        return self._numbers[key]

    def sorted_codes(self, link: Link, columns: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """Columns of categories of a child in the order of the link's index, int32 [columns, rows]."""
        key = (link, columns)
        if key not in self._codes:
            order = self.index(link).order
            codes = np.empty((len(columns), len(order)), np.int32)
            for place, name in enumerate(columns):
                column = self.tables[link.child].column(name)
                assert isinstance(column, Categories)
                np.take(column.codes, order, out=codes[place], mode="clip")
            self._codes[key] = codes
        return self._codes[key]

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
            elif isinstance(condition.value, int) and not isinstance(condition.value, bool):
                exact = rows.table.column(condition.column).dtype is DType.INT
                met = compare(rows.ordinal(condition.column) if exact else column, condition.value) & ~np.isnan(column)
            else:
                met = compare(column, float(condition.value)) & ~np.isnan(column)
            self._matches[table, condition] = met.astype(np.uint8)
        return self._matches[table, condition]

    def _space(self, table: str) -> pa.Array:
        """Distinct key values of the table: of its own rows and of every link to it."""
        if table not in self._spaces:
            own = self.tables[table].raw(self.schema.table(table).key[0])
            parts = [own, *(self.tables[link.child].raw(link.column) for link in self.schema.children(table))]
            chunks = []
            for part in parts:
                if part.type != own.type and part.null_count < len(part):
                    raise InputError(
                        f"links to {table!r} are {part.type} but its key is {own.type}",
                        where={"table": table},
                        hint="Declare the same type for both under `columns:` in the project file.",
                    )
                if part.type == own.type:
                    chunks.extend(part.chunks)
            values = pc.unique(pa.chunked_array(chunks, own.type))
            self._spaces[table] = values.drop_null()
        return self._spaces[table]

    def _coded(self, table: str, column: str, space: str) -> Ints:
        if (table, column) not in self._links:
            values = self.tables[table].raw(column)
            target = self._space(space)
            if values.type != target.type:  # only an all-null column gets here
                self._links[table, column] = np.full(len(values), -1, np.int64)
            else:
                self._links[table, column] = _index_in(values, target)
        return self._links[table, column]

    def _build_index(self, link: Link) -> Index:
        rows = self.tables[link.child]
        codes, times = self.link_codes(link), rows.times
        if rows.table.time is not None:
            codes = np.where(times == NULL_TIME, -1, codes)
        order, happened, offsets = kernels.sort_blocks(codes, times, len(self._space(link.parent)))
        order = _break_ties(order, kernels.ties(offsets, happened), rows)
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
        codes = self.key_codes(table)
        order = np.lexsort((rows.known_to, rows.known_from, codes))
        order = order[np.searchsorted(codes[order], 0) :]
        sorted_codes, known_from, known_to = codes[order], rows.known_from[order], rows.known_to[order]
        overlap = np.flatnonzero((sorted_codes[1:] == sorted_codes[:-1]) & (known_from[1:] < known_to[:-1]))
        if len(overlap):
            key = rows.table.key[0]
            value = rows.raw(key)[int(order[overlap[0]])].as_py()
            raise InputError(
                f"table {table!r} has two rows with {key} = {value!r} at the same time",
                where={"table": table, "column": key, "key": value},
                hint="A key names one row; send only the newest.",
            )
        offsets = np.searchsorted(sorted_codes, np.arange(len(self._space(table)) + 1))
        times = rows.times[order]
        # A state without a time has not happened at any cutoff.
        times = np.where(times == NULL_TIME, NEVER, times) if rows.table.time else times
        return States(order, offsets.astype(np.int64), times, known_from, known_to)


def _break_ties(order: Ints, same: npt.NDArray[np.uint8], rows: Rows) -> Ints:
    """Reorder runs of rows of one block and moment by their content, so that the order never depends on position.

    `same` uint8 [n]: whether a row is of the same run as the one before it.
    """
    follows = same.view(np.bool_)
    if not follows.any():
        return order
    tied = follows.copy()
    tied[:-1] |= follows[1:]
    run = np.cumsum(~follows)[tied]
    members = order[tied]
    keys = [key[members] for key in reversed(rows.tie_breakers())]
    order = order.copy()
    order[tied] = members[np.lexsort((*keys, run))]
    return order


def floats_of(data: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers or truth values as float64 [n]; null is NaN."""
    values = np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64) if len(data) else np.empty(0)
    # One zero and one NaN: equal values must have equal bits.
    return np.where(np.isnan(values), np.nan, values + 0.0)


def integers_of(data: pa.ChunkedArray) -> Ints:
    """Integers as int64 [n]; null is the smallest one, which no stored integer is unless it means it."""
    if pa.types.is_null(data.type):
        return np.full(len(data), NULL_TIME, np.int64)
    return np.asarray(pc.fill_null(data.cast(pa.int64()), NULL_TIME).to_numpy(), np.int64)


def instants_of(data: pa.ChunkedArray, null: int) -> Ints:
    """Timestamps as int64 microseconds [n], `null` where there is none."""
    if pa.types.is_null(data.type):
        return np.full(len(data), null, np.int64)
    if pa.types.is_timestamp(data.type):
        data = data.cast(pa.timestamp("us", tz=data.type.tz))
    return np.asarray(pc.fill_null(data.cast(pa.int64()), null).to_numpy(), np.int64)


def categories_of(data: pa.ChunkedArray) -> Categories:
    """Strings as codes that ascend by Unicode code point."""
    encoded = pa.chunked_array([data.combine_chunks()] if data.num_chunks != 1 else data.chunks, data.type)
    array = (
        pc.dictionary_encode(encoded.chunk(0)) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    )
    order = np.asarray(pc.array_sort_indices(array.dictionary), np.int64)
    rank = np.empty(len(order) + 1, np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    rank[-1] = -1
    codes = rank[np.asarray(pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False))]
    return Categories(codes, array.dictionary.take(pa.array(order)).to_pylist())


def _index_in(values: pa.Array | pa.ChunkedArray, space: pa.Array) -> Ints:
    found = pc.index_in(values, value_set=space, skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)
