"""What an erasure writes before anything changes: new parts, matrices and raw files, each proved against the old."""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from holdfast.backend.datasets.parts import ranges_of
from holdfast.backend.datasets.tables import Part
from holdfast.backend.pipelines.belongings import Belongings, RawAccess, RawRead
from holdfast.backend.pipelines.erasing_records import TableRow, said_of
from holdfast.backend.pipelines.materialise import ENTITY
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.store import metadata
from holdfast.backend.store.files import sha256_of, sha256_of_file
from holdfast.core.prepare.convert import to_text
from holdfast.core.prepare.persons import key_text
from holdfast.errors import FileError, IntegrityError

__all__ = ["FileChange", "Plan", "draw_up", "rows_digest"]

_SCRATCH = "erasing-"
"""Begins the names of folders with raw files in the making; `forgetting` clears away what is left of them."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A raw file and its content afterwards: the blob that holds it, its hash and size. `before` is its hash now."""

    path: str
    before: str
    blob: str
    sha256: str
    bytes: int


@dataclass
class Plan:
    """What an erasure changes. Blobs are written already, and nothing refers to them yet.

    `parts` maps digests to the parts that replace them, `quarantine` digests to values of `datasets`; `matrices` and
    `online` (materialisations) are mappings with `before` and the new values; `versions` maps dataset ids to values.
    `ranges` are digests of collected parts whose ranges name the person, `told_by_jobs` (table, key, values) of records
    of jobs that do. `made` are blobs that were not there before, `stale` those that nobody refers to afterwards.
    """

    belongings: Belongings
    parts: dict[str, Part] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    quarantine: dict[str, dict[str, Any]] = field(default_factory=dict)
    matrices: list[dict[str, Any]] = field(default_factory=list)
    online: list[dict[str, Any]] = field(default_factory=list)
    files: list[FileChange] = field(default_factory=list)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    told_by_jobs: list[TableRow] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    emptied: dict[str, int] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    targets: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there is anything of the person."""
        return bool(self.parts or self.files or self.matrices or self.online or self.quarantine or self.ranges)

    @property
    def stale(self) -> list[str]:
        """Blobs that nothing refers to once the erasure is committed."""
        others = [one["before"] for one in (*self.matrices, *self.online)]
        return sorted({*self.parts, *self.quarantine, *others} - {part.digest for part in self.parts.values()})

    def told(self) -> dict[str, Any]:
        """What the audit log is told: which blobs and files became which, with the hash of the rows that stayed."""
        return {
            "parts": self.proofs,
            "rows": self.counts,
            "files": [{"path": f.path, "before": f.before, "after": f.sha256} for f in self.files],
            "dropped": list(self.dropped),
            "quarantine": [{"before": b, "after": v["quarantine"]} for b, v in self.quarantine.items()],
            "matrices": [{"before": m["before"], "after": m["sha256"]} for m in self.matrices],
            "materialisations": [{"before": m["before"], "after": m["sha256"]} for m in self.online],
            "models": list(self.models),
        }

    def discard(self, rooms: Rooms) -> None:
        """Remove what was written: it is not done after all."""
        for digest in self.made:
            rooms.blobs.delete(digest)

    def put(self, rooms: Rooms, data: bytes) -> str:
        """Keep bytes as a blob, and remember whether they are new."""
        digest = sha256_of(data)
        if not rooms.blobs.has(digest):
            self.made.append(digest)
        return rooms.blobs.put(data)


def draw_up(rooms: Rooms, raw: RawAccess, found: Belongings, *, drop_raw: bool) -> Plan:
    """Write everything that the erasure of `found` puts in the place of something.

    IntegrityError when a row that should stay would not stay as it is; FileError for a raw file that cannot be edited,
    unless `drop_raw`. Then nothing is left behind.
    """
    plan = Plan(found)
    try:
        _raw_files(rooms, raw, plan, drop_raw=drop_raw)
        for digest, (part, mask) in found.parts.items():
            _part(rooms, plan, digest, part, mask)
        _quarantine(rooms, plan)
        _matrices(rooms, plan)
        _materialisations(rooms, plan)
        plan.versions, plan.ranges, plan.told_by_jobs = said_of(rooms, found, plan.parts)
    except BaseException:
        plan.discard(rooms)
        raise
    return plan


# -- parts and quarantine ----------------------------------------------------------------------------------------------


def rows_digest(rows: pa.Table) -> str:
    """SHA-256 over names, types, nulls and the exact bits of all values, however they are laid out in memory."""
    hasher = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        hasher.update(json.dumps([name, str(column.type), len(column)]).encode())
        hasher.update(np.packbits(pc.is_valid(column).to_numpy(zero_copy_only=False)).tobytes())
        values = column.drop_null().combine_chunks()
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.int64())
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            hasher.update(pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
            hasher.update("".join(values.to_pylist()).encode("utf-8", "surrogatepass"))
        elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
            hasher.update(values.to_numpy(zero_copy_only=False).tobytes())
        else:
            hasher.update(repr(values.to_pylist()).encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def _part(rooms: Rooms, plan: Plan, digest: str, part: Part, mask: Any) -> None:
    old = rooms.datasets.parts.read_plain(digest)
    kept = old.filter(pa.array(~mask))
    new, size = _kept(rooms, plan, kept)
    plan.parts[digest] = replace(
        part, digest=new, rows=kept.num_rows, bytes=size, ranges=ranges_of(kept, list(part.ranges))
    )
    plan.counts[part.table] = plan.counts.get(part.table, 0) + int(mask.sum())
    plan.proofs.append({"table": part.table, "before": digest, "after": new, "erased": int(mask.sum()),
                        "stayed": kept.num_rows, "stayed_sha256": rows_digest(kept)})  # fmt: skip


def _kept(rooms: Rooms, plan: Plan, rows: pa.Table) -> tuple[str, int]:
    """Store the rows that stay; what is read back must be they, bit by bit."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", store_schema=True)
    digest = plan.put(rooms, sink.getvalue())
    path = rooms.blobs.path(digest)
    if sha256_of_file(path) != digest or rows_digest(pq.read_table(path)) != rows_digest(rows):
        raise _unlike("the rows that stay are not the same after they were written", digest)
    return digest, len(sink.getvalue())


def _unlike(what: str, blob: str) -> IntegrityError:
    return IntegrityError(f"{what}; nothing was erased", where={"blob": blob}, hint="Check the disk, then repeat.")


def _quarantine(rooms: Rooms, plan: Plan) -> None:
    """Faults of emptied rows, and those whose value is one of the keys."""
    gone = {(one.path, one.table, row) for one in plan.belongings.raw for row in one.rows}
    keys = {key for table in plan.belongings.keys.values() for key in table}
    for version in _rows(rooms, "datasets"):
        digest = version["quarantine"]
        if not digest or digest in plan.quarantine or not rooms.blobs.has(digest):
            continue
        faults = rooms.datasets.parts.read_plain(digest)
        places = zip(faults["file"].to_pylist(), faults["table"].to_pylist(), faults["row"].to_pylist(), strict=True)
        theirs = np.array([place in gone for place in places], bool)
        named = pc.is_in(faults["value"], value_set=pa.array(sorted(keys), pa.string()))
        columns = {column for column, _ in plan.belongings.shape.keys.values()}
        columns |= {column for links in plan.belongings.shape.links.values() for column, _ in links}
        theirs |= np.array([c in columns for c in faults["column"].to_pylist()], bool) & named.to_numpy(
            zero_copy_only=False
        )
        if theirs.any():
            kept = faults.filter(pa.array(~theirs))
            plan.quarantine[digest] = {"quarantine": _kept(rooms, plan, kept)[0] if kept.num_rows else None}


# -- matrices and vectors ----------------------------------------------------------------------------------------------


def _matrices(rooms: Rooms, plan: Plan) -> None:
    entities = {row["id"]: row["definitions"]["entity"] for row in _rows(rooms, "feature_sets")}
    asked: dict[str, set[tuple[str, int]]] = {}
    theirs = set()
    for row in _rows(rooms, "matrices"):
        target = row["target"]
        entity = entities.get(row["feature_set"], "")
        keys = plan.belongings.keys.get(entity, frozenset())
        if target not in asked:
            asked[target] = _asked(rooms, plan, target)
        if not (keys or asked[target]) or not rooms.blobs.has(row["sha256"]):
            continue
        plan.targets[target] = entity
        table = pq.read_table(rooms.blobs.path(row["sha256"]))
        stays = _not_theirs(table, keys, asked[target])
        if bool(np.all(stays)):
            continue
        theirs.add(row["id"])
        if any(one["before"] == row["sha256"] for one in plan.matrices):
            continue
        kept = table.filter(pa.array(stays))
        digest = _kept(rooms, plan, kept)[0]
        path = rooms.blobs.path(digest).relative_to(rooms.layout.root).as_posix()
        plan.matrices.append({"before": row["sha256"], "sha256": digest, "path": path, "rows": kept.num_rows})
    runs = {row["id"] for row in _rows(rooms, "runs") if row["matrix"] in theirs}
    plan.models = tuple(
        f"{row['model']} {row['version']}" for row in _rows(rooms, "model_versions") if row["run"] in runs
    )


def _not_theirs(table: pa.Table, keys: Iterable[str], asked: set[tuple[str, int]]) -> Any:
    entity = key_text(table["entity"])
    stays = ~pc.is_in(entity, value_set=pa.array(sorted(keys), pa.string())).to_numpy(zero_copy_only=False)
    if asked:
        cutoffs = table["cutoff"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
        stays &= np.array([pair not in asked for pair in zip(entity.to_pylist(), cutoffs, strict=True)], bool)
    return stays


def _asked(rooms: Rooms, plan: Plan, target: str) -> set[tuple[str, int]]:
    """(entity, cutoff) of what only erased rows asked, of a target whose asking rows belong and whose entity does not.

    A question that a row that stays asks too stays.
    """
    said = rooms.settings.targets.get(target)
    if said is None or said.every or said.from_ not in plan.belongings.keys:
        return set()
    links = [
        column for column, parent in plan.belongings.shape.links.get(said.from_, ()) if parent == said.entity_table
    ]
    if not links or said.cutoff is None or said.entity_table in plan.belongings.keys:
        return set()
    gone: set[tuple[str, int]] = set()
    stay: set[tuple[str, int]] = set()
    for row in {row["digest"]: row for row in _rows(rooms, "dataset_parts") if row["table"] == said.from_}.values():
        if not rooms.blobs.has(row["digest"]):
            continue
        rows = rooms.datasets.parts.read_plain(row["digest"])
        mask = plan.belongings.parts[row["digest"]][1] if row["digest"] in plan.belongings.parts else None
        if links[0] in rows.column_names and said.cutoff in rows.column_names:
            moments = rows[said.cutoff].cast(pa.int64()).to_pylist()
            for place, pair in enumerate(zip(key_text(rows[links[0]]).to_pylist(), moments, strict=True)):
                (gone if mask is not None and mask[place] else stay).add(pair)
    return gone - stay


def _materialisations(rooms: Rooms, plan: Plan) -> None:
    groups = {row["id"]: row["entity"] for row in _rows(rooms, "feature_groups")}
    for row in _rows(rooms, "materialisations"):
        entity = groups.get(row["version"], "")
        keys = plan.belongings.keys.get(entity)
        if not keys:
            continue
        plan.groups[row["group"]] = entity
        if any(one["before"] == row["sha256"] for one in plan.online) or not rooms.blobs.has(row["sha256"]):
            continue
        with pa.memory_map(str(rooms.blobs.path(row["sha256"]))) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
            stays = _not_theirs(table.rename_columns(["entity", *table.column_names[1:]]), keys, set())
            assert table.column_names[0] == ENTITY
            if bool(np.all(stays)):
                continue
            kept = table.filter(pa.array(stays))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, kept.schema) as writer:
                writer.write_table(kept)
            data = sink.getvalue().to_pybytes()
        digest = plan.put(rooms, data)
        if rows_digest(pa.ipc.open_file(pa.py_buffer(data)).read_all()) != rows_digest(kept):
            raise _unlike("the vectors that stay are not the same after they were written", digest)
        plan.online.append({"before": row["sha256"], "sha256": digest, "rows": kept.num_rows})


# -- raw files ---------------------------------------------------------------------------------------------------------


def _raw_files(rooms: Rooms, access: RawAccess, plan: Plan, *, drop_raw: bool) -> None:
    by_path: dict[str, list[RawRead]] = {}
    for one in plan.belongings.raw:
        by_path.setdefault(one.path, []).append(one)
    dropped = []
    for path, reads in by_path.items():
        plan.emptied[path] = sum(len(one.rows) for one in reads)
        with tempfile.TemporaryDirectory(dir=rooms.layout.private, prefix=_SCRATCH) as folder:
            data = _emptied(rooms, access, Path(folder), reads)
        if data is None and not drop_raw:
            raise FileError(
                f"single rows of this file ({reads[0].raw.format}) cannot be emptied", where={"file": path},
                hint="Repeat with --drop-raw: the file is emptied as a whole, while the other rows stay in the data.",
            )  # fmt: skip
        if data is None:
            dropped.append(path)
            data = b""
        before = sha256_of_file(rooms.layout.root / path)
        blob = plan.put(rooms, data)
        plan.files.append(FileChange(path, before, blob, blob, len(data)))
    plan.dropped = tuple(dropped)


def _emptied(rooms: Rooms, access: RawAccess, folder: Path, reads: Sequence[RawRead]) -> bytes | None:
    """The file with the rows of all reads empty; None where that cannot be done so that all other rows stay."""
    source = rooms.layout.root / reads[0].path
    data: bytes | None = None
    for one in reads:
        data = access.empty(source, one.raw, one.rows)
        if data is None:
            return None
        source = folder / source.name
        source.write_bytes(data)
    for one in reads:
        said = rooms.settings.tables.get(one.table)
        try:
            after = access.read(source, sheet=said.sheet if said else None)
        except FileError:
            # The only rows of the file were theirs: what is left has no content.
            if len(one.rows) < one.raw.table.num_rows:
                return None
            continue
        if not _same_but(one, after):
            return None
    return data


def _same_but(one: RawRead, after: Any) -> bool:
    """Whether all rows but the emptied ones are what they were, under the same numbers."""
    gone = pa.array(sorted(one.rows), pa.int64())
    # A row that was emptied before is read as long as another follows it, and is none at the end of the file.
    keep = pc.and_(pc.invert(pc.is_in(one.raw.rows, value_set=gone)), _filled(one.raw.table))
    was, numbers = one.raw.table.filter(keep), one.raw.rows.filter(keep)
    stays = pc.is_in(after.rows, value_set=numbers)
    now = after.table.filter(stays)
    if not after.rows.filter(stays).equals(numbers) or set(now.column_names) - set(was.column_names):
        return False
    for name in was.column_names:
        before = was[name].combine_chunks()
        if name not in now.column_names:
            # A column whose values were all theirs may not be seen any more.
            if before.null_count < len(before):
                return False
            continue
        present = now[name].combine_chunks()
        if before.type != present.type:
            before, present = to_text(before), to_text(present)
        if rows_digest(pa.table({"c": before})) != rows_digest(pa.table({"c": present})):
            return False
    return True


def _filled(rows: pa.Table) -> pa.Array:
    """Which rows have any value."""
    found = np.zeros(rows.num_rows, bool)
    for column in rows.columns:
        found |= pc.is_valid(column).to_numpy(zero_copy_only=False)
    return pa.array(found)


# -- records -----------------------------------------------------------------------------------------------------------


def _rows(rooms: Rooms, table: str) -> list[dict[str, Any]]:
    with rooms.store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(metadata.tables[table]))]
