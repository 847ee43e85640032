"""What a model version is kept as: package, weights, ONNX twin, SHAP explainer, serving bundle."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.backend.registry.onnx_twin import export_onnx
from holdfast.backend.registry.package import describe, dump_package, dump_weights
from holdfast.core.explore.steps import Steps
from holdfast.core.features.encoding import Encoding
from holdfast.core.learn.fit import Fitted, output_of
from holdfast.core.learn.serving import ServedModel, pack, unpack

__all__ = ["Artifacts", "Identity", "build", "golden_rows", "rename_bundle"]

_GOLDEN = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """Which version a model is and where it comes from; `trained_at` is ISO 8601, `feature_set` a hash."""

    target: str
    label: str
    model: str
    version: str
    labels: tuple[str, ...]
    trained_at: str
    data_version: str
    feature_set: str
    parents: tuple[str, ...]
    environment: Mapping[str, str]
    note: str


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Bytes: `files` by role (package, weights, and where they could be made onnx and shap) and the serving bundle.

    `onnx` says what was measured of the twin, or the reason why there is none.
    """

    files: Mapping[str, bytes]
    serving: bytes
    onnx: Mapping[str, Any]


def build(
    fitted: Fitted,
    encoding: Encoding,
    identity: Identity,
    *,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    rows: npt.NDArray[np.float64],
    steps: Steps | None = None,
) -> Artifacts:
    """All forms of one model. `rows` (encoded, float64 [n, features]) are replayed; some become the golden rows.

    `steps` make what the model sees of encoded rows; None where it sees them as they are.

    The bundle is opened and verified before it is returned.
    """
    golden = golden_rows(rows)
    seen = golden if steps is None else steps.apply(golden)
    outputs = output_of(fitted.estimator, seen.astype(np.float32))
    names = [spec.name for spec in (steps.outputs if steps else encoding.specs)]
    about = {"model": identity.model, "parents": list(identity.parents), "feature_names": names}
    twin, measured = export_onnx(fitted, seen, outputs, about)
    package = {
        **describe(fitted, encoding, identity.target, classes, steps),
        "category": identity.label,
        "label_types": list(identity.labels),
        "version": identity.version,
        "metrics": {**metrics, "onnx": measured},
        "trained_at": identity.trained_at,
        "data_version": identity.data_version,
        "feature_set": identity.feature_set,
        "parents": list(identity.parents),
        "environment": dict(identity.environment),
        "note": identity.note,
    }
    files = {
        "package": dump_package(package),
        "weights": dump_weights(identity.model, identity.version, package["feature_weights"]),
    }
    if twin is not None:
        files["onnx"] = twin
    if importlib.util.find_spec("shap") is not None:
        files["shap"] = _explainer(fitted)
    serving = _bundle(fitted, encoding, identity, classes, golden, steps=steps)
    ServedModel(serving).verify()
    return Artifacts(files, serving, measured)


def golden_rows(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Some of the rows, evenly spread over them, and one without any value."""
    places = np.unique(np.linspace(0, max(0, len(rows) - 1), min(_GOLDEN, len(rows))).astype(np.int64))
    return np.vstack([rows[places], np.full((1, rows.shape[1]), np.nan)])


def rename_bundle(serving: bytes, version: str) -> bytes:
    """The same bundle under another version."""
    meta, arrays = unpack(serving)
    return pack({**meta, "version": version}, arrays)


def _bundle(
    fitted: Fitted,
    encoding: Encoding,
    identity: Identity,
    classes: Sequence[str],
    golden: npt.NDArray[np.float64],
    *,
    steps: Steps | None,
) -> bytes:
    booster = fitted.estimator.get_booster()
    seen = (golden if steps is None else steps.apply(golden)).astype(np.float32)
    margins = booster.inplace_predict(seen, predict_type="margin", validate_features=False)
    arrays: dict[str, npt.NDArray[Any]] = {
        "booster": np.frombuffer(fitted.ubj, np.uint8),
        "golden_rows": golden,
        "golden_margins": np.asarray(margins, np.float32).reshape(len(golden), -1),
        "golden_outputs": output_of(fitted.estimator, seen),
    }
    forest = fitted.forest
    if forest is not None:
        arrays |= {"nodes": forest.nodes, "roots": forest.roots, "groups": forest.groups, "base": forest.base}
    meta = {
        "target": identity.target,
        "label": identity.label,
        "model": identity.model,
        "version": identity.version,
        "task": fitted.task,
        "threshold": fitted.threshold,
        "classes": list(classes),
        "encoding": encoding.to_dict(),
        "feature_set": identity.feature_set,
        "link": forest.link if forest is not None else "",
        "engine": fitted.engine,
        **({"steps": steps.to_dict()} if steps else {}),
    }
    return pack(meta, arrays)


def _explainer(fitted: Fitted) -> bytes:
    import joblib
    import shap

    buffer = io.BytesIO()
    joblib.dump(shap.TreeExplainer(fitted.estimator), buffer, compress=("zlib", 3))
    return buffer.getvalue()
