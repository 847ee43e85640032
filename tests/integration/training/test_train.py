"""The pipeline from a matrix to registered models."""

import hashlib
import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest

from holdfast.backend.pipelines.train import Trained
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.registry.onnx_twin import run_onnx
from holdfast.backend.registry.package import FIELDS
from holdfast.core.learn.serving import ServedModel
from holdfast.errors import AlignmentError, InputError, IntegrityError, NotFoundError

from .world import CATEGORY, NUMBERS, TRUTH, World, make_matrix, make_settings

NAMES = [*NUMBERS, CATEGORY, TRUTH]


def bundle_of(world: World, model: str) -> ServedModel:
    version = world.registry.get(model)
    return load_bundle(world.blobs.path(version.serving), version.serving)


def test_a_run_trains_registers_and_shows_every_label(world: World) -> None:
    steps: list[tuple[int, int, str]] = []
    done = world.train(note="第一次", progress=lambda *step: steps.append(step))
    assert [m.model for m in done.models] == ["risk/高风险", "risk/Low/Risk"]
    assert {m.version for m in done.models} == {"v1.0"}
    assert sorted(p.name for p in world.models.iterdir()) == sorted([
        "manifest.json",
        f"feature_definitions_{make_matrix().feature_set.hash[:12]}.json",
        *(f"{name}{label}{end}" for label in ("高风险", "Low%2FRisk") for name, end in (
            ("multilabel_model_", ".pkl"), ("feature_weights_", ".yaml"), ("shap_explainer_", ".pkl"), ("", ".onnx"))),
    ])  # fmt: skip
    manifest = json.loads((world.models / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["models"].values():
        for name, file in entry["files"].items():
            assert hashlib.sha256((world.models / name).read_bytes()).hexdigest() == file["sha256"]
    run = world.registry.run(done.run.id)
    assert run == done.run
    assert (run.state, run.note, run.dataset) == ("done", "第一次", "dataset_1")
    figures = run.metrics["高风险"]
    assert figures["test"]["roc_auc"] > 0.8
    assert figures["test"]["pr_auc"] > figures["test"]["prevalence"]
    low, high = (figures["intervals"]["roc_auc"][end] for end in ("low", "high"))
    assert low < figures["test"]["roc_auc"] < high
    assert figures["rows"]["no_label"] == 10
    assert figures["rows"]["asked twice"] == 3
    assert sum(figures["rows"][part] for part in ("train", "validate", "test")) == 490
    assert [done for done, *_ in steps] == sorted(done for done, *_ in steps)
    assert any("高风险: round 3" in message for *_, message in steps)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_other_tasks_are_named_after_the_target(world: World, task: str) -> None:
    done = world.train(make_matrix(task, labels=("结果",)))
    assert [m.model for m in done.models] == ["risk"]
    assert (world.models / f"{task}_model_risk.pkl").is_file()
    package = world.registry.load("risk")
    assert package["category"] == "结果"
    assert package["task"] == task
    served = bundle_of(world, "risk")
    assert served.engine == "forest"
    outputs = served.predict(served.golden_rows)
    assert outputs.shape == ((len(served.golden_rows), 3) if task == "multiclass" else (len(served.golden_rows),))
    decided = served.decide(outputs)
    assert decided.shape == (len(outputs),)
    if task == "multiclass":
        assert served.classes == ("低", "中", "高")
        assert (decided == outputs.argmax(1)).all()
    elif task == "binary":
        assert ((outputs >= served.threshold) == decided).all()
    assert done.run.metrics["结果"]["onnx"]["max_abs_difference"] < 1e-3


def test_the_package_has_the_documented_keys(world: World) -> None:
    world.train()
    package = world.registry.load("risk/高风险")
    assert list(package) == list(FIELDS)
    assert package["feature_names"] == NAMES
    assert sum(package["feature_importance"].values()) == pytest.approx(1)
    assert package["feature_weights"] == package["feature_importance"]
    assert package["label_types"] == ["高风险", "Low/Risk"]
    assert package["categorical_categories"][CATEGORY]["未知"] == 0
    assert package["version"] == "v1.0"
    assert package["parents"][0] == "dataset_1"
    assert package["metrics"]["test"]["n"] > 0
    stats = package["feature_stats"]
    assert stats["得分"]["min"] < stats["得分"]["max"]
    assert stats[CATEGORY]["max"] == 3.0
    weights = [cross["weight"] for cross in package["feature_cross_weights"]]
    assert weights == sorted(weights, reverse=True)
    assert weights
    json.dumps({k: v for k, v in package.items() if k != "model"}, allow_nan=False)


def test_the_package_opens_and_answers_where_holdfast_is_not_installed(world: World, tmp_path: Path) -> None:
    world.train()
    served = bundle_of(world, "risk/高风险")
    np.save(tmp_path / "rows.npy", served.golden_rows)
    script = """
        import sys, joblib, numpy
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "holdfast":
                    raise ImportError(name)
        sys.meta_path.insert(0, Absent())
        package = joblib.load(sys.argv[1])
        answer = package["model"].predict_proba(numpy.load(sys.argv[2]))[:, 1]
        numpy.save(sys.argv[3], answer)
        joblib.load(sys.argv[4]).shap_values(numpy.load(sys.argv[2]))
        assert not any(name.startswith("holdfast") for name in sys.modules)
    """
    files = [world.models / "multilabel_model_高风险.pkl", tmp_path / "rows.npy", tmp_path / "answer.npy",
             world.models / "shap_explainer_高风险.pkl"]  # fmt: skip
    command = [sys.executable, "-I", "-W", "ignore", "-c", textwrap.dedent(script), *map(str, files)]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_array_equal(
        np.load(tmp_path / "answer.npy").astype(np.float64), served.predict(served.golden_rows)
    )


def test_explanations_sum_to_the_margin_and_are_those_of_shap(world: World) -> None:
    world.train()
    served = bundle_of(world, "risk/高风险")
    rows = served.golden_rows[:20]
    values = served.explain(rows)
    assert values.shape == (20, len(NAMES) + 1)
    outputs = served.predict(rows)
    np.testing.assert_allclose(values.sum(1), np.log(outputs / (1 - outputs)), atol=1e-4)
    explainer = joblib.load(world.models / "shap_explainer_高风险.pkl")
    np.testing.assert_allclose(explainer.shap_values(rows.astype(np.float32)), values[:, :-1], atol=1e-4)


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "regression"])
def test_the_difference_written_on_the_onnx_twin_is_the_true_one(world: World, task: str) -> None:
    label = "高风险"
    done = world.train(make_matrix(task, labels=(label,)))
    served = bundle_of(world, done.models[0].model)
    data = world.blobs.path(done.models[0].files["onnx"]).read_bytes()
    theirs = run_onnx(data, served.golden_rows, task)
    ours = served.predict(served.golden_rows)
    props = {p.key: json.loads(p.value) for p in onnx.load_from_string(data).metadata_props}
    assert props["holdfast.max_abs_difference"] == np.abs(theirs - ours).max()
    flipped = served.decide(theirs) != served.decide(ours)
    assert props["holdfast.flipped_decisions"] == (0 if task == "regression" else int(flipped.sum()))
    assert props["holdfast.model"] == done.models[0].model
    assert props["holdfast.feature_names"] == NAMES
    assert props["holdfast.rows"] == len(ours) == done.models[0].metrics["onnx"]["rows"]


def test_equal_training_is_not_done_twice(world: World) -> None:
    first = world.train()
    again = world.train()
    assert again.repeated
    assert not first.repeated
    assert (again.run, again.models) == (first.run, tuple(sorted(first.models, key=lambda m: m.model)))
    forced = world.train(force=True)
    assert {m.version for m in forced.models} == {"v1.1"}
    other = world.train(settings=make_settings(seed=7))
    assert {m.version for m in other.models} == {"v1.2"}
    changed = make_matrix()
    changed.frame.columns["noise"][3] += 1
    assert not world.train(changed).repeated
    one = world.train(labels=["高风险"])
    assert not one.repeated
    assert [m.model for m in one.models] == ["risk/高风险"]


def test_same_input_same_bytes_in_another_project(world: World, tmp_path: Path) -> None:
    first = world.train()
    other = World.at(tmp_path / "other")
    second = other.train()
    other.store.close()

    def bytes_of(where: World, done: Trained) -> list[bytes]:
        served = [load_bundle(where.blobs.path(m.serving)) for m in done.models]
        return [model._arrays["booster"].tobytes() for model in served]

    assert bytes_of(world, first) == bytes_of(other, second)
    assert [m.serving for m in first.models] == [m.serving for m in second.models]
    assert [m.metrics for m in first.models] == [m.metrics for m in second.models]


def test_updating_one_label_touches_no_file_of_another(world: World) -> None:
    world.train()
    others = {p: p.stat() for p in world.models.iterdir() if "Low" in p.name}
    own = {p: p.stat() for p in world.models.iterdir() if "高风险" in p.name}
    assert len(others) == len(own) == 4
    world.train(settings=make_settings(seed=5), labels=["高风险"])
    for path, before in others.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert all(path.stat().st_ino != before.st_ino for path, before in own.items())
    assert {v.model: v.version for v in world.registry.current()} == {"risk/高风险": "v1.1", "risk/Low/Risk": "v1.0"}


@pytest.mark.parametrize("label", ["../../etc/passwd", "nul", "a\0b", "长" * 300, " . "])
def test_labels_that_are_no_file_names(world: World, label: str) -> None:
    world.train(make_matrix(labels=("A", "a", label)))
    assert len(list(world.models.glob("multilabel_model_*.pkl"))) == 3
    assert {p.parent for p in world.root.rglob("*.pkl")} == {world.models}
    assert world.registry.load(f"risk/{label}")["category"] == label


def test_a_label_that_cannot_be_learnt_fails_the_whole_run(world: World) -> None:
    world.train()
    before = world.snapshot()
    matrix = make_matrix(seed=2)
    matrix.labels["Low/Risk"][:] = 1.0
    with pytest.raises(InputError) as caught:
        world.train(matrix)
    assert caught.value.where["label"] == "Low/Risk"
    assert world.snapshot() == before
    failed = world.registry.runs(state="failed")
    assert len(failed) == 1
    assert "same label" in failed[0].error
    with pytest.raises(InputError, match="Unicode"):
        world.train(make_matrix(labels=("\ud800",)))
    with pytest.raises(NotFoundError, match="no label"):
        world.train(labels=["那个"])


def test_values_beyond_float32_are_counted_and_do_not_stop_training(world: World) -> None:
    matrix = make_matrix()
    matrix.frame.columns["noise"][:3] = [1e300, -np.inf, np.inf]
    done = world.train(matrix)
    assert done.models[0].metrics["fit"]["values_beyond_float32"] == {"noise": 3}
    assert done.models[0].metrics["fit"]["engine"] == "forest"


def test_server_side_modules_only(world: World) -> None:
    world.train()
    version = world.registry.get("risk/高风险")
    script = """
        import sys
        from pathlib import Path
        from holdfast.backend.registry.bundle import load_bundle
        model = load_bundle(Path(sys.argv[1]), sys.argv[2])
        model.predict(model.golden_rows)
        heavy = {"sqlalchemy", "sklearn", "pandas", "fastapi", "xgboost", "joblib", "duckdb"} & set(sys.modules)
        assert not heavy, heavy
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(world.blobs.path(version.serving)), version.serving]
    subprocess.run(command, check=True, timeout=120)


def test_a_damaged_bundle_is_refused(world: World, tmp_path: Path) -> None:
    world.train()
    version = world.registry.get("risk/高风险")
    whole = world.blobs.path(version.serving).read_bytes()
    path = tmp_path / "bundle"
    for damaged in (b"", whole[:10], whole[:200], whole[: len(whole) // 2], whole[:-64], b"x" + whole[1:]):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            load_bundle(path)
        assert caught.value.where["file"] == str(path)
    path.write_bytes(whole[:-2000] + b"\1" + whole[-1999:])
    with pytest.raises(IntegrityError, match=version.serving):
        load_bundle(path, version.serving)
    served = load_bundle(world.blobs.path(version.serving))
    start = whole.index(served._arrays["base"].tobytes())
    path.write_bytes(whole[:start] + b"\x55" + whole[start + 1 :])
    with pytest.raises(IntegrityError, match="margins recorded"):
        load_bundle(path)
    with pytest.raises(AlignmentError, match="6 features"):
        served.predict(np.zeros((1, 5)))


def test_engine_booster_where_the_kernel_is_not_proven(world: World) -> None:
    world.train()
    served = bundle_of(world, "risk/高风险")
    from holdfast.core.learn.serving import pack, unpack

    meta, arrays = unpack(world.blobs.path(world.registry.get("risk/高风险").serving).read_bytes())
    kept = {name: array for name, array in arrays.items() if name not in ("nodes", "roots", "groups", "base")}
    plain = ServedModel(pack({**meta, "engine": "booster"}, kept))
    plain.verify()
    np.testing.assert_array_equal(plain.predict(served.golden_rows), served.predict(served.golden_rows))


def test_rows_are_counted_of_each_label_on_its_own(world: World) -> None:
    settings = make_settings()
    bounds = {"by": "time", "train": "< 1970-01-01T00:00:00.000300Z", "validate_": "< 1970-01-01T00:00:00.000400Z",
              "test": "< 1970-01-01T00:00:00.000480Z"}  # fmt: skip
    settings = settings.model_copy(update={"split": settings.split.model_copy(update=bounds)})
    matrix = make_matrix()
    matrix.label_known[100:150] = 450  # after the end of training
    matrix.labels["高风险"][100:140] = np.nan
    done = world.train(matrix, settings)
    one, other = (done.run.metrics[label]["rows"] for label in ("高风险", "Low/Risk"))
    assert (one["label_known_too_late"], one["no_label"], one["after_the_last_bound"]) == (10, 50, 20)
    assert (other["label_known_too_late"], other["no_label"], other["after_the_last_bound"]) == (50, 0, 20)
    for rows in (one, other):
        assert sum(rows.values()) - rows["asked twice"] == 500


def test_split_by_group_keeps_entities_apart(world: World) -> None:
    settings = make_settings()
    settings = settings.model_copy(update={"split": settings.split.model_copy(update={"by": "group"})})
    done = world.train(replace(make_matrix()), settings)
    rows = done.run.metrics["Low/Risk"]["rows"]
    assert min(rows["train"], rows["validate"], rows["test"]) > 20
