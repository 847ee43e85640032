"""The package of one model: a joblib dict that opens without Holdfast, and the weights file beside it.

`docs/design/package.md` describes every key. A package is a pickle and runs code when it is opened: `open_package` is
given the bytes' recorded SHA-256, or the user's word (`trust`).
"""

import io
import math
import pickle
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from holdfast.backend.store.files import sha256_of
from holdfast.core.explore.steps import Steps
from holdfast.core.features.encoding import Encoding
from holdfast.core.learn.fit import Fitted
from holdfast.core.learn.importance import cross_weights, feature_importance
from holdfast.errors import InputError, IntegrityError, UntrustedError

__all__ = ["FIELDS", "describe", "dump_package", "dump_weights", "open_package", "read_weights"]

FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "model": object,
    "category": str,
    "feature_names": list,
    "feature_importance": dict,
    "feature_weights": dict,
    "feature_cross_weights": list,
    "label_types": list,
    "categorical_categories": dict,
    "feature_stats": dict,
    "version": str,
    "task": str,
    "algorithm": str,
    "threshold": (float, type(None)),
    "metrics": dict,
    "trained_at": str,
    "data_version": str,
    "feature_set": str,
    "parents": list,
    "signature": dict,
    "environment": dict,
    "note": str,
}
"""The keys of a package and the types of their values; all are required."""

_WEIGHTS_HEAD = """\
# Weights of the features for similarity, strongest first. Edit a number and save: the edit becomes a new minor version
# of the model when it is next read. Answers of the model do not depend on them.
"""


def describe(
    fitted: Fitted, encoding: Encoding, target: str, classes: Sequence[str], steps: Steps | None = None
) -> dict[str, Any]:
    """The keys of a package that follow from a fitted model, its encoding, and the steps between the two."""
    seen = steps.outputs if steps else encoding.specs
    names = [spec.name for spec in seen]
    importance = feature_importance(fitted.json, names)
    return {
        "model": fitted.estimator,
        "feature_names": names,
        "feature_importance": importance,
        "feature_weights": dict(importance),
        "feature_cross_weights": cross_weights(fitted.json, names),
        "categorical_categories": Encoding(seen).categorical_categories,
        "feature_stats": {spec.name: _stats(spec) for spec in seen},
        "task": fitted.task,
        "algorithm": type(fitted.estimator).__module__.partition(".")[0],
        "threshold": fitted.threshold,
        "signature": {
            "input": "float64 [rows, features], columns as in feature_names; NaN where missing; categories as codes",
            "output": {"regression": "number", "multiclass": "probability of each class"}.get(
                fitted.task, "probability of the label"
            ),
            "target": target,
            "classes": list(classes),
            "encoding": encoding.to_dict(),
            **({"steps": steps.to_dict()} if steps else {}),
        },
    }


def _stats(spec: Any) -> dict[str, Any]:
    if spec.kind == "category":
        codes = {"min": 0.0, "max": float(len(spec.categories))}
        return {**codes, "mean": None, "std": None, "nulls": spec.nulls, "kind": spec.kind}
    return {
        "min": spec.minimum,
        "max": spec.maximum,
        "mean": spec.mean,
        "std": spec.std,
        "nulls": spec.nulls,
        "kind": spec.kind,
    }


def dump_package(package: Mapping[str, Any]) -> bytes:
    """The package as bytes, compressed; keys in the documented order."""
    import joblib

    assert set(package) == set(FIELDS), set(package) ^ set(FIELDS)
    buffer = io.BytesIO()
    joblib.dump({name: package[name] for name in FIELDS}, buffer, compress=("zlib", 3))
    return buffer.getvalue()


def open_package(path: Path, *, sha256: str | None, trust: bool = False) -> dict[str, Any]:
    """The package in a file: only if its SHA-256 is `sha256`, or on the user's word.

    UntrustedError when nothing is recorded of it and `trust` is false. IntegrityError naming the file, and the expected
    and found hash or the field, when it was changed, is damaged or incomplete.
    """
    where = {"file": str(path)}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"the package cannot be read: {error}", where=where) from error
    if sha256 is not None and (found := sha256_of(data)) != sha256:
        raise IntegrityError(
            f"the package was changed and is not opened: its SHA-256 is {found}, recorded is {sha256}",
            where=where,
            hint="Restore the file, or roll back to a version that is whole.",
        )
    if sha256 is None and not trust:
        raise UntrustedError(
            "nobody vouched for this package, and opening a pickle runs the code in it",
            where=where,
            hint="If you trust where it came from, repeat with --trust.",
        )
    return _checked(_unpickle(data, where), where)


def _unpickle(data: bytes, where: dict[str, Any]) -> object:
    import joblib

    try:
        return joblib.load(io.BytesIO(data))
    except (
        pickle.UnpicklingError, zlib.error, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
        ImportError, OSError, MemoryError, OverflowError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise IntegrityError(f"the package is damaged or cut short: {error!r}"[:300], where=where) from error


def _checked(package: object, where: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(package, dict):
        raise IntegrityError(f"the package holds a {type(package).__name__}, not a dict", where=where)
    for name, kind in FIELDS.items():
        if name not in package:
            raise IntegrityError(f"the package lacks the field {name!r}", where={**where, "field": name})
        if not isinstance(package[name], kind):
            raise IntegrityError(
                f"the field {name!r} is a {type(package[name]).__name__}", where={**where, "field": name}
            )
    names = package["feature_names"]
    for name in ("feature_importance", "feature_weights", "feature_stats"):
        if set(package[name]) != set(names):
            raise IntegrityError(f"the field {name!r} is not about feature_names", where={**where, "field": name})
    return package


def dump_weights(model: str, version: str, weights: Mapping[str, float]) -> bytes:
    """The weights file: YAML, strongest first."""
    ordered = dict(sorted(weights.items(), key=lambda item: (-item[1], item[0])))
    body = {"model": model, "version": version, "feature_weights": ordered}
    text = yaml.safe_dump(body, allow_unicode=True, sort_keys=False, width=1000)
    return (_WEIGHTS_HEAD + text).encode("utf-8", "surrogatepass")


def read_weights(data: bytes, names: Sequence[str], file: str) -> dict[str, float]:
    """The weights in a weights file, in the order of `names`; a feature left out keeps none (0).

    InputError naming file and feature when it is not valid, names no feature, or a weight is no number >= 0.
    """
    where: dict[str, Any] = {"file": file}
    try:
        content = yaml.safe_load(data.decode("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the weights are not valid YAML: {error}", where=where) from error
    weights = content.get("feature_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise InputError("the weights file has no mapping `feature_weights`", where=where)
    for name, value in weights.items():
        if name not in names:
            raise InputError(f"{name!r} is no feature of this model", where={**where, "feature": name})
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise InputError(f"the weight {value!r} is not a finite number >= 0", where={**where, "feature": name})
    return {name: float(weights.get(name, 0.0)) for name in names}
