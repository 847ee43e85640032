"""JSON bodies of requests, and what is wrong with them in words."""

from typing import TypeVar

import msgspec

from holdfast.errors import RequestError

__all__ = ["invalid", "malformed", "read_json"]

T = TypeVar("T")


def read_json(decoder: "msgspec.json.Decoder[T]", body: bytes | memoryview) -> T:
    """The object in a body. RequestError says what is malformed and where: line and column, or the JSON path."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except msgspec.DecodeError as error:
        raise malformed(str(error), bytes(body)) from error
    except UnicodeDecodeError as error:
        raise RequestError("the body is not UTF-8", hint="Encode the JSON as UTF-8.") from error
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply") from error


def invalid(error: msgspec.ValidationError) -> RequestError:
    """JSON of another form than was asked for."""
    what, _, path = str(error).partition(" - at ")
    return RequestError(what[:1].lower() + what[1:], where={"path": path.strip("`")} if path else None)


def malformed(message: str, body: bytes) -> RequestError:
    """Bytes that are no JSON; `message` is msgspec's."""
    what, _, tail = message.partition(" (byte ")
    place = int(tail.rstrip(")")) if tail else len(body)
    before = body[:place]
    where = {"line": before.count(b"\n") + 1, "column": place - before.rfind(b"\n"), "byte": place}
    what = what.removeprefix("JSON is malformed: ")
    return RequestError(f"not valid JSON: {what[:1].lower()}{what[1:]}", where=where)
