"""What the Open Inference Protocol asks, without its transports: a model is a target, its version a deployment.

A request is answered by all labels of the target. Its tensors are features, one each ([n] or [n, 1]), or a single one
`features` [n, features] in the order of the metadata; they become rows and go the way of every prediction.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast import __version__
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.requests import InferRequest, check_size
from holdfast.backend.api.open_inference.tensors import Scalar, Tensor
from holdfast.backend.pipelines.deploy import resume
from holdfast.backend.serving.predictor import Answer, Predictor
from holdfast.backend.serving.service import Reply, Service
from holdfast.errors import HoldfastError, NotFoundError, RequestError, UnavailableError, nearest

__all__ = ["EXTENSIONS", "Models", "Plain", "reason"]

Plain = dict[str, Any]
EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")
_MATRIX = "features"
_TYPES = {"number": "FP64", "truth": "BOOL", "category": "BYTES"}
_PATIENCE = 20.0
"""Seconds that a load or unload waits for this process to have followed."""


class Models:
    """The models of one service. Safe in any number of threads."""

    def __init__(self, service: Service, notices: Notices) -> None:
        self._service = service
        self._notices = notices

    def server(self) -> Plain:
        """Name, version and extensions of this server."""
        return {"name": "holdfast", "version": __version__, "extensions": list(EXTENSIONS)}

    @property
    def server_ready(self) -> bool:
        """Whether every deployed target is answered, and new clients should come."""
        return self._service.live.ready and not self._notices.draining

    def unopened(self, name: str) -> bool:
        """Whether the target waits for its first request to be opened."""
        return name in self._service.live.unopened

    def open(self, name: str) -> None:
        """Open what waits for its first request; takes its time."""
        self._service.live.open(name)

    def ready(self, name: str, version: str = "") -> bool:
        """Whether the target is answered, by that deployment; one that waits for its first request is."""
        try:
            self.require(name, version)
        except (NotFoundError, UnavailableError):
            return False
        return True

    def require(self, name: str, version: str = "") -> None:
        """NotFoundError or UnavailableError, saying why, when the target is not answered, by that deployment."""
        if version or not self.unopened(name):
            self._predictor(name, version)

    def metadata(self, name: str, version: str = "") -> Plain:
        """Versions, inputs and outputs of a model. NotFoundError, UnavailableError as of `infer`."""
        predictor = self._predictor(name, version)
        inputs = [_described(spec.name, _TYPES[spec.kind], -1) for spec in predictor.encoding.specs]
        outputs = [_described(*one) for one in _outputs(predictor)]
        return {
            "name": name,
            "versions": [predictor.deployment],
            "platform": "holdfast",
            "inputs": inputs,
            "outputs": outputs,
        }

    def infer(
        self, name: str, version: str, request: InferRequest, caller: str | None = None, unit: str | None = None
    ) -> tuple[str, list[Tensor]]:
        """The deployment that answered, and its answers: that of the version or, without one, that of the `unit`.

        NotFoundError for a target, version or output that is not there, UnavailableError while it cannot answer,
        RequestError or AlignmentError for what does not fit, which names the row.
        """
        # Chosen once: what is checked here is what answers, also while models are swapped or on trial.
        predictor = self._predictor(name, version) if version else self._service.choose(name, unit)
        known = [output[0] for output in _outputs(predictor, explain=request.explain)]
        for wanted in request.outputs:
            if wanted not in known:
                raise NotFoundError(
                    f"there is no output {wanted[:80]!r}", where={"output": wanted}, hint=nearest(wanted[:80], known)
                )
        rows = _rows(predictor, request.tensors)
        reply = self._service.features(
            name, rows, explain=request.explain, strict=request.strict, caller=caller, unit=unit, by=predictor
        )
        made = {tensor.name: tensor for tensor in _answered(reply)}
        return predictor.deployment, [made[wanted] for wanted in request.outputs or made]

    def index(self, *, ready: bool = False) -> list[Plain]:
        """Every target that was ever deployed: what answers, READY, or UNAVAILABLE with the reason."""
        live = self._service.live
        found = {
            target: {"name": target, "version": predictor.deployment, "state": "READY", "reason": ""}
            for target, predictor in live.predictors.items()
        }
        deployments = live.sources.deployments
        for target in () if ready else {made.target for made in deployments.history()} - found.keys():
            state = {"state": "UNAVAILABLE", "reason": self._why_not(target)}
            found[target] = {"name": target, "version": deployments.last(target), **state}
        return [found[target] for target in sorted(found)]

    def load(self, name: str) -> None:
        """Let the target answer: what answered when it was unloaded, else its current deployment, tried again.

        Checked as every deployment is. Returns when this process answers; others follow within a second.
        """
        live = self._service.live
        resume(live.sources, name)
        self._follow(lambda: self.ready(name, live.sources.deployments.pointers().get(name, "")), name)

    def unload(self, name: str) -> None:
        """Let nothing answer for the target, on any server of the project, until it is loaded or deployed."""
        live = self._service.live
        live.sources.deployments.withdraw(name, why="unloaded")
        self._follow(lambda: not self.ready(name) or name in live.sources.deployments.pointers(), name)

    def _follow(self, done: Callable[[], bool], name: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > until:
                raise UnavailableError(
                    f"this process has not followed within {_PATIENCE:g} s: {self._why_not(name)}",
                    where={"model": name},
                    hint="See /v1/health.",
                )
            time.sleep(0.05)

    def _why_not(self, name: str) -> str:
        try:
            self._service.live.predictor(name)
        except UnavailableError as error:
            return reason(error)
        except NotFoundError:
            return "unloaded"
        return ""

    def _predictor(self, name: str, version: str) -> Predictor:
        predictor = self._service.live.predictor(name)
        if version and version != predictor.deployment:
            raise NotFoundError(
                f"version {version[:80]!r} of {name!r} does not answer",
                where={"model": name, "version": version},
                hint=f"What answers is {predictor.deployment}.",
            )
        return predictor


def _rows(predictor: Predictor, tensors: Sequence[Tensor]) -> list[dict[str, Scalar]]:
    """The tensors as rows of feature values."""
    if not tensors or not tensors[0].shape[0]:
        raise RequestError("there are no rows to predict", hint="The metadata of the model names its inputs.")
    names = predictor.encoding.names
    first = tensors[0]
    if len(tensors) == 1 and first.name == _MATRIX and predictor.encoding.name_of(_MATRIX) is None:
        width = first.shape[1] if len(first.shape) > 1 else 1
        if width != len(names):
            raise RequestError(
                f"the tensor {_MATRIX!r} has {width:,} columns; the model has {len(names):,} features",
                where={"tensor": _MATRIX},
            )
        check_size(first.shape[0], width)
        values = first.values
        starts = range(0, len(values), width)
        return [dict(zip(names, values[start : start + width], strict=True)) for start in starts]
    for tensor in tensors:
        if tensor.shape[1:] not in ((), (1,)):
            raise RequestError(
                f"the tensor {tensor.name[:80]!r} is [rows] or [rows, 1], not {list(tensor.shape)}",
                where={"tensor": tensor.name},
            )
    titles = [tensor.name for tensor in tensors]
    return [dict(zip(titles, row, strict=True)) for row in zip(*(tensor.values for tensor in tensors), strict=True)]


def _outputs(predictor: Predictor, *, explain: bool = False) -> list[tuple[str, str, int, int]]:
    """Name, type and shape of the outputs."""
    found: list[tuple[str, str, int, int]] = []
    for label, model in predictor.models.items():
        found.append((label, "FP64", -1, len(model.classes) if model.task == "multiclass" else 0))
        if model.task != "regression":
            found.append((f"{label}:decision", "BYTES" if model.task == "multiclass" else "BOOL", -1, 0))
    names = _others({name for name, *_ in found}, explain=explain)
    return [*found, *((name, "BYTES", -1, 0) for name in names)]


def _others(taken: set[str], *, explain: bool) -> list[str]:
    """The names of the outputs beside labels, with colons before them where a label is called the same."""
    names = []
    for name in ("prediction_id", "repairs", *(("explanation",) if explain else ())):
        free = name
        while free in taken:
            free = f":{free}"
        names.append(free)
    return names


def _described(name: str, datatype: str, rows: int, columns: int = 0) -> Plain:
    return {"name": name, "datatype": datatype, "shape": [rows, columns] if columns else [rows]}


def _answered(reply: Reply) -> list[Tensor]:
    """The answers as tensors; a label's parameters name its model version and, for multiclass, the classes."""
    answers: list[Answer] = reply["predictions"]
    count, tensors = len(answers), []
    for label in answers[0]["labels"]:
        tensors += _label_tensors(label, [answer["labels"][label] for answer in answers], count)
    explain = "explanation" in answers[0]
    others = _others({tensor.name for tensor in tensors}, explain=explain)
    texts: list[list[Scalar]] = [
        [answer["id"] for answer in answers],
        [_json(answer["repairs"]) for answer in answers],
    ]
    if explain:
        texts.append([_json(answer["explanation"]) for answer in answers])
    return tensors + [Tensor(name, "BYTES", (count,), values) for name, values in zip(others, texts, strict=True)]


def _label_tensors(label: str, found: Sequence[Mapping[str, Any]], count: int) -> list[Tensor]:
    parameters = {"version": found[0]["version"]}
    if "value" in found[0]:
        return [Tensor(label, "FP64", (count,), [one["value"] for one in found], parameters)]
    decisions: list[Scalar] = [one["decision"] for one in found]
    if "probability" in found[0]:
        return [
            Tensor(label, "FP64", (count,), [one["probability"] for one in found], parameters),
            Tensor(f"{label}:decision", "BOOL", (count,), decisions),
        ]
    classes = list(found[0]["probabilities"])
    shares = [share for one in found for share in one["probabilities"].values()]
    return [
        Tensor(label, "FP64", (count, len(classes)), shares, {**parameters, "classes": _json(classes)}),
        Tensor(f"{label}:decision", "BYTES", (count,), decisions),
    ]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def reason(error: HoldfastError) -> str:
    """The error as one line: what, where and what next."""
    place = ", ".join(f"{name} {value}" for name, value in error.where.items() if name != "problems")
    return error.message + (f" ({place})" if place else "") + (f". {error.hint}" if error.hint else "")
