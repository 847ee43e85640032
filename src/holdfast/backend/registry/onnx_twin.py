"""The ONNX twin of a model, with its measured difference written on it.

ONNX Runtime may add leaves in another order than the booster, so its answers can differ in the last bits and, near the
threshold, in the decision. Nothing in Holdfast serves from the twin; it is for other tools.
"""

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.learn.fit import Fitted

__all__ = ["export_onnx", "run_onnx"]

_OPSET = 15


def export_onnx(
    fitted: Fitted,
    rows: npt.NDArray[np.float64],
    outputs: npt.NDArray[np.float64],
    metadata: Mapping[str, Any],
) -> tuple[bytes | None, dict[str, Any]]:
    """The twin and what was measured on `rows` (encoded, with the model's own `outputs`).

    Measured are `rows`, `max_abs_difference` and `flipped_decisions`; they and `metadata` are in its metadata_props as
    `holdfast.<name>`, JSON. Where the converter cannot do it, None and `{"reason": ...}`.
    """
    from onnx import helper

    try:
        model = _convert(fitted, rows.shape[1])
        theirs = run_onnx(model.SerializeToString(), rows, fitted.task)
    except Exception as error:  # noqa: BLE001 - three foreign converters raise what they like; the twin is optional
        return None, {"reason": f"{type(error).__name__}: {error}"[:300]}
    flipped = _decisions(fitted, theirs) != _decisions(fitted, outputs)
    measured = {
        "rows": len(rows),
        "max_abs_difference": float(np.abs(theirs - outputs).max(initial=0.0)),
        "flipped_decisions": int(flipped.sum()),
    }
    properties = {f"holdfast.{k}": json.dumps(v, ensure_ascii=False) for k, v in {**metadata, **measured}.items()}
    helper.set_model_props(model, properties)
    return model.SerializeToString(deterministic=True), measured


def run_onnx(model: bytes, rows: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float64]:
    """The twin's answers in the form of the model's: [n], or [n, classes] for multiclass."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    answer = np.asarray(session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})[-1], np.float64)
    if task == "multiclass":
        return answer
    return answer[:, 1] if task in ("binary", "multilabel") else answer.reshape(-1)


def _convert(fitted: Fitted, features: int) -> Any:
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_xgboost(
            fitted.estimator,
            name="holdfast",
            initial_types=[("input", FloatTensorType([None, features]))],
            target_opset=_OPSET,
        )


def _decisions(fitted: Fitted, outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if fitted.task == "multiclass":
        return np.asarray(outputs.argmax(axis=1), np.float64)
    return outputs * 0 if fitted.threshold is None else (outputs >= fitted.threshold).astype(np.float64)
