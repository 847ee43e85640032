"""The control plane's routes of rollouts and outcomes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from holdfast.backend.access import Role
from holdfast.backend.api.guard import needs
from holdfast.backend.deployment import OutcomesAdded, Rollouts
from holdfast.backend.pipelines.rollout import Watchers
from holdfast.backend.records import Rollout, RolloutEvent
from holdfast.core.timeline import isoformat

__all__ = ["RolloutRooms", "add_rollouts"]

Plain = dict[str, Any]


@dataclass(frozen=True)
class RolloutRooms:
    """What the routes ask, and the watchers of this process.

    `start` (target, models or None for the newest, mode, share, seconds, note) and `end` (target, promote or stop, why)
    do their work as jobs; `status` is `pipelines.rollout.status`.
    """

    rollouts: Rollouts
    start: Callable[..., Rollout]
    end: Callable[[str, str, str], RolloutEvent]
    status: Callable[[Rollout], Plain]
    add_outcomes: Callable[[list[Plain]], OutcomesAdded]
    watchers: Watchers


class StartRequest(BaseModel):
    """What to try: `models` maps label to model version id; without it, the newest version of every label.

    `share` (of requests) and `seconds` (each step) are by default those of the project file.
    """

    model_config = ConfigDict(extra="forbid")
    mode: Literal["canary", "shadow", "ab", "green"]
    models: dict[str, str] | None = None
    share: float | None = Field(None, gt=0, le=1)
    seconds: float | None = Field(None, gt=0)
    note: str = ""


class EndRequest(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")
    why: str = ""


class OutcomeRow(BaseModel):
    """What became of a prediction: a label of it (0 or 1, a class, a number), or a metric of your own (a number)."""

    model_config = ConfigDict(extra="forbid")
    prediction: str
    label: str
    value: float | int | bool | str


class OutcomesRequest(BaseModel):
    """Outcomes; all are recorded, or none."""

    model_config = ConfigDict(extra="forbid")
    outcomes: list[OutcomeRow] = Field(min_length=1, max_length=5_000)


def add_rollouts(app: FastAPI, rooms: RolloutRooms) -> None:
    """Add the routes to the application."""

    @app.get("/v1/rollouts", summary="All rollouts, newest first")
    @needs(Role.VIEWER)
    def rollouts(target: str | None = None) -> list[Plain]:
        return [{**_shown(one), **_state(rooms, one)} for one in rooms.rollouts.history(target)]

    @app.get("/v1/targets/{target}/rollout", summary="How the rollout of a target goes: counts, findings, events")
    @needs(Role.VIEWER)
    def current(target: str) -> Plain:
        return rooms.status(rooms.rollouts.current(target))

    @app.get("/v1/rollouts/{rollout}", summary="How a rollout went: findings and events")
    @needs(Role.VIEWER)
    def one(rollout: str) -> Plain:
        return rooms.status(rooms.rollouts.get(rollout))

    @app.post("/v1/targets/{target}/rollout", status_code=201, summary="Put models on trial")
    @needs(Role.OPERATOR)
    def start(target: str, request: StartRequest) -> Plain:
        made = rooms.start(
            target, request.models, request.mode, share=request.share, seconds=request.seconds, note=request.note
        )
        return {**_shown(made), **_state(rooms, made)}

    @app.post("/v1/targets/{target}/rollout/promote", summary="Let the candidate answer everything, now")
    @needs(Role.OPERATOR)
    def promote(target: str, request: EndRequest) -> Plain:
        return event(rooms.end(target, "promote", request.why))

    @app.post("/v1/targets/{target}/rollout/stop", summary="End the rollout: the stable deployment answers everything")
    @needs(Role.OPERATOR)
    def stop(target: str, request: EndRequest) -> Plain:
        return event(rooms.end(target, "stop", request.why))

    @app.post("/v1/outcomes", summary="Tell what became of predictions")
    @needs(Role.SCIENTIST)
    def outcomes(request: OutcomesRequest) -> Plain:
        return asdict(rooms.add_outcomes([row.model_dump() for row in request.outcomes]))


def event(made: RolloutEvent) -> Plain:
    """An event as plain data."""
    return {**asdict(made), "at": isoformat(made.at)}


def _shown(made: Rollout) -> Plain:
    return {**asdict(made), "made_at": isoformat(made.made_at)}


def _state(rooms: RolloutRooms, made: Rollout) -> Mapping[str, Any]:
    last = rooms.rollouts.events(made.id)[-1]
    return {"state": last.state, "step": last.step, "share": last.share, "reason": last.reason}
