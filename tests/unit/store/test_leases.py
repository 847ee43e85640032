"""Leases: one holder, fences that hold, takeover of the dead and the silent; on every database."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.store import Leases, Pointers, Store, fenced
from holdfast.errors import ConflictError, FileError, HoldfastError, LockedError
from holdfast.testing.clock import FakeClock

HOLD = """
import sys, time
from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.store import Leases, Pointers, Store
store = Store(sys.argv[1])
with Leases(store, SystemClock(), float(sys.argv[2])).hold(["data"], doing="导入 2016-04"):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
    try:
        with store.write("late") as connection:
            Pointers(connection).move("dataset", "late", at=1, why="late")
        print("wrote", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


def holder(store: Store, length: float, sleep: float) -> "subprocess.Popen[str]":
    url = store.engine.url.set(drivername=store.engine.dialect.name).render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, str(length), str(sleep)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_told_who_holds_it_since_when(store: Store) -> None:
    clock = FakeClock("2016-05-01")
    leases = Leases(store, clock)
    with leases.hold(["data"], doing="导入 2016-04"):
        found = []

        def other() -> None:
            try:
                with leases.hold(["model:风险/高", "data"], doing="x"):
                    pass
            except LockedError as error:
                found.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert f"held by process {os.getpid()}" in str(found[0])
        assert "2016-05-01T00:00:00" in str(found[0])
        assert "导入 2016-04" in str(found[0])
        assert [one.name for one in leases.holders()] == ["data"]
    assert leases.holders() == []
    with leases.hold(["model:风险/高", "data"], doing="x"):
        assert [one.name for one in leases.holders()] == ["data", "model:风险/高"]


def test_all_are_taken_together_or_none(store: Store) -> None:
    leases = Leases(store, SystemClock())
    errors: list[Exception] = []

    def run(names: list[str]) -> None:
        for _ in range(10):
            try:
                with leases.hold(names, doing="x", wait=30):
                    time.sleep(0.001)
            except HoldfastError as error:
                errors.append(error)

    threads = [
        threading.Thread(target=run, args=(names,)) for names in (["model:a", "model:b"], ["model:b", "model:a"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_leases_are_taken_in_one_order(store: Store) -> None:
    leases = Leases(store, SystemClock())
    with leases.hold(["data"], doing="x"), leases.hold(["model:a"], doing="x"), leases.hold(["data"], doing="again"):
        assert [one.name for one in leases.holders()] == ["data", "model:a"]
    with leases.hold(["model:a"], doing="x"):
        with pytest.raises(ConflictError, match="in the order"), leases.hold(["data"], doing="x"):
            pass
        with pytest.raises(ConflictError, match="in the order"), leases.hold(["model:b"], doing="x"):
            pass


def test_the_lease_of_a_killed_process_is_free_at_once(store: Store) -> None:
    process = holder(store, 600, 600)
    leases = Leases(store, SystemClock(), 600)
    with pytest.raises(LockedError, match=f"process {process.pid} on"), leases.hold(["data"], doing="x"):
        pass
    process.kill()  # not waited for: a zombie is dead, too
    with leases.hold(["data"], doing="x", wait=10):
        pass
    process.communicate()


def test_a_stopped_holder_is_taken_over_and_cannot_write_any_more(store: Store) -> None:
    process = holder(store, 2, 4)
    process.send_signal(signal.SIGSTOP)
    with Leases(store, SystemClock(), 2).hold(["data"], doing="take over", wait=30):
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == "LockedError\n"
        with store.read() as connection:
            assert Pointers(connection).get("dataset") is None


def test_what_a_late_holder_misses_is_no_fault_of_what_was_asked(store: Store) -> None:
    """Who takes over clears away what lies half done; who comes back late may find a copy of a file gone."""
    clock = FakeClock("2024-06-01")

    def take_over() -> None:
        with Leases(store, clock).hold(["data"], doing="take over"):
            pass

    def import_(*, late: bool) -> None:
        with Leases(store, clock).hold(["data"], doing="import"):
            if late:
                clock.advance(3_600_000_000)
                thread = threading.Thread(target=take_over)
                thread.start()
                thread.join()
            raise FileError("persons.csv cannot be opened")

    with pytest.raises(FileError):
        import_(late=False)
    with pytest.raises(LockedError, match="was lost") as caught:
        import_(late=True)
    assert isinstance(caught.value.__cause__, FileError)


@pytest.mark.parametrize("step", [-86_400_000_000, 86_400_000_000])
def test_a_step_of_the_clock_neither_blocks_for_ever_nor_lets_two_write(store: Store, step: int) -> None:
    stepped = FakeClock("2024-06-01")
    stepped._now += step
    first, second = Leases(store, FakeClock("2024-06-01"), 2), Leases(store, stepped, 2)
    with store.write("test") as connection:
        old = first.take(connection, ["data"], "before the step")
    with second.hold(["data"], doing="after it", wait=20), store.write("test") as connection:
        Pointers(connection).move("dataset", "second", at=1, why="x")
    with pytest.raises(LockedError, match="was lost"), fenced(old), store.write("test") as connection:
        Pointers(connection).move("dataset", "first", at=1, why="x")
    with store.read() as connection:
        assert Pointers(connection).get("dataset") == "second"


def test_a_failure_within_a_joined_write_leaves_nothing_of_it(store: Store) -> None:
    with store.write("outer") as connection:
        Pointers(connection).move("a", "1", at=1, why="x")
        with pytest.raises(ConflictError), store.write("inner") as inner:  # noqa: PT012 - the first must be undone
            Pointers(inner).move("b", "1", at=1, why="x")
            Pointers(inner).move("b", "2", at=1, why="x", expect="0")
        with store.read() as inner:
            assert Pointers(inner).all() == {"a": "1"}
    with store.read() as connection:
        assert Pointers(connection).all() == {"a": "1"}


def test_many_writers_never_see_that_it_is_locked(store: Store, tmp_path: Path) -> None:
    url = store.engine.url.set(drivername=store.engine.dialect.name).render_as_string(hide_password=False)
    code = """
import sys
from holdfast.backend.store import Pointers, Store
store = Store(sys.argv[1])
for n in range(100):
    with store.write("count") as connection:
        pointers = Pointers(connection)
        pointers.move("n", str(int(pointers.get("n") or 0) + 1), at=n, why="count")
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    with store.read() as connection:
        assert Pointers(connection).get("n") == "400"
