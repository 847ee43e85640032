"""What both the rooms of deployments and of rollouts do to a running rollout, within a transaction of theirs."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from holdfast.backend.deployment.tables import rollout_events, rollouts
from holdfast.backend.records import Rollout, RolloutEvent
from holdfast.backend.store import Audit, Pointers, actor
from holdfast.errors import ConflictError

__all__ = ["ENDS", "ROLLOUT", "RUNNING", "append", "end", "events", "overtake", "rollout_of"]

ROLLOUT = "rollout:"
"""What the pointer at a target's rollout begins with; it is there as long as the rollout runs."""
RUNNING = "running"
ENDS = {"promote": "promoted", "roll back": "rolled back", "stop": "stopped"}
"""What ends a rollout, and its state afterwards."""


def rollout_of(connection: sa.Connection, rollout: str) -> Rollout | None:
    """The rollout of that id."""
    row = connection.execute(sa.select(rollouts).where(rollouts.c.id == rollout)).first()
    return None if row is None else Rollout(**row._mapping)


def events(connection: sa.Connection, rollout: str) -> list[RolloutEvent]:
    """What was decided of it, in order."""
    query = sa.select(rollout_events).where(rollout_events.c.rollout == rollout).order_by(rollout_events.c.id)
    return [RolloutEvent(**row._mapping) for row in connection.execute(query)]


def append(
    connection: sa.Connection, rollout: Rollout, action: str, *, at: int, state: str, step: int, share: float,
    reason: str, evidence: Mapping[str, Any],
) -> RolloutEvent:  # fmt: skip
    """Add an event, in the audit log too."""
    values = {
        "rollout": rollout.id, "at": at, "who": actor(), "action": action, "state": state, "step": step,
        "share": share, "reason": reason, "evidence": dict(evidence),
    }  # fmt: skip
    number = connection.execute(rollout_events.insert().values(**values)).inserted_primary_key[0]  # type: ignore[index]
    details = {"rollout": rollout.id, "mode": rollout.mode, "step": step, "share": share, "reason": reason,
               "evidence": dict(evidence)}  # fmt: skip
    Audit(connection).append(
        action, f"{ROLLOUT}{rollout.target}", at=at, before=rollout.stable, after=rollout.candidate, details=details
    )
    return RolloutEvent(id=number, **values)  # type: ignore[arg-type]


def end(
    connection: sa.Connection, rollout: Rollout, action: str, *, at: int, reason: str, evidence: Mapping[str, Any]
) -> RolloutEvent:
    """End it by one of `ENDS` and drop its pointer; the caller moves what answers. ConflictError when it has ended."""
    last = events(connection, rollout.id)[-1]
    if last.state != RUNNING:
        raise ConflictError(
            f"rollout {rollout.id} is {last.state}: {last.reason}",
            where={"target": rollout.target, "rollout": rollout.id, "by": last.who},
        )
    pointers = Pointers(connection)
    if pointers.get(ROLLOUT + rollout.target) == rollout.id:
        pointers.drop(ROLLOUT + rollout.target, at=at, why=f"{action}: {reason}")
    share = 1.0 if action == "promote" else 0.0
    return append(
        connection, rollout, action, at=at, state=ENDS[action], step=last.step, share=share, reason=reason,
        evidence=evidence,
    )  # fmt: skip


def overtake(connection: sa.Connection, target: str, *, at: int, reason: str) -> None:
    """Stop what is on trial for a target, if anything is: what it was compared with answers no more."""
    running = Pointers(connection).get(ROLLOUT + target)
    rollout = None if running is None else rollout_of(connection, running)
    if rollout is not None:
        end(connection, rollout, "stop", at=at, reason=reason, evidence={"code": "overtaken"})
