"""The fast path: one immutable object that answers for one deployment of one target.

Imports no database, no web framework, no pandas and no scikit-learn; xgboost only at the first explanation.
"""

import itertools
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from holdfast.backend.ports import Clock
from holdfast.backend.serving.fast import MAX_ROWS, FastPath
from holdfast.backend.serving.reasons import explanation
from holdfast.core.features.alignment import refuse
from holdfast.core.features.compiled import compilable
from holdfast.core.features.encoding import Encoding, FeatureSpec, Repair
from holdfast.core.learn.serving import ServedModel
from holdfast.errors import ConflictError, InputError, IntegrityError

if TYPE_CHECKING:
    from holdfast.core.features.definitions import FeatureSet
    from holdfast.core.features.frame import FeatureFrame

__all__ = ["Answer", "Predictor", "deployment_of", "feature_values"]

Answer = dict[str, Any]
"""One prediction as plain data: id, labels, repairs and, when asked for, explanation."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Labels whose models share one encoding: rows are matched once for all of them."""

    encoding: Encoding
    labels: tuple[str, ...]


class Predictor:
    """All labels of a deployment. Immutable; safe in any number of threads.

    `models` maps label to its opened bundle; all must be of one feature set, of which each may ask for a part.
    """

    def __init__(
        self, deployment: str, target: str, models: Mapping[str, ServedModel], feature_set: "FeatureSet", clock: Clock
    ) -> None:
        """ConflictError when the labels do not share `feature_set`."""
        self.deployment = deployment
        self.target = target
        self.models = dict(models)
        self.feature_set = feature_set
        self._clock = clock
        for label, model in self.models.items():
            if model.feature_set != feature_set.hash or not set(model.encoding.names) <= set(feature_set.names):
                raise ConflictError(
                    f"the model of label {label!r} ({model.version}) has another feature set than the deployment",
                    where={"target": target, "label": label},
                    hint="Labels that answer together must be trained on the same features; train them together.",
                )
        self._groups = tuple(_group(self.models))
        self.encoding = _merged(self._groups, feature_set.names)
        """Names, kinds and training ranges of all features that some label asks for, in the order of the set."""
        self.needed = feature_set
        """The part of the feature set that some label asks for: what has to be computed."""
        if self.encoding.names != feature_set.names:
            needed = set(self.encoding.names)
            self.needed = replace(feature_set, features=tuple(f for f in feature_set.features if f.name in needed))
        self.known = frozenset(feature_set.names)
        """Names that may be sent."""
        # One token a process and predictor, then a counter: unique over workers without a random number a request.
        self._token = secrets.token_hex(4)
        self._counter = itertools.count()
        self.fast = FastPath(self) if len(self._groups) == 1 and compilable(self.encoding.names) else None
        """The way of most requests; None where labels do not share an encoding, or a name is not `compilable`."""

    @property
    def task(self) -> str:
        """multilabel, binary, multiclass or regression."""
        return next(iter(self.models.values())).task

    @property
    def tasks(self) -> dict[str, str]:
        """The task of each label."""
        return {label: model.task for label, model in self.models.items()}

    def predict_features(
        self, rows: Sequence[Mapping[str, Any]], *, explain: bool = False, strict: bool = False
    ) -> list[Answer]:
        """Answers for rows of feature values (name → value). AlignmentError names the row and the feature.

        `strict` refuses rows that would have to be repaired, and lists every repair.
        """
        matrices, repairs = [], []
        for group in self._groups:
            aligned = group.encoding.align(rows, strict=strict, known=self.known)
            matrices.append(aligned.matrix)
            repairs.append(aligned.repairs)
        return self._answer(matrices, [_union(found) for found in zip(*repairs, strict=True)], explain)

    def check(self, rows: Sequence[Mapping[str, Any]], *, strict: bool = False) -> None:
        """AlignmentError if `predict_features` would refuse the rows."""
        for group in self._groups:
            group.encoding.align(rows, strict=strict, known=self.known)

    def predict_frame(self, frame: "FeatureFrame", *, explain: bool = False, strict: bool = False) -> list[Answer]:
        """Answers for computed features; told are categories that training never saw.

        `strict` makes an AlignmentError of them.
        """
        matrices = [group.encoding.encode(frame) for group in self._groups]
        repairs = [group.encoding.inspect(frame, matrix) for group, matrix in zip(self._groups, matrices, strict=True)]
        found = [_union(one) for one in zip(*repairs, strict=True)]
        if strict:
            refuse([{"row": row, **repair.plain()} for row, one in enumerate(found) for repair in one])
        return self._answer(matrices, found, explain)

    def identities(self, count: int) -> tuple[int, list[bytes]]:
        """Ids for that many answers, and the millisecond that they name."""
        instant = self._clock.now() // 1000
        head = f"{self.deployment}-{instant:011x}{self._token}".encode()
        return instant, [b"%b%x" % (head, number) for number in itertools.islice(self._counter, count)]

    def verify(self) -> None:
        """Replay every model's golden rows, alone and through `predict_features`; IntegrityError when one differs."""
        for label, model in self.models.items():
            model.verify()
            rows = [feature_values(model.encoding, row) for row in model.golden_rows]
            if not rows:
                raise IntegrityError(f"the package of label {label!r} has no golden rows", where={"label": label})
            aligned = model.encoding.align(rows).matrix
            # A golden row may hold NaN where alignment always fills; then it cannot come in through this path.
            reached = ~np.isnan(model.golden_rows[:, _filled(model.encoding)]).any(axis=1)
            same = np.array_equal(aligned[reached], model.golden_rows[reached], equal_nan=True)
            # Other labels may ask for features that this one's rows do not have: null, there.
            matrices = [group.encoding.align(rows, partial=True).matrix for group in self._groups]
            answers = self._answer(matrices, [()] * len(rows), explain=False)
            outputs = model.predict(aligned).reshape(len(rows), -1).tolist()
            if not same or [_value(answer["labels"][label]) for answer in answers] != outputs:
                raise IntegrityError(
                    f"the golden rows of label {label!r} are answered differently through the serving path",
                    where={"target": self.target, "label": label},
                )
            if self.fast is not None:
                self._verify_fast(self.fast, label, [*map(dict, rows)], outputs)

    def _verify_fast(self, fast: FastPath, label: str, rows: list[dict[str, Any]], outputs: list[list[float]]) -> None:
        """The golden rows once more, the way that requests go."""
        for start in range(0, len(rows), MAX_ROWS):
            some = rows[start : start + MAX_ROWS]
            taken = fast.take(msgspec.json.encode({"features": some}), strict=False)
            answers = msgspec.json.decode(fast.answer([taken]).answers[0])["predictions"] if taken else []
            given = [_value(answer["labels"][label]) for answer in answers]
            if given != outputs[start : start + MAX_ROWS]:
                raise IntegrityError(
                    f"the golden rows of label {label!r} are answered differently through the path of requests",
                    where={"target": self.target, "label": label},
                )

    def _answer(
        self, matrices: Sequence[npt.NDArray[np.float64]], repairs: Sequence[Sequence[Repair]], explain: bool
    ) -> list[Answer]:
        _, identities = self.identities(len(repairs))
        answers: list[Answer] = [
            {"id": identity.decode(), "labels": {}, "repairs": [repair.plain() for repair in found]}
            for identity, found in zip(identities, repairs, strict=True)
        ]
        if explain:
            for answer in answers:
                answer["explanation"] = {}
        for group, matrix in zip(self._groups, matrices, strict=True):
            for label in group.labels:
                self._answer_label(label, matrix, answers, explain)
        # The order of the deployment, whatever the grouping.
        if len(self._groups) > 1:
            for answer in answers:
                answer["labels"] = {label: answer["labels"][label] for label in self.models}
        return answers

    def _answer_label(self, label: str, matrix: npt.NDArray[np.float64], answers: list[Answer], explain: bool) -> None:
        model = self.models[label]
        outputs = model.predict(matrix)
        decisions = model.decide(outputs)
        contributions = model.explain(matrix) if explain else None
        shown = model.shown_values(matrix) if explain else matrix
        for index, answer in enumerate(answers):
            answer["labels"][label] = _label_answer(model, outputs[index], decisions[index])
            if contributions is not None:
                values = contributions[index]
                if model.task == "multiclass":
                    values = values[int(decisions[index])]
                answer["explanation"][label] = explanation(model, shown[index], values, answer["labels"][label])


def deployment_of(prediction: str) -> str:
    """The deployment that a prediction id names. InputError when it is no prediction id."""
    deployment, dash, rest = prediction.partition("-")
    if not (deployment.startswith("dep_") and dash and len(rest) > 19 and set(rest) <= set("0123456789abcdef")):
        raise InputError(
            f"{prediction!r} is not a prediction id",
            where={"prediction": prediction},
            hint="It looks like dep_018c...-018c...; every answer carries one under `id`.",
        )
    return deployment


def feature_values(encoding: Encoding, row: npt.NDArray[np.float64]) -> dict[str, Any]:
    """One encoded row as the feature values it came from: name → number, bool, category or None."""
    return {spec.name: _decoded(spec, float(number)) for spec, number in zip(encoding.specs, row, strict=True)}


def _filled(encoding: Encoding) -> list[int]:
    return [i for i, spec in enumerate(encoding.specs) if spec.kind == "category" or spec.fill is not None]


def _decoded(spec: FeatureSpec, number: float) -> float | bool | str | None:
    if spec.kind == "category":
        return spec.categories[int(number) - 1] if number > 0 else None
    if math.isnan(number):
        return None
    return bool(number) if spec.kind == "truth" and number in (0.0, 1.0) else number


def _group(models: Mapping[str, ServedModel]) -> Iterator[_Group]:
    groups: list[tuple[Encoding, list[str]]] = []
    for label, model in models.items():
        same = next((labels for encoding, labels in groups if encoding.specs == model.encoding.specs), None)
        if same is None:
            groups.append((model.encoding, [label]))
        else:
            same.append(label)
    for encoding, labels in groups:
        yield _Group(encoding, tuple(labels))


def _merged(groups: Sequence[_Group], order: Sequence[str]) -> Encoding:
    """The features of all groups, each as the first group that has it knows it, in the order of `order`."""
    if len(groups) == 1:
        return groups[0].encoding
    specs = {spec.name: spec for group in reversed(groups) for spec in group.encoding.specs}
    return Encoding([specs[name] for name in order if name in specs])


def _union(found: Sequence[Sequence[Repair]]) -> Sequence[Repair]:
    return found[0] if len(found) == 1 else tuple(dict.fromkeys(itertools.chain.from_iterable(found)))


def _label_answer(model: ServedModel, output: Any, decision: Any) -> dict[str, Any]:
    if model.task == "regression":
        return {"value": float(output), "version": model.version}
    if model.task == "multiclass":
        shares = dict(zip(model.classes, output.tolist(), strict=True))
        return {"probabilities": shares, "decision": model.classes[int(decision)], "version": model.version}
    return {
        "probability": float(output),
        "decision": bool(decision),
        "threshold": model.threshold,
        "version": model.version,
    }


def _value(answer: Mapping[str, Any]) -> list[float]:
    if "probabilities" in answer:
        return list(answer["probabilities"].values())
    return [answer["value"] if "value" in answer else answer["probability"]]
