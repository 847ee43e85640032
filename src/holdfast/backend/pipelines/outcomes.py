"""What became of predictions is told: checked against what was predicted, then recorded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.backend.deployment import Outcome, Outcomes, OutcomesAdded
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import Deployment, RawTable
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.predictor import deployment_of
from holdfast.core.words import number_of, truth_of
from holdfast.errors import HoldfastError, InputError

__all__ = ["add_outcomes", "outcomes_of"]

_COLUMNS = ("prediction", "label", "value")


@dataclass(frozen=True, slots=True)
class _Predicted:
    """What a label of a deployment predicts: its task, and the classes that are known of it."""

    task: str
    classes: frozenset[str] = frozenset()


def outcomes_of(raw: RawTable, file: str) -> list[Mapping[str, Any]]:
    """The outcomes in a file of three columns: prediction, label, value. InputError names the column that is absent."""
    absent = [name for name in _COLUMNS if name not in raw.table.column_names]
    if absent:
        raise InputError(
            f"the file has no column {absent[0]!r}", where={"file": file},
            hint="Its columns are: prediction (the id of an answer), label, value.",
        )  # fmt: skip
    return [
        {**row, "row": number}
        for row, number in zip(raw.table.select(_COLUMNS).to_pylist(), raw.rows.to_pylist(), strict=True)
    ]


def add_outcomes(rooms: Rooms, told: Sequence[Mapping[str, Any]], *, file: str | None = None) -> OutcomesAdded:
    """Record outcomes (`prediction`, `label`, `value`), all or none.

    A label of the prediction's deployment takes what it predicts: 0 or 1, a class, a number. Any other name is a metric
    of your own (such as whether the customer bought), and takes a number. A class must be one of the model's, or of one
    that is on trial beside it now. InputError names the first row that is wrong.
    """
    checked = []
    known: dict[str, dict[str, _Predicted]] = {}
    for place, one in enumerate(told, 1):
        where: dict[str, object] = {"row": one.get("row", place)} | ({"file": file} if file else {})
        checked.append(_checked(rooms, one, where, known))
    return Outcomes(rooms.store, rooms.clock).add(checked)


def _checked(
    rooms: Rooms, one: Mapping[str, Any], where: dict[str, object], known: dict[str, dict[str, _Predicted]]
) -> Outcome:
    prediction, label, value = (one.get(name) for name in _COLUMNS)
    for name, given in zip(_COLUMNS, (prediction, label, value), strict=True):
        if given is None or given == "":
            raise InputError(f"the {name} of an outcome is missing", where=where)
    try:
        deployment = deployment_of(str(prediction))
        if deployment not in known:
            known[deployment] = _predicted(rooms, rooms.deployments.get(deployment))
    except HoldfastError as error:
        raise InputError(error.message, where={**where, **error.where}, hint=error.hint) from error
    predicted = known[deployment].get(str(label))
    return Outcome(str(prediction), str(label), _value(predicted, value, {**where, "label": label, "column": "value"}))


def _predicted(rooms: Rooms, deployment: Deployment) -> dict[str, _Predicted]:
    """By label what a deployment predicts. A shadow's candidate may know a class that the stable one does not."""
    route = rooms.deployments.routes().get(deployment.target)
    beside = [rooms.deployments.get(name) for name in (route.deployments if route else ()) if name != deployment.id]
    found = {}
    for label, model in deployment.models.items():
        version = rooms.registry.get(model)
        classes: set[str] = set()
        if version.task == "multiclass":
            models = [model, *(one.models[label] for one in beside if label in one.models)]
            for serving in {rooms.registry.get(one).serving for one in models}:
                classes.update(load_bundle(rooms.blobs.path(serving), serving).classes)
        found[label] = _Predicted(version.task, frozenset(classes))
    return found


def _value(predicted: _Predicted | None, value: Any, where: dict[str, object]) -> float | bool | str:
    if predicted is not None and predicted.task == "multiclass":
        return _class(predicted.classes, value, where)
    number = _number(value)
    if predicted is not None and predicted.task in ("binary", "multilabel"):
        truth = truth_of(value) if isinstance(value, str) else None
        truth = bool(number) if truth is None and number in (0, 1) else truth
        if truth is None:
            raise InputError(f"{value!r} is no truth value", where=where, hint="Give 1 or 0, true or false.")
        return truth
    if number is None or not math.isfinite(number):
        raise InputError(f"{value!r} is no number", where=where, hint="This label, or metric, takes numbers.")
    return number


def _number(value: Any) -> float | None:
    """The number that a value is or spells; None when it is none (a date, a list), infinite when it is too large."""
    if isinstance(value, str):
        return number_of(value)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return math.inf


def _class(known: frozenset[str], value: Any, where: dict[str, object]) -> str:
    """The name of the class; a whole number also where a column with gaps gave it as a float (1.0)."""
    if str(value) in known:
        return str(value)
    number = None if isinstance(value, bool) else _number(value)
    if number is not None and math.isfinite(number) and number == int(number) and str(int(number)) in known:
        return str(int(number))
    names = ", ".join(sorted(known))
    raise InputError(f"{value!r} is no class of this label", where=where, hint=f"It has the classes: {names}")
