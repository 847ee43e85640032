"""Rollouts in every database: begun, watched with a clock of our own, ended once, whatever dies; outcomes."""

import multiprocessing
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.backend.deployment import Deployments, Outcome, Outcomes, Rollouts, Route
from holdfast.backend.jobs import Engine, Handler, Queue, Running
from holdfast.backend.pipelines import rollout as rollouts_module
from holdfast.backend.pipelines.evidence import Answered, meters_id
from holdfast.backend.pipelines.rollout import (
    Asked,
    Senses,
    Watcher,
    begin,
    finish,
    job_key,
    plain_policy,
    policy_from,
    policy_of,
)
from holdfast.backend.records import Rollout, RolloutEvent
from holdfast.backend.settings import DeploymentSettings
from holdfast.backend.store import Audit, Leases, Store, crashpoints
from holdfast.core.decide import Counts, Policy, Rules, Step
from holdfast.errors import ConflictError, IntegrityError, LockedError, NotFoundError
from holdfast.testing.clock import FakeClock

SECOND = 1_000_000
POLICY = Policy("canary", (Step(0.05, 60), Step(0.5, 60)), Rules(min_requests=50))


class World:
    """A project without models: what they did, and whether they load, is said here."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, FakeClock("2024-07-01")
        self.deployments = Deployments(store, self.clock)
        self.rollouts = Rollouts(store, self.clock, self.deployments)
        self.outcomes = Outcomes(store, self.clock)
        self.counts: dict[str, Counts] = {}
        self.log: dict[str, Answered] = {}
        self.unfit = ""
        self.machine = "甲"
        self.senses = Senses(lambda: self.counts, self.find, self.check, lambda: self.machine)
        self.first = self.deployments.deploy("风险", {"高": "m1"})
        handlers = {
            "rollout_start": Handler(self._start, lambda made: made.id, self.rollouts.get),
            "rollout_end": Handler(self._end, lambda made: made.rollout, lambda kept: self.rollouts.events(kept)[-1]),
            "rollout": Handler(self._watch, lambda made: made.state, lambda kept: kept, workers=False),
        }
        self.engine = Engine(Queue(store, self.clock, Leases(store, self.clock, 1.0)), handlers)
        self.leaving = threading.Event()

    def find(self, wanted: Any) -> Mapping[str, Answered]:
        return {one: self.log[one] for one in wanted if one in self.log}

    def check(self, deployment: Any) -> None:
        if self.unfit:
            raise IntegrityError(self.unfit, where={"deployment": deployment.id})

    def _start(self, running: Running, given: Mapping[str, Any]) -> Rollout:
        def send(connection: Any, rollout: str) -> None:
            key = job_key(rollout)
            self.engine.queue.send(connection, "rollout", {"rollout": rollout}, key=key, attempts=1_000_000)

        asked = Asked("风险", {"高": given["model"]}, policy_from(given["policy"]), "试")
        return begin(self, running, asked, self.senses, send)  # type: ignore[arg-type]

    def _end(self, running: Running, given: Mapping[str, Any]) -> RolloutEvent:
        rollout = self.rollouts.get(given["rollout"])
        return finish(self, running, rollout, given["action"], given["why"], seen=self.senses)  # type: ignore[arg-type]

    def _watch(self, running: Running, given: Mapping[str, Any]) -> RolloutEvent:
        """One look, then the process leaves: what is known is only what was recorded."""
        watcher = Watcher(self, self.rollouts.get(given["rollout"]), self.senses)  # type: ignore[arg-type]
        event = watcher.look(running)
        if event.state == "running":
            raise LockedError("it leaves")
        return event

    def start(self, policy: Policy = POLICY, model: str = "m2") -> Rollout:
        made: Rollout = self.engine.run("rollout_start", {"model": model, "policy": plain_policy(policy)})
        return made

    def end(self, rollout: Rollout, action: str) -> RolloutEvent:
        made: RolloutEvent = self.engine.run("rollout_end", {"rollout": rollout.id, "action": action, "why": ""})
        return made

    def look(self, seconds: int = 10) -> str:
        """Time goes on, and a watcher looks."""
        self.clock.advance(seconds * SECOND)
        job = self.engine.work(("rollout",))
        assert job is not None
        return job.state

    def did(self, deployment: str, requests: int, errors: int = 0) -> None:
        before = self.counts.get(deployment, Counts(latency=(0, 0)))
        fast = before.latency[0] + requests - errors
        self.counts[deployment] = Counts(before.requests + requests, before.errors + errors, (fast, *[0] * 31))

    def tail(self, number: int) -> str:
        """The end of the id of a prediction that is made now."""
        return f"{self.clock.now() // 1000:011x}{number:x}"

    def history(self, rollout: Rollout) -> list[tuple[str, str, float]]:
        return [(one.action, one.state, one.share) for one in self.rollouts.events(rollout.id)]


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def test_a_good_canary_walks_its_steps_and_is_promoted(world: World) -> None:
    world.did(world.first.id, 100_000, 900)  # before: it does not count
    made = world.start()
    route = world.deployments.routes()["风险"]
    assert (route.stable, route.salt) == (world.first.id, made.id)
    assert [(arm.deployment, arm.share, arm.mode) for arm in route.arms] == [(made.candidate, 0.05, "canary")]
    assert world.look() == "queued"
    world.did(world.first.id, 950)
    world.did(made.candidate, 50)
    world.look()
    assert world.deployments.routes()["风险"].arms[0].share == 0.05
    world.look(60)
    assert world.deployments.routes()["风险"].arms[0].share == 0.5
    world.look(60)
    world.did(world.first.id, 500)
    world.did(made.candidate, 500, 0)
    assert world.look() == "done"
    assert world.deployments.routes() == {"风险": Route(made.candidate)}
    assert world.history(made) == [
        ("start", "running", 0.05), ("hold", "running", 0.05), ("hold", "running", 0.05),
        ("next step", "running", 0.5), ("hold", "running", 0.5), ("promote", "promoted", 1.0),
    ]  # fmt: skip
    last = world.rollouts.events(made.id)[-1]
    assert "500 requests" in last.reason
    assert world.deployments.current("风险").parents == (world.first.id,)  # type: ignore[union-attr]
    assert world.deployments.rollback("风险").id == world.first.id
    with world.store.read() as connection:
        told = list(Audit(connection).entries(object="rollout:"))
        Audit(connection).verify()
    actions = [one.action for one in told if one.action not in ("point", "drop")]
    assert actions == ["start", "hold", "hold", "next step", "hold", "promote"]
    assert told[-1].details["evidence"]["findings"]
    assert told[-1].details["reason"] == last.reason


def test_a_failing_canary_is_rolled_back_with_the_reason(world: World) -> None:
    made = world.start()
    world.did(world.first.id, 950)
    world.did(made.candidate, 50, 20)
    assert world.look(2) == "done"
    last = world.rollouts.events(made.id)[-1]
    assert (last.action, last.state, last.share) == ("roll back", "rolled back", 0.0)
    assert "error rate 40 % (20 of 50 requests)" in last.reason
    assert world.deployments.routes() == {"风险": Route(world.first.id)}
    assert world.rollouts.running() == {}
    with pytest.raises(NotFoundError, match="has no rollout"):
        world.rollouts.current("风险")
    assert world.start(model="m3").id != made.id


def test_holds_are_recorded_when_their_reason_changes_not_at_every_look(world: World) -> None:
    made = world.start()
    for _ in range(5):
        assert world.look(6) == "queued"
    world.did(made.candidate, 60)
    world.did(world.first.id, 60)
    for _ in range(3):
        world.look(6)
    codes = [one.evidence.get("code") for one in world.rollouts.events(made.id)]
    assert codes == [None, "requests", "time"]


def test_one_rollout_a_target_and_only_of_what_differs(world: World) -> None:
    made = world.start()
    with pytest.raises(ConflictError, match="has a rollout already"):
        world.start(model="m3")
    assert [one.id for one in world.rollouts.history()] == [made.id]
    assert len(world.deployments.history("风险")) == 2
    world.end(made, "stop")
    with pytest.raises(ConflictError, match="that answer for '风险' already"):
        world.start(model="m1")
    world.unfit = "damaged"
    with pytest.raises(IntegrityError, match="damaged"):
        world.start(model="m4")
    assert len(world.rollouts.history()) == 1


def test_by_hand_it_is_promoted_or_stopped_and_the_watcher_sees_it(world: World) -> None:
    made = world.start()
    world.unfit = "gone"
    with pytest.raises(IntegrityError, match="gone"):
        world.end(made, "promote")
    world.unfit = ""
    assert world.end(made, "promote").state == "promoted"
    assert world.deployments.current("风险").id == made.candidate  # type: ignore[union-attr]
    assert world.look() == "done"
    with pytest.raises(ConflictError, match="is promoted"):
        world.end(made, "stop")
    again = world.start(model="m3")
    assert world.end(again, "stop").state == "stopped"
    assert world.deployments.routes()["风险"] == Route(made.candidate)


def test_it_ends_with_whatever_else_moves_what_answers(world: World) -> None:
    made = world.start()
    other = world.deployments.deploy("风险", {"高": "m9"}, after=world.first.id)
    assert world.deployments.routes() == {"风险": Route(other.id)}
    last = world.rollouts.events(made.id)[-1]
    assert (last.action, last.reason) == ("stop", f"another deployment answers by now: {other.id}")
    assert world.rollouts.running() == {}
    # Back within one look: what was on trial is so no more.
    world.deployments.rollback("风险")
    assert world.deployments.routes() == {"风险": Route(world.first.id)}
    with pytest.raises(ConflictError, match="is stopped: another deployment"):
        world.end(made, "promote")
    assert world.look() == "done"
    assert [one.state for one in world.rollouts.events(made.id)] == ["running", "stopped"]
    for move, model in (
        (lambda: world.deployments.withdraw("风险"), "m3"),
        (lambda: world.deployments.rollback("风险", other.id), "m4"),
    ):
        again = world.start(model=model)
        move()
        assert world.rollouts.events(again.id)[-1].state == "stopped"
        assert world.rollouts.running() == {}
        if world.deployments.current("风险") is None:
            world.deployments.resume("风险")
            assert world.deployments.routes() == {"风险": Route(world.first.id)}
    with world.store.read() as connection:
        Audit(connection).verify()


def test_a_candidate_that_cannot_be_deployed_any_more_is_rolled_back(world: World) -> None:
    made = world.start(replace(POLICY, steps=(Step(0.05, 10),)))
    world.did(made.candidate, 60)
    world.did(world.first.id, 60)
    world.unfit = "the bundle is gone"
    assert world.look(11) == "done"
    last = world.rollouts.events(made.id)[-1]
    assert last.action == "roll back"
    assert "could not be deployed: the bundle is gone" in last.reason


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_watcher_killed_while_it_promotes_is_followed_by_another_and_it_happens_once(
    world: World, store: Store, when: str
) -> None:
    made = world.start(replace(POLICY, steps=(Step(0.05, 10),)))
    world.did(made.candidate, 60)
    world.did(world.first.id, 60)
    world.clock.advance(20 * SECOND)
    store.close()
    point = f"commit after {world.rollouts.events(made.id)[-1].id}: {when}#1"
    store.close()
    child = multiprocessing.get_context("fork").Process(target=_look_and_die, args=(world, point))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    events = world.history(made)
    assert len(events) == (1 if when == "before" else 2)
    assert world.look() == "done"
    assert world.history(made) == [("start", "running", 0.05), ("promote", "promoted", 1.0)]
    assert world.deployments.current("风险").id == made.candidate  # type: ignore[union-attr]


def _look_and_die(world: World, point: str) -> None:
    world.store.engine.dispose(close=False)
    crashpoints.ask(point)
    world.engine.work(("rollout",))


def test_two_watchers_at_once_are_one(world: World) -> None:
    world.start()
    claims = [world.engine.queue.claim(("rollout",)) for _ in range(2)]
    assert claims[0] is not None
    assert claims[1] is None


def test_workers_leave_watching_to_servers(world: World) -> None:
    world.start()
    assert world.engine.work() is None
    assert world.engine.queue.unfinished(world.engine.kinds) == 0


def test_a_rollout_whose_job_was_cancelled_is_stopped(world: World) -> None:
    made = world.start()
    job = world.engine.queue.find(job_key(made.id))
    assert job is not None
    world.engine.queue.cancel(job.id, "genug")
    watchers = rollouts_module.Watchers(SimpleNamespace(**vars(world), engine_=None))  # type: ignore[arg-type]
    watchers._once()
    world.leaving.set()
    for thread in watchers._threads:
        thread.join(20)  # it asks the store until then
    last = world.rollouts.events(made.id)[-1]
    assert (last.state, last.who) == ("stopped", "rollout watcher")
    assert "its job is cancelled: genug" in last.reason


def test_blue_green_compares_with_what_was_before_the_switch(world: World) -> None:
    world.did(world.first.id, 5000, 5)
    made = world.start(Policy("green", (Step(1.0, 60),), Rules(min_requests=50)))
    assert world.deployments.routes()["风险"].choose("x") == made.candidate
    world.did(made.candidate, 200, 30)
    assert world.look(5) == "done"
    last = world.rollouts.events(made.id)[-1]
    assert last.action == "roll back"
    assert "0.1 % of the stable one" in last.reason
    assert world.deployments.routes()["风险"].choose("x") == world.first.id


def answered(at: int, probability: float, entity: str | None = None) -> Answered:
    return Answered(at, {"高": {"probability": probability, "decision": probability > 0.5}}, entity)


def test_labels_that_come_later_roll_a_worse_model_back(world: World) -> None:
    made = world.start()
    told = []
    for number in range(600):
        bad = number % 3 == 0
        for arm, right in ((world.first.id, True), (made.candidate, False)):
            name = f"{arm}-{world.tail(number)}"
            seen = (0.8 if bad == right else 0.2) + 0.0001 * number
            world.log[name] = answered(world.clock.now(), seen)
            told.append(Outcome(name, "高", bad))
    assert world.outcomes.add(told[:40]).added == 40
    assert world.look() == "queued"
    waiting = next(iter(world.rollouts.events(made.id)[-1].evidence["findings"][-1:]))
    assert (waiting["rule"], waiting["verdict"]) == ("auc_drop", "unknown")
    world.outcomes.add(told)
    assert world.look() == "done"
    last = world.rollouts.events(made.id)[-1]
    assert last.action == "roll back"
    assert "AUC of 高" in last.reason


def test_a_shadow_is_judged_by_the_outcomes_of_what_it_copied(world: World) -> None:
    made = world.start(Policy("shadow", (Step(1.0, 60),), Rules(min_requests=1)))
    told = []
    for number in range(300):
        bad = number % 2 == 0
        world.log[f"{world.first.id}-{world.tail(number)}"] = answered(
            world.clock.now(), 0.9 if bad else 0.1 + number / 1e4
        )
        world.log[f"{made.candidate}-{world.tail(number)}"] = answered(
            world.clock.now(), 0.1 if bad else 0.9 + number / 1e4
        )
        told.append(Outcome(f"{world.first.id}-{world.tail(number)}", "高", bad))
    world.outcomes.add(told)
    assert world.look(6) == "done"
    assert "(300 and 300 labels)" in world.rollouts.events(made.id)[-1].reason


def test_windows_lie_side_by_side_and_another_watcher_leaves_out_the_one_it_finds_open(world: World) -> None:
    made = world.start(replace(POLICY, window=100.0))
    watcher = Watcher(world, made, world.senses)  # type: ignore[arg-type]

    def recent(seconds: int, by: Watcher = watcher) -> tuple[int, int] | None:
        world.clock.advance(seconds * SECOND)
        world.did(made.candidate, 1)
        found = by.evidence(world.rollouts.events(made.id)).recent
        return None if found is None else (found.number, found.candidate.requests)

    assert [recent(step) for step in (50, 40, 20, 80, 20, 30)] == [None, None, (1, 0), (1, 1), (2, 0), (2, 1)]
    another = Watcher(world, made, world.senses)  # type: ignore[arg-type]
    assert [recent(step, another) for step in (20, 20, 30)] == [None, None, (3, 0)]


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_a_candidate_that_does_not_know_a_class_is_judged_all_the_same(world: World, mode: Any) -> None:
    """Both arms have a row of every class: where one of them does not know it, with a probability of 0."""
    made = world.start(Policy(mode, (Step(1.0, 60),), Rules(min_requests=1)))
    told = []
    for number in range(600):
        truth = "甲乙丙"[number % 3]
        for arm, names in ((world.first.id, "甲乙丙"), (made.candidate, "甲乙丁")):
            shares = {name: 0.8 + number / 1e4 if name == truth else 0.1 - number / 1e4 for name in names}
            labels = {"类": {"probabilities": shares, "decision": "甲"}}
            world.log[f"{arm}-{world.tail(number)}"] = Answered(world.clock.now(), labels)
            if arm == world.first.id or mode == "canary":
                told.append(Outcome(f"{arm}-{world.tail(number)}", "类", truth))
    world.outcomes.add(told)
    assert world.look(6) == "done"
    last = world.rollouts.events(made.id)[-1]
    assert "AUC of 类=丙 0.500 against 1.000 (600 and 600 labels)" in last.reason
    assert "类=甲" not in last.reason


@pytest.mark.parametrize(("gain", "end"), [(0.2, "promoted"), (-0.2, "rolled back"), (0.0, "stopped")])
def test_an_a_b_test_of_a_metric_of_ones_own(world: World, gain: float, end: str) -> None:
    policy = policy_of(DeploymentSettings.model_validate({"ab": {"metric": "转化"}}), "ab", seconds=1000)
    made = world.start(policy)
    told = []
    for number in range(800):
        for arm, rate in ((world.first.id, 0.4), (made.candidate, 0.4 + gain)):
            world.log[f"{arm}-{world.tail(number)}"] = answered(world.clock.now(), 0.5, f"顾客{number}")
            told.append(Outcome(f"{arm}-{world.tail(number)}", "转化", float(number % 10 < 10 * rate)))
    world.outcomes.add(told)
    world.did(world.first.id, 800)
    world.did(made.candidate, 800)
    assert world.look(2000) == "done"
    last = world.rollouts.events(made.id)[-1]
    assert last.state == end, last.reason


def test_an_outcome_of_a_prediction_that_is_not_logged_yet_waits_for_it(world: World) -> None:
    made = world.start(policy_of(DeploymentSettings(), "ab", seconds=1e6))
    watcher = Watcher(world, made, world.senses)  # type: ignore[arg-type]
    name = f"{made.candidate}-{world.tail(1)}"
    world.outcomes.add([Outcome(name, "高", True)])
    assert watcher.evidence(world.rollouts.events(made.id)).outcome is None
    world.clock.advance(2 * SECOND)
    world.log[name] = answered(world.clock.now(), 0.8)
    outcome = watcher.evidence(world.rollouts.events(made.id)).outcome
    assert outcome is not None
    assert (outcome.candidate.n, outcome.candidate.mean) == (1, pytest.approx(0.04))
    world.clock.advance(SECOND)
    world.outcomes.add([Outcome(name, "高", False)])
    outcome = watcher.evidence(world.rollouts.events(made.id)).outcome
    assert outcome is not None
    assert outcome.candidate.mean == pytest.approx(0.64)


def test_an_outcome_that_was_told_by_a_clock_that_is_behind_is_read_too(world: World) -> None:
    made = world.start(policy_of(DeploymentSettings(), "ab", seconds=1e6))
    watcher = Watcher(world, made, world.senses)  # type: ignore[arg-type]
    names = [f"{made.candidate}-{world.tail(number)}" for number in range(3)]
    world.log |= {name: answered(world.clock.now(), 0.8) for name in names}
    behind = Outcomes(world.store, FakeClock("2024-06-30"))
    world.clock.advance(9 * SECOND)
    for told, name in zip((world.outcomes, behind, behind), names, strict=True):
        told.add([Outcome(name, "高", True)])
        found = watcher.evidence(world.rollouts.events(made.id)).outcome
        assert found is not None
        assert found.candidate.n == names.index(name) + 1
    behind.erase(names[-1:])
    name = f"{made.candidate}-{world.tail(9)}"
    world.log[name] = answered(world.clock.now(), 0.8)
    behind.add([Outcome(name, "高", True)])
    found = watcher.evidence(world.rollouts.events(made.id)).outcome
    assert found is not None
    assert found.candidate.n == 4


def test_predictions_of_another_machines_log_are_looked_for_ever_less_and_given_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    made = world.start(policy_of(DeploymentSettings(), "ab", seconds=1e6))
    asked: list[int] = []

    def find(wanted: Any) -> Mapping[str, Answered]:
        asked.append(len(wanted))
        return world.find(wanted)

    watcher = Watcher(world, made, replace(world.senses, find=find))  # type: ignore[arg-type]
    here, there = (f"{made.candidate}-{world.tail(number)}" for number in (1, 2))
    before = f"{made.stable}-{(made.made_at - SECOND) // 1000:011x}1"
    world.outcomes.add([Outcome(name, "高", True) for name in (here, there, before)])
    for _ in range(4200 // 2):
        world.clock.advance(2 * SECOND)
        if len(asked) == 6:
            world.log[here] = answered(world.clock.now(), 0.8)
        outcome = watcher.evidence(world.rollouts.events(made.id)).outcome
    assert outcome is not None
    assert outcome.candidate.n == 1
    assert asked == [2] * 7 + [1] * 6
    assert "1 outcomes are of predictions that are not in this machine's log" in caplog.text


def test_another_machines_counters_are_not_subtracted_from(world: World) -> None:
    """What a machine counted is no beginning for what another one counts: both arms are counted anew there."""
    world.did(world.first.id, 9_000)
    made = world.start()
    world.look()
    world.machine, world.counts = "乙", {}
    world.did(world.first.id, 10_000, 500)  # of years; on the other machine it had 9,000 when the rollout began
    world.did(made.candidate, 40)
    world.look()
    first = world.rollouts.events(made.id)
    assert [one.action for one in first] == ["start", "hold", "count anew", "hold"]
    assert "another machine's" in first[2].reason
    world.did(world.first.id, 950)
    world.did(made.candidate, 50)
    watcher = Watcher(world, made, world.senses)  # type: ignore[arg-type]
    now = watcher.evidence(first)
    assert (now.stable.requests, now.stable.errors, now.candidate.requests, now.stretch) == (950, 0, 50, 2)
    assert now.elapsed == 20  # the step began when it began
    world.look(40)
    assert world.rollouts.events(made.id)[-1].action == "next step"
    world.look()
    assert [one.action for one in world.rollouts.events(made.id)].count("count anew") == 1


def test_status_on_another_machine_shows_no_counts_that_are_not_its(world: World, tmp_path: Path) -> None:
    made = world.start()
    there = SimpleNamespace(**vars(world), prediction_log=tmp_path / "predictions.db", sources=None)
    told = rollouts_module.status(there, made)  # type: ignore[arg-type]
    assert told["now"]["reason"] == "it is watched on another machine, whose counters are not these"
    assert told["now"]["candidate"]["requests"] == 0
    assert [sorted(one["evidence"]) for one in told["events"]] == [[]]
    world.machine = meters_id(tmp_path / "predictions.db")
    world.look()
    told = rollouts_module.status(there, made)  # type: ignore[arg-type]
    assert told["now"]["reason"] == "0 of 50 requests at 0.05"


def test_blue_green_on_another_machine_compares_with_what_the_old_one_did_there(world: World) -> None:
    made = world.start(Policy("green", (Step(1.0, 60),), Rules(min_requests=50)))
    world.machine = "乙"
    world.did(world.first.id, 5000, 5)
    world.did(made.candidate, 200)
    world.look()
    world.did(made.candidate, 200)
    found = Watcher(world, made, world.senses).evidence(world.rollouts.events(made.id))  # type: ignore[arg-type]
    assert (found.stable.requests, found.candidate.requests) == (5000, 200)


def _named(log: Path, start: "multiprocessing.synchronize.Event", names: Any) -> None:
    start.wait()
    names.put(meters_id(log))


def test_the_counters_of_a_machine_have_one_id_whoever_asks_first(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, names = spawn.Event(), spawn.Queue()
    log = tmp_path / "机" / "predictions.db"
    processes = [spawn.Process(target=_named, args=(log, start, names)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = {names.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert found == {meters_id(log)}
    assert len(found.pop()) == 16
    assert [one.name for one in (log.parent / "meters").iterdir()] == ["id"]
    assert meters_id(tmp_path / "another" / "predictions.db") != meters_id(log)


def test_outcomes_are_told_once_and_may_be_corrected(world: World) -> None:
    rows = [Outcome(f"dep_1-{n}", label, value) for n in range(700) for label, value in (("高", True), ("类", "甲"))]
    first = world.outcomes.add(rows)
    assert (first.added, first.known, first.changed) == (1400, 0, 0)
    again = world.outcomes.add([*rows, Outcome("dep_1-7", "高", False), Outcome("dep_2-1", "高", 2.5)])
    assert (again.added, again.changed) == (1, 1)
    assert [one.value for one in world.outcomes.of("dep_2")] == [2.5]
    found = {(one.prediction, one.label): one.value for one in world.outcomes.of("dep_1")}
    assert len(found) == 1400
    assert found["dep_1-7", "高"] is False
    assert found["dep_1-8", "类"] == "甲"
    assert world.outcomes.erase([f"dep_1-{n}" for n in range(690)]) == 1380
    assert len(world.outcomes.of("dep_1")) == 20


def test_policies_come_from_the_settings_and_go_through_plain_data() -> None:
    settings = DeploymentSettings.model_validate(
        {"canary": {"steps": [{"share": 0.01, "for": "30s"}, {"share": 0.2, "for": "1h"}]}, "rules": {"latency": None}}
    )
    policy = policy_of(settings, "canary")
    assert policy.steps == (Step(0.01, 30), Step(0.2, 3600))
    assert policy.rules == Rules(latency=None)
    assert policy_of(settings, "canary", share=0.1).steps == (Step(0.1, 30), Step(0.2, 3600))
    assert policy_of(settings, "canary", seconds=5).steps == (Step(0.01, 5), Step(0.2, 5))
    assert policy_of(settings, "ab", share=0.3).steps == (Step(0.3, 14 * 86_400),)
    assert policy_of(settings, "green").steps == (Step(1.0, 3600),)
    default = policy_of(DeploymentSettings(), "canary")
    assert [step.share for step in default.steps] == [0.05, 0.25, 0.5]
    assert default.rules == Rules()
    assert default.window == 300
    for mode in rollouts_module.MODES:
        assert policy_from(plain_policy(policy_of(settings, mode))) == policy_of(settings, mode)
