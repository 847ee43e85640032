"""Folders of packages from elsewhere: look at them without opening, take them over."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from holdfast.backend.records import FOREIGN, ModelVersion, Run, new_id
from holdfast.backend.registry import tables
from holdfast.backend.registry.artifacts import Identity, build
from holdfast.backend.registry.face import definitions_file, read_manifest
from holdfast.backend.registry.package import open_package
from holdfast.backend.registry.registry import Registry, model_name
from holdfast.backend.store import Store
from holdfast.backend.store.files import sha256_of
from holdfast.core.explore.steps import Steps
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.encoding import Encoding
from holdfast.core.features.primitives import Primitive
from holdfast.core.learn.fit import of_estimator
from holdfast.core.names import unescape
from holdfast.errors import HoldfastError, InputError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from holdfast.backend.features import Features

__all__ = ["Finding", "import_folder", "open_file", "scan"]

_ALGORITHM = "xgboost"
_TASKS = ("multilabel", "binary", "multiclass", "regression")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one file found.

    `state`: ok (the recorded content), unknown (nothing is recorded of it), changed (it is another content), missing
    (it should be there), or unfit (this Holdfast cannot use it). `detail` says what and why.
    """

    file: str
    model: str
    state: str
    detail: str


def scan(registry: Registry, folder: Path | None = None) -> list[Finding]:
    """Look at every file of models in a folder, without opening any; by default data/model.

    There the registry says what should be; in another folder its manifest does, and the hashes recorded here.
    NotFoundError when there is no such folder.
    """
    folder = folder or registry.layout.models
    own = folder.resolve() == registry.layout.models.resolve()
    if not folder.is_dir() and not own:
        raise NotFoundError(f"there is no folder {folder}", where={"folder": str(folder)})
    known = _recorded(registry.store)
    expected = registry.shown() if own else read_manifest(folder)["models"]
    named: dict[str, Finding] = {}
    for model, entry in sorted(expected.items()):
        for name, file in sorted(entry["files"].items()):
            named.setdefault(name, _look(folder / name, model, entry, file))
    findings = list(named.values())
    for path in _packages(folder):
        if path.name not in named:
            model = known.get(sha256_of(path.read_bytes()))
            findings.append(Finding(path.name, model or "", "ok" if model else "unknown", _stranger(path, model)))
    return findings


def _stranger(path: Path, model: str | None) -> str:
    if model:
        return "recorded here"
    said = unescape(path.stem.partition("_model_")[2])
    named = f"; by its name it is of {said!r}" if said else ""
    return f"it is not among the models here, and nothing is recorded of it{named}"


def open_file(registry: Registry, path: Path, *, trust: bool = False) -> dict[str, Any]:
    """A package file anywhere: opened when its SHA-256 is recorded here, or with `trust`; else UntrustedError.

    IntegrityError when a manifest or this registry's own folder says that the file should have another content.
    """
    try:
        found = sha256_of(path.read_bytes())
    except OSError as error:
        raise IntegrityError(f"the package cannot be read: {error}", where={"file": str(path)}) from error
    expected = _expected(path)
    if expected is None and found in _recorded(registry.store):
        expected = found
    # A manifest beside the file tells damage apart, but anybody can write one: it does not make code trustworthy.
    if expected == found and found not in _recorded(registry.store):
        expected = None
    return open_package(path, sha256=expected, trust=trust)


def import_folder(
    registry: Registry, features: "Features", folder: Path, *, trust: bool = False, own: Sequence[Primitive] = ()
) -> list[ModelVersion]:
    """Register every package of a folder made by another Holdfast, with its feature definitions; all of them or none.

    Returns the new versions; packages recorded here already are left out. UntrustedError unless `trust`: opening a
    pickle runs its code. InputError when there is no package; IntegrityError naming file and field when one is damaged,
    incomplete or unfit, or when its definitions are not beside it; ConfigError when one of its primitives is
    not among the user's `own`, or was changed.
    """
    paths = _packages(folder)
    if not paths:
        raise InputError(f"there is no package (*_model_*.pkl) in {folder}", where={"folder": str(folder)})
    known = _recorded(registry.store)
    packages = [
        (path, open_file(registry, path, trust=trust)) for path in paths if sha256_of(path.read_bytes()) not in known
    ]
    if not packages:
        return []
    now = registry.clock.now()
    about = {
        "folder": str(folder.resolve()),
        "packages": {path.name: sha256_of(path.read_bytes()) for path, _ in packages},
    }
    run = Run(new_id("run", now), "(import)", now, now, "done", "", "", "", about, {}, {}, "imported")
    sets = {package["feature_set"]: _definitions(path, package, own) for path, package in packages}
    versions = [_version(registry, run, path, package, sets[package["feature_set"]]) for path, package in packages]
    for number, version in enumerate(versions):
        record = features.save_set(version.target, sets[version.feature_set], version.dataset)
        versions[number] = replace(version, feature_set=record.id)
    expect = {version.model: _current(registry, version.model) for version in versions}
    registry.start_run(replace(run, state="running", ended_at=None))
    try:
        registry.register(versions, run=run, expect=expect, why=f"imported from {folder.name}")
    except HoldfastError as error:
        registry.fail_run(run.id, str(error))
        raise
    return versions


def _definitions(path: Path, package: dict[str, Any], own: Sequence[Primitive]) -> FeatureSet:
    """The feature set of a package, from the file beside it that has the hash the package names."""
    digest = package["feature_set"]
    file = path.with_name(definitions_file(digest))
    where = {"file": str(file)}
    try:
        data = file.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"the feature definitions of {path.name} cannot be read: {error}", where=where,
            hint="Copy the whole folder data/model of the other project.",
        ) from error  # fmt: skip
    if (found := sha256_of(data)) != digest:
        raise IntegrityError(f"the feature definitions were changed: SHA-256 is {found}, not {digest}", where=where)
    try:
        feature_set = FeatureSet.from_dict(json.loads(data), own)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the feature definitions cannot be read: {error!r}", where=where) from error
    encoding, _, _, _ = _signature(package, {"file": str(path)})
    if feature_set.hash != digest or not set(encoding.names) <= set(feature_set.names):
        raise IntegrityError(f"the feature definitions are not those of {path.name}", where=where)
    return feature_set


def _version(
    registry: Registry, run: Run, path: Path, package: dict[str, Any], feature_set: FeatureSet
) -> ModelVersion:
    where = {"file": str(path)}
    encoding, steps, target, classes = _signature(package, where)
    task, label = package["task"], package["category"]
    estimator = package["model"]
    algorithm = package["algorithm"]
    if task not in _TASKS or algorithm != _ALGORITHM or not hasattr(estimator, "get_booster"):
        raise IntegrityError(
            f"this Holdfast cannot serve a {type(estimator).__name__} by {algorithm!r} for task {task!r}",
            where={**where, "field": "model"},
        )
    model = model_name(target, label, task)
    version = package["version"]
    if any(known.version == version for known in registry.versions(model)):
        version = registry.next_version(model, algorithm)
    rows = _made_up_rows(encoding)
    try:
        seen = rows if steps is None else steps.apply(rows)
        fitted = of_estimator(estimator, task, package["threshold"], seen.astype(np.float32))
    except ValueError as error:
        raise IntegrityError(f"the model does not answer: {error}", where={**where, "field": "model"}) from error
    identity = Identity(
        target=target,
        label=label,
        model=model,
        version=version,
        labels=tuple(package["label_types"]),
        trained_at=package["trained_at"],
        data_version=package["data_version"],
        feature_set=package["feature_set"],
        parents=tuple(package["parents"]),
        environment=package["environment"],
        note=package["note"],
    )
    made = build(fitted, encoding, identity, classes=classes, metrics=package["metrics"], rows=rows, steps=steps)
    files = {**made.files, "definitions": feature_set.to_json()}
    if version == package["version"]:
        files["package"] = path.read_bytes()
    return ModelVersion(
        id=new_id("model", run.made_at), model=model, target=target, label=label, task=task, version=version,
        made_at=run.made_at, run=run.id, dataset=FOREIGN + package["data_version"],
        feature_set=package["feature_set"], parents=tuple(FOREIGN + parent for parent in identity.parents),
        algorithm=algorithm, parameters={}, metrics=package["metrics"],
        serving=registry.blobs.put(made.serving),
        files={role: registry.blobs.put(data) for role, data in files.items()}, note=package["note"],
    )  # fmt: skip


def _signature(package: dict[str, Any], where: dict[str, Any]) -> tuple[Encoding, Steps | None, str, Sequence[str]]:
    signature = package["signature"]
    try:
        encoding = Encoding.from_dict(signature["encoding"])
        steps = Steps.from_dict(signature["steps"]) if signature.get("steps") else None
        target, classes = str(signature["target"]), [str(name) for name in signature["classes"]]
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"the field 'signature' is incomplete: {error}", where={**where, "field": "signature"}
        ) from error
    names = [spec.name for spec in (steps.outputs if steps else encoding.specs)]
    if names != package["feature_names"] or (steps is not None and steps.inputs != encoding.names):
        raise IntegrityError("the field 'signature' is about other features", where={**where, "field": "signature"})
    return encoding, steps, target, classes


def _made_up_rows(encoding: Encoding) -> npt.NDArray[np.float64]:
    """Rows inside the training ranges, to replay on; the real ones stayed where the model was trained."""
    rng = np.random.default_rng(0)
    low = np.array([spec.minimum or 0.0 for spec in encoding.specs])
    high = np.array(
        [float(len(spec.categories)) if spec.kind == "category" else spec.maximum or 0.0 for spec in encoding.specs]
    )
    rows: npt.NDArray[np.float64] = low + (high - low) * rng.random((256, len(low)))
    whole = np.array([spec.kind != "number" for spec in encoding.specs])
    rows[:, whole] = np.rint(rows[:, whole])
    # Only what training kept as missing can be missing here.
    missing = np.array([spec.missing == "keep" for spec in encoding.specs])
    rows[missing & (rng.random(rows.shape) < 0.1)] = np.nan
    return rows


def _packages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*_model_*.pkl")) if folder.is_dir() else []


def _expected(path: Path) -> str | None:
    for entry in read_manifest(path.parent)["models"].values():
        if path.name in entry["files"]:
            return str(entry["files"][path.name]["sha256"])
    return None


def _recorded(store: Store) -> dict[str, str]:
    """Models by the hash of their packages, of all versions."""
    table = tables.model_versions
    with store.read() as connection:
        return {row.files["package"]: row.model for row in connection.execute(sa.select(table.c.files, table.c.model))}


def _current(registry: Registry, model: str) -> str | None:
    return next((version.id for version in registry.current() if version.model == model), None)


def _look(path: Path, model: str, entry: dict[str, Any], file: dict[str, str]) -> Finding:
    if not path.is_file():
        return Finding(path.name, model, "missing", f"the {file['role']} of {entry['version']} is not there")
    found = sha256_of(path.read_bytes())
    if found != file["sha256"]:
        detail = f"its SHA-256 is {found}, recorded is {file['sha256']}"
        return Finding(path.name, model, "changed", detail)
    if entry["task"] not in _TASKS or entry["algorithm"] != _ALGORITHM:
        return Finding(path.name, model, "unfit", f"task {entry['task']!r} by {entry['algorithm']!r} is not known here")
    return Finding(path.name, model, "ok", entry["version"])
