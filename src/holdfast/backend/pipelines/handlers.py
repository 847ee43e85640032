"""What each kind of job does: the one list of the pipelines that run durably.

A handler's steps come to the same end twice, or are committed with their effect (`Running.commit`): an ingest finds by
its files' hashes what it has brought already, a training by its fingerprint what it has fitted, a deployment and a way
back are one transaction with their record. Arguments and results are plain data; files are absolute paths.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.datasets import Datasets, Draft
from holdfast.backend.features import Features
from holdfast.backend.jobs import Handler, Queue, Running
from holdfast.backend.records import DatasetVersion
from holdfast.backend.registry.registry import Registry
from holdfast.backend.settings import Settings
from holdfast.backend.store import actor
from holdfast.core.features.primitives import Primitive

if TYPE_CHECKING:
    from holdfast.backend.pipelines.delivery import IngestResult, Reader
    from holdfast.backend.pipelines.materialise import FeatureRooms
    from holdfast.backend.pipelines.train import Trained
    from holdfast.backend.records import Deployment
    from holdfast.backend.serving.loader import Sources

__all__ = ["PipelineRooms", "handlers", "training_of", "trigger_training"]

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class PipelineRooms:
    """What pipelines work with; what is costly to open is asked for when it is needed."""

    settings: Settings
    queue: Queue
    datasets: Datasets
    features: Features
    registry: Registry
    sources: "Callable[[], Sources]"
    store_of_features: "Callable[[], FeatureRooms]"
    own: Callable[[], tuple[Primitive, ...]]
    reader: "Callable[[], AbstractContextManager[Reader]]"


def handlers(rooms: PipelineRooms) -> dict[str, Handler]:
    """Kind → what does it."""
    return {
        "ingest": Handler(partial(_ingest, rooms), _plain_ingest, partial(_again_ingest, rooms)),
        "ingest_folder": Handler(
            partial(_ingest_folder, rooms),
            lambda results: [_plain_ingest(result) for result in results],
            lambda kept: [_again_ingest(rooms, one) for one in kept],
        ),
        "matrix": Handler(
            partial(_matrix, rooms),
            lambda built: {"id": built.matrix.record.id, "arguments": {"target": built.matrix.record.target}},
            lambda kept: _build(rooms, kept["arguments"], None),
        ),
        "train": Handler(partial(_train, rooms), _plain_trained, partial(_again_trained, rooms)),
        "deploy": Handler(partial(_deploy, rooms), lambda made: made.id, partial(_again_deployed, rooms)),
        "rollback": Handler(partial(_rollback, rooms), lambda made: made.id, partial(_again_deployed, rooms)),
        "materialise": Handler(
            partial(_materialise, rooms), lambda made: [one.id for one in made], partial(_again_materialised, rooms)
        ),
    }


# -- data --------------------------------------------------------------------------------------------------------------


def _ingest(rooms: PipelineRooms, running: Running, given: Arguments) -> "IngestResult":
    from holdfast.backend.pipelines.ingest import ingest

    with rooms.reader() as read:
        return ingest(
            rooms.datasets, rooms.settings, read, given["period"], [Path(file) for file in given["files"]],
            note=given["note"], author=actor(), progress=running.progress, commit=partial(_commit, rooms, running),
        )  # fmt: skip


def _ingest_folder(rooms: PipelineRooms, running: Running, given: Arguments) -> "list[IngestResult]":
    from holdfast.backend.pipelines.ingest import ingest_folder

    with rooms.reader() as read:
        return ingest_folder(
            rooms.datasets, rooms.settings, read, Path(given["folder"]),
            note=given["note"], author=actor(), progress=running.progress, commit=partial(_commit, rooms, running),
        )  # fmt: skip


def _commit(rooms: PipelineRooms, running: Running, draft: Draft) -> DatasetVersion:
    """Commit a version together with what follows from it."""
    with rooms.queue.store.write("data version") as connection:
        version = rooms.datasets.commit(draft)
        rooms.queue.record_step(
            connection, running.job, f"commit {version.version}", version.id, version=1, began_at=version.made_at
        )
        trigger_training(rooms.queue, rooms.settings, version, cause=running.job.id)
    return version


def trigger_training(queue: Queue, settings: Settings, version: DatasetVersion, *, cause: str | None = None) -> None:
    """Send the trainings that a new version of the data asks for, where none waits already.

    Joins the write transaction of this thread, if there is one.
    """
    if not settings.training.on_import:
        return
    with queue.store.write("trigger training") as connection:
        for target in settings.targets:
            asked = training_of(target)
            waiting = queue.like(connection, "train", asked)
            if waiting is None or waiting.state != "queued":  # one that waits will train on what is current then
                key = f"train:{target}:{version.id}"
                queue.send(connection, "train", asked, key=key, cause=cause or version.id)


def _plain_ingest(result: "IngestResult") -> dict[str, Any]:
    return {**asdict(result), "version": result.version.id}


def _again_ingest(rooms: PipelineRooms, kept: dict[str, Any]) -> "IngestResult":
    from holdfast.backend.pipelines.delivery import IngestResult

    notes = tuple(kept["notes"])
    return IngestResult(**{**kept, "version": rooms.datasets.get(kept["version"]), "notes": notes})


# -- features and models -----------------------------------------------------------------------------------------------


def training_of(target: str, *, labels: list[str] | None = None, note: str = "", force: bool = False) -> dict[str, Any]:
    """The arguments of a training: equal ones are the same job."""
    return {"target": target, "labels": labels, "note": note, "force": force}


def _matrix(rooms: PipelineRooms, running: Running, given: Arguments) -> Any:
    return _build(rooms, given, running)


def _build(rooms: PipelineRooms, given: Arguments, running: Running | None) -> Any:
    from holdfast.backend.pipelines.features import build_matrix, frozen_settings

    return build_matrix(
        rooms.datasets, rooms.features, frozen_settings(rooms.settings, given.get("frozen_at")), given["target"],
        version=given.get("version"), full=given.get("full", False),
        progress=running.progress if running else None, own=rooms.own(),
    )  # fmt: skip


def _train(rooms: PipelineRooms, running: Running, given: Arguments) -> "Trained":
    from holdfast.backend.pipelines.train import train

    built = _build(rooms, {"target": given["target"]}, running)
    made = train(
        rooms.registry, rooms.datasets, built.matrix, rooms.settings,
        target=given["target"], labels=given["labels"], note=given["note"], force=given["force"],
        progress=running.progress, step=running.step,
    )  # fmt: skip
    if given["labels"] is None:
        with rooms.queue.store.write("trained") as connection:
            if rooms.datasets.get().id == made.run.dataset:
                rooms.queue.supersede(connection, "train", training_of(given["target"]), f"{made.run.id} did it")
    return made


def _plain_trained(made: "Trained") -> dict[str, Any]:
    return {"run": made.run.id, "models": [version.id for version in made.models], "repeated": made.repeated}


def _again_trained(rooms: PipelineRooms, kept: dict[str, Any]) -> "Trained":
    from holdfast.backend.pipelines.train import Trained

    models = tuple(rooms.registry.get(version) for version in kept["models"])
    return Trained(rooms.registry.run(kept["run"]), models, kept["repeated"])


def _materialise(rooms: PipelineRooms, running: Running, given: Arguments) -> Any:
    from holdfast.backend.pipelines.materialise import materialise

    # The moment is a step: a job that begins again asks the same question.
    at = running.step("moment", lambda: rooms.queue.clock.now() if given["at"] is None else given["at"])
    return materialise(rooms.store_of_features(), given["groups"], at=at, progress=running.progress, running=running)


def _again_materialised(rooms: PipelineRooms, kept: list[str]) -> Any:
    groups = rooms.store_of_features().online.groups
    known = {made.id: made for group in groups.list() for made in groups.materialisations(group.name)}
    return [known[one] for one in kept]


# -- deployments -------------------------------------------------------------------------------------------------------


def _deploy(rooms: PipelineRooms, running: Running, given: Arguments) -> "Deployment":
    from holdfast.backend.pipelines.deploy import deploy

    sources = rooms.sources()
    done = running.result("deploy")
    if done is not None:
        return sources.deployments.get(done)
    once = partial(_once, running, "deploy")
    return deploy(sources, given["target"], given["models"], given["note"], once=once)


def _rollback(rooms: PipelineRooms, running: Running, given: Arguments) -> "Deployment":
    from holdfast.backend.pipelines.deploy import rollback

    sources = rooms.sources()
    done = running.result("roll back")
    if done is not None:
        return sources.deployments.get(done)
    return rollback(sources, given["target"], given["to"], once=partial(_once, running, "roll back"))


def _again_deployed(rooms: PipelineRooms, kept: str) -> "Deployment":
    return rooms.sources().deployments.get(kept)


def _once(running: Running, name: str, change: "Callable[[], Deployment]") -> "Deployment":
    """Do it in the transaction that records the step."""
    made: list[Deployment] = []

    def do(_connection: object) -> str:
        made.append(change())
        return made[0].id

    running.commit(name, do)
    return made[0]
