"""What differs between two versions. Parts that both list are not looked at where that is right."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast.backend.datasets.parts import PERIOD_END, REMOVED, PartStore
from holdfast.backend.datasets.tables import Part
from holdfast.core.drift.shift import Shift, column_shift
from holdfast.core.prepare import current_states, row_ids
from holdfast.core.prepare.states import number_equal
from holdfast.core.schema import SYSTEM_FIELDS, DType, Schema, Table

__all__ = ["Comparison", "Difference", "TableComparison", "compare_rows", "compare_schemas", "touched_rows"]

_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class TableComparison:
    """Current rows of one table in both versions, matched by key (without a key: by content and number).

    Examples are keys (or rows) as mappings; a changed one also has `was` and `is`, with the columns that differ.
    `shift` is the population stability index of each column of truth values, numbers and categories but the key, the
    largest first (`core.drift.shift` says formula and bins); it is empty where no row differs.
    """

    added: int
    removed: int
    changed: int
    same: int
    examples: Mapping[str, tuple[dict[str, Any], ...]]
    shift: Mapping[str, Shift] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`schema` says in words what changed in it; `tables` compares the rows of tables that either version has."""

    before: str
    after: str
    schema: tuple[str, ...]
    tables: Mapping[str, TableComparison]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows that may differ: those of either version that the other may not have. `same` further ones are equal."""

    old: pa.Table | None
    new: pa.Table | None
    same: int


def _shared(one: Sequence[Part], other: Sequence[Part]) -> int:
    """How many parts both begin with."""
    count = 0
    while count < min(len(one), len(other)) and one[count].digest == other[count].digest:
        count += 1
    return count


def touched_rows(parts: PartStore, table: Table, one: Sequence[Part], other: Sequence[Part], rows: int) -> Difference:
    """Current rows that differ between two lists of parts of one table; `rows` is how many the first one has in all.

    Of what both begin with only rows are read whose keys either has states of after it.
    """
    shared = _shared(one, other)
    ends = [parts.raw_states(table, side[shared:]) for side in (one, other)]
    if not table.key:
        return Difference(ends[0], ends[1], rows - len(ends[0]))
    keys = pa.concat_tables([end.select(table.key) for end in ends])
    keys = keys.take(pa.array(np.unique(row_ids([keys], table.key)[0], return_index=True)[1]))
    before = parts.last(table, one[:shared], keys=keys)
    start = before.rows.append_column(REMOVED, pa.array(before.removed))
    found = []
    for end in ends:
        states = pa.concat_tables([start, end.select(start.column_names)])
        last = current_states(row_ids([states], table.key)[0]) & ~states[REMOVED].to_numpy()
        found.append(states.filter(pa.array(last)))
    return Difference(found[0], found[1], rows - len(found[0]))


def compare_rows(table: Table, difference: Difference, reference: pa.Table | None) -> TableComparison:
    """Compare rows that may differ; `reference` are all current rows before, for the shift (None: not asked for)."""
    found = _compare_table(table, difference.old, difference.new, difference.same)
    if reference is None or not found.added + found.removed + found.changed:
        return found
    old, new = _aligned(difference.old, difference.new)
    shift = {}
    for column in table.columns:
        name = column.name
        # Text and times have no distribution that would stay; a key never repeats.
        if column.dtype in (DType.TEXT, DType.TIME) or name in table.key or name not in reference.column_names:
            continue
        whole = reference[name].cast(old[name].type) if reference[name].type != old[name].type else reference[name]
        shift[name] = column_shift(whole, new[name], old[name])
    ordered = sorted(shift.items(), key=lambda item: (-item[1].psi, item[0]))
    return TableComparison(
        found.added, found.removed, found.changed, found.same, found.examples, dict(ordered)
    )  # fmt: skip


def compare_schemas(before: Schema, after: Schema) -> tuple[str, ...]:
    """What changed, in words."""
    return tuple(_schema_changes(before, after))


def _schema_changes(before: Schema, after: Schema) -> list[str]:
    said = []
    for name in dict.fromkeys((*before.tables, *after.tables)):
        old, new = before.tables.get(name), after.tables.get(name)
        if old is None or new is None:
            said.append(f"table {name} {'added' if old is None else 'removed'}")
            continue
        for word, one, other in (
            ("key", old.key, new.key),
            ("time", old.time, new.time),
            ("links", old.links, new.links),
            ("source", old.source, new.source),
        ):
            if one != other:
                said.append(f"{name}: {word} was {one}, is {other}")
        columns = {c.name: c for c in old.columns}, {c.name: c for c in new.columns}
        for column in dict.fromkeys((*columns[0], *columns[1])):
            was, now = columns[0].get(column), columns[1].get(column)
            if was is None or now is None:
                said.append(f"{name}.{column} {'added' if was is None else 'removed'}")
                continue
            one, other = was.to_dict(), now.to_dict()
            said += [f"{name}.{column}: {k} was {one[k]}, is {other[k]}" for k in one if one[k] != other[k]]
    return said


def _compare_table(table: Table, old: pa.Table | None, new: pa.Table | None, same: int) -> TableComparison:
    one, other = _aligned(old, new)
    columns = one.column_names
    contents = row_ids([one, other], columns)
    ids = row_ids([one, other], table.key) if table.key else _numbered(contents)
    size = max((int(i.max(initial=-1)) for i in ids), default=-1) + 1
    places = np.full(size, -1, np.int64)
    places[ids[0]] = np.arange(len(ids[0]))
    at = places[ids[1]]
    both = np.flatnonzero(at >= 0)
    differs = both[contents[0][at[both]] != contents[1][both]] if len(both) else both
    listed = np.zeros(size, bool)
    listed[ids[1]] = True
    added, removed = np.flatnonzero(at < 0), np.flatnonzero(~listed[ids[0]])
    shown = table.key or columns
    examples = {
        "added": tuple(other.select(shown).take(pa.array(added[:_EXAMPLES])).to_pylist()),
        "removed": tuple(one.select(shown).take(pa.array(removed[:_EXAMPLES])).to_pylist()),
        "changed": tuple(_difference(table, one, other, int(at[n]), int(n)) for n in differs[:_EXAMPLES]),
    }
    return TableComparison(len(added), len(removed), len(differs), same + len(both) - len(differs), examples)


def _aligned(old: pa.Table | None, new: pa.Table | None) -> tuple[pa.Table, pa.Table]:
    """User columns of both in one schema: a column that one lacks is null; types that differ meet in text."""
    fields: dict[str, pa.DataType] = {}
    for rows in (old, new):
        for one in rows.schema if rows is not None else ():
            if one.name not in (*SYSTEM_FIELDS, REMOVED, PERIOD_END):
                fields[one.name] = one.type if fields.get(one.name, one.type) == one.type else pa.string()
    schema = pa.schema(list(fields.items()))

    def fit(rows: pa.Table | None) -> pa.Table:
        if rows is None:
            return schema.empty_table()
        present = set(rows.column_names)
        columns = [rows[f.name].cast(f.type) if f.name in present else pa.nulls(rows.num_rows, f.type) for f in schema]
        return pa.table(columns, schema=schema)

    return fit(old), fit(new)


def _numbered(contents: list[Any]) -> list[Any]:
    """Ids of (content, number among equal rows), shared by both sides."""
    numbered = [pa.table({"content": content, "number": number_equal(content)}) for content in contents]
    return row_ids(numbered, ["content", "number"])


def _difference(table: Table, old: pa.Table, new: pa.Table, was: int, now: int) -> dict[str, Any]:
    one, other = old.slice(was, 1).to_pylist()[0], new.slice(now, 1).to_pylist()[0]
    names = [name for name in one if one[name] != other[name]]
    return {
        **{name: other[name] for name in table.key},
        "was": {name: one[name] for name in names},
        "is": {name: other[name] for name in names},
    }
