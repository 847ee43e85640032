"""Named places at which a program may die: before and after every commit, rename and external effect.

They cost one look at a module variable, and do nothing unless HOLDFAST_CRASH is set in the environment, which only the
crash suite does: `NAME#2` kills the process (SIGKILL) when it comes by that point the second time, `@FILE` writes the
name of each point that is passed to a file. docs/design/crashes.md lists the points and what must hold at each.
"""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

__all__ = ["crash_point"]

_ASKED = os.environ.get("HOLDFAST_CRASH", "")
_seen: Counter[str] = Counter()
_lock = threading.Lock()


def crash_point(name: str) -> None:
    """Die here, if this is where the process was asked to."""
    if not _ASKED:
        return
    with _lock:
        _seen[name] += 1
        number = _seen[name]
    if _ASKED.startswith("@"):
        with Path(_ASKED[1:]).open("a", encoding="utf-8") as file:
            file.write(f"{name}#{number}\n")
    elif f"{name}#{number}" == _ASKED:
        os.kill(os.getpid(), signal.SIGKILL)
