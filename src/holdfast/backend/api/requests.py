"""The JSON of predictions, as every way in reads it: HTTP, topics, serverless functions.

Imports nothing heavy: a cold start pays for all of it.
"""

from typing import Any

import msgspec

from holdfast.errors import LimitError, RequestError, nearest

__all__ = ["MAX_ROWS", "EntityQuestion", "PredictRequest", "RowsQuestion", "decode_request"]


MAX_ROWS = 10_000
"""Rows of one request: about what the prediction log takes of a worker at once, and some 20 MB of answer."""


# gc=False: JSON has no cycles, and the collector, looking at a million of them again and again, took ten times as long.
class EntityQuestion(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One entity asked by its id."""

    id: str | int
    cutoff: str | None = None
    context: dict[str, Any] = {}


class RowsQuestion(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One entity asked of the rows that come with the request."""

    entity: str | int
    cutoff: str | None = None
    context: dict[str, Any] = {}


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a prediction: exactly one of `features`, `rows` (with `questions`) and `entities`."""

    features: list[dict[str, Any]] | dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    rows: dict[str, list[dict[str, Any]]] | msgspec.UnsetType = msgspec.UNSET
    questions: list[RowsQuestion] | RowsQuestion | msgspec.UnsetType = msgspec.UNSET
    entities: list[EntityQuestion] | EntityQuestion | msgspec.UnsetType = msgspec.UNSET
    merge: bool = False
    explain: bool = False
    strict: bool | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(PredictRequest)


def decode_request(body: bytes) -> PredictRequest:
    """The request in a body. RequestError says what is malformed and where: line and column, or the JSON path;
    LimitError that more than `MAX_ROWS` predictions are asked for.
    """
    if not body.strip():
        raise RequestError(
            "the body is empty", hint='Send JSON such as {"features": [{...}]}, {"entities": [...]} or {"rows": {...}}.'
        )
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except msgspec.DecodeError as error:
        raise _malformed(str(error), body) from error
    except UnicodeDecodeError as error:
        raise RequestError("the body is not UTF-8", hint="Encode the JSON as UTF-8.") from error
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply", hint="Features and rows are flat objects.") from error
    given = [name for name in ("features", "rows", "entities") if getattr(request, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise RequestError(
            f"give exactly one of `features`, `rows` and `entities`, not {', '.join(given) or 'none of them'}"
        )
    if (request.questions is msgspec.UNSET) == (given == ["rows"]):
        raise RequestError("`rows` needs `questions` (which entity, at which cutoff), and only `rows` takes them")
    if request.merge and given != ["rows"]:
        raise RequestError("`merge` goes with `rows`", where={"field": "merge"})
    for name in ("features", "questions", "entities"):
        asked = getattr(request, name)
        if isinstance(asked, list) and len(asked) > MAX_ROWS:
            raise LimitError(
                f"{len(asked):,} {name} are too many for one request",
                where={"field": name, "limit_rows": MAX_ROWS},
                hint="Send fewer a request, or predict files.",
            )
    return request


def _invalid(message: str) -> RequestError:
    what, _, path = message.partition(" - at ")
    where = {"path": path.strip("`")} if path else None
    hint = None
    if "unknown field" in what:
        fields = PredictRequest.__struct_fields__ if not path else RowsQuestion.__struct_fields__
        if path.startswith("`$.entities"):
            fields = EntityQuestion.__struct_fields__
        hint = nearest(what.split("`")[1], fields)
    return RequestError(what[:1].lower() + what[1:], where=where, hint=hint)


def _malformed(message: str, body: bytes) -> RequestError:
    what, _, tail = message.partition(" (byte ")
    position = int(tail.rstrip(")")) if tail else len(body)
    what = what.removeprefix("JSON is malformed: ")
    before = body[:position]
    where = {
        "line": before.count(b"\n") + 1,
        "column": len(before) - (before.rfind(b"\n") + 1) + 1,
        "byte": position,
    }
    rest = body[max(0, position - 1) : position + 9]
    if any(word in rest for word in (b"NaN", b"Infinity", b"nan", b"inf")):
        return RequestError("NaN and Infinity are not JSON", where=where, hint="Send null where a value is not known.")
    return RequestError(f"not valid JSON: {what[:1].lower()}{what[1:]}", where=where)
