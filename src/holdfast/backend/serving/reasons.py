"""Explanations of an answer: contributions of the features, and the strongest of them in words."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.features.encoding import UNKNOWN, FeatureSpec
from holdfast.core.learn.serving import ServedModel
from holdfast.core.words import quantity

__all__ = ["explanation"]

_REASONS = 5


def explanation(
    model: ServedModel, row: npt.NDArray[np.float64], values: npt.NDArray[np.float64], answer: Mapping[str, Any]
) -> dict[str, Any]:
    """Why an answer is what it is.

    `row` has the values of `model.shown`, `values` their SHAP values and the base value [shown + 1], in `unit`:
    log-odds for probabilities (for multiclass: the score of the decided class), the predicted quantity for regression.
    `base` plus all contributions is the model's margin. Contributions are strongest first; those of exactly 0 are
    left out.
    """
    unit = {"regression": "", "multiclass": "score"}.get(model.task, "log-odds")
    specs = model.shown
    order = sorted(np.flatnonzero(values[:-1]).tolist(), key=lambda index: (-abs(values[index]), index))
    result: dict[str, Any] = {
        "base": float(values[-1]),
        "unit": unit,
        "contributions": [
            {
                "feature": specs[index].name,
                "value": _shown(specs[index], float(row[index])),
                "contribution": float(values[index]),
            }
            for index in order
        ],
        "reasons": [_reason(specs[index], float(row[index]), float(values[index]), unit) for index in order[:_REASONS]],
    }
    if model.task == "multiclass":
        result["class"] = answer["decision"]
    return result


def _shown(spec: FeatureSpec, number: float) -> float | bool | str | None:
    if spec.kind == "category":
        return spec.categories[int(number) - 1] if number else UNKNOWN
    return None if math.isnan(number) else bool(number) if spec.kind == "truth" else number


def _reason(spec: FeatureSpec, number: float, contribution: float, unit: str) -> str:
    what = spec.description or spec.name
    what = what[:1].upper() + what[1:]
    effect = f"{'raises' if contribution > 0 else 'lowers'} it by {abs(contribution):.3g}{' ' + unit if unit else ''}"
    return f"{what} is {_words(spec, number)}{_usual(spec)}: {effect}."


def _words(spec: FeatureSpec, number: float) -> str:
    value = _shown(spec, number)
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else quantity(value, spec.unit)


def _usual(spec: FeatureSpec) -> str:
    if spec.kind != "number" or spec.minimum is None or spec.maximum is None or spec.mean is None:
        return ""
    low, mean, high = (quantity(value, spec.unit) for value in (spec.minimum, spec.mean, spec.maximum))
    return f" (in training {low} to {high}, on average {mean})"
