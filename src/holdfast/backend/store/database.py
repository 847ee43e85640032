"""One engine, two kinds of transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast.backend.store.migrations import HEAD
from holdfast.errors import ConflictError, IntegrityError

__all__ = ["Store", "metadata"]

metadata = sa.MetaData()
"""Every room hangs its tables on this."""


class Store:
    """The metadata database behind an SQLAlchemy URL.

    `read()` sees one snapshot; `write()` holds the only write transaction (BEGIN IMMEDIATE on SQLite: a deferred
    read-then-write fails with "database is locked" under concurrent writers) and commits when the block ends, or
    rolls everything back when it raises. Keep slow work outside.
    """

    def __init__(self, url: str) -> None:
        parsed = sa.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = sa.create_engine(parsed)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _configure_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one snapshot; what is written on it is rolled back."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """The write transaction: all of the block or nothing of it."""
        with self.engine.connect().execution_options(holdfast_write=True) as connection, connection.begin():
            yield connection

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
        with self.write() as connection:
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
                where={"file": self.engine.url.database or str(self.engine.url)},
                hint="It is damaged, or none; restore it from a backup.",
            ) from error

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


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
