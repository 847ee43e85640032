"""Transforms and selection in training, package, server: fitted on training rows, replayed with equal bits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from holdfast.backend.features import Matrix, read_matrix
from holdfast.backend.pipelines.encoding import fit_encoding
from holdfast.backend.pipelines.splitting import split_rows
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.registry.onnx_twin import run_onnx
from holdfast.backend.serving.predictor import Predictor, feature_values
from holdfast.backend.settings import Settings
from holdfast.core.features.frame import Categories
from holdfast.core.learn.serving import ServedModel
from holdfast.core.learn.split import TEST
from holdfast.errors import ConfigError, FileError, UntrustedError

from .world import CATEGORY, World, make_matrix, make_settings

STEPS: dict[str, Any] = {
    "transforms": [
        {"method": "yeo_johnson", "features": ["得分", "noise"]}, {"method": "one_hot", "features": CATEGORY},
        {"method": "interactions", "keep": 2},
    ],
    "selection": ["constant", {"method": "mutual_information", "keep": 6}],
}  # fmt: skip


def stepped(**features: Any) -> Settings:
    data = make_settings().model_dump(by_alias=True, exclude_unset=True)
    return Settings.model_validate({**data, "features": features or STEPS})


def bundle(world: World, version: Any) -> ServedModel:
    return load_bundle(world.blobs.path(version.serving), version.serving)


def predictor(world: World, versions: Any, matrix: Matrix) -> Predictor:
    models = {version.label: bundle(world, version) for version in versions}
    made = Predictor("dep_1", "risk", models, matrix.feature_set, world.clock)
    made.verify()
    return made


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "regression"])
def test_a_served_answer_has_the_bits_of_training(world: World, task: str) -> None:
    matrix = make_matrix(task) if task == "multilabel" else make_matrix(task, ("y",))
    trained = world.train(matrix, stepped())
    made = predictor(world, trained.models, matrix)
    for version in trained.models:
        model = bundle(world, version)
        assert model.steps is not None
        assert len(model.names) == 6
        told = trained.run.metrics[version.label]["features"]
        assert (told["given"], told["seen"]) == (len(matrix.feature_set.features), 6)
        assert all(reason for reason in told["dropped"].values())
    answers = made.predict_frame(matrix.frame, explain=True)
    for index in range(0, 60, 7):
        encoded = made.encoding.encode(matrix.frame)[index]
        (alone,) = made.predict_features([feature_values(made.encoding, encoded)], explain=True)
        assert alone["labels"] == answers[index]["labels"]
        assert alone["explanation"] == answers[index]["explanation"]


def test_explanations_are_about_features_and_add_up(world: World) -> None:
    matrix = make_matrix()
    trained = world.train(matrix, stepped())
    made = predictor(world, trained.models, matrix)
    answers = made.predict_frame(matrix.frame, explain=True)
    names = set(matrix.feature_set.names)
    for answer in answers[:40]:
        for label, why in answer["explanation"].items():
            margin = why["base"] + sum(one["contribution"] for one in why["contributions"])
            assert 1 / (1 + np.exp(-margin)) == pytest.approx(answer["labels"][label]["probability"], abs=1e-5)
            told = {one["feature"] for one in why["contributions"]}
            assert all(name in names or " × " in name or " / " in name for name in told)
            assert not any(name.startswith(("YEO_JOHNSON", f"{CATEGORY} = ")) for name in told)


def test_package_and_twin_are_about_what_the_model_sees(world: World) -> None:
    matrix = make_matrix()
    trained = world.train(matrix, stepped())
    version = trained.models[0]
    package = world.registry.load(version.model)
    model = bundle(world, version)
    assert model.steps is not None
    twin = world.blobs.path(version.files["onnx"]).read_bytes()
    seen = model.steps.apply(model.golden_rows)
    assert np.allclose(run_onnx(twin, seen, model.task), model.predict(model.golden_rows), atol=1e-6)
    assert package["feature_names"] == list(model.names)
    assert set(package["feature_importance"]) == set(model.names)
    assert package["signature"]["steps"]["inputs"] == list(model.encoding.names)
    assert np.array_equal(package["model"].predict_proba(seen)[:, 1], model.predict(model.golden_rows))


def test_selection_alone_asks_for_fewer_features(world: World) -> None:
    matrix = make_matrix()
    chosen = {"selection": [{"method": "mutual_information", "keep": 3}]}
    trained = world.train(matrix, stepped(**chosen))
    made = predictor(world, trained.models, matrix)
    for version in trained.models:
        model = bundle(world, version)
        assert model.steps is None
        assert len(model.names) == 3
        dropped = trained.run.metrics[version.label]["features"]["dropped"]
        assert set(model.names) | set(dropped) == set(matrix.feature_set.names)
    assert set(made.needed.names) == set(made.encoding.names)
    row = feature_values(made.encoding, made.encoding.encode(matrix.frame)[3])
    everything = {**dict.fromkeys(matrix.feature_set.names), **row}
    first, second = made.predict_features([row, everything], strict=False)
    assert first["labels"] == second["labels"]
    assert not [r for r in second["repairs"] if r["kind"] == "extra"]


def test_rows_that_do_not_train_decide_nothing(world: World) -> None:
    """Values and labels of test rows are changed; what is selected and fitted does not move."""
    matrix, settings = make_matrix(), stepped(**{**STEPS, "missing": {"price": "median"}})
    parts, _ = split_rows(settings, matrix.entities, matrix.cutoffs, matrix.labels, matrix.label_known)
    test = parts == TEST
    columns: dict[str, Any] = {}
    for name, column in matrix.frame.columns.items():
        if isinstance(column, Categories):
            columns[name] = Categories(np.where(test, 0, column.codes), column.values)
        else:
            columns[name] = np.where(test, column[::-1] * 1e7 + 13, column)
    labels = {name: np.where(test, 1 - truth, truth) for name, truth in matrix.labels.items()}
    planted = replace(matrix, frame=replace(matrix.frame, columns=columns), labels=labels)
    before, after = world.train(matrix, settings), world.train(planted, settings)
    for old, new in zip(before.models, after.models, strict=True):
        a, b = bundle(world, old), bundle(world, new)
        assert a.encoding.to_dict() == b.encoding.to_dict()
        assert a.steps == b.steps
        assert before.run.metrics[old.label]["features"] == after.run.metrics[new.label]["features"]
        assert a._arrays["booster"].tobytes() == b._arrays["booster"].tobytes()


def test_other_steps_are_another_training(world: World) -> None:
    first = world.train(settings=stepped())
    assert world.train(settings=stepped()).repeated
    other = world.train(settings=stepped(selection=["constant"]))
    assert not other.repeated
    assert first.run.fingerprint != other.run.fingerprint


def test_a_step_of_no_feature_leaves_everything_as_it_was(world: World) -> None:
    before = world.snapshot()
    with pytest.raises(ConfigError, match="which is no feature") as caught:
        world.train(settings=stepped(transforms=[{"method": "one_hot", "features": "城市"}]))
    assert caught.value.where["key"] == "features.transforms.0"
    assert world.snapshot() == before


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_matrix_is_the_same_in_every_format(world: World, task: str) -> None:
    matrix = make_matrix(task) if task == "multilabel" else make_matrix(task, ("y",))
    settings = stepped(formats=["pkl", "parquet", "h5"])
    encoding = fit_encoding(settings, matrix.feature_set, matrix.frame, np.ones(len(matrix.frame), bool))
    world.features.save_matrix(matrix, encoding, "", settings.features.formats)
    folder = world.root / "features"
    files = {kind: folder / f"feature_matrix_2024-01.{kind}" for kind in ("pkl", "parquet", "h5")}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {path.name for path in files.values()} <= set(manifest)
    read = {kind: read_matrix(path, trust=kind == "pkl") for kind, path in files.items()}
    for kind in ("h5", "parquet"):
        pd.testing.assert_frame_equal(read[kind].features, read["pkl"].features, check_categorical=True)
    assert read["h5"].labels is not None
    assert read["parquet"].labels is not None
    pd.testing.assert_frame_equal(read["h5"].labels, read["parquet"].labels, check_dtype=False)
    assert read["h5"].definitions is not None
    assert read["h5"].definitions["hash"] == matrix.feature_set.hash
    with h5py.File(files["h5"]) as file:
        plain = pd.DataFrame(file["matrix"][:], columns=file["features"].asstr()[:])
        assert file.attrs["feature_set"] == matrix.feature_set.hash
    assert plain["得分"].tolist() == matrix.frame.columns["得分"].tolist()  # type: ignore[union-attr]
    world.features.save_matrix(matrix, encoding, "")
    assert not files["h5"].exists()


def test_a_matrix_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("x.h5", "x.parquet", "x.csv", "absent.h5"):
        path = tmp_path / name
        if not name.startswith("absent"):
            path.write_bytes(b"nothing of the kind")
        with pytest.raises(FileError) as caught:
            read_matrix(path)
        assert caught.value.where["file"] == str(path)
    with pytest.raises(UntrustedError):
        read_matrix(tmp_path / "x.pkl")
