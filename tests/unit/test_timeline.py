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
