"""Time limits of requests, without a timer for each: one look now and then gives up all that are late.

A timer is made, sorted in and cancelled for every request, which costs as much as a small prediction itself; here a
request costs an entry in a dictionary.
"""

import asyncio
from time import monotonic
from types import TracebackType
from typing import Any

__all__ = ["Deadlines"]

_LOOKS = 8
_LONGEST = 1.0


class Deadlines:
    """Requests under way in one event loop, each a task of its own; `with` it a task has the time limit.

    TimeoutError, where the task waits, at most a second (an eighth of the limit, if that is less) after it ran out.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._every = min(seconds / _LOOKS, _LONGEST)
        self._begun: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look."""
        loop.call_later(self._every, self._look, loop)

    def __enter__(self) -> None:
        self._begun[_this_task()] = monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = _this_task()
        del self._begun[task]
        if task in self._late:
            self._late.discard(task)
            if kind is asyncio.CancelledError:
                task.uncancel()
                raise TimeoutError from error

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        latest = monotonic() - self.seconds
        for task, begun in self._begun.items():
            if begun > latest:
                break  # they are in the order in which they began
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self.start(loop)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
