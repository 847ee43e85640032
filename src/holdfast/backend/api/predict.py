"""The prediction workers' HTTP: a thin RSGI application over `serving.Service`.

Predictions of a few rows of features run on the event loop (tens of microseconds); everything slower goes to threads,
so that it never holds up the fast ones.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

import msgspec

from holdfast.backend.api import describe, swagger
from holdfast.backend.api.errors import PROBLEM_TYPE, http_problem, internal_problem, problem
from holdfast.backend.serving.questions import Question
from holdfast.backend.serving.service import Reply, Service
from holdfast.errors import HoldfastError, LimitError, NotFoundError, RequestError, UnavailableError, nearest

__all__ = ["PredictApp", "PredictRequest", "decode_request"]

_log = logging.getLogger("holdfast.serving")
_INLINE_ROWS = 16
_THREADS = 2
_MAX_WAITING = 64
_MAX_DRAINED = 1 << 30
_JSON = "application/json"


class EntityQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """One entity asked by its id."""

    id: str | int
    cutoff: str | None = None
    context: dict[str, Any] = {}


class RowsQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """One entity asked of the rows that come with the request."""

    entity: str | int
    cutoff: str | None = None
    context: dict[str, Any] = {}


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a prediction: exactly one of `features`, `rows` (with `questions`) and `entities`."""

    features: list[dict[str, Any]] | dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    rows: dict[str, list[dict[str, Any]]] | msgspec.UnsetType = msgspec.UNSET
    questions: list[RowsQuestion] | RowsQuestion | msgspec.UnsetType = msgspec.UNSET
    entities: list[EntityQuestion] | EntityQuestion | msgspec.UnsetType = msgspec.UNSET
    merge: bool = False
    explain: bool = False
    strict: bool | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(PredictRequest)
_encode = msgspec.json.Encoder().encode


def decode_request(body: bytes) -> PredictRequest:
    """The request in a body. RequestError says what is malformed and where: line and column, or the JSON path."""
    if not body.strip():
        raise RequestError(
            "the body is empty", hint='Send JSON such as {"features": [{...}]}, {"entities": [...]} or {"rows": {...}}.'
        )
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except msgspec.DecodeError as error:
        raise _malformed(str(error), body) from error
    except UnicodeDecodeError as error:
        raise RequestError("the body is not UTF-8", hint="Encode the JSON as UTF-8.") from error
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply", hint="Features and rows are flat objects.") from error
    given = [name for name in ("features", "rows", "entities") if getattr(request, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise RequestError(
            f"give exactly one of `features`, `rows` and `entities`, not {', '.join(given) or 'none of them'}"
        )
    if (request.questions is msgspec.UNSET) == (given == ["rows"]):
        raise RequestError("`rows` needs `questions` (which entity, at which cutoff), and only `rows` takes them")
    if request.merge and given != ["rows"]:
        raise RequestError("`merge` goes with `rows`", where={"field": "merge"})
    return request


def _invalid(message: str) -> RequestError:
    what, _, path = message.partition(" - at ")
    where = {"path": path.strip("`")} if path else None
    hint = None
    if "unknown field" in what:
        fields = PredictRequest.__struct_fields__ if not path else RowsQuestion.__struct_fields__
        if path.startswith("`$.entities"):
            fields = EntityQuestion.__struct_fields__
        hint = nearest(what.split("`")[1], fields)
    return RequestError(what[:1].lower() + what[1:], where=where, hint=hint)


def _malformed(message: str, body: bytes) -> RequestError:
    what, _, tail = message.partition(" (byte ")
    position = int(tail.rstrip(")")) if tail else len(body)
    what = what.removeprefix("JSON is malformed: ")
    before = body[:position]
    where = {
        "line": before.count(b"\n") + 1,
        "column": len(before) - (before.rfind(b"\n") + 1) + 1,
        "byte": position,
    }
    rest = body[max(0, position - 1) : position + 9]
    if any(word in rest for word in (b"NaN", b"Infinity", b"nan", b"inf")):
        return RequestError("NaN and Infinity are not JSON", where=where, hint="Send null where a value is not known.")
    return RequestError(f"not valid JSON: {what[:1].lower()}{what[1:]}", where=where)


class PredictApp:
    """The RSGI application. `max_body` is in bytes; `open_service` makes the service in the worker's own process."""

    def __init__(self, open_service: Callable[[], Service], max_body: int) -> None:
        self._open = open_service
        self._max_body = max_body
        self._service: Service | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="predict")
        self._waiting = 0

    def __rsgi_init__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Called by the server when the worker starts."""
        self._service = self._open()
        self._service.live.start()

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Called by the server when the worker has answered its last request: the log is written out."""
        self._pool.shutdown()
        if self._service:
            self._service.live.stop()
            stats = self._service.log.close()
            _log.info("worker %d stops: %d predictions logged, %d not", os.getpid(), stats.written, stats.dropped)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        if scope.proto != "http":
            protocol.close(403)
            return
        try:
            status, kind, body = await self._answer(scope, protocol)
        except HoldfastError as error:
            status, document = problem(error)
            if status >= 500:
                _log.error("%s %s: %s", scope.method, scope.path, error)
            kind, body = PROBLEM_TYPE, _encode(document)
        except Exception:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            _log.exception("%s %s failed", scope.method, scope.path)
            status, document = internal_problem()
            kind, body = PROBLEM_TYPE, _encode(document)
        protocol.response_bytes(status, [("content-type", kind), ("cache-control", "no-store")], body)

    async def _answer(self, scope: Any, protocol: Any) -> tuple[int, str, bytes]:
        parts = [unquote(part) for part in scope.path.split("/")]
        if len(parts) == 5 and parts[1:3] == ["v1", "targets"] and parts[4] == "predict":
            if scope.method != "POST":
                return _not_allowed("POST")
            request = decode_request(await self._body(scope, protocol))
            return 200, _JSON, _encode(await self._predict(parts[3], request))
        if scope.method not in ("GET", "HEAD"):
            return _not_allowed("GET")
        return self._get(parts)

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        """The body, never more of it in memory than the limit."""
        length = scope.headers.get("content-length")
        if length is not None and length.isdigit() and int(length) <= self._max_body:
            return bytes(await protocol())
        body, size = [], 0
        async for chunk in protocol:
            size += len(chunk)
            # What is too much is still read and forgotten: a client that is writing does not read the answer.
            if size <= self._max_body:
                body.append(chunk)
            elif size > _MAX_DRAINED:
                break
            else:
                body.clear()
        if size > self._max_body:
            raise self._too_large()
        return b"".join(body)

    def _too_large(self) -> LimitError:
        return LimitError(
            f"the body is larger than {self._max_body >> 20} MB",
            where={"limit_bytes": self._max_body},
            hint="Send fewer rows a request, use `holdfast predict` for files, or raise serving.max_body_mb.",
        )

    async def _predict(self, target: str, request: PredictRequest) -> Reply:
        service, explain = self.service, request.explain
        strict = None if request.strict is msgspec.UNSET else request.strict
        if request.features is not msgspec.UNSET:
            rows = request.features if isinstance(request.features, list) else [request.features]
            if len(rows) <= _INLINE_ROWS and not explain:
                return service.features(target, rows, strict=strict)
            return await self._slow(lambda: service.features(target, rows, explain=explain, strict=strict))
        if request.entities is not msgspec.UNSET:
            asked = request.entities if isinstance(request.entities, list) else [request.entities]
            questions = [Question(item.id, item.cutoff, item.context) for item in asked]
            return await self._slow(lambda: service.entities(target, questions, explain=explain, strict=strict))
        given, tables = request.questions, request.rows
        assert given is not msgspec.UNSET
        assert tables is not msgspec.UNSET
        listed = given if isinstance(given, list) else [given]
        questions = [Question(item.entity, item.cutoff, item.context) for item in listed]
        merge = request.merge
        return await self._slow(
            lambda: service.rows(target, tables, questions, merge=merge, explain=explain, strict=strict)
        )

    async def _slow(self, work: Callable[[], Reply]) -> Reply:
        if self._waiting >= _MAX_WAITING:
            raise UnavailableError(
                f"{self._waiting} slow predictions are waiting already", hint="Repeat later, or add workers."
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    @property
    def service(self) -> Service:
        """The service of this worker."""
        if self._service is None:
            raise UnavailableError("the worker is starting")
        return self._service

    def _get(self, parts: list[str]) -> tuple[int, str, bytes]:
        live = self.service.live
        match parts[1:]:
            case ["v1", "targets"]:
                return 200, _JSON, _encode({"targets": [describe.summary(p) for p in live.predictors.values()]})
            case ["v1", "targets", target]:
                return 200, _JSON, _encode(describe.target_details(live.predictor(target)))
            case ["v1", "health"]:
                return 200, _JSON, _encode(self._health())
            case ["v1", "ready"]:
                if not live.ready:
                    raise UnavailableError("not every deployed target is answered yet", hint="See /v1/health.")
                return 200, _JSON, _encode({"ready": True})
            case ["openapi.json"]:
                return 200, _JSON, _encode(describe.openapi(live.predictors))
            case ["docs"]:
                return 200, "text/html; charset=utf-8", swagger.page("Holdfast predictions").encode()
            case ["docs", name]:
                return 200, swagger.ASSETS.get(name, _JSON), swagger.asset(name)
        raise NotFoundError(
            f"there is no page {'/'.join(parts)!r}", hint="Pages: /docs, /v1/targets, /v1/health, /v1/ready"
        )

    def _health(self) -> dict[str, Any]:
        state, log = self.service.live.state(), asdict(self.service.log.stats)
        bad = bool(state["failures"] or state["trouble"] or log["failing"] or log["dropped"])
        return {"status": "degraded" if bad else "ok", "worker": os.getpid(), **state, "log": log}


def _not_allowed(method: str) -> tuple[int, str, bytes]:
    status, document = http_problem(405, "method", f"use {method} here")
    return status, PROBLEM_TYPE, _encode(document)
