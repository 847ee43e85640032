"""The whole system at another moment: what was live then, and how to bring it back.

Live are the current version of the data, the current version of every model, and the deployment of every target. They
go back together, in one transaction, after the checks that a deployment makes. Nothing is lost: everything that was
left is still a version, and the way forward is the same command with a later time. A rollout that was not running then
is stopped: it compares with what is left. Feature groups are shown and do not
move: the project file says what they are, and what it says now would be registered again at once.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast.backend.datasets import POINTER
from holdfast.backend.datasets.refs import named
from holdfast.backend.deployment.trials import ROLLOUT, overtake
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import DatasetVersion, ModelVersion
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.loader import check_data, load_predictor
from holdfast.backend.store import Audit, Leases, Pointers
from holdfast.backend.store.checkpoints import Checkpoints
from holdfast.core.timeline import isoformat, parse_instant
from holdfast.errors import ConflictError, HoldfastError, InputError, NotFoundError, nearest

__all__ = ["Moment", "Step", "Travelled", "find_moment", "go_back", "state_at"]

_BRANCH = "dataset.branch"
"""The pointer that holds the name of the current branch of the data, where there are branches."""
_LIVE = (POINTER, _BRANCH, "model:", "deployment:")
"""What goes back: the pointer of the data and its branch, those of models, those of deployments."""
_MAIN = "main"
_NUMBER = re.compile(r"v\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Moment:
    """Where all pointers pointed at some moment: `what` names it, `at` is the instant."""

    what: str
    at: int
    pointers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that goes back: what it is, its version now and then ("" for nothing)."""

    what: str
    name: str
    now: str
    then: str


@dataclass(frozen=True, slots=True)
class Travelled:
    """What went back, or would (`dry_run`). `forward` is the time to go back to in order to undo it."""

    to: str
    at: int
    steps: tuple[Step, ...]
    forward: str
    dry_run: bool


def find_moment(rooms: Rooms, to: str) -> Moment:
    """The moment that `to` names: a checkpoint, a data version by its number, id, tag or branch (the last moment at
    which it was current), or a time (naive ones in the project's time zone).

    NotFoundError for an unknown version, ConflictError for one that was never current, InputError for what is no time
    or lies before the first import.
    """
    with rooms.store.read() as connection:
        pointers = Pointers(connection)
        kept = {one.name: one for one in Checkpoints(connection).list()}
        if to in kept:
            return Moment(f"checkpoint {to}", kept[to].made_at, kept[to].pointers)
        now = rooms.clock.now()
        if _NUMBER.fullmatch(to) or to.startswith("data_") or named(connection, to):
            version = rooms.datasets.get(to)
            left = _last_moment(pointers, version, now)
            return Moment(f"data {version.version}", left, pointers.all() if left == now else pointers.at(left))
        try:
            moment = parse_instant(to, rooms.settings.timezone)
        except InputError as error:
            names = [*rooms.datasets.refs.tags(), *rooms.datasets.refs.branches()]
            known = [*kept, *(one.version for one in rooms.datasets.list()), *names]
            raise InputError(
                f"{to!r} is no time, no data version and no checkpoint", where={"to": to}, hint=nearest(to, known)
            ) from error
        found = pointers.at(moment)
        if POINTER not in found:
            first = pointers.history(POINTER)
            raise InputError(
                f"there was no data at {isoformat(moment)}",
                where={"to": to},
                hint=f"The first import was at {isoformat(first[0].at)}." if first else "Nothing was imported yet.",
            )
        return Moment(isoformat(moment), moment, found)


def _last_moment(pointers: Pointers, version: DatasetVersion, now: int) -> int:
    moves = pointers.history(POINTER)
    if not any(move.after == version.id for move in moves):
        raise ConflictError(f"data {version.version} was never current", where={"version": version.version})
    if moves[-1].after == version.id:
        return now
    return max(move.at for move in moves if move.before == version.id) - 1


def state_at(rooms: Rooms, to: str) -> dict[str, Any]:
    """What was live at a moment, as plain data: data, feature sets, feature groups, models, deployments."""
    moment = find_moment(rooms, to)
    data = _dataset(rooms, moment.pointers.get(POINTER))
    models = _models(rooms, moment.pointers)
    used = {version.feature_set for version in models.values()}
    sets: dict[str, str] = {}
    for record in rooms.features.sets():  # newest first
        if record.id in used or record.made_at <= moment.at:
            sets.setdefault(record.name, record.id)
    return {
        "moment": moment.what,
        "at": isoformat(moment.at),
        "data": None if data is None else {"version": data.version, "id": data.id, "period": data.period},
        "feature_sets": dict(sorted(sets.items())),
        "feature_groups": _named(moment.pointers, "group/"),
        "models": {name: {"version": one.version, "id": one.id} for name, one in models.items()},
        "deployments": {
            target: {"id": one, "models": _answering(rooms, one)}
            for target, one in _named(moment.pointers, "deployment:").items()
        },
    }


def _named(pointers: Mapping[str, str], prefix: str) -> dict[str, str]:
    found = {name.removeprefix(prefix): target for name, target in pointers.items() if name.startswith(prefix)}
    return dict(sorted(found.items()))


def _dataset(rooms: Rooms, identity: str | None) -> DatasetVersion | None:
    return None if identity is None else rooms.datasets.get(identity)


def _models(rooms: Rooms, pointers: Mapping[str, str]) -> dict[str, ModelVersion]:
    return {name: rooms.registry.get(name, identity) for name, identity in _named(pointers, "model:").items()}


def _answering(rooms: Rooms, deployment: str) -> dict[str, str]:
    models = rooms.deployments.get(deployment).models
    return {label: rooms.registry.get(identity).version for label, identity in sorted(models.items())}


def go_back(rooms: Rooms, to: str, *, dry_run: bool = False, why: str = "") -> Travelled:
    """Bring data, models and deployments back to a moment, together; what was not there then is current no more.

    Everything that would be live is loaded and replayed first, and the data must be able to give its features:
    ConflictError, IntegrityError or NotFoundError name what cannot, and nothing has moved. Errors of `find_moment` too.
    LockedError while something of it is being changed.
    """
    moment = find_moment(rooms, to)
    with rooms.store.read() as connection:
        before = Pointers(connection).all()
    goal = {name: target for name, target in moment.pointers.items() if _live(name)}
    if POINTER in before and POINTER not in goal:
        raise InputError(f"there was no data at {moment.what}", where={"to": to}, hint="Choose a later moment.")
    names = [name for name in _ordered({*goal, *before}) if before.get(name) != goal.get(name)]
    trials = _overtaken(before, moment, names)
    steps = (
        *(_step(rooms, name, before.get(name), goal.get(name)) for name in names),
        *(Step("rollout", target, rollout, "") for target, rollout in trials.items()),
    )
    _check(rooms, goal, moment)
    forward = rooms.clock.now()
    done = Travelled(moment.what, moment.at, steps, isoformat(forward), dry_run)
    if dry_run or not steps:
        return done
    with (
        Leases(rooms.store, rooms.clock).hold(_leases(names), doing=f"rollback to {moment.what}"),
        rooms.datasets.changing("rollback"),
    ):
        said = why or f"rollback to {moment.what}"
        with rooms.store.write("roll back everything") as connection:
            pointers = Pointers(connection)
            # Later than `forward`, so that a rollback to that time finds what was there before this one.
            now = max(rooms.clock.now(), forward + 1)
            Audit(connection).append(
                "rollback", "project", at=now, details={"to": moment.what, "steps": len(steps), "why": said}
            )
            _stop(connection, trials, at=now, why=said)
            if _BRANCH in names:  # the branch that is left keeps its tip
                pointers.move(f"branch:{before.get(_BRANCH, _MAIN)}", before[POINTER], at=now, why=said)
            for name in names:
                if name in goal:
                    pointers.move(name, goal[name], at=now, why=said, expect=before.get(name))
                elif pointers.get(name) == before[name]:
                    pointers.drop(name, at=now, why=said)
                else:
                    raise ConflictError(f"{name} moved meanwhile", hint="Look again, then repeat.")
        rooms.datasets.refresh_face()
    rooms.registry.refresh()
    return done


def _overtaken(before: Mapping[str, str], moment: Moment, names: Iterable[str]) -> dict[str, str]:
    """By target: what is on trial now that was not at that moment, or beside another deployment."""
    moved = set(names)
    return {
        target: rollout for target, rollout in _named(before, ROLLOUT).items()
        if moment.pointers.get(ROLLOUT + target) != rollout or f"deployment:{target}" in moved
    }  # fmt: skip


def _stop(connection: sa.Connection, trials: Mapping[str, str], *, at: int, why: str) -> None:
    for target, rollout in trials.items():
        if Pointers(connection).get(ROLLOUT + target) != rollout:
            raise ConflictError(f"{ROLLOUT}{target} moved meanwhile", hint="Look again, then repeat.")
        overtake(connection, target, at=at, reason=why)


def _live(name: str) -> bool:
    return name in (POINTER, _BRANCH) or name.startswith(_LIVE[2:])


def _ordered(names: Iterable[str]) -> list[str]:
    live = [name for name in names if _live(name)]
    return sorted(live, key=lambda name: (next(n for n, prefix in enumerate(_LIVE) if name.startswith(prefix)), name))


def _leases(names: Iterable[str]) -> list[str]:
    return ["data", *(name for name in names if name not in (POINTER, _BRANCH))]


def _step(rooms: Rooms, name: str, now: str | None, then: str | None) -> Step:
    kind, _, rest = name.partition(":")
    if name == POINTER:
        return Step("data", "", *(_dataset_name(rooms, one) for one in (now, then)))
    if name == _BRANCH:
        return Step("branch", "", now or _MAIN, then or _MAIN)
    if kind == "model":
        return Step(
            "model", rest, *("" if one is None else rooms.registry.get(rest, one).version for one in (now, then))
        )
    return Step("deployment", rest, now or "", then or "")


def _dataset_name(rooms: Rooms, identity: str | None) -> str:
    found = _dataset(rooms, identity)
    return "" if found is None else found.version


def _check(rooms: Rooms, goal: Mapping[str, str], moment: Moment) -> None:
    """Refuse what could not be live: what a deployment checks, and that models and data are still there."""
    data = _dataset(rooms, goal.get(POINTER))
    archived = rooms.registry.archived()
    for name, version in _models(rooms, goal).items():
        where = {"model": name, "version": version.version}
        if version.id in archived:
            raise ConflictError(
                f"model {name} {version.version}, which was current then, is archived", where=where,
                hint="Choose another moment.",
            )  # fmt: skip
        try:
            load_bundle(rooms.blobs.path(version.serving), version.serving)
        except HoldfastError as error:
            raise type(error)(error.message, where={**where, **error.where}, hint=error.hint) from error
    for deployment in _named(goal, "deployment:").values():
        check_data(load_predictor(rooms.deployments.get(deployment), rooms.sources), data)
    if data is not None:
        for table in data.schema["tables"]:
            for part in rooms.datasets.manifest(data.id, table["name"]):
                if not rooms.blobs.has(part.digest):
                    raise NotFoundError(
                        f"data {data.version}, which was current at {moment.what}, is not complete any more",
                        where={"table": table["name"], "blob": part.digest},
                        hint="Restore it from a backup, or choose another moment.",
                    )
