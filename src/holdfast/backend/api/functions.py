"""A function of a serverless platform: an event of its gateway in, what the gateway sends back out.

Events of Amazon API Gateway (REST: 1.0, HTTP: 2.0) and of an Application Load Balancer. Paths, JSON and problem
documents are those of the server. Imports nothing heavy: a cold start pays for all of it.
"""

import base64
import binascii
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec

from holdfast.backend.api.errors import PROBLEM_TYPE, http_problem, internal_problem, problem
from holdfast.backend.api.requests import PredictRequest, decode_request
from holdfast.errors import HoldfastError, RequestError

__all__ = ["Answerer", "answer_event"]

_PREDICT = re.compile(r"/v1/targets/([^/]+)/predict/?$")
_STATE = re.compile(r"/v1/(health|ready)/?$")
_encode = msgspec.json.Encoder(enc_hook=str).encode
_log = logging.getLogger("holdfast.serving")


class Answerer(Protocol):
    """What answers."""

    def predict(self, target: str, request: PredictRequest) -> dict[str, Any]:
        """The reply to a request."""
        ...

    def state(self) -> dict[str, Any]:
        """What answers, by target."""
        ...


class _Call(msgspec.Struct, frozen=True):
    method: str
    path: str
    body: bytes
    identity: str | None


def answer_event(event: object, context: object, open_answerer: Callable[[], Answerer]) -> dict[str, Any]:
    """The response to an event; never raises.

    Each answered request is one line of JSON on stdout, which platforms keep: `prediction` holds the request as it
    was sent and the reply. A line that cannot be written is told on stderr, and the answer is given.
    """
    kind, status, body = PROBLEM_TYPE, 0, b""
    try:
        call = _call(event, context)
        status, kind, body = _answered(call, open_answerer)
    except HoldfastError as error:
        status, document = problem(error)
        body = _encode(document)
    except Exception:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
        _log.exception("the event could not be answered")
        status, document = internal_problem()
        body = _encode(document)
    return _response(event if isinstance(event, Mapping) else {}, status, kind, body)


def _answered(call: _Call, open_answerer: Callable[[], Answerer]) -> tuple[int, str, bytes]:
    found = _PREDICT.search(call.path)
    if found is None:
        if _STATE.search(call.path) is None:
            status, document = http_problem(404, "not_found", f"there is nothing at {call.path!r}")
            return status, PROBLEM_TYPE, _encode(document)
        if call.method not in {"GET", "HEAD"}:
            return _not_allowed("GET")
        return 200, "application/json", _encode({"status": "ok", "targets": open_answerer().state()})
    if call.method != "POST":
        return _not_allowed("POST")
    request = decode_request(call.body)
    reply = open_answerer().predict(unquote(found[1]), request)
    _write_log(call, reply)
    return 200, "application/json", _encode(reply)


def _not_allowed(method: str) -> tuple[int, str, bytes]:
    status, document = http_problem(405, "method", f"use {method} here")
    return status, PROBLEM_TYPE, _encode(document)


def _write_log(call: _Call, reply: Mapping[str, Any]) -> None:
    line = _encode({"prediction": {"request_id": call.identity, "request": msgspec.Raw(call.body), "reply": reply}})
    try:
        # In one piece: lines of JSON may hold line breaks between values, which a request may have.
        sys.stdout.write(line.decode().replace("\n", " ").replace("\r", " ") + "\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _log.error("a prediction could not be logged: %s", error)


def _call(event: object, context: object) -> _Call:
    if not isinstance(event, Mapping):
        raise RequestError(f"the event is no object but {type(event).__name__}")
    about = event.get("requestContext") or {}
    if event.get("version") == "2.0":
        method, path = about.get("http", {}).get("method"), event.get("rawPath")
    else:
        method, path = event.get("httpMethod"), event.get("path")
    if not isinstance(method, str) or not isinstance(path, str):
        raise RequestError(
            "the event is of no gateway that is known here",
            hint="Known are API Gateway (REST and HTTP) and the Application Load Balancer.",
        )
    identity = getattr(context, "aws_request_id", None) or about.get("requestId")
    return _Call(method.upper(), path, _body(event), identity)


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not isinstance(body, str):
        return json.dumps(body).encode()
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"the body is said to be base64 and is not: {error}") from error


def _response(event: Mapping[str, Any], status: int, kind: str, body: bytes) -> dict[str, Any]:
    headers = {"content-type": kind, "cache-control": "no-store"}
    made: dict[str, Any] = {"statusCode": status, "headers": headers, "body": body.decode(), "isBase64Encoded": False}
    if "elb" in (event.get("requestContext") or {}):
        made["statusDescription"] = f"{status} {HTTPStatus(status).phrase}"
        if "multiValueHeaders" in event:  # the balancer then reads no others
            made["multiValueHeaders"] = {name: [value] for name, value in made.pop("headers").items()}
    return made
