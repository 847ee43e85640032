"""A server of a small application, for `test_processes`: python -m tests.unit.serving.served_app PORT WORKERS FOLDER.

A worker that finds FOLDER/die ends before it answers anything; with FOLDER/die-one only the first that claims it.
"""

import asyncio
import os
import sys
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.backend.api.http1 import Request, block
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.processes import Plane, Processes, listening, work
from holdfast.errors import HoldfastError

TEXT = block([("content-type", "text/plain")])


class App:
    """Says which process answers; /slow after a second."""

    def __init__(self, folder: Path, notices: Notices) -> None:
        self._notices = notices
        if (folder / "die").exists():
            os._exit(3)
        try:
            (folder / "die-one").rename(folder / f"died-{os.getpid()}")
        except FileNotFoundError:
            return
        os._exit(3)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._notices.ready)

    def stop(self) -> None:
        pass

    def take(self, request: Request) -> bool:
        if request.path == "/slow":
            return False
        request.respond(200, TEXT, str(os.getpid()).encode())
        return True

    def __call__(self, request: Request) -> Coroutine[Any, Any, None]:
        return self._slow(request)

    async def _slow(self, request: Request) -> None:
        await asyncio.sleep(1)
        request.respond(200, TEXT, b"slow")


def main(port: str, workers: str, folder: str) -> None:
    notices = Notices()
    with listening("localhost", int(port)) as sockets:
        run = partial(work, partial(App, Path(folder), notices), sockets, None, None)
        began = time.monotonic()
        try:
            Processes([Plane("worker", run, count=int(workers), vital=True)], sockets, notices).serve()
        except HoldfastError as error:
            print(f"after {time.monotonic() - began:.0f} s: {error}", file=sys.stderr)
            raise SystemExit(4) from error


if __name__ == "__main__":
    main(*sys.argv[1:])
