"""The audit log: chained, complete, and honest about edits; on every database."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from holdfast.backend.store import Audit, AuditHead, Pointers, Store, acting
from holdfast.errors import ConflictError, IntegrityError


def filled(store: Store, count: int = 5) -> AuditHead:
    with store.write("test") as connection, acting("王芳"):
        for n in range(count):
            Pointers(connection).move(f"数据{n % 2}", f"v{n}", at=n, why="导入")
        return Audit(connection).verify()


def test_every_move_of_a_pointer_is_in_it(store: Store) -> None:
    filled(store)
    with store.read() as connection:
        entries = list(Audit(connection).entries(object="数据1"))
    assert [(e.who, e.action, e.before, e.after, e.at) for e in entries] == [
        ("王芳", "point", None, "v1", 1),
        ("王芳", "point", "v1", "v3", 3),
    ]
    assert entries[0].details == {"why": "导入"}
    with store.write("test") as connection:
        audit = Audit(connection)
        for name in ("model:A", "model:a", "model%"):
            audit.append("read", name, at=9)
        for asked, found in (("model:a", ["model:a"]), ("MODEL", []), ("model%", ["model%"])):
            assert [one.object for one in audit.entries(object=asked)] == found


def test_a_change_that_fails_leaves_no_entry(store: Store) -> None:
    filled(store)
    with pytest.raises(ConflictError), store.write("test") as connection:  # noqa: PT012 - the entry must be undone
        Audit(connection).append("read", "x", at=9)
        raise ConflictError("no")
    with store.read() as connection:
        assert Audit(connection).head().id == 5


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET who = 'nobody' WHERE id = 3",
        "UPDATE audit SET details = '{}' WHERE id = 3",
        "DELETE FROM audit WHERE id = 3",
        "UPDATE audit SET hash = previous WHERE id = 3",
        "UPDATE audit SET id = 30 WHERE id = 3",
    ],
)
def test_any_edit_is_found_where_it_is(store: Store, edit: str) -> None:
    filled(store)
    with store.write("test") as connection:
        connection.execute(sa.text(edit))
    with store.read() as connection, pytest.raises(IntegrityError, match="entry 3 "):
        Audit(connection).verify()


def test_an_edit_with_a_fitting_hash_shows_in_the_next_entry(store: Store) -> None:
    filled(store)
    with store.read() as connection:
        third = list(Audit(connection).entries())[2]
    forged = replace(third, who="mallory")
    with store.write("test") as connection:
        connection.execute(
            sa.text("UPDATE audit SET who = 'mallory', hash = :h WHERE id = 3"), {"h": forged.expected()}
        )
    with store.read() as connection, pytest.raises(IntegrityError, match="entry 4 "):
        Audit(connection).verify()


def test_a_log_that_was_cut_or_written_anew_shows_against_a_kept_head(store: Store) -> None:
    head = filled(store)
    with store.write("test") as connection:
        connection.execute(sa.text("DELETE FROM audit WHERE id > 3"))
    with store.read() as connection:
        Audit(connection).verify()
        with pytest.raises(IntegrityError, match="entry 4 of the audit log is missing"):
            Audit(connection).verify(head)
    with store.write("test") as connection:
        connection.execute(sa.text("DELETE FROM audit"))
    filled(store, 7)
    with store.write("test") as connection, pytest.raises(IntegrityError, match="kept elsewhere"):
        Audit(connection).verify(replace(head, hash="f" * 64))


def test_where_everything_pointed_at_a_time(store: Store) -> None:
    filled(store)
    with store.write("test") as connection:
        Pointers(connection).drop("数据1", at=10, why="gone")
        assert Pointers(connection).at(0) == {"数据0": "v0"}
        assert Pointers(connection).at(3) == {"数据0": "v2", "数据1": "v3"}
        assert Pointers(connection).at(10) == {"数据0": "v4"}
