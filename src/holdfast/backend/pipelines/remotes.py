"""What a remote holds: blobs (see `vault`), and the states it went through, `states/0000000001.json` and so on.

A state lists every record by its id and the blob of its content, and where each pointer points. It is written under the
next number, which one pusher only can get, after everything that it lists: whoever reads the newest state finds a
whole, and a push that was killed has changed nothing.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from holdfast.backend.pipelines.vault import Vault
from holdfast.backend.store import AuditHead, crash_point, metadata
from holdfast.backend.store.files import sha256_of
from holdfast.core.timeline import isoformat
from holdfast.errors import ConflictError, IntegrityError, NotFoundError

__all__ = ["COLLECTED", "KINDS", "Lines", "Record", "State", "blobs_of", "ids_of", "newest_state", "nothing_there",
           "record_of", "relation", "write_state"]  # fmt: skip

KINDS = {
    "dataset": "datasets", "feature_set": "feature_sets", "matrix": "matrices", "run": "runs",
    "model": "model_versions",
}  # fmt: skip
"""Kinds of records that move, and their tables. (What is deployed is a matter of each place.)"""
COLLECTED = "collected"
"""Stands in `State.states` for a version that was collected wherever it was pushed from: only its record is there."""
_FORMAT = "holdfast-remote/1"
_FOLDER = "states"
_NAME = re.compile(rf"{_FOLDER}/\d+\.json")
Record = dict[str, Any]
"""`row`, and for a dataset version `children`: rows of each table that refers to it."""


@dataclass(frozen=True)
class State:
    """A state of a remote. `records` is kind → id → blob, `states` the training state of each dataset version
    (or COLLECTED), `files` name → blob of the project file (without what says where a project lives) and the plugins.
    """  # fmt: skip

    number: int = 0
    made_at: int = 0
    who: str = ""
    project: str = ""
    pointers: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    audit: AuditHead = field(default_factory=lambda: AuditHead(0, ""))


def newest_state(vault: Vault) -> State:
    """The newest state of a remote; number 0 when nothing was pushed yet. IntegrityError when it is damaged."""
    names = [name for name in vault.place.names(_FOLDER) if _NAME.fullmatch(name)]
    if not names:
        return State()
    name = max(names)
    try:
        written = json.loads(vault.place.get(name))
        body = written["state"]
        if written["format"] != _FORMAT or written["sha256"] != sha256_of(_json(body)):
            raise IntegrityError("it is not what was written")
        return State(**{**body, "audit": AuditHead(**body["audit"])})
    except (ValueError, KeyError, TypeError, IntegrityError) as error:
        raise IntegrityError(
            f"the newest state of the remote cannot be used: {error}", where={"place": vault.place.url, "file": name},
            hint="Delete that file, which goes back to the state before, and push again from a project that has more.",
        ) from error  # fmt: skip


def write_state(vault: Vault, state: State) -> State:
    """Write a state as the one after number `state.number`. ConflictError when somebody else was first."""
    after = replace(state, number=state.number + 1)
    body = asdict(after)
    data = _json({"format": _FORMAT, "sha256": sha256_of(_json(body)), "state": body})
    crash_point("push state: before")
    if not vault.place.put_new(f"{_FOLDER}/{after.number:010}.json", data):
        other = newest_state(vault)
        raise ConflictError(
            f"{other.who or 'somebody'} pushed meanwhile ({isoformat(other.made_at)}): nothing was changed there",
            where={"remote": vault.place.url}, hint="Pull, then push again: holdfast pull",
        )  # fmt: skip
    crash_point("push state: after")
    return after


def ids_of(connection: sa.Connection) -> dict[str, set[str]]:
    """Ids of the records that can be pushed, by kind: a run that has not ended stays where it runs."""
    found = {}
    for kind, name in KINDS.items():
        table = metadata.tables[name]
        query = sa.select(table.c.id)
        if kind == "run":
            query = query.where(table.c.state != "running")
        found[kind] = set(connection.scalars(query))
    return found


def record_of(connection: sa.Connection, kind: str, identity: str) -> bytes:
    """A record as bytes; those of equal records are equal."""
    table = metadata.tables[KINDS[kind]]
    row = connection.execute(sa.select(table).where(table.c.id == identity)).one()
    record: Record = {"row": dict(row._mapping)}
    if kind == "dataset":
        for name in ("state", "collected_at"):  # they change: `State.states` tells them
            record["row"].pop(name)
        record["children"] = {
            child.name: [
                dict(one._mapping)
                for one in connection.execute(
                    sa.select(child).where(column == identity).order_by(*child.primary_key.columns)
                )
            ]
            for child, column in _children(table)
        }
    return _json(record)


def _children(table: sa.Table) -> list[tuple[sa.Table, sa.Column[Any]]]:
    """Tables whose rows belong to a row of `table`, with the column that says to which."""
    return [
        (child, key.parent)
        for child in metadata.sorted_tables
        for key in child.foreign_keys
        if key.column.table is table and child is not table
    ]


def blobs_of(kind: str, record: Record) -> dict[str, str]:
    """Digests of the blobs that a record cannot do without, and what each is. (A matrix can be computed again.)"""
    row = record["row"]
    if kind == "dataset":
        found = {
            part["digest"]: f"a part of table {part['table']} of data {row['version']}"
            for part in record["children"]["dataset_parts"]
        }
        return found | ({row["quarantine"]: f"the quarantine of data {row['version']}"} if row["quarantine"] else {})
    if kind == "model":
        return {
            digest: f"the {role} file of model {row['model']} {row['version']}"
            for role, digest in {"serving": row["serving"], **row["files"]}.items()
        }
    return {}


class Lines:
    """Who descends from whom, among dataset versions and among model versions."""

    def __init__(self, connection: sa.Connection, more: Iterable[Record] = ()) -> None:
        """Of the records of a project, and of `more`."""
        self._parents: dict[str, tuple[str, ...]] = {}
        for name in ("datasets", "model_versions"):
            table = metadata.tables[name]
            for identity, parents in connection.execute(sa.select(table.c.id, table.c.parents)):
                self._parents[identity] = _listed(parents)
        for record in more:
            if "parents" in record["row"]:
                self._parents[record["row"]["id"]] = _listed(record["row"]["parents"])

    def knows(self, identity: str) -> bool:
        """Whether there is such a version."""
        return identity in self._parents

    def descends(self, identity: str, ancestor: str) -> bool:
        """Whether `identity` was made from `ancestor`, over any number of steps."""
        seen, rest = set(), [identity]
        while rest:
            for parent in self._parents.get(rest.pop(), ()):
                if parent == ancestor:
                    return True
                if parent not in seen:
                    seen.add(parent)
                    rest.append(parent)
        return False


def _listed(parents: Any) -> tuple[str, ...]:
    return tuple(json.loads(parents) if isinstance(parents, str) else parents)


def relation(name: str, here: str, there: str, base: str | None, lines: Lines) -> str:
    """How a pointer here stands to the one there: `same`, `ahead`, `behind` or `apart`.

    `base` is where it pointed there when it was last seen. Data goes forward only, along its history; a model too, or
    as it was moved since; of a tag it counts only who moved it since.
    """
    if here == there:
        return "same"
    if not name.startswith(("tag:", "model-tag:")):
        if lines.descends(here, there):
            return "ahead"
        if lines.descends(there, here):
            return "behind"
    if not name.startswith("branch:"):
        if base == there:
            return "ahead"
        if base == here:
            return "behind"
    return "apart"


def nothing_there(vault: Vault) -> NotFoundError:
    """The error that says that nobody pushed yet."""
    return NotFoundError(
        "nothing was pushed there yet", where={"remote": vault.place.url}, hint="In the project: holdfast push"
    )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
