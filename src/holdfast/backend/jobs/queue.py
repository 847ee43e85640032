"""The queue: how a job comes to be, is claimed, ends, waits to be tried again, or is given up.

    queued ──claim──> running ──┬──> done
      ^                         ├──> cancelled
      └── tried again later ────┴──> dead     (given up: `retry` begins anew)

Every transition is one write transaction; a running job is held by the lease `job:<id>`, and whoever runs it writes
nothing once that lease is lost. What ran is kept: jobs are never deleted here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast import __version__
from holdfast.backend.jobs.tables import jobs, steps
from holdfast.backend.ports import Clock
from holdfast.backend.records import Job, JobStep, new_id
from holdfast.backend.store import Audit, Lease, Leases, Store, actor
from holdfast.errors import ConflictError, HoldfastError, LockedError, NotFoundError, UnavailableError

__all__ = ["ACTIVE", "STATES", "Claim", "Queue", "plain"]

STATES = ("queued", "running", "done", "cancelled", "dead")
ACTIVE = ("queued", "running")
_SECOND = 1_000_000
_ATTEMPTS = 5
_WAIT_FOR_LEASE = 5 * _SECOND
_LONGEST_PAUSE = 300
"""Seconds between two attempts, at most."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process runs now, and the lease that says so."""

    job: Job
    lease: Lease


class Queue:
    """Jobs of one project."""

    def __init__(self, store: Store, clock: Clock, leases: Leases | None = None) -> None:
        self.store = store
        self.clock = clock
        self.leases = leases or Leases(store, clock)

    # -- coming to be -------------------------------------------------------------------------------------------------

    def send(
        self,
        connection: sa.Connection,
        kind: str,
        arguments: Mapping[str, Any],
        *,
        key: str | None = None,
        cause: str | None = None,
        due_at: int | None = None,
        attempts: int = _ATTEMPTS,
        timeout: int | None = None,
    ) -> Job:
        """Put a job into the queue, in the write transaction of what it follows from: both happen, or neither.

        `arguments` are plain data. A job of that `key` that was ever sent is returned as it is; no second one is made.
        """
        if key is not None:
            known = connection.execute(sa.select(jobs).where(jobs.c.key == key)).first()
            if known is not None:
                return _job(known)
        now = self.clock.now()
        values = {
            "id": new_id("job", now), "kind": kind, "arguments": plain(arguments), "key": key, "state": "queued",
            "made_at": now, "who": actor(), "due_at": now if due_at is None else due_at, "started_at": None,
            "ended_at": None, "attempts": 0, "max_attempts": attempts, "timeout": timeout, "cancelled": False,
            "cause": cause, "program": __version__, "done": 0, "total": 0, "message": "", "result": None, "error": None,
        }  # fmt: skip
        connection.execute(jobs.insert().values(**values))
        return self._get(connection, str(values["id"]))

    def supersede(self, connection: sa.Connection, kind: str, arguments: Mapping[str, Any], why: str) -> None:
        """Cancel queued jobs of a kind whose arguments hold all of `arguments`: something newer stands for them."""
        query = sa.select(jobs).where(jobs.c.kind == kind, jobs.c.state == "queued", jobs.c.attempts == 0)
        for row in connection.execute(query).all():
            held = json.loads(row.arguments)
            if all(name in held and held[name] == value for name, value in arguments.items()):
                self._end(connection, row.id, "cancelled", message=why)

    # -- being run ----------------------------------------------------------------------------------------------------

    def claim(self, kinds: Iterable[str]) -> Claim | None:
        """Take the next job that is due, or one whose worker died or fell silent; None when there is none."""
        wanted = list(kinds)
        with self.store.read() as connection:
            if not self._waiting(connection, wanted):
                return None
        with self.store.write("claim job") as connection:
            for row in self._waiting(connection, wanted):
                claim = self._claimed(connection, row)
                if claim is not None:
                    return claim
        return None

    def claim_one(self, connection: sa.Connection, job: str) -> Claim | None:
        """Take that job, in somebody's write transaction; None when another process runs it."""
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job, jobs.c.state.in_(ACTIVE))).first()
        return None if row is None else self._claimed(connection, row)

    def like(self, connection: sa.Connection, kind: str, arguments: Mapping[str, Any]) -> Job | None:
        """The oldest job of a kind with these very arguments that has not ended."""
        query = sa.select(jobs).where(jobs.c.kind == kind, jobs.c.state.in_(ACTIVE)).order_by(jobs.c.id)
        found = (_job(row) for row in connection.execute(query).all())
        return next((job for job in found if job.arguments == arguments), None)

    def _waiting(self, connection: sa.Connection, kinds: Sequence[str]) -> "list[sa.Row[Any]]":
        """What can be claimed, at most 100: due jobs, and running ones that nobody holds any more."""
        begun = sa.select(jobs.c.id).where(jobs.c.kind.in_(kinds), jobs.c.state == "running")
        running = {f"job:{job}": job for job in connection.scalars(begun)}
        held = self.leases.alive(connection, running) if running else frozenset()
        left = [job for name, job in running.items() if name not in held]
        due = (jobs.c.state == "queued") & (jobs.c.due_at <= self.clock.now())
        query = sa.select(jobs).where(jobs.c.kind.in_(kinds), due | jobs.c.id.in_(left))
        return list(connection.execute(query.order_by(jobs.c.due_at, jobs.c.id).limit(100)).all())

    def _claimed(self, connection: sa.Connection, row: "sa.Row[Any]") -> Claim | None:
        taken = self.leases.take(connection, [f"job:{row.id}"], f"{row.kind} {row.arguments}")
        if not isinstance(taken, Lease):
            return None
        if row.cancelled:
            self._end(connection, row.id, "cancelled")
        elif row.attempts >= row.max_attempts:
            gone = {"code": "interrupted", "message": f"its process ended {row.attempts} times before it did"}
            self._end(connection, row.id, "dead", error=gone)
        if row.cancelled or row.attempts >= row.max_attempts:
            self.leases.give_back(connection, taken)
            return None
        values = {"state": "running", "attempts": row.attempts + 1, "started_at": self.clock.now(), "ended_at": None}
        connection.execute(jobs.update().where(jobs.c.id == row.id).values(**values))
        return Claim(self._get(connection, row.id), taken)

    def finish(self, connection: sa.Connection, claim: Claim, result: object) -> None:
        """The job is done; the lease is given back in the same transaction."""
        self._end(connection, claim.job.id, "done", result=plain(result))
        self.leases.give_back(connection, claim.lease)

    def fail(self, connection: sa.Connection, claim: Claim, error: BaseException, *, again: bool) -> Job:
        """The attempt failed. It is tried `again` later where that may help, up to the cap; else the job is dead.

        What a repeat cannot mend (wrong input, a conflict) is not tried again.
        """
        said = error.to_dict() if isinstance(error, HoldfastError) else _unforeseen(error)
        mendable = isinstance(error, UnavailableError | LockedError) or not isinstance(error, HoldfastError)
        job = self._get(connection, claim.job.id)
        # Ctrl-C gives up what was asked by hand; what follows from something else is still wanted.
        stopped = job.cancelled or (isinstance(error, KeyboardInterrupt) and job.cause is None)
        if again and mendable and not stopped and job.attempts < job.max_attempts:
            pause = min(2 ** (job.attempts - 1), _LONGEST_PAUSE) * _SECOND
            values = {"state": "queued", "due_at": self.clock.now() + pause, "error": plain(said)}
            if isinstance(error, LockedError):  # it could not begin: that is no attempt
                values |= {"attempts": job.attempts - 1, "due_at": self.clock.now() + _WAIT_FOR_LEASE}
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(**values))
        else:
            self._end(connection, job.id, "cancelled" if stopped else "dead", error=said)
        self.leases.give_back(connection, claim.lease)
        return self._get(connection, job.id)

    def settle(self, job: str, why: str) -> Job:
        """What becomes of a running job whose process was killed: cancelled, tried again later, or dead."""
        with self.store.write("settle job") as connection:
            found = self._get(connection, job)
            taken = self.leases.take(connection, [f"job:{found.id}"], why)
            if found.state != "running" or not isinstance(taken, Lease):
                return found
            if found.cancelled:
                self._end(connection, found.id, "cancelled", message=why)
                self.leases.give_back(connection, taken)
                return self._get(connection, found.id)
            return self.fail(connection, Claim(found, taken), TimeoutError(why), again=True)

    def progress(self, job: str, done: int, total: int, message: str) -> None:
        """Tell how far a job is; others can watch."""
        with self.store.write("progress") as connection:
            values = {"done": done, "total": total, "message": message}
            connection.execute(jobs.update().where(jobs.c.id == job).values(**values))

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self, connection: sa.Connection, job: str, name: str) -> JobStep | None:
        """A step that is done, or None."""
        row = connection.execute(sa.select(steps).where(steps.c.job == job, steps.c.name == name)).first()
        return None if row is None else _step(row)

    def steps(self, job: str) -> list[JobStep]:
        """The steps that are done, in order."""
        with self.store.read() as connection:
            query = sa.select(steps).where(steps.c.job == job).order_by(steps.c.ended_at, steps.c.began_at)
            return [_step(row) for row in connection.execute(query)]

    def record_step(
        self, connection: sa.Connection, job: Job, name: str, result: object, *, version: int, began_at: int
    ) -> None:
        """A step is done (again, where an older version of it was)."""
        connection.execute(steps.delete().where(steps.c.job == job.id, steps.c.name == name))
        values = {"version": version, "attempt": job.attempts, "began_at": began_at, "ended_at": self.clock.now()}
        connection.execute(steps.insert().values(job=job.id, name=name, result=plain(result), **values))

    # -- being looked at ----------------------------------------------------------------------------------------------

    def get(self, job: str) -> Job:
        """The job of that id (or the only one whose id ends so), or NotFoundError."""
        with self.store.read() as connection:
            return self._get(connection, job)

    def find(self, key: str) -> Job | None:
        """The job of that key, or None."""
        with self.store.read() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key)).first()
        return None if row is None else _job(row)

    def list(self, *, state: str | None = None, kind: str | None = None, limit: int = 100) -> "Jobs":
        """Jobs, newest first."""
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self.store.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def unfinished(self, kinds: Sequence[str]) -> int:
        """How many jobs of these kinds wait or run."""
        query = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state.in_(ACTIVE), jobs.c.kind.in_(kinds))
        with self.store.read() as connection:
            return int(connection.execute(query).scalar_one())

    # -- by hand ------------------------------------------------------------------------------------------------------

    def cancel(self, job: str, why: str = "") -> Job:
        """Cancel a job: at once where it waits, or its process is gone; else its process is told, or killed, soon."""
        with self.store.write("cancel job") as connection:
            found = self._get(connection, job)
            if found.state not in ACTIVE:
                raise ConflictError(
                    f"job {found.id} is {found.state} already", where={"job": found.id},
                    hint="What it did can be looked at with: holdfast jobs show, and undone with: holdfast rollback",
                )  # fmt: skip
            self._note(connection, "cancel", found, "cancelled", why)
            connection.execute(jobs.update().where(jobs.c.id == found.id).values(cancelled=True))
            taken = self.leases.take(connection, [f"job:{found.id}"], "cancel")
            if isinstance(taken, Lease):
                self._end(connection, found.id, "cancelled", message=why or "cancelled")
                self.leases.give_back(connection, taken)
            return self._get(connection, found.id)

    def retry(self, job: str) -> Job:
        """Let a dead or cancelled job begin anew, after the steps that it has done. ConflictError for another."""
        with self.store.write("retry job") as connection:
            found = self._get(connection, job)
            if found.state not in {"dead", "cancelled"}:
                raise ConflictError(
                    f"job {found.id} is {found.state}", where={"job": found.id},
                    hint="Only a dead or cancelled job begins anew. To do the same again, give its command again.",
                )  # fmt: skip
            values = {
                "state": "queued", "attempts": 0, "cancelled": False, "due_at": self.clock.now(), "ended_at": None,
                "error": None, "message": "",
            }  # fmt: skip
            connection.execute(jobs.update().where(jobs.c.id == found.id).values(**values))
            self._note(connection, "retry", found, "queued")
            return self._get(connection, found.id)

    def _note(self, connection: sa.Connection, action: str, job: Job, after: str, why: str = "") -> None:
        details = {"kind": job.kind, "why": why}
        Audit(connection).append(
            action, f"job:{job.id}", at=self.clock.now(), before=job.state, after=after, details=details
        )

    def _get(self, connection: sa.Connection, job: str) -> Job:
        found = connection.execute(sa.select(jobs).where(jobs.c.id == job)).all()
        if not found and job:
            same = jobs.c.id.endswith(job, autoescape=True)
            found = connection.execute(sa.select(jobs).where(same).limit(2)).all()
        if len(found) != 1:
            raise NotFoundError(
                f"there is no job {job!r}" if not found else f"several jobs end in {job!r}",
                where={"job": job},
                hint="List them with: holdfast jobs list",
            )
        return _job(found[0])

    def _end(
        self,
        connection: sa.Connection,
        job: str,
        state: str,
        *,
        result: str | None = None,
        error: Mapping[str, Any] | None = None,
        message: str | None = None,
    ) -> None:
        values: dict[str, Any] = {"state": state, "ended_at": self.clock.now(), "result": result}
        values["error"] = None if error is None else plain(error)
        if message is not None:
            values["message"] = message
        connection.execute(jobs.update().where(jobs.c.id == job).values(**values))


Jobs = list[Job]  # `Queue.list` hides the builtin inside the class


def plain(value: object) -> str:
    """Plain data as JSON, in its own order: that of labels, for one, means something."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unforeseen(error: BaseException) -> dict[str, Any]:
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "message": "stopped by hand (Ctrl-C)", "where": {}, "hint": None}
    return {"code": "unforeseen", "message": f"{type(error).__name__}: {error}", "where": {}, "hint": None}


def _job(row: "sa.Row[Any]") -> Job:
    texts = {name: row._mapping[name] for name in ("arguments", "result", "error")}
    read = {name: None if text is None else json.loads(text) for name, text in texts.items()}
    return Job(**{**row._mapping, **read})


def _step(row: "sa.Row[Any]") -> JobStep:
    return JobStep(**{**row._mapping, "result": json.loads(row.result)})
