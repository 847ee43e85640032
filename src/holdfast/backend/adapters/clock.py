"""The system's clock."""

import threading
import time

__all__ = ["SystemClock"]


class SystemClock:
    """The time of the machine, held back from going backwards."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC; never smaller than an earlier answer."""
        with self._lock:
            self._last = max(self._last, time.time_ns() // 1000)
            return self._last
