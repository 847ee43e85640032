"""One change of the data at a time, over all processes of a machine."""

import fcntl
import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.core.timeline import isoformat
from holdfast.errors import LockedError

__all__ = ["exclusive"]


@contextmanager
def exclusive(path: Path, *, now: int, what: str) -> Iterator[None]:
    """Hold the lock at `path`, or LockedError at once that says who holds it since when.

    The operating system gives the lock back when its process ends, however it ends: there are no stale locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(file.name) from error
        holder = {"pid": os.getpid(), "user": _user(), "since": isoformat(now), "what": what}
        file.truncate(0)
        file.write(json.dumps(holder, ensure_ascii=False))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)


def _held(path: str) -> LockedError:
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        holder = {}
    who = f"process {holder['pid']} of {holder['user']}" if holder else "another process"
    doing = f" ({holder['what']})" if holder else ""
    return LockedError(
        f"the data is being changed by {who}{doing}",
        where={"since": holder.get("since", "just now")},
        hint="Wait until it is done, then repeat.",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
