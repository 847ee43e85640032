"""The one meaning of time: instants, periods, durations, known rules and time zones.

An instant is an int: microseconds since 1970-01-01 UTC. A stored row is visible at cutoff T when it happened before T
(strictly, unless `include_cutoff`) and `known_from <= T < known_to`. A window w is [T - w, T).
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from holdfast.errors import ConfigError, InputError

__all__ = [
    "ALWAYS",
    "DAY",
    "NEVER",
    "SECOND",
    "Known",
    "Period",
    "Step",
    "ZoneOffsets",
    "format_duration",
    "instant",
    "isoformat",
    "parse_duration",
    "parse_instant",
    "zone",
]  # fmt: skip

SECOND = 1_000_000
DAY = 86_400 * SECOND
ALWAYS = -(2**63) + 1
"""Earlier than every instant (the minimum itself is numpy's not-a-time)."""
NEVER = 2**63 - 1
"""Later than every instant: `known_to` of a current row."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "min": 60 * SECOND, "h": 3_600 * SECOND, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"\s*(\d+)\s*(us|ms|s|min|h|d|w)\s*")
_LONGEST = 10_000 * 366 * DAY
"""Longer than from the year 1 to the year 9999; an instant less this is still an int64."""
_PERIOD = re.compile(r"(\d{4})(?:-(?:Q([1-4])|W(\d{2})|(\d{2})(?:-(\d{2}))?))?")


def zone(name: str) -> tzinfo:
    """The IANA time zone of that name, or ConfigError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"there is no time zone {name!r}", where={"key": "timezone"}, hint="Use an IANA name such as Europe/Paris."
        ) from error


def instant(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def isoformat(moment: int) -> str:
    """An instant as ISO 8601 in UTC; whole seconds without a fraction."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat().replace("+00:00", "Z")


def parse_instant(text: str, timezone: str = "UTC") -> int:
    """An ISO 8601 date or date-time as an instant; naive ones are read in `timezone`.

    A day begins at its first instant; a time that clocks show twice is the earlier one. InputError when it is neither,
    or a time of day that clocks skip.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InputError(
            f"{text[:80]!r} is not a date or time", hint="Write it as 2016-01-31 or 2016-01-31T08:00:00+02:00."
        ) from error
    if moment.tzinfo is not None:
        return instant(moment)
    local = moment.replace(tzinfo=zone(timezone))
    before, after = local.utcoffset() or timedelta(), local.replace(fold=1).utcoffset() or timedelta()
    # PEP 495: where clocks go forward `fold` chooses between the offsets before and after, so that they grow.
    if before < after and not _is_day(text.strip()):
        raise InputError(
            f"{text!r} does not exist in {timezone}: clocks skip it",
            hint="Give the offset from UTC with it, as in 2016-01-31T08:00:00+02:00.",
        )
    return instant(local)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def parse_duration(text: str) -> int:
    """`90d`, `12h`, `30min`, `2w` ... in microseconds. ConfigError when it is none."""
    match = _DURATION.fullmatch(text)
    if not match or int(match[1]) == 0:
        raise ConfigError(f"{text.strip()!r} is not a duration", hint="Write it as 90d, 12h, 30min, 45s or 2w.")
    duration = int(match[1][:20]) * _UNITS[match[2]]
    if duration > _LONGEST:
        raise ConfigError(
            f"{text.strip()!r} is longer than the time there are dates for", hint="`all` is the window of everything."
        )
    return duration


def format_duration(microseconds: int) -> str:
    """The shortest text that `parse_duration` reads back; days rather than weeks."""
    for unit in ("d", "h", "min", "s", "ms"):
        if microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    return f"{microseconds}us"


@dataclass(frozen=True, order=True, slots=True)
class Period:
    """A calendar period of deliveries: a year, quarter, month, ISO week or day, as [start, end) in a time zone."""

    start: int
    end: int
    name: str

    @staticmethod
    def parse(name: str, timezone: str = "UTC") -> "Period":
        """`2016`, `2016-Q1`, `2016-01`, `2016-W05` or `2016-01-31`. InputError for anything else."""
        match = _PERIOD.fullmatch(name)
        hint = "A period is 2016, 2016-Q1, 2016-01, 2016-W05 or 2016-01-31."
        if not match:
            raise InputError(f"{name!r} is not a period", hint=hint)
        year, quarter, week, month, day = (int(part) if part else 0 for part in match.groups())
        try:
            if quarter:
                first, last = date(year, 3 * quarter - 2, 1), _month_after(year, 3 * quarter)
            elif match[3]:
                first = date.fromisocalendar(year, week, 1)
                last = first + timedelta(days=7)
            elif match[5]:
                first = date(year, month, day)
                last = first + timedelta(days=1)
            elif match[4]:
                first, last = date(year, month, 1), _month_after(year, month)
            else:
                first, last = date(year, 1, 1), date(year + 1, 1, 1)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{name!r} is not a period: {error}", hint=hint) from error
        where = zone(timezone)
        start, end = (instant(datetime(d.year, d.month, d.day, tzinfo=where)) for d in (first, last))
        return Period(start, end, name)


def _month_after(year: int, month: int) -> date:
    return date(year + month // 12, month % 12 + 1, 1)


@dataclass(frozen=True, slots=True)
class Known:
    """When a row seen for the first time is known: the `known:` rule of a table.

    `kind` is `event` (when it happened, plus `delay` microseconds), `column` (the time in `column`), `period_start`,
    `period_end`, or `delivery` (the end of the delivered period).
    """

    kind: str
    delay: int = 0
    column: str = ""

    @staticmethod
    def parse(text: str) -> "Known":
        """`event`, `event + 3d`, `period_start`, `period_end`, `delivery`, or the name of a time column."""
        rule = text.strip()
        if rule in {"event", "period_start", "period_end", "delivery"}:
            return Known(rule)
        head, plus, tail = rule.partition("+")
        if plus and head.strip() == "event":
            return Known("event", delay=parse_duration(tail))
        return Known("column", column=rule)


@dataclass(frozen=True, slots=True)
class ZoneOffsets:
    """UTC offsets of a zone as sorted arrays, so that kernels and numpy turn instants into local time alike.

    `starts[i]` is the instant from which `offsets[i]` (both int64 microseconds) holds.
    """

    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @staticmethod
    @lru_cache(maxsize=32)
    def of(timezone: str) -> "ZoneOffsets":
        """Offsets of the years 1900 to 2100; the first and last hold beyond."""
        where = zone(timezone)

        def offset(moment: int) -> int:
            shift = (_EPOCH + timedelta(microseconds=moment)).astimezone(where).utcoffset()
            return (shift or timedelta()) // timedelta(microseconds=1)

        begin, end = (instant(datetime(year, 1, 1, tzinfo=UTC)) for year in (1900, 2100))
        starts, offsets = [ALWAYS], [offset(begin)]
        step = 7 * DAY
        for left in range(begin, end, step):
            if offset(left) == offset(left + step):
                continue
            low, high = left, left + step
            while high - low > SECOND:
                middle = (low + high) // 2 // SECOND * SECOND
                low, high = (middle, high) if offset(middle) == offset(left) else (low, middle)
            starts.append(high)
            offsets.append(offset(high))
        return ZoneOffsets(np.array(starts, np.int64), np.array(offsets, np.int64))

    def local(self, instants: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Instants shifted to local wall-clock microseconds."""
        return instants + self.offsets[np.searchsorted(self.starts, instants, side="right") - 1]


_STEPS = {"d": "day", "w": "week", "mo": "month", "q": "quarter", "y": "year"}
_STEP = re.compile(r"\s*(\d+)\s*(d|w|mo|q|y)\s*")
_MONDAY = date(1970, 1, 5).toordinal()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the calendar: `count` days or months. Days begin at local midnight, so one may last 23 or 25 hours."""

    count: int
    months: bool

    @staticmethod
    def parse(text: str) -> "Step":
        """`day`, `week`, `month`, `quarter`, `year`, or so many: `7d`, `2w`, `3mo`, `1q`, `1y`. Else ConfigError."""
        match = _STEP.fullmatch(text)
        count, word = (int(match[1]), _STEPS[match[2]]) if match else (1, text.strip())
        if count < 1 or word not in _STEPS.values():
            raise ConfigError(
                f"{text.strip()!r} is no step of the calendar",
                hint="Write day, week, month, quarter or year, or a number of them: 7d, 2w, 3mo, 1q, 1y.",
            )
        if word in ("day", "week"):
            return Step(count * (7 if word == "week" else 1), months=False)
        return Step(count * {"month": 1, "quarter": 3, "year": 12}[word], months=True)

    def starts(self, first: int, end: int, timezone: str) -> list[int]:
        """The instants in [first, end) at which a step begins: local midnights.

        Steps are counted from the calendar, not from the data: months from January of year 0, days from a Monday
        (1970-01-05), so that a week, `7d`, begins on Mondays and more data moves nothing.
        """
        where = zone(timezone)
        day = (_EPOCH + timedelta(microseconds=first)).astimezone(where).date()
        if self.months:
            number = (day.year * 12 + day.month - 1) // self.count * self.count
            day = date(number // 12, number % 12 + 1, 1)
        else:
            day = date.fromordinal(day.toordinal() - (day.toordinal() - _MONDAY) % self.count)
        found = []
        while (start := _midnight(day, where)) < end:
            if start >= first:
                found.append(start)
            day = self._after(day)
        return found

    def after(self, moment: int, timezone: str) -> int:
        """The same time of day one step later; the last day of the month where the month is too short for the day."""
        where = zone(timezone)
        local = (_EPOCH + timedelta(microseconds=moment)).astimezone(where)
        return instant(datetime.combine(self._after(local.date()), local.time(), where))

    def _after(self, day: date) -> date:
        if not self.months:
            return day + timedelta(days=self.count)
        number = day.year * 12 + day.month - 1 + self.count
        year, month = number // 12, number % 12 + 1
        last = (_month_after(year, month) - timedelta(days=1)).day
        return date(year, month, min(day.day, last))


def _midnight(day: date, where: tzinfo) -> int:
    return instant(datetime(day.year, day.month, day.day, tzinfo=where))
