"""Online vectors in a SQLite file: the embedded online store.

One connection a thread keeps its prepared statements; WAL lets readers go on while a batch is written. A vector is one
row found through one index; its values are a blob that names its layout.
"""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from holdfast.backend.adapters.onlinecodec import (
    decode_columns,
    decode_payload,
    encode_columns,
    encode_key,
    encode_rows,
    layout_of,
)
from holdfast.backend.records import Freshness, Key, OnlineRow, Value, Vector
from holdfast.core.timeline import NEVER
from holdfast.errors import IntegrityError, UnavailableError

__all__ = ["SqliteOnline"]

_TABLES = """
CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, columns BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    grp TEXT NOT NULL, entity BLOB NOT NULL, event_at INTEGER NOT NULL, made_at INTEGER NOT NULL, expires_at INTEGER,
    layout INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS vectors_key ON vectors (grp, entity);
CREATE INDEX IF NOT EXISTS vectors_age ON vectors (grp, event_at, expires_at);
"""
# Equal event times: the newest made wins; equal ones too: the last write.
_PUT = """
INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (grp, entity) DO UPDATE SET event_at = excluded.event_at, made_at = excluded.made_at,
    expires_at = excluded.expires_at, layout = excluded.layout, payload = excluded.payload
WHERE (excluded.event_at, excluded.made_at) >= (vectors.event_at, vectors.made_at)
"""
_GET = "SELECT event_at, made_at, expires_at, layout, payload FROM vectors WHERE grp = ? AND entity = ?"
_AGE = "SELECT count(*), count(CASE WHEN expires_at <= ? THEN 1 END), max(event_at), min(event_at) FROM vectors"


class _Connection:
    """A connection that closes with the last reference to it, as when its thread ends."""

    def __init__(self, path: Path) -> None:
        self.pid = os.getpid()
        self.database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        # FULL: what was told to be written survives a power cut. secure_delete: what is erased is overwritten.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cache_size=-65536"):
            self.database.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        self.database.close()

    __del__ = close


class SqliteOnline:
    """`OnlineStore` in one file, which is made with the first write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._layouts: dict[int, tuple[str, ...]] = {}

    def write(
        self,
        group: str,
        columns: Sequence[str],
        rows: Iterable[OnlineRow],
        *,
        made_at: int,
        ttl: int | None = None,
        origin: str = "",
        replace: bool = False,
    ) -> int:
        """Write a batch in one transaction; returns how many vectors were not older than what was there."""
        self._create()
        described = encode_columns(group, columns)
        layout = layout_of(described)
        encoded = (
            (group, key, event_at, made_at, None if ttl is None else min(event_at + ttl, NEVER), layout, payload)
            for key, event_at, payload in encode_rows(group, columns, rows, origin)
        )
        with self._transaction() as database:
            if replace:
                database.execute("DELETE FROM vectors WHERE grp = ?", (group,))
            database.execute("INSERT OR IGNORE INTO layouts VALUES (?, ?)", (layout, described))
            before = database.total_changes
            database.executemany(_PUT, encoded)
            return database.total_changes - before

    def read(self, group: str, entities: Sequence[Key], now: int) -> list[Vector | None]:
        """The vector of each entity; None where there is none or it has expired."""
        database = self._open()
        if database is None:
            return [None for entity in entities if encode_key(group, entity)]
        found: list[Vector | None] = []
        with self._guard():
            for entity in entities:
                row = database.execute(_GET, (group, encode_key(group, entity))).fetchone()
                if row is None or (row[2] is not None and row[2] <= now):
                    found.append(None)
                    continue
                event_at, made_at, expires_at, layout, payload = row
                origin, values = decode_payload(group, payload)
                columns = self._layouts.get(layout) or self._layout(database, group, layout)
                named = cast("dict[str, Value]", dict(zip(columns, values, strict=True)))
                found.append(Vector(entity, named, event_at, made_at, expires_at, origin))
        return found

    def delete(self, group: str, entities: Sequence[Key]) -> int:
        """Erase entities, their bytes in the file too; returns how many were there."""
        keys = [(group, encode_key(group, entity)) for entity in entities]
        if self._open() is None:
            return 0
        with self._transaction() as database:
            before = database.total_changes
            database.executemany("DELETE FROM vectors WHERE grp = ? AND entity = ?", keys)
            gone = database.total_changes - before
        self._forget()
        return gone

    def drop(self, group: str) -> None:
        """Erase a whole group."""
        if self._open() is None:
            return
        with self._transaction() as database:
            database.execute("DELETE FROM vectors WHERE grp = ?", (group,))
        self._forget()

    def freshness(self, group: str, now: int) -> Freshness:
        """Counts and ages of a group, from an index alone."""
        database = self._open()
        if database is None:
            return Freshness(0, 0, None, None)
        with self._guard():
            stored, expired, newest, oldest = database.execute(f"{_AGE} WHERE grp = ?", (now, group)).fetchone()
        return Freshness(stored - expired, expired, newest, oldest)

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in list(self._all):
            connection.close()
        self._own = threading.local()

    def _create(self) -> None:
        if self._open() is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._guard():
                connection = self._connect()
                connection.database.execute("BEGIN IMMEDIATE")
                for statement in _TABLES.split(";"):
                    connection.database.execute(statement)
                connection.database.execute("COMMIT")

    def _open(self) -> sqlite3.Connection | None:
        """This thread's connection; None before the first write. One made before a fork is not used after it."""
        held = getattr(self._own, "connection", None)
        if held is not None and held.pid == os.getpid():
            return cast("sqlite3.Connection", held.database)
        if not self._path.exists():
            return None
        with self._guard():
            connection = self._connect()
            if connection.database.execute("SELECT 1 FROM sqlite_master WHERE name = 'vectors_age'").fetchone() is None:
                return None
        self._own.connection = connection
        return connection.database

    def _connect(self) -> _Connection:
        connection = _Connection(self._path)
        self._all.add(connection)
        return connection

    def _layout(self, database: sqlite3.Connection, group: str, layout: int) -> tuple[str, ...]:
        row = database.execute("SELECT columns FROM layouts WHERE id = ?", (layout,)).fetchone()
        if row is None:
            raise IntegrityError(
                "the columns of a stored vector are lost", where={"group": group}, hint="Materialise the group again."
            )
        self._layouts[layout] = decode_columns(row[0])
        return self._layouts[layout]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = self._open()
        assert database is not None
        with self._guard():
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _forget(self) -> None:
        """Empty the write-ahead log: it still holds the pages as they were. A reader may be in the way; then later."""
        database = self._open()
        if database is not None:
            with self._guard():
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """sqlite's errors as ours."""
        where = {"file": str(self._path)}
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UnavailableError(
                f"the online store cannot be used: {error}", where=where, hint="Another process may hold it; try again."
            ) from error
        except sqlite3.DatabaseError as error:
            hint = "Delete the file and materialise the groups again: holdfast features materialise"
            raise IntegrityError(f"the online store is damaged: {error}", where=where, hint=hint) from error
