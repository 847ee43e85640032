"""Pull: what a remote has and a project has not. Files first, then records and pointers in one transaction.

Ids are the identity of versions: two clones may both have made a v1.5, and then the one that is pulled gets the next
number that is free. Files of a delivery whose name is taken here come to lie under the next free `<period>~N`.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast.backend.datasets import POINTER
from holdfast.backend.datasets.raw import delivery_parts
from holdfast.backend.datasets.refs import CURRENT, current_branch
from holdfast.backend.datasets.tables import lineage, standing
from holdfast.backend.pipelines.push import (
    MOVED,
    RemoteRooms,
    Synced,
    own_files,
    read_bases,
    write_bases,
)
from holdfast.backend.pipelines.remotes import (
    COLLECTED,
    KINDS,
    Lines,
    Record,
    State,
    blobs_of,
    ids_of,
    newest_state,
    nothing_there,
    relation,
)
from holdfast.backend.pipelines.vault import Vault, all_at_once, scratch_folder
from holdfast.backend.registry.artifacts import rename_bundle
from holdfast.backend.store import Audit, Leases, Pointers, metadata
from holdfast.backend.store.disk import disk_errors
from holdfast.backend.store.files import place, sha256_of, sha256_of_file, write_whole
from holdfast.backend.store.portable import insert_rows
from holdfast.errors import ConflictError, IntegrityError

__all__ = ["pull"]

Records = dict[str, list[Record]]
_VERSION = re.compile(r"data_[0-9a-f]+")


@dataclass
class _Result:
    """What becomes of a pull of state `there` of a remote, while it goes on.

    `revived` are versions that were collected here and that what comes refers to: they are whole again.
    """

    remote: str
    there: State
    moved: dict[str, str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    revived: frozenset[str] = frozenset()


def pull(rooms: RemoteRooms, vault: Vault, remote: str) -> Synced:
    """Bring what the remote has, then move the pointers that are behind it.

    ConflictError when data has gone another way there: what is there was brought all the same, as branch
    `<remote>/<branch>` (such as `origin/main`), to be merged. NotFoundError or IntegrityError name what is missing or
    damaged there; then nothing has changed here, and what arrived is not sent again.
    """
    with Leases(rooms.store, rooms.clock).hold([f"remote:{remote}"], doing=f"pull from {vault.place.url}"):
        there = newest_state(vault)
        if not there.number:
            raise nothing_there(vault)
        with scratch_folder(rooms.layout.private / "tmp" / f"pull-{remote}") as scratch:
            result = _Result(remote, there)
            new = _fetched(rooms, vault, result, scratch)
            with rooms.datasets.changing(f"pull from {remote}"):
                _place_raw(rooms, vault, new, scratch, result)
                _commit(rooms, vault, new, result)
        _compare_files(rooms, vault, result)
        rooms.datasets.refresh_face()
        rooms.registry.refresh()
    if result.apart:
        raise _diverged(result)
    counts = {kind: len(records) for kind, records in new.items() if records}
    return Synced(remote, counts, vault.received, result.moved, tuple(result.notes))


def _fetched(rooms: RemoteRooms, vault: Vault, result: _Result, scratch: Path) -> Records:
    """New records, whose blobs are here when it returns."""
    there = result.there
    with rooms.store.read() as connection:
        known = ids_of(connection)
    new: Records = {kind: [] for kind in KINDS}

    def read(one: tuple[str, str]) -> None:
        kind, digest = one
        new[kind].append(json.loads(vault.read(digest, f"the record of a {kind}")))

    all_at_once(
        read,
        [
            (kind, digest)
            for kind in KINDS
            for identity, digest in there.records.get(kind, {}).items()
            if identity not in known[kind]
        ],
    )
    with rooms.store.read() as connection:
        result.revived = _named_again(connection, new, result)
        wanted = _wanted(connection, new, result)
    have = set(rooms.blobs) if wanted else set()

    def bring(digest: str) -> None:
        file = scratch / digest
        vault.fetch(digest, file, wanted[digest])
        with disk_errors(file):
            rooms.blobs.put_file(file)
            file.unlink()

    all_at_once(bring, set(wanted) - have)
    return new


def _named_again(connection: sa.Connection, new: Records, result: _Result) -> frozenset[str]:
    """Versions that were collected here and that a pointer which moves, or a new record, names."""
    bases, table = read_bases(connection, result.remote), metadata.tables["datasets"]
    named = {to for name, to in result.there.pointers.items() if name.startswith(MOVED) and bases.get(name) != to}
    for kind in ("feature_set", "matrix", "run", "model"):
        named.update(*(_VERSION.findall(json.dumps(record)) for record in new[kind]))
    return frozenset(connection.scalars(sa.select(table.c.id).where(table.c.collected_at.is_not(None)))) & named


def _wanted(connection: sa.Connection, new: Records, result: _Result) -> dict[str, str]:
    """Digests of the blobs that must be here for what is new, and what each is.

    A new version may extend one that was collected here, and needs its parts again; of one that was collected there
    only the record came.
    """
    found: dict[str, str] = {}
    for kind in ("feature_set", "matrix", "run", "model"):
        for record in new[kind]:
            found |= blobs_of(kind, record)
    fresh = {record["row"]["id"]: record for record in new["dataset"]}
    pointed = set(result.there.pointers.values())
    for identity, record in fresh.items():
        gone = result.there.states.get(identity) == COLLECTED and identity not in pointed
        record["row"]["collected_at"] = result.there.made_at if gone else None
    if not fresh and not result.revived:
        return found
    parts = metadata.tables["dataset_parts"]
    here = {row.id: dict(row._mapping) for row in connection.execute(lineage())}
    for identity, row in here.items():  # what was here before counts as far as something new is made of it
        row["collected_at"] = None if identity in result.revived else 0
    listed, known = standing([*here.values(), *(record["row"] for record in fresh.values())])
    for identity, record in fresh.items():
        found |= blobs_of("dataset", record) if identity in listed else {}
    for digest, name, version in connection.execute(sa.select(parts.c.digest, parts.c.table, parts.c.dataset)):
        if version in listed:
            found[digest] = f"a part of table {name} of data {here[version]['version']}"
    rows = here | {identity: record["row"] for identity, record in fresh.items()}
    return found | {
        rows[one]["quarantine"]: f"the quarantine of data {rows[one]['version']}"
        for one in known if rows[one]["quarantine"]
    }  # fmt: skip


def _place_raw(rooms: RemoteRooms, vault: Vault, new: Records, scratch: Path, result: _Result) -> None:
    """Put raw files where they were delivered, or under the next free name of the delivery; records follow."""
    deliveries: dict[str, list[dict[str, Any]]] = {}
    for record in new["dataset"]:
        for file in record["children"]["dataset_files"]:
            deliveries.setdefault(file["delivery"], []).append(file)
    for delivery, files in sorted(deliveries.items()):
        name = _free_name(rooms, delivery, files)
        if name != delivery:
            result.notes.append(f"files of delivery {delivery} are kept as {name}: other files have that name here")
        for file in files:
            path = Path(file["path"]).parent.with_name(name) / Path(file["path"]).name
            _bring_raw(rooms, vault, file, rooms.layout.root / path, scratch)
            file["path"], file["delivery"] = path.as_posix(), name


def _free_name(rooms: RemoteRooms, delivery: str, files: list[dict[str, Any]]) -> str:
    """The name of a delivery here: its own, unless other files lie under it."""
    period, number = delivery_parts(delivery)
    with rooms.store.read() as connection:
        table = metadata.tables["dataset_files"]
        taken = set(connection.scalars(sa.select(table.c.delivery)))
    wanted = {Path(file["path"]).name: file["sha256"] for file in files}
    while True:
        name = period if number == 1 else f"{period}~{number}"
        folder = rooms.layout.raw / name
        there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
        # What an interrupted pull has left is taken over.
        if name not in taken and all(
            file in wanted and sha256_of_file(path) == wanted[file] for file, path in there.items()
        ):
            return name
        number += 1


def _bring_raw(rooms: RemoteRooms, vault: Vault, file: Mapping[str, Any], path: Path, scratch: Path) -> None:
    if not path.resolve().is_relative_to(rooms.layout.raw.resolve()):
        raise ConflictError("a raw file there is named outside of data/raw", where={"file": str(file["path"])})
    if path.exists():
        return
    fetched = scratch / f"raw-{secrets.token_hex(8)}"
    vault.fetch(file["sha256"], fetched, "a raw file")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place(fetched, path, "pulled raw file")


def _commit(rooms: RemoteRooms, vault: Vault, new: Records, result: _Result) -> None:
    with rooms.store.write("pull") as connection:
        known = ids_of(connection)  # another process may have been at it
        fresh = {kind: [one for one in new[kind] if one["row"]["id"] not in known[kind]] for kind in KINDS}
        _insert_datasets(connection, fresh["dataset"], result)
        _insert_models(connection, rooms, fresh["model"], result)
        for kind in ("feature_set", "matrix", "run"):
            insert_rows(connection, metadata.tables[KINDS[kind]], (record["row"] for record in fresh[kind]))
        _move(connection, rooms, result)
        there = result.there
        details = {"state": there.number, "audit": there.audit.hash}
        Audit(connection).append(
            "pull", vault.place.url, at=rooms.clock.now(), after=str(there.number), details=details
        )


def _move(connection: sa.Connection, rooms: RemoteRooms, result: _Result) -> None:
    """Move the pointers that are behind; data that is apart gets a branch."""
    pointers, lines = Pointers(connection), Lines(connection)
    at, why = rooms.clock.now(), f"pull from {result.remote}"
    bases, seen = read_bases(connection, result.remote), dict(result.there.pointers)
    if pointers.get(POINTER) is None:
        _choose_branch(pointers, current_branch(connection), result, at)
    current = f"branch:{current_branch(connection)}"
    for name, target in result.there.pointers.items():
        own = POINTER if name == current else name
        here = pointers.get(own)
        if not name.startswith(MOVED) or bases.get(name) == target:
            continue  # nothing new there since it was last seen
        stands = "behind" if here is None else relation(name, here, target, bases.get(name), lines)
        if stands == "behind":
            pointers.move(own, target, at=at, why=why, expect=here)
            result.moved[name] = target
        elif stands == "apart" and name.startswith("branch:"):
            branch = f"{result.remote}/{name.removeprefix('branch:')}"
            if pointers.get(f"branch:{branch}") != target:
                pointers.move(f"branch:{branch}", target, at=at, why=why)
            result.apart[name] = branch
            del seen[name]
        elif stands == "apart":
            result.notes.append(f"{name} is {target} there and stays {here} here; the next push makes it that there")
    write_bases(connection, rooms, result.remote, seen)


def _choose_branch(pointers: Pointers, current: str, result: _Result, at: int) -> None:
    """Where there is no data yet, go to a branch that the remote has: else nothing of what came would be current."""
    there = [name.removeprefix("branch:") for name in result.there.pointers if name.startswith("branch:")]
    if there and current not in there:
        pointers.move(CURRENT, min(there), at=at, why=f"pull from {result.remote}")
        result.notes.append(f"the current branch is {min(there)}: there is no {current} there")


def _insert_datasets(connection: sa.Connection, records: list[Record], result: _Result) -> None:
    table, states = metadata.tables["datasets"], result.there.states
    numbers = {(row.major, row.minor) for row in connection.execute(sa.select(table.c.major, table.c.minor))}
    rows = sorted((record["row"] for record in records), key=lambda row: (row["major"], row["minor"], row["id"]))
    for row in rows:
        row["state"] = "pending" if states[row["id"]] == COLLECTED else states[row["id"]]
    for row, minor in _numbered([(row, row["major"], row["minor"]) for row in rows], numbers):
        number = f"v{row['major']}.{minor}"
        result.notes.append(f"data {row['version']} from there is {number} here: that number was taken")
        row["minor"], row["version"] = minor, number
    insert_rows(connection, table, iter(rows))
    # Table by table: a version may hold files that another one brought, and records come in any order.
    for child in metadata.sorted_tables:
        if rows := [row for record in records for row in record["children"].get(child.name, ())]:
            insert_rows(connection, child, iter(rows))
    trained = [identity for identity, state in states.items() if state == "trained"]
    connection.execute(table.update().where(table.c.id.in_(result.revived)).values(collected_at=None))
    late = table.c.id.in_(trained) & (table.c.state != "trained")
    connection.execute(table.update().where(late).values(state="trained"))


def _insert_models(connection: sa.Connection, rooms: RemoteRooms, records: list[Record], result: _Result) -> None:
    table = metadata.tables["model_versions"]
    taken: dict[str, set[tuple[int, int]]] = {}
    for model, version in connection.execute(sa.select(table.c.model, table.c.version)):
        taken.setdefault(model, set()).add(_number(version))
    by_model: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_model.setdefault(record["row"]["model"], []).append(record["row"])
    for model, rows in by_model.items():
        rows.sort(key=lambda row: (_number(row["version"]), row["id"]))
        numbered = [(row, *_number(row["version"])) for row in rows]
        for row, minor in _numbered(numbered, taken.get(model, set())):
            number = f"v{_number(row['version'])[0]}.{minor}"
            result.notes.append(f"model {model} {row['version']} from there is {number} here: that number was taken")
            # What serves says which version it is; the package inside keeps its first number.
            serving = rename_bundle(rooms.blobs.path(row["serving"]).read_bytes(), number)
            row["serving"], row["version"] = rooms.blobs.put(serving), number
        insert_rows(connection, table, iter(rows))


def _numbered(
    rows: list[tuple[dict[str, Any], int, int]], taken: set[tuple[int, int]]
) -> list[tuple[dict[str, Any], int]]:
    """Rows whose number is taken, with the next free minor; those whose number is free keep it, and come first."""
    waiting, taken = [], set(taken)
    for row, major, minor in rows:
        if (major, minor) in taken:
            waiting.append((row, major))
        taken.add((major, minor))
    found = []
    for row, major in waiting:
        minor = max(minor for other, minor in taken if other == major) + 1
        taken.add((major, minor))
        found.append((row, minor))
    return found


def _number(version: str) -> tuple[int, int]:
    major, minor = version.removeprefix("v").split(".")
    return int(major), int(minor)


def _compare_files(rooms: RemoteRooms, vault: Vault, result: _Result) -> None:
    """Say where the project file or a plugin is another there, and put it beside ours."""
    there, remote = result.there, result.remote
    own = {name: sha256_of(data) for name, data in own_files(rooms).items()}
    with rooms.store.read() as connection:
        bases = read_bases(connection, remote)
    for name, digest in there.files.items():
        if name != Path(name).name:
            raise IntegrityError("the remote names a file outside of the project", where={"file": name})
        if digest in (own.get(name), bases.get(f"file:{name}")):
            continue
        beside = f"{name}.{remote}"
        data = vault.read(digest, name)
        write_whole(rooms.layout.root / beside, lambda path, data=data: path.write_bytes(data))  # type: ignore[misc]
        result.notes.append(f"{name} is another there: it is beside ours as {beside}. Bring both together by hand")
    with rooms.store.write("note files") as connection:
        write_bases(connection, rooms, remote, {f"file:{name}": digest for name, digest in there.files.items()})


def _diverged(result: _Result) -> ConflictError:
    name, branch = next(iter(result.apart.items()))
    return ConflictError(
        f"the data of {name} has gone another way at {result.remote} than here; it was brought as branch {branch}",
        where={"branch": branch, "also": ", ".join(result.notes)} if result.notes else {"branch": branch},
        hint=f"Bring both together: holdfast data merge {branch}, then: holdfast push",
    )
