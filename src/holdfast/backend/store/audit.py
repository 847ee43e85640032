"""The audit log: who did what and when, append-only, each entry bound to the one before by its hash.

An entry is written in the transaction of what it tells of, so there is none of a change that did not happen and no
change without one. Its hash covers its content and the hash before it: an entry that is edited, removed or put between
others breaks the chain there. Entries cut off at the end break nothing in the database; they show against a head
(number and hash of the newest entry) that was kept elsewhere, as every backup and push does.
"""

import getpass
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from holdfast.backend.store.database import metadata
from holdfast.backend.store.heads import AUDITED, AuditHead
from holdfast.errors import IntegrityError

__all__ = ["Audit", "AuditEntry", "AuditHead", "acting", "actor"]

_audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False, index=True),
    sa.Column("before", sa.Text),
    sa.Column("after", sa.Text),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
_FIRST = "0" * 64
_PAGE = 1000
_who: ContextVar[str | None] = ContextVar("who", default=None)


@contextmanager
def acting(who: str) -> Iterator[None]:
    """What this thread does within the block is done by `who`."""
    token = _who.set(who)
    try:
        yield
    finally:
        _who.reset(token)


def actor() -> str:
    """Who acts now: as `acting` says, else the user of the system, "" where there is none."""
    given = _who.get()
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`who` did `action` to `object` at an instant; what it was and is; `details` as plain data.

    `id` counts from 1 without gaps; `hash` is the SHA-256 over everything else, `previous` among it.
    """

    id: int
    at: int
    who: str
    action: str
    object: str
    before: str | None
    after: str | None
    details: Mapping[str, Any]
    previous: str
    hash: str

    def expected(self) -> str:
        """The hash that the content has."""
        content = {name: value for name, value in asdict(self).items() if name != "hash"}
        return hashlib.sha256(_json(content).encode()).hexdigest()


class Audit:
    """The audit log within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def append(
        self,
        action: str,
        object: str,  # noqa: A002 - the word of the field
        *,
        at: int,
        before: str | None = None,
        after: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Add an entry; only in a write transaction, where nobody else can add one."""
        head = self.head()
        entry = AuditEntry(
            id=head.id + 1, at=at, who=actor(), action=action, object=object, before=before, after=after,
            details=dict(details or {}), previous=head.hash, hash="",
        )  # fmt: skip
        entry = replace(entry, hash=entry.expected())
        self._connection.execute(_audit.insert().values(asdict(entry) | {"details": _json(entry.details)}))
        self._connection.info[AUDITED] = AuditHead(entry.id, entry.hash)
        return entry

    def head(self) -> AuditHead:
        """The newest entry's number and hash; (0, zeros) when there is none."""
        row = self._connection.execute(
            sa.select(_audit.c.id, _audit.c.hash).order_by(_audit.c.id.desc()).limit(1)
        ).first()
        return AuditHead(0, _FIRST) if row is None else AuditHead(row.id, row.hash)

    def entries(self, *, object: str | None = None, since: int | None = None) -> Iterator[AuditEntry]:  # noqa: A002
        """Entries, oldest first: of objects whose name begins with `object`, from instant `since` on."""
        query = sa.select(_audit).order_by(_audit.c.id).limit(_PAGE)
        if object is not None:
            # LIKE takes A for a on SQLite, and not on PostgreSQL.
            query = query.where(sa.func.substr(_audit.c.object, 1, len(object)) == object)
        if since is not None:
            query = query.where(_audit.c.at >= since)
        last = None
        while True:
            page = self._connection.execute(query if last is None else query.where(_audit.c.id > last)).all()
            for row in page:
                yield AuditEntry(**{**row._mapping, "details": json.loads(row.details)})
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def verify(self, head: AuditHead | None = None) -> AuditHead:
        """Go over the whole chain; returns its head. With `head`, kept elsewhere, that entry must still be in it.

        IntegrityError names the first entry that is not what was written, or is missing.
        """
        previous, number, kept = _FIRST, 0, head
        for entry in self.entries():
            number += 1
            if entry.id != number:
                raise _broken(number, "is missing")
            if entry.previous != previous or entry.hash != entry.expected():
                raise _broken(number, "is not what was written")
            previous = entry.hash
            if kept is not None and entry.id == kept.id and entry.hash != kept.hash:
                raise _broken(number, "is not the one that was kept elsewhere: the log was written anew up to it")
        if kept is not None and kept.id > number:
            raise _broken(number + 1, f"is missing: the log ends before entry {kept.id}, which was kept elsewhere")
        return AuditHead(number, previous)


def _broken(number: int, what: str) -> IntegrityError:
    return IntegrityError(
        f"entry {number} of the audit log {what}",
        where={"entry": number},
        hint="Somebody changed the database by hand. Compare with a backup: holdfast backup list",
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
