"""Primitives of a user's own: one small class each, turned into a `Primitive`."""

import hashlib
import inspect
import re
import string
from collections.abc import Mapping
from typing import Any, ClassVar

from holdfast.core.features.primitives import PRIMITIVES, Input, Primitive, Role
from holdfast.core.schema import DType
from holdfast.errors import ConfigError

__all__ = ["Aggregation", "Transform", "own_primitive", "own_primitives"]

_GIVES = {"float": DType.FLOAT, "int": DType.INT, "bool": DType.BOOL}
_TAKES = {"number": Input.NUMBER, "truth": Input.TRUTH}
_MOST_INPUTS = 3


class _Own:
    """What a user says of a primitive.

    `name`, as in formulas: capitals, digits and `_`. `takes`: `number` or `truth` (0 or 1), one an input, up to three.
    `gives`: `float`, `int` or `bool`. `words` describes it, with {0}, {1} for its inputs; `unit` "input" is that of the
    first input. `parameters`: name → default (None: must be given). `compiled`: with Numba.

    `compute` is a plain function without `self`: the inputs, then the parameters in their order. It returns a number,
    or None (compiled: nan) for no value. It depends on its arguments alone, and so does not see what it calls in other
    modules change: the hash of a primitive is that of the text of its class.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("number",)
    gives: ClassVar[str] = "float"
    words: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, float | None]] = {}
    compiled: ClassVar[bool] = False


class Aggregation(_Own):
    """A primitive of child rows: `compute` gets a float64 array an input, oldest row first, no nulls, never empty.

    `windowed`: whether synthesis also asks it per window. `empty`: the value where no row is in range.
    """

    windowed: ClassVar[bool] = True
    empty: ClassVar[float | None] = None


class Transform(_Own):
    """A primitive of one row: `compute` gets a float an input; where one is null, so is the result."""


def own_primitive(kind: type[Aggregation] | type[Transform]) -> Primitive:
    """The primitive that a user's class describes. ConfigError says what of it is wrong."""
    where = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    try:
        return _made(kind)
    except ConfigError as error:
        raise ConfigError(error.message, where={**where, **error.where}, hint=error.hint) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"it is no primitive: {error}", where=where, hint="docs/manual/features.md shows a whole one."
        ) from error


def own_primitives(module: Mapping[str, Any]) -> tuple[Primitive, ...]:
    """All primitives that the names of a module hold and that were written in it, in their order."""
    kinds = [
        value for value in module.values()
        if isinstance(value, type) and issubclass(value, Aggregation | Transform)
        and value.__module__ == module.get("__name__") and "name" in vars(value)
    ]  # fmt: skip
    return tuple(own_primitive(kind) for kind in dict.fromkeys(kinds))


def _made(kind: type[Aggregation] | type[Transform]) -> Primitive:
    name = kind.name
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise ConfigError(f"{name!r} is no name of a primitive: it is of capitals, digits and _, as MY_MEAN")
    if name in PRIMITIVES:
        raise ConfigError(f"{name!r} is a primitive of Holdfast already", hint="Give yours another name.")
    takes = tuple(kind.takes)
    if not 1 <= len(takes) <= _MOST_INPUTS or not set(takes) <= set(_TAKES):
        raise ConfigError(f"{name} takes {takes!r}", hint=f"It takes one to three of: {', '.join(_TAKES)}.")
    if kind.gives not in _GIVES:
        raise ConfigError(f"{name} gives {kind.gives!r}", hint=f"It gives one of: {', '.join(_GIVES)}.")
    compute = inspect.getattr_static(kind, "compute")
    compute = compute.__func__ if isinstance(compute, staticmethod) else compute
    wanted = [*(f"input {place + 1}" for place in range(len(takes))), *kind.parameters]
    if len(inspect.signature(compute).parameters) != len(wanted):
        raise ConfigError(
            f"compute of {name} takes {len(inspect.signature(compute).parameters)} arguments, not {len(wanted)}",
            hint=f"They are: {', '.join(wanted)}; there is no self.",
        )
    aggregates = issubclass(kind, Aggregation)
    return Primitive(
        name=name, takes=tuple(_TAKES[one] for one in takes), gives=_GIVES[kind.gives], words=_words(kind, len(takes)),
        unit=kind.unit, role=Role.AGGREGATE if aggregates else Role.TRANSFORM,
        windowed=kind.windowed if issubclass(kind, Aggregation) else False,
        empty=kind.empty if issubclass(kind, Aggregation) else None,
        parameters=dict(kind.parameters), compute=compute, compiled=kind.compiled, code=_code(kind),
    )  # fmt: skip


def _words(kind: type[Aggregation] | type[Transform], inputs: int) -> str:
    places = [str(place) for place in range(inputs)]
    words = kind.words or f"{kind.name} of {' and '.join('{' + place + '}' for place in places)}"
    for _, field, _, _ in string.Formatter().parse(words):
        if field is not None and field not in (
            *places,
            *kind.parameters,
            *(["rows"] if issubclass(kind, Aggregation) else []),
        ):
            raise ConfigError(f"words of {kind.name} name {{{field}}}, which it does not have")
    return words


def _code(kind: type) -> str:
    """SHA-256 of the text of the class."""
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError) as error:
        raise ConfigError(
            "its source cannot be read", hint="Write it in a file, so that a change of it can be noticed."
        ) from error
    return hashlib.sha256(inspect.cleandoc("\n" + text).encode()).hexdigest()
