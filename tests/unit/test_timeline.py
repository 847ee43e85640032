"""Instants, periods, durations, rules, zones."""

from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.timeline import (
    DAY,
    SECOND,
    Known,
    Period,
    Step,
    ZoneOffsets,
    format_duration,
    instant,
    isoformat,
    parse_duration,
    parse_instant,
)
from holdfast.errors import ConfigError, InputError

ZONES = ["UTC", "Asia/Shanghai", "America/Los_Angeles", "Australia/Lord_Howe", "Asia/Kathmandu"]


@given(st.sampled_from(ZONES), st.datetimes(datetime(1901, 1, 1), datetime(2099, 1, 1)))
def test_offsets_agree_with_zoneinfo(zone: str, moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)
    local = aware.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
    assert ZoneOffsets.of(zone).local(np.array([instant(aware)]))[0] == instant(local)


@given(st.integers(1, 10**15))
def test_durations_read_back(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds)) == microseconds


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_instants_read_back(moment: datetime) -> None:
    exact = instant(moment.replace(tzinfo=UTC))
    assert parse_instant(isoformat(exact)) == exact


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("2016", "2016-01-01", "2017-01-01"),
        ("2016-Q4", "2016-10-01", "2017-01-01"),
        ("2016-12", "2016-12-01", "2017-01-01"),
        ("2016-W53", None, None),
        ("2015-W53", "2015-12-28", "2016-01-04"),
        ("2016-02-29", "2016-02-29", "2016-03-01"),
        ("2015-02-29", None, None),
        ("2016-13", None, None),
        ("2016-1", None, None),
        ("二月", None, None),
        ("9999-12", None, None),
    ],
)
def test_periods(name: str, first: str | None, last: str | None) -> None:
    if first is None or last is None:
        with pytest.raises(InputError, match="is not a period"):
            Period.parse(name)
        return
    zone = "America/Los_Angeles"
    period = Period.parse(name, zone)
    assert (period.start, period.end) == (parse_instant(first, zone), parse_instant(last, zone))


def test_a_month_with_a_clock_change_has_an_hour_less() -> None:
    march = Period.parse("2016-03", "America/Los_Angeles")
    assert march.end - march.start == 31 * DAY - 3600 * 10**6


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "1y", "-1d", "1.5d"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


def test_known_rules() -> None:
    assert Known.parse("event + 3d") == Known("event", delay=3 * DAY)
    assert Known.parse(" period_start ") == Known("period_start")
    assert Known.parse("到达时间") == Known("column", column="到达时间")


@pytest.mark.parametrize("text", ["yesterday", "2016-02-30", "2016/01/01", ""])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(InputError, match="is not a date or time"):
        parse_instant(text)


def test_an_offset_in_the_text_wins_over_the_zone() -> None:
    assert parse_instant("2016-01-01T00:00:00+02:00", "Asia/Shanghai") == instant(
        datetime(2015, 12, 31, 22, tzinfo=UTC) + timedelta(0)
    )


@pytest.mark.parametrize("text", ["2016-03-13T02:30", "2016-03-13 02:00:00", "2016-03-13T02:59:59.999999"])
def test_a_time_that_clocks_skip_is_refused(text):
    with pytest.raises(InputError, match="does not exist in America/New_York"):
        parse_instant(text, "America/New_York")


def test_days_and_times_around_a_skip():
    at = partial(parse_instant, timezone="America/New_York")
    assert at("2016-03-13T03:00") - at("2016-03-13T01:59:59") == SECOND
    # Midnight was skipped there that day: the day began at one o'clock.
    assert parse_instant("2018-11-04", "America/Sao_Paulo") == parse_instant("2018-11-04T03:00Z")
    for extreme in ("0001-01-01", "9999-12-31T23:59:59"):
        assert isinstance(at(extreme), int)


def days(step: str, first: str, end: str, zone: str = "UTC") -> list[str]:
    found = Step.parse(step).starts(parse_instant(first, zone), parse_instant(end, zone), zone)
    return [datetime.fromtimestamp(moment / SECOND, ZoneInfo(zone)).isoformat() for moment in found]


@pytest.mark.parametrize(
    ("step", "first", "end", "found"),
    [
        ("month", "2024-01-02", "2024-04-01", ["02-01", "03-01"]),
        ("1mo", "2024-01-01", "2024-02-01T00:00:01", ["01-01", "02-01"]),
        ("quarter", "2024-01-15", "2024-12-31", ["04-01", "07-01", "10-01"]),
        ("2mo", "2024-01-15", "2024-06-01", ["03-01", "05-01"]),
        ("year", "2023-12-31", "2024-12-31", ["01-01"]),
        ("week", "2024-01-02", "2024-01-20", ["01-08", "01-15"]),
        ("7d", "2024-01-02", "2024-01-20", ["01-08", "01-15"]),
        (" 2w ", "2024-01-02", "2024-02-01", ["01-08", "01-22"]),
        ("day", "2024-02-28T00:00:01", "2024-03-02", ["02-29", "03-01"]),
        ("day", "2024-01-02", "2024-01-02", []),
    ],
)
def test_steps_begin_with_the_calendar(step: str, first: str, end: str, found: list[str]) -> None:
    assert days(step, first, end) == [f"2024-{day}T00:00:00+00:00" for day in found]


def test_days_begin_at_local_midnight_also_where_clocks_change() -> None:
    assert days("day", "2016-03-12", "2016-03-15", "America/Los_Angeles") == [
        "2016-03-12T00:00:00-08:00",
        "2016-03-13T00:00:00-08:00",
        "2016-03-14T00:00:00-07:00",
    ]
    # Clocks skipped midnight: the day began at one.
    assert days("day", "2018-11-03", "2018-11-05", "America/Sao_Paulo")[-1] == "2018-11-04T01:00:00-02:00"


@given(st.integers(1, 40), st.sampled_from(["d", "w", "mo", "q", "y"]), st.integers(0, 20_000), st.sampled_from(ZONES))
def test_more_data_moves_no_step(count: int, unit: str, since: int, zone: str) -> None:
    step, end = Step.parse(f"{count}{unit}"), 30_000 * DAY
    early, late = step.starts(0, end, zone), step.starts(since * DAY, end, zone)
    assert late == [moment for moment in early if moment >= since * DAY]


@pytest.mark.parametrize(
    ("step", "moment", "after"),
    [
        ("1mo", "2024-01-31", "2024-02-29"),
        ("1mo", "2024-12-01", "2025-01-01"),
        ("30d", "2024-02-01", "2024-03-02"),
        ("quarter", "2023-11-30", "2024-02-29"),
        ("1y", "2024-02-29", "2025-02-28"),
        ("day", "2016-03-13", "2016-03-14"),
    ],
)
def test_one_step_later_is_the_same_time_of_day(step: str, moment: str, after: str) -> None:
    for zone in ("UTC", "America/Los_Angeles"):
        assert Step.parse(step).after(parse_instant(moment, zone), zone) == parse_instant(after, zone)


@pytest.mark.parametrize("text", ["", "fortnight", "0d", "1", "90", "-1d", "1h", "1m"])
def test_what_is_no_step_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no step of the calendar"):
        Step.parse(text)
