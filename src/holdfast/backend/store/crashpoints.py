"""Named places at which a program may die: before and after every commit, rename and external effect.

They cost one look at a variable, and do nothing unless HOLDFAST_CRASH is set in the environment, which only the
crash suite does: `NAME#2` kills the process (SIGKILL) when it comes by that point the second time, `@FILE` writes the
name of each point that is passed to a file. docs/design/crashes.md lists the points and what must hold at each.
"""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

__all__ = ["ask", "crash_point"]


class _Asked:
    """What was asked of this process."""

    what = os.environ.get("HOLDFAST_CRASH", "")
    seen: Counter[str] = Counter()
    lock = threading.Lock()


def ask(what: str) -> None:
    """Ask this process to die, or to tell, as HOLDFAST_CRASH would: for one that was forked."""
    _Asked.what = what
    _Asked.seen.clear()


def crash_point(name: str) -> None:
    """Die here, if this is where the process was asked to."""
    if not _Asked.what:
        return
    with _Asked.lock:
        _Asked.seen[name] += 1
        point = f"{name}#{_Asked.seen[name]}"
    if _Asked.what.startswith("@"):
        with Path(_Asked.what[1:]).open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")
    elif point == _Asked.what:
        os.kill(os.getpid(), signal.SIGKILL)
