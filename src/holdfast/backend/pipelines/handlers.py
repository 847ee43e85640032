"""What each kind of job does: the one list of the pipelines that run durably.

A handler's steps come to the same end twice, or are committed with their effect (`Running.commit`): an ingest finds by
its files' hashes what it has brought already, a training by its fingerprint what it has fitted, a deployment and a way
back are one transaction with their record. Arguments and results are plain data; files are absolute paths.
"""

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.backend.jobs import Engine, Handler, Queue, Running
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import DatasetVersion, new_id
from holdfast.backend.settings import Settings
from holdfast.backend.store import actor
from holdfast.core.features.primitives import Primitive

if TYPE_CHECKING:
    import sqlalchemy as sa

    from holdfast.backend.datasets.collecting import Collected
    from holdfast.backend.datasets.rewriting import Compacted
    from holdfast.backend.pipelines.backup import Backup, BackupRooms
    from holdfast.backend.pipelines.batch_rows import BlockReader
    from holdfast.backend.pipelines.delivery import IngestResult, Reader
    from holdfast.backend.pipelines.materialise import FeatureRooms
    from holdfast.backend.pipelines.predicting import BatchReport
    from holdfast.backend.pipelines.train import Trained
    from holdfast.backend.pipelines.vault import Vault
    from holdfast.backend.records import Deployment, Rollout, RolloutEvent

__all__ = ["PipelineRooms", "handlers", "training_of", "trigger_training"]

Arguments = Mapping[str, Any]
_RESTARTS = 1_000_000


class PipelineRooms(Rooms, Protocol):
    """What pipelines work with: the rooms, and what reads files, looks after feature groups and keeps backups."""

    leaving: threading.Event

    @property
    def engine(self) -> Engine:
        """Runs jobs."""
        ...

    @property
    def own(self) -> tuple[Primitive, ...]:
        """The user's own primitives."""
        ...

    @property
    def reader(self) -> "Callable[[], AbstractContextManager[Reader]]":
        """What reads delivered files."""
        ...

    @property
    def blocks(self) -> "BlockReader":
        """What reads files in blocks."""
        ...

    @property
    def feature_rooms(self) -> "FeatureRooms":
        """What the feature store works with."""
        ...

    @property
    def backup_rooms(self) -> "BackupRooms":
        """What a backup is made of."""
        ...

    def vault(self, place: str | Path | None) -> "Vault":
        """Where backups are."""
        ...


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
        "rollout_start": Handler(partial(_start_rollout, rooms), lambda made: made.id, partial(_again_rollout, rooms)),
        "rollout_end": Handler(partial(_end_rollout, rooms), lambda made: made.rollout, partial(_again_ended, rooms)),
        "rollout": Handler(
            partial(_watch_rollout, rooms),
            lambda made: {"state": made.state, "reason": made.reason},
            lambda kept: kept,
            timeout=math.inf,
            workers=False,
        ),
        "materialise": Handler(
            partial(_materialise, rooms), lambda made: [one.id for one in made], partial(_again_materialised, rooms)
        ),
        "compact": Handler(partial(_compact, rooms), asdict, partial(_again_compacted, rooms)),
        "collect": Handler(partial(_collect, rooms), asdict, _again_collected),
        "predict": Handler(partial(_predict, rooms), _plain_predicted, _again_predicted),
        "backup": Handler(partial(_backup, rooms), lambda made: {"id": made.id}, partial(_again_backed_up, rooms)),
    }


# -- data --------------------------------------------------------------------------------------------------------------


def _ingest(rooms: PipelineRooms, running: Running, given: Arguments) -> "IngestResult":
    from holdfast.backend.pipelines.ingest import ingest

    with rooms.reader() as read:
        return ingest(
            rooms.datasets, rooms.settings, read, given["period"], [Path(file) for file in given["files"]],
            note=given["note"], author=actor(), progress=running.progress,
        )  # fmt: skip


def _ingest_folder(rooms: PipelineRooms, running: Running, given: Arguments) -> "list[IngestResult]":
    from holdfast.backend.pipelines.ingest import ingest_folder

    with rooms.reader() as read:
        return ingest_folder(
            rooms.datasets, rooms.settings, read, Path(given["folder"]),
            note=given["note"], author=actor(), progress=running.progress,
        )  # fmt: skip


def trigger_training(queue: Queue, settings: Settings, version: DatasetVersion) -> None:
    """Send the trainings that a new version of the data asks for, where none waits already.

    Joins the write transaction of this thread, if there is one: the version's.
    """
    if not settings.training.on_import or version.state == "trained":
        return
    with queue.store.write("trigger training") as connection:
        for target in settings.targets:
            asked = training_of(target)
            waiting = queue.like(connection, "train", asked)
            if waiting is None or waiting.state != "queued":  # one that waits will train on what is current then
                key = f"train:{target}:{version.id}"
                queue.send(connection, "train", asked, key=key, cause=version.id)


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
        progress=running.progress if running else None, own=rooms.own,
    )  # fmt: skip


def _train(rooms: PipelineRooms, running: Running, given: Arguments) -> "Trained":
    from holdfast.backend.pipelines.train import train

    # Registered before its process died: the data may have changed since, and it must not become two trainings.
    if (kept := running.result("register")) is not None:
        return _again_trained(rooms, kept)

    def keep(connection: "sa.Connection", made: "Trained") -> None:
        running.keep(connection, "register", _plain_trained(made))
        if given["labels"] is None and rooms.datasets.get().id == made.run.dataset:
            rooms.engine.queue.supersede(connection, "train", training_of(given["target"]), f"{made.run.id} did it")

    built = _build(rooms, {"target": given["target"]}, running)
    return train(
        rooms.registry, rooms.datasets, built.matrix, rooms.settings,
        target=given["target"], labels=given["labels"], note=given["note"], force=given["force"],
        progress=running.progress, step=running.step,
        keep=keep,
    )  # fmt: skip


def _plain_trained(made: "Trained") -> dict[str, Any]:
    return {"run": made.run.id, "models": [version.id for version in made.models], "repeated": made.repeated}


def _again_trained(rooms: PipelineRooms, kept: dict[str, Any]) -> "Trained":
    from holdfast.backend.pipelines.train import Trained

    models = tuple(rooms.registry.get(version) for version in kept["models"])
    return Trained(rooms.registry.run(kept["run"]), models, kept["repeated"])


def _materialise(rooms: PipelineRooms, running: Running, given: Arguments) -> Any:
    from holdfast.backend.pipelines.materialise import materialise

    # The moment is a step: a job that begins again asks the same question.
    at = running.step("moment", lambda: rooms.engine.queue.clock.now() if given["at"] is None else given["at"])
    return materialise(rooms.feature_rooms, given["groups"], at=at, progress=running.progress, running=running)


def _again_materialised(rooms: PipelineRooms, kept: list[str]) -> Any:
    groups = rooms.feature_rooms.online.groups
    known = {made.id: made for group in groups.list() for made in groups.materialisations(group.name)}
    return [known[one] for one in kept]


# -- upkeep -----------------------------------------------------------------------------------------------------------


def _compact(rooms: PipelineRooms, _running: Running, given: Arguments) -> "Compacted":
    from holdfast.backend.datasets.rewriting import compact

    return compact(rooms.datasets, note=given["note"], author=actor())


def _collect(rooms: PipelineRooms, _running: Running, given: Arguments) -> "Collected":
    from holdfast.backend.datasets.collecting import collect

    return collect(rooms.datasets, rooms.store, rooms.blobs, keep=given["keep"], grace=given["grace"])


def _backup(rooms: PipelineRooms, running: Running, given: Arguments) -> "Backup":
    from holdfast.backend.pipelines.backup import back_up

    rooms.registry.sync()
    keep = given.get("keep") or rooms.settings.backup.keep
    identity = running.step("identity", lambda: new_id("backup", rooms.clock.now()))
    return back_up(
        rooms.backup_rooms, rooms.vault(given.get("to")),
        note=given.get("note", ""), keep=keep, progress=running.progress, identity=identity,
    )  # fmt: skip


def _again_compacted(rooms: PipelineRooms, kept: dict[str, Any]) -> "Compacted":
    from holdfast.backend.datasets.rewriting import Compacted

    return Compacted(**{**kept, "version": rooms.datasets.get(kept["version"]["id"])})


def _again_collected(kept: dict[str, Any]) -> "Collected":
    from holdfast.backend.datasets.collecting import Collected, Gone, GoneVersion

    versions = tuple(GoneVersion(**one) for one in kept["versions"])
    return Collected(**{**kept, "versions": versions, "blobs": tuple(Gone(**one) for one in kept["blobs"])})


def _again_backed_up(rooms: PipelineRooms, kept: dict[str, Any]) -> "Backup":
    from holdfast.backend.pipelines.backup import find_backup

    return find_backup(rooms.vault(None), kept["id"])


# -- deployments -------------------------------------------------------------------------------------------------------


def _deploy(rooms: PipelineRooms, running: Running, given: Arguments) -> "Deployment":
    from holdfast.backend.pipelines.deploy import deploy

    sources = rooms.sources
    done = running.result("deploy")
    if done is not None:
        return rooms.deployments.get(done)
    once = partial(_once, running, "deploy")
    return deploy(sources, given["target"], given["models"], given["note"], once=once)


def _rollback(rooms: PipelineRooms, running: Running, given: Arguments) -> "Deployment":
    from holdfast.backend.pipelines.deploy import rollback

    sources = rooms.sources
    done = running.result("roll back")
    if done is not None:
        return rooms.deployments.get(done)
    return rollback(sources, given["target"], given["to"], once=partial(_once, running, "roll back"))


def _start_rollout(rooms: PipelineRooms, running: Running, given: Arguments) -> "Rollout":
    from holdfast.backend.pipelines.rollout import KIND, Asked, begin, job_key, policy_from, senses

    def send(connection: "sa.Connection", rollout: str) -> None:
        # It lives as long as the rollout, through any number of restarts.
        rooms.engine.queue.send(
            connection, KIND, {"rollout": rollout}, key=job_key(rollout), cause=running.job.id, attempts=_RESTARTS
        )

    asked = Asked(given["target"], given["models"], policy_from(given["policy"]), given["note"])
    return begin(rooms, running, asked, senses(rooms), send)


def _end_rollout(rooms: PipelineRooms, running: Running, given: Arguments) -> "RolloutEvent":
    from holdfast.backend.pipelines.rollout import finish, senses

    rollout = _again_rollout(rooms, given["rollout"])
    return finish(rooms, running, rollout, given["action"], given["why"], seen=senses(rooms))


def _watch_rollout(rooms: PipelineRooms, running: Running, given: Arguments) -> "RolloutEvent":
    from holdfast.backend.pipelines.rollout import watch

    return watch(rooms, running, _again_rollout(rooms, given["rollout"]))


def _again_rollout(rooms: PipelineRooms, kept: str) -> "Rollout":
    from holdfast.backend.deployment import Rollouts

    return Rollouts(rooms.store, rooms.clock, rooms.deployments).get(kept)


def _again_ended(rooms: PipelineRooms, kept: str) -> "RolloutEvent":
    from holdfast.backend.deployment import Rollouts

    return Rollouts(rooms.store, rooms.clock, rooms.deployments).events(kept)[-1]


def _again_deployed(rooms: PipelineRooms, kept: str) -> "Deployment":
    return rooms.deployments.get(kept)


def _once(running: Running, name: str, change: "Callable[[], Deployment]") -> "Deployment":
    """Do it in the transaction that records the step."""
    made: list[Deployment] = []

    def do(_connection: object) -> str:
        made.append(change())
        return made[0].id

    running.commit(name, do)
    return made[0]


def _predict(rooms: PipelineRooms, running: Running, given: Arguments) -> "BatchReport":
    from holdfast.backend.pipelines.predicting import predict_batch

    return predict_batch(rooms, running, given)


def _plain_predicted(made: "BatchReport") -> dict[str, Any]:
    return {**asdict(made), "output": str(made.output), "rejects": str(made.rejects) if made.rejects else None}


def _again_predicted(kept: dict[str, Any]) -> "BatchReport":
    from holdfast.backend.pipelines.predicting import BatchReport

    rejects = Path(kept["rejects"]) if kept["rejects"] else None
    return BatchReport(**{**kept, "output": Path(kept["output"]), "rejects": rejects})
