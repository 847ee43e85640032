"""Rollouts: a candidate on trial beside the stable deployment of a target, and everything that was decided of it.

The record never changes; what is decided is appended. While it runs the pointer `rollout:<target>` names it, so that
there is one at a time and a server sees it where it sees the deployments. It ends in the transaction that says how:
promoted (the pointer `deployment:<target>` moves to the candidate), rolled back or stopped (it never moved).
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from holdfast.backend.deployment.deployments import Deployments
from holdfast.backend.deployment.tables import rollouts
from holdfast.backend.deployment.trials import ROLLOUT, RUNNING, append, end, events, rollout_of
from holdfast.backend.ports import Clock
from holdfast.backend.records import Deployment, Rollout, RolloutEvent, new_id
from holdfast.backend.store import Pointers, Store, actor
from holdfast.errors import ConflictError, NotFoundError

__all__ = ["RUNNING", "Rollouts"]

Plain = Mapping[str, Any]


class Rollouts:
    """The rollouts of one project."""

    def __init__(self, store: Store, clock: Clock, deployments: Deployments) -> None:
        self._store = store
        self._clock = clock
        self._deployments = deployments

    def start(
        self, candidate: Deployment, mode: str, policy: Plain, *, stable: str, share: float, evidence: Plain, note: str
    ) -> Rollout:
        """Put a recorded deployment on trial beside `stable`, with `share` of the requests at first.

        ConflictError when the target has a rollout already, or `stable` is not what answers. Joins the write
        transaction of this thread, if there is one.
        """
        target, now = candidate.target, self._clock.now()
        made = Rollout(
            new_id("rollout", now), target, now, mode, stable, candidate.id, dict(policy), actor(), note
        )  # fmt: skip
        with self._store.write("start rollout") as connection:
            running = Pointers(connection).get(ROLLOUT + target)
            if running is not None:
                raise ConflictError(
                    f"{target!r} has a rollout already: {running}",
                    where={"target": target, "rollout": running},
                    hint=f"End it first: holdfast rollout promote {target}, or holdfast rollout stop {target}",
                )
            answering = self._deployments.pointers().get(target)
            if answering != stable:
                raise ConflictError(
                    f"another deployment of {target!r} answers meanwhile: {answering}, not {stable}",
                    where={"target": target}, hint="Look again, then repeat.",
                )  # fmt: skip
            row = {name: getattr(made, name) for name in Rollout.__dataclass_fields__}
            connection.execute(rollouts.insert().values(row))
            Pointers(connection).move(ROLLOUT + target, made.id, at=now, why=note or f"start {mode}", expect=None)
            reason = note or f"{mode} of {candidate.id}"
            append(
                connection, made, "start", at=now, state=RUNNING, step=0, share=share, reason=reason, evidence=evidence
            )
        return made

    def note(
        self, rollout: Rollout, action: str, reason: str, evidence: Plain, *, after: RolloutEvent,
        step: int | None = None, share: float | None = None,
    ) -> RolloutEvent:  # fmt: skip
        """Record a decision that lets it run on: `hold`, or `next step` with the new step and share.

        ConflictError when anything was decided after the event `after`.
        """
        with self._store.write("rollout") as connection:
            self._expect(connection, rollout, after)
            now = self._clock.now()
            step, share = after.step if step is None else step, after.share if share is None else share
            return append(
                connection,
                rollout,
                action,
                at=now,
                state=RUNNING,
                step=step,
                share=share,
                reason=reason,
                evidence=evidence,
            )

    def end(self, rollout: Rollout, action: str, reason: str, evidence: Plain) -> RolloutEvent:
        """End it: `promote`, `roll back` or `stop`. ConflictError when it has ended; then nothing is moved.

        A promotion is refused (ConflictError) when what answers is not what the candidate was compared with.
        """
        with self._store.write("end rollout") as connection:
            made = end(connection, rollout, action, at=self._clock.now(), reason=reason, evidence=evidence)
            if action == "promote":
                self._deployments.promote(
                    self._deployments.get(rollout.candidate), after=rollout.stable, why=f"{rollout.id}: {reason}"
                )
            return made

    def _expect(self, connection: sa.Connection, rollout: Rollout, after: RolloutEvent) -> None:
        last = events(connection, rollout.id)[-1]
        if last.state != RUNNING or last.id != after.id:
            raise ConflictError(
                f"rollout {rollout.id} is {last.state}: {last.reason}",
                where={"target": rollout.target, "rollout": rollout.id, "by": last.who},
            )

    # -- looking ------------------------------------------------------------------------------------------------------

    def get(self, rollout: str) -> Rollout:
        """The rollout of that id, or NotFoundError."""
        with self._store.read() as connection:
            found = rollout_of(connection, rollout)
        if found is None:
            raise NotFoundError(
                f"there is no rollout {rollout!r}", where={"rollout": rollout},
                hint="List them with: holdfast rollout list",
            )  # fmt: skip
        return found

    def running(self) -> dict[str, str]:
        """The id of the rollout of every target that has one."""
        with self._store.read() as connection:
            found = Pointers(connection).all(ROLLOUT)
        return {name.removeprefix(ROLLOUT): rollout for name, rollout in found.items()}

    def current(self, target: str) -> Rollout:
        """The rollout that runs for a target, or NotFoundError."""
        found = self.running().get(target)
        if found is None:
            raise NotFoundError(
                f"{target!r} has no rollout now", where={"target": target},
                hint=f"Start one: holdfast rollout start {target} --canary",
            )  # fmt: skip
        return self.get(found)

    def history(self, target: str | None = None) -> list[Rollout]:
        """All rollouts, of one target or of all, newest first."""
        query = sa.select(rollouts).order_by(rollouts.c.made_at.desc(), rollouts.c.id.desc())
        if target is not None:
            query = query.where(rollouts.c.target == target)
        with self._store.read() as connection:
            return [Rollout(**row._mapping) for row in connection.execute(query)]

    def events(self, rollout: str) -> list[RolloutEvent]:
        """What was decided of it, in order; the last one says how it is."""
        with self._store.read() as connection:
            return events(connection, rollout)
