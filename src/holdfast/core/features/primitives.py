"""The primitives: what they take, what they give, their unit, and how they read in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from holdfast.core.schema import DType

__all__ = ["DEFAULT_PRIMITIVES", "PRIMITIVES", "Input", "Primitive"]


class Input(StrEnum):
    """What a primitive takes: nothing (the rows themselves), numbers, truth values, categories or times."""

    ROWS = "rows"
    NUMBER = "number"
    TRUTH = "truth"
    CATEGORY = "category"
    ANY = "any"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Primitive:
    """A primitive. `gives` None: the type of the input. `windowed`: whether synthesis also asks it per window.

    `empty`: the value where no row (or no non-null value) is in range: 0 for COUNT and SUM, else null.
    """

    name: str
    takes: Input
    gives: DType | None
    words: str
    unit: str = "input"
    windowed: bool = True
    conditional: bool = False
    aggregates: bool = True
    empty: float | None = None


_ALL = (
    Primitive("COUNT", Input.ROWS, DType.INT, "number of {0}", unit="", conditional=True, empty=0.0),
    Primitive("SUM", Input.NUMBER, DType.FLOAT, "sum of {0}", empty=0.0),
    Primitive("MEAN", Input.NUMBER, DType.FLOAT, "mean of {0}"),
    Primitive("STD", Input.NUMBER, DType.FLOAT, "standard deviation (n - 1) of {0}"),
    Primitive("MIN", Input.NUMBER, DType.FLOAT, "smallest {0}"),
    Primitive("MAX", Input.NUMBER, DType.FLOAT, "largest {0}"),
    Primitive("FIRST", Input.ANY, None, "first {0}", windowed=False),
    Primitive("LAST", Input.ANY, None, "latest {0}", windowed=False),
    Primitive("TREND", Input.NUMBER, DType.FLOAT, "least-squares slope per day of {0}", unit="1/day", windowed=False),
    Primitive("NUM_UNIQUE", Input.CATEGORY, DType.INT, "number of different {0}", unit=""),
    Primitive("MODE", Input.CATEGORY, DType.CATEGORY, "most frequent {0}", unit=""),
    Primitive("PERCENT_TRUE", Input.TRUTH, DType.FLOAT, "share of true {0}", unit=""),
    Primitive("TIME_SINCE_LAST", Input.ROWS, DType.FLOAT, "time since the latest of {0}", "s", False, True),
    Primitive("TIME_SINCE_FIRST", Input.ROWS, DType.FLOAT, "time since the first of {0}", "s", False),
    Primitive("YEAR", Input.TIME, DType.INT, "year of {0}", "", aggregates=False),
    Primitive("MONTH", Input.TIME, DType.INT, "month (1-12) of {0}", "", aggregates=False),
    Primitive("DAY", Input.TIME, DType.INT, "day of the month of {0}", "", aggregates=False),
    Primitive("WEEKDAY", Input.TIME, DType.INT, "day of the week (0 = Monday) of {0}", "", aggregates=False),
    Primitive("HOUR", Input.TIME, DType.INT, "hour of {0}", "", aggregates=False),
    Primitive("IS_WEEKEND", Input.TIME, DType.BOOL, "whether {0} is on a weekend", "", aggregates=False),
    Primitive("TIME_SINCE", Input.TIME, DType.FLOAT, "time from {0} to the cutoff", "s", aggregates=False),
)
PRIMITIVES: Mapping[str, Primitive] = MappingProxyType({primitive.name: primitive for primitive in _ALL})
"""All primitives by name, in the order in which synthesis asks them."""
DEFAULT_PRIMITIVES: tuple[str, ...] = tuple(PRIMITIVES)
"""What `primitives: default` means."""
