"""Erasures: that a person was erased, without saying who to anybody who does not hold the project's secret."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from holdfast.backend.store.database import metadata
from holdfast.backend.store.files import write_whole

__all__ = ["Erasure", "Erasures", "project_secret", "sealed"]

_erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("table", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
_BYTES = 32


@dataclass(frozen=True, slots=True)
class Erasure:
    """A person erased from `table`. `person` is the keyed hash of the key (`sealed`); `state` is begun or done."""

    id: str
    made_at: int
    who: str
    reason: str
    table: str
    person: str
    state: str


class Erasures:
    """Erasures within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def add(self, erasure: Erasure) -> None:
        """Record one."""
        values = {field: getattr(erasure, field) for field in Erasure.__slots__}
        self._connection.execute(_erasures.insert().values(values))

    def end(self, identity: str) -> None:
        """Record that everything of an erasure is done."""
        self._connection.execute(_erasures.update().where(_erasures.c.id == identity).values(state="done"))

    def list(self) -> "list[Erasure]":
        """All erasures, oldest first."""
        rows = self._connection.execute(sa.select(_erasures).order_by(_erasures.c.made_at, _erasures.c.id))
        return [Erasure(**row._mapping) for row in rows]

    def last(self) -> int:
        """When the last one was made; 0 when there was none."""
        return self._connection.execute(sa.select(sa.func.max(_erasures.c.made_at))).scalar() or 0


def project_secret(path: Path) -> bytes:
    """The secret of the project in the file `path`, which is made with the first use."""
    if not path.exists():

        def write(scratch: Path) -> None:
            scratch.touch(mode=0o600)
            scratch.write_bytes(os.urandom(_BYTES))

        write_whole(path, write)
    return path.read_bytes()


def sealed(secret: bytes, table: str, key: str) -> str:
    """HMAC-SHA-256 of a person's table and key (as text): equal for equal persons, and of no use without the secret."""
    return hmac.new(secret, f"{table}\0{key}".encode(), hashlib.sha256).hexdigest()
