"""Rollouts: begin one, watch it, end it.

A rollout is a durable job of kind `rollout`. Whoever holds its lease is its watcher: every few seconds it looks at what
both arms did, decides (`core.decide`), and records what it decided, with the evidence, in one transaction with the move
of the pointers. If it dies, another goes on from the last event; a decision that was made is not made twice.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from holdfast.backend.deployment import Outcomes, Rollouts
from holdfast.backend.deployment.rollouts import RUNNING
from holdfast.backend.jobs import Engine, Running
from holdfast.backend.pipelines.evidence import (
    EDGES,
    Find,
    Joined,
    counts_from,
    logged,
    meters_id,
    plain_counts,
    read_counts,
)
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import Deployment, Rollout, RolloutEvent, new_id
from holdfast.backend.serving.loader import check_data, load_predictor
from holdfast.backend.settings import DeploymentSettings, Settings
from holdfast.backend.store import Audit, acting
from holdfast.core.decide import Counts, Decision, Evidence, Policy, Recent, Rules, Step, decide, quantile
from holdfast.core.timeline import isoformat
from holdfast.errors import ConflictError, HoldfastError, LockedError, NotFoundError, UnavailableError

__all__ = ["KIND", "LOOK", "MODES", "Asked", "Senses", "WatchRooms", "Watcher", "Watchers", "begin", "finish",
           "job_key", "plain_policy", "policy_from", "policy_of", "senses", "start_of", "status",
           "watch"]  # fmt: skip

LOOK = 2.0
"""Seconds between two looks."""
MODES = ("canary", "shadow", "ab", "green")
KIND = "rollout"
"""The kind of the job that watches."""
WHO = "rollout watcher"
"""Who decides by rule."""
_SECOND = 1_000_000
_KEPT = ("baseline", "meters", "outcomes")
"""What an event keeps for the watcher, and says nothing to people."""
_log = logging.getLogger("holdfast.rollout")
Plain = dict[str, Any]


def policy_of(
    settings: DeploymentSettings, mode: str, *, share: float | None = None, seconds: float | None = None
) -> Policy:
    """The policy of a target's settings; `share` is that of an A/B test, a shadow, or a canary's first step.

    `seconds` is how long each step lasts. A canary's later steps are those of the settings that are larger.
    """
    said = settings.rules
    rules = Rules(
        said.error_rate, said.latency, said.auc_drop, said.shift, said.min_requests, said.min_labels, said.alpha
    )
    window, ab = said.window_seconds, settings.ab
    if mode == "ab":
        steps = [Step(share or ab.share, ab.seconds)]
    elif mode == "canary":
        steps = [Step(one.share, one.seconds) for one in settings.canary.steps]
        if share is not None:
            steps = [Step(share, steps[0].seconds), *(one for one in steps if one.share > share)]
    else:
        steps = [Step(share or 1.0, (settings.shadow if mode == "shadow" else settings.blue_green).seconds)]
    if seconds is not None:
        steps = [replace(one, seconds=seconds) for one in steps]
    higher = ab.metric is not None and ab.goal == "higher"
    return Policy(mode, tuple(steps), rules, ab.alpha, ab.metric, higher, window)  # type: ignore[arg-type]


def plain_policy(policy: Policy) -> Plain:
    """A policy as plain data."""
    return {**asdict(policy), "steps": [asdict(step) for step in policy.steps]}


def policy_from(kept: Mapping[str, Any]) -> Policy:
    """What `plain_policy` made."""
    steps = tuple(Step(**one) for one in kept["steps"])
    return Policy(**{**kept, "steps": steps, "rules": Rules(**kept["rules"])})


def start_of(
    settings: Settings, target: str, models: Mapping[str, str], mode: str, *,
    share: float | None = None, seconds: float | None = None, note: str = "",
) -> Plain:  # fmt: skip
    """The arguments of the job that starts a rollout, with the policy that the project file has now."""
    said = settings.deployments.get(target, DeploymentSettings())
    policy = plain_policy(policy_of(said, mode, share=share, seconds=seconds))
    return {"target": target, "models": dict(models), "policy": policy, "note": note}


@dataclass(frozen=True)
class Senses:
    """What is looked at: the counts of all deployments, the prediction log, and whether a deployment could answer.

    `check` raises HoldfastError when it could not. `meters` says which counters they are: every machine has its own.
    """

    counts: Callable[[], Mapping[str, Counts]]
    find: Find
    check: Callable[[Deployment], None]
    meters: Callable[[], str]

    def baseline(self, mode: str, stable: str, candidate: str) -> Plain:
        """Where counting begins now, to be kept with an event: what both arms have done until then does not count."""
        counted = self.counts()
        # What blue/green compares with is what the old one did before the switch.
        before = Counts() if mode == "green" else counted.get(stable, Counts())
        arms = [plain_counts(before), plain_counts(counted.get(candidate, Counts()))]
        return {"baseline": arms, "meters": self.meters()}


def senses(rooms: Rooms) -> Senses:
    """Those of a project."""

    def check(deployment: Deployment) -> None:
        check_data(load_predictor(deployment, rooms.sources), rooms.sources.dataset())

    log = rooms.prediction_log
    return Senses(partial(read_counts, log), logged(log), check, partial(meters_id, log))


@dataclass(frozen=True)
class Asked:
    """What is to be tried: `models` (label → ModelVersion id) of a target, how, and why."""

    target: str
    models: Mapping[str, str]
    policy: Policy
    note: str = ""


def begin(
    rooms: Rooms, running: Running, asked: Asked, seen: Senses, send: Callable[[sa.Connection, str], object]
) -> Rollout:
    """Put models on trial, after the checks of a deployment.

    `send(connection, rollout)` sends the job that watches it, in the transaction that starts it. NotFoundError when
    nothing is deployed yet; ConflictError when a rollout runs already, or the models are those that answer.
    """
    done = running.result("start")
    if done is not None:
        return Rollouts(rooms.store, rooms.clock, rooms.deployments).get(done)
    target, models, policy, note = asked.target, dict(asked.models), asked.policy, asked.note
    rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
    current = rooms.deployments.current(target)
    if current is None:
        raise NotFoundError(
            f"nothing is deployed for {target!r} that a candidate could be compared with", where={"target": target},
            hint=f"Deploy it: holdfast deploy {target}",
        )  # fmt: skip
    if models == current.models:
        raise ConflictError(
            f"these are the models that answer for {target!r} already", where={"deployment": current.id},
            hint=f"Train others, or name versions: --version LABEL=vX.Y. See: holdfast models list {target}",
        )  # fmt: skip
    now = rooms.clock.now()
    seen.check(Deployment(new_id("dep", now), target, now, models, (), note))

    def do(connection: sa.Connection) -> str:
        candidate = rooms.deployments.record(target, models, note, after=current.id)
        evidence = seen.baseline(policy.mode, current.id, candidate.id)
        # Outcomes that were told before are of predictions that do not count, but of what blue/green compares with.
        evidence["outcomes"] = -1 if policy.mode == "green" else Audit(connection).head().id
        made = rollouts.start(
            candidate, policy.mode, plain_policy(policy), stable=current.id, share=policy.steps[0].share,
            evidence=evidence, note=note,
        )  # fmt: skip
        send(connection, made.id)
        return made.id

    return rollouts.get(running.commit("start", do))


def finish(rooms: Rooms, running: Running, rollout: Rollout, action: str, why: str, *, seen: Senses) -> RolloutEvent:
    """End a rollout by hand: `promote` (after the checks of a deployment) or `stop`.

    ConflictError when it has ended.
    """
    rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
    if action == "promote":
        seen.check(rooms.deployments.get(rollout.candidate))
    running.commit(action, lambda _connection: rollouts.end(rollout, action, why or "by hand", {}).id)
    return rollouts.events(rollout.id)[-1]


def job_key(rollout: str) -> str:
    """The key of the job that watches a rollout."""
    return f"{KIND}:{rollout}"


class WatchRooms(Rooms, Protocol):
    """What watching needs besides the rooms."""

    leaving: threading.Event
    """Set when this process is to watch no more."""

    @property
    def engine(self) -> Engine:
        """Runs jobs."""
        ...


def watch(rooms: WatchRooms, running: Running, rollout: Rollout) -> RolloutEvent:
    """Watch a rollout until it ends. LockedError when this process has to leave: another one goes on."""
    watcher = Watcher(rooms, rollout, senses(rooms))
    while True:
        try:
            with acting(WHO):
                event = watcher.look(running)
        except UnavailableError as error:
            _log.warning("%s is looked at again when that can be: %s", rollout.id, error)
        else:
            if event.state != RUNNING:
                return event
        if rooms.leaving.wait(LOOK):
            raise LockedError(f"{rollout.id} is watched by another process from now on")


class Watcher:
    """Watches one rollout. To be used by one thread."""

    def __init__(self, rooms: Rooms, rollout: Rollout, seen: Senses) -> None:
        self.rollout = rollout
        self.policy = policy_from(rollout.policy)
        self.rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
        self._rooms = rooms
        self._seen = seen
        self._joined = Joined(rollout, Outcomes(rooms.store, rooms.clock), seen.find)
        self._stretch, self._window = -1, 0
        self._opened: tuple[Counts, Counts] | None = None

    def evidence(self, events: list[RolloutEvent]) -> Evidence:
        """What is known now."""
        began, step = _began(events), next(one for one in events if one.step == events[-1].step)
        now, counted = self._rooms.clock.now(), self._seen.counts()
        baseline = [counts_from(one) for one in began.evidence["baseline"]]
        total = [counted.get(name, Counts()) for name in (self.rollout.stable, self.rollout.candidate)]
        stable, candidate = (one.since(earlier) for one, earlier in zip(total, baseline, strict=True))
        if self._joined.after < 0:
            self._joined.after = events[0].evidence.get("outcomes", -1)
        self._joined.read_on(now)
        outcome = None
        if self.policy.mode == "ab":
            outcome = self._joined.outcome(self.policy.metric, higher=self.policy.higher)
        return Evidence(
            (now - step.at) / _SECOND, stable, candidate, EDGES, self._recent(began, now, stable, candidate),
            self._joined.quality, outcome, sum("baseline" in one.evidence for one in events),
        )  # fmt: skip

    def _recent(self, began: RolloutEvent, now: int, stable: Counts, candidate: Counts) -> Recent | None:
        """The window of the stretch that is open now; none in the first one, which is the stretch itself.

        A window that was half over when this watcher came is left out: another one may have tested it already.
        """
        number = int((now - began.at) // max(round(self.policy.window * _SECOND), 1))
        if began.id != self._stretch:
            self._stretch, self._window, self._opened = began.id, number, None
        elif number > self._window:
            self._window, self._opened = number, (stable, candidate)
        # A blue/green pair's stable arm has no requests lately: what it did before is what is compared with.
        if self._opened is None or self.policy.mode == "green":
            return None
        return Recent(self._window, stable.since(self._opened[0]), candidate.since(self._opened[1]))

    def decision(self, events: list[RolloutEvent]) -> Decision:
        """What is to be done now, without doing it."""
        answering = self._rooms.deployments.pointers().get(self.rollout.target)
        if answering != self.rollout.stable:
            return Decision("stop", "overtaken", f"another deployment answers by now: {answering or 'none'}")
        made = decide(self.policy, events[-1].step, self.evidence(events))
        if made.action != "promote":
            return made
        try:
            self._seen.check(self._rooms.deployments.get(self.rollout.candidate))
        except HoldfastError as error:
            return replace(made, action="roll back", code="unfit", reason=f"it could not be deployed: {error}")
        return made

    def look(self, running: Running) -> RolloutEvent:
        """Look once, and do and record what is decided; returns the last event."""
        events = self.rollouts.events(self.rollout.id)
        last = events[-1]
        if last.state != RUNNING:
            return last
        if not self.counts_here(events):
            begun = last
            # Somebody may have decided meanwhile, by hand.
            with contextlib.suppress(ConflictError):
                running.commit(f"after {begun.id}", lambda _connection: self._count_anew(begun).id)
            events = self.rollouts.events(self.rollout.id)
            last = events[-1]
            if last.state != RUNNING or not self.counts_here(events):
                return last
        made = self.decision(events)
        running.progress(last.step, len(self.policy.steps), f"{made.action}: {made.reason}")
        if made.action == "hold" and last.evidence.get("code") == made.code:
            return last
        try:
            running.commit(f"after {last.id}", lambda _connection: self._do(made, last).id)
        except ConflictError:
            # Somebody decided meanwhile, by hand; the next look sees what.
            _log.info("%s: decided otherwise meanwhile", self.rollout.id)
        else:
            level = logging.WARNING if made.action == "roll back" else logging.INFO
            _log.log(level, "%s of %r: %s: %s", self.rollout.mode, self.rollout.target, made.action, made.reason)
        return self.rollouts.events(self.rollout.id)[-1]

    def counts_here(self, events: list[RolloutEvent]) -> bool:
        """Whether the counters that are read here are those that the rollout's counts began with."""
        return bool(_began(events).evidence.get("meters") == self._seen.meters())

    def _count_anew(self, last: RolloutEvent) -> RolloutEvent:
        evidence = {"code": "counters", **self._baseline()}
        reason = "the counters are another machine's than before: both arms are counted anew"
        return self.rollouts.note(self.rollout, "count anew", reason, evidence, after=last)

    def _baseline(self) -> Plain:
        return self._seen.baseline(self.rollout.mode, self.rollout.stable, self.rollout.candidate)

    def _do(self, made: Decision, last: RolloutEvent) -> RolloutEvent:
        evidence: Plain = {"code": made.code, "findings": [asdict(one) for one in made.findings]}
        if made.action == "hold":
            return self.rollouts.note(self.rollout, "hold", made.reason, evidence, after=last)
        if made.action == "next step":
            evidence |= self._baseline()
            step = last.step + 1
            share = self.policy.steps[step].share
            return self.rollouts.note(
                self.rollout, "next step", made.reason, evidence, after=last, step=step, share=share
            )  # fmt: skip
        return self.rollouts.end(self.rollout, made.action, made.reason, evidence)


def status(rooms: Rooms, rollout: Rollout) -> Plain:
    """How a rollout goes, or went, as plain data: what it is, its events and, while it runs, what is known now."""
    rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
    events = rollouts.events(rollout.id)
    last = events[-1]
    told: Plain = {
        **asdict(rollout),
        "made_at": isoformat(rollout.made_at),
        "state": last.state, "step": last.step, "share": last.share, "reason": last.reason,
        "events": [
            {**asdict(one), "at": isoformat(one.at), "evidence": _without_baseline(one.evidence)} for one in events
        ],
    }  # fmt: skip
    if last.state == RUNNING:
        watcher = Watcher(rooms, rollout, senses(rooms))
        evidence = watcher.evidence(events)
        made = watcher.decision(events)
        if not watcher.counts_here(events):
            evidence = Evidence(evidence.elapsed, Counts(), Counts())
            made = Decision("hold", "counters", "it is watched on another machine, whose counters are not these")
        told["now"] = {
            "action": made.action, "reason": made.reason, "findings": [asdict(one) for one in made.findings],
            "seconds": evidence.elapsed,
            "stable": _counted(evidence.stable), "candidate": _counted(evidence.candidate),
        }  # fmt: skip
    return told


def _began(events: list[RolloutEvent]) -> RolloutEvent:
    """The event with which the counting began that goes on."""
    return next(one for one in reversed(events) if "baseline" in one.evidence)


def _without_baseline(evidence: Mapping[str, Any]) -> Plain:
    return {name: value for name, value in evidence.items() if name not in _KEPT}


def _counted(counts: Counts) -> Plain:
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "p50_ms": quantile(EDGES, counts.latency, 0.5) / 1000,
        "p95_ms": quantile(EDGES, counts.latency, 0.95) / 1000,
    }


class Watchers:
    """The watchers of this process: a thread for each rollout that nobody else watches."""

    def __init__(self, rooms: "WatchRooms") -> None:
        self._rooms = rooms
        self._rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
        self._threads: list[threading.Thread] = []
        self._main = threading.Thread(target=self._run, name="rollouts", daemon=True)

    def start(self) -> None:
        """Watch from now on, in the background."""
        self._main.start()

    def stop(self) -> None:
        """Let another process watch, and return when this one does not any more."""
        self._rooms.leaving.set()
        for thread in (self._main, *self._threads):
            thread.join(10)

    def _run(self) -> None:
        trouble = ""
        while not self._rooms.leaving.wait(LOOK / 2):
            try:
                self._once()
            except Exception as error:  # noqa: BLE001 - a thread's edge: who watches goes on, whatever a look met
                if str(error) != trouble:
                    unforeseen = not isinstance(error, HoldfastError)
                    _log.warning("rollouts are watched again when that can be: %s", error, exc_info=unforeseen)
                trouble = str(error)
            else:
                trouble = ""

    def _once(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        running = self._rollouts.running()
        for rollout in running.values():
            self._end_unwatched(rollout)
        for _ in range(len(running) - len(self._threads)):
            thread = threading.Thread(target=self._rooms.engine.work, args=((KIND,),), name="rollout", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _end_unwatched(self, rollout: str) -> None:
        """A rollout whose job was cancelled or given up is stopped: what nobody watches gets no requests."""
        job = self._rooms.engine.queue.find(job_key(rollout))
        if job is None or job.state in ("cancelled", "dead"):
            said = "is gone" if job is None else f"is {job.state}: {(job.error or {}).get('message') or job.message}"
            with contextlib.suppress(ConflictError), acting(WHO):
                self._rollouts.end(self._rollouts.get(rollout), "stop", f"its job {said}", {})
