"""Tensors of the Open Inference Protocol: a name, a type, a shape and values, from JSON or raw bytes and back.

Whatever bytes come in, they give a tensor or a RequestError (LimitError where it is too large) that names the tensor:
sizes are compared before anything is read or made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from holdfast.backend.api.open_inference.bodies import read_json
from holdfast.errors import LimitError, RequestError, nearest

__all__ = ["MAX_VALUES", "Parameter", "Scalar", "Tensor", "from_json", "from_raw", "from_values", "to_raw", "too_many"]

Scalar = bool | int | float | str | None
"""One value of a tensor; None is a missing one: `null` in JSON, NaN in a tensor of floats."""
Parameter = bool | int | float | str
"""The value of a parameter of a request, tensor or answer."""

MAX_VALUES = 1_000_000
"""Values that the tensors of one request may hold together: they become objects, many times the size they had."""
_MAX_RANK = 2
_LENGTH = 4
_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_WHOLE = {"UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
          "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}  # fmt: skip
_DTYPES = {"BOOL": "|u1", **_WHOLE, **_FLOATS, "BF16": "<u2"}
_TYPES = (*_DTYPES, "BYTES")
_flat: "msgspec.json.Decoder[list[Scalar]]" = msgspec.json.Decoder(list[Scalar])
_nested: "msgspec.json.Decoder[list[list[Scalar]]]" = msgspec.json.Decoder(list[list[Scalar]])


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of one of the protocol's types; `values` are in row-major order, BYTES as text."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Scalar]
    parameters: dict[str, Parameter] = field(default_factory=dict)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    """The tensor in little-endian bytes; each element of BYTES is its length (4 bytes) and UTF-8 text."""
    count = _count(name, datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _texts(name, raw, count))
    dtype = np.dtype(_DTYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _wrong(name, f"{count:,} values of {datatype} take {count * dtype.itemsize:,} bytes, not {len(raw):,}")
    array = np.frombuffer(raw, dtype, count)
    if datatype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    if datatype == "BOOL":
        if array.size and array.max() > 1:
            raise _wrong(name, "a BOOL is a byte 0 or 1", int(np.argmax(array > 1)))
        array = array.astype(bool)
    return Tensor(name, datatype, tuple(shape), _known(array))


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Tensor:
    """The tensor in JSON, flat or nested as its shape says."""
    count = _count(name, datatype, shape)
    raw = memoryview(data)
    try:
        if len(shape) == _MAX_RANK and bytes(raw[1:64]).lstrip()[:1] == b"[":
            # Many empty lists would take twenty times the memory of the body.
            if datatype != "BYTES" and bytes(raw).count(b"[") != shape[0] + 1:
                raise _wrong(name, f"its shape says {shape[0]} rows")
            rows = read_json(_nested, raw)
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                raise _wrong(name, f"the data are not {shape[0]} rows of {shape[1]}")
            values = [value for row in rows for value in row]
        else:
            values = read_json(_flat, raw)
    except RequestError as error:
        if "tensor" in error.where:
            raise
        # Where it is counts from the beginning of the data.
        raise _wrong(name, f"the data are not a list of {datatype}: {error.message}") from error
    if len(values) != count:
        raise _wrong(name, f"the shape says {count:,} values, the data are {len(values):,}")
    return from_values(name, datatype, shape, values)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """The tensor of such values, each of which must be one of its type; floats become as exact as the type is."""
    if len(values) != _count(name, datatype, shape):
        raise _wrong(name, f"the shape says {math.prod(shape):,} values, there are {len(values):,}")
    if datatype == "BF16":
        raise _wrong(name, "BF16 is taken as raw bytes only")
    kinds: tuple[type, ...] = {"BYTES": (str,), "BOOL": (bool, int)}.get(datatype, (int,))
    allowed = {*kinds, *((float,) if datatype in _FLOATS else ()), type(None)}
    if not set(map(type, values)) <= allowed:
        place = next(number for number, value in enumerate(values) if type(value) not in allowed)
        raise _wrong(name, f"{values[place]!r:.80} is no {datatype}", place)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), values)
    if datatype in _WHOLE or datatype == "BOOL":
        low, high = (0, 1) if datatype == "BOOL" else _range(datatype)
        for place, value in enumerate(values):
            if value is not None and not low <= value <= high:
                raise _wrong(name, f"{value!r:.80} is no {datatype}", place)
        found = values if datatype != "BOOL" else [None if value is None else bool(value) for value in values]
        return Tensor(name, datatype, tuple(shape), found)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, np.float64).astype(_FLOATS[datatype])
    except OverflowError as error:
        raise _wrong(name, f"a value is too large for {datatype}") from error
    return Tensor(name, datatype, tuple(shape), _known(array))


def to_raw(tensor: Tensor) -> bytes:
    """The values as little-endian bytes."""
    if tensor.datatype == "BYTES":
        texts = [str(value).encode() for value in tensor.values]
        return b"".join(part for text in texts for part in (len(text).to_bytes(_LENGTH, "little"), text))
    return np.array(tensor.values, _DTYPES[tensor.datatype]).tobytes()


def _count(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many values the shape says."""
    if datatype not in _TYPES:
        raise RequestError(
            f"there is no type {datatype[:80]!r}", where={"tensor": name}, hint=nearest(datatype[:80], _TYPES)
        )
    if not 1 <= len(shape) <= _MAX_RANK or min(shape) < 0:
        raise _wrong(name, f"a shape is [rows] or [rows, columns], not {str(list(shape))[:80]}")
    count = math.prod(shape)
    if max(count, *shape) > MAX_VALUES:
        raise too_many(name)
    return count


def too_many(name: str) -> LimitError:
    """The error of a request whose tensors hold more than `MAX_VALUES`."""
    return LimitError(
        f"the tensors hold more than {MAX_VALUES:,} values",
        where={"tensor": name},
        hint="Send fewer rows a request, or predict files.",
    )


def _known(array: Any) -> list[Scalar]:
    """The values as Python's own, None for NaN."""
    values: list[Scalar] = array.tolist()
    if array.dtype.kind == "f" and np.isnan(array).any():
        return [None if value != value else value for value in values]  # noqa: PLR0124 - NaN is what differs from itself
    return values


def _texts(name: str, raw: memoryview, count: int) -> list[str]:
    if len(raw) < count * _LENGTH:
        raise _wrong(name, f"{count:,} texts take {count * _LENGTH:,} bytes at least, not {len(raw):,}")
    texts, place, size = [], 0, len(raw)
    for number in range(count):
        begin = place + _LENGTH
        place = begin + int.from_bytes(raw[place:begin], "little")
        if begin > size or place > size:
            raise _wrong(name, "the bytes end within a text", number)
        try:
            texts.append(str(raw[begin:place], "utf-8"))
        except UnicodeDecodeError as error:
            raise _wrong(name, "the text is not UTF-8", number) from error
    if place != size:
        raise _wrong(name, f"{size - place:,} bytes are left over")
    return texts


def _range(datatype: str) -> tuple[int, int]:
    info = np.iinfo(_WHOLE[datatype])
    return int(info.min), int(info.max)


def _wrong(name: str, what: str, place: int | None = None) -> RequestError:
    where: dict[str, object] = {"tensor": name}
    if place is not None:
        where["value"] = place
    return RequestError(f"tensor {name[:80]!r}: {what}", where=where)
