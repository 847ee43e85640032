"""The deployment records and the pointer `deployment:<target>`."""

from collections.abc import Mapping

import sqlalchemy as sa

from holdfast.backend.ports import Clock
from holdfast.backend.records import Deployment, new_id
from holdfast.backend.store import Pointers, Store, metadata
from holdfast.errors import ConflictError, InputError, NotFoundError

__all__ = ["Deployments"]

_PREFIX = "deployment:"
_deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False, index=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("parents", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)


class Deployments:
    """What was and is deployed. A deployment never changes: a change makes a new one and moves the pointer."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def deploy(self, target: str, models: Mapping[str, str], note: str = "", *, after: str | None = None) -> Deployment:
        """Record a deployment of `models` (label → ModelVersion id) and make it current, in one transaction.

        `after` is the id of the deployment that the caller saw as current (None: there was none); ConflictError when
        another one was deployed meanwhile. Whether the models can serve is checked before, in `pipelines.deploy`.
        """
        if not models:
            raise InputError(f"a deployment of {target!r} needs at least one model", where={"target": target})
        now = self._clock.now()
        made = Deployment(
            id=new_id("dep", now),
            target=target,
            made_at=now,
            models=dict(models),
            parents=(after,) if after else (),
            note=note,
        )
        with self._store.write("deploy") as connection:
            row = {name: getattr(made, name) for name in Deployment.__dataclass_fields__}
            connection.execute(_deployments.insert().values(row | {"parents": list(made.parents)}))
            Pointers(connection).move(_PREFIX + target, made.id, at=now, why=note or "deploy", expect=after)
        return made

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
            Pointers(connection).move(
                _PREFIX + target, goal.id, at=self._clock.now(), why=why or "rollback", expect=current.id
            )
        return goal


def _record(row: "sa.Row[tuple[object, ...]]") -> Deployment:
    return Deployment(**{**row._mapping, "parents": tuple(row.parents)})
