"""A small project of jobs, which worker processes open by name: counters in files tell what really ran."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.jobs import Engine, Handler, Queue, Running, Schedule, Schedules
from holdfast.backend.store import Leases, Pointers, Store
from holdfast.errors import InputError, UnavailableError

URL, FOLDER, LENGTH = "CHORES_URL", "CHORES_FOLDER", "CHORES_LENGTH"


def note(name: str) -> int:
    """Count that something ran; how often it did."""
    with (Path(os.environ[FOLDER]) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return count(name)


def count(name: str) -> int:
    path = Path(os.environ[FOLDER]) / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def deposit(running: Running, arguments: Mapping[str, Any]) -> Any:
    """Three steps; the last adds to a balance, once, whatever dies where `die` says."""
    die = arguments.get("die")

    def slow() -> int:
        made = note(f"slow {arguments['name']}")
        if die == "in slow" and made == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    running.step("slow", slow)
    if die == "after slow" and note(f"between {arguments['name']}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)

    def add(connection: Any) -> int:
        pointers = Pointers(connection)
        balance = int(pointers.get("balance") or 0) + arguments.get("amount", 1)
        pointers.move("balance", str(balance), at=1, why="deposit")
        if die == "in commit" and note(f"commit {arguments['name']}") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return balance

    balance = running.commit("deposit", add)
    if die == "after commit" and note(f"after {arguments['name']}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    running.progress(1, 1, "存好了")
    return balance


def sleep(running: Running, arguments: Mapping[str, Any]) -> Any:
    note(f"sleep {arguments['name']}")
    until = time.monotonic() + arguments["seconds"]
    while time.monotonic() < until:
        time.sleep(0.02)
        running.progress(0, 1, "睡")
    running.commit("woke", lambda connection: Pointers(connection).move("woke", arguments["name"], at=1, why="woke"))
    return "woke"


def hang(_running: Running, arguments: Mapping[str, Any]) -> Any:
    note(f"hang {arguments['name']}")
    time.sleep(600)


def fail(_running: Running, arguments: Mapping[str, Any]) -> Any:
    tries = note(f"fail {arguments['name']}")
    if arguments["how"] == "input":
        raise InputError("第 3 行 is wrong", where={"row": 3}, hint="Correct it.")
    if tries <= arguments.get("times", 1000):
        raise UnavailableError("the server is away")
    return tries


def count_to_three(running: Running, _arguments: Mapping[str, Any]) -> Any:
    for number, word in enumerate("一二三", 1):
        running.progress(number, 3, word)


def _handler(run: Callable[[Running, Mapping[str, Any]], Any], timeout: float = 60) -> Handler:
    return Handler(run, plain=lambda made: made, again=lambda kept: kept, timeout=timeout, attempts=3)


HANDLERS = {
    "deposit": _handler(deposit),
    "sleep": _handler(sleep),
    "fail": _handler(fail),
    "count": _handler(count_to_three),
    "hang": _handler(hang),
    "nap": _handler(hang, 0.5),
}


class Chores:
    """Opened in each process, as the environment says."""

    @cached_property
    def engine(self) -> Engine:
        store, clock = Store(os.environ[URL]), SystemClock()
        return Engine(Queue(store, clock, Leases(store, clock, float(os.environ.get(LENGTH, "30")))), HANDLERS)

    @cached_property
    def schedules(self) -> Schedules:
        return Schedules(self.engine.queue, {"every": Schedule("* * * * *", "deposit", {"name": "t"})}, "Asia/Shanghai")

    def close(self) -> None:
        self.engine.queue.store.close()


def opened_by_parents_only() -> Chores:
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("there is something wrong with the project file")
    return Chores()


def opened() -> Chores:
    return Chores()
