"""The handler for AWS Lambda and what speaks like it: `holdfast.serverless.handler`.

HOLDFAST_BUNDLE names a folder that `holdfast deployments export` wrote; it is only read, so it may lie in the image of
the function. Without it HOLDFAST_PROJECT names a project's folder, whose deployments are followed; its metadata
database must be writable. What answers is opened at the first event and kept for the next ones.
"""

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError, NotFoundError, RequestError, UnavailableError

if TYPE_CHECKING:
    from holdfast.backend.api.functions import Answerer
    from holdfast.backend.api.requests import PredictRequest
    from holdfast.backend.serving.folder import Exported
    from holdfast.backend.serving.service import Service

__all__ = ["handler"]

_opened: "dict[tuple[str, str], Answerer]" = {}
_opening = threading.Lock()


def handler(event: object, context: object = None) -> dict[str, Any]:
    """The response to an event of API Gateway (REST or HTTP API) or an Application Load Balancer; never raises.

    `POST .../v1/targets/{target}/predict` as of the server, `GET .../v1/health` and `/v1/ready`.
    """
    from holdfast.backend.api.functions import answer_event

    return answer_event(event, context, _answerer)


def _answerer() -> "Answerer":
    key = (os.environ.get("HOLDFAST_BUNDLE", ""), os.environ.get("HOLDFAST_PROJECT", ""))
    with _opening:
        if key not in _opened:
            _opened[key] = _open(*key)
        return _opened[key]


def _open(bundle: str, project: str) -> "Answerer":
    if not os.access(Path(__file__).parent, os.W_OK):
        # Compiled kernels are kept beside the code, or where this says: a function may write nowhere else.
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "holdfast-kernels"))
    if bundle:
        from holdfast.backend.adapters.clock import SystemClock
        from holdfast.backend.serving.folder import open_deployment

        return _Folder(open_deployment(Path(bundle), SystemClock()))
    if project:
        return _Project(Path(project))
    raise ConfigError(
        "it is not said what answers",
        hint="Set HOLDFAST_BUNDLE to a folder of `holdfast deployments export`, or HOLDFAST_PROJECT to a project.",
    )


class _Folder:
    """Answers of one exported deployment, by features."""

    def __init__(self, exported: "Exported") -> None:
        self._exported = exported

    def predict(self, target: str, request: "PredictRequest") -> dict[str, Any]:
        """By features, or UnavailableError."""
        import msgspec

        predictor = self._exported.predictor
        if target != predictor.target:
            raise NotFoundError(
                f"nothing is deployed for the target {target!r}", where={"target": target},
                hint=f"Here is only {predictor.target!r}.",
            )  # fmt: skip
        if request.features is msgspec.UNSET:
            raise UnavailableError(
                "an exported deployment answers rows of features only",
                hint="Send `features`, or let the function use the project (HOLDFAST_PROJECT).",
            )
        rows = request.features if isinstance(request.features, list) else [request.features]
        if not rows:
            raise RequestError("'features' is empty: there is nothing to predict", where={"field": "features"})
        strict = self._exported.strict if request.strict is msgspec.UNSET else request.strict
        answers = predictor.predict_features(rows, explain=request.explain, strict=strict)
        return {"target": target, "deployment": predictor.deployment, "predictions": answers}

    def state(self) -> dict[str, Any]:
        """The one target."""
        predictor = self._exported.predictor
        versions = {label: model.version for label, model in predictor.models.items()}
        return {predictor.target: {"deployment": predictor.deployment, "versions": versions}}


class _Project:
    """Answers of a project; between events nothing runs, so the pointers are looked at when one comes."""

    def __init__(self, root: Path) -> None:
        from holdfast.backend.serving.loader import INTERVAL
        from holdfast.backend.wiring import Services

        self._services = Services(root, log=False)
        self._every, self._looked = INTERVAL, float("-inf")

    def _service(self) -> "Service":
        service = self._services.service
        if time.monotonic() - self._looked >= self._every:
            service.live.look()
            self._looked = time.monotonic()
        return service

    def predict(self, target: str, request: "PredictRequest") -> dict[str, Any]:
        """In each of the three forms; logged in the project's prediction log before the answer is given."""
        from holdfast.backend.api.streaming import reply_to

        service = self._service()
        reply = reply_to(service, target, request)
        service.log.flush()
        return reply

    def state(self) -> dict[str, Any]:
        """All targets that answer."""
        targets: Mapping[str, Any] = self._service().live.state()["targets"]
        return dict(targets)
