"""An inference request, as its transport gave it: what was sent, which outputs are asked for, and how."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.backend.api.open_inference.bodies import read_json
from holdfast.backend.api.open_inference.tensors import (
    MAX_VALUES,
    Parameter,
    Tensor,
    from_json,
    from_raw,
    too_many,
)
from holdfast.backend.api.requests import MAX_ROWS
from holdfast.errors import LimitError, RequestError, nearest

__all__ = ["InferRequest", "asked_outputs", "check_control", "check_size", "first_twice", "make_request",
           "read_request", "within_limits"]  # fmt: skip

_MAX_COLUMNS = 10_000
_MAX_ID = 1_000


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`outputs` maps the tensors asked for (none: all) to whether they come as bytes (None: as `binary` says)."""

    id: str
    tensors: Sequence[Tensor]
    outputs: Mapping[str, bool | None] = field(default_factory=dict)
    explain: bool = False
    strict: bool | None = None
    binary: bool = False

    @property
    def rows(self) -> int:
        """How many rows are asked for."""
        return self.tensors[0].shape[0] if self.tensors else 0


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Parameter] = {}


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Parameter] = {}
    outputs: list[_Output] = []


_decoder = msgspec.json.Decoder(_Request)


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in an HTTP body: JSON or, of `header_length` bytes, JSON that the raw bytes of tensors follow.

    `header_length` is the text of the header Inference-Header-Content-Length. RequestError or LimitError otherwise.
    """
    whole, size = memoryview(body), len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
            raise RequestError(
                f"{header_length[:80]!r} is no length of a header", where={"header": "Inference-Header-Content-Length"}
            )
        size = int(header_length)
        if size > len(body):
            raise RequestError(
                f"the JSON is said to take {size:,} bytes; the body has {len(body):,}",
                where={"header": "Inference-Header-Content-Length"},
            )
    asked = read_json(_decoder, whole[:size])
    rest = whole[size:]

    def read() -> Iterator[Tensor]:
        nonlocal rest
        for one in asked.inputs:
            tensor, rest = _tensor(one, rest)
            yield tensor

    tensors = within_limits(read())
    if len(rest):
        raise RequestError(f"{len(rest):,} bytes after the JSON belong to no tensor")
    outputs = asked_outputs([(one.name, one.parameters) for one in asked.outputs])
    return make_request(asked.id, tensors, outputs, asked.parameters)


def within_limits(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors, taken one after the other as long as they are within what one request may hold."""
    taken: list[Tensor] = []
    left = MAX_VALUES
    for tensor in tensors:
        left -= len(tensor.values)
        if left < 0 or len(taken) == _MAX_COLUMNS:
            raise too_many(tensor.name)
        taken.append(tensor)
    return taken


def make_request(
    identity: str,
    tensors: Sequence[Tensor],
    outputs: Mapping[str, bool | None],
    parameters: Mapping[str, object],
    *,
    binary: bool = False,
) -> InferRequest:
    """Check what holds for every transport: names that differ, rows that agree, parameters that are known."""
    if len(identity) > _MAX_ID:
        raise RequestError(f"the id is longer than {_MAX_ID:,} characters")
    twice = first_twice([tensor.name for tensor in tensors])
    if twice is not None:
        raise RequestError(f"the tensor {twice[:80]!r} is given twice")
    for tensor in tensors:
        if tensor.shape[0] != tensors[0].shape[0]:
            raise RequestError(
                f"the tensor {tensor.name[:80]!r} has {tensor.shape[0]:,} rows, {tensors[0].name[:80]!r} has"
                f" {tensors[0].shape[0]:,}",
                where={"tensor": tensor.name},
            )
    if tensors:
        check_size(tensors[0].shape[0], len(tensors))
    _check_names(parameters, ("explain", "strict", "binary_data_output"), "parameter")
    return InferRequest(
        id=identity,
        tensors=tensors,
        outputs=outputs,
        explain=bool(_flag(parameters, "explain")),
        strict=_flag(parameters, "strict"),
        binary=binary or bool(_flag(parameters, "binary_data_output")),
    )


def asked_outputs(asked: Sequence[tuple[str, Mapping[str, object]]]) -> dict[str, bool | None]:
    """The outputs asked for, from their names and parameters."""
    outputs: dict[str, bool | None] = {}
    for name, parameters in asked:
        if name in outputs:
            raise RequestError(f"the output {name[:80]!r} is asked for twice")
        _check_names(parameters, ("binary_data",), f"parameter of the output {name[:80]!r}")
        outputs[name] = _flag(parameters, "binary_data")
    return outputs


def check_control(what: str, parameters: Mapping[str, object]) -> None:
    """RequestError for a parameter of a load or unload that means something which is not done here."""
    for name in parameters:
        # Nothing here depends on another model.
        if what != "unload" or name != "unload_dependents":
            raise RequestError(
                f"{name[:80]!r} is no parameter of {what} here",
                hint="Models are not uploaded: they are trained, then deployed with holdfast deploy.",
            )
    _flag(parameters, "unload_dependents")


def _flag(parameters: Mapping[str, object], name: str) -> bool | None:
    """A parameter that is true or false; None where it is not given."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"the parameter {name!r} is true or false, not {value!r:.80}", where={"parameter": name})
    return value


def _tensor(one: _Input, rest: memoryview) -> tuple[Tensor, memoryview]:
    """The tensor, and what is left of the raw bytes after it."""
    _check_names(one.parameters, ("binary_data_size",), f"parameter of the tensor {one.name[:80]!r}")
    where = {"tensor": one.name}
    size = one.parameters.get("binary_data_size")
    if (size is None) == isinstance(one.data, msgspec.UnsetType):
        raise RequestError(f"the tensor {one.name[:80]!r} needs either `data` or `binary_data_size`", where=where)
    if not isinstance(one.data, msgspec.UnsetType):
        return from_json(one.name, one.datatype, one.shape, one.data), rest
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise RequestError(
            f"the tensor {one.name[:80]!r} is said to take {size!r:.40} bytes; {len(rest):,} are there", where=where
        )
    return from_raw(one.name, one.datatype, one.shape, rest[:size]), rest[size:]


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that was there before; None where all differ."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_size(rows: int, columns: int) -> None:
    """LimitError for more rows than `MAX_ROWS`, more values than `MAX_VALUES`, or too many columns."""
    if rows > MAX_ROWS or columns > _MAX_COLUMNS or rows * columns > MAX_VALUES:
        raise LimitError(
            f"{rows:,} rows of {columns:,} values are too many for one request",
            where={"limit_rows": MAX_ROWS, "limit_columns": _MAX_COLUMNS, "limit_values": MAX_VALUES},
            hint="Send fewer rows a request, or predict files.",
        )


def _check_names(given: Mapping[str, object], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise RequestError(f"{name[:80]!r} is no {what} here", hint=nearest(name[:80], known))
