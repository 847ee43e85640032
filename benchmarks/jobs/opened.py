"""What the worker processes of the benchmark open, by name."""

import os
from functools import cached_property

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.jobs import Engine, Handler, Queue, Schedules
from holdfast.backend.store import Store

URL = "BENCHMARK_URL"


class Opened:
    """Opened by each worker process, as the environment says."""

    @cached_property
    def engine(self) -> Engine:
        small = Handler(
            lambda running, _: running.step("one", lambda: 1), plain=lambda made: made, again=lambda kept: kept
        )
        return Engine(Queue(Store(os.environ[URL]), SystemClock()), {"small": small})

    @property
    def schedules(self) -> Schedules:
        return Schedules(self.engine.queue, {}, "UTC")

    def close(self) -> None:
        self.engine.queue.store.close()


def opened() -> Opened:
    return Opened()
