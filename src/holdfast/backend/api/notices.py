"""What the main process of the servers and the processes that it starts tell each other."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import RawArray, RawValue

__all__ = ["START_SECONDS", "Notices", "Shares"]

START_SECONDS = 120
"""How long a restart waits for a new process to answer."""
_LOOK = 0.1
_PID_BYTES = 8


class Notices:
    """Two words in shared memory from the main process to the others, and a pipe for the way back.

    No locks: whichever process is killed, and when, the others are not held up. To be handed to a process when it is
    spawned; it cannot be pickled for anything else.
    """

    def __init__(self) -> None:
        self._draining = RawValue("b", 0)
        self._successor = RawValue("q", 0)
        self._heard, self._told = multiprocessing.get_context("spawn").Pipe(duplex=False)

    @property
    def draining(self) -> bool:
        """Whether the servers are about to stop: no new clients should come."""
        return bool(self._draining.value)

    def drain(self) -> None:
        """Say that the servers are about to stop."""
        self._draining.value = 1

    @property
    def succeeds(self) -> bool:
        """Whether this process is to take the place of one that answers, and has to answer itself before it may."""
        return bool(self._successor.value == os.getpid())

    def name_successor(self, pid: int | None) -> None:
        """Say which process is to take the place of one that answers; None: no longer any."""
        self._successor.value = pid or 0

    def ready(self) -> None:
        """Say that this process answers. So few bytes are written in one go, or not at all."""
        self._told.send_bytes(os.getpid().to_bytes(_PID_BYTES, "little"))

    def forget(self) -> None:
        """Forget who said so until now: nobody waited for them."""
        while self._heard.poll():
            self._heard.recv_bytes()

    def await_ready(self, pid: int | None, seconds: float, given_up: Callable[[], bool]) -> bool:
        """Whether process `pid` said within `seconds` that it answers; False as soon as it is `given_up`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not given_up():
            if self._heard.poll(_LOOK) and int.from_bytes(self._heard.recv_bytes(), "little") == pid:
                return True
        return False


class Shares:
    """How many connections each worker holds, in shared memory, so that they hold about as many.

    All wait at the same sockets, and the system wakes the same one again and again when there is little to do. No
    locks: what is read may be old by the time it is used, which costs a connection its best place and nothing else.
    """

    def __init__(self, count: int) -> None:
        self._held = RawArray("q", [-1] * count)

    def hold(self, place: int, connections: int) -> None:
        """Say how many the worker at `place` (0 to count-1) holds."""
        self._held[place] = connections

    def leave(self, place: int) -> None:
        """Say that no worker at `place` takes connections."""
        self._held[place] = -1

    def fewer_elsewhere(self, place: int) -> bool:
        """Whether a worker that takes connections holds fewer than the one at `place`."""
        mine = self._held[place]
        return any(0 <= held < mine for held in self._held)
