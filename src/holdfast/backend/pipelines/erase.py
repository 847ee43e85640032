"""Erasing a person: out of every version's parts, quarantine, raw files, matrices, faces, online vectors, predictions.

Parts never change, so erasing writes new ones beside the old, without the rows, and proves that all others are the same
bit by bit. Then a file of intent, and one transaction in which the manifests of all versions name the new parts. What
follows (raw files, old blobs, vectors, predictions, faces) can be repeated: a crash in its midst is finished by the
next change, from the intent. Map: `belongings` finds the rows, `erasing` writes and proves, this commits and finishes.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from holdfast.backend.datasets.tables import swap_parts
from holdfast.backend.pipelines.belongings import RawAccess, Shape, find_belongings, keys_in, spelled
from holdfast.backend.pipelines.erasing import Plan, draw_up
from holdfast.backend.pipelines.forgetting import finish, finish_interrupted, write_intent
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import new_id
from holdfast.backend.store import Audit, Leases, actor, metadata
from holdfast.backend.store.erasures import Erasure, Erasures, project_secret, sealed
from holdfast.errors import InputError, NotFoundError

__all__ = ["Erased", "apply_erasures", "erase", "erasures", "recount"]


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, or would be (`dry_run`): counts of rows by table and file, and what else.

    `person` is the keyed hash that the audit log names. `rows` counts stored states by table, `files` emptied rows by
    raw file, `dropped` raw files that were emptied whole. `models` were trained on the person and are not changed.
    `unread` are raw files of no table that mention the key: look into them.
    """

    id: str
    table: str
    person: str
    rows: Mapping[str, int]
    files: Mapping[str, int]
    dropped: tuple[str, ...]
    matrices: int
    vectors: int
    predictions: int
    models: tuple[str, ...]
    unread: tuple[str, ...]
    dry_run: bool


def erase(
    rooms: Rooms,
    raw: RawAccess,
    table: str,
    key: str,
    reason: str,
    *,
    dry_run: bool = False,
    drop_raw: bool = False,
) -> Erased:
    """Erase the row of `table` with `key`, and all rows that link to it, directly or not.

    `drop_raw` empties raw files as a whole whose rows cannot be emptied one by one; without it they are refused
    (FileError names the file). NotFoundError when nothing of the person is there. LockedError while data are imported,
    models trained, groups materialised, or a backup or push is under way. The message of no error holds the key.
    """
    if not reason.strip():
        raise InputError("an erasure needs a reason", hint="Give it with --reason: it is all that the record says.")
    names = [f"model:{version.model}" for version in rooms.registry.current()]
    names += [f"group:{name}" for name in rooms.groups.names]
    # A backup or push under way has noted files that would vanish under it.
    names += ["backup", *(f"remote:{name}" for name in rooms.settings.remotes)]
    with Leases(rooms.store, rooms.clock).hold(["data", *names], doing="erase"), rooms.datasets.changing("erase"):
        finish(rooms)
        text = spelled(Shape.of(rooms), table, key)
        found = find_belongings(rooms, raw.read, table, text)
        plan = draw_up(rooms, raw, found, drop_raw=drop_raw)
        if not plan.anything:
            raise NotFoundError(
                f"nothing in the project belongs to a row of {table!r} with that key",
                where={"table": table},
                hint="Check its spelling; it may have been erased already: holdfast audit list --object erasure:",
            )
        person = sealed(project_secret(rooms.layout.erasure_key), table, text)
        now = rooms.clock.now()
        identity = new_id("erasure", now)
        done = Erased(
            id=identity, table=table, person=person, rows=plan.counts, files=plan.emptied, dropped=plan.dropped,
            matrices=len(plan.matrices), vectors=0, predictions=0, models=plan.models, unread=tuple(found.unread),
            dry_run=dry_run,
        )  # fmt: skip
        if dry_run:
            plan.discard(rooms)
            return done
        write_intent(rooms, identity, plan)
        _commit(rooms, plan, Erasure(identity, now, actor(), reason, table, person, "begun"))
        vectors, predictions = finish(rooms)
    return replace(done, vectors=vectors, predictions=predictions)


def _commit(rooms: Rooms, plan: Plan, erasure: Erasure) -> None:
    """Everything that records say of the person, in one transaction with the record and the audit entry of it."""
    with rooms.store.write("erase") as connection:
        swap_parts(connection, plan.parts)
        for name, column, changes in (
            ("datasets", "quarantine", plan.quarantine),
            ("matrices", "sha256", {m["before"]: {k: m[k] for k in ("sha256", "path", "rows")} for m in plan.matrices}),
            ("materialisations", "sha256", {m["before"]: {k: m[k] for k in ("sha256", "rows")} for m in plan.online}),
        ):
            table = metadata.tables[name]
            for before, values in changes.items():
                connection.execute(table.update().where(table.c[column] == before).values(**values))
        _swap_files(connection, plan)
        datasets = metadata.tables["datasets"]
        for version, values in plan.versions.items():
            connection.execute(datasets.update().where(datasets.c.id == version).values(**values))
        parts = metadata.tables["dataset_parts"]
        connection.execute(parts.update().where(parts.c.digest.in_(plan.ranges)).values(ranges="{}"))
        for name, key, values in plan.told_by_jobs:
            told = metadata.tables[name]
            connection.execute(told.update().where(*(told.c[one] == key[one] for one in key)).values(**values))
        trained = datasets.c.id.in_(list(plan.versions)) & (datasets.c.state == "trained")
        if plan.models:
            connection.execute(datasets.update().where(trained).values(state="retrain_needed"))
        Erasures(connection).add(erasure)
        Audit(connection).append(
            "erase", f"erasure:{erasure.id}", at=erasure.made_at, details={**plan.told(), **_about(erasure)}
        )


def _about(erasure: Erasure) -> dict[str, str]:
    return {"table": erasure.table, "person": erasure.person, "reason": erasure.reason}


def _swap_files(connection: sa.Connection, plan: Plan) -> None:
    table = metadata.tables["dataset_files"]
    for file in plan.files:
        values: dict[str, Any] = {"sha256": file.sha256, "bytes": file.bytes}
        connection.execute(table.update().where(table.c.path == file.path).values(**values))


def erasures(rooms: Rooms) -> list[Erasure]:
    """All erasures, oldest first: what a backup keeps beside its copies, and gives `apply_erasures` after a restore."""
    with rooms.store.read() as connection:
        return Erasures(connection).list()


def recount(rooms: Rooms, versions: Collection[str]) -> None:
    """Correct how many rows versions say to have that were made elsewhere, of data from which nobody was erased."""
    there = [one for one in rooms.datasets.list() if one.id in versions]
    counts = {one.id: rooms.datasets.count_rows(one.id, {}) for one in there}
    with rooms.store.write("recount") as connection:
        table = metadata.tables["datasets"]
        for one in there:
            if counts[one.id] != one.rows:
                rows = json.dumps(counts[one.id], ensure_ascii=False, separators=(",", ":"))
                connection.execute(table.update().where(table.c.id == one.id).values(rows=rows))


def apply_erasures(rooms: Rooms, raw: RawAccess, wanted: Sequence[Erasure]) -> list[Erased]:
    """Erase again who was erased: for data that were put back to a state before. Those that are gone are passed over.

    The project's secret (.holdfast/erasure.key) must be the one that the hashes were made with: restore it first.
    """
    finish_interrupted(rooms)
    secret = project_secret(rooms.layout.erasure_key)
    done = []
    for table in dict.fromkeys(one.table for one in wanted):
        by_hash = {one.person: one for one in wanted if one.table == table}
        for key in sorted(keys_in(rooms, raw.read, table)):
            one = by_hash.get(sealed(secret, table, key))
            if one is not None:
                done.append(erase(rooms, raw, table, key, one.reason, drop_raw=True))
    return done
