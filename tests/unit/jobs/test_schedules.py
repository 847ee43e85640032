"""Schedules: each due time once; clock changes; what was missed."""

import pytest

from holdfast.backend.jobs import Queue, Schedule, Schedules
from holdfast.backend.jobs.schedules import next_time
from holdfast.backend.store import Store
from holdfast.core.timeline import isoformat, parse_instant
from holdfast.errors import ConfigError
from holdfast.testing.clock import FakeClock

MINUTE = 60_000_000
NIGHTLY = {"每夜": Schedule("30 3 * * *", "backup", {"to": "盘"})}


def test_each_due_time_is_sent_once_by_however_many(store: Store) -> None:
    clock = FakeClock("2024-06-01T00:00:00")
    several = [Schedules(Queue(store, clock), NIGHTLY, "Asia/Shanghai") for _ in range(3)]
    assert [one.tick() for one in several] == [[], [], []]
    assert isoformat(several[0].next()["每夜"]) == "2024-06-01T19:30:00Z"
    clock.advance(20 * 60 * MINUTE)
    sent = [job for one in several for job in one.tick()]
    assert [(job.kind, job.arguments, job.cause) for job in sent] == [("backup", {"to": "盘"}, "schedule:每夜")]
    assert [one.tick() for one in several] == [[], [], []]


def test_what_was_missed_is_made_up_for_once(store: Store) -> None:
    clock = FakeClock("2024-06-01T00:00:00")
    schedules = Schedules(Queue(store, clock), NIGHTLY, "UTC")
    schedules.tick()
    clock.advance(10 * 24 * 60 * MINUTE)
    assert [job.key for job in schedules.tick()] == [f"schedule:每夜:{parse_instant('2024-06-10T03:30:00')}"]
    assert schedules.tick() == []


def test_a_changed_line_counts_from_now_and_a_removed_one_no_more(store: Store) -> None:
    clock = FakeClock("2024-06-01T00:00:00")
    queue = Queue(store, clock)
    Schedules(queue, NIGHTLY, "UTC").tick()
    hourly = Schedules(queue, {"每夜": Schedule("0 * * * *", "backup", {})}, "UTC")
    clock.advance(5 * 60 * MINUTE)
    assert hourly.tick() == []
    clock.advance(60 * MINUTE)
    assert len(hourly.tick()) == 1
    assert Schedules(queue, {}, "UTC").tick() == []
    clock.advance(24 * 60 * MINUTE)
    assert len(queue.list()) == 1


def test_a_clock_that_was_ahead_silences_nothing(store: Store) -> None:
    def keys(moment: str) -> list[str | None]:
        return [job.key for job in Schedules(Queue(store, FakeClock(moment)), NIGHTLY, "UTC").tick()]

    assert keys("2024-06-01T00:00:00") == []
    assert keys("2024-07-01T00:00:00") == [f"schedule:每夜:{parse_instant('2024-06-30T03:30:00')}"]
    assert keys("2024-06-01T00:10:00") == []
    assert keys("2024-06-01T04:00:00") == [f"schedule:每夜:{parse_instant('2024-06-01T03:30:00')}"]
    # A step back over the due time itself sends nothing twice.
    for moment in ("2024-06-01T03:29:59", "2024-06-01T03:30:00"):
        keys(moment)
    assert len(Queue(store, FakeClock("2024-06-01T03:30:00")).list()) == 2


@pytest.mark.parametrize("line", ["30 2 * * *", "30 0-3 * * *", "*/20 * * * *", "0 3 * * *"])
@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
def test_the_next_time_is_the_same_until_it_comes(line: str, day: str) -> None:
    now = parse_instant(f"{day}T00:00:00+02:00")
    expected = next_time(line, now, "Europe/Berlin")
    for _ in range(26 * 12):
        now += 5 * MINUTE
        found = next_time(line, now, "Europe/Berlin")
        assert found > now
        if now < expected:
            assert found == expected
        expected = found


def test_hours_that_come_twice_or_never() -> None:
    zone = "America/Los_Angeles"
    spring = next_time("30 2 * * *", parse_instant("2024-03-10T00:00:00-08:00"), zone)
    assert isoformat(spring) == "2024-03-10T10:00:00Z"  # 2:30 is left out: right after the gap
    autumn = next_time("30 1 * * *", parse_instant("2024-11-03T00:00:00-07:00"), zone)
    assert isoformat(autumn) == "2024-11-03T08:30:00Z"
    assert isoformat(next_time("30 1 * * *", autumn, zone)) == "2024-11-04T09:30:00Z"


@pytest.mark.parametrize("line", ["", "61 * * * *", "每天", "* * * *", "0 0 31 2 *"])
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match="no cron line"):
        next_time(line, 0, "UTC")


def test_a_clock_that_was_decades_behind_is_made_up_for_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counting(*arguments: object) -> int:
        nonlocal asked
        asked += 1
        return next_time(*arguments)  # type: ignore[arg-type]

    minutely = {"每分": Schedule("* * * * *", "backup", {})}
    Schedules(Queue(store, FakeClock("1970-01-01T00:00:30")), minutely, "UTC").tick()
    monkeypatch.setattr("holdfast.backend.jobs.schedules.next_time", counting)
    sent = Schedules(Queue(store, FakeClock("2024-06-01T00:00:30")), minutely, "UTC").tick()
    assert [job.key for job in sent] == [f"schedule:每分:{parse_instant('2024-06-01T00:00:00')}"]
    assert asked < 100


def test_six_fields_are_refused() -> None:
    """The first of six would be seconds: a job each second, where each minute was meant."""
    with pytest.raises(ConfigError, match="number of fields"):
        next_time("* * * * * *", 0, "UTC")
