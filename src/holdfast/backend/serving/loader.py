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
from holdfast.backend.serving.questions import StoredData, check_schema
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.schema import Schema
from holdfast.errors import ConflictError, HoldfastError, IntegrityError, NotFoundError, UnavailableError, nearest

__all__ = ["INTERVAL", "Live", "Sources", "check_data", "load_predictor"]

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


def check_data(predictor: Predictor, version: DatasetVersion | None) -> None:
    """ConflictError, naming data version, table and column, when the rows of `version` cannot give its features."""
    if version is None:
        return
    try:
        check_schema(predictor.feature_set, Schema.from_dict(version.schema))
    except ConflictError as error:
        where = {"target": predictor.target, "data_version": version.version, **error.where}
        raise ConflictError(error.message, where=where, hint=error.hint) from error


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
        # Newest first. More than one only while a deployment does not fit the newest.
        self._stored: tuple[StoredData, ...] = ()
        self._stored_id = ""
        self._stored_lock = threading.Lock()
        self._stored_error: HoldfastError | None = None
        self._stored_again_at = 0.0
        self._conflicts: Mapping[str, ConflictError] = {}
        self._compared: tuple[str, ...] = ()
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

    def stored(self, predictor: Predictor) -> StoredData:
        """The newest stored rows that fit `predictor`. The first call reads them and takes its time.

        UnavailableError before the first import, or when they cannot be read; ConflictError when the tables changed so
        that none fit.
        """
        if not self._stored:
            with self._stored_lock:
                if not self._stored:
                    self._read_stored(self._sources.dataset())
        if not self._stored:
            reason = self._stored_error.message if self._stored_error else "no data was ever imported"
            raise UnavailableError(f"there are no stored rows: {reason}", hint="Import data with: holdfast ingest")
        kept = self._stored
        found = _fitting(predictor, kept)
        if found is None:
            check_schema(predictor.feature_set, kept[0].schema)
        return found or kept[0]

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
        for target, error in self._conflicts.items():
            predictor = self._predictors.get(target)
            older = _fitting(predictor, self._stored) if predictor else None
            failures.setdefault(target, {**error.to_dict(), "answered_by_data": older.version if older else None})
        return {
            "targets": targets,
            "failures": failures,
            "data_version": self._stored[0].version if self._stored else None,
            "trouble": self._trouble or (str(self._stored_error) if self._stored_error else ""),
        }

    @property
    def ready(self) -> bool:
        """Whether every deployed target is answered (by an older deployment, if its newest cannot be loaded)."""
        return self._looked and bool(self._predictors) and all(target in self._predictors for target in self._failures)

    def look(self) -> None:
        """One look at the pointers: load what is new, drop what is gone."""
        # Before anything is swapped: a request under way may still hold what is swapped now.
        if len(self._stored) > 1:
            used = [_fitting(predictor, self._stored) for predictor in self._predictors.values()]
            self._stored = (self._stored[0], *(d for d in self._stored[1:] if any(d is other for other in used)))
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
        version = self._sources.dataset()
        if version is not None:
            self._compare(version)
            if self._stored and version.id != self._stored_id and time.monotonic() >= self._stored_again_at:
                with self._stored_lock:
                    self._read_stored(version)

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

    def _read_stored(self, version: DatasetVersion | None) -> None:
        if version is None:
            return
        try:
            tables = self._sources.tables(version)
            made = StoredData.build(version.version, Schema.from_dict(version.schema), tables)
        except HoldfastError as error:
            self._stored_error = error
            self._stored_again_at = time.monotonic() + _RETRY
            _log.error("the rows of data version %s cannot be read: %s", version.version, error)
            return
        self._stored = (made, *self._stored)
        self._stored_id, self._stored_error = version.id, None

    def _compare(self, version: DatasetVersion) -> None:
        """Find out which targets the newest data does not fit, once for each data version and deployment."""
        compared = (version.id, *sorted(predictor.deployment for predictor in self._predictors.values()))
        if compared == self._compared:
            return
        conflicts = {}
        for target, predictor in self._predictors.items():
            try:
                check_data(predictor, version)
            except ConflictError as error:
                conflicts[target] = error
                if target not in self._conflicts:
                    _log.error("data version %s is not used for %r: %s", version.version, target, error)
        self._conflicts, self._compared = conflicts, compared

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


def _fitting(predictor: Predictor, kept: tuple[StoredData, ...]) -> StoredData | None:
    return next((data for data in kept if data.fits(predictor.feature_set)), None)
