"""A small project made by the real components, and a server for it.

`python serving_project.py ROOT PORT WORKERS` serves the project in ROOT (made by `make_project`).
"""

import csv
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import date, timedelta
from functools import cached_property, partial
from pathlib import Path

import numpy as np

import holdfast.backend.registry.registry  # noqa: F401 - hangs its tables on the metadata
from holdfast.backend.access import Keys
from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.adapters.files import FileReader
from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.adapters.onlinesqlite import SqliteOnline
from holdfast.backend.api.control import ControlRooms
from holdfast.backend.api.rollouts import RolloutRooms
from holdfast.backend.api.server import serve
from holdfast.backend.api.tls import open_tls
from holdfast.backend.datasets import Datasets
from holdfast.backend.deployment import Deployments, Rollouts
from holdfast.backend.features import Features
from holdfast.backend.features.groups import Groups
from holdfast.backend.features.vectors import OnlineFeatures
from holdfast.backend.layout import Layout
from holdfast.backend.pipelines.features import build_matrix
from holdfast.backend.pipelines.ingest import ingest
from holdfast.backend.pipelines.trace import Lineage
from holdfast.backend.project_file import load
from holdfast.backend.records import ModelVersion, Run, new_id
from holdfast.backend.registry.artifacts import Identity, build
from holdfast.backend.registry.registry import Registry, model_name
from holdfast.backend.serving.loader import Sources
from holdfast.backend.store import Store
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.encoding import Encoding
from holdfast.core.learn.fit import Recipe, fit
from holdfast.core.learn.split import TRAIN
from holdfast.errors import NotFoundError

CONFIG = """
project: 餐厅检查
tables:
  shops: {files: shops.csv, key: shop_id, delivery: full, known: period_start, columns: {shop_id: int, 区域: category}}
  visits:
    files: visits.csv
    key: visit_id
    time: date
    links: {shop_id: shops}
    columns: {visit_id: int, shop_id: int, type: category, 结果: category}
targets:
  风险:
    entity: shops
    from: visits
    cutoff: date
    context: [type]
    task: multilabel
    labels: {高风险: "t.结果 = '差'", Low Risk: "t.score > 60"}
  score: {entity: shops, from: visits, cutoff: date, context: [type], task: regression, label: score}
  grade: {entity: shops, from: visits, cutoff: date, context: [type], task: multiclass, label: 结果}
features: {depth: 2, windows: [all, 90d], max: 60}
split: {by: random, parts: [0.7, 0.15, 0.15]}
"""
LABELS = {"风险": ["高风险", "Low Risk"], "score": ["score"], "grade": ["grade"]}


def copy_project(source, target):
    """A copy of a project that is open, by another process: closing a file drops the locks that this one has on it.

    (POSIX; SQLite's, too, which then finds its journal gone: "disk I/O error".)
    """
    subprocess.run(["cp", "-a", source, target], check=True)
    for left in (*Path(target).glob("**/*.out"), *Path(target).glob("证书")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


class Rooms:
    """All rooms of a project."""

    def __init__(self, root):
        self.layout = Layout(Path(root))
        self.settings = load(Path(root))
        self.clock = SystemClock()
        self.blobs = LocalBlobs(self.layout.private / "blobs")
        self.store = Store(self.layout.database_url)
        self.store.upgrade()
        self.datasets = Datasets(self.store, self.blobs, self.clock, self.layout)
        self.features = Features(self.store, self.blobs, self.clock, self.layout)
        self.registry = Registry(self.store, self.blobs, self.clock, self.layout)
        self.deployments = Deployments(self.store, self.clock)
        self.keys = Keys(self.store, self.clock)

    @property
    def log(self):
        return self.layout.private / "predictions.db"

    @cached_property
    def sources(self):
        return Sources(
            deployments=self.deployments,
            model=self.registry.get,
            feature_set=lambda identity: FeatureSet.from_dict(self.features.get(identity).definitions),
            dataset=self.datasets.current,
            tables=lambda version: self.datasets.read(version.id),
            blobs=self.blobs,
            clock=self.clock,
            gate=lambda: self.keys.gate(self.settings.serving.host),
        )

    @cached_property
    def lineage(self):
        return Lineage(
            sources=self.sources,
            log=self.log,
            run=self.registry.run,
            feature_set=self.features.get,
            matrix=self.features.matrix,
            dataset=self.datasets.get,
            raw_files=self.datasets.files,
        )

    @cached_property
    def online(self):
        def set_of(target):
            return FeatureSet.from_dict(self.features.get(target).definitions)

        groups = Groups(self.store, self.datasets, self.settings, self.clock, set_of)
        return OnlineFeatures(groups, SqliteOnline(self.layout.online), self.clock, self.settings.timezone)

    def newest(self, target):
        return {version.label: version.id for version in self.registry.current(target)}

    def train(self, target, seed=42, rounds=20):
        """A run of `target` by the pieces of the training pipeline."""
        built = build_matrix(self.datasets, self.features, self.settings, target)
        matrix, now = built.matrix, self.clock.now()
        encoding = Encoding.fit(matrix.frame, built.parts == TRAIN)
        rows = encoding.encode(matrix.frame)
        run = Run(
            id=new_id("run", now), target=target, made_at=now, ended_at=None, state="running",
            dataset=matrix.record.dataset, feature_set=matrix.record.feature_set, matrix=matrix.record.id,
            parameters={}, metrics={}, environment={}, note="",
        )  # fmt: skip
        self.registry.start_run(run)
        versions = []
        for label, truth in matrix.labels.items():
            known = ~np.isnan(truth)
            recipe = Recipe(seed=seed, parameters={"n_estimators": rounds, "learning_rate": 0.2})
            fitted = fit(
                matrix.task, rows[known].astype(np.float32), truth[known], built.parts[known], recipe,
                classes=len(matrix.classes),
            )  # fmt: skip
            model = model_name(target, label, matrix.task)
            version = self.registry.next_version(model, "xgboost")
            identity = Identity(
                target=target, label=label, model=model, version=version, labels=tuple(matrix.labels),
                trained_at="2024-07-01T00:00:00Z", data_version="v1.0", feature_set=matrix.feature_set.hash,
                parents=(), environment={}, note="",
            )  # fmt: skip
            made = build(fitted, encoding, identity, classes=matrix.classes, metrics={}, rows=rows)
            versions.append(
                ModelVersion(
                    id=new_id("model", now),
                    model=model,
                    target=target,
                    label=label,
                    task=matrix.task,
                    version=version,
                    made_at=now,
                    run=run.id,
                    dataset=run.dataset,
                    feature_set=run.feature_set,
                    parents=(),
                    algorithm="xgboost",
                    parameters={},
                    metrics={},
                    serving=self.blobs.put(made.serving),
                    files={role: self.blobs.put(data) for role, data in made.files.items()},
                    note="",
                )
            )
        self.registry.register(versions, run=replace(run, ended_at=now, state="done"))
        return matrix

    def status(self):
        return {"project": self.settings.project}

    def all_datasets(self):
        return [asdict(version) for version in self.datasets.list()]

    def all_models(self):
        return [asdict(version) for version in self.registry.current()]


def write_period(folder, month, shops=120, visits=700, seed=0):
    """One delivery of synthetic shops and visits, with signal: bad shops stay bad."""
    folder.mkdir(parents=True)
    chance = random.Random(f"{seed}-{month}")
    places = ["东城", "西城", "海淀", "North Beach"]
    with (folder / "shops.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["shop_id", "区域", "seats"])
        for shop in range(1, shops + 1):
            writer.writerow([shop, places[shop % 4], 10 + shop % 50])
    with (folder / "visits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["visit_id", "shop_id", "date", "type", "score", "结果"])
        first = date(2024, month, 1)
        for number in range(visits):
            shop = chance.randint(1, shops)
            bad = (shop % 5 == 0) == (chance.random() < 0.8)
            day = first + timedelta(days=chance.randint(0, 27))
            score = chance.gauss(50 if bad else 80, 8)
            kind = chance.choice(["Routine", "投诉"])
            writer.writerow(
                [month * 10_000 + number, shop, day, kind, f"{score:.2f}", "差" if bad else chance.choice(["良", "优"])]
            )


def make_project(root):
    """Ingest three months and train all targets; nothing is deployed."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "holdfast.yaml").write_text(CONFIG, encoding="utf-8")
    rooms = Rooms(root)
    with FileReader() as reader:
        for month in (1, 2, 3):
            folder = root / "delivered" / f"2024-0{month}"
            write_period(folder, month)
            ingest(rooms.datasets, rooms.settings, reader.read, folder.name, [folder])
    for target in LABELS:
        rooms.train(target)
    return rooms


def open_sources(root):
    return Rooms(root).sources


def open_control(root):
    rooms = Rooms(root)
    return ControlRooms(
        lineage=rooms.lineage,
        status=rooms.status,
        datasets=rooms.all_datasets,
        models=rooms.all_models,
        newest=rooms.newest,
        online=rooms.online,
        gate=rooms.sources.gate,
        rollouts=RolloutRooms(
            rollouts=Rollouts(rooms.store, rooms.clock, rooms.deployments),
            start=_no_trial, end=_no_trial, status=_no_trial, add_outcomes=_no_trial, watchers=Nobody(),
        ),
    )  # fmt: skip


def _no_trial(*_values, **_options):
    raise NotFoundError("nothing is on trial in this project")


class Nobody:
    """Watches nothing."""

    def start(self):
        """Nothing to begin."""

    def stop(self):
        """Nothing to end."""


def main(root, port, workers):
    rooms = Rooms(root)
    serving = rooms.settings.serving.model_copy(update={"port": int(port), "workers": int(workers)})
    rooms.store.close()
    serve(
        serving,
        rooms.log,
        partial(open_sources, root),
        partial(open_control, root),
        lambda text: print(text, flush=True),
        tls=open_tls(serving.tls, rooms.layout.root),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])


def deploy_only(rooms, target):
    """Deploy `target` and nothing else: a copy of a project that others use may have more."""
    from holdfast.backend.pipelines.deploy import deploy

    for other in rooms.deployments.routes():
        if other != target:
            rooms.deployments.withdraw(other)
    return deploy(rooms.sources, target, rooms.newest(target))
