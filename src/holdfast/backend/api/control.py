"""The control plane: a small FastAPI application over the same services as the command line."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from holdfast import __version__
from holdfast.backend.api import swagger
from holdfast.backend.api.errors import PROBLEM_TYPE, http_problem, internal_problem, problem
from holdfast.backend.api.feature_server import add_feature_store
from holdfast.backend.features.vectors import OnlineFeatures
from holdfast.backend.pipelines.deploy import deploy, rollback
from holdfast.backend.pipelines.trace import Lineage, trace_model, trace_prediction
from holdfast.backend.records import Deployment
from holdfast.backend.serving.log import read_prediction, read_predictions
from holdfast.core.timeline import isoformat
from holdfast.errors import HoldfastError

__all__ = ["ControlRooms", "create_app"]

_log = logging.getLogger("holdfast.control")
Plain = dict[str, Any]
_MAX_BODY = 1 << 20


@dataclass(frozen=True)
class ControlRooms:
    """What the control plane shows and moves.

    `status`, `datasets` and `models` give plain data; `newest` gives label → ModelVersion id of a target's newest
    versions, for a deployment that names none. `online` reads the feature store.
    """

    lineage: Lineage
    status: Callable[[], Plain]
    datasets: Callable[[], list[Plain]]
    models: Callable[[], list[Plain]]
    newest: Callable[[str], Mapping[str, str]]
    online: OnlineFeatures


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


def create_app(rooms: ControlRooms) -> FastAPI:
    """The application; its OpenAPI 3.1 document is at /openapi.json, Swagger UI at /docs."""
    app = FastAPI(title="Holdfast control", version=__version__, docs_url=None, redoc_url=None)
    _add_pages(app)
    _add_reads(app, rooms)
    _add_deployments(app, rooms)
    add_feature_store(app, rooms.online)
    _add_problems(app)
    return app


def _add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(swagger.page("Holdfast control"))

    @app.get("/docs/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        return Response(swagger.asset(name), media_type=swagger.ASSETS[name])

    @app.get("/v1/health", summary="Alive")
    def health() -> Plain:
        return {"status": "ok"}


def _add_reads(app: FastAPI, rooms: ControlRooms) -> None:
    @app.get("/v1/status", summary="The whole project at a glance")
    def status() -> Plain:
        return rooms.status()

    @app.get("/v1/datasets", summary="Dataset versions")
    def datasets() -> list[Plain]:
        return rooms.datasets()

    @app.get("/v1/models", summary="Model versions")
    def models() -> list[Plain]:
        return rooms.models()

    @app.get("/v1/models/{model}/trace", summary="What a model version came from")
    def model_trace(model: str) -> Plain:
        return trace_model(rooms.lineage, model).to_dict()

    @app.get("/v1/predictions", summary="The latest predictions, newest first")
    def predictions(target: str | None = None, limit: int = 50) -> list[Plain]:
        return [asdict(entry) for entry in read_predictions(rooms.lineage.log, target, limit=max(1, min(limit, 1000)))]

    @app.get("/v1/predictions/{prediction}", summary="A prediction as it was logged")
    def prediction(prediction: str) -> Plain:
        return asdict(read_prediction(rooms.lineage.log, prediction))

    @app.get("/v1/trace/{prediction}", summary="From a prediction back to the raw files and rows")
    def trace(prediction: str) -> Plain:
        return trace_prediction(rooms.lineage, prediction).to_dict()


def _add_deployments(app: FastAPI, rooms: ControlRooms) -> None:
    sources = rooms.lineage.sources

    @app.get("/v1/deployments", summary="All deployments, newest first")
    def deployments(target: str | None = None) -> list[Plain]:
        current = set(sources.deployments.pointers().values())
        return [_shown(made) | {"current": made.id in current} for made in sources.deployments.history(target)]

    @app.post("/v1/deployments", status_code=201, summary="Verify models and deploy them")
    def make(request: DeployRequest) -> Plain:
        models = rooms.newest(request.target) if request.models is None else request.models
        return _shown(deploy(sources, request.target, models, request.note))

    @app.post("/v1/targets/{target}/rollback", summary="Go back to an earlier deployment")
    def back(target: str, request: RollbackRequest) -> Plain:
        return _shown(rollback(sources, target, request.to))


def _shown(made: Deployment) -> Plain:
    return asdict(made) | {"made_at": isoformat(made.made_at)}


def _add_problems(app: FastAPI) -> None:
    def answer(status: int, document: Plain) -> JSONResponse:
        return JSONResponse(document, status_code=status, media_type=PROBLEM_TYPE)

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HoldfastError)
        return answer(*problem(error))

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return answer(*http_problem(400, "request", first["msg"], where={"path": place}))

    async def web(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method"}.get(error.status_code, "request")
        return answer(*http_problem(error.status_code, code, str(error.detail)))

    async def guard(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0" if request.method in ("GET", "HEAD") else "")
        if not length.isdigit() or int(length) > _MAX_BODY:
            limit = {"limit_bytes": _MAX_BODY}
            return answer(*http_problem(413, "limit", "the body is too large, or its length is not given", where=limit))
        try:
            return await following(request)
        except Exception:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            _log.exception("%s %s failed", request.method, request.url.path)
            return answer(*internal_problem())

    app.add_exception_handler(HoldfastError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, web)
    app.middleware("http")(guard)
