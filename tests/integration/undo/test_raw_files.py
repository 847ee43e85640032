"""Raw files under a lease that is lost: a block that wakes late takes away nothing of its successor's."""

import threading

import pytest
import sqlalchemy as sa

from holdfast.backend.pipelines.integrity import check
from holdfast.errors import ConflictError, LockedError

from .world import write_period


def overdue(rooms):
    """The lease of the data may be taken over, as after a long stop of its holder."""
    with rooms.store.write("test") as connection:
        connection.execute(sa.text("UPDATE leases SET until = 0 WHERE name = 'data'"))


class Successor:
    """Another thread, which takes the lease over and holds it until it is told to go on."""

    def __init__(self, rooms, body):
        self._held, self._go_on = threading.Event(), threading.Event()
        self._error = None

        def run():
            try:
                with rooms.datasets.changing("successor") as raw:
                    body(raw)
                    self._held.set()
                    assert self._go_on.wait(60)
            except BaseException as error:
                self._error = error
            finally:
                self._held.set()

        self._thread = threading.Thread(target=run)

    def __enter__(self):
        self._thread.start()
        assert self._held.wait(60)
        self._told()
        return self

    def __exit__(self, *_):
        self._go_on.set()
        self._thread.join(60)
        self._told()

    def _told(self):
        if self._error is not None:
            raise self._error


def files(folder):
    return sorted(folder.iterdir())


def names(rooms):
    return {path.name for path in rooms.layout.raw.iterdir()}


def test_who_wakes_late_leaves_the_copies_of_its_successor(project, tmp_path):
    rooms = project._services
    late = files(write_period(tmp_path / "a", 3))
    other = files(write_period(tmp_path / "b", 4))
    before, kept = names(rooms), []

    def stage(raw):
        assert not mine.folder.exists()  # what the one before it left is cleared away
        kept.append(raw.stage(other, "2024-04"))

    with rooms.datasets.changing("late") as raw:
        mine = raw.stage(late, "2024-03")
        overdue(rooms)
        with Successor(rooms, stage):
            again = raw.stage(late, "2024-03")
            with pytest.raises(LockedError, match="was lost"):
                raw.publish(again, "2024-03")
            raw.abandon()
            assert not again.folder.exists()
            assert names(rooms) == {*before, kept[0].folder.name}
            with pytest.raises(LockedError):
                raw.recover()
            assert [path.name for path in files(kept[0].folder)] == [path.name for path in other]
    assert names(rooms) == before


def test_who_wakes_late_leaves_the_delivery_of_its_successor(project, tmp_path):
    rooms = project._services
    given = files(write_period(tmp_path / "a", 3))
    target = rooms.layout.raw / "2024-03"

    def publish(raw):
        assert not target.exists()  # it was published by the one before, but never committed
        raw.publish(raw.stage(given, "2024-03"), "2024-03")

    with rooms.datasets.changing("late") as raw:
        raw.publish(raw.stage(given, "2024-03"), "2024-03")
        overdue(rooms)
        with Successor(rooms, publish):
            raw.abandon()
            assert {path.name for path in files(target)} == {path.name for path in given}
    assert not target.exists()  # the successor did not commit it either
    assert not list(rooms.layout.private.glob("delivery*"))
    assert project.ingest("2024-03", [tmp_path / "a"])
    assert check(rooms, deep=True) == []


def test_what_took_the_place_of_a_delivery_is_used_only_if_it_is_the_same(sqlite_project, tmp_path):
    rooms = sqlite_project._services
    given = files(write_period(tmp_path / "a", 3))
    target = rooms.layout.raw / "2024-03"
    with rooms.datasets.changing("test") as raw:
        one, two = raw.stage(given, "2024-03"), raw.stage(given, "2024-03")
        raw.publish(one, "2024-03")
        raw.publish(two, "2024-03")
        assert not two.folder.exists()
        (target / given[0].name).write_text("something else", encoding="utf-8")
        three = raw.stage(given, "2024-03")
        with pytest.raises(ConflictError, match="other files came into the place"):
            raw.publish(three, "2024-03")
        assert raw.name(three, "2024-03") == "2024-03~2"
    assert names(rooms) == {"2024-01", "2024-02"}


def test_what_cannot_be_committed_is_taken_back_at_once(sqlite_project, tmp_path):
    rooms = sqlite_project._services
    given = files(write_period(tmp_path / "a", 3))

    def fail():
        with rooms.datasets.changing("test") as raw:
            raw.publish(raw.stage(given, "2024-03"), "2024-03")
            raise RuntimeError("no commit")

    with pytest.raises(RuntimeError, match="no commit"):
        fail()
    assert names(rooms) == {"2024-01", "2024-02"}
    assert check(rooms, deep=True) == []
