"""The prediction workers' application: thin, over `serving.Service`.

Predictions of a few rows of features are scored on the event loop, those that arrived together in one go (`Batches`),
without a task for each; everything slower goes to threads, so that it never holds up the fast ones.
"""

import asyncio
import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from holdfast.backend.access import Caller, Gate, Role
from holdfast.backend.api import describe, swagger
from holdfast.backend.api.deadlines import Deadlines
from holdfast.backend.api.errors import PROBLEM_TYPE, STATUS, http_problem, internal_problem, problem
from holdfast.backend.api.guard import CHALLENGE, PREDICT_ROLES, Roles, admit
from holdfast.backend.api.http1 import SMALL_BODY, ConnectionLost, Request, block
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.http import Answered
from holdfast.backend.api.protocols import Protocols, is_foreign
from holdfast.backend.api.requests import PredictRequest, decode_request
from holdfast.backend.serving.batches import Batches
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.questions import Question
from holdfast.backend.serving.service import Reply, Service, unit_of
from holdfast.errors import AccessError, HoldfastError, LimitError, NotFoundError, RequestError, UnavailableError

__all__ = ["PredictApp"]

_log = logging.getLogger("holdfast.serving")
_INLINE_ROWS = 16
_THREADS = 2
_MAX_WAITING = 64
_MAX_DRAINED = 1 << 30
_TURN = 0.0005
_encode = msgspec.json.Encoder().encode
_JSON = "application/json"
_UNIT = "x-holdfast-unit"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
T = TypeVar("T")
_KNOWN_PATHS = 4_096
_MORE = {401: [CHALLENGE], 503: [("retry-after", "1")]}
_ANSWER = block([("content-type", _JSON), ("cache-control", "no-store")])
_NO_STORE = block([("cache-control", "no-store")])
_ROLES = Roles(PREDICT_ROLES)
_MOMENT = 0.5
"""Seconds for which who was admitted is not asked for the key again: keys also run out."""
_AGAIN = 0.5
_LONGEST_PAUSE = 10.0
"""Seconds between attempts to open the project, at first and at most."""


class _Known(msgspec.Struct, gc=False, frozen=True):
    """What a head says of its requests: at a `moment`, as `gate` saw it."""

    live: Live
    gate: Gate
    moment: int
    target: str
    caller: str | None
    headers: bytes


class PredictApp:
    """The application of a worker. `max_body` is in bytes, `timeout` (of a whole request) in seconds; `open_service`
    makes the service in the worker's own process.
    """  # fmt: skip

    def __init__(
        self,
        open_service: Callable[[], Service],
        max_body: int,
        notices: Notices,
        timeout: float = 60.0,
    ) -> None:
        self._open = open_service
        self._max_body = max_body
        self._notices = notices
        self._deadlines = Deadlines(timeout)
        self._service: Service | None = None
        self._batches: Batches[Request] | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="predict")
        self._waiting = 0
        self._ending = threading.Event()
        self._protocols = Protocols(lambda: self.service, self._body, self._slow, self._permit, notices)
        # Request path → target, of paths that were understood before.
        self._targets: dict[str, str] = {}
        self._moment = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load what is deployed, to answer requests on `loop`; the worker listens afterwards."""
        # What runs beside the loop (loading, logging) must not keep it waiting: 5 ms a turn is the default.
        sys.setswitchinterval(_TURN)
        self._deadlines.start(loop)
        self._next_moment(loop)
        service = self._try_to_open()
        if self._notices.succeeds:
            service = self._await_answers(service)
        if service is not None:
            self._begin(service, loop)
        else:
            threading.Thread(target=self._open_later, args=(loop,), name="opening", daemon=True).start()

    def _try_to_open(self) -> Service | None:
        """The service with what is deployed loaded, as far as it can be; None where the project cannot be reached."""
        try:
            service = self._open()
        except UnavailableError as error:
            _log.error("worker %d cannot open the project, and tries again: %s", os.getpid(), error)
            return None
        service.live.start()
        return service

    def _await_answers(self, service: Service | None) -> Service | None:
        """Wait while this process is to take the place of another, and cannot answer what that one does.

        It listens only afterwards, so that no request comes to it. Who waits for it ends it by SIGTERM.
        """
        while self._notices.succeeds and (service is None or not service.live.settled):
            time.sleep(_AGAIN)
            service = service or self._try_to_open()
        return service

    def _open_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the project as soon as it can be reached; until then requests are answered that it is not."""
        pause, service = _AGAIN, None
        while service is None and not self._ending.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE)
            service = self._try_to_open()
        if service is not None:
            loop.call_soon_threadsafe(self._begin, service, loop)

    def _begin(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._batches = Batches(service, loop, self._settle)
        loop.call_soon(self._tell_ready, loop)

    def _tell_ready(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.service.live.settled:
            self._notices.ready()
        else:
            loop.call_later(_AGAIN, self._tell_ready, loop)

    def stop(self) -> None:
        """Called when the last request was answered: the log is written out."""
        self._ending.set()
        self._pool.shutdown(wait=False, cancel_futures=True)  # nobody waits for what is still done there
        if self._service:
            self._service.live.stop()
            if self._service.shadows:
                self._service.shadows.close()
            stats = self._service.log.close()
            _log.info("worker %d stops: %d predictions logged, %d not", os.getpid(), stats.written, stats.dropped)

    def take(self, request: Request) -> bool:
        """Let a prediction for features be scored with those that arrived together with it; False for anything else."""
        batches, unit = self._batches, None
        if batches is None:
            return False
        try:
            known, body = self._known(request), request.whole
            if known is None or body is None:
                return False
            if known.live.on_trial:
                unit = self._lot(request.headers)
            batches.ask(request, known.target, body, known.caller, unit)
        except Exception as error:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            self._refuse(request, unit, error)
        return True

    def _known(self, request: Request) -> "_Known | None":
        """What is the same for all predictions with this head, found out again when keys may have changed; None for
        what is no prediction, or of a target that is not known yet.
        """
        known: _Known | None = request.head.kept
        if known is None or known.moment != self._moment or known.gate is not known.live.gate:
            live = self.service.live
            target = self._targets.get(request.path)
            if target is None or request.method != "POST" or request.held > SMALL_BODY:
                return None
            caller = request.headers.get("x-request-id")
            admit(live.gate, Role.PREDICTOR, "POST", request.headers.get)
            known = _Known(live, live.gate, self._moment, target, caller, _ANSWER + _echoed(request))
            request.head.kept = known
        return known

    def _next_moment(self, loop: asyncio.AbstractEventLoop) -> None:
        self._moment += 1
        loop.call_later(_MOMENT, self._next_moment, loop)

    def _settle(self, request: Request, unit: str | None, answer: bytes | None) -> None:
        if answer is None:
            request.spawn(self._respond(request, unit))
        else:
            request.respond(200, request.head.kept.headers, answer)

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        unit = None
        try:
            unit = self._lot(request.headers)
        except RequestError as error:
            self._refuse(request, None, error)
        else:
            await self._respond(request, unit)

    def _lot(self, headers: Any) -> str | None:
        """The unit that a request belongs to while models are on trial.

        One lot a request, whichever way it goes and whatever becomes of it: who draws again at each turn moves requests
        from one arm to the other.
        """
        if self._service is None or not self._service.live.on_trial:
            return None
        return _unit(headers) or f"{random.getrandbits(64):x}"

    async def _respond(self, request: Request, unit: str | None) -> None:
        who = request.headers.get("x-request-id"), unit
        more = _NO_STORE + _echoed(request)
        try:
            with self._deadlines:
                if is_foreign(request.path):
                    await self._protocols.respond(request, who, more)
                    return
                status, kind, body = await self._answer(request, who)
        except Exception as error:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            self._refuse(request, unit, error)
        else:
            request.respond(status, block([("content-type", kind)]) + more, body)

    def _refuse(self, request: Request, unit: str | None, error: Exception) -> None:
        status, headers, body = self._failed(request, unit, error)
        request.respond(status, block(headers) + _NO_STORE + _echoed(request), body)

    def _failed(self, request: Request, unit: str | None, error: Exception) -> Answered:
        """The answer to a request that failed, in the form of its protocol; counts it, and tells the log."""
        target, foreign = self._targets.get(request.path), is_foreign(request.path)
        if isinstance(error, TimeoutError):
            late = UnavailableError(f"the request took longer than {self._deadlines.seconds:g} s")
            # It may have been counted where it was given up.
            given_up = error.__cause__ or error
            if foreign:
                self._protocols.given_up(request.path, unit, given_up)
            else:
                self._count(target, unit, given_up)
            _log.warning("%s %s was given up: %s", request.method, request.path, late)
            error = late
        else:
            self._count(target, unit, error)
            if not isinstance(error, HoldfastError):
                _log.exception("%s %s failed", request.method, request.path)
            elif STATUS.get(error.code, 500) >= 500:
                _log.error("%s %s: %s", request.method, request.path, error)
        if foreign:
            return self._protocols.failed(request.path, error)
        status, document = problem(error) if isinstance(error, HoldfastError) else internal_problem()
        return status, [("content-type", PROBLEM_TYPE), *_MORE.get(status, ())], _encode(document)

    def _permit(self, request: Request) -> Caller:
        role = _ROLES.find(request.path)
        needed = Role.PREDICTOR if role is None else role
        caller = admit(self.service.live.gate, needed, request.method, request.headers.get)
        if role is None:
            raise _no_page(request.path.split("/"))
        return caller

    def _count(self, target: str | None, unit: str | None, error: BaseException) -> None:
        """Count what was not answered, unless the service did: for the deployment that would have, so that no arm of a
        trial looks better by what came to none. Who may not ask says nothing of a model.
        """
        if target is None or self._service is None or isinstance(error, AccessError):
            return
        with contextlib.suppress(HoldfastError):
            self._service.unanswered(self._service.choose(target, unit), error)

    @contextlib.contextmanager
    def _counted(self, target: str, questions: Sequence[Question], unit: str | None) -> Iterator[None]:
        """Count what comes to nothing within for the arm that would have answered: one entity is its own unit."""
        try:
            yield
        except (HoldfastError, asyncio.CancelledError) as error:
            self._count(target, unit_of(questions, unit), error)
            raise

    async def _answer(self, request: Request, who: tuple[str | None, str | None]) -> tuple[int, str, bytes]:
        role = _ROLES.find(request.path)
        # What is not declared is told apart from what is refused only to who has a key.
        caller = admit(
            self.service.live.gate, Role.PREDICTOR if role is None else role, request.method, request.headers.get
        )
        # The server has unquoted it. Once more, and it could mean another page than the one whose role was asked for.
        parts = request.path.split("/")
        if role is None:
            raise _no_page(parts)
        if len(parts) == 5 and parts[1:3] == ["v1", "targets"] and parts[4] == "predict":
            if request.method != "POST":
                return _not_allowed("POST")
            target = parts[3]
            if target in self.service.live.predictors and len(self._targets) < _KNOWN_PATHS:
                self._targets[request.path] = target
            body = await self._body(request)
            small = len(body) <= SMALL_BODY
            return 200, _JSON, _encode(await self._predict(target, decode_request(body), who, small=small))
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET")
        return self._get(parts, caller)

    async def _body(self, request: Request) -> bytes:
        """The body, never more of it in memory than the limit. RequestError when the connection ends before it does."""
        body = request.whole
        if body is not None and len(body) <= self._max_body:
            return body
        parts, size = [], 0
        try:
            async for part in request.chunks():
                size += len(part)
                # What is too much is still read and forgotten: a client that is writing does not read the answer.
                if size <= self._max_body:
                    parts.append(part)
                elif size > _MAX_DRAINED:
                    break
                else:
                    parts.clear()
        except ConnectionLost as error:
            raise RequestError("the connection ended within the body") from error
        if size > self._max_body:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> LimitError:
        return LimitError(
            f"the body is larger than {self._max_body >> 20} MB",
            where={"limit_bytes": self._max_body},
            hint="Send fewer rows a request, use `holdfast predict` for files, or raise serving.max_body_mb.",
        )

    async def _predict(
        self, target: str, request: PredictRequest, who: tuple[str | None, str | None], *, small: bool
    ) -> Reply:
        service, explain = self.service, request.explain
        caller, unit = who
        if target in service.live.unopened:
            await self._slow(lambda: service.live.open(target))
        strict = None if request.strict is msgspec.UNSET else request.strict
        if request.features is not msgspec.UNSET:
            rows = request.features if isinstance(request.features, list) else [request.features]
            if small and len(rows) <= _INLINE_ROWS and not explain:
                return service.features(target, rows, strict=strict, caller=caller, unit=unit)
            return await self._slow(
                lambda: service.features(target, rows, explain=explain, strict=strict, caller=caller, unit=unit)
            )
        if request.entities is not msgspec.UNSET:
            asked = request.entities if isinstance(request.entities, list) else [request.entities]
            questions = [Question(item.id, item.cutoff, item.context) for item in asked]
            with self._counted(target, questions, unit):
                return await self._slow(
                    lambda: service.entities(
                        target, questions, explain=explain, strict=strict, caller=caller, unit=unit
                    )
                )
        given, tables = request.questions, request.rows
        assert given is not msgspec.UNSET
        assert tables is not msgspec.UNSET
        listed = given if isinstance(given, list) else [given]
        questions = [Question(item.entity, item.cutoff, item.context) for item in listed]
        merge = request.merge
        with self._counted(target, questions, unit):
            return await self._slow(
                lambda: service.rows(
                    target, tables, questions, merge=merge, explain=explain, strict=strict, caller=caller, unit=unit
                )
            )

    async def _slow(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MAX_WAITING:
            raise UnavailableError(
                f"{self._waiting} slow predictions are waiting already", hint="Repeat later, or add workers."
            )
        self._waiting += 1
        loop, task = asyncio.get_running_loop(), self._pool.submit(work)
        # Counted until it has ended, not until its request was given up: a thread cannot be stopped.
        task.add_done_callback(lambda _: loop.call_soon_threadsafe(self._one_less))
        return await asyncio.wrap_future(task)

    def _one_less(self) -> None:
        self._waiting -= 1

    @property
    def service(self) -> Service:
        """The service of this worker."""
        if self._service is None:
            raise UnavailableError("the worker is starting", hint="Repeat in a second.")
        return self._service

    def _get(self, parts: list[str], caller: Caller) -> tuple[int, str, bytes]:
        live = self.service.live
        match parts[1:]:
            case ["v1", "targets"]:
                return 200, _JSON, _encode({"targets": [describe.summary(p) for p in live.predictors.values()]})
            case ["v1", "targets", target]:
                return 200, _JSON, _encode(describe.target_details(live.predictor(target)))
            case ["v1", "health"]:
                return 200, _JSON, _encode(self._health(detailed=caller.role >= Role.VIEWER))
            case ["v1", "ready"]:
                if self._notices.draining:
                    raise UnavailableError("the server is about to stop")
                if not live.ready:
                    raise UnavailableError("not every deployed target is answered yet", hint="See /v1/health.")
                return 200, _JSON, _encode({"ready": True})
            case ["metrics"]:
                return 200, _TEXT, self.service.metrics().encode()
            case ["openapi.json"]:
                return 200, _JSON, _encode(describe.openapi(live.predictors))
            case ["docs"]:
                return 200, "text/html; charset=utf-8", swagger.page("Holdfast predictions").encode()
            case ["docs", name]:
                return 200, swagger.ASSETS.get(name, _JSON), swagger.asset(name)
        raise _no_page(parts)

    def _health(self, *, detailed: bool = True) -> dict[str, Any]:
        """How the worker is; why, and what answers, only for who may read that."""
        state, log = self.service.live.state(), asdict(self.service.log.stats)
        bad = bool(state["failures"] or state["trouble"] or log["failing"] or log["dropped"])
        status = "degraded" if bad else "ok"
        if not detailed:
            return {"status": status}
        told = {"status": status, "worker": os.getpid(), **state, "log": log}
        shadows = self.service.shadows
        return told | {"shadows": {"done": shadows.done, "dropped": shadows.dropped}} if shadows else told


def _no_page(parts: list[str]) -> NotFoundError:
    return NotFoundError(
        f"there is no page {'/'.join(parts)!r}", hint="Pages: /docs, /v1/targets, /v1/health, /v1/ready, /metrics"
    )


def _echoed(request: Request) -> bytes:
    """The caller's own id of a request, for the answer."""
    caller = request.headers.get("x-request-id")
    return b"" if caller is None else b"x-request-id: %b\r\n" % caller.encode()


def _unit(headers: Any) -> str | None:
    """Whose request it is. RequestError where that cannot be read: it would be drawn by lot without a word."""
    unit: str | None = headers.get(_UNIT)
    if unit is None and _UNIT in headers:
        raise RequestError(
            f"the header {_UNIT} is not ASCII", where={"header": _UNIT}, hint="Percent-encode it, as in a URL."
        )
    return unit


def _not_allowed(method: str) -> tuple[int, str, bytes]:
    status, document = http_problem(405, "method", f"use {method} here")
    return status, PROBLEM_TYPE, _encode(document)
