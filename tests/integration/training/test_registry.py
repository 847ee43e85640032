"""Versions, pointers, the folder data/model, packages from elsewhere."""

import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import yaml

from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.registry.intake import import_folder, open_file, scan
from holdfast.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    UntrustedError,
)

from .world import World, make_settings

MODEL = "risk/高风险"
PACKAGE = "multilabel_model_高风险.pkl"
WEIGHTS = "feature_weights_高风险.yaml"


def versions(world: World) -> dict[str, str]:
    return {version.model: version.version for version in world.registry.current()}


def test_rollback_goes_back_step_by_step_and_the_folder_follows(world: World) -> None:
    world.train()
    first = (world.models / PACKAGE).read_bytes()
    world.train(settings=make_settings(seed=2))
    world.train(settings=make_settings(seed=3))
    assert world.registry.rollback(MODEL).version == "v1.1"
    assert world.registry.rollback(MODEL).version == "v1.0"
    assert (world.models / PACKAGE).read_bytes() == first
    assert versions(world) == {MODEL: "v1.0", "risk/Low/Risk": "v1.2"}
    with pytest.raises(ConflictError, match=r"no version before v1\.0"):
        world.registry.rollback(MODEL)
    assert world.registry.rollback(MODEL, "v1.2").version == "v1.2"
    assert [move.why for move in world.registry.history(MODEL)] == ["training"] * 3 + ["rollback"] * 3
    # What was rolled back keeps its number: the next training is a new one.
    assert {m.version for m in world.train(settings=make_settings(seed=4)).models} == {"v1.3"}


def test_tags_and_archive(world: World) -> None:
    world.train()
    world.train(force=True)
    world.registry.tag(MODEL, "v1.0", "批准")
    assert world.registry.get(MODEL, "批准").version == "v1.0"
    assert list(world.registry.tags(MODEL)) == ["批准"]
    with pytest.raises(InputError, match="cannot be a tag"):
        world.registry.tag(MODEL, "v1.0", "v9.9")
    archived = world.registry.archive(MODEL, "v1.0")
    assert world.registry.archived() == {archived.id}
    with pytest.raises(ConflictError, match="archived"):
        world.registry.rollback(MODEL)
    with pytest.raises(ConflictError, match="current"):
        world.registry.archive(MODEL, "v1.1")


def test_what_is_not_there_is_named(world: World) -> None:
    with pytest.raises(NotFoundError, match="Nothing was trained yet"):
        world.registry.get("risk/x")
    world.train()
    with pytest.raises(NotFoundError, match=MODEL):
        world.registry.get("risk/x")
    with pytest.raises(NotFoundError, match=r"v1\.0"):
        world.registry.get(MODEL, "v9.0")
    with pytest.raises(NotFoundError):
        world.registry.get(MODEL, world.registry.get("risk/Low/Risk").id)
    with pytest.raises(NotFoundError):
        world.registry.run("run_x")


def test_compare_tells_metrics_parameters_and_features(world: World) -> None:
    a = world.train().models[0]
    b = world.train(settings=make_settings(parameters={"learning_rate": 0.1, "max_depth": 2})).models[0]
    told = world.registry.compare(a, b)
    assert told["parameters"] == {"learning_rate": {"a": 0.3, "b": 0.1}, "max_depth": {"a": 3, "b": 2}}
    change = told["metrics"]["test.log_loss"]
    assert change["change"] == pytest.approx(change["b"] - change["a"])
    assert told["features"] == {"added": [], "removed": []}


def test_another_algorithm_is_a_new_major_version(world: World) -> None:
    world.train()
    assert world.registry.next_version(MODEL, "xgboost") == "v1.1"
    assert world.registry.next_version(MODEL, "lightgbm") == "v2.0"
    assert world.registry.next_version("risk/new", "xgboost") == "v1.0"


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-5] + b"xxxxx", lambda _data: b""])
def test_a_changed_package_is_not_opened(world: World, damage: Any) -> None:
    version = world.train().models[0]
    path = world.blobs.path(version.package)
    path.chmod(0o644)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError) as caught:
        world.registry.load(MODEL)
    assert version.package in caught.value.message
    assert caught.value.where["file"] == str(path)


def edit(path: Path, weights: dict[str, Any]) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["feature_weights"].update(weights)
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def test_an_edited_weights_file_becomes_a_minor_version(world: World) -> None:
    old = world.train().models[0]
    before = load_bundle(world.blobs.path(old.serving))
    edit(world.models / WEIGHTS, {"得分": 0.125, "noise": 0})
    package = world.registry.load(MODEL)
    assert package["version"] == "v1.1"
    assert package["feature_weights"]["得分"] == 0.125
    assert package["feature_importance"]["得分"] != 0.125
    new = world.registry.get(MODEL)
    assert new.parents[-1] == old.id
    assert "edited by hand" in new.note
    after = load_bundle(world.blobs.path(new.serving), new.serving)
    assert after.version == "v1.1"
    np.testing.assert_array_equal(after.predict(after.golden_rows), before.predict(before.golden_rows))
    assert joblib.load(world.models / PACKAGE)["version"] == "v1.1"
    assert yaml.safe_load((world.models / WEIGHTS).read_text(encoding="utf-8"))["version"] == "v1.1"
    assert versions(world)["risk/Low/Risk"] == "v1.0"
    assert world.registry.sync() == []
    assert world.registry.rollback(MODEL).version == "v1.0"
    assert world.registry.load(MODEL)["feature_weights"] != package["feature_weights"]


@pytest.mark.parametrize("weights", [{"得分": -1}, {"得分": "viel"}, {"无": 1}, {"得分": float("inf")}, {"得分": True}])
def test_a_wrong_edit_is_refused_and_kept(world: World, weights: dict[str, Any]) -> None:
    feature = next(iter(weights))
    world.train()
    edit(world.models / WEIGHTS, weights)
    edited = (world.models / WEIGHTS).read_bytes()
    with pytest.raises(InputError) as caught:
        world.registry.sync()
    assert caught.value.where == {"file": str(world.models / WEIGHTS), "feature": feature}
    assert versions(world) == {MODEL: "v1.0", "risk/Low/Risk": "v1.0"}
    assert (world.models / WEIGHTS).read_bytes() == edited
    assert world.registry.load("risk/Low/Risk")["version"] == "v1.0"  # another model's file is no hindrance
    world.registry.rollback(MODEL, "v1.0")
    (world.models / WEIGHTS).write_text("feature_weights: [1", encoding="utf-8")
    with pytest.raises(InputError, match="not valid YAML"):
        world.registry.sync()


def test_a_change_that_overtakes_an_edit_keeps_it_aside(world: World) -> None:
    world.train()
    world.train(force=True)
    edit(world.models / WEIGHTS, {"得分": "?"})
    edited = (world.models / WEIGHTS).read_bytes()
    world.registry.rollback(MODEL)
    assert (world.models / f"{WEIGHTS}.edited").read_bytes() == edited
    assert world.registry.sync() == []


def test_comments_alone_are_no_new_version(world: World) -> None:
    world.train()
    path = world.models / WEIGHTS
    path.write_text("# mine\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert world.registry.sync() == []
    assert versions(world)[MODEL] == "v1.0"


def test_files_that_are_gone_come_back_and_strangers_stay(world: World) -> None:
    world.train()
    before, _ = world.snapshot()
    (world.models / PACKAGE).unlink()
    (world.models / "manifest.json").write_text("{", encoding="utf-8")
    (world.models / "notes.txt").write_text("mine", encoding="utf-8")
    (world.models / f".{PACKAGE}.99.new").write_bytes(b"left by a kill")
    world.registry.sync()
    after, _ = world.snapshot()
    assert after.pop("notes.txt") == b"mine"
    assert after == before


def copied(world: World, folder: Path) -> Path:
    world.train()
    return Path(shutil.copytree(world.models, folder))


def test_scan_looks_without_opening(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    assert {finding.state for finding in scan(world.registry, folder)} == {"ok"}
    (folder / PACKAGE).write_bytes((folder / PACKAGE).read_bytes()[:-1])
    (folder / "高风险.onnx").unlink()
    (folder / "multilabel_model_evil.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    found = {finding.file: finding.state for finding in scan(world.registry, folder)}
    assert found[PACKAGE] == "changed"
    assert found["高风险.onnx"] == "missing"
    assert found["multilabel_model_evil.pkl"] == "unknown"
    assert found["multilabel_model_Low%2FRisk.pkl"] == "ok"


def test_a_copied_folder_is_imported_elsewhere_when_trusted(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    other = World.at(tmp_path / "other")
    with pytest.raises(UntrustedError) as caught:
        import_folder(other.registry, other.features, folder)
    assert "--trust" in str(caught.value)
    assert other.snapshot() == ({}, {})
    made = import_folder(other.registry, other.features, folder, trust=True)
    assert versions(other) == versions(world)
    for version in made:
        ours = load_bundle(other.blobs.path(version.serving), version.serving)
        original = world.registry.get(version.model)
        theirs = load_bundle(world.blobs.path(original.serving))
        rows = theirs.golden_rows
        np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
        assert (ours.engine, ours.threshold, ours.names) == (theirs.engine, theirs.threshold, theirs.names)
        assert version.package == original.package
        assert version.metrics["test"] == original.metrics["test"]
    assert import_folder(other.registry, other.features, folder) == []  # known by now
    assert other.registry.load(MODEL)["category"] == "高风险"
    other.store.close()


def test_an_import_over_an_existing_model_is_its_next_version(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    other = World.at(tmp_path / "other")
    other.train(settings=make_settings(seed=9))
    import_folder(other.registry, other.features, folder, trust=True)
    assert versions(other) == {MODEL: "v1.1", "risk/Low/Risk": "v1.1"}
    assert other.registry.load(MODEL)["version"] == "v1.1"
    other.store.close()


def rewrite(path: Path, change: Any) -> None:
    package = joblib.load(path)
    change(package)
    joblib.dump(package, path)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut short"),
        (lambda path: path.write_bytes(b"not a pickle"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: joblib.dump([1, 2], path), "holds a list"),
        (lambda path: rewrite(path, lambda p: p.pop("feature_stats")), "'feature_stats'"),
        (lambda path: rewrite(path, lambda p: p.update(threshold="high")), "'threshold'"),
        (lambda path: rewrite(path, lambda p: p["feature_weights"].pop("noise")), "'feature_weights'"),
        (lambda path: rewrite(path, lambda p: p["signature"].pop("encoding")), "'signature'"),
        (lambda path: rewrite(path, lambda p: p.update(model="no model")), "cannot serve a str"),
    ],
)
def test_unfit_packages_are_refused_with_file_and_field(world: World, tmp_path: Path, damage: Any, word: str) -> None:
    folder = copied(world, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    damage(folder / PACKAGE)
    other = World.at(tmp_path / "other")
    with pytest.raises(IntegrityError, match=word) as caught:
        import_folder(other.registry, other.features, folder, trust=True)
    assert caught.value.where["file"] == str(folder / PACKAGE)
    assert other.snapshot() == ({}, {})  # the sound package beside it was not taken either
    other.store.close()


def test_a_file_that_its_manifest_disowns_is_refused_even_when_trusted(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    rewrite(folder / PACKAGE, lambda package: package.update(note="changed"))
    with pytest.raises(IntegrityError, match="was changed"):
        open_file(world.registry, folder / PACKAGE, trust=True)
    assert open_file(world.registry, world.models / PACKAGE)["category"] == "高风险"
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_file(world.registry, folder / "absent.pkl")
    with pytest.raises(InputError, match="no package"):
        import_folder(world.registry, world.features, tmp_path / "nothing")


def test_a_hostile_pickle_is_never_run_without_trust(world: World, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "copy"
    folder.mkdir()
    joblib.dump(Evil(), folder / "multilabel_model_x.pkl")
    assert [finding.state for finding in scan(world.registry, folder)] == ["unknown"]
    with pytest.raises(UntrustedError):
        import_folder(world.registry, world.features, folder)
    assert not (tmp_path / "ran").exists()
