"""The server of `holdfast serve`, with an application of one's own."""

from collections.abc import Callable
from functools import partial
from typing import Any


def serve(make_app: Callable[[], Any], port: int, workers: int) -> None:
    """Serve what `make_app` makes in each worker until SIGTERM."""
    from holdfast.backend.api.notices import Notices
    from holdfast.backend.api.processes import Plane, Processes, listening, work

    with listening("127.0.0.1", port) as sockets:
        plane = Plane("worker", partial(work, make_app, sockets, None, None), count=workers, vital=True)
        Processes([plane], sockets, Notices()).serve()
