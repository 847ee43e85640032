"""What is told of requests while they are answered: a sample of them in the access log, and a span each.

Both are off unless the project asks for them: a line costs about as much as a small prediction, a span several times
that.
"""

import logging
import random
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from holdfast.errors import MissingExtraError

if TYPE_CHECKING:
    from holdfast.backend.api.http1 import Request

__all__ = ["Observer", "check_extra"]

_log = logging.getLogger("holdfast.access")


def check_extra() -> None:
    """MissingExtraError when OpenTelemetry is not installed."""
    if not (find_spec("opentelemetry") and find_spec("opentelemetry.sdk")):
        raise MissingExtraError(
            "serving.tracing needs OpenTelemetry",
            where={"key": "serving.tracing"},
            hint='Run: pip install "holdfast[otel]"',
        )


class Observer:
    """Tells of the share `sample` (0..1) of requests in the log, and with `tracing` of every one to OpenTelemetry.

    Where spans go is said by OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT ...).
    """

    def __init__(self, sample: float, *, tracing: bool) -> None:
        self._sample = sample
        self._tracer: Any = None
        self._provider: Any = None
        if tracing:
            self._tracer, self._provider = _tracer()

    def begin(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    def answered(self, request: "Request") -> None:
        """Tell of a request that was answered. Personal values are in bodies, which are not told."""
        ended = time.time_ns()
        if self._sample and random.random() < self._sample:  # noqa: S311 - which lines are written is no secret
            _log.info(
                "%s %s %s %d %d bytes %d us", request.client, request.method or "-", request.path or "-",
                request.status, request.size, (ended - request.began) // 1000,
            )  # fmt: skip
        if self._tracer is not None:
            self._span(request, ended)

    def close(self) -> None:
        """Hand over the spans that wait."""
        if self._provider is not None:
            self._provider.shutdown()

    def _span(self, request: "Request", ended: int) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        assert self._tracer is not None
        parent: Mapping[str, str] = {
            name: value for name in ("traceparent", "tracestate") if (value := request.headers.get(name))
        }
        span = self._tracer.start_span(
            f"{request.method} {request.path}",
            context=TraceContextTextMapPropagator().extract(parent),
            kind=SpanKind.SERVER,
            start_time=request.began,
            attributes={"http.request.method": request.method, "url.path": request.path,
                        "http.response.status_code": request.status},
        )  # fmt: skip
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)


def _tracer() -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "holdfast"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("holdfast"), provider
