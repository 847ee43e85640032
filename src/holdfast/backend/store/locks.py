"""A lock that a crash gives back: the kernel's advisory lock on a file that says who holds it."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.core.timeline import isoformat
from holdfast.errors import LockedError

__all__ = ["file_lock"]


@contextmanager
def file_lock(path: Path, *, now: int, what: str, doing: str = "", wait: float = 0.0) -> Iterator[bool]:
    """Hold the lock file `path` for the block; waits up to `wait` seconds for it.

    Yields whether an earlier holder died with it (its note was still in the file). LockedError says who holds it since
    when. `now` is the instant noted; for the message, `what` is the thing locked and `doing` what it is locked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(descriptor, what, wait)
        stale = bool(os.pread(descriptor, 1, 0))
        _note(descriptor, {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "doing": doing})
        try:
            yield stale
        finally:
            _note(descriptor, None)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, what: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    while not _taken(descriptor):
        if time.monotonic() >= deadline:
            raise _locked(descriptor, what)
        time.sleep(0.02)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _note(descriptor: int, holder: dict[str, object] | None) -> None:
    os.ftruncate(descriptor, 0)
    if holder:
        os.pwrite(descriptor, json.dumps(holder, ensure_ascii=False).encode(), 0)


def _reads(descriptor: int) -> dict[str, object]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _locked(descriptor: int, what: str) -> LockedError:
    holder = _reads(descriptor)
    since = holder.get("since")
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    when = f" since {isoformat(since)}" if isinstance(since, int) else ""
    doing = f" ({holder['doing']})" if holder.get("doing") else ""
    return LockedError(
        f"{what} is held by {who}{when}{doing}",
        where={
            "pid": holder.get("pid"),
            "host": holder.get("host"),
            "since": isoformat(since) if isinstance(since, int) else "just now",
        },
        hint="Wait until it ends, or stop that process: the lock then frees itself.",
    )
