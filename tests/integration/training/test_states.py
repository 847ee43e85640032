"""What is current, and what counts as trained, over several trainings of a project with data."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.frontend.client import Project
from tests.integration.serving_project import write_period

from .world import World, make_settings

CONFIG = """
project: 状态
tables:
  shops: {files: shops.csv, key: shop_id, delivery: full, known: period_start, columns: {shop_id: int}}
  visits: {files: visits.csv, key: visit_id, time: date, links: {shop_id: shops}}
targets:
  风险:
    {entity: shops, from: visits, cutoff: date, task: multilabel,
     labels: {高: "t.结果 = '差'", Low: "t.score > 60"}}
  score: {entity: shops, from: visits, cutoff: date, label: score, where: "date < '2024-02-01'"}
features: {depth: 1, windows: [all]}
split: {by: random}
training: {early_stopping: 3, parameters: {n_estimators: 10, learning_rate: 0.3}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "holdfast.yaml").write_text(CONFIG, encoding="utf-8")
    for month in (1, 2):
        write_period(tmp_path / "in" / f"2024-0{month}", month, shops=30, visits=250)
    with holdfast.open(tmp_path) as opened:
        opened.ingest("2024-01", [tmp_path / "in" / "2024-01"])
        yield opened


def test_a_version_is_trained_when_every_label_of_every_target_is(project: Project) -> None:
    states = []
    for target, labels in (("风险", ["高"]), ("score", None), ("风险", ["Low"])):
        project.train(target, labels=labels)
        states.append(project.data.get().state)
    assert states == ["pending", "pending", "trained"]


def test_a_repeated_training_counts_for_the_version_it_is_repeated_on(project: Project) -> None:
    project.train("风险")
    project.train("score")
    project.data.confirm_contract()
    with project.models.store.write("test") as connection:
        project.data.set_state(connection, project.data.get().id, "retrain_needed")
    assert project.train("风险").repeated
    assert project.data.get().state == "retrain_needed"
    assert project.train("score").repeated
    assert project.data.get().state == "trained"


def test_new_data_of_one_target_needs_that_target_only(project: Project) -> None:
    project.train("风险")
    project.train("score")
    project.ingest("2024-02", [project.root / "in" / "2024-02"])
    assert project.data.get().state == "retrain_needed"
    assert project.train("score").repeated
    assert project.data.get().state == "retrain_needed"
    assert not project.train("风险").repeated
    assert project.data.get().state == "trained"


def versions(world: World) -> set[str]:
    return {version.version for version in world.registry.current()}


def test_what_was_trained_before_is_current_again(world: World) -> None:
    world.train()
    world.train(settings=make_settings(seed=2))
    assert versions(world) == {"v1.1"}
    again = world.train()
    assert again.repeated
    assert {version.version for version in again.models} == versions(world) == {"v1.0"}
    assert b"v1.0" in (world.models / "feature_weights_高风险.yaml").read_bytes()
    moves = len(world.registry.history("risk/高风险"))
    world.train()
    assert len(world.registry.history("risk/高风险")) == moves == 3


def test_a_repeated_training_keeps_a_hand_edit_and_leaves_an_archived_version(world: World) -> None:
    world.train()
    weights = world.models / "feature_weights_高风险.yaml"
    weights.write_text(weights.read_text(encoding="utf-8").replace("noise: ", "noise: 1"), encoding="utf-8")
    assert {v.model: v.version for v in world.train().models} == {"risk/高风险": "v1.1", "risk/Low/Risk": "v1.0"}
    world.train(settings=make_settings(seed=2))
    world.registry.archive("risk/Low/Risk", "v1.0")
    made = world.train()
    assert not made.repeated
    assert versions(world) == {"v1.2", "v1.3"}


def test_progress_never_goes_back(world: World) -> None:
    steps: list[int] = []
    slow = make_settings(early_stopping=4000, parameters={"n_estimators": 2500, "learning_rate": 0.001, "max_depth": 1})
    world.train(settings=slow, labels=["高风险"], progress=lambda done, _all, _text: steps.append(done))
    assert steps == sorted(steps)
