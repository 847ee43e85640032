"""What records say of an erased person: counts, examples, observed values, ranges of parts, what jobs told."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from holdfast.backend.datasets.tables import Part
from holdfast.backend.pipelines.belongings import Belongings
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.store import metadata
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import Schema

__all__ = ["TableRow", "said_of"]

TableRow = tuple[str, dict[str, Any], dict[str, Any]]
"""A table, the key of a row of it, and the new values of some of its columns."""
Versions = dict[str, dict[str, Any]]


def said_of(
    rooms: Rooms, belongings: Belongings, parts: Mapping[str, Part]
) -> tuple[Versions, list[str], list[TableRow]]:
    """What records are to say instead: of versions (by id), of collected parts (digests whose ranges go), of jobs.

    `parts` are the parts that take the place of others, by their digests.
    """
    cleaner = _Cleaner(belongings)
    ranges = {row["digest"]: json.loads(row["ranges"]) for row in _rows(rooms, "dataset_parts")}
    named = sorted(digest for digest, said in ranges.items() if digest not in parts and cleaner.ranges(said))
    return (
        _versions(rooms, cleaner, _Observed(rooms, belongings), parts),
        [digest for digest in named if not rooms.blobs.has(digest)],
        _jobs(rooms, cleaner),
    )


class _Cleaner:
    """Takes the keys of a person out of plain data that records hold: examples, observed values, messages."""

    def __init__(self, belongings: Belongings) -> None:
        shape = belongings.shape
        self._keys = frozenset(key for table in belongings.keys.values() for key in table)
        columns = {column for column, _ in shape.keys.values()}
        self._columns = columns | {column for links in shape.links.values() for column, _ in links}
        names, keys = ("|".join(map(re.escape, sorted(words))) for words in (self._columns, self._keys))
        # As messages name rows: `id=7`, before the next column or the end.
        self._named = re.compile(rf"(?<!\w)({names})=({keys})(?=[,;'\")\]]|$)")

    def mentions(self, text: str | None) -> bool:
        """Whether JSON text may hold a key at all."""
        return text is not None and any(key in text or _json(key)[1:-1] in text for key in self._keys)

    def ranges(self, said: Mapping[str, list[Any]]) -> bool:
        """Whether a part's ranges name a key."""
        return any(_text(value) in self._keys for both in said.values() for value in both)

    def clean(self, said: Any, column: str = "") -> Any:
        """Without keys among examples and in messages, and without observed values of key columns that are one."""
        if isinstance(said, list):
            return [self.clean(item, column) for item in said]
        if isinstance(said, str):
            return self._named.sub(rf"\1={MASKED}", said)
        if not isinstance(said, Mapping):
            return said
        column = said.get("column", column) if isinstance(said.get("column", ""), str) else column
        clean: dict[str, Any] = {}
        for name, value in said.items():
            here = name if name in self._columns else column
            if name == "examples" and isinstance(value, list):
                clean[name] = [MASKED if _text(item) in self._keys else self.clean(item, here) for item in value]
            elif name == "values" and isinstance(value, list) and here in self._columns:
                clean[name] = [item for item in value if _text(item) not in self._keys]
            elif name in {"min", "max"} and here in self._columns and _text(value) in self._keys:
                clean[name] = None
            elif name == "value" and here in self._columns and _text(value).strip("'\"") in self._keys:
                clean[name] = MASKED
            else:
                clean[name] = self.clean(value, here)
        return clean


@dataclass
class _Values:
    """Of one column: values that only erased rows have, and the least and greatest number of the others."""

    gone: set[Any] = field(default_factory=set)
    ends: list[Any] = field(default_factory=list)


class _Observed:
    """Observed values of a contract that only erased rows had: a name, or a number that was the greatest."""

    def __init__(self, rooms: Rooms, belongings: Belongings) -> None:
        self._sources = belongings.shape.sources
        self._found: dict[tuple[str, str], _Values] = {}
        listed = {(row["table"], row["digest"]) for row in _rows(rooms, "dataset_parts")}
        for table, digest in listed:
            if digest in belongings.parts:
                erased = rooms.datasets.parts.read_plain(digest).filter(pa.array(belongings.parts[digest][1]))
                for name in filter(_observable(erased), erased.column_names):
                    values = self._found.setdefault((table, name), _Values())
                    values.gone.update(erased[name].drop_null().to_pylist())
        touched = {table for table, _ in self._found}
        for table, digest in listed:
            if table in touched and rooms.blobs.has(digest):
                rows = rooms.datasets.parts.read_plain(digest)
                if digest in belongings.parts:
                    rows = rows.filter(pa.array(~belongings.parts[digest][1]))
                self._stays(table, rows)

    def _stays(self, table: str, rows: pa.Table) -> None:
        for name in filter(_observable(rows), rows.column_names):
            if (table, name) in self._found:
                values, column = self._found[table, name], rows[name]
                values.gone.difference_update(pc.unique(column).to_pylist())
                if not pa.types.is_string(column.type):
                    ends = [*values.ends, *pc.min_max(column).as_py().values()]
                    ends = [end for end in ends if end is not None]
                    values.ends = [min(ends), max(ends)] if ends else []

    def without(self, contract: dict[str, Any]) -> dict[str, Any]:
        """A contract (plain data) without them. What the project file declares stays."""
        return {table: {**said, "columns": {name: self._column(table, name, rules)
                                            for name, rules in said["columns"].items()}}
                for table, said in contract.items()}  # fmt: skip

    def _column(self, table: str, name: str, rules: dict[str, Any]) -> dict[str, Any]:
        while table in self._sources:
            table = self._sources[table]
        values, changed = self._found.get((table, name), _Values()), dict(rules)
        observed = {"values", "min", "max"} - set(rules.get("declared", ()))
        if "values" in observed and rules.get("values"):
            changed["values"] = [value for value in rules["values"] if value not in values.gone]
        for rule, end in (("min", 0), ("max", -1)):
            if rule in observed and rules.get(rule) in values.gone:
                changed[rule] = values.ends[end] if values.ends else None
        return changed


def _observable(rows: pa.Table) -> Any:
    def observable(name: str) -> bool:
        kind = rows.schema.field(name).type
        return not name.startswith("__") and bool(
            pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        )

    return observable


def _versions(rooms: Rooms, cleaner: _Cleaner, observed: _Observed, swapped: Mapping[str, Part]) -> Versions:
    """Counts of rows, bytes, and examples and observed values of every version that named the person."""
    changed: Versions = {}
    for row in _rows(rooms, "datasets"):
        values: dict[str, Any] = {}
        if row.get("collected_at") is None:
            parts = [
                part
                for table in Schema.from_dict(json.loads(row["schema"])).tables
                for part in rooms.datasets.manifest(row["id"], table)
                if part.digest in swapped
            ]
            if parts:
                values["rows"] = _json(rooms.datasets.count_rows(row["id"], swapped))
                values["bytes"] = row["bytes"] + sum(swapped[one.digest].bytes - one.bytes for one in parts)
        report, contract = json.loads(row["report"]), json.loads(row["contract"])
        for name, said, clean in (
            ("report", report, cleaner.clean(report)),
            ("contract", contract, observed.without(cleaner.clean(contract))),
        ):
            if clean != said:
                values[name] = _json(clean)
        if values:
            changed[row["id"]] = values
    return changed


def _jobs(rooms: Rooms, cleaner: _Cleaner) -> list[TableRow]:
    """What jobs told: their ends, and the ends of their steps."""
    found: list[TableRow] = []
    for table, names in (("jobs", ("result", "error")), ("job_steps", ("result",))):
        for row in _rows(rooms, table):
            said = {name: json.loads(row[name]) for name in names if cleaner.mentions(row[name])}
            values = {name: _json(clean) for name, one in said.items() if (clean := cleaner.clean(one)) != one}
            if values:
                found.append((table, {one.name: row[one.name] for one in metadata.tables[table].primary_key}, values))
    return found


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _rows(rooms: Rooms, table: str) -> list[dict[str, Any]]:
    with rooms.store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(metadata.tables[table]))]
