"""What is killed: each pipeline as one operation on a small project; what the project holds afterwards, by content."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.backend.pipelines.integrity import check
from holdfast.backend.store import Pointers, metadata
from holdfast.frontend.client import Project
from tests.integration.undo.world import write_period, write_project

STATES = ("empty", "ingested", "trained", "deployed")
"""What operations begin from; each state is made from the one before it."""
GROUP = "person"


def prepare(root: Path, state: str, database: str = "sqlite") -> None:
    """Bring a project from the state before into `state`; the first one makes the project."""
    if state == "empty":
        write_project(root, database)
        for month in (1, 2, 3):
            write_period(root / "incoming" / f"2024-0{month}", month, people=20, visits=60)
        with Project(root) as project:
            assert project.data.current() is None
        return
    with Project(root) as project:
        if state == "ingested":
            project.ingest("2024-01", [root / "incoming" / "2024-01"])
            project.materialise(GROUP, at="2024-02-01")
        elif state == "trained":
            project.train()
        elif state == "deployed":
            project.deploy()
            project.train(force=True)
            project.deploy(note="second")


def _incoming(project: Project, month: int) -> Path:
    return project.root / "incoming" / f"2024-0{month}"


OPERATIONS: dict[str, tuple[str, Callable[[Project], object]]] = {
    "first ingest": ("empty", lambda p: p.ingest("2024-01", [_incoming(p, 1)])),
    "ingest": ("ingested", lambda p: p.ingest("2024-02", [_incoming(p, 2)])),
    "ingest folder": ("ingested", lambda p: p.ingest_folder(p.root / "incoming")),
    "matrix": ("ingested", lambda p: p.matrix(full=True)),
    "materialise": ("ingested", lambda p: p.materialise(GROUP, at="2024-02-10")),
    "train": ("ingested", lambda p: p.train()),
    "train again": ("trained", lambda p: p.train(force=True)),
    "deploy": ("trained", lambda p: p.deploy()),
    "rollback": ("deployed", lambda p: p.rollback()),
}


def drain(project: Project) -> None:
    """Do what a worker would: all that waits, and all whose process died, but the trainings that imports sent."""
    while True:
        for job in project.jobs.list(state="queued"):
            if job.cause is not None:
                project.jobs.cancel(job.id, "not of this test")
        if project._services.engine.work() is None:
            return


def faults(project: Project) -> list[str]:
    """What does not hold together."""
    project.models.sync()
    project.data.refresh_face()
    return [f"{one}" for one in check(project._services, deep=True)]


def summary(project: Project) -> dict[str, Any]:
    """The whole project by content: equal for equal histories, whatever the ids and times."""
    store = project._services.store
    with store.read() as connection:
        rows = {name: list(connection.execute(metadata.tables[name].select())) for name in _COUNTED}
        pointers = Pointers(connection).all()
    versions = {v.id: (v.version, v.period, sorted(v.rows.items()), v.state) for v in project.data.list()}
    models = {row.id: f"{row.model} {row.version}" for row in rows["model_versions"]}
    deployed = {
        row.id: [row.target, sorted(models[model] for model in row.models.values()), row.note]
        for row in rows["deployments"]
    }
    names = {**models, **{one: str(said) for one, said in versions.items()}, **{d: str(v) for d, v in deployed.items()}}
    raw = project.root / "data" / "raw"
    told = {
        "versions": sorted(map(str, versions.values())),
        "pointers": {k.split(":data_")[0]: names.get(v, "run" if v[:4] == "run_" else v) for k, v in pointers.items()},
        "models": sorted(models.values()),
        "deployments": sorted(map(str, deployed.values())),
        "runs": Counter(row.state for row in rows["runs"]),
        "groups": sorted(row.name for row in rows["feature_groups"]),
        "materialisations": len(rows["materialisations"]),
        "matrices": len(rows["matrices"]),
        "audit": Counter(
            f"{row.action} {row.object.split(':data_')[0]}" for row in rows["audit"] if row.action == "point"
        ),
        "raw": sorted(
            path.relative_to(project.root).as_posix() for path in (project.root / "data" / "raw").glob("*/*")
        ),
        "jobs": Counter(f"{job.kind} {job.state}" for job in project.jobs.list(limit=1000) if job.cause is None),
        "online": _online(project) if versions else {},
    }
    return json.loads(json.dumps(told, ensure_ascii=False, sort_keys=True))


_COUNTED = (
    "model_versions", "deployments", "runs", "feature_groups", "materialisations", "matrices", "audit",
)  # fmt: skip


def _online(project: Project) -> dict[str, Any]:
    return {one.group: [one.vectors, one.newest_at] for one in project.feature_freshness()}
