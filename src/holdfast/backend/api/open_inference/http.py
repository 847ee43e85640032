"""The routes under /v2: the Open Inference Protocol over HTTP, in JSON and with raw bytes after it."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.backend.api.errors import STATUS
from holdfast.backend.api.http1 import Headers
from holdfast.backend.api.open_inference.bodies import read_json
from holdfast.backend.api.open_inference.models import Models, Plain, reason
from holdfast.backend.api.open_inference.requests import InferRequest, check_control, read_request
from holdfast.backend.api.open_inference.tensors import Parameter, to_raw
from holdfast.backend.store import acting
from holdfast.errors import HoldfastError, NotFoundError, RequestError, UnavailableError

__all__ = ["Answered", "Asked", "Slowly", "answer", "failed", "plain"]

_log = logging.getLogger("holdfast.serving")
_JSON = "application/json"
_BINARY = "application/octet-stream"
_JSON_LENGTH = "inference-header-content-length"
_INLINE_ROWS = 16
_INLINE_BYTES = 1 << 15
_encode = msgspec.json.Encoder().encode

Answered = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""
Slowly = Callable[[Callable[[], Answered]], Awaitable[Answered]]
"""Runs what takes its time beside the event loop."""


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class _Control(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, Parameter] = {}


_index = msgspec.json.Decoder(_Index)
_control = msgspec.json.Decoder(_Control)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the decoded parts of its path, its headers, what reads its body, and what runs slow work.

    `caller` is the caller's own id of it, `unit` what it belongs to; `who` is the name of the key that it came with, ""
    where none was needed.
    """

    method: str
    parts: Sequence[str]
    headers: Headers
    read: Callable[[], Awaitable[bytes]]
    slowly: Slowly
    caller: str | None = None
    unit: str | None = None
    who: str = ""


async def answer(models: Models, asked: Asked) -> Answered:
    """Answer a request of a path under /v2/. HoldfastError as `failed` takes it."""
    parts = asked.parts
    posts = parts[:1] == ["repository"] or (parts[-1:] == ["infer"] and len(parts) > 2)
    if asked.method not in (("POST",) if posts else ("GET", "HEAD")):
        return plain({"error": f"use {'POST' if posts else 'GET'} here"}, 405)
    match list(parts):
        case [] | [""]:
            return plain(models.server())
        case ["health", "live"]:
            return plain({"live": True})
        case ["health", "ready"]:
            ready = models.server_ready
            return plain({"ready": ready}, 200 if ready else 503)
        case ["repository", "index"]:
            given = _body(_index, await asked.read()) or _Index()
            return await asked.slowly(lambda: plain(models.index(ready=given.ready)))
        case ["repository", "models", name, ("load" | "unload") as what]:
            return await _change(models, name, what, asked)
        case ["models", name, "versions", version, *rest]:
            return await _model(models, name, version, rest, asked)
        case ["models", name, *rest]:
            return await _model(models, name, "", rest, asked)
    raise _no_page(asked)


async def _model(models: Models, name: str, version: str, rest: list[str], asked: Asked) -> Answered:
    if rest in ([], ["infer"]) and models.unopened(name):
        await asked.slowly(lambda: _opened(models, name))
    match rest:
        case []:
            return plain(models.metadata(name, version))
        case ["ready"]:
            return _ready(models, name, version)
        case ["infer"]:
            return await _infer(models, name, version, asked)
    raise _no_page(asked)


def _ready(models: Models, name: str, version: str) -> Answered:
    """Whether, and nothing else: anybody may ask, and a reason names targets, deployments and files."""
    try:
        models.require(name, version)
    except (NotFoundError, UnavailableError) as error:
        return plain({"name": name, "ready": False}, STATUS[error.code])
    return plain({"name": name, "ready": True})


def _opened(models: Models, name: str) -> Answered:
    models.open(name)
    return plain({})


def _no_page(asked: Asked) -> NotFoundError:
    return NotFoundError(
        f"there is no page {'/v2/' + '/'.join(asked.parts):.200}",
        hint="Pages: /v2, /v2/health/ready, /v2/models/{name}, /v2/models/{name}/infer, /v2/repository/index",
    )


def failed(error: Exception) -> Answered:
    """The answer to a request that failed; an error that is none of ours says nothing of the inside."""
    if isinstance(error, HoldfastError):
        return plain({"error": reason(error)}, STATUS.get(error.code, 500))
    return plain({"error": "something went wrong inside; the server's log has the details"}, 500)


def _body(decoder: Any, body: bytes) -> Any:
    return read_json(decoder, body) if body.strip() else None


async def _change(models: Models, name: str, what: str, asked: Asked) -> Answered:
    given = _body(_control, await asked.read()) or _Control()
    check_control(what, given.parameters)

    def change() -> Answered:
        # Here, in the thread that does it: an event loop has many callers.
        with acting(asked.who) if asked.who else nullcontext():
            (models.load if what == "load" else models.unload)(name)
        _log.warning("model %r: %s", name, what)
        return plain({})

    return await asked.slowly(change)


async def _infer(models: Models, name: str, version: str, asked: Asked) -> Answered:
    encoding = asked.headers.get("content-encoding") or "identity"
    if encoding != "identity":
        raise RequestError(f"the body is compressed ({encoding[:40]}); it is taken as it is only")
    body, length = await asked.read(), asked.headers.get(_JSON_LENGTH)
    who = asked.caller, asked.unit
    if len(body) > _INLINE_BYTES:
        return await asked.slowly(lambda: _inferred(models, name, version, read_request(body, length), who))
    request = read_request(body, length)
    if request.explain or request.rows > _INLINE_ROWS:
        return await asked.slowly(lambda: _inferred(models, name, version, request, who))
    return _inferred(models, name, version, request, who)


def _inferred(
    models: Models, name: str, version: str, request: InferRequest, who: tuple[str | None, str | None]
) -> Answered:
    deployment, tensors = models.infer(name, version, request, *who)
    outputs, parts = [], []
    for tensor in tensors:
        asked = request.outputs.get(tensor.name)
        parameters: dict[str, Parameter] = dict(tensor.parameters)
        entry: Plain = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if request.binary if asked is None else asked:
            parts.append(to_raw(tensor))
            parameters["binary_data_size"] = len(parts[-1])
        else:
            entry["data"] = tensor.values
        if parameters:
            entry["parameters"] = parameters
        outputs.append(entry)
    document: Plain = {"model_name": name, "model_version": deployment, "outputs": outputs}
    if request.id:
        document["id"] = request.id
    if not parts:
        return plain(document)
    head = _encode(document)
    return 200, [("content-type", _BINARY), (_JSON_LENGTH, str(len(head)))], b"".join([head, *parts])


def plain(document: object, status: int = 200) -> Answered:
    """A JSON answer."""
    headers = [("content-type", _JSON)]
    if status == 503:
        headers.append(("retry-after", "1"))
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return status, headers, _encode(document)
