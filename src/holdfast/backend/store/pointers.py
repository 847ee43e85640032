"""What is current: named pointers that move in the transaction of the change, and the history of their moves."""

from dataclasses import dataclass

import sqlalchemy as sa

from holdfast.backend.store.audit import Audit
from holdfast.backend.store.database import metadata
from holdfast.errors import ConflictError, NotFoundError

__all__ = ["Move", "Pointers"]

_pointers = sa.Table(
    "pointers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
)
_moves = sa.Table(
    "pointer_moves",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("before", sa.Text),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)


class ANY:
    """Stands for "whatever it points at now" in `Pointers.move`."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a pointer: from `before` (None at first) to `after` ("": dropped) at an instant, and why."""

    name: str
    before: str | None
    after: str
    at: int
    why: str


class Pointers:
    """Pointers within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> str | None:
        """What `name` points at, or None."""
        row = self._connection.execute(sa.select(_pointers.c.target).where(_pointers.c.name == name)).first()
        return None if row is None else str(row[0])

    def all(self, prefix: str = "") -> dict[str, str]:
        """All pointers whose name begins with `prefix`, by name."""
        rows = self._connection.execute(
            sa.select(_pointers).where(_pointers.c.name.startswith(prefix, autoescape=True)).order_by(_pointers.c.name)
        )
        return {row.name: row.target for row in rows}

    def move(self, name: str, target: str, *, at: int, why: str, expect: str | type[ANY] | None = ANY) -> None:
        """Point `name` at `target`; the move is recorded, in the audit log too.

        With `expect`, only if it points there now (None: nowhere), else ConflictError.
        """
        before = self.get(name)
        if expect is not ANY and before != expect:
            raise ConflictError(
                f"{name} moved meanwhile: it points at {before!r}, not {expect!r}", hint="Look again, then repeat."
            )
        if before is None:
            self._connection.execute(_pointers.insert().values(name=name, target=target))
        else:
            self._connection.execute(_pointers.update().where(_pointers.c.name == name).values(target=target))
        self._connection.execute(_moves.insert().values(name=name, before=before, after=target, at=at, why=why))
        Audit(self._connection).append("point", name, at=at, before=before, after=target, details={"why": why})

    def drop(self, name: str, *, at: int, why: str) -> None:
        """Forget the pointer `name`; its history stays. NotFoundError when there is none."""
        before = self.get(name)
        if before is None:
            raise NotFoundError(f"there is no {name!r}", where={"pointer": name})
        self._connection.execute(_pointers.delete().where(_pointers.c.name == name))
        self._connection.execute(_moves.insert().values(name=name, before=before, after="", at=at, why=why))
        Audit(self._connection).append("drop", name, at=at, before=before, details={"why": why})

    def at(self, moment: int) -> dict[str, str]:
        """Where every pointer pointed at an instant: by name, those that pointed anywhere."""
        rows = self._connection.execute(sa.select(_moves).where(_moves.c.at <= moment).order_by(_moves.c.id))
        found = {row.name: row.after for row in rows}
        return {name: target for name, target in sorted(found.items()) if target}

    def history(self, name: str) -> list[Move]:
        """All moves of `name`, oldest first."""
        rows = self._connection.execute(sa.select(_moves).where(_moves.c.name == name).order_by(_moves.c.id))
        return [Move(row.name, row.before, row.after, row.at, row.why) for row in rows]
