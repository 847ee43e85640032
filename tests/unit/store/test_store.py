"""Transactions, pointers, migrations."""

import importlib
import multiprocessing
import pkgutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import holdfast.backend
from holdfast.backend.store import Pointers, Store, metadata
from holdfast.backend.store.migrations import HEAD
from holdfast.errors import ConflictError, LockedError


def store_in(folder: Path) -> Store:
    return Store(f"sqlite:///{folder / '库' / 'holdfast.db'}")


def test_migrations_make_the_tables_that_the_rooms_declare(tmp_path: Path) -> None:
    for module in pkgutil.walk_packages(holdfast.backend.__path__, "holdfast.backend."):
        if module.name.endswith((".tables", ".deployments")):
            importlib.import_module(module.name)
    store = store_in(tmp_path)
    store.upgrade()
    with store.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    store.close()
    assert differences == []


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", "holdfast.backend.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def _upgrade(folder: str, start: "multiprocessing.synchronize.Event") -> None:
    start.wait()
    store = store_in(Path(folder))
    store.upgrade()
    store.close()


def test_many_processes_may_start_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    processes = [spawn.Process(target=_upgrade, args=(str(tmp_path), start)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_database_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.upgrade()
    with store.write("test") as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="revision 9999"):
        store.upgrade()
    store.close()


def test_a_write_is_all_or_nothing_and_readers_see_one_snapshot(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.upgrade()
    with store.read() as reader:
        assert Pointers(reader).all() == {}
        with pytest.raises(ConflictError), store.write("test") as connection:  # noqa: PT012 - the first move must be undone
            Pointers(connection).move("数据", "v1.0", at=1, why="test")
            Pointers(connection).move("数据", "v2.0", at=1, why="test", expect="elsewhere")
        with store.write("test") as connection:
            Pointers(connection).move("数据", "v1.1", at=2, why="import")
        assert Pointers(reader).all() == {}
    with store.read() as reader:
        assert Pointers(reader).all() == {"数据": "v1.1"}
    store.close()


def test_a_pointer_moves_only_from_where_it_was_seen(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.upgrade()
    with store.write("test") as connection:
        pointers = Pointers(connection)
        pointers.move("data", "a", at=1, why="first", expect=None)
        pointers.move("data", "b", at=2, why="second", expect="a")
        with pytest.raises(ConflictError, match="moved meanwhile"):
            pointers.move("data", "c", at=3, why="third", expect="a")
        assert [(move.before, move.after, move.why) for move in pointers.history("data")] == [
            (None, "a", "first"),
            ("a", "b", "second"),
        ]
    store.close()


def _count_up(folder: str, times: int) -> None:
    store = store_in(Path(folder))
    for _ in range(times):
        with store.write("test") as connection:
            pointers = Pointers(connection)
            pointers.move("count", str(int(pointers.get("count") or 0) + 1), at=0, why="")
    store.close()


def test_four_writers_lose_nothing_and_never_meet_a_locked_database(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.upgrade()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_count_up, args=(str(tmp_path), 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    with store.read() as connection:
        assert Pointers(connection).get("count") == "100"
    store.close()


def test_a_program_that_never_lets_go_of_the_database_is_told_of_in_words(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.upgrade()
    sa.event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=50"))
    store.close()
    with closing(sqlite3.connect(tmp_path / "库" / "holdfast.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockedError, match="another program holds"), store.write("test"):
            pass
    with store.write("test") as connection:
        Pointers(connection).move("data", "a", at=1, why="free again")
    store.close()


def test_what_is_given_back_after_the_end_is_closed_too(store: Store) -> None:
    # A thread may be in the midst of a question when the store is closed; nobody would ever close its connection.
    with store.read() as connection:
        used = connection.connection.dbapi_connection
        store.close()
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    assert used is not None
    # What begins after the end opens a connection of its own, and leaves none behind either.
    with store.read() as connection:
        later = connection.connection.dbapi_connection
    for one in (used, later):
        with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
            one.cursor().execute("SELECT 1")
