"""From a matrix to registered models."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from holdfast import __version__
from holdfast.backend.datasets import Datasets
from holdfast.backend.features import Matrix
from holdfast.backend.pipelines.encoding import fit_encoding, step_rules
from holdfast.backend.pipelines.splitting import split_rows
from holdfast.backend.records import ModelVersion, Run, new_id
from holdfast.backend.registry.artifacts import Identity, build
from holdfast.backend.registry.registry import Registry, model_name
from holdfast.backend.settings import Settings
from holdfast.backend.training import model_locks, training_session
from holdfast.core.explore.fitting import fit_steps
from holdfast.core.explore.steps import Steps
from holdfast.core.features.encoding import Encoding
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.learn.fit import Fitted, Recipe, fit, output_of
from holdfast.core.learn.metrics import bootstrap, evaluate
from holdfast.core.learn.split import TEST, TRAIN, UNUSED, VALIDATE
from holdfast.core.timeline import isoformat
from holdfast.errors import HoldfastError, InputError, NotFoundError

__all__ = ["Trained", "train"]

Progress = Callable[[int, int, str], None]
Step = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
_PARTS = {"train": TRAIN, "validate": VALIDATE, "test": TEST}
_INTERVALS = {"regression": ("mae", "r2"), "multiclass": ()}
_BOOTSTRAP_ROUNDS = 300
_PACKING = 0.95
"""The share of a label's progress at which its rounds are done, however many they were."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Trained:
    """A run and the model versions it made. `repeated`: an equal run was done before, and this is that one."""

    run: Run
    models: tuple[ModelVersion, ...]
    repeated: bool = False


@dataclass(frozen=True)
class _Prepared:
    """What all labels of a run share.

    `late` bool [n]: labels known too late to be used. `encoded` float64 [n, features].
    """

    run: Run
    settings: Settings
    data_version: str
    matrix: Matrix
    parts: npt.NDArray[np.int8]
    late: npt.NDArray[np.bool_]
    encoding: Encoding
    encoded: npt.NDArray[np.float64]
    beyond: dict[str, int]


@dataclass(frozen=True)
class _Inputs:
    """What one label's model sees.

    `encoding` is of the features that it needs, at `places` of all; `steps` lie between them and the booster (None:
    nothing does). `replayed` float32 [n, columns] is what serving gives the booster, `fitted` the same but for target
    encodings of training rows, which are out of fold. `told` goes into the run record.
    """

    encoding: Encoding
    places: list[int]
    steps: Steps | None
    replayed: npt.NDArray[np.float32]
    fitted: npt.NDArray[np.float32]
    told: dict[str, Any]


Keep = Callable[[sa.Connection, Trained], None]


def train(
    registry: Registry,
    datasets: Datasets | None,
    matrix: Matrix,
    settings: Settings,
    *,
    target: str,
    labels: Sequence[str] | None = None,
    note: str = "",
    force: bool = False,
    progress: Progress | None = None,
    step: Step | None = None,
    keep: Keep | None = None,
) -> Trained:
    """Split, fit each label, measure, and register all models of the run in one transaction.

    `labels` chooses among the matrix's labels (default: all). `datasets` is where the matrix's dataset version becomes
    `trained` once every label of every target is; None for a matrix that comes from none. When an equal run is done
    already its versions become current again, unless `force`.
    `step(name, do)` keeps what a label's training gave, so that a training that was interrupted goes on after it, and
    `keep(connection, trained)` what came of it all, in the transaction that makes the versions current.
    `progress(done, total, message)` counts labels in thousandths. LockedError while one of the models is being trained;
    whatever fails, models, pointers and data/model stay as they were.
    """
    chosen = _chosen(matrix, labels)
    registry.sync()
    fingerprint = _fingerprint(matrix, settings, target, chosen)
    kept = step or (lambda _name, do: do())
    began = kept(f"run {fingerprint[:16]}", lambda: _begun(registry))
    done = registry.find_run(fingerprint, own=began["id"], force=force)
    models = {label: model_name(target, label, matrix.task) for label in chosen}
    names = tuple(models.values())
    mark = partial(_mark, registry, datasets, settings, dataset=matrix.record.dataset, models=names, keep=keep)
    if done is not None and (versions := _made_before(registry, done, set(names))):
        trained = Trained(done, versions, repeated=done.id != began["id"])
        with model_locks(registry, names):
            registry.make_current(versions, why="trained before", also=partial(mark, made=trained))
        return trained
    run = Run(
        id=began["id"], target=target, made_at=began["at"], ended_at=None, state="running",
        dataset=matrix.record.dataset, feature_set=matrix.record.feature_set, matrix=matrix.record.id,
        parameters=_parameters(settings, models), metrics={}, environment=_environment(), note=note,
        fingerprint=fingerprint,
    )  # fmt: skip
    version = datasets.get(matrix.record.dataset).version if datasets is not None else matrix.record.dataset
    with training_session(registry, run, names):
        current = {version.model: version.id for version in registry.current(target)}
        before = {name: current.get(name) for name in names}
        prepared = _prepare(run, matrix, settings, version)
        told = {}
        for label, report in _reporters(progress, chosen):
            previous = before[models[label]]
            one = partial(_train_one, registry, prepared, label, previous, report)
            told[label] = kept(f"{label} after {previous}, {fingerprint[:16]}", one)
        trained = _ended(registry, run, told)
        registry.register(trained.models, run=trained.run, expect=before, also=partial(mark, made=trained))
    if progress is not None:
        progress(1000 * len(chosen), 1000 * len(chosen), f"{len(chosen)} models registered")
    return trained


def _begun(registry: Registry) -> dict[str, Any]:
    now = registry.clock.now()
    return {"id": new_id("run", now), "at": now}


def _ended(registry: Registry, run: Run, told: Mapping[str, dict[str, Any]]) -> Trained:
    """The end of a run, and its versions, of what each label's training told."""
    metrics = {label: one["figures"] for label, one in told.items()}
    versions = (one["version"] for one in told.values())
    models = tuple(ModelVersion(**{**version, "parents": tuple(version["parents"])}) for version in versions)
    return Trained(replace(run, state="done", ended_at=registry.clock.now(), metrics=metrics), models)


def _made_before(registry: Registry, run: Run, models: set[str]) -> tuple[ModelVersion, ...]:
    """What a run made of `models`: of each the current version if it is one of them, else the newest.

    Nothing when one of them has no version left that may become current.
    """
    current, archived = {version.id for version in registry.current(run.target)}, registry.archived()
    found: dict[str, ModelVersion] = {}
    versions = [version for version in registry.of_run(run.id) if version.id not in archived]
    for version in sorted(versions, key=lambda version: (version.id in current, version.made_at, version.id)):
        found[version.model] = version
    return tuple(found[model] for model in sorted(found)) if set(found) == models else ()


def _mark(
    registry: Registry,
    datasets: Datasets | None,
    settings: Settings,
    connection: sa.Connection,
    *,
    dataset: str,
    models: Sequence[str],
    made: Trained,
    keep: Keep | None,
) -> None:
    """Note what was trained; the dataset version is trained when every label of every target is."""
    if keep is not None:
        keep(connection, made)
    if datasets is None:
        return
    wanted = {
        model_name(name, label, "multilabel" if rule.labels else "")
        for name, rule in settings.targets.items()
        for label in rule.labels or (name,)
    }
    if wanted <= registry.note_trained(connection, dataset, made.run.id, models):
        datasets.set_state(connection, dataset, "trained")


def _chosen(matrix: Matrix, labels: Sequence[str] | None) -> tuple[str, ...]:
    for label in matrix.labels:
        if any("\ud800" <= char <= "\udfff" for char in label):
            raise InputError(f"the label {label!r} is no valid Unicode text", where={"label": ascii(label)})
    if labels is None:
        return tuple(matrix.labels)
    for label in labels:
        if label not in matrix.labels:
            raise NotFoundError(
                f"there is no label {label!r}", where={"label": label}, hint=f"Labels: {', '.join(matrix.labels)}."
            )
    return tuple(label for label in matrix.labels if label in labels)


def _prepare(run: Run, matrix: Matrix, settings: Settings, data_version: str) -> _Prepared:
    parts, late = split_rows(settings, matrix.entities, matrix.cutoffs, matrix.labels, matrix.label_known)
    frame, beyond = _bounded(matrix.frame)
    encoding = fit_encoding(settings, matrix.feature_set, frame, parts == TRAIN)
    return _Prepared(run, settings, data_version, matrix, parts, late, encoding, encoding.encode(frame), beyond)


def _inputs(prepared: _Prepared, truth: npt.NDArray[np.float64], part: npt.NDArray[np.int8]) -> _Inputs:
    """Fit the project's transforms and selection on the label's training rows, and run them over all rows."""
    rules, specs = step_rules(prepared.settings), prepared.encoding.specs
    matrix, train = prepared.matrix, part == TRAIN
    if not rules or not train.any():
        seen = prepared.encoded.astype(np.float32)
        return _Inputs(prepared.encoding, list(range(len(specs))), None, seen, seen, {})
    found = fit_steps(
        rules, specs, prepared.encoded[train], truth[train],
        task=matrix.task, classes=matrix.classes, seed=prepared.settings.training.seed,
    )  # fmt: skip
    steps, places = found.steps.prune()
    replayed = steps.apply(prepared.encoded[:, places]).astype(np.float32)
    fitted = replayed.copy()
    fitted[train] = found.matrix.astype(np.float32)
    names = [spec.name for spec in steps.outputs]
    told = {
        "given": len(specs), "needed": len(places), "seen": len(names),
        "made": [name for name in names if name not in prepared.encoding.names], "dropped": dict(found.dropped),
    }  # fmt: skip
    return _Inputs(prepared.encoding.only(places), places, steps if steps.stages else None, replayed, fitted, told)


def _bounded(frame: FeatureFrame) -> tuple[FeatureFrame, dict[str, int]]:
    """The frame with numbers inside float32, which is what the booster takes, and how many were not, by feature."""
    columns, beyond = dict(frame.columns), {}
    for name, column in frame.columns.items():
        if not isinstance(column, Categories) and (count := int((np.abs(column) > _LARGEST).sum())):
            columns[name], beyond[name] = np.clip(column, -_LARGEST, _LARGEST), count
    return replace(frame, columns=columns), beyond


def _train_one(
    registry: Registry,
    prepared: _Prepared,
    label: str,
    previous: str | None,
    report: Callable[[float, str], None],
) -> dict[str, Any]:
    """A label's model version, its blobs in place, and its figures, as plain data."""
    matrix, truth = prepared.matrix, prepared.matrix.labels[label]
    part = np.where(np.isnan(truth), np.int8(UNUSED), prepared.parts)
    recipe = _recipe(prepared.settings)
    try:
        inputs = _inputs(prepared, truth, part)
        fitted = fit(
            matrix.task, inputs.fitted, truth, part, recipe, classes=len(matrix.classes), threads=_threads(),
            progress=lambda n, loss: report(_PACKING * n / (n + 100), f"round {n}, loss {loss:.4f}"),
        )  # fmt: skip
    except HoldfastError as error:
        raise type(error)(error.message, where={"label": label, **error.where}, hint=error.hint) from error
    report(_PACKING, "measuring and packing")
    figures = _measure(fitted, prepared, inputs, truth, part)
    record, onnx = _pack(registry, prepared, label, previous, (fitted, inputs, part, figures))
    measured = {**figures, "onnx": onnx}
    more = {"history": list(fitted.history), **({"features": inputs.told} if inputs.told else {})}
    return {"version": asdict(replace(record, metrics=measured)), "figures": {**measured, **more}}


def _pack(
    registry: Registry,
    prepared: _Prepared,
    label: str,
    previous: str | None,
    result: tuple[Fitted, _Inputs, npt.NDArray[np.int8], dict[str, Any]],
) -> tuple[ModelVersion, dict[str, Any]]:
    """Put all forms of a model among the blobs; its record, and what was measured of its ONNX twin."""
    matrix, run, rule = prepared.matrix, prepared.run, prepared.settings.training
    fitted, inputs, part, figures = result
    model = model_name(run.target, label, matrix.task)
    parents = (run.dataset, run.feature_set, run.matrix, run.id, *((previous,) if previous else ()))
    identity = Identity(
        target=run.target, label=label, model=model, version=registry.next_version(model, rule.algorithm),
        labels=tuple(matrix.labels), trained_at=isoformat(run.made_at), data_version=prepared.data_version,
        feature_set=matrix.feature_set.hash, parents=parents, environment=run.environment, note=run.note,
    )  # fmt: skip
    held_out = np.flatnonzero((part == VALIDATE) | (part == TEST))
    rows = prepared.encoded[held_out if len(held_out) else np.flatnonzero(part == TRAIN)][:, inputs.places]
    made = build(
        fitted, inputs.encoding, identity, classes=matrix.classes, metrics=figures, rows=rows, steps=inputs.steps
    )
    files = {**made.files, "definitions": matrix.feature_set.to_json()}
    shared = {name: run.parameters[name] for name in ("early_stopping", "imbalance", "seed", "split")}
    record = ModelVersion(
        id=new_id("model", registry.clock.now()), model=model, target=run.target, label=label, task=matrix.task,
        version=identity.version, made_at=run.made_at, run=run.id, dataset=run.dataset, feature_set=run.feature_set,
        parents=parents, algorithm=rule.algorithm, parameters={**shared, **run.parameters["xgboost"]},
        metrics=figures, serving=registry.blobs.put(made.serving),
        files={role: registry.blobs.put(data) for role, data in files.items()}, note=run.note,
    )  # fmt: skip
    return record, dict(made.onnx)


def _measure(
    fitted: Fitted,
    prepared: _Prepared,
    inputs: _Inputs,
    truth: npt.NDArray[np.float64],
    part: npt.NDArray[np.int8],
) -> dict[str, Any]:
    matrix = prepared.matrix
    outputs = output_of(fitted.estimator, inputs.replayed)
    figures: dict[str, Any] = {
        name: evaluate(
            matrix.task, truth[part == code], outputs[part == code], threshold=fitted.threshold, classes=matrix.classes
        )
        for name, code in _PARTS.items()
    }
    test = part == TEST
    figures["intervals"] = {
        score: bootstrap(
            score, truth[test], outputs[test], seed=prepared.settings.training.seed, rounds=_BOOTSTRAP_ROUNDS
        )
        for score in (_INTERVALS.get(matrix.task, ("roc_auc", "pr_auc")) if test.any() else ())
    }
    late = int((prepared.late & ~np.isnan(truth)).sum())
    figures["rows"] = {
        **{name: int((part == code).sum()) for name, code in _PARTS.items()},
        "no_label": int(np.isnan(truth).sum()),
        "label_known_too_late": late,
        "after_the_last_bound": int(((part == UNUSED) & ~np.isnan(truth)).sum()) - late,
        **{reason: int(count) for reason, count in (matrix.dropped or {}).items()},
    }
    figures["fit"] = {
        "rounds": fitted.rounds,
        "threshold": fitted.threshold,
        "engine": fitted.engine,
        "note": fitted.note,
        "values_beyond_float32": prepared.beyond,
    }
    return figures


def _reporters(progress: Progress | None, labels: Sequence[str]) -> Iterator[tuple[str, Callable[[float, str], None]]]:
    """Each label, and what tells which share of its training is done."""

    def report(place: int, share: float, message: str) -> None:
        if progress is not None:
            progress(1000 * place + int(1000 * share), 1000 * len(labels), f"{labels[place]}: {message}")

    for place, label in enumerate(labels):
        yield label, partial(report, place)


def _recipe(settings: Settings) -> Recipe:
    rule = settings.training
    return Recipe(rule.early_stopping, rule.imbalance, rule.seed, rule.parameters)


def _parameters(settings: Settings, models: Mapping[str, str]) -> dict[str, Any]:
    recipe = _recipe(settings)
    return {
        "models": list(models.values()),
        "labels": list(models),
        "algorithm": settings.training.algorithm,
        "early_stopping": recipe.patience,
        "imbalance": recipe.imbalance,
        "seed": recipe.seed,
        "split": settings.split.model_dump(mode="json", by_alias=True),
        "features": settings.features.model_dump(
            mode="json", include={"missing", "aliases", "transforms", "selection"}, exclude_unset=True
        ),
        "columns": {
            f"{t}.{c}": list(said.aliases)
            for t, r in settings.tables.items()
            for c, said in r.columns.items()
            if said.aliases
        },
        "xgboost": recipe.resolved(),
    }


def _fingerprint(matrix: Matrix, settings: Settings, target: str, labels: Sequence[str]) -> str:
    """Equal for trainings that would give the same models: content of the matrix, split, labels, parameters."""
    import xgboost

    about = {
        "target": target,
        "task": matrix.task,
        "classes": list(matrix.classes),
        "feature_set": matrix.feature_set.hash,
        "parameters": _parameters(settings, dict.fromkeys(labels, "")),
        "timezone": settings.timezone,
        "xgboost": xgboost.__version__,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, column in matrix.frame.columns.items():
        values = list(column.values) if isinstance(column, Categories) else []
        digest.update(json.dumps([name, values]).encode())
        digest.update((column.codes if isinstance(column, Categories) else column).tobytes())
    for array in (*(matrix.labels[label] for label in labels), matrix.cutoffs, matrix.label_known):
        digest.update(array.tobytes())
    digest.update(json.dumps(matrix.entities.to_pylist(), default=str).encode())
    return digest.hexdigest()


def _environment() -> dict[str, str]:
    import numba
    import sklearn
    import xgboost

    return {
        "holdfast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "scikit-learn": sklearn.__version__,
        "xgboost": xgboost.__version__,
        "threads": str(_threads()),
    }


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
