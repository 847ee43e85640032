"""Kill an operation at a named point, start again, and look whether everything is as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .operations import OPERATIONS, STATES

REPOSITORY = Path(__file__).resolve().parents[3]
_SIGKILL = -9
_LEASE = 1.0
_KILLS = 0.7


class Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.crash.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip

    def __call__(self, root: Path, *do: str, ask: str = "", lease: float = 30.0) -> tuple[int, dict[str, Any]]:
        """Do things in a forked process; its exit status, and what it told."""
        answer = self._say({"root": str(root), "do": do, "ask": ask, "lease": lease})
        return answer["status"], answer["result"]

    def start(self, root: Path, *do: str, lease: float) -> int:
        """Begin to do things in a forked process; its number."""
        return int(self._say({"root": str(root), "do": do, "lease": lease, "start": True})["started"])

    def wait(self, child: int) -> tuple[int, dict[str, Any]]:
        """The end of a started process."""
        answer = self._say({"wait": child})
        return answer["status"], answer["result"]

    def _say(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Bench:
    """States to begin from, as folders (and databases) that are copied for each round."""

    server: Server
    folder: Path
    databases: "Databases | None" = None

    def state(self, name: str) -> Path:
        """The folder of a state; made at first, from the state before it."""
        root = self.folder / name
        if not root.exists():
            before = STATES[name]
            if before is not None:
                self._copied(self.state(before), root)
            database = "sqlite" if self.databases is None else self.databases.make(root)
            status, told = self.server(root, f"prepare {name}" if before else f"prepare {name} {database}")
            assert status == 0, told.get("error")
        return root

    @contextmanager
    def copy(self, state: str, name: str) -> Iterator[Path]:
        """A project of that state to be ill-treated."""
        root = self.folder / "rounds" / name
        self._copied(self.state(state), root)
        try:
            yield root
        finally:
            if self.databases is not None:
                self.databases.drop(root)
            shutil.rmtree(root)

    def _copied(self, one: Path, other: Path) -> None:
        shutil.copytree(one, other)
        if self.databases is not None:
            url = self.databases.copy(one, other)
            file = other / "holdfast.yaml"
            old = self.databases.url(one)
            file.write_text(file.read_text(encoding="utf-8").replace(old, url), encoding="utf-8")

    def points(self, operation: str) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
        """The crash points that an operation comes by, in order, and the summaries before and after it."""
        with self.copy(OPERATIONS[operation][0], f"trace {operation}") as root:
            status, before = self.server(root, "summary")
            assert status == 0, before.get("error")
            trace = root / "points"
            status, told = self.server(root, operation, ask=f"@{trace}")
            assert status == 0, told.get("error")
            status, after = self.server(root, "drain", "faults", "summary")
            assert (status, after.get("faults")) == (0, []), after
            return trace.read_text(encoding="utf-8").splitlines(), before["summary"], after["summary"]

    def kill(self, operation: str, point: str, before: Any, after: Any) -> list[str]:
        """Kill an operation at a point, recover as a worker does, do it again if it had not begun; what is wrong."""
        with self.copy(OPERATIONS[operation][0], f"kill {operation}") as root:
            status, told = self.server(root, operation, ask=point)
            if status != _SIGKILL:
                return [f"it was not killed at {point}: {status} {told}"]
            status, told = self.server(root, "drain", "faults", "summary")
            if status != 0:
                return [f"after {point}, starting again failed: {told.get('error')}"]
            wrong = [f"after {point}: {fault}" for fault in told["faults"]]
            if told["summary"] == before:
                status, told = self.server(root, operation, "drain", "faults", "summary")
                if status != 0:
                    return [*wrong, f"after {point}, doing it again failed: {told.get('error')}"]
                wrong += [f"after {point}, done again: {fault}" for fault in told["faults"]]
            return wrong + [f"after {point}: {line}" for line in difference(told["summary"], after)]

    def chaos(self, seed: int, *, seconds: float = 6.0, workers: int = 3) -> tuple[list[str], Counter[str]]:
        """Several workers do many jobs while they are killed, or stopped for longer than their lease; what is wrong.

        Also counts what was done to them. After `seconds` they are left in peace, and must end all jobs.
        """
        chance = random.Random(seed)
        done: Counter[str] = Counter()
        with self.copy("trained", f"chaos {seed}") as root:
            status, told = self.server(root, "send")
            assert status == 0, told.get("error")
            living = [self.server.start(root, "work", lease=_LEASE) for _ in range(workers)]
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(chance.uniform(0.02, 0.5))
                place = chance.randrange(workers)
                if chance.random() < _KILLS:
                    with suppress(ProcessLookupError):
                        os.kill(living[place], signal.SIGKILL)
                    self.server.wait(living[place])
                    living[place] = self.server.start(root, "work", lease=_LEASE)
                    done["killed"] += 1
                else:
                    self._stopped(living[place], chance.uniform(0.2, 2.5 * _LEASE))
                    done["stopped"] += 1
            wrong = []
            for child in living:
                status, told = self.server.wait(child)
                if status:
                    wrong.append(f"a worker ended with {status}: {told.get('error')}")
            status, told = self.server(root, "work", "judge", lease=_LEASE)
            if status:
                return [*wrong, f"judging failed: {told.get('error')}"], done
            return [*wrong, *told["faults"]], done

    def _stopped(self, child: int, seconds: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(child, signal.SIGCONT)


def killable(points: Sequence[str]) -> list[str]:
    """Points that are passed at every run: how often progress is written depends on how long it takes."""
    return [point for point in points if not point.startswith(("commit progress", "commit beat"))]


def sample(points: Sequence[str], count: int) -> list[str]:
    """Points spread evenly over an operation, commits before all; the same ones at each run."""
    commits = [point for point in killable(points) if point.startswith("commit")]
    others = [point for point in killable(points) if not point.startswith("commit")]

    def spread(some: list[str], n: int) -> list[str]:
        return some if len(some) <= n else [some[round(k * (len(some) - 1) / max(n - 1, 1))] for k in range(n)]

    return spread(commits, count) + spread(others, max(count // 2, 1))


def difference(found: Any, wanted: Any, at: str = "") -> Sequence[str]:
    """Where two summaries differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for name in sorted({*found, *wanted})
            for line in difference(found.get(name), wanted.get(name), f"{at}/{name}")
        ]
    return [] if found == wanted else [f"{at} is {found}, not {wanted}"]


class Databases:
    """A PostgreSQL database for each folder, copied from the folder's it is a copy of."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._names: dict[Path, str] = {}

    def url(self, root: Path) -> str:
        return f"{self._server}/{self._names[root]}"

    def make(self, root: Path) -> str:
        if root not in self._names:
            self._create(root, "template1")
        return self.url(root)

    def copy(self, one: Path, other: Path) -> str:
        self._create(other, self._names[one])
        return self.url(other)

    def drop(self, root: Path) -> None:
        self._say(f"DROP DATABASE IF EXISTS {self._names.pop(root)} WITH (FORCE)")

    def close(self) -> None:
        for root in list(self._names):
            self.drop(root)

    def _create(self, root: Path, template: str) -> None:
        import secrets

        self._names[root] = f"holdfast_crash_{secrets.token_hex(6)}"
        self._say(f"CREATE DATABASE {self._names[root]} TEMPLATE {template}")

    def _say(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]
