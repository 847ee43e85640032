"""What is killed: each pipeline as one operation on a small project; what the project holds afterwards, by content."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.backend.pipelines.erase import erasures
from holdfast.backend.pipelines.forgetting import finish_interrupted
from holdfast.backend.pipelines.integrity import check
from holdfast.backend.store import Pointers, metadata
from holdfast.frontend.client import Project
from tests.integration.undo.world import person, write_period, write_project

STATES = {
    "empty": None, "ingested": "empty", "trained": "ingested", "deployed": "trained", "history": "trained",
    "branched": "history",
}  # fmt: skip
"""What operations begin from: each state, and the one that it is made from."""
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
        elif state == "history":
            project.ingest_folder(root / "incoming")
            project.append("notes", [_note(1)], note="by hand")
        elif state == "branched":
            base = project.data.get().version
            project.branch("side", base)
            project.upsert("notes", [{**_note(1), "text": "ours"}])
            project.data.checkout("side", "test")
            project.upsert("notes", [_note(2)])
            project.data.checkout("main", "test")
        _cancel_sent(project)


def _note(number: int) -> dict[str, object]:
    return {"note_id": number, "visit_id": 10_000, "text": f"记 {number}"}


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
    "append": ("ingested", lambda p: p.append("notes", [_note(3), _note(4)])),
    "upsert": ("history", lambda p: p.upsert("notes", [{**_note(1), "text": "new"}])),
    "merge": ("branched", lambda p: p.merge("side")),
    "revert": ("history", lambda p: p.revert(p.data.get().version)),
    "compact": ("history", lambda p: p.compact()),
    "collect": ("history", lambda p: p.collect(keep=1, grace="0")),
    "checkout": ("history", lambda p: p.data.checkout(p.data.list()[0].version, "test")),
    "go back": ("history", lambda p: p.go_back(p.data.list()[0].version)),
    "erase": ("trained", lambda p: p.erase("persons", person(3), "asked")),
    "backup": ("trained", lambda p: p.backup(p.root / "backups")),
}


def _cancel_sent(project: Project) -> None:
    """Cancel the trainings that new data sent."""
    for job in project.jobs.list(state="queued"):
        if job.cause is not None:
            project.jobs.cancel(job.id, "not of this test")


def drain(project: Project) -> None:
    """Do what a worker would: all that waits, and all whose process died, but the trainings that imports sent."""
    while True:
        _cancel_sent(project)
        if project._services.engine.work() is None:
            return


SENT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ingest_folder", {"folder": "incoming", "note": ""}),
    ("train", {"target": "风险", "labels": None, "note": "chaos", "force": True}),
    ("deploy", {"target": "风险", "models": "current", "note": "chaos"}),
    ("train", {"target": "风险", "labels": None, "note": "chaos", "force": False}),
    ("materialise", {"groups": [GROUP], "at": None}),
    ("train", {"target": "风险", "labels": ["高"], "note": "chaos", "force": True}),
    ("matrix", {"target": "风险", "version": None, "frozen_at": None, "full": True}),
)
"""The jobs that several workers do at once under chaos."""


def send(project: Project) -> None:
    """Put the jobs of a round into the queue; the training that the imports of the state sent waits there already."""
    models = {version.label: version.id for version in project.models.current("风险")}
    queue = project.jobs
    with queue.store.write("test") as connection:
        for kind, asked in SENT:
            given = dict(asked)
            if kind == "ingest_folder":
                given["folder"] = str(project.root / "incoming")
            if kind == "deploy":
                given["models"] = models
            queue.send(connection, kind, given, cause="chaos", attempts=1000)


def work(project: Project) -> None:
    """Work as a worker's child does, until no job is left."""
    engine = project._services.engine
    while True:
        if engine.work() is None:
            if not engine.queue.unfinished(engine.kinds):
                return
            time.sleep(0.05)


def judge(project: Project) -> list[str]:
    """What is wrong after a round of chaos: jobs, versions, models and deployments lost, or there twice."""
    with project._services.datasets.changing("judge"):
        pass  # who was late when it was killed left copies; the next change clears them away
    wrong = faults(project)
    jobs = project.jobs.list(limit=1000)
    wrong += [f"{job.kind} is {job.state}: {job.error}" for job in jobs if job.state in {"queued", "running", "dead"}]
    sent = [job for job in jobs if job.cause == "chaos"]
    if len(sent) != len(SENT):
        wrong.append(f"{len(sent)} of {len(SENT)} jobs are there")
    told = summary(project)
    if len(told["versions"]) != 3:
        wrong.append(f"versions: {told['versions']}")
    runs = [job.result["run"] for job in jobs if job.kind == "train" and job.state == "done"]
    made = {job.result["run"] for job in jobs if job.kind == "train" and job.result and not job.result["repeated"]}
    # A training that began again after its data had changed is another run; the one it began with was interrupted.
    kept = [run for run in project.models.runs() if not run.error.startswith("interrupted")]
    if {run.id for run in kept} != made or {run.state for run in kept} != {"done"} or not made <= set(runs):
        wrong.append(f"runs: {[(run.id, run.state, run.error) for run in kept]}, made by jobs: {sorted(made)}")
    versions = Counter((v.run, v.model) for name in ("风险/高", "风险/low") for v in project.models.versions(name))
    if max(versions.values()) > 1 or {run for run, _ in versions} != made:
        wrong.append(f"model versions by run: {versions}")
    deployed = [job.result for job in sent if job.kind == "deploy"]
    if sorted(deployed) != sorted(one.id for one in project.deployments.history()):
        wrong.append(f"deployments {deployed}, there are {[one.id for one in project.deployments.history()]}")
    return wrong


def faults(project: Project) -> list[str]:
    """What does not hold together."""
    finish_interrupted(project._services)  # as the next command does
    project.checkpoints()
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
        "jobs": Counter(f"{job.kind} {job.state}" for job in project.jobs.list(limit=1000) if job.state == "done"),
        "online": _online(project) if versions else {},
        "erased": len(erasures(project._services)),
        "backups": len(project.backups(backups)) if (backups := project.root / "backups").exists() else 0,
    }
    return json.loads(json.dumps(told, ensure_ascii=False, sort_keys=True))


_COUNTED = (
    "model_versions", "deployments", "runs", "feature_groups", "materialisations", "matrices", "audit",
)  # fmt: skip


def _online(project: Project) -> dict[str, Any]:
    return {one.group: [one.vectors, one.newest_at] for one in project.feature_freshness()}
