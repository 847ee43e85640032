"""Servers as processes: started on free ports, measured by /proc, always ended with all that they started.

Several peers leave their process group or session (Ray's daemons, our own workers). So this process makes itself the one
that inherits orphans: whatever a server started stays below it in the process tree, is counted, and is ended by its id.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PORTS", "Failed", "Server", "Used", "free_ports", "inherit_orphans", "post", "running"]

PORTS = 3
"""Neighbouring ports a server may take: HTTP, and two more (control or gRPC, metrics)."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Failed(Exception):  # noqa: N818 - it says what happened
    """A server did not install, start, or answer as it should."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def inherit_orphans() -> None:
    """Orphans of everything started from now on become children of this process; SIGTERM ends it in order."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: exit(143))


def free_ports(count: int = PORTS) -> int:
    """The first of `count` neighbouring ports that nobody listens on."""
    while True:
        with contextlib.ExitStack() as held:
            first = 0
            try:
                for place in range(count):
                    probe = held.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", first + place if first else 0))
                    first = first or probe.getsockname()[1]
            except (OSError, OverflowError):
                continue
            return first


@dataclass(frozen=True)
class Used:
    """What a server has used: CPU seconds since it began, and memory now in MB (PSS summed; RSS where that is hidden)."""

    cpu: float
    memory: float


class Server:
    """A running server and everything below it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, words: Path, before: frozenset[int]) -> None:
        self.process = process
        self.port = port
        self._words = words
        self._before = before
        self.began = time.perf_counter()

    def wait(self, answers: Callable[[], bool], seconds: float) -> float:
        """Seconds from the start until `answers` is true. Failed, with its last words, when it ends or is too slow."""
        while time.perf_counter() - self.began < seconds:
            if self.process.poll() is not None:
                raise Failed(f"ended with code {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(OSError):  # urllib's errors are OSErrors too
                if answers():
                    return time.perf_counter() - self.began
            time.sleep(0.02)
        raise Failed(f"gave no answer within {seconds:.0f} s: {self.last_words()}")

    def settle(self, seconds: float = 10) -> None:
        """Wait, at most so long, until its processes rest: the other workers are still starting when one answers."""
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            before = self.used().cpu
            time.sleep(0.25)
            if self.used().cpu - before < 0.03:
                return

    def last_words(self) -> str:
        """The last line of its output that says something."""
        lines = self._words.read_text("utf-8", "replace").splitlines()
        said = [line.strip() for line in lines if any(c.isalnum() for c in line)]
        errors = [line for line in said if "Error" in line]
        return (errors or said or ["it said nothing"])[-1][:300]

    def pids(self) -> list[int]:
        """Its processes."""
        return [pid for pid in _below(os.getpid()) if pid not in self._before]

    def used(self) -> Used:
        """CPU (of ended children too) and memory of all its processes."""
        cpu = memory = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                cpu += sum(int(field) for field in _stat(pid)[11:15]) / _TICKS
                memory += _megabytes(pid)
        return Used(cpu, memory)

    def stop(self, seconds: float) -> None:
        """Ask it to end; what is left after `seconds` is killed, with everything below it."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        for _ in range(200):
            left = self.pids()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            for pid in left:
                if pid != self.process.pid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        else:
            raise Failed(f"processes {left} do not end")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    grace: float = 10,
) -> Iterator[Server]:
    """A server started by `command` in `folder`; at the end it and all its processes are gone, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "words.txt"
    # Nothing of the environment that runs this may be importable there.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"PYTHONUNBUFFERED": "1", "PATH": f"{Path(command[0]).parent}{os.pathsep}{clean['PATH']}", **(env or {})}
    before = frozenset(_below(os.getpid()))
    with words.open("wb") as out:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder, env=clean,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - no threads here
        )  # fmt: skip
    server = Server(process, port, words, before)
    try:
        yield server
    finally:
        server.stop(grace)


def _below(root: int) -> list[int]:
    """The processes below `root`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(entry.name)[1]), []).append(int(entry.name))
    found = list(children.get(root, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on (the third of proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _megabytes(pid: int) -> float:
    with contextlib.suppress(PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def post(port: int, path: str, body: bytes, headers: Mapping[str, str], seconds: float = 30) -> bytes:
    """The body of the answer. OSError when there is none, or another status than 2xx."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json", **headers}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as answer:
        return bytes(answer.read())
