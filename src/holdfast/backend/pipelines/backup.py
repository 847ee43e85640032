"""Backups: what a project is, at one moment, in a place elsewhere; written while it runs, proven by restoring it.

A place holds `blobs/` (see `vault`) and `backups/<id>.json`, a manifest with the hash of everything, written last: a
backup that was interrupted is not listed, and what it had sent already is not sent again. The records are one snapshot
of the metadata database, written as an SQLite file whatever database they are in. The prediction log is copied before
it, so that the deployments it names are in it; blobs after it, for what a snapshot names was there before.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from holdfast import __version__
from holdfast.backend.datasets.tables import lineage, standing
from holdfast.backend.layout import PROJECT_FILE, Layout
from holdfast.backend.pipelines.vault import Stored, Vault, all_at_once, scratch_folder
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import new_id
from holdfast.backend.serving.log import recover
from holdfast.backend.store import Audit, AuditHead, Leases, Pointers, Store, crash_point, metadata
from holdfast.backend.store.database import unfenced
from holdfast.backend.store.erasures import Erasure, Erasures, project_secret
from holdfast.backend.store.files import sha256_of
from holdfast.backend.store.portable import copy_records
from holdfast.errors import ConflictError, IntegrityError, LimitError, NotFoundError

__all__ = ["LOGS", "RECORDS", "Backup", "BackupRooms", "back_up", "find_backup", "keep_erasures", "kept_erasures",
           "list_backups", "needed_blobs"]  # fmt: skip

RECORDS = ".holdfast/holdfast.db"
"""What the records are called in a backup, whatever database they came from."""
LOGS = (".holdfast/predictions.db", ".holdfast/online.db")
"""Databases beside the records: every prediction, and the vectors online where they are embedded."""
_FORMAT = "holdfast-backup/1"
_FOLDER = "backups"
_NAME = re.compile(rf"{_FOLDER}/backup_[0-9a-f]+\.json")
_ERASURES = "erasures.json"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BackupRooms:
    """What a backup is made of. `plugins` are the modules beside the project file, `project` its name."""

    project: str
    plugins: Sequence[str]
    layout: Layout
    store: Store
    blobs: Blobs
    clock: Clock


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup: the head of the audit log at its moment, and every file (by its path in the project) and blob.

    `data` is the number of the current data version; `sent` the bytes that were not there before. `fault` says why the
    manifest cannot be used; then the rest is empty.
    """

    id: str
    made_at: int
    project: str = ""
    holdfast: str = ""
    data: str = ""
    note: str = ""
    audit: AuditHead = field(default_factory=lambda: AuditHead(0, ""))
    files: Mapping[str, Stored] = field(default_factory=dict)
    blobs: tuple[str, ...] = ()
    sent: int = 0
    fault: str = ""


def back_up(
    rooms: BackupRooms,
    vault: Vault,
    *,
    note: str = "",
    keep: int | None = None,
    progress: Progress | None = None,
    identity: str | None = None,
) -> Backup:
    """Make one backup, then remove all but the newest `keep`, with the blobs that only they used.

    With `identity`, its id, a repeat after a crash goes on with what is there: one that is whole is not made again.
    FileError, NotFoundError or IntegrityError name a file of the project that is missing or damaged; LimitError when
    there is no room; ConflictError when another project's backups are there. Then there is no new backup.
    """
    identity = identity or new_id("backup", rooms.clock.now())
    with Leases(rooms.store, rooms.clock).hold(["backup"], doing=f"backup to {vault.place.url}"):
        there = list_backups(vault)
        others = {one.project for one in there if not one.fault} - {rooms.project}
        if others:
            raise ConflictError(
                f"the backups there are of project {sorted(others)[0]!r}", where={"place": vault.place.url},
                hint="Give each project a folder of its own.",
            )  # fmt: skip
        made = next((one for one in there if one.id == identity and not one.fault), None)
        if made is None:
            with scratch_folder(rooms.layout.private / "tmp" / "backup") as scratch:
                made = _collected(rooms, vault, scratch, (identity, note), progress or _silent)
            crash_point("backup manifest: before")
            if not vault.place.put_new(f"{_FOLDER}/{made.id}.json", _manifest(made)):
                raise ConflictError(f"there is a backup {made.id} already", hint="Repeat the command.")
            crash_point("backup manifest: after")
        _noted(rooms, vault, made)
        keep_erasures(rooms, vault)
        if keep is not None:
            _retain(vault, keep)
    return made


def _noted(rooms: BackupRooms, vault: Vault, made: Backup) -> None:
    """Write the audit entry of a backup, once."""
    with rooms.store.write("note backup") as connection:
        log, url = Audit(connection), vault.place.url
        if not any(entry.after == made.id for entry in log.entries(object=url, since=made.made_at)):
            details = {"manifest": sha256_of(_manifest(made)), "audit": asdict(made.audit)}
            log.append("backup", url, at=rooms.clock.now(), after=made.id, details=details)


def keep_erasures(rooms: BackupRooms, vault: Vault) -> None:
    """Keep beside the backups who was erased (as keyed hashes, and their key): older ones still hold these persons.

    A restore erases them again. What is listed there already stays listed: a project that was restored from an older
    backup does not know of everybody who was erased since.
    """
    with rooms.store.read() as connection:
        erased = Erasures(connection).list()
    if not erased:
        return
    secret, listed = project_secret(rooms.layout.erasure_key), {(one.table, one.person): one for one in erased}
    with suppress(IntegrityError):  # one that cannot be read is written anew
        before = kept_erasures(vault)
        if before[0] == secret:
            listed = {(one.table, one.person): one for one in before[1]} | listed
    ordered = sorted(listed.values(), key=lambda one: (one.made_at, one.id))
    vault.place.put(_ERASURES, _json({"secret": secret.hex(), "erasures": [asdict(one) for one in ordered]}))


def kept_erasures(vault: Vault) -> tuple[bytes, list[Erasure]]:
    """The key and the list that `keep_erasures` kept; empty when nobody was erased. IntegrityError when damaged."""
    try:
        held = json.loads(vault.place.get(_ERASURES))
        return bytes.fromhex(held["secret"]), [Erasure(**one) for one in held["erasures"]]
    except NotFoundError:
        return b"", []
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"the list of erased persons cannot be read: {error}", where={"place": vault.place.url, "file": _ERASURES},
            hint="Make another backup of the project: it writes the list anew.",
        ) from error  # fmt: skip


def list_backups(vault: Vault) -> list[Backup]:
    """All backups of a place, oldest first; one whose manifest cannot be used says so in `fault`."""
    found = []
    for name in vault.place.names(_FOLDER):
        if not _NAME.fullmatch(name):
            continue  # somebody else's: a note, or what a file manager leaves
        identity = name.removeprefix(f"{_FOLDER}/").removesuffix(".json")
        try:
            found.append(_read(vault.place.get(name)))
        except IntegrityError as error:
            found.append(Backup(identity, 0, fault=error.message))
    return sorted(found, key=lambda one: one.id)


def find_backup(vault: Vault, backup: str | None = None) -> Backup:
    """The backup of that id, by default the newest. NotFoundError, or IntegrityError when its manifest is damaged."""
    found = list_backups(vault)
    chosen = [one for one in found if backup in (None, one.id)]
    if not chosen:
        known = ", ".join(one.id for one in found[-5:])
        raise NotFoundError(
            f"there is no backup {backup}" if backup else "there is no backup", where={"place": vault.place.url},
            hint=f"The newest are: {known}" if known else "Make one with: holdfast backup create",
        )  # fmt: skip
    if chosen[-1].fault:
        raise IntegrityError(
            f"the backup {chosen[-1].id} cannot be used: {chosen[-1].fault}", where={"place": vault.place.url},
            hint="Choose another one; see: holdfast backup list",
        )  # fmt: skip
    return chosen[-1]


def needed_blobs(connection: sa.Connection) -> dict[str, str]:
    """Digests of blobs that records cannot do without, and what each is. (A matrix can be computed again.)"""
    parts, models = (metadata.tables[name] for name in ("dataset_parts", "model_versions"))
    found = {}
    rows = {row.id: dict(row._mapping) for row in connection.execute(lineage())}
    listed, known = standing(rows.values())  # of versions that were collected only the records are left
    for digest, table, version in connection.execute(sa.select(parts.c.digest, parts.c.table, parts.c.dataset)):
        if version in listed:
            found[digest] = f"a part of table {table} of data {rows[version]['version']}"
    for one in known:
        if rows[one]["quarantine"]:
            found[rows[one]["quarantine"]] = f"the quarantine of data {rows[one]['version']}"
    for row in connection.execute(sa.select(models.c.model, models.c.version, models.c.serving, models.c.files)):
        for role, digest in {"serving": row.serving, **row.files}.items():
            found[digest] = f"the {role} file of model {row.model} {row.version}"
    return found


@dataclass(frozen=True)
class _Snapshot:
    """What one snapshot of the records says."""

    head: AuditHead
    data: str
    needed: Mapping[str, str]
    raw: Sequence[tuple[str, str, int]]


def _collected(rooms: BackupRooms, vault: Vault, scratch: Path, said: tuple[str, str], progress: Progress) -> Backup:
    (identity, note), now = said, rooms.clock.now()
    made = Backup(identity, now, rooms.project, __version__, note=note)
    files: dict[str, Stored] = {}
    progress(0, 4, "prediction log and online vectors")
    with suppress(sqlite3.Error, OSError):  # then they wait where they are
        recover(rooms.layout.root / LOGS[0])
    for name in LOGS:
        if (rooms.layout.root / name).is_file():
            files[name] = vault.keep_pieces(_copied(rooms.layout.root / name, scratch))
    progress(1, 4, "records")
    snapshot = _snapshot(rooms.store, scratch / "records.db", now)
    files[RECORDS] = vault.keep_pieces(scratch / "records.db")
    progress(2, 4, "parts, models and matrices")
    blobs = _blobs(rooms.blobs, vault, snapshot.needed)
    progress(3, 4, "raw files")

    def keep_raw(one: tuple[str, str, int]) -> None:
        path, digest, size = one
        vault.keep(digest, rooms.layout.root / path, "a raw file")
        files[path] = Stored(digest, size, (digest,))

    all_at_once(keep_raw, snapshot.raw)
    for name in (PROJECT_FILE, *(f"{plugin}.py" for plugin in rooms.plugins)):
        files[name] = vault.keep_file(rooms.layout.root / name, "a file of the project")
    progress(4, 4, "manifest")
    return replace(
        made, data=snapshot.data, audit=snapshot.head, files=dict(sorted(files.items())), blobs=blobs, sent=vault.sent
    )


def _snapshot(store: Store, path: Path, now: int) -> _Snapshot:
    """Write the records of one moment as an SQLite file, and say what they need."""
    copy = Store(f"sqlite:///{path}")
    try:
        with unfenced(), store.read() as connection:
            copy.upgrade()
            files, versions = metadata.tables["dataset_files"], metadata.tables["datasets"]
            current = sa.select(versions.c.version).where(versions.c.id == (Pointers(connection).get("dataset") or ""))
            raw = connection.execute(sa.select(files.c.path, files.c.sha256, files.c.bytes).distinct())
            snapshot = _Snapshot(
                head=Audit(connection).head(),
                data=connection.execute(current).scalar() or "",
                needed=needed_blobs(connection),
                raw=[(row.path, row.sha256, row.bytes) for row in raw],
            )
            copy_records(connection, copy)
            _without_itself(copy, now)
    finally:
        copy.close()
    return snapshot


def _without_itself(copy: Store, now: int) -> None:
    """End the backup under way in the copy: a worker of a restored project must not take it over."""
    jobs = metadata.tables["jobs"]
    with copy.write("end backup") as connection:
        itself = (jobs.c.kind == "backup") & (jobs.c.state == "running")
        values = {"state": "cancelled", "ended_at": now, "message": "it made the backup that this was restored from"}
        connection.execute(jobs.update().where(itself).values(**values))


def _copied(path: Path, scratch: Path) -> Path:
    """A consistent copy of an SQLite file that others may be writing to."""
    copy = scratch / path.name
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            where = {"file": str(copy)}
            raise LimitError(
                "there is no room left on the disk", where=where, hint="Make room, then repeat."
            ) from error
        raise IntegrityError(
            f"a database cannot be copied: {error}", where={"file": str(path)},
            hint="If it is damaged, restore it from an earlier backup: holdfast backup list",
        ) from error  # fmt: skip
    return copy


def _blobs(blobs: Blobs, vault: Vault, needed: Mapping[str, str]) -> tuple[str, ...]:
    """Keep every blob of the project; returns their digests."""
    there = set(blobs)
    gone = sorted(set(needed) - there)
    if gone:
        raise NotFoundError(
            f"{needed[gone[0]]} is missing" + (f", and {len(gone) - 1} more files" if len(gone) > 1 else ""),
            where={"blob": gone[0]},
            hint="An earlier backup may have it (holdfast backup list): its file blobs/"
            f"{gone[0][:2]}/{gone[0][2:]} belongs into .holdfast/blobs, or the bucket.",
        )  # fmt: skip
    kept: list[str] = []

    def keep(digest: str) -> None:
        if digest not in vault.known:
            try:
                path = blobs.path(digest)
            except NotFoundError:
                if digest in needed:
                    raise
                return  # what nothing needs may go at any time
            vault.keep(digest, path, needed.get(digest, "a stored file"))
        kept.append(digest)

    all_at_once(keep, sorted(there))
    return tuple(sorted(kept))


def _manifest(backup: Backup) -> bytes:
    body = asdict(backup)
    del body["fault"]
    return _json({"format": _FORMAT, "sha256": sha256_of(_json(body)), "backup": body})


def _read(data: bytes) -> Backup:
    """A manifest's backup; IntegrityError when it is not what was written."""
    try:
        manifest = json.loads(data)
        body = manifest["backup"]
        if manifest["format"] != _FORMAT:
            raise IntegrityError(f"its manifest is in format {manifest['format']!r}, which this version cannot read")
        if sha256_of(_json(body)) != manifest["sha256"]:
            raise IntegrityError("its manifest is not what was written")
        files = {_inside(path): Stored.from_dict(stored) for path, stored in body["files"].items()}
        return Backup(**{**body, "audit": AuditHead(**body["audit"]), "files": files, "blobs": tuple(body["blobs"])})
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("its manifest cannot be read") from error


def _inside(path: str) -> str:
    """A path that stays in the project: a manifest comes from elsewhere."""
    parts = Path(path).parts
    if Path(path).is_absolute() or ".." in parts or not parts:
        raise IntegrityError(f"its manifest names {path!r}, which is outside of the project")
    return path


def _retain(vault: Vault, keep: int) -> None:
    """Remove all but the newest backups: first their manifests, then what no manifest names any more."""
    found = [one for one in list_backups(vault) if not one.fault]
    for old in found[:-keep]:
        crash_point("remove backup: before")
        vault.place.delete(f"{_FOLDER}/{old.id}.json")
        crash_point("remove backup: after")
    # Also when none was removed now: an earlier run may have died before this.
    used = {digest for one in found[-keep:] for digest in one.blobs}
    used |= {piece for one in found[-keep:] for stored in one.files.values() for piece in stored.pieces}
    if any(one.fault for one in list_backups(vault)):
        return  # nobody knows what a damaged manifest needs
    vault.forget(sorted(vault.known - used))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _silent(_done: int, _total: int, _message: str) -> None:
    return
