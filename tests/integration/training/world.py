"""Small matrices with a planted signal, and a project to train them in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.features import Features, Matrix
from holdfast.backend.layout import Layout
from holdfast.backend.pipelines.train import Trained, train
from holdfast.backend.project_file import parse
from holdfast.backend.records import MatrixRecord
from holdfast.backend.registry.registry import Registry
from holdfast.backend.settings import Settings
from holdfast.backend.store import Store
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.testing.clock import FakeClock

NUMBERS = ("得分", "COUNT(检查 WHERE 类型 = [甲])", "price", "noise")
CATEGORY, TRUTH = "城区", "open"
PROJECT = """
project: test
tables: {shops: {files: shops.csv, key: id}}
targets: {risk: {from: shops, labels: {a: "1", b: "0"}}}
training: {early_stopping: 5, parameters: {learning_rate: 0.3, max_depth: 3}}
"""


def make_matrix(task: str = "multilabel", labels: tuple[str, ...] = ("高风险", "Low/Risk"), rows: int = 500,
                seed: int = 1) -> Matrix:  # fmt: skip
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {name: rng.normal(size=rows) for name in NUMBERS}
    columns["price"][rng.random(rows) < 0.2] = np.nan
    columns[CATEGORY] = Categories(rng.integers(-1, 3, rows), ("北", "南", "东"))
    columns[TRUTH] = (rng.random(rows) < 0.5).astype(np.float64)
    signal = (
        columns["得分"] + np.nan_to_num(columns["price"]) + (columns[CATEGORY].codes == 1) + rng.normal(size=rows) / 2
    )
    truths = {}
    for place, label in enumerate(labels):
        own = signal if place % 2 == 0 else -signal
        truths[label] = own * 10 + 50 if task == "regression" else np.digitize(own, [-0.5, 1]) * 1.0
        if task in ("binary", "multilabel"):
            truths[label] = (own > 0.5).astype(np.float64)
    truths[labels[0]][:10] = np.nan
    kinds = dict.fromkeys(NUMBERS, DType.FLOAT) | {CATEGORY: DType.CATEGORY, TRUTH: DType.BOOL}
    schema = Schema({"shops": Table("shops", tuple(Column(name, kind) for name, kind in kinds.items()), ("得分",))})
    features = tuple(Feature(Kind.COLUMN, "shops", kind, column=name) for name, kind in kinds.items())
    return Matrix(
        record=MatrixRecord("m1", 0, "risk", "dataset_1", "set_1", "2024-01", rows, "", "", 0.0),
        task=task,
        feature_set=FeatureSet("shops", features, schema),
        frame=FeatureFrame(rows, columns, kinds),
        entities=pa.array([f"店{i % 97}" for i in range(rows)]),
        cutoffs=np.arange(rows, dtype=np.int64),
        labels=truths,
        label_known=np.arange(rows, dtype=np.int64),
        classes=("低", "中", "高") if task == "multiclass" else (),
        dropped={"asked twice": 3},
    )


def make_settings(**training: Any) -> Settings:
    settings = parse(PROJECT)
    changed = settings.training.model_copy(update=training)
    return settings.model_copy(update={"training": changed})


@dataclass
class World:
    """A project folder with its registry; `train` runs the pipeline on a matrix."""

    root: Path
    clock: FakeClock
    store: Store
    blobs: LocalBlobs
    registry: Registry

    @staticmethod
    def at(root: Path, start: str = "2024-03-01") -> "World":
        layout = Layout(root)
        store = Store(layout.database_url)
        store.upgrade()
        blobs, clock = LocalBlobs(layout.private / "blobs"), FakeClock(start)
        return World(root, clock, store, blobs, Registry(store, blobs, clock, layout))

    @property
    def features(self) -> Features:
        return Features(self.store, self.blobs, self.clock, self.registry.layout)

    @property
    def models(self) -> Path:
        return self.registry.layout.models

    def train(self, matrix: Matrix | None = None, settings: Settings | None = None, **more: Any) -> Trained:
        self.clock.advance(1_000_000)
        chosen = settings or make_settings()
        return train(self.registry, None, matrix or make_matrix(), chosen, **{"target": "risk", **more})

    def snapshot(self) -> tuple[dict[str, bytes], Mapping[str, str]]:
        """Everything a failed training must leave alone: the folder data/model, and what is current."""
        files = {p.name: p.read_bytes() for p in sorted(self.models.iterdir())} if self.models.is_dir() else {}
        return files, {version.model: version.id for version in self.registry.current()}
