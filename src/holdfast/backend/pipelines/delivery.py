"""One delivery against the current version: what it adds, changes and removes, and the version that comes of it."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets import Datasets, Draft
from holdfast.backend.datasets.parts import REMOVED, Stored, identity_columns, ranges_of
from holdfast.backend.datasets.raw import Kept, RawFiles, Staged
from holdfast.backend.datasets.tables import Part
from holdfast.backend.pipelines.derived import derived_tables, root_of, typed_links
from holdfast.backend.records import DatasetVersion, RawFile, RawTable, new_id
from holdfast.backend.settings import ColumnSettings, Settings, TableSettings
from holdfast.core.prepare import (
    QUARANTINE,
    Changes,
    Declared,
    Delivered,
    Source,
    TableContract,
    TableRule,
    convert,
    keyed_changes,
    prepare_delivery,
    unkeyed_changes,
)
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import KNOWN_FROM, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, DType, Schema, Table
from holdfast.core.timeline import Period
from holdfast.errors import ConfigError, ConflictError, ContractError

__all__ = ["QUARANTINE_LIMIT", "IngestResult", "Loaded", "Reader", "apply_delivery", "claims", "rules_of"]

QUARANTINE_LIMIT = 0.05
"""An import fails when a larger share of a table's rows cannot be used."""


class Reader(Protocol):
    """Reads one file, or raises FileError or LimitError."""

    def __call__(self, path: Path, *, sheet: str | None = None) -> RawTable:
        """What the file (its `sheet`, by default the first) says."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A delivery whose files are copied and read; `tables` is empty when it was part of the data before."""

    period: Period
    staged: Staged
    tables: Mapping[tuple[str, str], RawTable]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The version that now holds the delivery; `created` is False when it was part of the data before.

    `report` is the version's, by table; `notes` are for people.
    """

    version: DatasetVersion
    created: bool
    delivery: str
    report: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class _Outcome:
    """What becomes of one table."""

    delivered: Delivered
    changes: Changes
    stored: Stored
    quarantine: pa.Table
    report: dict[str, Any] = field(default_factory=dict)


def rules_of(settings: Settings) -> dict[str, TableRule]:
    """What the project file says of each delivered table, in the words of `core.prepare`."""
    return {
        name: TableRule(
            name,
            table.key,
            table.time,
            table.known_rule,
            table.known or table.known_rule.kind,
            table.delivery,
            settings.links_of(name),
            _declared_columns(settings, name),
        )
        for name, table in settings.tables.items()
        if table.from_ is None
    }


def _declared_columns(settings: Settings, name: str) -> dict[str, Declared]:
    """Columns that the project file says something of; a link to a personal key is personal, too."""
    table = settings.tables[name]
    declared = {column: _declared(name, column, said) for column, said in table.columns.items()}
    for column, parent in table.links.items():
        # A table that derives has the columns of the one that it derives from.
        root = settings.tables[root_of(settings, parent)]
        keys = (root.columns.get(key) for key in settings.tables[parent].key)
        if any(key is not None and key.personal for key in keys):
            declared[column] = replace(declared.get(column) or _declared(name, column, ColumnSettings()), personal=True)
    return declared


def _declared(table: str, name: str, said: ColumnSettings) -> Declared:
    if said.pattern is not None:
        try:
            re.compile(said.pattern)
        except re.error as error:
            raise ConfigError(
                f"{said.pattern!r} is not a regular expression: {error}",
                where={"key": f"tables.{table}.columns.{name}.pattern"},
            ) from error
    rules = {rule: getattr(said, rule) for rule in ("nullable", "min", "max", "values", "pattern")}
    rules = {rule: value for rule, value in rules.items() if value is not None}
    return Declared(said.type, said.format, rules, said.personal, said.unit, said.description, said.aliases)


def claims(settings: Settings, staged: Staged) -> dict[str, list[Kept]]:
    """The files of each table, by name. ConfigError when two tables claim one file (unless they read other sheets)."""
    result: dict[str, list[Kept]] = {}
    for file in sorted(staged.files, key=lambda one: one.name):
        name = unicodedata.normalize("NFC", file.name)
        owners = [table for table, said in settings.tables.items() if _claims(said, name)]
        sheets = {settings.tables[table].sheet for table in owners}
        if len(sheets) < len(owners):
            raise ConfigError(
                f"file {file.name!r} belongs to more than one table: {', '.join(owners)}",
                where={"key": f"tables.{owners[0]}.files"},
                hint="Make the `files` patterns exclusive, or name each table's `sheet`.",
            )
        for table in owners:
            result.setdefault(table, []).append(file)
    return result


def _claims(said: TableSettings, name: str) -> bool:
    return any(fnmatchcase(name, unicodedata.normalize("NFC", pattern)) for pattern in said.files)


def apply_delivery(
    datasets: Datasets,
    raw: RawFiles,
    settings: Settings,
    rules: Mapping[str, TableRule],
    loaded: Loaded,
    *,
    note: str,
    author: str,
) -> IngestResult:
    """Commit one delivery as a new version, with the raw files of the block that holds the lease of the data."""
    base = datasets.current()
    period = loaded.period
    if base is not None and datasets.has_delivered(period.name, loaded.staged.files):
        raw.discard(loaded.staged)
        known = f"{period.name} is already part of {base.version}, with the same files"
        if draft := _rederived(datasets, settings, base, note, author):
            version = datasets.commit(draft)
            told = f"{known}; the derived tables of the project file are new"
            return IngestResult(version, True, period.name, version.report, (*loaded.notes, told))
        return IngestResult(base, False, period.name, {}, (*loaded.notes, known))
    delivery = raw.name(loaded.staged, period.name)
    work = _Work(datasets, settings, rules, loaded, base, delivery=delivery)
    work.check_tables()
    for name in _parents_first(settings, rules):
        if name in work.claimed:
            work.prepare(name)
    work.count_unknown_parents()
    work.check_limit()
    parts = work.write_parts()
    raw.publish(loaded.staged, work.delivery)
    version = datasets.commit(work.draft(parts, note, author))
    raw.settle()
    return IngestResult(version, True, work.delivery, version.report, (*loaded.notes, *work.notes))


def _rederived(datasets: Datasets, settings: Settings, base: DatasetVersion, note: str, author: str) -> Draft | None:
    """The version of the same data with the derived tables that the project file asks for now; None if it has them."""
    schema, contract = datasets.schema(base.id), datasets.contract(base.id)
    delivered = {
        name: replace(table, links=settings.links_of(name) if name in settings.tables else table.links)
        for name, table in schema.tables.items()
        if not table.source
    }
    made = derived_tables(settings, delivered, schema.tables)
    now = {name: schema.tables[name] for name in schema.tables if schema.tables[name].source}
    if {name: table for name, (table, _) in made.items()} == now:
        return None
    tables = delivered | {name: table for name, (table, _) in made.items()}
    rules = {name: contract[name] for name in delivered} | {name: rule for name, (_, rule) in made.items()}
    after = Schema(tables, schema.timezone)
    rows = {name: base.rows[name] for name in delivered} | datasets.count_derived(after, base.id)
    report = {"tables": {}, "notes": ["the same data, with the derived tables that the project file asks for"]}
    return Draft(base, base.period, after, rules, rows, (), note or "derived tables changed", author, report=report)


def _parents_first(settings: Settings, rules: Mapping[str, TableRule]) -> list[str]:
    """Tables so that links point back; tables in a circle of links as they come."""
    parents = {name: {root for _, root, _ in typed_links(settings, name)} for name in rules}
    order: list[str] = []
    rest = list(rules)
    while rest:
        free = [name for name in rest if all(p in order or p == name for p in parents[name])]
        order += free or rest[:1]
        rest = [name for name in rest if name not in order]
    return order


class _Work:
    """The state of applying one delivery."""

    def __init__(
        self,
        datasets: Datasets,
        settings: Settings,
        rules: Mapping[str, TableRule],
        loaded: Loaded,
        base: DatasetVersion | None,
        *,
        delivery: str,
    ) -> None:
        self._datasets = datasets
        self._settings = settings
        self._timezone = settings.timezone
        self._rules = rules
        self._loaded = loaded
        self._base = base
        self._schema = Schema.from_dict(base.schema) if base else Schema({}, settings.timezone)
        self._contract: dict[str, TableContract] = datasets.contract(base.id) if base else {}
        self._history = datasets.files(base.id) if base else []
        self._outcomes: dict[str, _Outcome] = {}
        self.claimed = claims(settings, loaded.staged)
        self.delivery = delivery
        self.notes: list[str] = []
        self._same: dict[str, list[Kept]] = {}
        if self._schema.timezone != settings.timezone:
            raise ConflictError(
                f"the time zone is bound to {self._schema.timezone}, the project file says {settings.timezone}",
                where={"key": "timezone"},
                hint="Stored times were read in it: change the project file back, or start a new project.",
            )

    def check_tables(self) -> None:
        """Refuse what cannot be applied as a whole: missing tables, rewritten raw files, full lists out of order."""
        period = self._loaded.period
        if not self.claimed:
            raise ContractError(
                "none of the delivered files belongs to a table",
                where={"period": period.name},
                hint=f"Delivered: {self._names()}. The tables' `files` in the project file say which are theirs.",
            )
        self._check_rewritten()
        again = any(file.period == period.name for file in self._history)
        if again:
            self.notes.append(f"{self.delivery} corrects {period.name}; rows it lacks stay, but for full lists")
        for name, rule in self._rules.items():
            newest = self._newest(name) if rule.delivery == "full" else None
            late = newest is not None and newest.end > period.end
            if name in self.claimed and late and self._unchanged(self.claimed[name]):
                self.notes.append(f"table {name}: the same list as before, and a later one is known")
                self._same[name] = self.claimed.pop(name)
            if name in self.claimed and late:
                raise ConflictError(
                    f"table {name!r} is a full list, and a later one is known already: {newest.name if newest else ''}",
                    where={"table": name, "file": str(self.claimed[name][0].given)},
                    hint="Deliver this period without it, or go back to a version before that list first.",
                )
            if name not in self.claimed and not again and not late:
                raise ContractError(
                    f"table {name!r} is missing from the delivery",
                    where={"table": name},
                    hint=f"No file matches its `files`. Delivered: {self._names()}",
                )
        known = {file.name for files in (*self.claimed.values(), *self._same.values()) for file in files}
        for file in self._loaded.staged.files:
            if file.name not in known:
                self.notes.append(f"no table claims {file.name}; it is kept with the raw files")
        self.notes += [
            f"table {name} is no longer declared" for name in self._schema.tables if name not in self._settings.tables
        ]

    def _unchanged(self, files: Sequence[Kept]) -> bool:
        before = {file.name: file.sha256 for file in self._history if file.period == self._loaded.period.name}
        return all(before.get(file.name) == file.sha256 for file in files)

    def _names(self) -> str:
        return ", ".join(file.name for file in self._loaded.staged.files)

    def _check_rewritten(self) -> None:
        before = {file.path: file.sha256 for file in self._history}
        for file in self._loaded.staged.files:
            path = self._path(file)
            if before.get(path, file.sha256) != file.sha256:
                raise ConflictError(
                    "a raw file was changed after its delivery",
                    where={"file": path},
                    hint="Raw files are never rewritten: restore it, and deliver the new one from another folder.",
                )

    def _path(self, file: Kept) -> str:
        return f"data/raw/{self.delivery}/{file.name}"

    def _newest(self, table: str | None = None) -> Period | None:
        """The last period delivered before: of one table, or of any."""
        names = {file.period for file in self._history if table in (None, file.table)}
        return max((Period.parse(name, self._timezone) for name in names), key=lambda one: one.end, default=None)

    def prepare(self, name: str) -> None:
        """Type and check one table, and find out what it changes."""
        rule = self._rules[name]
        sources = []
        for file in self.claimed[name]:
            raw = self._loaded.tables[name, file.name]
            self.notes += [f"{file.name}: {said}" for said in raw.notes]
            sources.append(Source(self._path(file), str(file.given), raw.table, raw.rows))
        held = (self._schema.tables[name], self._contract[name]) if name in self._schema.tables else None
        delivered = prepare_delivery(rule, sources, held, self._link_types(rule), self._timezone)
        if rule.delivery == "full" and not delivered.rows.num_rows:
            raise ContractError(
                f"the full list of table {name!r} has no usable row: every row known before would be removed",
                where={"table": name, "file": sources[0].given},
                hint="Check the file. To empty a table, drop it from the project file.",
            )
        self._outcomes[name] = self._changes(rule, delivered)

    def _link_types(self, rule: TableRule) -> dict[str, DType]:
        types = {}
        for column, parent, key in typed_links(self._settings, rule.name):
            table = self._outcomes[parent].delivered.table if parent in self._outcomes else None
            table = table or self._schema.tables.get(parent)
            if table:
                types[column] = table.column(key).dtype
        return types

    def _changes(self, rule: TableRule, delivered: Delivered) -> _Outcome:
        table, rows = delivered.table, delivered.rows
        full = rule.delivery == "full"
        # A type that became wider is checked against all that is stored; otherwise only parts that hold these rows.
        all_ = full or self._widened(table)
        like = None if all_ or table.key else ranges_of(rows, identity_columns(table))
        keys = None if all_ or not table.key else rows.select(table.key)
        stored = self._datasets.last_states(self._base.id if self._base else None, table, like, keys)
        first = self._first_known(rule, rows)
        if not table.key:
            changes = unkeyed_changes(self._comparable(table, stored), rows, table.names, first)
            return _Outcome(delivered, changes, stored, delivered.quarantine, delivered.report)
        changes = keyed_changes(
            stored.rows,
            rows,
            table.key,
            table.names,
            stored_known=stored.known_from,
            stored_period=stored.period_end,
            stored_removed=stored.removed,
            first_known=first,
            period_end=self._loaded.period.end,
            kept=delivered.quarantined_keys if full else None,
        )
        quarantine = pa.concat_tables([delivered.quarantine, _late(delivered, changes)])
        return _Outcome(delivered, changes, stored, quarantine, delivered.report)

    def _comparable(self, table: Table, stored: Stored) -> pa.Table:
        """Stored rows of a table without a key that delivered ones may be: of any period only if they have a time."""
        if table.time:
            return stored.rows
        here = [file.path for file in self._history if file.period == self._loaded.period.name]
        return stored.rows.filter(pc.is_in(stored.files, value_set=pa.array(here, pa.string())))

    def _widened(self, table: Table) -> bool:
        before = self._schema.tables.get(table.name)
        types = {column.name: column.dtype for column in before.columns} if before else {}
        return any(types.get(column.name, column.dtype) is not column.dtype for column in table.columns)

    def _first_known(self, rule: TableRule, rows: pa.Table) -> npt.NDArray[np.int64]:
        """When each row is known if it is seen for the first time."""
        period, known = self._loaded.period, rule.known
        column = rule.time if known.kind == "event" else known.column
        if known.kind in ("event", "column") and column:
            moments: npt.NDArray[np.int64] = rows[column].cast(pa.int64()).to_numpy()
            return moments + known.delay
        return np.full(rows.num_rows, period.start if known.kind == "period_start" else period.end, np.int64)

    def count_unknown_parents(self) -> None:
        """Count delivered rows whose link finds no current row; they are kept."""
        for name, outcome in self._outcomes.items():
            found = {}
            rows = outcome.delivered.rows
            for column, parent in self._settings.tables[name].links.items():
                values = rows[column].drop_null()
                unknown = self._unknown(values, parent)
                if len(unknown):
                    personal = outcome.delivered.table.column(column).personal
                    different = pc.unique(unknown)
                    examples = [MASKED] if personal else different[:5].to_pylist()
                    found[column] = {"rows": len(unknown), "keys": len(different), "examples": examples}
            outcome.report["unknown_parents"] = found

    def _unknown(self, values: pa.ChunkedArray, parent: str) -> pa.ChunkedArray:
        """Those of `values` that are no key of a row of `parent` that is current once this delivery is applied."""
        key, root = self._settings.tables[parent].key[0], root_of(self._settings, parent)
        outcome, table = self._outcomes.get(root), self._schema.tables.get(root)
        if outcome:
            values = values.filter(pc.invert(_is_in(values, outcome.delivered.rows[key].combine_chunks())))
            if self._rules[root].delivery == "full":
                stay = ~outcome.stored.removed
                stay[outcome.changes.removed] = False
                kept = outcome.stored.rows[key].filter(pa.array(stay)).combine_chunks()
                return values.filter(pc.invert(_is_in(values, kept)))
            table = table and outcome.delivered.table
        if table is None or self._base is None or not len(values):
            return values
        if table.key == (key,) and table.column(key).dtype.arrow == values.type:
            # The index of keys answers for a table of any size.
            asked = pc.unique(values)
            parts = self._datasets.manifest(self._base.id, root)
            alive = self._datasets.parts.standing(table, parts, pa.table({key: asked})).alive
            return values.filter(pc.invert(pc.is_in(values, asked.filter(pa.array(alive)))))
        stored = self._datasets.last_states(self._base.id, table)
        return values.filter(
            pc.invert(_is_in(values, stored.rows[key].filter(pa.array(~stored.removed)).combine_chunks()))
        )

    def check_limit(self) -> None:
        """Fail the import when too much of a table cannot be used."""
        for name, outcome in self._outcomes.items():
            report, late = outcome.report, len(outcome.changes.late)
            report["quarantined"] += late
            if late:
                report["reasons"]["differs from what a later period delivered"] = late
            bad, read = report["quarantined"], report["read"]
            if bad > QUARANTINE_LIMIT * read:
                first = outcome.quarantine.slice(0, 1).to_pylist()[0]
                given = {self._path(file): file.given for file in self.claimed[name]}
                reasons = "; ".join(f"{count} × {reason}" for reason, count in report["reasons"].items())
                raise ContractError(
                    f"{bad} of {read} rows of table {name!r} break the contract, more than {QUARANTINE_LIMIT:.0%}",
                    where={"first": f"file {given[first['file']]}, row {first['row']}, column {first['column']}, "
                                    f"value {first['value']!r}"},
                    hint=f"Reasons: {reasons}. Correct the files, or declare the columns in the project file.",
                )  # fmt: skip

    def write_parts(self) -> list[Part]:
        """Store the new states of every table."""
        parts = []
        for outcome in self._outcomes.values():
            changes, delivered = outcome.changes, outcome.delivered
            states = _states(delivered, changes, outcome.stored, self._path(self.claimed[delivered.table.name][0]))
            outcome.report |= {
                "added": len(changes.added),
                "changed": len(changes.changed),
                "removed": len(changes.removed),
                "unchanged": changes.unchanged,
            }
            if states.num_rows:
                supersedes = bool(len(changes.changed) or len(changes.removed))
                parts.append(
                    self._datasets.parts.write(
                        delivered.table, states, supersedes=supersedes, period_end=self._loaded.period.end
                    )
                )
        return parts

    def draft(self, parts: Sequence[Part], note: str, author: str) -> Draft:
        """The version to commit."""
        tables: dict[str, Table] = {}
        contract: dict[str, TableContract] = {}
        rows: dict[str, int] = {}
        before = self._base.rows if self._base else {}
        for name in self._rules:
            outcome = self._outcomes.get(name)
            if outcome:
                tables[name], contract[name] = outcome.delivered.table, outcome.delivered.contract
                rows[name] = before.get(name, 0) + len(outcome.changes.added) - len(outcome.changes.removed)
            elif name in self._schema.tables:
                tables[name], contract[name], rows[name] = self._schema.tables[name], self._contract[name], before[name]
        for name, (table, rule) in derived_tables(self._settings, tables, self._schema.tables).items():
            tables[name], contract[name] = table, rule
        schema = Schema(tables, self._timezone)
        rows |= self._datasets.count_derived(schema, self._base.id if self._base else None, parts)
        quarantine = [outcome.quarantine for outcome in self._outcomes.values()]
        newest, period = self._newest(), self._loaded.period
        return Draft(
            self._base,
            newest.name if newest and newest.end > period.end else period.name,
            schema,
            contract,
            rows,
            parts,
            note,
            author,
            self._raw_files(),
            pa.concat_tables([QUARANTINE.empty_table(), *quarantine]),
            {"tables": {name: outcome.report for name, outcome in self._outcomes.items()}, "notes": self.notes,
             "delivery": self.delivery},
        )  # fmt: skip

    def _raw_files(self) -> list[RawFile]:
        now = self._datasets.now()
        owners: dict[str, list[str]] = {file.name: [] for file in self._loaded.staged.files}
        for table, files in (self.claimed | self._same).items():
            for file in files:
                owners[file.name].append(table)
        result = []
        for file in self._loaded.staged.files:
            for table in owners[file.name] or [""]:
                raw = self._loaded.tables.get((table, file.name))
                result.append(
                    RawFile(
                        id=new_id("file", now),
                        delivery=self.delivery,
                        period=self._loaded.period.name,
                        table=table,
                        path=self._path(file),
                        name=file.name,
                        sha256=file.sha256,
                        bytes=file.bytes,
                        rows=raw.table.num_rows if raw else 0,
                        made_at=now,
                    )
                )
        return result


def _is_in(values: pa.ChunkedArray, keys: pa.Array) -> pa.ChunkedArray:
    if values.type != keys.type:
        values, keys = (convert(column, DType.TEXT).values for column in (values, keys))
    return pc.is_in(values, value_set=keys)


def _late(delivered: Delivered, changes: Changes) -> pa.Table:
    """Quarantine of rows that differ from a state that a later period delivered."""
    table = delivered.table
    rows = delivered.rows.take(pa.array(changes.late))
    masked = any(table.column(name).personal for name in table.key)
    values = [
        MASKED if masked else ", ".join(str(v) for v in row.values()) for row in rows.select(table.key).to_pylist()
    ]
    return pa.table(
        [
            pa.array([table.name] * len(values), pa.string()),
            rows[SOURCE_FILE],
            rows[SOURCE_ROW],
            pa.array([", ".join(table.key)] * len(values), pa.string()),
            pa.array(values, pa.string()),
            pa.array(["differs from what a later period delivered"] * len(values), pa.string()),
        ],
        schema=QUARANTINE,
    )


def _states(delivered: Delivered, changes: Changes, stored: Stored, file: str) -> pa.Table:
    """The rows of a new part: new and changed rows as delivered, then removals with nothing but their key."""
    table = delivered.table
    moment = SYSTEM_FIELDS[KNOWN_FROM]
    fresh = delivered.rows.take(pa.array(np.r_[changes.added, changes.changed].astype(np.int64)))
    fresh = fresh.append_column(KNOWN_FROM, pa.array(changes.known_from, pa.int64()).cast(moment))
    fresh = fresh.append_column(REMOVED, pa.array(np.zeros(fresh.num_rows, bool)))
    gone = stored.rows.take(pa.array(changes.removed))
    count = gone.num_rows
    columns = {
        column.name: gone[column.name] if column.name in table.key else pa.nulls(count, column.dtype.arrow)
        for column in table.columns
    }
    columns[SOURCE_FILE] = pa.array([file] * count, pa.string())
    columns[SOURCE_ROW] = pa.nulls(count, pa.int64())
    columns[KNOWN_FROM] = pa.array(changes.removed_from, pa.int64()).cast(moment)
    columns[REMOVED] = pa.array(np.ones(count, bool))
    return pa.concat_tables([fresh, pa.table(columns).select(fresh.column_names).cast(fresh.schema)])
