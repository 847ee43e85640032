"""Schedules: cron lines that send jobs, each due time once, however many look at the clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from holdfast.backend.jobs.queue import Queue
from holdfast.backend.jobs.tables import schedules
from holdfast.backend.records import Job
from holdfast.errors import ConfigError

__all__ = ["Schedule", "Schedules", "next_time"]

_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_LOOKED_BACK = (_HOUR, 24 * _HOUR, 32 * 24 * _HOUR, 366 * 24 * _HOUR)
_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job of a kind with arguments, at the times of a cron line (minute hour day month weekday)."""

    cron: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def next_time(cron: str, after: int, timezone: str) -> int:
    """The first instant after `after` that a cron line names, in a time zone.

    Clock changes are as Debian's cron has them: what falls into the hour that is left out runs right after it, what
    names an hour runs once in the hour that comes twice. ConfigError for a line that is none.
    """
    from cronsim import CronSim, CronSimError

    start = datetime.fromtimestamp(after // _SECOND, UTC).astimezone(ZoneInfo(timezone))
    try:
        if len(cron.split()) != _FIELDS:  # with six, the first would be seconds
            raise CronSimError("Wrong number of fields")
        # In the hour that comes twice it also names what has passed.
        moment = next(moment for moment in CronSim(cron, start) if moment.timestamp() * _SECOND > after)
    except (CronSimError, StopIteration) as error:
        raise ConfigError(
            f"{cron!r} is no cron line that ever comes: {error}",
            hint='Five fields: minute hour day month weekday, such as "30 3 * * 1".',
        ) from error
    return round(moment.timestamp()) * _SECOND


class Schedules:
    """The schedules of one project, as its file has them now."""

    def __init__(self, queue: Queue, wanted: Mapping[str, Schedule], timezone: str) -> None:
        self._queue = queue
        self.wanted = wanted
        self._timezone = timezone

    def tick(self) -> list[Job]:
        """Send what is due. Times that passed while nobody looked are made up for once, by the newest of them.

        What a clock that was ahead left behind, due later than the cron line says, is due as it says.
        """
        now = self._queue.clock.now()
        with self._queue.store.read() as connection:
            if not self._changed(connection, now):
                return []
        sent = []
        with self._queue.store.write("schedules") as connection:
            known = {row.name: row for row in connection.execute(sa.select(schedules))}
            for name in known.keys() - self.wanted.keys():
                connection.execute(schedules.delete().where(schedules.c.name == name))
            for name, schedule in self.wanted.items():
                row = known.get(name)
                after = next_time(schedule.cron, now, self._timezone)
                if row is not None and row.cron == schedule.cron and now < row.next_at <= after:
                    continue
                if row is not None and row.cron == schedule.cron and row.next_at <= now:
                    due = self._newest(schedule.cron, row.next_at, now)
                    sent.append(
                        self._queue.send(
                            connection, schedule.kind, schedule.arguments,
                            key=f"schedule:{name}:{due}", cause=f"schedule:{name}",
                        )
                    )  # fmt: skip
                connection.execute(schedules.delete().where(schedules.c.name == name))
                connection.execute(schedules.insert().values(name=name, cron=schedule.cron, next_at=after))
        return sent

    def next(self) -> dict[str, int]:
        """When each schedule is due next."""
        now = self._queue.clock.now()
        return {name: next_time(schedule.cron, now, self._timezone) for name, schedule in self.wanted.items()}

    def _changed(self, connection: sa.Connection, now: int) -> bool:
        known = {row.name: (row.cron, row.next_at) for row in connection.execute(sa.select(schedules))}
        wanted = {name: schedule.cron for name, schedule in self.wanted.items()}
        return wanted != {name: cron for name, (cron, _) in known.items()} or any(
            at <= now or at > next_time(cron, now, self._timezone) for cron, at in known.values()
        )

    def _newest(self, cron: str, first: int, now: int) -> int:
        """The newest time from `first`, which is due, until `now`."""
        due = first
        # A clock that was years behind has passed millions of minutes: only the last of them are gone through.
        for span in _LOOKED_BACK:
            if now - span <= first:
                break
            near = next_time(cron, now - span, self._timezone)
            if near <= now:
                due = near
                break
        while (after := next_time(cron, due, self._timezone)) <= now:
            due = after
        return due
