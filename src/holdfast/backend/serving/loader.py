"""The slow path: find out what is deployed, load and verify it beside the one that answers, and swap one reference.

A thread asks the metadata database every `INTERVAL` seconds (a read of two small tables, under a millisecond) which
deployment each target points at: polling works the same on every database, needs no second channel that could be
missed, and bounds how far the workers of a server are apart. What cannot be loaded never answers; the older one goes
on, and the reason is in `state()`, which `/v1/health` shows, and in the log.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from holdfast.backend.deployment import Deployments
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import DatasetVersion, Deployment, ModelVersion
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.questions import StoredData
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.schema import Schema
from holdfast.errors import ConflictError, HoldfastError, IntegrityError, NotFoundError, UnavailableError, nearest

__all__ = ["INTERVAL", "Live", "Sources", "load_predictor"]

INTERVAL = 0.5
"""Seconds between looks at the pointers."""
_RETRY = 10.0
_log = logging.getLogger("holdfast.serving")


@dataclass(frozen=True)
class Sources:
    """What a server reads. The rooms are given as the few questions that are asked of them.

    `model` and `feature_set` find by id (NotFoundError otherwise); `dataset` is the current version, None before the
    first import; `tables` reads all tables of a version with their system columns.
    """

    deployments: Deployments
    model: Callable[[str], ModelVersion]
    feature_set: Callable[[str], FeatureSet]
    dataset: Callable[[], DatasetVersion | None]
    tables: Callable[[DatasetVersion], Mapping[str, pa.Table]]
    blobs: Blobs
    clock: Clock


def load_predictor(deployment: Deployment, sources: Sources) -> Predictor:
    """Open, check and replay everything a deployment needs.

    IntegrityError for a changed, damaged or wrong bundle; ConflictError when the labels do not fit together;
    NotFoundError when a record or blob is gone. All name target and label.
    """
    models, sets = {}, set()
    for label, identifier in deployment.models.items():
        where = {"target": deployment.target, "label": label, "model": identifier}
        try:
            version = sources.model(identifier)
            path = sources.blobs.path(version.serving)
            if not path.exists():
                raise NotFoundError(f"the serving bundle {version.serving} is gone")
            bundle = load_bundle(path, version.serving)
        except HoldfastError as error:
            raise type(error)(error.message, where={**where, **error.where}, hint=error.hint) from error
        found = (bundle.target, bundle.label, bundle.model, bundle.version)
        if found != (deployment.target, label, version.model, version.version):
            raise IntegrityError(
                f"the bundle is of label {bundle.label!r} of {bundle.target!r} {bundle.version},"
                f" recorded is label {label!r} of {deployment.target!r} {version.version}",
                where=where,
            )
        models[label] = bundle
        sets.add(version.feature_set)
    if len(sets) > 1:
        raise ConflictError(
            f"the labels of {deployment.target!r} were trained on {len(sets)} different feature sets",
            where={"target": deployment.target, "feature_sets": ", ".join(sorted(sets))},
            hint="Train the labels together, then deploy them together.",
        )
    feature_set = sources.feature_set(sets.pop())
    predictor = Predictor(deployment.id, deployment.target, models, feature_set, sources.clock)
    predictor.verify()
    return predictor


@dataclass
class _Failure:
    deployment: str
    error: HoldfastError
    again_at: float


class Live:
    """What answers now. Readers take a reference and keep it; only this object's thread replaces references."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._predictors: Mapping[str, Predictor] = {}
        self._failures: dict[str, _Failure] = {}
        self._trouble = ""
        self._looked = False
        self._stored: StoredData | None = None
        self._stored_id = ""
        self._stored_lock = threading.Lock()
        self._stored_error: HoldfastError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what is deployed, then follow the pointers in the background."""
        self._try_to_look()
        self._thread = threading.Thread(target=self._follow, name="loader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread:
            self._thread.join(5)

    def predictor(self, target: str) -> Predictor:
        """What answers for `target`. NotFoundError with the nearest name; UnavailableError while it cannot answer."""
        found = self._predictors.get(target)
        if found is not None:
            return found
        failure = self._failures.get(target)
        if failure:
            raise UnavailableError(
                f"deployment {failure.deployment} of {target!r} could not be loaded: {failure.error.message}",
                where={"target": target, **failure.error.where},
                hint="Deploy another version, or roll back.",
            )
        if not self._looked:
            raise UnavailableError("the server is starting", where={"target": target}, hint="Repeat in a second.")
        raise NotFoundError(
            f"nothing is deployed for the target {target!r}",
            where={"target": target},
            hint=nearest(target, self._predictors),
        )

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """Everything that answers, by target."""
        return self._predictors

    def stored(self) -> StoredData:
        """The stored rows that predictions by entity see. The first call reads them and takes its time.

        UnavailableError before the first import, or when they cannot be read.
        """
        if self._stored is None:
            with self._stored_lock:
                if self._stored is None:
                    self._read_stored()
        if self._stored is None:
            reason = self._stored_error.message if self._stored_error else "no data was ever imported"
            raise UnavailableError(f"there are no stored rows: {reason}", hint="Import data with: holdfast ingest")
        return self._stored

    def state(self) -> dict[str, Any]:
        """What answers, what should and does not, and why; for `/v1/health`."""
        targets = {
            target: {
                "deployment": predictor.deployment,
                "versions": {label: model.version for label, model in predictor.models.items()},
            }
            for target, predictor in self._predictors.items()
        }
        failures = {
            target: {"deployment": failure.deployment, **failure.error.to_dict()}
            for target, failure in self._failures.items()
        }
        return {
            "targets": targets,
            "failures": failures,
            "data_version": self._stored.version if self._stored else None,
            "trouble": self._trouble or (str(self._stored_error) if self._stored_error else ""),
        }

    @property
    def ready(self) -> bool:
        """Whether every deployed target is answered (by an older deployment, if its newest cannot be loaded)."""
        return self._looked and bool(self._predictors) and all(target in self._predictors for target in self._failures)

    def look(self) -> None:
        """One look at the pointers: load what is new, drop what is gone."""
        pointers = self._sources.deployments.pointers()
        for target, deployment in pointers.items():
            answering = self._predictors.get(target)
            if answering is not None and answering.deployment == deployment:
                self._failures.pop(target, None)
                continue
            failure = self._failures.get(target)
            if failure and failure.deployment == deployment and time.monotonic() < failure.again_at:
                continue
            self._load(target, deployment)
        gone = self._predictors.keys() - pointers.keys()
        if gone:
            self._predictors = {t: p for t, p in self._predictors.items() if t not in gone}
        self._looked = True
        if self._stored is not None:
            self._renew_stored()

    def _load(self, target: str, deployment: str) -> None:
        began = time.monotonic()
        try:
            predictor = load_predictor(self._sources.deployments.get(deployment), self._sources)
        except HoldfastError as error:
            if target not in self._failures or self._failures[target].deployment != deployment:
                _log.error(
                    "deployment %s of %r cannot be loaded, the older one answers on: %s", deployment, target, error
                )
            self._failures[target] = _Failure(deployment, error, time.monotonic() + _RETRY)
            return
        self._predictors = {**self._predictors, target: predictor}
        self._failures.pop(target, None)
        _log.info("%s answers for %r (loaded in %.2f s)", deployment, target, time.monotonic() - began)

    def _read_stored(self) -> None:
        version = self._sources.dataset()
        if version is None:
            return
        try:
            tables = self._sources.tables(version)
            self._stored = StoredData.build(version.version, Schema.from_dict(version.schema), tables)
        except HoldfastError as error:
            self._stored_error = error
            _log.error("the rows of data version %s cannot be read: %s", version.version, error)
            return
        self._stored_id, self._stored_error = version.id, None

    def _renew_stored(self) -> None:
        version = self._sources.dataset()
        if version is not None and version.id != self._stored_id:
            with self._stored_lock:
                self._read_stored()
                self._stored_id = version.id

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._try_to_look()

    def _try_to_look(self) -> None:
        try:
            self.look()
        except Exception as error:  # noqa: BLE001 - a thread's edge: what answers must go on, whatever the look met
            if not self._trouble:
                _log.exception("the pointers cannot be read; what answers goes on")
            self._trouble = f"the pointers cannot be read: {error}"
        else:
            self._trouble = ""
