"""One delivered table: raw files in, typed rows and a quarantine out.

The order of work: columns are matched by name, types proposed (first time) or applied, nulls of key and time refused,
binding rules checked, then equal rows of a keyed table dropped and rows that share a key parted.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.contract import RULES, Breach, ColumnContract, TableContract, check, observe
from holdfast.core.prepare.convert import convert, time_format, to_text, unify
from holdfast.core.prepare.infer import propose
from holdfast.core.prepare.states import current_states, row_ids
from holdfast.core.schema import RESERVED_PREFIX, SOURCE_FILE, SOURCE_ROW, Column, DType, Table
from holdfast.core.timeline import Known
from holdfast.errors import ConflictError, ContractError

__all__ = ["MASKED", "QUARANTINE", "Declared", "Delivered", "Source", "TableRule", "prepare_delivery"]

Mask = npt.NDArray[np.bool_]

QUARANTINE = pa.schema(
    [("table", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("column", pa.string()),
     ("value", pa.string()), ("reason", pa.string())]
)  # fmt: skip
"""One row per fault: a row of a table may have several. Values of personal columns are masked."""

MASKED = "***"
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Source:
    """A file's rows as read: `path` is where it is kept, `rows` the 1-based rows in it."""

    path: str
    table: pa.Table
    rows: pa.Array


@dataclass(frozen=True, slots=True)
class Declared:
    """What the project file says of a column; None where it says nothing."""

    type: DType | None = None
    format: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    personal: bool = False
    unit: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableRule:
    """What the project file says of a table."""

    name: str
    key: tuple[str, ...]
    time: str | None
    known: Known
    known_text: str
    delivery: str
    links: Mapping[str, str]
    columns: Mapping[str, Declared]

    @property
    def identifiers(self) -> frozenset[str]:
        """Columns that name things: the key and the links."""
        return frozenset((*self.key, *self.links))

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that may not be null."""
        column = (self.known.column,) if self.known.kind == "column" else ()
        return tuple(dict.fromkeys((*self.key, *((self.time,) if self.time else ()), *column)))


@dataclass(frozen=True, slots=True)
class Delivered:
    """Typed rows of one delivered table (columns of `table` in order, then SOURCE_FILE and SOURCE_ROW).

    `quarantined_keys` are keys of rows in quarantine whose key could be read. `report` counts.
    """

    table: Table
    contract: TableContract
    rows: pa.Table
    quarantine: pa.Table
    quarantined_keys: pa.Table
    report: dict[str, Any]


def prepare_delivery(
    rule: TableRule,
    sources: Sequence[Source],
    before: tuple[Table, TableContract] | None,
    link_types: Mapping[str, DType],
    timezone: str,
) -> Delivered:
    """Type and check one table's files against what binds. `before` is None at its first delivery.

    `link_types` are the types of the keys that its links point at. ContractError when a column is missing or reserved,
    ConflictError when the project file contradicts a bound type or key.
    """
    raw = _gather(rule, sources, before[0] if before else None)
    table, contract, notes = _schema(rule, raw, before, link_types)
    work = _Work(table, raw)
    for column in table.columns:
        work.convert(column, contract.columns[column.name].format, timezone)
    for name in rule.required:
        work.fault(name, pc.is_null(work.typed[name]).to_numpy(zero_copy_only=False), "is missing")
    warnings = []
    for column in table.columns:
        for breach in check(contract.columns[column.name], column.dtype, work.typed[column.name]):
            if breach.binds:
                work.fault(column.name, breach.mask, breach.reason)
            else:
                warnings.append((column.name, breach))
    work.part_equal_keys()
    rows = work.rows(work.good)
    first = before is None
    contract = replace(contract, columns=_observed(rule, table, contract, rows, before))
    report = work.report(notes, warnings)
    if first:
        report["proposed"] = {column.name: column.dtype.value for column in table.columns}
    keys = rows.slice(0, 0).select(table.key) if not table.key else work.rows(work.bad).select(table.key)
    return Delivered(table, contract, rows, work.quarantine(), keys, report)


def _gather(rule: TableRule, sources: Sequence[Source], table: Table | None) -> dict[str, pa.Array]:
    """Columns of all files as one raw array each, then SOURCE_FILE and SOURCE_ROW."""
    renamed = [_renamed(rule, source) for source in sources]
    expected = list(table.names) if table else []
    declared = (*rule.required, *rule.links, *rule.columns)
    names = list(dict.fromkeys((*expected, *(name for one in renamed for name in one.column_names), *declared)))
    if table:
        expected_set = set(expected)
        names = [*expected, *(name for name in names if name not in expected_set)]
    for name in names:
        for source, one in zip(sources, renamed, strict=True):
            if name not in one.column_names:
                raise _missing(rule.name, source.path, name, one.column_names)
    raw = {name: unify([one[name] for one in renamed]) for name in names}
    counts = [source.table.num_rows for source in sources]
    paths = pa.array([source.path for source in sources], pa.string())
    raw[SOURCE_FILE] = paths.take(pa.array(np.repeat(np.arange(len(sources)), counts)))
    raw[SOURCE_ROW] = pa.concat_arrays([_array(source.rows) for source in sources])
    return raw


def _array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return unify([values])


def _renamed(rule: TableRule, source: Source) -> pa.Table:
    aliases = {alias: name for name, column in rule.columns.items() for alias in column.aliases}
    names = [
        aliases[name] if name in aliases and aliases[name] not in source.table.column_names else name
        for name in source.table.column_names
    ]
    for name in names:
        if name.startswith(RESERVED_PREFIX):
            raise ContractError(
                f"column names that begin with {RESERVED_PREFIX!r} are reserved",
                where={"file": source.path, "table": rule.name, "column": name},
                hint="Rename the column in the file, or give it another name with `aliases`.",
            )
        if names.count(name) > 1:
            raise ContractError(
                "two columns of the file have the same name once aliases are applied",
                where={"file": source.path, "table": rule.name, "column": name},
            )
    return source.table.rename_columns(names)


def _missing(table: str, path: str, name: str, present: Sequence[str]) -> ContractError:
    close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    hint = (
        f"Did you mean {close[0]!r}? Name it so in the project file, or list it under the `aliases` of {name!r}."
        if close
        else f"The file has: {', '.join(present)}."
    )
    return ContractError(
        f"a column of table {table!r} is missing",
        where={"file": path, "table": table, "column": name},
        hint=f"{hint} A column without any value may be empty, but must be there.",
    )


def _schema(
    rule: TableRule,
    raw: Mapping[str, pa.Array],
    before: tuple[Table, TableContract] | None,
    link_types: Mapping[str, DType],
) -> tuple[Table, TableContract, list[str]]:
    """The table as it is from this delivery on, and the contract that its rows are held to."""
    columns, contracts, notes = [], {}, []
    old_table, old_contract = before or (None, None)
    if old_table and old_table.key != rule.key:
        raise ConflictError(
            f"the key of table {rule.name!r} is bound to {list(old_table.key)}, the project file says {list(rule.key)}",
            where={"table": rule.name, "key": "key"},
            hint="Keys bind at the first delivery: change the project file back, or start a new project.",
        )
    for name, cells in raw.items():
        if name in (SOURCE_FILE, SOURCE_ROW):
            continue
        declared = rule.columns.get(name, Declared())
        held = old_contract.columns.get(name) if old_contract else None
        old = old_table.column(name) if old_table and held else None
        dtype, contract, note = _column_type(
            rule, name, cells, declared=declared, old=old, held=held, linked=link_types.get(name)
        )
        if note:
            notes.append(f"{name}: {note}")
        if old_table and not old:
            notes.append(f"{name}: new column; rows delivered before have none")
        nullable = name not in rule.required and declared.rules.get("nullable", True)
        columns.append(Column(name, dtype, nullable, declared.personal, declared.unit, declared.description))
        rules = {k: v for k, v in declared.rules.items() if k in RULES}
        confirmed = tuple(r for r in contract.confirmed if r not in rules)
        contracts[name] = replace(contract, **rules, declared=tuple(rules), confirmed=confirmed)
    table = Table(rule.name, tuple(columns), rule.key, rule.time, dict(rule.links), rule.known_text)
    return table, TableContract(rule.known_text, rule.delivery, contracts), notes


def _column_type(
    rule: TableRule,
    name: str,
    cells: pa.Array,
    *,
    declared: Declared,
    old: Column | None,
    held: ColumnContract | None,
    linked: DType | None,
) -> tuple[DType, ColumnContract, str]:
    """The type that binds from now on, the contract it starts from, and a note for people."""
    wanted = declared.type or linked
    if name == rule.time or (rule.known.kind == "column" and name == rule.known.column):
        wanted = DType.TIME
    if old and held and not held.provisional:
        if declared.type and declared.type is not old.dtype and not _widens(old.dtype, declared.type):
            raise ConflictError(
                f"the type of this column is bound to {old.dtype}, the project file says {declared.type}",
                where={"table": rule.name, "column": name},
                hint="Types bind at the first delivery; int may become float, category and text may change places.",
            )
        dtype = declared.type or old.dtype
        return dtype, replace(held, format=declared.format or held.format or _found_format(dtype, cells)), ""
    proposal = propose(cells, identifier=name in rule.identifiers)
    dtype = wanted or proposal.dtype
    form = declared.format or _found_format(dtype, cells)
    provisional = proposal.provisional and wanted is None
    note = proposal.note if wanted is None else ""
    if held and held.provisional and not provisional:
        note = f"first values seen: the type is {dtype}"
    return dtype, replace(held or ColumnContract(), format=form, provisional=provisional), note


def _found_format(dtype: DType, cells: pa.Array) -> str | None:
    return time_format(cells)[0] if dtype is DType.TIME else None


def _widens(old: DType, new: DType) -> bool:
    return (old, new) in {(DType.INT, DType.FLOAT), (DType.CATEGORY, DType.TEXT), (DType.TEXT, DType.CATEGORY)}


def _observed(
    rule: TableRule,
    table: Table,
    contract: TableContract,
    rows: pa.Table,
    before: tuple[Table, TableContract] | None,
) -> dict[str, ColumnContract]:
    """The contracts widened by the accepted rows."""
    old = before[1].columns if before else {}
    result = {}
    for column in table.columns:
        now = contract.columns[column.name]
        fresh = column.name not in old or old[column.name].provisional
        identifier = column.name in rule.identifiers
        values = unify([rows[column.name]])
        result[column.name] = observe(now, column.dtype, values, first=fresh, identifier=identifier)
    return result


class _Work:
    """The delivery while it is checked: typed columns, the rows still good, and the faults found."""

    def __init__(self, table: Table, raw: Mapping[str, pa.Array]) -> None:
        self._table = table
        self._raw = raw
        self._count = len(raw[SOURCE_ROW])
        self._faults: list[tuple[str, npt.NDArray[np.int64], list[str | None], str | list[str]]] = []
        self._duplicates = np.zeros(self._count, bool)
        self._repairs: dict[str, dict[str, int]] = {}
        self.typed: dict[str, pa.Array] = {}
        self.bad = np.zeros(self._count, bool)

    @property
    def good(self) -> Mask:
        return ~self.bad & ~self._duplicates

    def convert(self, column: Column, form: str | None, timezone: str) -> None:
        result = convert(self._raw[column.name], column.dtype, formats=(form,) if form else (), timezone=timezone)
        self.typed[column.name] = result.values
        if result.repairs:
            self._repairs[column.name] = result.repairs
        for mask, reason in result.faults:
            self.fault(column.name, mask, reason)

    def fault(self, column: str, mask: Mask, reason: str) -> None:
        told = [positions for name, positions, *_ in self._faults if name == column]
        if told:
            mask = mask.copy()
            mask[np.concatenate(told)] = False
        positions = np.flatnonzero(mask)
        if len(positions):
            self._faults.append((column, positions, self._values(column, positions), reason))
            self.bad |= mask

    def _values(self, column: str, positions: npt.NDArray[np.int64]) -> list[str | None]:
        if self._table.column(column).personal:
            return [MASKED] * len(positions)
        texts: list[str | None] = to_text(self._raw[column].take(pa.array(positions))).cast(pa.string()).to_pylist()
        return texts

    def part_equal_keys(self) -> None:
        """Drop equal rows of a keyed table but the last; send rows that share a key and differ to quarantine but it."""
        table = self._table
        if not table.key:
            return
        places = np.flatnonzero(~self.bad)
        rows = pa.table(self.typed).take(pa.array(places))
        content = row_ids([rows], table.names)[0]
        last = current_states(content)
        self._duplicates[places[~last]] = True
        places, keys = places[last], row_ids([rows], table.key)[0][last]
        kept = current_states(keys)
        if kept.all():
            return
        winner = np.zeros(keys.max() + 1, np.int64)
        winner[keys[kept]] = places[kept]
        lost = places[~kept]
        numbers = self._raw[SOURCE_ROW].take(pa.array(winner[keys[~kept]])).to_pylist()
        reasons = [f"shares its key with row {number}, which differs and was kept" for number in numbers]
        self._faults.append((", ".join(table.key), lost, self._key_values(lost), reasons))
        self.bad[lost] = True

    def _key_values(self, positions: npt.NDArray[np.int64]) -> list[str | None]:
        parts = [self._values(name, positions) for name in self._table.key]
        return [", ".join(str(part) for part in row) for row in zip(*parts, strict=True)]

    def rows(self, mask: Mask) -> pa.Table:
        columns = {name: self.typed[name] for name in self._table.names}
        columns |= {name: self._raw[name] for name in (SOURCE_FILE, SOURCE_ROW)}
        return pa.table(columns).filter(pa.array(mask))

    def quarantine(self) -> pa.Table:
        parts = []
        for column, positions, values, reason in self._faults:
            taken = pa.array(positions)
            reasons = reason if isinstance(reason, list) else [reason] * len(positions)
            fields = [
                pa.array([self._table.name] * len(positions), pa.string()),
                self._raw[SOURCE_FILE].take(taken),
                self._raw[SOURCE_ROW].take(taken),
                pa.array([column] * len(positions), pa.string()),
                pa.array(values, pa.string()),
                pa.array(reasons, pa.string()),
            ]
            parts.append(pa.table(fields, schema=QUARANTINE))
        return pa.concat_tables([QUARANTINE.empty_table(), *parts])

    def report(self, notes: list[str], warnings: Sequence[tuple[str, Breach]]) -> dict[str, Any]:
        reasons: dict[str, int] = {}
        for column, positions, _, reason in self._faults:
            words = "shares its key with a row that differs" if isinstance(reason, list) else reason
            reasons[f"{column} {words}"] = len(positions)
        told = []
        for column, breach in warnings:
            places = np.flatnonzero(breach.mask & self.good)
            if len(places):
                examples = list(dict.fromkeys(self._values(column, places[:1000])))[:_EXAMPLES]
                told.append({"column": column, "rule": breach.rule, "rows": len(places), "examples": examples})
        return {
            "read": self._count,
            "duplicates": int(self._duplicates.sum()),
            "quarantined": int(self.bad.sum()),
            "reasons": reasons,
            "repaired": self._repairs,
            "warnings": told,
            "notes": notes,
        }
