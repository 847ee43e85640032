"""MLflow's scoring protocol: /invocations in its JSON forms and CSV, /ping, /health and /version.

One server of MLflow has one model. Here the model is the one target that is deployed, else `params.target` or the path
/v1/targets/{target}/invocations names it.
"""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast import __version__
from holdfast.backend.api.errors import STATUS
from holdfast.backend.api.open_inference.bodies import invalid, read_json
from holdfast.backend.api.open_inference.http import Answered, Asked, plain
from holdfast.backend.api.open_inference.models import reason
from holdfast.backend.api.open_inference.requests import check_size, first_twice
from holdfast.backend.api.requests import MAX_ROWS
from holdfast.backend.serving.predictor import Answer, Predictor
from holdfast.backend.serving.questions import from_text
from holdfast.backend.serving.service import Service
from holdfast.core.schema import DType
from holdfast.errors import HoldfastError, RequestError

__all__ = ["Invocation", "answer", "failed", "invoke", "read_invocation"]

Scalar = bool | int | float | str | None
Row = dict[str, Scalar]
_TYPES = {"number": DType.FLOAT, "truth": DType.BOOL}
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_ERRORS = {400: "BAD_REQUEST", 404: "RESOURCE_DOES_NOT_EXIST", 413: "BAD_REQUEST", 422: "INVALID_PARAMETER_VALUE",
           500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}  # fmt: skip


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    columns: list[str]
    data: list[list[Scalar]]
    index: list[Any] = []


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    target: str | None = None
    explain: bool = False
    strict: bool | None = None


class Invocation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an invocation: exactly one of its forms; or, when it is CSV, `text`."""

    dataframe_split: _Split | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: list[Row] | msgspec.UnsetType = msgspec.UNSET
    instances: list[Row | list[Scalar]] | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, list[Scalar | list[Scalar]]] | list[Row | list[Scalar]] | msgspec.UnsetType = msgspec.UNSET
    params: _Params | None = None
    signature_name: str | None = None


_INLINE_BYTES = 1 << 14
_decoder = msgspec.json.Decoder(Invocation)


def read_invocation(body: bytes, content_type: str) -> Invocation | str:
    """The invocation of a JSON body, or the text of a CSV. RequestError says what is malformed and where."""
    kind, *rest = [part.strip() for part in content_type.split(";")]
    for part in rest:
        name, _, value = part.partition("=")
        if name.lower() != "charset" or value.strip('"').lower() not in ("utf-8", "utf8"):
            raise RequestError(f"the content type says {part[:80]!r}; only charset=utf-8 is known")
    if kind.lower() == "text/csv":
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RequestError("the body is not UTF-8", where={"byte": error.start}) from error
    if kind.lower() != "application/json":
        raise RequestError(f"the content type is {kind[:80]!r}; use application/json or text/csv")
    asked = _read(body)
    given = [name for name in _FORMS if getattr(asked, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise RequestError(f"give exactly one of {', '.join(_FORMS)}, not {', '.join(given) or 'none of them'}")
    return asked


def _read(body: bytes) -> Invocation:
    try:
        return read_json(_decoder, body)
    except RequestError:
        # MLflow's own client writes what is missing in a data frame as NaN, which is no JSON.
        if b"NaN" not in body:
            raise
        try:
            # Not of the bytes: json would guess at their encoding, and let through what is no UTF-8.
            found = json.loads(body.decode(), parse_constant=_missing)
            if b"\\u" in body:
                json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text, and cannot go back
            return msgspec.convert(found, Invocation)
        except msgspec.ValidationError as error:
            raise invalid(error) from error
        except (ValueError, RecursionError) as error:
            raise RequestError(f"not valid JSON: {error}"[:200]) from error


def _missing(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"{word} is no number that can be used")


def invoke(
    service: Service, asked: Invocation | str, target: str | None, caller: str | None = None, unit: str | None = None
) -> dict[str, Any]:
    """Answer; `target` is the one the path names. `caller`, `unit` and HoldfastError as of `Service.features`."""
    params = (asked.params if isinstance(asked, Invocation) else None) or _Params()
    name = _target(service, target, params.target)
    if name in service.live.unopened:
        service.live.open(name)
    predictor = service.choose(name, unit)
    rows = _csv_rows(predictor, asked) if isinstance(asked, str) else _rows(predictor.encoding.names, asked)
    reply = service.features(
        name, rows, explain=params.explain, strict=params.strict, caller=caller, unit=unit, by=predictor
    )
    return {
        "predictions": [_flat(answer) for answer in reply["predictions"]],
        "target": name,
        "deployment": reply["deployment"],
    }


async def answer(service: Service, asked: Asked, *, ready: bool) -> Answered:
    """Answer a request of one of its paths; probes are told whether the server is `ready`.

    HoldfastError as `failed` takes it.
    """
    parts = asked.parts
    posts = parts[-1] == "invocations"
    if asked.method not in (("POST",) if posts else ("GET", "HEAD")):
        return plain({"error_code": "BAD_REQUEST", "message": f"use {'POST' if posts else 'GET'} here"}, 405)
    if parts[0] == "version":
        return 200, [("content-type", "text/plain")], __version__.encode()
    if not posts:
        return 200 if ready else 503, [("content-type", "text/plain")], b"\n"
    target = parts[2] if len(parts) > 1 else None
    body, kind = await asked.read(), asked.headers.get("content-type") or "application/json"

    def work() -> Answered:
        return plain(invoke(service, read_invocation(body, kind), target, asked.caller, asked.unit))

    if len(body) > _INLINE_BYTES or b"explain" in body or service.live.unopened:
        return await asked.slowly(work)
    return work()


def failed(error: Exception) -> Answered:
    """The answer to a request that failed, as MLflow writes it; of an unexpected error nothing of the inside."""
    if not isinstance(error, HoldfastError):
        message = "something went wrong inside; the server's log has the details"
        return plain({"error_code": "INTERNAL_ERROR", "message": message}, 500)
    status = STATUS.get(error.code, 500)
    return plain({"error_code": _ERRORS.get(status, "BAD_REQUEST"), "message": reason(error)}, status)


def _target(service: Service, path: str | None, params: str | None) -> str:
    if path is not None and params is not None and path != params:
        raise RequestError(f"the path asks for {path!r}, the params for {params!r}")
    name = path if path is not None else params
    if name is not None:
        return name
    known = [*{**service.live.predictors, **dict.fromkeys(service.live.unopened)}]
    if len(known) != 1:
        raise RequestError(
            f"{len(known)} targets are deployed: say which",
            hint='Add "params": {"target": ...}, or post to /v1/targets/{target}/invocations.',
        )
    return known[0]


def _rows(names: Sequence[str], asked: Invocation) -> list[Row]:
    if not isinstance(asked.dataframe_split, msgspec.UnsetType):
        split = asked.dataframe_split
        return _titled(split.columns, split.data, "data")
    if not isinstance(asked.dataframe_records, msgspec.UnsetType):
        return _sized(asked.dataframe_records)
    if not isinstance(asked.instances, msgspec.UnsetType):
        return _listed(names, asked.instances)
    inputs = asked.inputs
    assert not isinstance(inputs, msgspec.UnsetType)
    return _columns(inputs) if isinstance(inputs, dict) else _listed(names, inputs)


def _listed(names: Sequence[str], rows: Sequence[Row | list[Scalar]]) -> list[Row]:
    """Objects, or lists of values in the order of the features."""
    check_size(len(rows), max(map(len, rows), default=0))
    records: list[Row] = []
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            records.append(row)
        elif len(row) == len(names):
            records.append(dict(zip(names, row, strict=True)))
        else:
            raise RequestError(
                f"the row has {len(row):,} values; there are {len(names):,} features", where={"row": number}
            )
    return records


def _columns(columns: Mapping[str, list[Scalar | list[Scalar]]]) -> list[Row]:
    lengths = set(map(len, columns.values()))
    if len(lengths) > 1:
        raise RequestError(f"the columns have {min(lengths):,} to {max(lengths):,} rows")
    check_size(max(lengths, default=0), len(columns))
    found: dict[str, list[Scalar]] = {}
    for name, values in columns.items():
        if any(isinstance(value, list) and len(value) != 1 for value in values):
            raise RequestError(f"column {name[:80]!r} is not [rows] or [rows, 1]", where={"column": name})
        found[name] = [value[0] if isinstance(value, list) else value for value in values]
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]


def _titled(columns: Sequence[str], rows: Sequence[Sequence[Scalar]], what: str) -> list[Row]:
    check_size(len(rows), len(columns))
    twice = first_twice(columns)
    if twice is not None:
        raise RequestError(f"the column {twice[:80]!r} is given twice", where={"column": twice})
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise RequestError(
                f"the row of {what} has {len(row):,} values for {len(columns):,} columns", where={"row": number}
            )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _csv_rows(predictor: Predictor, text: str) -> list[Row]:
    """Rows of a CSV with a header. An empty cell is a missing value; text is read as a number where one is meant."""
    try:
        lines = (row for row in csv.reader(io.StringIO(text), strict=True) if row)
        header = next(lines, [])
        check_size(0, len(header))
        rows = [*itertools.islice(lines, MAX_ROWS)]
        # What is too much is counted, not kept.
        check_size(len(rows) + sum(1 for _ in lines), len(header))
    except csv.Error as error:
        raise RequestError(f"not valid CSV: {error}") from error
    titled = _titled(header, rows, "the CSV")
    kinds = {spec.name: spec.kind for spec in predictor.encoding.specs}
    types = {name: _TYPES.get(kinds.get(predictor.encoding.name_of(name) or "", "")) for name in header}
    for row in titled:
        for name, value in row.items():
            dtype = types[name]
            row[name] = None if value == "" else value if dtype is None else from_text(dtype, value)
    return titled


def _sized(rows: list[Row]) -> list[Row]:
    check_size(len(rows), max(map(len, rows), default=0))
    return rows


def _flat(answer: Answer) -> dict[str, Any]:
    """An answer as a record of a data frame."""
    record: dict[str, Any] = {}
    for label, found in answer["labels"].items():
        if "value" in found:
            record[label] = found["value"]
        elif "probability" in found:
            record[label] = found["probability"]
            record[f"{label}:decision"] = found["decision"]
        else:
            record |= {f"{label}:{name}": share for name, share in found["probabilities"].items()}
            record[f"{label}:decision"] = found["decision"]
    others = {name: answer[name] for name in ("id", "repairs", "explanation") if name in answer}
    for name, value in others.items():
        free = {"id": "prediction_id"}.get(name, name)
        while free in record:
            free = f":{free}"
        record[free] = value
    return record
