"""The versions of the data: list, read, compare, go back; and the one way a new version comes to be."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from holdfast.backend.datasets import tables as rows_of
from holdfast.backend.datasets.compare import Comparison, Difference, compare_rows, compare_schemas, touched_rows
from holdfast.backend.datasets.face import face_is, write_face
from holdfast.backend.datasets.keyfiles import KeyFiles
from holdfast.backend.datasets.parts import PartStore, Stored
from holdfast.backend.datasets.raw import Kept, RawFiles
from holdfast.backend.datasets.refs import POINTER, Refs, named, tips
from holdfast.backend.datasets.tables import ADDS, COMPACT, Part
from holdfast.backend.layout import Layout
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import DatasetVersion, RawFile, new_id
from holdfast.backend.store import Leases, Pointers, Store
from holdfast.backend.store.locks import file_lock
from holdfast.core.derive import derive
from holdfast.core.prepare import QUARANTINE, TableContract
from holdfast.core.schema import KNOWN_TO, Schema, Table
from holdfast.core.timeline import isoformat
from holdfast.errors import ConflictError, InputError, LockedError, NotFoundError, nearest

__all__ = ["FACE_ROWS", "POINTER", "STATES", "Datasets", "Draft"]

STATES = ("pending", "trained", "retrain_needed")

Versions = list[DatasetVersion]  # `Datasets.list` hides the builtin inside the class
Files = list[RawFile]
Ranges = Mapping[str, list[Any]]
Manifest = list[Part]
Steps = list[tuple[DatasetVersion, Manifest]]
FACE_ROWS = 100_000
"""Data of more rows is not written to `data/processed/` by small changes: that would cost more than the change."""

Committed = Callable[[DatasetVersion], None]
"""Told of a new version within the write transaction that commits it: what follows from it commits with it."""

_QUARANTINE = pa.schema([("version", pa.string()), *QUARANTINE])


@dataclass(frozen=True, slots=True)
class Draft:
    """A version before it is committed. `base` is the version it extends; `rows` counts current rows per table.

    `period` is the newest one delivered; `report` names the delivery that made the version. `manifest` says whether
    `parts` come after those of the base, or are all there are (`tables.ADDS`, WHOLE, COMPACT). `taken` are files of
    other versions that this one holds; `parents` are further versions it came from.
    """

    base: DatasetVersion | None
    period: str
    schema: Schema
    contract: Mapping[str, TableContract]
    rows: Mapping[str, int]
    parts: Sequence[Part]
    note: str
    author: str
    files: Sequence[RawFile] = ()
    quarantine: pa.Table | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    manifest: str = ADDS
    taken: Sequence[RawFile] = ()
    parents: Sequence[str] = ()


class Datasets:
    """Versions of all tables together.

    A version's manifest lists immutable parts in order of delivery; versions share them. What is current is the
    pointer `dataset`. A version is named by its number (`v1.3`), its id, a tag or a branch; None is the current one.
    """

    def __init__(
        self, store: Store, blobs: Blobs, clock: Clock, layout: Layout, committed: Committed | None = None
    ) -> None:
        self._store = store
        self._committed = committed or (lambda _version: None)
        self.clock = clock
        self._layout = layout
        self._blobs = blobs
        self.parts = PartStore(blobs, KeyFiles(layout.private / "keys"))
        self.refs = Refs(store, clock, self._row)
        self._leases = Leases(store, clock)

    def list(self) -> Versions:
        """All versions that were not collected, oldest first."""
        with self._store.read() as connection:
            query = sa.select(rows_of.datasets).where(rows_of.datasets.c.collected_at.is_(None))
            query = query.order_by(rows_of.datasets.c.major, rows_of.datasets.c.minor)
            return [rows_of.to_version(row) for row in connection.execute(query)]

    def get(self, version: str | None = None) -> DatasetVersion:
        """One version; NotFoundError names the nearest one."""
        with self._store.read() as connection:
            return rows_of.to_version(self._row(connection, version))

    def current(self) -> DatasetVersion | None:
        """The current version, or None before the first import."""
        with self._store.read() as connection:
            target = Pointers(connection).get(POINTER)
            return None if target is None else rows_of.to_version(self._row(connection, target))

    def schema(self, version: str | None = None) -> Schema:
        """The schema of a version."""
        return Schema.from_dict(self.get(version).schema)

    def contract(self, version: str | None = None) -> dict[str, TableContract]:
        """The contract of a version, by table."""
        with self._store.read() as connection:
            return _contract(self._row(connection, version))

    def read(
        self, version: str | None = None, tables: Sequence[str] | None = None, *, current_only: bool = False
    ) -> dict[str, pa.Table]:
        """Tables of a version: the user's columns and SYSTEM_FIELDS, in the order of delivery.

        Every state of every row, or with `current_only` the rows that are current (`__known_to` is null).
        """
        with self._store.read() as connection:
            row = self._row(connection, version)
            schema = Schema.from_dict(rows_of.to_version(row).schema)
            manifest = rows_of.parts_of(connection, row.id)
        names = [schema.table(name).name for name in (tables if tables is not None else schema.tables)]
        return self._assembled(schema, manifest, names, current_only=current_only)

    def count_derived(self, schema: Schema, version: str | None, parts: Sequence[Part] = ()) -> dict[str, int]:
        """Current rows of each derived table of `schema`, over the parts of a version (None: none) and further ones."""
        manifest: Manifest = []
        if version is not None and schema.derived:
            with self._store.read() as connection:
                manifest = rows_of.parts_of(connection, version)
        # Current rows are as many as the keys that current rows of the source mention: no need to derive the states.
        sources = list(dict.fromkeys(table.source for table in schema.derived))
        found = self._assembled(schema, [*manifest, *parts], sources, current_only=True)
        return {
            table.name: pc.count_distinct(found[table.source][table.key[0]], mode="only_valid").as_py()
            for table in schema.derived
        }

    def count_rows(self, version: str, swapped: Mapping[str, Part]) -> dict[str, int]:
        """Current rows of every table of a version, as if some of its parts (by their digest) were others."""
        with self._store.read() as connection:
            manifest = [swapped.get(part.digest, part) for part in rows_of.parts_of(connection, version)]
        schema = self.schema(version)
        found = self._assembled(schema, manifest, list(schema.tables), current_only=True)
        return {name: rows.num_rows for name, rows in found.items()}

    def _assembled(
        self, schema: Schema, manifest: Manifest, names: Sequence[str], *, current_only: bool
    ) -> dict[str, pa.Table]:
        states: dict[str, pa.Table] = {}
        # What others derive from is needed with its history.
        sources = {table.name for name in names for table in _line(schema, name)[1:]}
        for name in names:
            for table in reversed(_line(schema, name)):
                if table.name in states:
                    continue
                if table.source:
                    states[table.name] = derive(table, schema.table(table.source), states[table.source])
                else:
                    parts = [part for part in manifest if part.table == table.name]
                    alone = current_only and table.name not in sources
                    states[table.name] = self.parts.states(table, parts, current_only=alone)
        return {name: _current(states[name]) if current_only else states[name] for name in names}

    def files(self, version: str | None = None) -> Files:
        """The raw files that make up a version, in the order of delivery."""
        with self._store.read() as connection:
            return rows_of.files_of(connection, self._row(connection, version).id)

    def quarantine(self, version: str | None = None) -> pa.Table:
        """Rows kept out of a version and those before it: version, table, file, row, column, value, reason."""
        with self._store.read() as connection:
            identifier = self._row(connection, version).id
            held = {file.path for file in rows_of.files_of(connection, identifier)}
            steps = rows_of.ancestors(connection, identifier)
        pieces = [_QUARANTINE.empty_table()]
        for step in steps:
            if step.quarantine:
                faults = self.parts.read_plain(step.quarantine)
                # What was reverted since took its faults along.
                faults = faults.filter(pc.is_in(faults["file"], pa.array(sorted(held), pa.string())))
                pieces.append(faults.add_column(0, "version", pa.array([step.version] * len(faults), pa.string())))
        return pa.concat_tables(pieces)

    def compare(self, before: str, after: str, *, shift: bool = True) -> Comparison:
        """What changed between two versions: schema, rows added, removed and changed by key, and distributions.

        Parts that both share are skipped; the `shift` of distributions reads all rows of `before` in tables that
        differ.
        """
        one, other = self.get(before), self.get(after)
        schemas = Schema.from_dict(one.schema), Schema.from_dict(other.schema)
        tables = {}
        for name in dict.fromkeys((*schemas[0].tables, *schemas[1].tables)):
            found = self._difference(name, (one, other), schemas)
            reference = None
            if shift and found.old is not None and found.new is not None and len(found.old) + len(found.new):
                reference = self.read(one.id, [name], current_only=True)[name]
            table = schemas[1].tables.get(name) or schemas[0].tables[name]
            tables[name] = compare_rows(table, found, reference)
        return Comparison(one.version, other.version, compare_schemas(*schemas), tables)

    def _difference(
        self, name: str, versions: tuple[DatasetVersion, DatasetVersion], schemas: tuple[Schema, Schema]
    ) -> Difference:
        old, new = (schema.tables.get(name) for schema in schemas)
        if old is None or new is None or old.source or [*_typed(old)] != [*_typed(new)] or old.key != new.key:
            sides = [
                self.read(version.id, [name], current_only=True)[name] if name in schema.tables else None
                for version, schema in zip(versions, schemas, strict=True)
            ]
            return Difference(sides[0], sides[1], 0)
        parts = [[p for _, ps in self.steps(version.id) for p in ps if p.table == name] for version in versions]
        return touched_rows(self.parts, new, parts[0], parts[1], versions[0].rows[name])

    def checkout(self, version: str, why: str) -> DatasetVersion:
        """Make `version` current: a branch by its name, or the current branch at another version.

        Nothing is lost: the next import continues from it under a new number.
        """
        with self.changing(f"checkout {version}"):
            with self._store.write("checkout") as connection:
                if (tip := self.refs.go(connection, version, why)) is not None:
                    record = rows_of.to_version(self._row(connection, tip))
                else:
                    record = rows_of.to_version(self._row(connection, version))
                    Pointers(connection).move(POINTER, record.id, at=self.clock.now(), why=why)
            self.refresh_face(at_most=FACE_ROWS)
        return record

    def steps(self, version: str | None = None) -> Steps:
        """The versions that a version extends, oldest first, each with the parts it added; as if nothing was compacted.

        The first may list parts of versions before it: its history is not to be had.
        """
        with self._store.read() as connection:
            found = rows_of.parts_by_step(connection, self._row(connection, version).id)
        return [(rows_of.to_version(row), parts) for row, parts in found]

    def ancestors(self, version: str | None = None) -> Versions:
        """The version and all it came from, by all parents, oldest first; collected ones too."""
        with self._store.read() as connection:
            found = rows_of.ancestors(connection, self._row(connection, version).id)
        return [rows_of.to_version(row) for row in found]

    def set_state(self, connection: sa.Connection, version: str, state: str) -> None:
        """Record the training state of a version in somebody's transaction: pending, trained or retrain_needed."""
        if state not in STATES:
            raise InputError(f"{state!r} is no state of a version", hint=f"It is one of: {', '.join(STATES)}")
        row = self._row(connection, version)
        connection.execute(rows_of.datasets.update().where(rows_of.datasets.c.id == row.id).values(state=state))

    def confirm_contract(
        self, table: str | None = None, columns: Sequence[str] | None = None, *, note: str = "", author: str = ""
    ) -> DatasetVersion:
        """Make what was observed bind from now on (of all tables, one table, or some of its columns).

        The result is a new major version of the same data; the current version itself when nothing new binds.
        """
        if columns and table is None:
            raise InputError("columns were given without their table", hint="Name the table, too.")
        with self.changing("contract confirm"):
            base, schema, contract = self.get(), self.schema(), self.contract()
            chosen = [schema.table(table).name] if table else list(schema.tables)
            for name in columns or ():
                schema.table(chosen[0]).column(name)  # refuses a name that is none
            confirmed = dict(contract)
            for name in chosen:
                held = contract[name]
                some = {c: one.confirm() for c, one in held.columns.items() if columns is None or c in columns}
                confirmed[name] = replace(held, columns={**held.columns, **some})
            if confirmed == contract:
                return base
            draft = Draft(base, base.period, schema, confirmed, base.rows, (), note or "contract confirmed", author)
            return self.commit(draft, state=base.state)

    def has_delivered(self, period: str, files: Sequence[Kept]) -> bool:
        """Whether the current version holds these files of a period: as one of its deliveries, or as its newest files.

        A delivery that was corrected since counts: bringing it again does not take the correction back.
        """
        current = self.current()
        deliveries: dict[str, set[tuple[str, str]]] = {}
        newest: dict[str, str] = {}
        for file in self.files(current.id) if current else ():
            if file.period == period:
                deliveries.setdefault(file.delivery, set()).add((file.name, file.sha256))
                newest[file.name] = file.sha256
        given = {(file.name, file.sha256) for file in files}
        return given in deliveries.values() or given <= newest.items()

    def now(self) -> int:
        """The clock's time."""
        return self.clock.now()

    @contextmanager
    def changing(self, what: str, *, wait: float | None = None) -> Iterator[RawFiles]:
        """Hold the lease of the data, and first clear away what an interrupted import left. Gives the raw files.

        LockedError when somebody else holds it after `wait` seconds.
        """
        with self._leases.hold(["data"], doing=what, wait=wait):
            raw = RawFiles(self._layout, self._store)
            raw.recover()
            try:
                yield raw
            finally:
                raw.abandon()

    def last_states(
        self, version: str | None, table: Table, like: Ranges | None = None, keys: pa.Table | None = None
    ) -> Stored:
        """Last states of a table's rows: of those within the ranges `like`, of those with `keys`, or of all."""
        return self.parts.last(table, self.manifest(version, table.name), like, keys)

    def manifest(self, version: str | None, table: str) -> Manifest:
        """The parts of a table in a version (none for version None), in the order of delivery."""
        if version is None:
            return []
        with self._store.read() as connection:
            return [part for part in rows_of.parts_of(connection, version) if part.table == table]

    def commit(self, draft: Draft, *, state: str | None = None) -> DatasetVersion:
        """Write a version of all tables and make it current, in one transaction; the lock must be held.

        ConflictError when another version became current since `draft.base`.
        """
        quarantined = draft.quarantine if draft.quarantine is not None and draft.quarantine.num_rows else None
        digest = self.parts.write_plain(quarantined)[0] if quarantined is not None else None
        now, base = self.clock.now(), draft.base
        with self._store.write("data version") as connection:
            self._check_there(draft)
            before = (base.bytes if base else 0) if draft.manifest == ADDS else 0
            # Looked up now: a training may have ended while this import ran.
            extended = self._row(connection, base.id) if base else None
            record = DatasetVersion(
                id=new_id("data", now),
                version=_next_number(connection, draft, extended),
                made_at=now,
                parents=((base.id,) if base else ()) + tuple(draft.parents),
                period=draft.period,
                schema=draft.schema.to_dict(),
                rows=dict(draft.rows),
                bytes=before + sum(part.bytes for part in draft.parts),
                note=draft.note,
                author=draft.author,
                state=state or ("pending" if extended is None or extended.state == "pending" else "retrain_needed"),
                sources=tuple(file.id for file in draft.files),
                report=dict(draft.report),
            )
            contract = {name: table.to_dict() for name, table in draft.contract.items()}
            rows_of.add_version(
                connection, record, base=base.id if base else None, contract=contract, quarantine=digest,
                manifest=draft.manifest,
            )  # fmt: skip
            rows_of.add_parts(connection, record.id, draft.parts)
            rows_of.add_files(connection, record.id, draft.files)
            rows_of.take_files(connection, record.id, draft.taken)
            why = draft.note or f"data of {draft.report.get('delivery', draft.period)}"
            Pointers(connection).move(POINTER, record.id, at=now, why=why, expect=base.id if base else None)
            self._committed(record)
        return record

    def _check_there(self, draft: Draft) -> None:
        """Refuse to refer to a part that is gone; nothing is collected outside a transaction."""
        for part in draft.parts if draft.manifest != COMPACT else ():
            if not self._blobs.has(part.digest):
                raise ConflictError(
                    f"a part of table {part.table!r} was deleted before the version was there",
                    where={"blob": part.digest},
                    hint="Nothing was changed; repeat it.",
                )

    def fast_forward(self, version: str, why: str) -> DatasetVersion:
        """Move the current branch on to a version that came from its newest one; the lock must be held."""
        before = self.current()
        with self._store.write("fast forward") as connection:
            record = rows_of.to_version(self._row(connection, version))
            Pointers(connection).move(
                POINTER, record.id, at=self.clock.now(), why=why, expect=before.id if before else None
            )
        return record

    def refresh_face(self, *, at_most: int | None = None) -> bool:
        """Bring `data/processed/` up to the current version, if it has at most so many rows; whether it is now."""
        current = self.current()
        if current is None or face_is(self._layout.processed, current.id):
            return True
        if at_most is not None and sum(current.rows.values()) > at_most:
            return False
        with (
            suppress(LockedError),  # another process is at it
            file_lock(self._layout.private / "locks" / "processed.lock", now=self.clock.now(), what="data/processed"),
        ):
            rows = self.read(current.id, current_only=True)
            write_face(self._layout.processed, current.id, current.version, rows)
        return face_is(self._layout.processed, current.id)

    def _row(self, connection: sa.Connection, version: str | None) -> Any:
        if version is None:
            version = Pointers(connection).get(POINTER)
            if version is None:
                raise NotFoundError(
                    "there is no data yet", hint="Import the first delivery: holdfast ingest PERIOD FILES..."
                )
        table = rows_of.datasets
        wanted = named(connection, version) or version
        row = connection.execute(
            sa.select(table).where(sa.or_(table.c.id == wanted, table.c.version == wanted))
        ).first()
        if row is not None and row.collected_at is not None:
            raise NotFoundError(
                f"dataset version {row.version} was collected at {isoformat(row.collected_at)}: its parts are gone",
                where={"version": row.version},
                hint="Only its record is left. Restore a backup from before to have it again.",
            )
        if row is None:
            there = sa.select(table.c.version).where(table.c.collected_at.is_(None))
            known = connection.scalars(there.order_by(table.c.major.desc(), table.c.minor.desc()))
            raise NotFoundError(
                f"there is no dataset version {version!r}",
                where={"version": version},
                hint=nearest(version, [*known, *tips(connection)]),
            )
        return row


def _next_number(connection: sa.Connection, draft: Draft, base: Any) -> str:
    """The number after the highest there is: numbers never repeat, also after going back. `base` is the base's row."""
    table = rows_of.datasets
    last = connection.execute(
        sa.select(table.c.major, table.c.minor).order_by(table.c.major.desc(), table.c.minor.desc()).limit(1)
    ).first()
    if last is None or base is None:
        return f"v{last.major + 1 if last else 1}.0"
    held = _contract(base)
    rules = [{name: one.binding for name, one in contract.items()} for contract in (held, draft.contract)]
    same = json.loads(base.schema) == draft.schema.to_dict() and rules[0] == rules[1]
    return f"v{last.major}.{last.minor + 1}" if same else f"v{last.major + 1}.0"


def _line(schema: Schema, name: str) -> list[Table]:
    """A table, what it derives from, what that derives from, and so on."""
    line = [schema.table(name)]
    while line[-1].source:
        line.append(schema.table(line[-1].source))
    return line


def _current(states: pa.Table) -> pa.Table:
    """The states that nothing replaced."""
    until = states[KNOWN_TO]
    return states if until.null_count == len(states) else states.filter(pc.is_null(until))


def _typed(table: Table) -> Iterator[tuple[str, Any]]:
    return ((column.name, column.dtype.arrow) for column in table.columns)


def _contract(row: Any) -> dict[str, TableContract]:
    return {name: TableContract.from_dict(one) for name, one in json.loads(row.contract).items()}
