"""The bare path: decode, score, answer, on the server and with the kernel that Holdfast serves with, and nothing else.

No alignment, no prediction log, no metrics, no keys: what it answers is the limit that the whole server is held against.
Requests that have arrived while others were being scored are scored together; none waits for another.

    python bare.py BUNDLE PORT WORKERS
"""

import asyncio
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

_HEADERS = b"content-type: application/json\r\n"


class Bare:
    """The application."""

    def __init__(self, bundle: Path) -> None:
        from holdfast.backend.registry.bundle import load_bundle

        self.model = load_bundle(bundle)
        row = msgspec.defstruct("Row", [(name, float) for name in self.model.names], gc=False)
        self.pack = struct.Struct(f"={len(self.model.names)}d").pack
        self.decode = msgspec.json.Decoder(row).decode
        self.waiting: list[tuple[bytes, Any]] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when the worker starts."""
        self.loop = loop

    def stop(self) -> None:
        """Called when it has ended."""

    def take(self, request: Any) -> bool:
        """Put a row down, to be scored with those that arrived together with it."""
        try:
            row = self.pack(*msgspec.structs.astuple(self.decode(request.whole)))
        except msgspec.DecodeError as error:
            request.respond(400, _HEADERS, str(error).encode())
            return True
        request.head.kept = True
        if not self.waiting:
            self.loop.call_soon(self.score)
        self.waiting.append((row, request))
        return True

    async def __call__(self, request: Any) -> None:
        """What does not come in one piece is none of this benchmark's requests."""
        request.respond(413, _HEADERS, b"{}")

    def score(self) -> None:
        """Score what is waiting."""
        waiting, self.waiting = self.waiting, []
        outputs = self.model.predict(np.frombuffer(b"".join([row for row, _ in waiting])).reshape(len(waiting), -1))
        for (_, request), output in zip(waiting, outputs.tolist(), strict=True):
            request.respond(200, _HEADERS, b'{"probability":%r}' % output)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "apps"))
    from own_server import serve

    serve(partial(Bare, Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
