"""One engine, two kinds of transaction, the same on SQLite and PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from holdfast.backend.store.crashpoints import crash_point
from holdfast.backend.store.disk import explained
from holdfast.backend.store.heads import AUDITED, AuditHead, keep_head, read_head
from holdfast.backend.store.migrations import HEAD
from holdfast.errors import ConfigError, ConflictError, IntegrityError, MissingExtraError, UnavailableError

__all__ = ["Fence", "Store", "fenced", "metadata", "unfenced"]

metadata = sa.MetaData()
"""Every room hangs its tables on this."""

_ONE_WRITER = sa.text("SELECT pg_advisory_xact_lock(1215261796, hashtext(current_schema()))")
"""Takes the advisory lock (a number of ours, and the schema's) that the one writer of a PostgreSQL schema holds."""


class Fence(Protocol):
    """What may forbid a write: the holder of a lease that was taken over must not write any more."""

    def check(self, connection: sa.Connection) -> None:
        """LockedError, in the transaction of a write, when it must not happen."""
        ...


_fences: ContextVar[tuple[Fence, ...]] = ContextVar("fences", default=())
_open: ContextVar[tuple[tuple["Store", sa.Connection], ...]] = ContextVar("open", default=())


@contextmanager
def fenced(fence: Fence) -> Iterator[None]:
    """Check `fence` in every write transaction that this thread begins within the block."""
    token = _fences.set((*_fences.get(), fence))
    try:
        yield
    finally:
        _fences.reset(token)


@contextmanager
def unfenced() -> Iterator[None]:
    """Write within the block to another database, such as a copy, which knows nothing of the leases held here."""
    token = _fences.set(())
    try:
        yield
    finally:
        _fences.reset(token)


class Store:
    """The metadata database behind an SQLAlchemy URL: SQLite, or a schema of a PostgreSQL.

    `read()` sees one snapshot; `write()` holds the only write transaction and commits when the block ends, or rolls
    everything back when it raises. On SQLite that is BEGIN IMMEDIATE (a deferred read-then-write fails with "database
    is locked" under concurrent writers), on PostgreSQL an advisory lock of the schema: both have one writer at a time,
    so what a write has read cannot change before it commits. Keep slow work outside. ConfigError for another database;
    UnavailableError when the server cannot be reached. `head` is a file that shows the newest audit entry after each
    commit, so that entries cut off at the end are missed.
    """

    def __init__(self, url: str, *, head: Path | None = None) -> None:
        self._head, self._closed = head, False
        parsed = sa.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(parsed)
            sa.event.listen(self.engine, "connect", _configure_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        elif parsed.get_backend_name() == "postgresql":
            self.engine = _postgres(parsed)
        else:
            raise ConfigError(
                f"{parsed.get_backend_name()!r} is no database that Holdfast keeps its records in",
                hint="Use `sqlite`, or a URL such as postgresql://user@host/database.",
            )
        sa.event.listen(self.engine, "checkin", self._given_back)

    @property
    def url(self) -> str:
        """Where the database is, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one snapshot; what is written on it is rolled back.

        Within a `write` of the same thread it is that transaction, which sees its own writes.
        """
        joined = self._joined()
        if joined is not None:
            yield joined
            return
        with _reachable(self), self.engine.connect() as connection:
            postgres = self.engine.dialect.name == "postgresql"
            yield connection.execution_options(isolation_level="REPEATABLE READ") if postgres else connection

    @contextmanager
    def write(self, what: str) -> Iterator[sa.Connection]:
        """The write transaction `what`: all of the block or nothing of it.

        Within another `write` of the same thread it joins that one, so that changes of several rooms commit together.
        Fences (see `fenced`) are checked first: LockedError, and nothing is written, when one is lost.
        """
        joined = self._joined()
        if joined is not None:
            # A savepoint: what fails within may be caught outside, and must leave nothing behind.
            audited = joined.info.get(AUDITED)
            try:
                with joined.begin_nested():
                    yield joined
            except BaseException:
                joined.info[AUDITED] = audited
                raise
            return
        with (
            _reachable(self),
            self.engine.connect().execution_options(holdfast_write=True) as connection,
            connection.begin(),
        ):
            if self.engine.dialect.name == "postgresql":
                connection.execute(_ONE_WRITER)
            for fence in _fences.get():
                fence.check(connection)
            connection.info.pop(AUDITED, None)
            token = _open.set((*_open.get(), (self, connection)))
            try:
                yield connection
            finally:
                _open.reset(token)
            audited = connection.info.pop(AUDITED, None)
            crash_point(f"commit {what}: before")
        crash_point(f"commit {what}: after")
        if audited is not None and self._head is not None:
            keep_head(self._head, audited)

    def kept_head(self) -> AuditHead | None:
        """The newest audit entry that the file beside the database knows; None where there is no such file."""
        return None if self._head is None else read_head(self._head)

    def _joined(self) -> sa.Connection | None:
        return next((connection for store, connection in _open.get() if store is self), None)

    def upgrade(self) -> None:
        """Bring the tables to what this program needs; safe when several processes start at once.

        ConflictError when a newer program has been here.
        """
        if self._revision() == HEAD:
            return
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", "holdfast.backend.store:migrations")
        with self.write("upgrade") as connection:
            # Looked at again under the write lock: another process may have been faster.
            found = _revision(connection)
            if found not in {
                None,
                *(script.revision for script in ScriptDirectory.from_config(config).walk_revisions()),
            }:
                raise ConflictError(
                    f"the metadata database is at revision {found}, which this version of Holdfast does not know",
                    hint="Install the newer version of Holdfast that made it.",
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _revision(self) -> str | None:
        try:
            with self.read() as connection:
                return _revision(connection)
        except sa.exc.DatabaseError as error:
            if isinstance(error, sa.exc.OperationalError):  # busy, or out of reach: not damaged
                raise
            raise IntegrityError(
                f"the metadata database cannot be read: {error.orig}",
                where={"file": self.engine.url.database or self.url},
                hint="It is damaged, or none; restore it from a backup.",
            ) from error

    def scrub(self) -> None:
        """Overwrite what was deleted: SQLite keeps it in free pages and in its log. A reader may put off a part of it.

        A server's free pages and logs are the server's own: see its vacuum.
        """
        if self.engine.dialect.name == "sqlite" and self._joined() is None:
            raw = self.engine.raw_connection()
            try:
                for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                    raw.cursor().execute(statement)
            finally:
                raw.close()

    def close(self) -> None:
        """Close all connections; those that other threads are using, as soon as they give them back."""
        self._closed = True
        self.engine.dispose()

    def _given_back(self, _: object, entry: ConnectionPoolEntry) -> None:
        if self._closed:  # the pool forgot it when it was disposed of, and would leave it open
            entry.close()


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _configure_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # pysqlite must not open transactions on its own
    cursor = dbapi_connection.cursor()
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("holdfast_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN DEFERRED")


def _postgres(url: sa.URL) -> sa.Engine:
    try:
        # A server that restarted since the last use is met by a new connection, not by an error.
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "PostgreSQL needs a driver that is not installed", hint='Install it with: pip install "holdfast[postgres]"'
        ) from error


@contextmanager
def _reachable(store: Store) -> Iterator[None]:
    """Say of a server that cannot be reached that it cannot, of a file what is wrong with it."""
    if store.engine.dialect.name != "postgresql":
        with explained(str(store.engine.url.database)):
            yield
        return
    try:
        yield
    except sa.exc.OperationalError as error:
        raise UnavailableError(
            f"the metadata database cannot be used: {str(error.orig).strip()}",
            where={"database": store.url},
            hint="Start it, or correct `storage.database`. If a change was under way, look whether it was done.",
        ) from error
