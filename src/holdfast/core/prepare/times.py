"""Times in text: which format a column has, and wall-clock times as instants.

A format is `iso`, one of the names in `FORMATS`, or any strptime pattern that the user declares. Every named format may
be followed by a time of day and a UTC offset. Day/month order is decided over the whole column, never value by value.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from holdfast.core.timeline import SECOND, ZoneOffsets, instant

__all__ = ["FORMATS", "Kind", "choose_format", "localize", "parser"]


class Kind(IntEnum):
    """What a text turned out to be."""

    BAD = 0
    WALL = 1
    DAY = 2
    INSTANT = 3


_Y, _M, _D = r"(?P<y>\d{4})", r"(?P<m>\d{1,2})", r"(?P<d>\d{1,2})"
_CLOCK = (
    r"(?:[ T]+(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,6})0*)?)?(?: ?(?P<p>[AaPp][Mm]))?"
    r" ?(?P<z>Z|[+-]\d{2}:?\d{2})?)?"
)
_DATES = {
    "iso": f"{_Y}-{_M}-{_D}",
    "%Y/%m/%d": f"{_Y}/{_M}/{_D}",
    "%Y.%m.%d": rf"{_Y}\.{_M}\.{_D}",
    "%Y年%m月%d日": f"{_Y}年{_M}月{_D}日",
    "%d.%m.%Y": rf"{_D}\.{_M}\.{_Y}",
    "%m/%d/%Y": f"{_M}/{_D}/{_Y}",
    "%d/%m/%Y": f"{_D}/{_M}/{_Y}",
    "%m-%d-%Y": f"{_M}-{_D}-{_Y}",
    "%d-%m-%Y": f"{_D}-{_M}-{_Y}",
    "%Y%m%d": r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})",
}
FORMATS: tuple[str, ...] = tuple(_DATES)
"""Names of the formats that are found out; `%Y%m%d` only where a time is expected."""
_PATTERNS = {name: re.compile(date + _CLOCK) for name, date in _DATES.items()}
_TWINS = {"%m/%d/%Y": "%d/%m/%Y", "%m-%d-%Y": "%d-%m-%Y"}

Parsed = tuple[int, Kind]
_BAD: Parsed = (0, Kind.BAD)


def parser(name: str) -> Callable[[str], Parsed]:
    """A function from text to (microseconds, kind): wall-clock for WALL and DAY, since the epoch in UTC for INSTANT."""
    if name not in _PATTERNS:
        return lambda text: _strptime(text.strip(), name)
    pattern = _PATTERNS[name]

    def parse(text: str) -> Parsed:
        match = pattern.fullmatch(text.strip())
        return _fields(match) if match else _BAD

    return parse


def _fields(match: re.Match[str]) -> Parsed:
    part = match.groupdict()
    try:
        moment = datetime(int(part["y"]), int(part["m"]), int(part["d"]), tzinfo=UTC)
    except ValueError:
        return _BAD
    if part["H"] is None:
        return instant(moment), Kind.DAY
    hour, minute, second = int(part["H"]), int(part["M"]), int(part["S"] or 0)
    if part["p"]:
        if not 1 <= hour <= 12:
            return _BAD
        hour = hour % 12 + (12 if part["p"].lower() == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return _BAD
    micros = instant(moment) + (hour * 3600 + minute * 60 + second) * SECOND + int((part["f"] or "0").ljust(6, "0"))
    if part["z"] is None:
        return micros, Kind.WALL
    digits = part["z"].replace(":", "")
    shift = 0 if digits == "Z" else int(digits[1:3]) * 3600 + int(digits[3:5]) * 60
    return micros - shift * SECOND * (-1 if digits[0] == "-" else 1), Kind.INSTANT


def _strptime(text: str, pattern: str) -> Parsed:
    try:
        moment = datetime.strptime(text, pattern)  # noqa: DTZ007 - wall-clock time, localised below
    except ValueError:
        return _BAD
    if moment.tzinfo is not None:
        return instant(moment), Kind.INSTANT
    clock = any(code in pattern for code in ("%H", "%I", "%c", "%X"))
    return instant(moment.replace(tzinfo=UTC)), Kind.WALL if clock else Kind.DAY


def choose_format(
    values: Sequence[str], counts: Sequence[int] | None = None, *, expected: bool = False
) -> tuple[str | None, bool]:
    """The one format that fits all `values`, and whether day/month order is undecided.

    With `expected` (the column must be a time) `%Y%m%d` is tried too, and the format that fits most cells is taken
    (`counts`: cells per value). (None, False) when none fits; (None, True) when two fit that read the dates
    differently.
    """
    weights = [1] * len(values) if counts is None else counts
    fits: dict[str, int] = {}
    for name in FORMATS:
        parse = parser(name)
        if name == "%Y%m%d" and not expected:
            continue
        if not expected and values and parse(values[0])[1] is Kind.BAD:
            continue
        hits = sum(n for value, n in zip(values, weights, strict=True) if parse(value)[1] is not Kind.BAD)
        if hits and (expected or hits == sum(weights)):
            fits[name] = hits
    if not fits:
        return None, False
    best = max(fits, key=lambda name: fits[name])
    twin = _TWINS.get(best)
    if twin and fits.get(twin) == fits[best]:
        one, other = parser(best), parser(twin)
        if any(one(value) != other(value) for value in values):
            return None, True
    return best, False


def localize(
    wall: npt.NDArray[np.int64], days: npt.NDArray[np.bool_], timezone: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Wall-clock microseconds as instants; also which do not exist and which exist twice.

    A time that exists twice (clocks go back) is the earlier instant. A time that does not exist (clocks go forward) is
    marked, unless it is a whole day (`days`): a day begins at its first instant, whatever the clock shows then.
    """
    offsets = ZoneOffsets.of(timezone)
    starts, after = offsets.starts[1:], offsets.offsets[1:]
    before = offsets.offsets[:-1]
    # Wall-clock bounds of every change: from `low` on the old offset is gone, from `high` on only the new one holds.
    low, high = starts + np.minimum(before, after), starts + np.maximum(before, after)
    index = np.searchsorted(high, wall, side="right")
    instants = wall - offsets.offsets[index]
    inside = np.zeros(len(wall), bool)
    forward = np.zeros(len(wall), bool)
    if len(starts):
        following = np.minimum(index, len(starts) - 1)
        inside = (index < len(starts)) & (wall >= low[following])
        forward = inside & (after[following] > before[following])
        # Inside a change `index` still names the offset before it, which is right for the earlier of two instants.
        instants = np.where(forward & days, starts[following], instants)
    return instants, forward & ~days, inside & ~forward
