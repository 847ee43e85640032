"""Copies of requests for shadows: done in the background, one after another, as long as there is room.

A shadow must not slow down or fail what it copies: the queue is bounded, what does not fit is dropped and counted.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from holdfast.errors import HoldfastError

__all__ = ["Shadows"]

_CAPACITY = 1_000
_BYTES = 32 << 20
"""Of the texts of what waits; as Python objects they take several times as much."""
_log = logging.getLogger("holdfast.serving")


class Shadows:
    """One thread that works off what `put` hands over. `put` may be called from any thread."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self._came = threading.Event()
        self._stopping = False
        self.done = self.dropped = 0
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], None], size: int) -> None:
        """Hand over what was made of a text of `size` bytes; never waits for it and never raises."""
        with self._lock:
            if len(self._waiting) >= self._capacity or self._size + size > _BYTES:
                self.dropped += 1
                return
            self._waiting.append((work, size))
            self._size += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
                self._thread.start()
        self._came.set()

    def close(self, timeout: float = 2.0) -> None:
        """Stop; what still waits is dropped."""
        self._stopping = True
        self._came.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            self._came.wait()
            self._came.clear()
            while self._waiting and not self._stopping:
                with self._lock:
                    work, size = self._waiting.popleft()
                    self._size -= size
                try:
                    work()
                except HoldfastError as error:
                    _log.debug("a shadow refused a request: %s", error)
                except Exception:  # noqa: BLE001 - a thread's edge: a shadow that fails is counted, and the next one is due
                    _log.exception("a shadow failed")
                self.done += 1
