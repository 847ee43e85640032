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


_asked = [os.environ.get("HOLDFAST_CRASH", "")]
_seen: Counter[str] = Counter()
_lock = threading.Lock()


def ask(what: str) -> None:
    """Ask this process to die, or to tell, as HOLDFAST_CRASH would: for one that was forked."""
    _asked[0] = what
    _seen.clear()


def crash_point(name: str) -> None:
    """Die here, if this is where the process was asked to."""
    asked = _asked[0]
    if not asked:
        return
    with _lock:
        _seen[name] += 1
        point = f"{name}#{_seen[name]}"
    if asked.startswith("@"):
        with Path(asked[1:]).open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")
    elif point == asked:
        os.kill(os.getpid(), signal.SIGKILL)
