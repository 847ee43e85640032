"""The whole system goes back and forward together, or not at all."""

import threading

import pytest

from holdfast.backend.deployment import Rollouts
from holdfast.backend.pipelines.integrity import check
from holdfast.backend.records import Run
from holdfast.backend.store import Leases, Pointers
from holdfast.backend.store.checkpoints import Checkpoints
from holdfast.backend.store.leases import this_process
from holdfast.core.timeline import isoformat
from holdfast.errors import ConflictError, HoldfastError, InputError, IntegrityError, LockedError, NotFoundError

from .world import person, write_period


def live(project):
    """What answers now, from the rooms themselves."""
    rooms = project._services
    return (
        rooms.datasets.get().version,
        {version.model: version.version for version in rooms.registry.current()},
        rooms.deployments.pointers(),
        (rooms.layout.processed / "manifest.json").read_text(encoding="utf-8").split('"version": "')[1].split('"')[0],
        {name: entry["version"] for name, entry in rooms.registry.shown().items()},
    )


def answer(project):
    project.service.live.look()
    name, question = project.question(None, person(3), "2024-02-28", {"kind": "Routine"})
    reply = project.service.entities(name, [question])
    labels = reply["predictions"][0]["labels"]
    return reply["deployment"], {label: one["probability"] for label, one in labels.items()}


def test_back_to_a_version_and_forward_again(project):
    after, told = live(project), answer(project)
    found = project.go_back("v1.0")
    assert {step.what for step in found.steps} == {"data", "model", "deployment"}
    before = live(project)
    assert before[0] == "v1.0"
    assert set(before[1].values()) == {"v1.0"}
    assert before[3] == "v1.0"
    assert answer(project)[0] == next(iter(before[2].values())) != told[0]
    assert check(project._services) == []
    project.go_back(found.forward)
    assert live(project) == after
    assert answer(project) == told
    assert check(project._services, deep=True) == []


def test_going_back_stops_what_is_on_trial(sqlite_project):
    """Its candidate would be promoted after everything went back."""
    rooms = sqlite_project._services
    rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
    sqlite_project.go_back("v1.0")
    stable = rooms.deployments.current("风险")
    ago = isoformat(rooms.clock.now())
    candidate = rooms.deployments.record("风险", stable.models, "试", after=stable.id)
    made = rollouts.start(
        candidate, "canary", {"steps": []}, stable=stable.id, share=0.1, evidence={}, note="试"
    )  # fmt: skip
    planned = sqlite_project.go_back(ago, dry_run=True)
    assert [(one.what, one.name, one.now, one.then) for one in planned.steps] == [("rollout", "风险", made.id, "")]
    assert rollouts.running() == {"风险": made.id}
    during = isoformat(rooms.clock.now())
    assert sqlite_project.go_back(during).steps == ()
    assert sqlite_project.go_back(ago).steps == planned.steps
    assert rollouts.running() == {}
    last = rollouts.events(made.id)[-1]
    assert (last.state, last.reason) == ("stopped", planned.to and f"rollback to {planned.to}")
    assert sqlite_project.go_back(during).steps == ()


def test_a_dry_run_says_the_same_and_moves_nothing(sqlite_project):
    before = live(sqlite_project)
    planned = sqlite_project.go_back("v1.0", dry_run=True)
    assert live(sqlite_project) == before
    assert planned.steps == sqlite_project.go_back("v1.0").steps
    assert sqlite_project.go_back("v1.0").steps == ()


def test_at_shows_what_was_live_between_import_and_training(sqlite_project):
    moves = sqlite_project.models.history("风险/高")
    moment = isoformat(moves[1].at - 1)
    found = sqlite_project.at(moment)
    assert found["data"]["version"] == "v1.1"
    assert {one["version"] for one in found["models"].values()} == {"v1.0"}
    assert found["deployments"]["风险"]["models"] == {"高": "v1.0", "low": "v1.0"}
    assert set(found["feature_sets"]) == {"风险"}
    assert found["feature_groups"] == {}
    now = sqlite_project.at("v1.1")
    assert {one["version"] for one in now["models"].values()} == {"v1.1"}
    assert set(now["feature_groups"]) == {"person"}


def test_a_rollback_to_a_time_before_any_model_leaves_none(sqlite_project):
    first = sqlite_project.models.history("风险/高")[0].at
    found = sqlite_project.go_back(isoformat(first - 1))
    data, models, deployed, *_ = live(sqlite_project)
    assert (data, models, deployed) == ("v1.0", {}, {})
    assert check(sqlite_project._services) == []
    sqlite_project.go_back(found.forward)
    assert live(sqlite_project)[0] == "v1.1"


def test_what_cannot_be_gone_back_to(sqlite_project, tmp_path):
    with pytest.raises(InputError, match="there was no data"):
        sqlite_project.go_back("2001-01-01")
    with pytest.raises(NotFoundError):
        sqlite_project.go_back("v9.9")
    with pytest.raises(InputError, match="no time, no data version and no checkpoint"):
        sqlite_project.go_back("yesterdayish")


def test_nothing_moves_when_a_model_of_then_is_damaged(sqlite_project):
    rooms = sqlite_project._services
    before = live(sqlite_project)
    old = rooms.registry.get("风险/low", "v1.0")
    path = rooms.blobs.path(old.serving)
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError, match="changed"):
        sqlite_project.go_back("v1.0")
    assert live(sqlite_project) == before


def test_nothing_moves_while_a_model_is_trained_or_archived(sqlite_project):
    rooms = sqlite_project._services
    before = live(sqlite_project)
    with Leases(rooms.store, rooms.clock).hold(["model:风险/low"], doing="training"):
        failed = []

        def go():
            try:
                sqlite_project.go_back("v1.0")
            except LockedError as error:
                failed.append(error)

        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
    assert len(failed) == 1
    rooms.registry.archive("风险/low", "v1.0")
    with pytest.raises(ConflictError, match="archived"):
        sqlite_project.go_back("v1.0")
    assert live(sqlite_project) == before


def test_checkpoints_by_hand(project, tmp_path):
    made = project.checkpoint("before the merger", "we shall see")
    with pytest.raises(ConflictError, match="already"):
        project.checkpoint("before the merger")
    before = live(project)
    project.ingest("2024-03", [write_period(tmp_path / "2024-03", 3)])
    project.train()
    assert live(project) != before
    project.restore_checkpoint("before the merger")
    assert live(project) == before
    assert [one.name for one in project.checkpoints()] == ["before the merger"]
    assert made.pointers["dataset"] == project.data.get().id
    project.remove_checkpoint("before the merger")
    with pytest.raises(NotFoundError):
        project.restore_checkpoint("before the merger")
    actions = [entry.action for entry in project.audit("checkpoint:")]
    assert actions == ["checkpoint", "remove checkpoint"]


def test_a_failed_import_of_many_keeps_what_succeeded_and_a_way_back(sqlite_project, tmp_path):
    before = live(sqlite_project)
    write_period(tmp_path / "in" / "2024-03", 3)
    broken = write_period(tmp_path / "in" / "2024-04", 4)
    (broken / "persons.csv").unlink()
    with pytest.raises(HoldfastError, match="missing") as caught:
        sqlite_project.ingest_folder(tmp_path / "in")
    assert live(sqlite_project)[0] == "v1.2"
    [kept] = sqlite_project.checkpoints()
    assert kept.name in caught.value.hint
    sqlite_project.restore_checkpoint(kept.name)
    assert live(sqlite_project) == before


def test_a_change_that_fails_or_succeeds_leaves_no_checkpoint(sqlite_project, tmp_path):
    seen = []

    def look(*_):
        seen.append([(one.why, bool(one.maker)) for one in sqlite_project.checkpoints()])

    sqlite_project.ingest("2024-03", [write_period(tmp_path / "2024-03", 3)], progress=look)
    assert seen[0] == [("ingest 2024-03", True)]
    with pytest.raises(HoldfastError):
        sqlite_project.ingest("2024-05", [tmp_path / "2024-03" / "visits.csv"])
    assert sqlite_project.checkpoints() == []


def test_the_branch_of_the_data_goes_back_too_and_the_one_that_is_left_keeps_its_tip(sqlite_project):
    rooms = sqlite_project._services
    one, other = (sqlite_project.data.get(version).id for version in ("v1.1", "v1.0"))
    before = isoformat(rooms.clock.now())
    with rooms.store.write("test") as connection:
        pointers = Pointers(connection)
        for name, target in (("branch:main", one), ("dataset.branch", "try"), ("dataset", other)):
            pointers.move(name, target, at=rooms.clock.now() + 1, why="checkout try")
    found = sqlite_project.go_back(before)
    assert [(step.what, step.now, step.then) for step in found.steps] == [
        ("data", "v1.0", "v1.1"), ("branch", "try", "main"),
    ]  # fmt: skip
    with rooms.store.read() as connection:
        now = Pointers(connection).all()
    assert (now["dataset"], now.get("dataset.branch"), now["branch:try"]) == (one, None, other)


def test_checkpoints_of_dead_processes_are_settled(sqlite_project):
    rooms = sqlite_project._services
    maker = '{"pid": %d, "process": "%s", "of": ["dataset"]}'
    machine = this_process().partition("/")[0]
    dead = maker % (2**22 + 5, f"{machine}/1")
    with rooms.store.write("test") as connection:
        Checkpoints(connection).add("check_1", "died early", at=1, why="x", maker=dead)
        Checkpoints(connection).add("check_2", "died late", at=2, why="y", maker=dead)
        moved = 'UPDATE checkpoints SET pointers = replace(pointers, \'"dataset": "\', \'"dataset": "old\')'
        connection.exec_driver_sql(f"{moved} WHERE id = 'check_2'")
    assert [(one.name, one.maker) for one in sqlite_project.checkpoints()] == [("died late", "")]


def test_a_run_is_not_lost_by_going_back(sqlite_project):
    runs = len(sqlite_project.models.runs())
    sqlite_project.go_back("v1.0")
    assert len(sqlite_project.models.runs()) == runs
    assert all(isinstance(run, Run) for run in sqlite_project.models.runs())
