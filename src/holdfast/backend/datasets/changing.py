"""Rows changed directly, without a raw file: appended, replaced by key, deleted by key.

A change is a *blind write*: one part of new states, whatever the table holds. Of what is stored only the index of keys
is asked (how many of them are there?), so the cost is in proportion to the change.
"""

from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets.coding import parquet_bytes
from holdfast.backend.datasets.parts import REMOVED, Standing
from holdfast.backend.datasets.repository import FACE_ROWS, Datasets, Draft
from holdfast.backend.datasets.tables import Part
from holdfast.backend.records import DatasetVersion, new_id
from holdfast.core.prepare import TableContract
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import KNOWN_FROM, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, Schema, Table
from holdfast.core.timeline import Known
from holdfast.core.versions.rows import key_text, observed, typed_keys, typed_rows
from holdfast.errors import ConflictError, InputError, NotFoundError

__all__ = ["Changed", "arrow_table", "change"]

_LISTED = 10


@dataclass(frozen=True, slots=True)
class Changed:
    """The version that holds the change (the current one, when no rows were given), and how many rows it touched.

    `unknown_parents` counts, per link, rows given whose link finds no current row.
    """

    version: DatasetVersion
    added: int
    changed: int
    removed: int
    unknown_parents: Mapping[str, int]


def arrow_table(rows: Any) -> pa.Table:
    """Rows as an Arrow table: an Arrow table or batch, a pandas DataFrame, a list of mappings, a mapping of columns."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    try:
        if isinstance(rows, Mapping):
            return pa.table(dict(rows))
        if isinstance(rows, list | tuple):
            return pa.Table.from_pylist(list(rows))
        if hasattr(rows, "columns"):
            return pa.Table.from_pandas(rows, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, AttributeError, TypeError) as error:
        raise InputError(f"the rows cannot be read: {error}", hint="Give each column values of one type.") from error
    raise InputError(
        f"{type(rows).__name__} is no table", hint="Give an Arrow table, a pandas DataFrame or a list of mappings."
    )


def change(
    datasets: Datasets, table: str, rows: Any, mode: str, *, known: str = "now", note: str = "", author: str = ""
) -> Changed:
    """Commit rows as a new version: `append` (new keys only), `upsert` (new and known keys) or `delete` (keys).

    A row seen first is known from now, or with `known="rule"` as the table's `known:` rule says; a changed or deleted
    one from now, never before the state it follows. ContractError when a value does not fit the schema, ConflictError
    when an appended key is there, NotFoundError when a deleted one is not; then nothing has changed.
    """
    given = arrow_table(rows)
    with (
        datasets.changing(f"{mode} {table}"),
        ThreadPoolExecutor(1, thread_name_prefix="change") as beside,
    ):
        work = _Work(datasets, table, mode, known, beside)
        if not given.num_rows:
            return Changed(work.base, 0, 0, 0, {})
        states, supersedes = work.states(given)
        result = work.commit(states, supersedes, note or f"{mode} {len(states):,} rows of {table}", author)
        datasets.refresh_face(at_most=FACE_ROWS)
    return result


class _Work:
    """One change of one table. `beside` does, one after the other, what need not be waited for."""

    def __init__(self, datasets: Datasets, name: str, mode: str, known: str, beside: Executor) -> None:
        if mode not in ("append", "upsert", "delete"):
            raise InputError(f"{mode!r} is no way to change rows", hint="It is append, upsert or delete.")
        if known not in ("now", "rule"):
            raise InputError(f"{known!r} does not say when rows are known", hint="It is now or rule.")
        self._datasets, self._mode, self._known = datasets, mode, known
        self.base = datasets.get()
        self._schema = Schema.from_dict(self.base.schema)
        self._contract = datasets.contract(self.base.id)
        self._table = self._schema.table(name)
        self._now = datasets.now()
        self._source = f"change/{new_id('change', self._now)}"
        self._counts = {"read": 0, "added": 0, "changed": 0, "removed": 0}
        self._unknown: dict[str, int] = {}
        self._beside = beside
        self._coded: Future[bytes] | None = None
        if self._table.source:
            raise ConflictError(
                f"table {name!r} derives from {self._table.source!r} and cannot be changed itself",
                where={"table": name},
                hint=f"Change {self._table.source!r}.",
            )
        if not self._table.key and mode != "append":
            raise ConflictError(
                f"table {name!r} has no key: nothing says which rows are meant",
                where={"table": name},
                hint="Rows of such a table can be appended, or an import reverted.",
            )

    @property
    def _parts(self) -> list[Part]:
        return self._datasets.manifest(self.base.id, self._table.name)

    def states(self, given: pa.Table) -> tuple[pa.Table, bool]:
        """The states to write, and whether any follows an earlier one."""
        table, zone = self._table, self._schema.timezone
        self._counts["read"] = given.num_rows
        if self._mode == "delete":
            rows = typed_keys(table, given, zone)
            rows = pa.table({c.name: rows[c.name] if c.name in table.key else pa.nulls(len(rows), c.dtype.arrow)
                             for c in table.columns})  # fmt: skip
        else:
            rows = typed_rows(table, given, self._contract[table.name], zone)
            self._unknown = self._unknown_parents(rows)
        seen, known = np.zeros(len(rows), bool), self._first_known(rows)
        states = self._stamped(rows, known)
        # Mostly these are the states to be written: they are coded while the keys are looked up.
        self._coded = self._beside.submit(parquet_bytes, states)
        if table.key:
            keys, parts = rows.select(table.key), self._parts
            standing = self._datasets.parts.standing(table, parts, keys)
            self._check(keys, standing)
            seen = standing.seen
            self._counts["removed" if self._mode == "delete" else "changed"] = int(standing.alive.sum())
            known_from = self._known_from(known, standing, keys)
            if not np.array_equal(known_from, known):
                states, self._coded = self._stamped(rows, known_from), None
        if self._mode != "delete":
            self._counts["added"] = len(rows) - self._counts["changed"]
        return states, bool(seen.any())

    def _stamped(self, rows: pa.Table, known: npt.NDArray[np.int64]) -> pa.Table:
        """Rows as states that are known from the instants `known`, int64 [n]."""
        moment = SYSTEM_FIELDS[KNOWN_FROM]
        states = rows.append_column(SOURCE_FILE, pa.repeat(pa.scalar(self._source, pa.string()), len(rows)))
        states = states.append_column(SOURCE_ROW, pa.array(np.arange(1, len(rows) + 1)))
        states = states.append_column(KNOWN_FROM, pa.array(known, pa.int64()).cast(moment))
        return states.append_column(REMOVED, pa.array(np.full(len(rows), self._mode == "delete")))

    def _check(self, keys: pa.Table, standing: Standing) -> None:
        """Refuse to append what is there, and to delete what is not."""
        bad = standing.alive if self._mode == "append" else ~standing.alive
        if self._mode == "upsert" or not bad.any():
            return
        first = keys.filter(pa.array(bad)).slice(0, _LISTED).to_pylist()
        where = {
            "table": self._table.name,
            "rows": int(bad.sum()),
            "keys": [key_text(self._table, row) for row in first],
        }
        if self._mode == "append":
            raise ConflictError(
                f"{int(bad.sum()):,} of the rows appended to {self._table.name!r} are there already", where=where,
                hint="Leave them out, or replace them with upsert. Nothing was changed.",
            )  # fmt: skip
        raise NotFoundError(
            f"{int(bad.sum()):,} of the keys to delete are not in {self._table.name!r}", where=where,
            hint="Leave them out. Nothing was changed.",
        )  # fmt: skip

    def _known_from(self, known: npt.NDArray[np.int64], standing: Standing, keys: pa.Table) -> npt.NDArray[np.int64]:
        first = np.where(standing.seen, self._now, known)
        limits = [part.ranges.get(KNOWN_FROM) for part in standing.holders]
        if all(limit is not None and limit[1] <= self._now for limit in limits):
            return first
        newest = self._datasets.parts.newest_known(self._table, list(standing.holders), keys)
        return np.maximum(first, newest)

    def _first_known(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """When each row is known if it is seen for the first time."""
        rule = Known.parse(self._contract[self._table.name].known)
        column = self._table.time if rule.kind == "event" else rule.column
        if self._known == "rule" and self._mode != "delete" and rule.kind in ("event", "column") and column:
            moments: npt.NDArray[np.int64] = rows[column].cast(pa.int64()).to_numpy()
            return moments + rule.delay
        return np.full(len(rows), self._now, np.int64)

    def _unknown_parents(self, rows: pa.Table) -> dict[str, int]:
        found = {}
        for column, name in self._table.links.items():
            parent = self._schema.table(name)
            if self._root(parent) == self._table.name and parent.source:
                continue  # the parent's rows come from these very ones
            values = rows[column].drop_null()
            keys = pc.unique(values)
            if name == self._table.name:
                keys = keys.filter(pc.invert(pc.is_in(keys, rows[parent.key[0]].combine_chunks())))
            if parent.source:
                there = self._datasets.read(self.base.id, [name], current_only=True)[name][parent.key[0]]
                missing = keys.filter(pc.invert(pc.is_in(keys, there.combine_chunks())))
            else:
                parts = self._datasets.manifest(self.base.id, name)
                standing = self._datasets.parts.standing(parent, parts, pa.table({parent.key[0]: keys}))
                missing = keys.filter(pa.array(~standing.alive))
            if count := int(pc.sum(pc.is_in(values, missing)).as_py() or 0):
                found[column] = count
        return found

    def _root(self, table: Table) -> str:
        while table.source:
            table = self._schema.table(table.source)
        return table.name

    def commit(self, states: pa.Table, supersedes: bool, note: str, author: str) -> Changed:
        """Write the part, and the version of it."""
        table, base, counts = self._table, self.base, self._counts
        contract: dict[str, TableContract] = dict(self._contract)
        written = self._beside.submit(self._written, states, supersedes)
        if self._mode != "delete":
            contract[table.name] = observed(table, contract[table.name], states)
        part = written.result()
        rows = {**base.rows, table.name: base.rows[table.name] + counts["added"] - counts["removed"]}
        if any(self._root(derived) == table.name for derived in self._schema.derived):
            rows |= self._datasets.count_derived(self._schema, base.id, [part])
        report = {"tables": {table.name: {**counts, "unchanged": 0, "duplicates": 0, "quarantined": 0,
                                          "unknown_parents": self._told_unknown()}},
                  "notes": [], "delivery": self._source}  # fmt: skip
        draft = Draft(base, base.period, self._schema, contract, rows, [part], note, author, report=report)
        version = self._datasets.commit(draft)
        return Changed(version, counts["added"], counts["changed"], counts["removed"], self._unknown)

    def _written(self, states: pa.Table, supersedes: bool) -> Part:
        coded = self._coded.result() if self._coded else None
        return self._datasets.parts.write(self._table, states, supersedes=supersedes, period_end=self._now, coded=coded)

    def _told_unknown(self) -> dict[str, Any]:
        return {
            column: {"rows": count, "examples": [MASKED] if self._table.column(column).personal else []}
            for column, count in self._unknown.items()
        }
