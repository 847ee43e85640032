"""The gRPC server of the Open Inference Protocol, and gRPC's own health service. Needs the extra `grpc`."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

from holdfast.backend.access import Role
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.models import Models, reason
from holdfast.backend.api.open_inference.requests import (
    InferRequest,
    asked_outputs,
    check_control,
    make_request,
    within_limits,
)
from holdfast.backend.api.open_inference.tensors import Tensor, from_raw, from_values, to_raw
from holdfast.backend.api.tls import Tls
from holdfast.backend.serving.service import Service
from holdfast.backend.store import acting
from holdfast.errors import ConflictError, HoldfastError, MissingExtraError, RequestError

__all__ = ["GrpcServer", "check_extra", "run"]

_log = logging.getLogger("holdfast.serving")
_THREADS = 4
_MAX_CONCURRENT = 68
_MAX_DETAIL = 600
"""Characters of an error: it travels in the trailer, of which clients take 8 kB, each Chinese character as 9 bytes."""
_STOP_SECONDS = 30
_LOOK = 0.5
_ROLES = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ModelReady"), Role.ANYONE),
    "RepositoryIndex": Role.VIEWER,
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), Role.OPERATOR),
}
"""What a method needs; one that is not here: what a prediction needs."""
_CODES = {
    "not_found": "NOT_FOUND",
    "conflict": "FAILED_PRECONDITION",
    "locked": "FAILED_PRECONDITION",
    "limit": "RESOURCE_EXHAUSTED",
    "unavailable": "UNAVAILABLE",
    "unauthenticated": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    **dict.fromkeys(("request", "input", "alignment", "contract", "file"), "INVALID_ARGUMENT"),
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}  # fmt: skip

Permit = Callable[[str | None, str], str]
"""Told the metadata `authorization` of a call and the method, says who asks ("": who needs no key); raises a
HoldfastError when it is not allowed.
"""


def check_extra() -> None:
    """MissingExtraError when gRPC is not installed."""
    if not all(find_spec(package) for package in ("grpc", "grpc_health")):
        raise MissingExtraError(
            "serving.grpc_port needs gRPC", where={"key": "serving.grpc_port"}, hint='Run: pip install "holdfast[grpc]"'
        )


def _permitted(service: Service, authorization: str | None, method: str) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    given = key.strip() if scheme.lower() == "bearer" else None
    return service.live.gate.caller(given, _ROLES.get(method, Role.PREDICTOR)).name


class GrpcServer:
    """A server on one port of `host`. ConflictError when it cannot listen there.

    `max_message` is in bytes; with `tls` it speaks TLS only. `permit` (by default the keys of the project) is asked
    before every call of the inference service; gRPC's health service, which says only whether all targets are answered,
    is open to all.
    """

    def __init__(
        self, service: Service, host: str, port: int, max_message: int, notices: Notices, *,
        permit: Permit | None = None, tls: Tls | None = None,
    ) -> None:  # fmt: skip
        import grpc
        from grpc_health.v1 import health, health_pb2_grpc

        from holdfast.backend.api.open_inference.messages import SERVICE, methods

        self._models = Models(service, notices)
        self._permit = permit or partial(_permitted, service)
        calls = _Calls(self._models)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, getattr(calls, name)), asked.FromString, answered.SerializeToString
            )
            for name, asked, answered in methods()
        }
        options = [
            ("grpc.max_receive_message_length", max_message),
            ("grpc.max_send_message_length", -1),
            # Otherwise a second server would share the port without a word.
            ("grpc.so_reuseport", 0),
        ]
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(self._pool, options=options, maximum_concurrent_rpcs=_MAX_CONCURRENT)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port: int = (
                self._server.add_secure_port(place, _credentials(tls)) if tls else self._server.add_insecure_port(place)
            )
        except RuntimeError as error:
            raise ConflictError(
                f"cannot listen on {place} for gRPC: {error}",
                where={"host": host, "port": port},
                hint="Stop what uses the port, or set serving.grpc_port in holdfast.yaml.",
            ) from error

    def start(self) -> None:
        """Begin to answer."""
        self._tell_health()
        self._server.start()

    def run_until(self, stopped: threading.Event) -> None:
        """Tell health what it is until `stopped` is set; then finish the calls under way."""
        while not stopped.wait(_LOOK):
            self._tell_health()
        self._health.enter_graceful_shutdown()
        self._server.stop(_STOP_SECONDS).wait()
        self._pool.shutdown()

    def _tell_health(self) -> None:
        from grpc_health.v1 import health_pb2

        from holdfast.backend.api.open_inference.messages import SERVICE

        states = health_pb2.HealthCheckResponse
        state = states.SERVING if self._models.server_ready else states.NOT_SERVING
        for name in ("", SERVICE):
            self._health.set(name, state)

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        import grpc

        def handle(request: Any, context: Any) -> Any:
            try:
                told = dict(context.invocation_metadata())
                who = self._permit(told.get("authorization"), name)
                with acting(who) if who else nullcontext():
                    return call(request, told.get("x-request-id"), told.get("x-holdfast-unit"))
            except HoldfastError as error:
                code, detail = _CODES.get(error.code, "INTERNAL"), reason(error)
                if code == "INTERNAL":
                    _log.error("%s: %s", name, error)
            except Exception:  # noqa: BLE001 - the process edge: a caller is told nothing of the inside, the log all
                _log.exception("%s failed", name)
                code, detail = "INTERNAL", "something went wrong inside; the server's log has the details"
            return context.abort(grpc.StatusCode[code], detail[:_MAX_DETAIL])

        return handle


class _Calls:
    """The methods of the service, by their names in the .proto file."""

    def __init__(self, models: Models) -> None:
        from holdfast.backend.api.open_inference.messages import message

        self._models = models
        self._message = message

    def ServerLive(self, *_: Any) -> Any:  # noqa: N802
        return self._message("ServerLiveResponse")(live=True)

    def ServerReady(self, *_: Any) -> Any:  # noqa: N802
        return self._message("ServerReadyResponse")(ready=self._models.server_ready)

    def ModelReady(self, request: Any, *_: Any) -> Any:  # noqa: N802
        return self._message("ModelReadyResponse")(ready=self._models.ready(request.name, request.version))

    def ServerMetadata(self, *_: Any) -> Any:  # noqa: N802
        return self._message("ServerMetadataResponse")(**self._models.server())

    def ModelMetadata(self, request: Any, *_: Any) -> Any:  # noqa: N802
        self._open(request.name)
        return self._message("ModelMetadataResponse")(**self._models.metadata(request.name, request.version))

    def ModelInfer(self, request: Any, caller: str | None, unit: str | None) -> Any:  # noqa: N802
        self._open(request.model_name)
        asked = _read(request)
        deployment, tensors = self._models.infer(request.model_name, request.model_version, asked, caller, unit)
        answer = self._message("ModelInferResponse")(
            model_name=request.model_name, model_version=deployment, id=request.id
        )
        for tensor in tensors:
            output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            for name, value in tensor.parameters.items():
                output.parameters[name].string_param = str(value)
            if asked.binary:
                answer.raw_output_contents.append(to_raw(tensor))
            else:
                values = [v.encode() if isinstance(v, str) else v for v in tensor.values]
                getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
        return answer

    def _open(self, name: str) -> None:
        if self._models.unopened(name):
            self._models.open(name)

    def RepositoryIndex(self, request: Any, *_: Any) -> Any:  # noqa: N802
        _one_repository(request)
        return self._message("RepositoryIndexResponse")(models=self._models.index(ready=request.ready))

    def RepositoryModelLoad(self, request: Any, *_: Any) -> Any:  # noqa: N802
        _one_repository(request)
        check_control("load", _parameters(request.parameters))
        self._models.load(request.model_name)
        return self._message("RepositoryModelLoadResponse")()

    def RepositoryModelUnload(self, request: Any, *_: Any) -> Any:  # noqa: N802
        _one_repository(request)
        check_control("unload", _parameters(request.parameters))
        self._models.unload(request.model_name)
        return self._message("RepositoryModelUnloadResponse")()


def _one_repository(request: Any) -> None:
    if request.repository_name:
        raise RequestError("there is one repository; it has no name")


def _parameters(given: Mapping[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def _read(request: Any) -> InferRequest:
    """The request of a message. RequestError or LimitError otherwise."""
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    outputs = asked_outputs([(one.name, _parameters(one.parameters)) for one in request.outputs])
    parameters = _parameters(request.parameters)
    tensors = within_limits(_tensors(request.inputs, raw))
    return make_request(request.id, tensors, outputs, parameters, binary=bool(raw))


def _tensors(inputs: Sequence[Any], raw: Sequence[bytes]) -> Iterable[Tensor]:
    for place, one in enumerate(inputs):
        where = {"tensor": one.name}
        if one.parameters:
            raise RequestError(f"the tensor {one.name[:80]!r} has parameters; none is known here", where=where)
        contents = {field.name for field, _ in one.contents.ListFields()}
        if raw:
            if contents:
                raise RequestError(f"the tensor {one.name[:80]!r} has contents beside the raw ones", where=where)
            yield from_raw(one.name, one.datatype, one.shape, memoryview(raw[place]))
            continue
        field = _CONTENTS.get(one.datatype, "raw_input_contents")
        if contents - {field}:
            raise RequestError(f"the values of {one.datatype[:20]!r} belong in {field}", where=where)
        values: Sequence[Any] = getattr(one.contents, field, ())
        if one.datatype == "BYTES":
            values = _texts(one.name, values)
        yield from_values(one.name, one.datatype, one.shape, values)


def _texts(name: str, values: Sequence[bytes]) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestError(f"a text of the tensor {name[:80]!r} is not UTF-8", where={"tensor": name}) from error


def _credentials(tls: Tls) -> Any:
    import grpc

    authority = None if tls.client_ca is None else tls.client_ca.read_bytes()
    pair = tls.key.read_bytes(), tls.certificate.read_bytes()
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def run(service: Service, host: str, port: int, max_message: int, *, notices: Notices, tls: Tls | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT; then calls under way are answered and the log is written out."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = GrpcServer(service, host, port, max_message, notices, tls=tls)
    service.live.start()
    server.start()
    server.run_until(stopped)
    service.live.stop()
    stats = service.log.close()
    _log.info("gRPC %d stops: %d predictions logged, %d not", os.getpid(), stats.written, stats.dropped)
