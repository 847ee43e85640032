"""Running a job: its steps, each done once, and what becomes of it when it fails."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from holdfast.backend.jobs.queue import ACTIVE, Claim, Queue
from holdfast.backend.jobs.tables import jobs
from holdfast.backend.records import Job
from holdfast.backend.store import Leases, acting, fenced
from holdfast.backend.store.disk import explained
from holdfast.backend.store.leases import locked, patient
from holdfast.errors import ConflictError, HoldfastError, LockedError

__all__ = ["Engine", "Handler", "Running"]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, message)."""
Result = TypeVar("Result")
_TELL_EVERY = 0.5
"""Seconds between two records of progress: others watch through the database."""
_POLL = 0.1
_log = logging.getLogger("holdfast.jobs")


class Running:
    """A job as its handler sees it."""

    def __init__(self, queue: Queue, claim: Claim, progress: Progress | None = None) -> None:
        self.job: Job = claim.job
        self._queue = queue
        self._claim = claim
        self._progress = progress
        self._told = 0.0
        self._last: tuple[int, int, str] | None = None

    def step(self, name: str, do: Callable[[], Any], *, version: int = 1) -> Any:
        """The result (plain data) of a step: of an earlier attempt, if that did it, else of `do()`, now.

        `do` may be run again after a crash: what it writes must come to the same end twice. A result that another
        `version` of the step left behind, in an older program, is not used.
        """
        with self._queue.store.read() as connection:
            done = self._queue.step(connection, self.job.id, name)
        if done is not None and done.version == version:
            return done.result
        began = self._queue.clock.now()
        result = do()
        with self._queue.store.write("step") as connection:
            self._queue.record_step(connection, self.job, name, result, version=version, began_at=began)
        return result

    def commit(self, name: str, do: Callable[[sa.Connection], Any]) -> Any:
        """A step whose effect is in the metadata database: effect and result in one transaction, so exactly once."""
        began = self._queue.clock.now()
        with self._queue.store.write(name) as connection:
            done = self._queue.step(connection, self.job.id, name)
            if done is not None:
                return done.result
            result = do(connection)
            self._queue.record_step(connection, self.job, name, result, version=1, began_at=began)
        return result

    def keep(self, connection: sa.Connection, name: str, result: Any) -> None:
        """Record the result of a step in the very transaction that has its effect, whoever began it."""
        began = self._queue.clock.now()
        self._queue.record_step(connection, self.job, name, result, version=1, began_at=began)

    def result(self, name: str) -> Any:
        """The result of a step that an earlier attempt did, or None."""
        with self._queue.store.read() as connection:
            done = self._queue.step(connection, self.job.id, name)
        return None if done is None else done.result

    def progress(self, done: int, total: int, message: str) -> None:
        """Tell how far it is. Raises when the job was cancelled."""
        self._last = (done, total, message)
        if self._progress is not None:
            self._progress(done, total, message)
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            self.tell()

    def tell(self) -> None:
        """Record how far it was at last."""
        if self._last is not None:
            self._queue.progress(self.job.id, *self._last)


@dataclass(frozen=True, slots=True)
class Handler:
    """What does jobs of a kind: `run(running, arguments)` makes something, `plain` makes plain data of it to keep.

    `again` makes it of the plain data, for those who did not run it themselves. `timeout` (seconds an attempt) is kept
    by workers, which kill; `attempts` is the cap for jobs that workers run. What lasts as long as something else does
    is not for `workers`, whose jobs wait for each other: it is claimed by name.
    """

    run: Callable[[Running, Mapping[str, Any]], Any]
    plain: Callable[[Any], Any]
    again: Callable[[Any], Any]
    timeout: float = 24 * 3600
    attempts: int = 5
    workers: bool = True


class _NotCancelled:
    """Forbids the writes of a job that was cancelled."""

    def __init__(self, job: str) -> None:
        self._job = job

    def check(self, connection: sa.Connection) -> None:
        """LockedError when it was."""
        query = sa.select(jobs.c.cancelled).where(jobs.c.id == self._job, jobs.c.state == "running")
        if connection.execute(query).scalar():
            raise LockedError(f"job {self._job} was cancelled", where={"job": self._job})


class Engine:
    """Runs jobs of the kinds in `handlers`."""

    def __init__(self, queue: Queue, handlers: Mapping[str, Handler]) -> None:
        self.queue = queue
        self.handlers = handlers

    @property
    def leases(self) -> Leases:
        """The leases that running jobs hold."""
        return self.queue.leases

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that workers run."""
        return tuple(kind for kind, handler in self.handlers.items() if handler.workers)

    def run(
        self, kind: str, arguments: Mapping[str, Any], *, progress: Progress | None = None, wait: float = 0.0
    ) -> Any:
        """Do it in this process, now, as a job that is recorded; returns what it made, or raises what it raised.

        A job with the same arguments that waits, or whose process died, is taken up where it stopped. LockedError when
        one runs elsewhere and does not end within `wait` seconds; when it does end, its result is returned.
        """
        deadline = time.monotonic() + wait
        with self.queue.store.write("begin job") as connection:
            known = self.queue.like(connection, kind, arguments)
            handler = self.handlers[kind]
            job = known or self.queue.send(connection, kind, arguments, attempts=handler.attempts)
            claim = self.queue.claim_one(connection, job.id)
        if claim is not None:
            with patient(wait):
                # One that was sent is not lost by an attempt that failed here: a worker tries it again.
                return self._attend(claim, progress, again=known is not None)
        return handler.again(self._follow(job, progress, deadline))

    def work(self, kinds: tuple[str, ...] | None = None) -> Job | None:
        """Claim one job and run it, as a worker does: errors are recorded, not raised. None when nothing was due."""
        claim = self.queue.claim(kinds or self.kinds)
        if claim is None:
            return None
        try:
            self._attend(claim, None, again=True)
        except LockedError as error:
            _log.warning("%s %s: %s", claim.job.kind, claim.job.id, error)
        except HoldfastError as error:
            _log.error("%s %s: %s: %s", claim.job.kind, claim.job.id, error.code, error)
        except Exception:  # noqa: BLE001 - the edge of a job: it is recorded, and the worker goes on
            _log.exception("%s %s failed", claim.job.kind, claim.job.id)
        return self.queue.get(claim.job.id)

    def _attend(self, claim: Claim, progress: Progress | None, *, again: bool) -> Any:
        job, store, handler = claim.job, self.queue.store, self.handlers[claim.job.kind]
        running = Running(self.queue, claim, progress)
        with self.leases.kept(claim.lease), acting(job.who):
            try:
                with fenced(_NotCancelled(job.id)), explained("the project"):
                    made = handler.run(running, job.arguments)
                    with store.write("end job") as connection:
                        running.tell()
                        self.queue.finish(connection, claim, handler.plain(made))
            except BaseException as error:
                # Losing the lease forbids this write too: then somebody else has the job, and tells its end.
                with store.write("fail job") as connection:
                    self.queue.fail(connection, claim, error, again=again)
                raise
        return made

    def _follow(self, job: Job, progress: Progress | None, deadline: float) -> Any:
        """Wait for a job that another process runs."""
        while True:
            now = self.queue.get(job.id)
            if now.state not in ACTIVE:
                break
            if time.monotonic() >= deadline:
                holders = self.leases.holders(f"job:{job.id}")
                if holders:
                    raise locked(holders[0])
                raise LockedError(f"job {job.id} waits to be tried again", hint=f"See: holdfast jobs show {job.id}")
            if progress is not None:
                progress(now.done, now.total, now.message)
            time.sleep(_POLL)
        if now.state == "done":
            return now.result
        said = (now.error or {}).get("message", now.message)
        raise ConflictError(f"job {job.id}, which did this, is {now.state}: {said}", where={"job": job.id})
