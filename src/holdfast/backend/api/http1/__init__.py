"""HTTP/1.1 on the event loop that also answers: a request is parsed, answered and written where its bytes arrived.

httptools (llhttp) parses, strictly. This module decides everything around it: what is in hand of a connection and what
waits, how much of a request is held, how long a client may take, and how a connection ends. One request of a connection
is in hand at a time; those that a client sends ahead wait, and nothing more is read of it meanwhile.

A request whose body is small is offered to `Application.take` when it is whole. What that does not take, and what comes
slowly or is large, is given to the application as a coroutine, which reads the body itself, as fast as it wants it.
"""

from holdfast.backend.api.http1.message import SMALL_BODY, ConnectionLost, Head, Headers, Request, block
from holdfast.backend.api.http1.server import Application, HttpServer

__all__ = ["SMALL_BODY", "Application", "ConnectionLost", "Head", "Headers", "HttpServer", "Request", "block"]
