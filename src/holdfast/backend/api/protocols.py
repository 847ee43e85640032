"""The door to the protocols of others: the Open Inference Protocol and MLflow's scoring server."""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from holdfast.backend.access import Caller
from holdfast.backend.api import invocations
from holdfast.backend.api.http1 import Request, block
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference import http as open_inference
from holdfast.backend.api.open_inference.http import Answered, Asked
from holdfast.backend.api.open_inference.models import Models
from holdfast.backend.serving.service import Service
from holdfast.errors import HoldfastError

__all__ = ["Protocols", "is_foreign"]

_log = logging.getLogger("holdfast.serving")
_MLFLOW = ("/invocations", "/ping", "/health", "/version")


def is_foreign(path: str) -> bool:
    """Whether a path belongs to one of these protocols."""
    if path.startswith("/v1/targets/"):
        return path.endswith("/invocations") and path.count("/") == 4
    return path in _MLFLOW or path == "/v2" or path.startswith("/v2/")


class Protocols:
    """Answers what `is_foreign`.

    `service` gives the worker's service, `read` a body within its limit, and `slowly` runs what takes its time.
    `permit` is given a request before anything else and says who asks; it raises a HoldfastError when that is not
    allowed.
    """

    def __init__(
        self,
        service: Callable[[], Service],
        read: Callable[[Request], Awaitable[bytes]],
        slowly: Callable[[Callable[[], Any]], Awaitable[Any]],
        permit: Callable[[Request], Caller],
        notices: Notices,
    ) -> None:
        self._notices = notices
        self._permit = permit
        self._service = service
        self._read = read
        self._slowly = slowly

    async def respond(self, request: Request, who: tuple[str | None, str | None], more: bytes) -> None:
        """Answer one request, whatever it is, with `more` headers.

        `who`: the caller's own id of the request, and the unit that it belongs to.
        """
        parts = request.path.split("/")[1:]  # unquoted by the server; not twice
        ours = parts[0] == "v2"
        asked = Asked(
            request.method,
            parts[1:] if ours else parts,
            request.headers,
            lambda: self._read(request),
            self._slowly,
            *who,
        )
        try:
            # Who asks is known only now, and which service answers: the worker may be starting.
            asked = replace(asked, who=self._permit(request).name)
            models = Models(self._service(), self._notices)
            if ours:
                answered = await open_inference.answer(models, asked)
            else:
                answered = await invocations.answer(self._service(), asked, ready=models.server_ready)
        except Exception as error:  # noqa: BLE001 - the process edge: a caller gets a plain 500, the log the details
            answered = self.failed(request.path, error)
            if not isinstance(error, HoldfastError):
                _log.exception("%s %s failed", request.method, request.path)
            elif answered[0] >= 500:
                _log.error("%s %s: %s", request.method, request.path, error)
        status, headers, body = answered
        request.respond(status, block(headers) + more, body)

    def failed(self, path: str, error: Exception) -> Answered:
        """The answer to a request to `path` that failed, as its protocol writes it."""
        return open_inference.failed(error) if path.split("/")[1] == "v2" else invocations.failed(error)

    def given_up(self, path: str, unit: str | None, error: BaseException) -> None:
        """Count a prediction that was given up, for the deployment that would have answered `unit`.

        One to /invocations that names its target in the body is counted for nobody when several are deployed: its body
        was not read, or is not kept.
        """
        with contextlib.suppress(HoldfastError):
            service, parts = self._service(), path.split("/")[1:]
            match parts:
                case ["v2", "models", target, "infer"] | ["v1", "targets", target, "invocations"]:
                    service.unanswered(service.choose(target, unit), error)
                case ["v2", "models", target, "versions", _, "infer"]:
                    service.unanswered(service.live.predictor(target), error)
                case ["invocations"] if len(service.live.predictors) == 1:
                    service.unanswered(service.choose(next(iter(service.live.predictors)), unit), error)
