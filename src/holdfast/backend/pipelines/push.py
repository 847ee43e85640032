"""Push: what a project has and its remote has not; nothing is changed there unless all of it arrived."""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from holdfast.backend.datasets import Datasets
from holdfast.backend.datasets.refs import tips
from holdfast.backend.layout import PROJECT_FILE
from holdfast.backend.pipelines.backup import BackupRooms, needed_blobs
from holdfast.backend.pipelines.project_text import without_keys
from holdfast.backend.pipelines.remotes import (
    COLLECTED,
    KINDS,
    Lines,
    State,
    ids_of,
    newest_state,
    record_of,
    relation,
    write_state,
)
from holdfast.backend.pipelines.vault import Vault, all_at_once
from holdfast.backend.registry.registry import Registry
from holdfast.backend.store import Audit, Leases, Pointers, actor, metadata
from holdfast.backend.store.files import sha256_of
from holdfast.errors import ConflictError

__all__ = ["MOVED", "RemoteRooms", "Synced", "own_files", "push", "read_bases", "seen_there", "write_bases"]

MOVED = ("branch:", "tag:", "model:", "model-tag:")
"""What names of pointers begin with that are pushed and pulled; every branch is named there, the current one too."""
_AT_HOME = ("storage", "online", "backup", "remotes")
"""Keys of the project file that say where a project lives: they are no business of other places."""


@dataclass(frozen=True)
class RemoteRooms(BackupRooms):
    """What a push or pull works with."""

    datasets: Datasets
    registry: Registry


@dataclass(frozen=True, slots=True)
class Synced:
    """What a push or pull did: new records by kind, bytes that went over, pointers that moved (name → id), and what
    people should know.
    """  # fmt: skip

    remote: str
    records: Mapping[str, int]
    bytes: int
    pointers: Mapping[str, str]
    notes: tuple[str, ...] = ()


def push(rooms: RemoteRooms, vault: Vault, remote: str) -> Synced:
    """Bring the remote what it lacks, then move its pointers forward.

    ConflictError when the data there has gone another way, holds versions that are not here, or somebody else pushed
    meanwhile; FileError or IntegrityError name a file of the project that is missing or damaged. Then nothing was
    changed there, and what arrived is not sent again.
    """
    with Leases(rooms.store, rooms.clock).hold([f"remote:{remote}"], doing=f"push to {vault.place.url}"):
        there = newest_state(vault)
        if there.number and there.project != rooms.project:
            raise ConflictError(
                f"the remote is of project {there.project!r}", where={"remote": vault.place.url},
                hint="Give each project a folder of its own.",
            )  # fmt: skip
        with rooms.store.read() as connection:
            bases = read_bases(connection, remote)
            pointers, same, notes = _decided(connection, there, bases, remote)
            ours = _ours(connection, there, vault.known)
            states = _states(connection, there)
            head = Audit(connection).head()
        records = _sent(rooms, vault, ours, there)
        files = _files(rooms, vault, there, bases, notes)
        own = own_files(rooms)
        same |= {f"file:{name}" for name, digest in files.items() if name in own and digest == sha256_of(own[name])}
        state = State(
            there.number, rooms.clock.now(), actor(), rooms.project, {**there.pointers, **pointers}, records,
            states, files, head,
        )  # fmt: skip
        if _differs(state, there):
            state = write_state(vault, state)
        with rooms.store.write("note push") as connection:
            # Of what is another there than here, the next pull must still see that it is new.
            agreed = {name: target for name, target in seen_there(state).items() if name in same}
            write_bases(connection, rooms, remote, agreed)
            if state.number != there.number:
                Audit(connection).append(
                    "push", vault.place.url, at=rooms.clock.now(), after=str(state.number), details={"audit": head.hash}
                )  # fmt: skip
    counts = {kind: len(found) for kind, found in ours.records.items() if found}
    return Synced(remote, counts, vault.sent, pointers, tuple(notes))


def _decided(
    connection: sa.Connection, there: State, bases: Mapping[str, str], remote: str
) -> tuple[dict[str, str], set[str], list[str]]:
    """Which pointers of the remote move where, and which are then the same; ConflictError when data is apart."""
    moved, same, notes, lines = {}, set(), [], Lines(connection)
    branches = {f"branch:{name}": target for name, target in tips(connection).items()}
    for name, here in (Pointers(connection).all() | branches).items():
        # A branch that shows where a remote is, is not a branch of ours.
        if not name.startswith(MOVED) or name.startswith(f"branch:{remote}/"):
            continue
        seen = there.pointers.get(name)
        stands = "ahead" if seen is None else relation(name, here, seen, bases.get(name), lines)
        if stands in ("ahead", "same"):
            same.add(name)
        if stands == "ahead":
            moved[name] = here
        elif stands == "apart" or (stands == "behind" and seen and not lines.knows(seen)):
            raise ConflictError(
                f"{name} has gone another way there than here", where={"pointer": name, "there": seen, "here": here},
                hint="Pull first (it says how to bring both together), then push again: holdfast pull",
            )  # fmt: skip
        elif stands == "behind":
            notes.append(f"{name} is further there than here: it stays where it is there")
    return dict(sorted(moved.items())), same, notes


@dataclass(frozen=True)
class _Ours:
    """What one snapshot says is to be there: records by kind and id, blobs (digest → what), raw files (→ path)."""

    records: Mapping[str, Mapping[str, bytes]]
    blobs: Mapping[str, str]
    raw: Mapping[str, str]


def _ours(connection: sa.Connection, there: State, known: set[str]) -> _Ours:
    """Records that the remote lacks, or lost; and all blobs and raw files, of which it may have lost some too."""
    found, files = ids_of(connection), metadata.tables["dataset_files"]
    records = {
        kind: {
            one: record_of(connection, kind, one)
            for one in sorted(found[kind])
            if there.records.get(kind, {}).get(one) not in known
        }
        for kind in KINDS
    }
    raw = connection.execute(sa.select(files.c.sha256, files.c.path))
    return _Ours(records, needed_blobs(connection), {row.sha256: row.path for row in raw})


def _sent(rooms: RemoteRooms, vault: Vault, ours: _Ours, there: State) -> dict[str, dict[str, str]]:
    """Send files, then records; returns all records of the next state."""

    def raw(digest: str) -> None:
        vault.keep(digest, rooms.layout.root / ours.raw[digest], "a raw file")

    def blob(digest: str) -> None:
        vault.keep(digest, rooms.blobs.path(digest), ours.blobs[digest])

    all_at_once(raw, set(ours.raw) - vault.known)
    all_at_once(blob, set(ours.blobs) - vault.known)
    listed = {kind: dict(there.records.get(kind, {})) for kind in KINDS}

    def record(one: tuple[str, str, bytes]) -> None:
        kind, identity, data = one
        listed[kind][identity] = vault.keep_bytes(data)

    all_at_once(record, [(kind, one, data) for kind, found in ours.records.items() for one, data in found.items()])
    return {kind: dict(sorted(records.items())) for kind, records in listed.items()}


def own_files(rooms: RemoteRooms) -> dict[str, bytes]:
    """The project file, without what says where it lives, and the plugins, by name."""
    root = rooms.layout.root
    text = (root / PROJECT_FILE).read_text(encoding="utf-8")
    plugins = {f"{name}.py": (root / f"{name}.py").read_bytes() for name in rooms.plugins}
    return {PROJECT_FILE: without_keys(text, _AT_HOME).encode(), **plugins}


def _files(
    rooms: RemoteRooms, vault: Vault, there: State, bases: Mapping[str, str], notes: list[str]
) -> dict[str, str]:
    """Which project file and plugins the next state has: ours, unless somebody else changed them since."""
    files = dict(there.files)
    for name, data in own_files(rooms).items():
        seen, base, here = there.files.get(name), bases.get(f"file:{name}"), sha256_of(data)
        if seen in (None, base):
            files[name] = vault.keep_bytes(data)
        elif here not in (seen, base):
            notes.append(f"{name} was changed there and here: it stays as it is there. Pull, and compare")
    return files


def _differs(state: State, there: State) -> bool:
    parts = ("pointers", "records", "states", "files")
    return there.number == 0 or any(getattr(state, part) != getattr(there, part) for part in parts)


def _states(connection: sa.Connection, there: State) -> dict[str, str]:
    """The training states of all versions: trained is what was trained anywhere, collected what is whole nowhere."""
    table = metadata.tables["datasets"]
    rows = connection.execute(sa.select(table.c.id, table.c.state, table.c.collected_at))
    ours = {row.id: row.state if row.collected_at is None else COLLECTED for row in rows}
    known = there.states
    return {**known, **{one: state for one, state in ours.items()
                        if known.get(one, COLLECTED) == COLLECTED or state == "trained"}}  # fmt: skip


def seen_there(state: State) -> dict[str, str]:
    """What is to be remembered of a state: where each pointer points, and the blob of each file."""
    return {**state.pointers, **{f"file:{name}": digest for name, digest in state.files.items()}}


def read_bases(connection: sa.Connection, remote: str) -> dict[str, str]:
    """Where the pointers of a remote pointed when they were last seen, by name."""
    prefix = f"remote:{remote}:"
    return {name.removeprefix(prefix): target for name, target in Pointers(connection).all(prefix).items()}


def write_bases(connection: sa.Connection, rooms: RemoteRooms, remote: str, seen: Mapping[str, str]) -> None:
    """Remember where pointers of a remote point, in somebody's transaction."""
    pointers, known = Pointers(connection), read_bases(connection, remote)
    for name, target in seen.items():
        if known.get(name) != target:
            pointers.move(f"remote:{remote}:{name}", target, at=rooms.clock.now(), why="seen there")
