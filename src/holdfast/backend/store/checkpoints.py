"""Checkpoints: where all pointers pointed at some moment, under a name.

What a checkpoint names is referred to by it: nothing of that may be collected while it is there (`references`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from holdfast.backend.store.audit import Audit, actor
from holdfast.backend.store.database import metadata
from holdfast.backend.store.pointers import Pointers
from holdfast.errors import ConflictError, NotFoundError, nearest

__all__ = ["Checkpoint", "Checkpoints"]

_checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("maker", sa.Text, nullable=False),
    sa.Column("pointers", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All `pointers` (name → target) as they were at `made_at`.

    `maker` is empty, or says which process made it before a change that is under way: see `pipelines.checkpoints`.
    """

    id: str
    name: str
    made_at: int
    who: str
    why: str
    maker: str
    pointers: Mapping[str, str]


class Checkpoints:
    """Checkpoints within one transaction. Those that stay are told of in the audit log, under `checkpoint:<name>`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def add(self, identity: str, name: str, *, at: int, why: str, maker: str = "") -> Checkpoint:
        """Record where all pointers point now. ConflictError when the name is taken."""
        if any(one.name == name for one in self.list()):
            raise ConflictError(
                f"there is a checkpoint {name!r} already", where={"checkpoint": name}, hint="Choose another name."
            )
        made = Checkpoint(identity, name, at, actor(), why, maker, Pointers(self._connection).all())
        values = {field: getattr(made, field) for field in Checkpoint.__slots__}
        pointers = json.dumps(made.pointers, ensure_ascii=False, sort_keys=True)
        self._connection.execute(_checkpoints.insert().values(values | {"pointers": pointers}))
        if not maker:
            Audit(self._connection).append("checkpoint", f"checkpoint:{name}", at=at, details={"why": why})
        return made

    def list(self) -> "list[Checkpoint]":
        """All checkpoints, oldest first."""
        rows = self._connection.execute(sa.select(_checkpoints).order_by(_checkpoints.c.made_at, _checkpoints.c.id))
        return [Checkpoint(**{**row._mapping, "pointers": json.loads(row.pointers)}) for row in rows]

    def get(self, name: str) -> Checkpoint:
        """The checkpoint of that name. NotFoundError with the nearest one."""
        found = {one.name: one for one in self.list()}
        if name not in found:
            raise NotFoundError(
                f"there is no checkpoint {name!r}", where={"checkpoint": name}, hint=nearest(name, found)
            )
        return found[name]

    def remove(self, name: str, *, at: int) -> Checkpoint:
        """Forget a checkpoint; what it named stays."""
        found = self.get(name)
        self._connection.execute(_checkpoints.delete().where(_checkpoints.c.id == found.id))
        if not found.maker:
            Audit(self._connection).append("remove checkpoint", f"checkpoint:{name}", at=at)
        return found

    def keep(self, name: str, *, at: int, why: str) -> None:
        """Make one that was made for the time of a change one that stays."""
        self._connection.execute(_checkpoints.update().where(_checkpoints.c.name == name).values(maker=""))
        Audit(self._connection).append("checkpoint", f"checkpoint:{name}", at=at, details={"why": why})

    def references(self) -> frozenset[str]:
        """Ids of everything that a checkpoint names."""
        return frozenset(target for one in self.list() for target in one.pointers.values())
