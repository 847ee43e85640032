"""The model that everybody serves: trained by Holdfast in a project of its own, and written out for the peers.

An XGBoost binary classifier of 30 numeric features and exactly 200 trees of depth 6: without validation rows nothing
stops early. Values have four decimals, as JSON rows have; every engine rounds them to float32 itself.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import holdfast

__all__ = ["DEPTH", "FEATURES", "TARGET", "TREES", "World", "many", "world"]

FEATURES, TREES, DEPTH = 30, 200, 6
TARGET = "risk"
NAMES = [f"x{i:02d}" for i in range(FEATURES)]
_TRAINED = 20_000
_ASKED = 64
_PROJECT = """
project: serving
tables:
  cases: {{files: cases.parquet, key: id, columns: {{y: int, {columns}}}}}
targets:
{targets}
split: {{by: random, parts: [0.85, 0.0, 0.15]}}
training: {{on_import: false, parameters: {{n_estimators: {trees}, max_depth: {depth}, min_child_weight: 1}}}}
serving: {{port: 8700, workers: 2}}
"""


@dataclass(frozen=True)
class World:
    """The project and what was written out of it.

    `files` holds model.ubj (the booster), model.onnx, forest.npz (the arrays of our kernel), names.json. `rows` are what
    is asked, name → value, and `expected` the booster's own probabilities of them (float32 numbers).
    """

    project: Path
    files: Path
    bundle: Path
    rows: list[dict[str, float]]
    expected: list[float]


def world(folder: Path) -> World:
    """Make it in `folder`. AssertionError when the model is not the one that is named."""
    shutil.rmtree(folder, ignore_errors=True)
    import xgboost

    from holdfast.backend.registry.bundle import load_bundle

    root, files = folder / "project", folder / "model"
    files.mkdir(parents=True)
    _write_project(root, [TARGET])
    random = np.random.default_rng(5)
    _cases(random, _TRAINED, root / "cases.parquet")
    with holdfast.open(root) as project:
        project.ingest("2026-01", [root / "cases.parquet"])
        (trained,) = project.train(TARGET).models
        project.deploy(TARGET)
        package = project.models.load(TARGET)
        bundle = project._services.blobs.path(trained.serving)
        twin = next((root / "data" / "model").glob("*.onnx"))
        shutil.copy(twin, files / "model.onnx")
    booster = package["model"].get_booster()
    booster.save_model(files / "model.ubj")
    package["model"].save_model(files / "classifier.ubj")
    _check(booster)
    served = load_bundle(bundle)
    assert served.engine == "forest"
    assert list(served.names) == NAMES, served.names
    np.savez(files / "forest.npz", **{name: served._arrays[name] for name in ("nodes", "roots", "groups", "base")})
    (files / "names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    matrix = _matrix(random, _ASKED)
    expected = booster.predict(xgboost.DMatrix(matrix.astype(np.float32), feature_names=booster.feature_names))
    rows = [dict(zip(NAMES, row, strict=True)) for row in matrix.tolist()]
    return World(root, files, bundle, rows, [float(value) for value in expected])


def many(of: World, folder: Path, count: int) -> tuple[Path, list[str]]:
    """A project with `count` models like the one of `of`, each deployed for a target of its own; the targets' names.

    It is made in `folder`, unless it was before.
    """
    import joblib

    targets = [f"risk{i:03d}" for i in range(count)]
    root, ready, given = folder / "project", folder / ".ready", folder / "given"
    if ready.exists():
        return root, targets
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(of.project / "data" / "model", given)
    (kept,) = given.glob("*_model_*.pkl")
    package = joblib.load(kept)
    for other in [*given.glob("*.onnx"), *given.glob("*.yaml"), given / "manifest.json", kept]:
        other.unlink(missing_ok=True)
    for target in targets:
        signature = {**package["signature"], "target": target}
        joblib.dump({**package, "category": target, "signature": signature}, given / f"binary_model_{target}.pkl")
    _write_project(root, targets)
    shutil.copy(of.project / "cases.parquet", root / "cases.parquet")
    with holdfast.open(root) as project:
        project.ingest("2026-01", [root / "cases.parquet"])
        project.import_models(given, trust=True)
        for target in targets:
            project.deploy(target)
    shutil.rmtree(given)
    ready.touch()
    return root, targets


def configured(root: Path, *, port: int, workers: int) -> None:
    """Write port and workers into the project file."""
    file = root / "holdfast.yaml"
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"serving: \{.*\}", f"serving: {{port: {port}, workers: {workers}}}", text)
    file.write_text(text, encoding="utf-8")


def _write_project(root: Path, targets: list[str]) -> None:
    root.mkdir(parents=True)
    columns = ", ".join(f"{name}: float" for name in NAMES)
    wanted = "\n".join(f"  {target}: {{from: cases, label: y, task: binary}}" for target in targets)
    text = _PROJECT.format(columns=columns, targets=wanted, trees=TREES, depth=DEPTH)
    (root / "holdfast.yaml").write_text(text, encoding="utf-8")


def _matrix(random: np.random.Generator, count: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return random.normal(size=(count, FEATURES)).round(4)


def _cases(random: np.random.Generator, count: int, file: Path) -> None:
    """Rows whose label hangs on sums, products and thresholds of the values, with noise."""
    x = _matrix(random, count)
    score = x[:, :8].sum(axis=1) / 2 + x[:, 8] * x[:, 9] + np.where(x[:, 10] > 0.5, x[:, 11], -x[:, 12])
    y = random.random(count) < 1 / (1 + np.exp(-score))
    columns = {name: x[:, i] for i, name in enumerate(NAMES)}
    pq.write_table(pa.table({"id": np.arange(count), "y": y.astype(np.int64), **columns}), file)


def _check(booster: Any) -> None:
    """The trees that were asked for: so many, each so deep."""
    trees = booster.get_dump(dump_format="json")
    depths = [_depth(json.loads(tree)) for tree in trees]
    assert len(trees) == TREES, len(trees)
    assert set(depths) == {DEPTH}, sorted(set(depths))


def _depth(node: dict[str, Any]) -> int:
    return 1 + max(map(_depth, node["children"])) if "children" in node else 0
