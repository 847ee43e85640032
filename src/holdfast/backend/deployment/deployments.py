"""The deployment records and the pointer `deployment:<target>`."""

from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from holdfast.backend.deployment.routes import Arm, Route
from holdfast.backend.deployment.tables import deployments as _deployments
from holdfast.backend.deployment.tables import rollout_events, rollouts
from holdfast.backend.deployment.trials import ROLLOUT, overtake
from holdfast.backend.ports import Clock
from holdfast.backend.records import Deployment, new_id
from holdfast.backend.store import Pointers, Store
from holdfast.errors import ConflictError, InputError, NotFoundError

__all__ = ["Deployments"]

_PREFIX = "deployment:"


class Deployments:
    """What was and is deployed. A deployment never changes: a change makes a new one and moves the pointer.

    Whatever moves it, but the promotion of a candidate, stops the rollout of the target in the same transaction.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def deploy(self, target: str, models: Mapping[str, str], note: str = "", *, after: str | None = None) -> Deployment:
        """Record a deployment of `models` (label → ModelVersion id) and make it current, in one transaction.

        `after` is the id of the deployment that the caller saw as current (None: there was none); ConflictError when
        another one was deployed meanwhile. Whether the models can serve is checked before, in `pipelines.deploy`.
        """
        with self._store.write("deploy") as connection:
            made = self.record(target, models, note, after=after)
            self._move(connection, target, made.id, note or "deploy", after)
        return made

    def record(self, target: str, models: Mapping[str, str], note: str = "", *, after: str | None = None) -> Deployment:
        """Record a deployment that does not answer yet, or only on trial; `after` is what it would follow."""
        if not models:
            raise InputError(f"a deployment of {target!r} needs at least one model", where={"target": target})
        now = self._clock.now()
        parents = (after,) if after else ()
        made = Deployment(new_id("dep", now), target, now, dict(models), parents, note)
        with self._store.write("record deployment") as connection:
            row = {name: getattr(made, name) for name in Deployment.__dataclass_fields__}
            connection.execute(_deployments.insert().values(row | {"parents": list(made.parents)}))
        return made

    def promote(self, deployment: Deployment, *, after: str, why: str) -> None:
        """Let a recorded deployment answer in place of `after`; ConflictError when another one does by now."""
        with self._store.write("promote deployment") as connection:
            self._move(connection, deployment.target, deployment.id, why, after)

    def _move(self, connection: sa.Connection, target: str, to: str, why: str, expect: str | None) -> None:
        now = self._clock.now()
        Pointers(connection).move(_PREFIX + target, to, at=now, why=why, expect=expect)
        # A promotion has ended its rollout before.
        overtake(connection, target, at=now, reason=f"another deployment answers by now: {to}")

    def get(self, deployment: str) -> Deployment:
        """The deployment of that id, or NotFoundError."""
        with self._store.read() as connection:
            row = connection.execute(sa.select(_deployments).where(_deployments.c.id == deployment)).first()
        if row is None:
            raise NotFoundError(
                f"there is no deployment {deployment!r}",
                where={"deployment": deployment},
                hint="List them with: holdfast deployments list",
            )
        return _record(row)

    def history(self, target: str | None = None) -> list[Deployment]:
        """All deployments, of one target or of all, newest first."""
        query = sa.select(_deployments).order_by(_deployments.c.made_at.desc(), _deployments.c.id.desc())
        if target is not None:
            query = query.where(_deployments.c.target == target)
        with self._store.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def current(self, target: str) -> Deployment | None:
        """What answers for `target` now, or None."""
        deployment = self.pointers().get(target)
        return None if deployment is None else self.get(deployment)

    def pointers(self) -> dict[str, str]:
        """The id of the current deployment of every target that has one."""
        with self._store.read() as connection:
            found = Pointers(connection).all(_PREFIX)
        return {name.removeprefix(_PREFIX): deployment for name, deployment in found.items()}

    def routes(self) -> dict[str, Route]:
        """Where the requests of every target that has a deployment go; one short read.

        A rollout counts only while what it is compared with is what answers.
        """
        with self._store.read() as connection:
            pointers = Pointers(connection)
            stable, running = pointers.all(_PREFIX), pointers.all(ROLLOUT)
            arms = dict(_arms(connection, list(running.values()))) if running else {}
        routes = {}
        for name, deployment in stable.items():
            target = name.removeprefix(_PREFIX)
            rollout = running.get(ROLLOUT + target, "")
            beside = arms.get(rollout)
            compared = beside is not None and beside[0] == deployment
            routes[target] = Route(deployment, (beside[1],), rollout) if beside and compared else Route(deployment)
        return routes

    def before(self, target: str, to: str | None = None) -> tuple[Deployment, Deployment]:
        """The current deployment and the one that `rollback(target, to)` would go back to.

        NotFoundError when nothing is deployed or `to` is not known; ConflictError when there is nothing to go back to.
        """
        current = self.current(target)
        if current is None:
            raise NotFoundError(f"nothing is deployed for {target!r}", where={"target": target})
        if to is None:
            if not current.parents:
                raise ConflictError(
                    f"{current.id} is the first deployment of {target!r}; there is none before it",
                    where={"target": target, "deployment": current.id},
                )
            to = current.parents[0]
        goal = self.get(to)
        if goal.target != target:
            raise ConflictError(
                f"{goal.id} is a deployment of {goal.target!r}, not of {target!r}",
                where={"target": target, "deployment": goal.id},
            )
        return current, goal

    def rollback(self, target: str, to: str | None = None, *, why: str = "rollback") -> Deployment:
        """Point back at deployment `to`, by default the one before the current; errors as of `before`.

        Going back twice goes back two deployments; the moves stay in the pointer's history.
        """
        current, goal = self.before(target, to)
        with self._store.write("roll back deployment") as connection:
            self._move(connection, target, goal.id, why or "rollback", current.id)
        return goal

    def withdraw(self, target: str, *, why: str = "withdrawn") -> str:
        """Let nothing answer for `target` until it is resumed or deployed; returns what answered. NotFoundError."""
        with self._store.write("withdraw deployment") as connection:
            pointers = Pointers(connection)
            current = pointers.get(_PREFIX + target)
            if current is None:
                raise NotFoundError(f"nothing is deployed for {target!r}", where={"target": target})
            now = self._clock.now()
            pointers.drop(_PREFIX + target, at=now, why=why)
            overtake(connection, target, at=now, reason=f"nothing answers any more: {why}")
        return current

    def resume(self, target: str, *, why: str = "resumed") -> None:
        """Point at what was withdrawn. ConflictError when something was deployed meanwhile; NotFoundError."""
        with self._store.write("resume deployment") as connection:
            last = self._last(Pointers(connection), target)
            self._move(connection, target, last, why, None)

    def last(self, target: str) -> str:
        """The id of the deployment that answers for `target` or, where it was withdrawn, answered last."""
        with self._store.read() as connection:
            return self._last(Pointers(connection), target)

    def _last(self, pointers: Pointers, target: str) -> str:
        moves = pointers.history(_PREFIX + target)
        if not moves:
            raise NotFoundError(f"nothing was ever deployed for {target!r}", where={"target": target})
        return moves[-1].after or str(moves[-1].before)


def _arms(connection: sa.Connection, running: list[str]) -> Iterator[tuple[str, tuple[str, Arm]]]:
    """By rollout: the stable deployment it is compared with, and its arm."""
    newest = (
        sa.select(rollout_events.c.rollout, sa.func.max(rollout_events.c.id).label("id"))
        .where(rollout_events.c.rollout.in_(running))
        .group_by(rollout_events.c.rollout)
        .subquery()
    )
    query = (
        sa.select(rollouts, rollout_events.c.share)
        .join(newest, newest.c.rollout == rollouts.c.id)
        .join(rollout_events, rollout_events.c.id == newest.c.id)
    )
    for row in connection.execute(query):
        yield row.id, (row.stable, Arm(row.candidate, row.share, row.mode))


def _record(row: "sa.Row[tuple[object, ...]]") -> Deployment:
    return Deployment(**{**row._mapping, "parents": tuple(row.parents)})
