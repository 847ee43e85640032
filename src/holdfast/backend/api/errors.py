"""The one table from error codes to HTTP statuses, and problem documents (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from holdfast.errors import HoldfastError

__all__ = ["PROBLEM_TYPE", "STATUS", "http_problem", "internal_problem", "problem"]

PROBLEM_TYPE = "application/problem+json"
STATUS: Mapping[str, int] = {
    "request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "locked": 409,
    "limit": 413,
    "input": 422,
    "file": 422,
    "contract": 422,
    "alignment": 422,
    "config": 500,
    "integrity": 500,
    "untrusted": 500,
    "error": 500,
    "missing_extra": 501,
    "unavailable": 503,
}
"""Status of each `HoldfastError.code`; a code that is not here is a 500."""
_LISTED = 1_000
"""Entries of a list that an answer names; of the others it says how many there are."""
_TITLES = {
    "request": "The request is malformed",
    "unauthenticated": "Who asks is not known",
    "forbidden": "Who asks may not do this",
    "not_found": "There is no such thing",
    "conflict": "The state of things forbids it",
    "locked": "Somebody else holds it",
    "limit": "A limit was reached",
    "input": "The input cannot be used",
    "file": "The file cannot be used",
    "contract": "The data breaks the contract",
    "alignment": "The values do not fit the feature definitions",
    "integrity": "Stored bytes are not what was recorded",
    "untrusted": "Nobody vouched for this pickle",
    "config": "The project file is wrong",
    "missing_extra": "An optional package is not installed",
    "unavailable": "Not available now",
    "method": "The method is not allowed here",
    "internal": "Internal error",
}


def problem(error: HoldfastError) -> tuple[int, dict[str, Any]]:
    """Status and problem document of an error: title, status, code, detail, where, hint."""
    return http_problem(STATUS.get(error.code, 500), error.code, error.message, where=error.where, hint=error.hint)


def http_problem(
    status: int, code: str, detail: str, *, where: Mapping[str, object] | None = None, hint: str | None = None
) -> tuple[int, dict[str, Any]]:
    """A problem document of that status."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(code, "Error"),
        "status": status,
        "code": code,
        "detail": detail,
    }
    if where:
        body["where"] = {name: _told(value) for name, value in where.items()}
    if hint:
        body["hint"] = hint
    return status, body


def _told(value: object) -> int | float | str:
    if isinstance(value, int | float):
        return value
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{value[:_LISTED]} and {len(value) - _LISTED:,} more"
    return str(value)


def internal_problem() -> tuple[int, dict[str, Any]]:
    """What a caller sees of an unexpected error: nothing of its inside, which is in the log."""
    return http_problem(500, "internal", "something went wrong inside; the server's log has the details")
