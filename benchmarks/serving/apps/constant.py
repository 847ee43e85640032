"""A constant answer on the server that Holdfast uses, after reading the body: python constant.py PORT WORKERS."""

import sys

from own_server import serve

_HEADERS = b"content-type: application/json\r\n"


class Constant:
    """The application."""

    def start(self, loop) -> None:
        """Called when the worker starts."""

    def stop(self) -> None:
        """Called when it has ended."""

    def take(self, request) -> bool:
        request.head.kept = True
        request.respond(200, _HEADERS, b'{"probability":0.4867563247680664}')
        return True

    async def __call__(self, request) -> None:
        """What does not come in one piece is none of this benchmark's requests."""
        request.respond(413, _HEADERS, b"{}")


if __name__ == "__main__":
    serve(Constant, int(sys.argv[1]), int(sys.argv[2]))
