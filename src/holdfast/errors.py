"""Every error Holdfast raises on purpose.

HoldfastError
├── ConfigError          the project file or an option is wrong
├── InputError           something that was given cannot be used
│   ├── FileError        a file cannot be read, or is of a kind that is refused
│   ├── ContractError    data breaks the contract so far that the whole import fails
│   ├── AlignmentError   values given for a prediction do not fit the feature definitions
│   └── RequestError     a request is malformed
├── AccessError          who asks may not do this
│   └── UnauthenticatedError  nobody is known by that key, or none was given
├── LimitError           a limit of memory, time or size was reached
├── NotFoundError        no such version, model, deployment, prediction ...
├── ConflictError        the state of things forbids it
│   └── LockedError      somebody else holds it; says who and since when
├── IntegrityError       stored bytes are not what was recorded (corrupt or tampered with)
│   └── UntrustedError   a pickle that nobody vouched for
├── UnavailableError     cannot be answered now; the same request may succeed later
└── MissingExtraError    an optional dependency is absent; names the exact pip command

An error says what is wrong (`message`), where (`where`: file, row, column, feature, key ...) and what to do next
(`hint`). `code` is stable: programs may match on it. Nothing here knows HTTP or does I/O.
"""

from collections.abc import Iterable, Mapping

__all__ = [
    "AccessError",
    "AlignmentError",
    "ConfigError",
    "ConflictError",
    "ContractError",
    "FileError",
    "HoldfastError",
    "InputError",
    "IntegrityError",
    "LimitError",
    "LockedError",
    "MissingExtraError",
    "NotFoundError",
    "RequestError",
    "UnauthenticatedError",
    "UnavailableError",
    "UntrustedError",
    "nearest",
]

_LISTED = 10


class HoldfastError(Exception):
    """Base of all errors raised on purpose."""

    code = "error"

    def __init__(self, message: str, *, where: Mapping[str, object] | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = dict(where or {})
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        place = ", ".join(f"{name} {value}" for name, value in self.where.items())
        return self.message + (f" ({place})" if place else "") + (f". {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (readers run in a child process); the default loses keyword arguments.
        return (_rebuild, (type(self), self.message, self.where, self.hint))

    def to_dict(self) -> dict[str, object]:
        """The error as plain data: `code`, `message`, `where`, `hint`."""
        return {"code": self.code, "message": self.message, "where": self.where, "hint": self.hint}


def nearest(name: str, names: Iterable[object]) -> str:
    """A hint for a name that is none of `names`: the one probably meant, else what there is (the first few)."""
    import difflib

    known = [str(one) for one in names]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not known:
        return "There are none."
    more = f" and {len(known) - _LISTED:,} more" if len(known) > _LISTED else ""
    return f"There are: {', '.join(known[:_LISTED])}{more}."


def _rebuild(kind: type[HoldfastError], message: str, where: dict[str, object], hint: str | None) -> HoldfastError:
    return kind(message, where=where, hint=hint)


class ConfigError(HoldfastError):
    """The project file or an option is wrong."""

    code = "config"


class InputError(HoldfastError):
    """Something that was given cannot be used."""

    code = "input"


class FileError(InputError):
    """A file cannot be read, or is of a kind that is refused."""

    code = "file"


class ContractError(InputError):
    """Data breaks the contract so far that the whole import fails."""

    code = "contract"


class AlignmentError(InputError):
    """Values given for a prediction do not fit the feature definitions."""

    code = "alignment"


class RequestError(InputError):
    """A request is malformed."""

    code = "request"


class AccessError(HoldfastError):
    """Who asks may not do this."""

    code = "forbidden"


class UnauthenticatedError(AccessError):
    """Nobody is known by that key, or none was given. What was given is never repeated."""

    code = "unauthenticated"


class LimitError(HoldfastError):
    """A limit of memory, time or size was reached."""

    code = "limit"


class NotFoundError(HoldfastError):
    """There is no such thing."""

    code = "not_found"


class ConflictError(HoldfastError):
    """The state of things forbids it."""

    code = "conflict"


class LockedError(ConflictError):
    """Somebody else holds it."""

    code = "locked"


class IntegrityError(HoldfastError):
    """Stored bytes are not what was recorded."""

    code = "integrity"


class UntrustedError(IntegrityError):
    """A pickle that nobody vouched for; opening one runs its code."""

    code = "untrusted"


class UnavailableError(HoldfastError):
    """Cannot be answered now; the same request may succeed later."""

    code = "unavailable"


class MissingExtraError(HoldfastError):
    """An optional dependency is absent."""

    code = "missing_extra"
