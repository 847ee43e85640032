"""The control plane: a small FastAPI application over the same services as the command line."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from holdfast import __version__
from holdfast.backend.access import Gate, Role
from holdfast.backend.api import swagger
from holdfast.backend.api.errors import PROBLEM_TYPE, http_problem, internal_problem, problem
from holdfast.backend.api.feature_server import add_feature_store
from holdfast.backend.api.guard import CHALLENGE, admit, needs, role_of, secured
from holdfast.backend.api.rollouts import RolloutRooms, add_rollouts
from holdfast.backend.features.vectors import OnlineFeatures
from holdfast.backend.pipelines.deploy import deploy, rollback
from holdfast.backend.pipelines.trace import Lineage, trace_model, trace_prediction
from holdfast.backend.records import Deployment
from holdfast.backend.serving.log import read_prediction, read_predictions
from holdfast.backend.store import acting
from holdfast.core.timeline import isoformat
from holdfast.errors import AccessError, HoldfastError

__all__ = ["ControlRooms", "create_app"]

_log = logging.getLogger("holdfast.control")
Plain = dict[str, Any]
_MAX_BODY = 1 << 20
_MAX_FORGOTTEN = 1 << 26


@dataclass(frozen=True)
class ControlRooms:
    """What the control plane shows and moves.

    `status`, `datasets` and `models` give plain data; `newest` gives label → ModelVersion id of a target's newest
    versions, for a deployment that names none. `online` reads the feature store, `gate` says who may ask, and
    `rollouts` has what is on trial.
    """

    lineage: Lineage
    status: Callable[[], Plain]
    datasets: Callable[[], list[Plain]]
    models: Callable[[], list[Plain]]
    newest: Callable[[str], Mapping[str, str]]
    online: OnlineFeatures
    gate: Callable[[], Gate]
    rollouts: RolloutRooms | None = None


class DeployRequest(BaseModel):
    """What to deploy: `models` maps label to model version id; without it, the newest version of every label."""

    model_config = ConfigDict(extra="forbid")
    target: str
    models: dict[str, str] | None = None
    note: str = ""


class RollbackRequest(BaseModel):
    """Where to go back to; without `to`, the deployment before the current one."""

    model_config = ConfigDict(extra="forbid")
    to: str | None = None


def create_app(rooms: ControlRooms, timeout: float = 60.0) -> FastAPI:
    """The application; its OpenAPI 3.1 document is at /openapi.json, Swagger UI at /docs.

    Every route declares the role it needs (`guard.needs`); one that does not is closed to everybody. `timeout`: seconds
    in which the body of a request must have come.
    """
    app = FastAPI(title="Holdfast control", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(app)
    _add_reads(app, rooms)
    _add_deployments(app, rooms)
    add_feature_store(app, rooms.online)
    if rooms.rollouts is not None:
        add_rollouts(app, rooms.rollouts)
    _add_problems(app)
    _add_guard(app, rooms.gate, timeout)
    return app


def _add_pages(app: FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    @needs(Role.PREDICTOR)
    def openapi() -> Plain:
        return secured(app.openapi(), open_paths=("/v1/health",))

    @app.get("/docs", include_in_schema=False)
    @needs(Role.ANYONE)
    def docs() -> HTMLResponse:
        return HTMLResponse(swagger.page("Holdfast control"))

    @app.get("/docs/{name}", include_in_schema=False)
    @needs(Role.ANYONE)
    def asset(name: str) -> Response:
        return Response(swagger.asset(name), media_type=swagger.ASSETS[name])

    @app.get("/v1/health", summary="Alive")
    @needs(Role.ANYONE)
    def health() -> Plain:
        return {"status": "ok"}


def _add_reads(app: FastAPI, rooms: ControlRooms) -> None:
    @app.get("/v1/status", summary="The whole project at a glance")
    @needs(Role.VIEWER)
    def status() -> Plain:
        return rooms.status()

    @app.get("/v1/datasets", summary="Dataset versions")
    @needs(Role.VIEWER)
    def datasets() -> list[Plain]:
        return rooms.datasets()

    @app.get("/v1/models", summary="Model versions")
    @needs(Role.VIEWER)
    def models() -> list[Plain]:
        return rooms.models()

    @app.get("/v1/models/{model}/trace", summary="What a model version came from")
    @needs(Role.VIEWER)
    def model_trace(model: str) -> Plain:
        return trace_model(rooms.lineage, model).to_dict()

    @app.get("/v1/predictions", summary="The latest predictions, newest first")
    @needs(Role.VIEWER)
    def predictions(target: str | None = None, limit: int = 50) -> list[Plain]:
        return [asdict(entry) for entry in read_predictions(rooms.lineage.log, target, limit=max(1, min(limit, 1000)))]

    @app.get("/v1/predictions/{prediction}", summary="A prediction as it was logged")
    @needs(Role.VIEWER)
    def prediction(prediction: str) -> Plain:
        return asdict(read_prediction(rooms.lineage.log, prediction))

    @app.get("/v1/trace/{prediction}", summary="From a prediction back to the raw files and rows")
    @needs(Role.VIEWER)
    def trace(prediction: str) -> Plain:
        return trace_prediction(rooms.lineage, prediction).to_dict()


def _add_deployments(app: FastAPI, rooms: ControlRooms) -> None:
    sources = rooms.lineage.sources

    @app.get("/v1/deployments", summary="All deployments, newest first")
    @needs(Role.VIEWER)
    def deployments(target: str | None = None) -> list[Plain]:
        current = set(sources.deployments.pointers().values())
        return [_shown(made) | {"current": made.id in current} for made in sources.deployments.history(target)]

    @app.post("/v1/deployments", status_code=201, summary="Verify models and deploy them")
    @needs(Role.OPERATOR)
    def make(request: DeployRequest) -> Plain:
        models = rooms.newest(request.target) if request.models is None else request.models
        return _shown(deploy(sources, request.target, models, request.note))

    @app.post("/v1/targets/{target}/rollback", summary="Go back to an earlier deployment")
    @needs(Role.OPERATOR)
    def back(target: str, request: RollbackRequest) -> Plain:
        return _shown(rollback(sources, target, request.to))


def _shown(made: Deployment) -> Plain:
    return asdict(made) | {"made_at": isoformat(made.made_at)}


def _add_problems(app: FastAPI) -> None:
    async def ours(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HoldfastError)
        return _answer(*problem(error))

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _answer(*http_problem(400, "request", first["msg"], where={"path": place}))

    async def web(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method"}.get(error.status_code, "request")
        return _answer(*http_problem(error.status_code, code, str(error.detail)))

    app.add_exception_handler(HoldfastError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, web)


def _add_guard(app: FastAPI, gate: Callable[[], Gate], timeout: float) -> None:
    """What every request passes before any route: who asks, how much they send, how long they take to send it."""

    async def passed(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        role = _needed(app, request)
        # A look at the keys a request: here nothing is so frequent that a snapshot would have to be kept.
        caller = admit(await run_in_threadpool(gate), role, request.method, request.headers.get)
        # With neither of the two there is no body.
        length = request.headers.get("content-length", "" if "transfer-encoding" in request.headers else "0")
        if not length.isdigit() or int(length) > _MAX_BODY:
            limit = {"limit_bytes": _MAX_BODY}
            await _forget(request, timeout)
            return _answer(
                *http_problem(413, "limit", "the body is too large, or its length is not given", where=limit)
            )
        try:
            await asyncio.wait_for(request.body(), timeout)
        except TimeoutError:
            return _answer(*http_problem(408, "request", f"the body did not come within {timeout:g} s"))
        except ClientDisconnect:
            return _answer(*http_problem(400, "request", "the connection ended within the body"))
        if not caller.name:
            return await following(request)
        with acting(caller.name):
            return await following(request)

    async def guard(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await passed(request, following)
        except HoldfastError as error:
            return _answer(*problem(error))
        except Exception:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            _log.exception("%s %s failed", request.method, request.url.path)
            return _answer(*internal_problem())

    app.middleware("http")(guard)


async def _forget(request: Request, timeout: float) -> None:
    """Read what is still coming, within bounds: a client that is writing would not read the answer."""
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > _MAX_FORGOTTEN:
                    return


def _needed(app: FastAPI, request: Request) -> Role:
    """The role that the route of a request needs. AccessError for a route that declares none.

    Where there is no such route, or not with this method, only who has a key is told so.
    """
    for route in app.routes:
        if route.matches(request.scope)[0] is Match.FULL:
            role = role_of(getattr(route, "endpoint", None))
            if role is None:
                raise AccessError("this route is closed: it declares no role", where={"path": request.url.path})
            return role
    return Role.PREDICTOR


def _answer(status: int, document: Plain) -> JSONResponse:
    headers = dict([CHALLENGE]) if status == 401 else None
    return JSONResponse(document, status_code=status, headers=headers, media_type=PROBLEM_TYPE)
