"""The primitives: what they take, what they give, their unit, and how they read in words."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from holdfast.core.schema import DType
from holdfast.errors import ConfigError, nearest

__all__ = ["DEFAULT_PRIMITIVES", "PRIMITIVES", "Input", "Primitive", "Role", "find_primitive"]


class Input(StrEnum):
    """What a primitive takes: numbers, truth values, categories, any of these, text (or categories), or times."""

    NUMBER = "number"
    TRUTH = "truth"
    CATEGORY = "category"
    ANY = "any"
    TEXT = "text"
    TIME = "time"

    def takes(self, dtype: DType) -> bool:
        """Whether values of that type fit."""
        return dtype in _FITTING[self]


_NUMBERS = (DType.INT, DType.FLOAT, DType.BOOL)
_FITTING = {
    Input.NUMBER: _NUMBERS,
    Input.TRUTH: (DType.BOOL,),
    Input.CATEGORY: (DType.CATEGORY,),
    Input.ANY: (*_NUMBERS, DType.CATEGORY),
    Input.TEXT: (DType.CATEGORY, DType.TEXT),
    Input.TIME: (DType.TIME,),
}


class Role(StrEnum):
    """What a primitive does.

    AGGREGATE: child rows → one value. TRANSFORM: values of one row → one value of it. WITHIN: the value of a row among
    the rows of the same parent up to and with it, in order of time.
    """

    AGGREGATE = "aggregate"
    TRANSFORM = "transform"
    WITHIN = "within"


@dataclass(frozen=True)
class Primitive:
    """A primitive; `PRIMITIVES` are those that Holdfast brings, `compute` makes one of a user's own.

    `takes`: one entry an input, none for the rows themselves. `gives` None: the type of the input. `words` with {0},
    {1} for the inputs in words ({0:the} with an article, {0:clause} as a statement), {rows} for the rows, {by} for the
    link of a WITHIN, and {name} for each of `parameters` (name → default; None: must be given). `unit` "input": that
    of the first input. `windowed`: whether synthesis by default also asks it per window. `timed`: it needs rows with
    a time. `empty`: the value where no row is in range: 0 for COUNT and SUM, else null.

    `compute` (a user's own) takes one float64 array an input, oldest row first, without rows where an input is null,
    then the parameters, and returns a number: for an AGGREGATE; a TRANSFORM gets one float an input instead.
    `compiled`: it is compiled with Numba. `code` is the SHA-256 of its source; it is part of every definition that uses
    it.
    """

    name: str
    takes: tuple[Input, ...]
    gives: DType | None
    words: str
    unit: str = "input"
    role: Role = Role.AGGREGATE
    windowed: bool = True
    timed: bool = False
    empty: float | None = None
    parameters: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    compute: Callable[..., Any] | None = None
    compiled: bool = False
    code: str = ""

    @property
    def aggregates(self) -> bool:
        """Whether it makes one value of many rows."""
        return self.role is Role.AGGREGATE


_N, _C, _T, _X, _D = (Input.NUMBER,), (Input.CATEGORY,), (Input.TRUTH,), (Input.ANY,), (Input.TIME,)
_B, _F = DType.BOOL, DType.FLOAT
_TRANSFORM, _WITHIN = Role.TRANSFORM, Role.WITHIN
_AGGREGATES = (
    Primitive("COUNT", (), DType.INT, "number of {rows}", unit="", empty=0.0),
    Primitive("SUM", _N, _F, "sum of {0:the}", empty=0.0),
    Primitive("MEAN", _N, _F, "mean of {0:the}"),
    Primitive("STD", _N, _F, "standard deviation (n - 1) of {0:the}"),
    Primitive("MIN", _N, _F, "smallest {0}"),
    Primitive("MAX", _N, _F, "largest {0}"),
    Primitive("FIRST", _X, None, "first {0}", windowed=False),
    Primitive("LAST", _X, None, "latest {0}", windowed=False),
    Primitive("TREND", _N, _F, "least-squares slope per day of {0:the}", unit="1/day", windowed=False, timed=True),
    Primitive("NUM_UNIQUE", _C, DType.INT, "number of different values of {0:the}", unit=""),
    Primitive("MODE", _C, DType.CATEGORY, "most frequent {0}", unit=""),
    Primitive("PERCENT_TRUE", _T, _F, "share of {rows} for which {0:clause}", unit=""),
    Primitive("TIME_SINCE_LAST", (), _F, "time since the latest of {rows}", "s", windowed=False, timed=True),
    Primitive("TIME_SINCE_FIRST", (), _F, "time since the first of {rows}", "s", windowed=False, timed=True),
)
_FURTHER = (
    Primitive("AVG_TIME_BETWEEN", (), _F, "mean time between {rows}", "s", timed=True),
    Primitive("NUM_VALUES", _N, DType.INT, "number of {rows} for which {0:the} is not null", unit="", empty=0.0),
    Primitive("NUM_TRUE", _T, DType.INT, "number of {rows} for which {0:clause}", unit="", empty=0.0),
    Primitive("ANY", _T, _B, "whether {0:clause} for any of the {rows}", unit=""),
    Primitive("ALL", _T, _B, "whether {0:clause} for all of the {rows}", unit=""),
    Primitive("VARIANCE", _N, _F, "variance (n - 1) of {0:the}", unit=""),
    Primitive("SKEW", _N, _F, "skewness of {0:the}", unit=""),
    Primitive("MEDIAN", _N, _F, "median of {0:the}"),
    Primitive("QUANTILE", _N, _F, "{q} quantile of {0:the}", parameters={"q": 0.9}),
    Primitive("ENTROPY", _C, _F, "entropy of {0:the}", unit=""),
    Primitive(
        "N_MOST_COMMON", _C, DType.CATEGORY, "number {n} among the most frequent values of {0:the}", unit="",
        parameters={"n": 2},
    ),
)  # fmt: skip
_CALENDAR = (
    Primitive("YEAR", _D, DType.INT, "year of {0:the}", "", _TRANSFORM),
    Primitive("MONTH", _D, DType.INT, "month (1-12) of {0:the}", "", _TRANSFORM),
    Primitive("DAY", _D, DType.INT, "day of the month of {0:the}", "", _TRANSFORM),
    Primitive("WEEKDAY", _D, DType.INT, "day of the week (0 = Monday) of {0:the}", "", _TRANSFORM),
    Primitive("HOUR", _D, DType.INT, "hour of {0:the}", "", _TRANSFORM),
    Primitive("IS_WEEKEND", _D, _B, "whether {0:the} is on a weekend", "", _TRANSFORM),
    Primitive("TIME_SINCE", _D, _F, "time from {0:the} to the cutoff", "s", _TRANSFORM),
)
_TRANSFORMS = (
    Primitive("QUARTER", _D, DType.INT, "quarter (1-4) of {0:the}", "", _TRANSFORM),
    Primitive("WEEK", _D, DType.INT, "ISO week of {0:the}", "", _TRANSFORM),
    Primitive("DAY_OF_YEAR", _D, DType.INT, "day of the year of {0:the}", "", _TRANSFORM),
    Primitive("MINUTE", _D, DType.INT, "minute of {0:the}", "", _TRANSFORM),
    Primitive("IS_NULL", _X, _B, "whether {0:the} is null", "", _TRANSFORM),
    Primitive("NOT", _T, _B, "whether it is not so that {0:clause}", "", _TRANSFORM),
    Primitive("ABSOLUTE", _N, _F, "absolute value of {0:the}", role=_TRANSFORM),
    Primitive("NEGATE", _N, _F, "negative of {0:the}", role=_TRANSFORM),
    Primitive("SQUARE", _N, _F, "square of {0:the}", "", _TRANSFORM),
    Primitive("SQUARE_ROOT", _N, _F, "square root of {0:the} (null below 0)", "", _TRANSFORM),
    Primitive("NATURAL_LOGARITHM", _N, _F, "natural logarithm of {0:the} (null at and below 0)", "", _TRANSFORM),
    Primitive("NUM_CHARACTERS", (Input.TEXT,), DType.INT, "number of characters of {0:the}", "", _TRANSFORM),
    Primitive("NUM_WORDS", (Input.TEXT,), DType.INT, "number of words of {0:the}", "", _TRANSFORM),
    Primitive("ABOVE", _N, _B, "whether {0:the} is above {value}", "", _TRANSFORM, parameters={"value": None}),
    Primitive("BELOW", _N, _B, "whether {0:the} is below {value}", "", _TRANSFORM, parameters={"value": None}),
    Primitive("ADD", _N + _N, _F, "{0} plus {1:the}", role=_TRANSFORM),
    Primitive("SUBTRACT", _N + _N, _F, "{0} minus {1:the}", role=_TRANSFORM),
    Primitive("MULTIPLY", _N + _N, _F, "{0} times {1:the}", "", _TRANSFORM),
    Primitive("DIVIDE", _N + _N, _F, "{0} divided by {1:the} (null where that is 0)", "", _TRANSFORM),
    Primitive("GREATER_THAN", _N + _N, _B, "whether {0:the} is greater than {1:the}", "", _TRANSFORM),
    Primitive("EQUAL", _C + _C, _B, "whether {0:the} equals {1:the}", "", _TRANSFORM),
    Primitive("AND", _T + _T, _B, "whether {0:clause} and {1:clause}", "", _TRANSFORM),
    Primitive("OR", _T + _T, _B, "whether {0:clause} or {1:clause}", "", _TRANSFORM),
    Primitive(
        "LAG",
        _N,
        _F,
        "{0} {periods} rows earlier with the same {by}",
        role=_WITHIN,
        timed=True,
        parameters={"periods": 1},
    ),
    Primitive("DIFF", _N, _F, "change of {0:the} since the row before with the same {by}", role=_WITHIN, timed=True),
    Primitive("CUM_SUM", _N, _F, "running sum of {0:the} over the rows with the same {by}", role=_WITHIN, timed=True),
    Primitive("CUM_COUNT", (), DType.INT, "running number of rows with the same {by}", "", _WITHIN, timed=True),
    Primitive("CUM_MEAN", _N, _F, "running mean of {0:the} over the rows with the same {by}", role=_WITHIN, timed=True),
    Primitive("CUM_MIN", _N, _F, "smallest {0} so far with the same {by}", role=_WITHIN, timed=True),
    Primitive("CUM_MAX", _N, _F, "largest {0} so far with the same {by}", role=_WITHIN, timed=True),
    Primitive(
        "PERCENTILE", _N, _F, "percentile of {0:the} among the rows so far with the same {by}", "", _WITHIN, timed=True
    ),
    Primitive("TIME_SINCE_PREVIOUS", (), _F, "time since the row before with the same {by}", "s", _WITHIN, timed=True),
)
PRIMITIVES: Mapping[str, Primitive] = MappingProxyType(
    {primitive.name: primitive for primitive in (*_AGGREGATES, *_FURTHER, *_CALENDAR, *_TRANSFORMS)}
)
"""All primitives that Holdfast brings, by name, in the order in which synthesis asks them."""
DEFAULT_PRIMITIVES: tuple[str, ...] = tuple(primitive.name for primitive in (*_AGGREGATES, *_CALENDAR))
"""What `primitives: default` means."""


def find_primitive(name: str, own: Iterable[Primitive] = ()) -> Primitive:
    """The primitive of that name, of Holdfast or of the user's `own`. ConfigError with the nearest name."""
    known = {**PRIMITIVES, **{primitive.name: primitive for primitive in own}}
    if name not in known:
        raise ConfigError(f"there is no primitive {name!r}", where={"primitive": name}, hint=nearest(name, known))
    return known[name]
