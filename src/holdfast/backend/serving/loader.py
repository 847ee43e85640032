"""The slow path: find out what is deployed, load and verify it beside the one that answers, and swap one reference.

A thread asks the metadata database every `INTERVAL` seconds (a read of two small tables, under a millisecond) which
deployment each target points at: polling works the same on every database, needs no second channel that could be
missed, and bounds how far the workers of a server are apart. What cannot be loaded never answers; the older one goes
on, and the reason is in `state()`, which `/v1/health` shows, and in the log.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from holdfast.backend.access import Gate, Watch
from holdfast.backend.deployment import Arm, Deployments, Route
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
    first import; `tables` reads all tables of a version with their system columns. `gate` reads who may ask.
    """

    deployments: Deployments
    model: Callable[[str], ModelVersion]
    feature_set: Callable[[str], FeatureSet]
    dataset: Callable[[], DatasetVersion | None]
    tables: Callable[[DatasetVersion], Mapping[str, pa.Table]]
    blobs: Blobs
    clock: Clock
    gate: Callable[[], Gate]


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
    """What answers now. Readers take a reference and keep it; only this object replaces references."""

    def __init__(self, sources: Sources, *, lazy: bool = False) -> None:
        """`lazy` opens a deployment at the first request for its target, not before."""
        self._sources = sources
        self._lazy = lazy
        self._watch = Watch(sources.gate)
        self._predictors: Mapping[str, Predictor] = {}
        self._routes: Mapping[str, Route] = {}
        # What is loaded beside what answers, by deployment: arms of rollouts, and what answered before.
        self._beside: Mapping[str, Predictor] = {}
        self._before: dict[str, str] = {}
        self._unopened: dict[str, str] = {}
        self._loading = threading.RLock()
        self._failures: dict[str, _Failure] = {}
        self._unfit: dict[str, _Failure] = {}
        # What a look met, by what was looked at.
        self._troubles: dict[str, str] = {}
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
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Load what is deployed, then follow the pointers in the background."""
        self._watch.start()
        self._try("pointers", self._look_at_pointers)
        # Reading rows may take minutes: a way back does not wait for it.
        for what, look in (("pointers", self._look_at_pointers), ("stored rows", self._look_at_data)):
            thread = threading.Thread(target=self._follow, args=(what, look), name=what, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._watch.stop()
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    @property
    def gate(self) -> Gate:
        """Who may ask, as of a moment ago."""
        return self._watch.gate

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
        if target in self._unopened:
            raise UnavailableError(
                f"the deployment of {target!r} is opened at its first prediction", where={"target": target}
            )
        if not self._looked:
            raise UnavailableError("the server is starting", where={"target": target}, hint="Repeat in a second.")
        raise NotFoundError(
            f"nothing is deployed for the target {target!r}",
            where={"target": target},
            hint=nearest(target, self._predictors),
        )

    def choose(self, target: str, unit: str | None = None) -> Predictor:
        """What answers for `unit` of `target`, as its rollout says; raises as `predictor`.

        An arm that is not loaded here (yet) gets nothing: the stable deployment answers.
        """
        route = self._routes.get(target)
        if route is None:
            return self.predictor(target)
        return self._beside.get(route.choose(unit)) or self.predictor(target)

    @property
    def on_trial(self) -> bool:
        """Whether any target has a rollout now."""
        return bool(self._routes)

    def shadows(self, target: str, unit: str | None = None) -> tuple[Predictor, ...]:
        """What gets a copy of a request of `unit`."""
        route = self._routes.get(target)
        if route is None:
            return ()
        beside = self._beside  # the loader's thread may put another in its place meanwhile
        return tuple(beside[one] for one in route.shadows(unit) if one in beside)

    def open(self, target: str) -> None:
        """Load what is deployed for `target`, if that was left for its first request. Never raises."""
        with self._loading:
            deployment = self._unopened.get(target)
            if deployment is not None:
                self._load(target, deployment)
                self._unopened.pop(target, None)

    @property
    def unopened(self) -> Collection[str]:
        """The targets that are deployed and wait for their first request."""
        return tuple(self._unopened)

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """Everything that answers, by target."""
        return self._predictors

    @property
    def sources(self) -> Sources:
        """Where all this is read from."""
        return self._sources

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
        targets: dict[str, dict[str, Any]] = {
            target: {
                "deployment": predictor.deployment,
                "versions": {label: model.version for label, model in predictor.models.items()},
            }
            for target, predictor in self._predictors.items()
        }
        for target, route in self._routes.items():
            if target in targets:  # a look may have begun to let it answer meanwhile
                targets[target]["arms"] = [self._arm_state(arm) for arm in route.arms]
        failures = {
            target: {"deployment": failure.deployment, **failure.error.to_dict()}
            for target, failure in self._failures.copy().items()
        }
        stored = self._stored_error
        for target, error in self._conflicts.items():
            predictor = self._predictors.get(target)
            older = _fitting(predictor, self._stored) if predictor else None
            failures.setdefault(target, {**error.to_dict(), "answered_by_data": older.version if older else None})
        return {
            "targets": targets,
            "failures": failures,
            "data_version": self._stored[0].version if self._stored else None,
            "trouble": "; ".join([*self._troubles.copy().values(), *([str(stored)] if stored else [])]),
        }

    def _arm_state(self, arm: Arm) -> dict[str, Any]:
        failure = self._unfit.get(arm.deployment)
        told: dict[str, Any] = {"deployment": arm.deployment, "mode": arm.mode, "share": arm.share}
        return {**told, "loaded": arm.deployment in self._beside} | (
            {"failure": failure.error.to_dict()} if failure else {}
        )

    @property
    def ready(self) -> bool:
        """Whether it can answer what it is there for: something, unless nothing is deployed.

        One target that no server can load must not take all the others from the clients: `state` tells of it.
        """
        answered = self._predictors.keys() | self._unopened.keys()
        return self._looked and bool(answered or not self._failures)

    @property
    def settled(self) -> bool:
        """Whether a look succeeded and every deployed target is answered (by an older deployment, if need be)."""
        answered = self._predictors.keys() | self._unopened.keys()
        return self._looked and "pointers" not in self._troubles and self._failures.keys() <= answered

    def look(self) -> None:
        """One look at the pointers: load what is new, drop what is gone; then at the data, if any was asked for."""
        self._look_at_pointers()
        self._look_at_data()

    def _look_at_pointers(self) -> None:
        routes = self._sources.deployments.routes()
        for target, route in routes.items():
            with self._loading:
                # Arms first: what is promoted then is loaded when its pointer has moved.
                for arm in route.arms:
                    self._load_beside(arm.deployment)
                self._answer(target, route.stable)
        self._forget(routes)
        self._looked = True
        version = self._sources.dataset()
        if version is not None:
            self._compare(version)

    def _look_at_data(self) -> None:
        """Read the rows of the newest data once rows were asked for, and forget older ones that nothing fits."""
        if not self._stored or time.monotonic() < self._stored_again_at:
            return
        version = self._sources.dataset()
        with self._stored_lock:
            # What answered before is beside: a request under way may still hold it.
            answering = [*self._predictors.values(), *self._beside.values()]
            used = [_fitting(predictor, self._stored) for predictor in answering]
            self._stored = (self._stored[0], *(d for d in self._stored[1:] if any(d is other for other in used)))
            if version is not None and version.id != self._stored_id:
                self._read_stored(version)

    def _forget(self, routes: Mapping[str, Route]) -> None:
        """Let go of what answers no more and is not to be gone back to."""
        with self._loading:
            if self._predictors.keys() - routes.keys():
                self._predictors = {t: p for t, p in self._predictors.items() if t in routes}
            self._before = {t: d for t, d in self._before.items() if t in routes}
            self._unopened = {t: d for t, d in self._unopened.items() if t in routes}
            self._routes = {t: r for t, r in routes.items() if r.arms and t in self._predictors}
            wanted = {*self._before.values(), *(arm.deployment for route in routes.values() for arm in route.arms)}
            if not self._beside.keys() <= wanted:
                self._beside = {name: predictor for name, predictor in self._beside.items() if name in wanted}
            self._failures = {target: failure for target, failure in self._failures.items() if target in routes}
            self._unfit = {name: failure for name, failure in self._unfit.items() if name in wanted}

    def _answer(self, target: str, deployment: str) -> None:
        """Let a deployment answer for a target; one that is to be opened lazily, at its first request."""
        now = self._predictors.get(target)
        if now is not None and now.deployment == deployment:
            self._failures.pop(target, None)
        elif self._lazy and now is None and target not in self._failures:
            self._unopened[target] = deployment
        else:
            self._load(target, deployment)

    def _load(self, target: str, deployment: str) -> None:
        """Let a deployment answer for a target: at once if it is loaded, else when it is."""
        predictor = self._beside.get(deployment) or self._loaded(deployment, self._failures, target)
        if predictor is None:
            return
        now = self._predictors.get(target)
        if now is not None:
            # It stays loaded: going back to it takes no time.
            self._beside = {**self._beside, now.deployment: now}
            self._before[target] = now.deployment
        self._predictors = {**self._predictors, target: predictor}
        self._failures.pop(target, None)

    def _load_beside(self, deployment: str) -> None:
        if deployment not in self._beside and all(one.deployment != deployment for one in self._predictors.values()):
            predictor = self._loaded(deployment, self._unfit, deployment)
            if predictor is not None:
                self._beside = {**self._beside, deployment: predictor}

    def _loaded(self, deployment: str, failures: dict[str, _Failure], name: str) -> Predictor | None:
        """The predictor of a deployment; None when it cannot be loaded, which `failures` says by `name` and for how
        long it is not tried again.
        """
        began, known = time.monotonic(), failures.get(name)
        again = known is not None and known.deployment == deployment
        if known is not None and again and began < known.again_at:
            return None
        try:
            made = self._sources.deployments.get(deployment)
            predictor = load_predictor(made, self._sources)
        except Exception as met:  # noqa: BLE001 - a package's edge: whatever is wrong with one, others are loaded
            if not again:
                unforeseen = not isinstance(met, HoldfastError)
                _log.error(
                    "deployment %s (%r) cannot be loaded, others answer on: %s", deployment, name, met,
                    exc_info=unforeseen,
                )  # fmt: skip
            error = (
                met
                if isinstance(met, HoldfastError)
                else UnavailableError(f"{type(met).__name__}; the log has the details")
            )
            failures[name] = _Failure(deployment, error, time.monotonic() + _RETRY)
            return None
        failures.pop(name, None)
        _log.info("%s of %r is loaded (in %.2f s)", deployment, made.target, time.monotonic() - began)
        return predictor

    def _read_stored(self, version: DatasetVersion | None) -> None:
        if version is None:
            return
        try:
            tables = self._sources.tables(version)
            made = StoredData.build(version.version, Schema.from_dict(version.schema), tables)
        except Exception as met:  # noqa: BLE001 - whatever is wrong with them, predictions that need none go on
            unforeseen = not isinstance(met, HoldfastError)
            self._stored_error = (
                met if isinstance(met, HoldfastError) else UnavailableError(f"{type(met).__name__}: {met}")
            )
            self._stored_again_at = time.monotonic() + _RETRY
            _log.error("the rows of data version %s cannot be read: %s", version.version, met, exc_info=unforeseen)
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

    def _follow(self, what: str, look: Callable[[], None]) -> None:
        while not self._stop.wait(INTERVAL):
            self._try(what, look)

    def _try(self, what: str, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # noqa: BLE001 - a thread's edge: what answers must go on, whatever the look met
            if what not in self._troubles:
                _log.exception("the %s cannot be read; what answers goes on", what)
            self._troubles[what] = f"the {what} cannot be read: {error}"
        else:
            self._troubles.pop(what, None)


def _fitting(predictor: Predictor, kept: tuple[StoredData, ...]) -> StoredData | None:
    return next((data for data in kept if data.fits(predictor.feature_set)), None)
