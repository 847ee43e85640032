"""The room's tables and their rows as records."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from heapq import heapify, heappop, heappush
from typing import Any

import sqlalchemy as sa

from holdfast.backend.records import DatasetVersion, RawFile
from holdfast.backend.store import metadata

__all__ = ["ADDS", "COMPACT", "WHOLE", "Part", "add_files", "add_parts", "add_version", "ancestors", "chain",
"datasets", "every_part", "files_of", "in_order", "lineage",
           "parts_by_step", "parts_of", "standing", "swap_parts", "take_files", "to_version"]  # fmt: skip

ADDS = "adds"
"""`manifest` of a version whose parts and files come after those of its `base`."""
WHOLE = "whole"
"""It lists all of its parts, and all of its files (`dataset_taken_files`); `base` is only where it came from."""
COMPACT = "compact"
"""It lists all of its parts anew: the same states as its `base` in fewer parts. Files are those of its `base`."""

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False, unique=True),
    sa.Column("major", sa.Integer, nullable=False),
    sa.Column("minor", sa.Integer, nullable=False),
    sa.Column("base", sa.Text, sa.ForeignKey("datasets.id")),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("parents", sa.Text, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("contract", sa.Text, nullable=False),
    sa.Column("rows", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("sources", sa.Text, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("quarantine", sa.Text),
    sa.Column("manifest", sa.Text, nullable=False, server_default=ADDS),
    sa.Column("collected_at", sa.BigInteger),
)
"""A version extends the manifest of its `base` by its own parts and files: nothing is copied. See ADDS, WHOLE, COMPACT.

Of a version that was collected (`collected_at`) only the record is left.
"""

_parts = sa.Table(
    "dataset_parts",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("table", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("supersedes", sa.Boolean, nullable=False),
    sa.Column("period_end", sa.BigInteger, nullable=False),
    sa.Column("ranges", sa.Text, nullable=False),
)
_files = sa.Table(
    "dataset_files",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.id"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("delivery", sa.Text, nullable=False, index=True),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("table", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
)
_taken = sa.Table(
    "dataset_taken_files",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("file", sa.Text, sa.ForeignKey("dataset_files.id"), nullable=False),
)
"""Files that a version holds without having brought them: a merge those of the other branch, a WHOLE one all."""
_FILE_FIELDS = tuple(column.name for column in _files.c if column.name not in {"dataset", "position"})


@dataclass(frozen=True, slots=True)
class Part:
    """A blob of states of one table, and what can be said of it without opening it.

    `supersedes`: some of its states follow states of earlier parts. `ranges` are [min, max] of identifying columns
    that have no nulls in it. `period_end` is the end of the period that delivered it.
    """

    table: str
    digest: str
    rows: int
    bytes: int
    supersedes: bool
    period_end: int
    ranges: dict[str, list[Any]] = field(default_factory=dict)


def to_version(row: Any) -> DatasetVersion:
    """A row of `datasets` as a record."""
    return DatasetVersion(
        id=row.id,
        version=row.version,
        made_at=row.made_at,
        parents=tuple(json.loads(row.parents)),
        period=row.period,
        schema=json.loads(row.schema),
        rows=json.loads(row.rows),
        bytes=row.bytes,
        note=row.note,
        author=row.author,
        state=row.state,
        sources=tuple(json.loads(row.sources)),
        report=json.loads(row.report),
    )


def add_version(
    connection: sa.Connection,
    record: DatasetVersion,
    *,
    base: str | None,
    contract: Any,
    quarantine: str | None,
    manifest: str = ADDS,
) -> None:
    """Write one version."""
    major, minor = record.version[1:].split(".")
    plain = {name: _json(getattr(record, name)) for name in ("parents", "schema", "rows", "sources", "report")}
    same = {name: getattr(record, name) for name in ("id", "version", "made_at", "period", "bytes", "note", "author")}
    connection.execute(
        datasets.insert().values(
            **same,
            **plain,
            state=record.state,
            major=int(major),
            minor=int(minor),
            base=base,
            contract=_json(contract),
            quarantine=quarantine,
            manifest=manifest,
        )
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _walk(version: str | sa.BindParameter[str], until: Collection[str]) -> sa.CTE:
    """`version` and the versions it extends with their distance, back to the first whose manifest is in `until`."""
    walk = (
        sa.select(datasets.c.id, datasets.c.base, datasets.c.manifest, sa.literal(0).label("depth"))
        .where(datasets.c.id == version)
        .cte("walk", recursive=True)
    )
    return walk.union_all(
        sa.select(datasets.c.id, datasets.c.base, datasets.c.manifest, walk.c.depth + 1)
        .join(walk, datasets.c.id == walk.c.base)
        .where(walk.c.manifest.not_in(until))
    )


def chain(connection: sa.Connection, version: str, *, until: Collection[str] = (WHOLE,)) -> list[Any]:
    """Rows of `datasets` whose parts make up `version`, oldest first; by default as if nothing was ever compacted."""
    walk = _walk(version, until)
    query = sa.select(datasets).join(walk, walk.c.id == datasets.c.id).order_by(walk.c.depth.desc())
    return list(connection.execute(query))


def ancestors(connection: sa.Connection, version: str) -> list[Any]:
    """Rows of `datasets` of a version and all that it came from by any parent, oldest first (`in_order`)."""
    rows = {row.id: row for row in connection.execute(sa.select(datasets))}
    found: set[str] = set()
    waiting = [version]
    while waiting:
        one = waiting.pop()
        if one in rows and one not in found:
            found.add(one)
            waiting += json.loads(rows[one].parents)
    return [row for row in in_order(rows.values()) if row.id in found]


def in_order(rows: Iterable[Any]) -> list[Any]:
    """Rows of `datasets`, each after all that it came from, else by number.

    Numbers alone do not say who came from whom: a version that was pulled gets another one where its own was taken,
    and that may be higher than those of its children.
    """
    left = {row.id: row for row in rows}
    children: dict[str, list[str]] = {}
    waits: dict[str, int] = {}
    for row in left.values():
        parents = {one for one in json.loads(row.parents) if one in left}
        waits[row.id] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(row.id)
    ready = [(row.major, row.minor, row.id) for row in left.values() if not waits[row.id]]
    heapify(ready)
    ordered = []
    while ready:
        one = heappop(ready)[2]
        ordered.append(left[one])
        for child in children.get(one, ()):
            waits[child] -= 1
            if not waits[child]:
                heappush(ready, (left[child].major, left[child].minor, child))
    return ordered


def lineage() -> sa.Select[Any]:
    """A query of what `standing` needs, and of number and quarantine, of all versions: all else of them is large."""
    columns = ("id", "base", "manifest", "parents", "collected_at", "version", "quarantine")
    return sa.select(*(datasets.c[name] for name in columns))


def standing(rows: Iterable[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """Versions whose parts make up one that was not collected, and versions that such a one descends from.

    Only the parts of the former, and the quarantine of the latter, must be there. `rows` are rows of `datasets`.
    """
    found = {row["id"]: row for row in rows}
    listed: set[str] = set()
    known: set[str] = set()
    for start in (one for one, row in found.items() if row.get("collected_at") is None):
        step: str | None = start
        while step is not None and step in found and step not in listed:
            listed.add(step)
            step = found[step]["base"] if found[step].get("manifest", ADDS) == ADDS else None
        waiting = [start]
        while waiting:
            one = waiting.pop()
            if one in found and one not in known:
                known.add(one)
                waiting += json.loads(found[one]["parents"])
    return listed, known


def add_parts(connection: sa.Connection, version: str, parts: Sequence[Part]) -> None:
    """Write the parts that a version adds."""
    rows = [
        {**asdict(part), "ranges": _json(part.ranges), "dataset": version, "position": position}
        for position, part in enumerate(parts)
    ]
    if rows:
        connection.execute(_parts.insert(), rows)


def parts_of(connection: sa.Connection, version: str) -> list[Part]:
    """The manifest of a version: parts in the order of delivery."""
    return [_part(row) for row in connection.execute(_manifest(), {"version": version})]


@cache
def _manifest() -> sa.Select[Any]:
    """The query of `parts_of`: making it anew costs more than running it."""
    walk = _walk(sa.bindparam("version"), (WHOLE, COMPACT))
    return sa.select(_parts).join(walk, walk.c.id == _parts.c.dataset).order_by(walk.c.depth.desc(), _parts.c.position)


def every_part() -> sa.Select[Any]:
    """A query of all parts of all versions: dataset, table and digest."""
    return sa.select(_parts.c.dataset, _parts.c.table, _parts.c.digest)


def parts_by_step(connection: sa.Connection, version: str) -> list[tuple[Any, list[Part]]]:
    """The rows of `datasets` that make up a version, oldest first, each with the parts it added.

    What was compacted is given as it was before, as far back as that is still there.
    """
    walk = _walk(version, (WHOLE,))
    added: dict[str, list[Part]] = {}
    query = sa.select(_parts).join(walk, walk.c.id == _parts.c.dataset).order_by(_parts.c.dataset, _parts.c.position)
    for row in connection.execute(query):
        added.setdefault(row.dataset, []).append(_part(row))
    rows = chain(connection, version)
    before = {row.id: earlier for row, earlier in zip(rows[1:], rows[:-1], strict=True)}
    steps: list[tuple[Any, list[Part]]] = []
    for row in reversed(rows):
        # What a compaction was made from counts, unless that was collected since.
        begins = row.manifest == COMPACT and (row.id not in before or before[row.id].collected_at is not None)
        if row.manifest != COMPACT or begins:
            steps.append((row, added.get(row.id, [])))
        if begins:
            break
    return steps[::-1]


def _part(row: Any) -> Part:
    return Part(row.table, row.digest, row.rows, row.bytes, row.supersedes, row.period_end, json.loads(row.ranges))


def swap_parts(connection: sa.Connection, swapped: Mapping[str, Part]) -> None:
    """Let the manifests of all versions name other parts in the place of some, which are given by their digest."""
    for digest, part in swapped.items():
        values = {"digest": part.digest, "rows": part.rows, "bytes": part.bytes, "ranges": _json(part.ranges)}
        connection.execute(_parts.update().where(_parts.c.digest == digest).values(**values))


def add_files(connection: sa.Connection, version: str, files: Sequence[RawFile]) -> None:
    """Write the raw files that a version brought."""
    rows = [{**asdict(file), "dataset": version, "position": position} for position, file in enumerate(files)]
    if rows:
        connection.execute(_files.insert(), rows)


def take_files(connection: sa.Connection, version: str, files: Sequence[RawFile]) -> None:
    """Write files that a version takes over."""
    rows = [{"dataset": version, "position": n, "file": file.id} for n, file in enumerate(files)]
    if rows:
        connection.execute(_taken.insert(), rows)


def files_of(connection: sa.Connection, version: str | None) -> list[RawFile]:
    """The raw files of a version in the order of delivery; of all versions when None."""
    if version is None:
        found = list(connection.execute(sa.select(_files).order_by(_files.c.made_at, _files.c.position)))
    else:
        walk = _walk(version, (WHOLE,))
        brought = sa.select(_files, walk.c.depth, _files.c.position.label("place"), sa.literal(1).label("kind")).join(
            walk, walk.c.id == _files.c.dataset
        )
        taken = (
            sa.select(_files, walk.c.depth, _taken.c.position.label("place"), sa.literal(0).label("kind"))
            .join(_taken, _taken.c.file == _files.c.id)
            .join(walk, walk.c.id == _taken.c.dataset)
        )
        rows = connection.execute(sa.union_all(brought, taken)).all()
        found = sorted(rows, key=lambda row: (-row.depth, row.kind, row.place))
    return [RawFile(**{name: getattr(row, name) for name in _FILE_FIELDS}) for row in found]
