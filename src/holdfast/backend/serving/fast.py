"""From the bytes of a request to the bytes of its answer, with everything decided when the predictor was loaded.

What can be taken this way is rows of feature values, few of them, of a deployment whose labels share one encoding,
without explanation; nearly all requests are. Rows of several requests are scored together. The answer is the one that
`Predictor.predict_features` gives, written as JSON by pieces that were made before; tests hold the two against each
other. Whatever is not taken (`take` says None) goes the general way, which also says what is wrong with it.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from holdfast.core.learn.serving import ServedModel

if TYPE_CHECKING:
    from holdfast.backend.serving.predictor import Predictor

__all__ = ["MAX_ROWS", "Answered", "FastPath", "Taken"]

MAX_ROWS = 16
"""Rows of one request that are scored on the event loop."""
_encode = msgspec.json.Encoder().encode
_ROW = b'{"id":"%b","labels":{%b},"repairs":%b}'
"""An answer of one row: its id, its labels, its repairs."""


class Taken(msgspec.Struct, gc=False):
    """The rows of one request: as decoded, as numbers, and the repairs as JSON where there were any."""

    rows: Sequence[Any]
    numbers: list[bytes]
    repairs: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Answered:
    """The millisecond that the ids name, the answers as JSON, and the outputs of each label, to be counted."""

    instant: int
    answers: list[bytes]
    outputs: dict[str, list[float]]


class FastPath:
    """The fast way through one predictor. Immutable; safe in any number of threads."""

    def __init__(self, predictor: "Predictor") -> None:
        """For a predictor whose labels share one encoding."""
        self._predictor = predictor
        self._encoding = predictor.encoding
        self._compiled = predictor.encoding.compiled(predictor.known)
        row = self._compiled.row
        one_or_many: Any = row | types.GenericAlias(list, (row,))
        fields: list[Any] = [("features", one_or_many), ("strict", bool | msgspec.UnsetType, msgspec.UNSET),
                             ("explain", bool, False)]  # fmt: skip
        body = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, gc=False)
        self._decode = msgspec.json.Decoder(body).decode
        self._labels = [_Label(label, model, last=label == [*predictor.models][-1])
                        for label, model in predictor.models.items()]  # fmt: skip
        self._head = (
            _encode({"target": predictor.target, "deployment": predictor.deployment})[:-1] + b',"predictions":['
        )
        self._alone = self._head.replace(b"%", b"%%") + _ROW + b"]}"

    def take(self, body: bytes, strict: bool) -> Taken | None:
        """The rows in a body; None when they have to go the general way. `strict` holds where the body does not say."""
        try:
            given: Any = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        features = given.features
        rows = features if type(features) is list else (features,)
        if given.explain or not 0 < len(rows) <= MAX_ROWS:
            return None
        if given.strict is not msgspec.UNSET:
            strict = given.strict
        taken = Taken(rows, [], [None] * len(rows))
        for place, row in enumerate(rows):
            numbers = self._compiled.numbers(row)
            if numbers is None:
                if strict:
                    return None
                numbers = self._repair(taken, place)
            taken.numbers.append(numbers)
        if strict and self._compiled.outside(self._compiled.matrix(taken.numbers)).any():
            return None
        return taken

    def answer(self, batch: Sequence[Taken]) -> "Answered":
        """The answers to the requests."""
        matrix = self._compiled.matrix([numbers for taken in batch for numbers in taken.numbers])
        outside = self._compiled.outside(matrix).tolist()
        if True in outside:
            self._tell(batch, outside)
        outputs: dict[str, list[float]] = {}
        parts = [label.write(matrix, outputs) for label in self._labels]
        labels = parts[0] if len(parts) == 1 else [b"".join(row) for row in zip(*parts, strict=True)]
        instant, identities = self._predictor.identities(len(matrix))
        repaired = [repairs for taken in batch for repairs in taken.repairs]
        parts_of = zip(identities, labels, repaired, strict=True)
        if len(matrix) == len(batch):
            alone = self._alone
            return Answered(instant, [alone % (one, label, told or b"[]") for one, label, told in parts_of], outputs)
        rest = iter([_ROW % (one, label, told or b"[]") for one, label, told in parts_of])
        joined = [b",".join(islice(rest, len(taken.repairs))) for taken in batch]
        return Answered(instant, [b"%b%b]}" % (self._head, some) for some in joined], outputs)

    def _tell(self, batch: Sequence[Taken], outside: Sequence[bool]) -> None:
        """Find the words for the rows with values outside the training range."""
        start = 0
        for taken in batch:
            for place, repairs in enumerate(taken.repairs):
                if outside[start + place] and repairs is None:
                    self._repair(taken, place)
            start += len(taken.repairs)

    def _repair(self, taken: Taken, place: int) -> bytes:
        row = self._compiled.plain(taken.rows[place])
        aligned = self._encoding.align([row], known=self._predictor.known)
        taken.repairs[place] = _encode([repair.plain() for repair in aligned.repairs[0]])
        return aligned.matrix.tobytes()


class _Label:
    """One label's part of every answer."""

    def __init__(self, label: str, model: ServedModel, *, last: bool) -> None:
        self._label = label
        self._model = model
        end = b"" if last else b","
        self._key = _encode(label) + b":{"
        version = b',"version":' + _encode(model.version) + b"}" + end
        self._end = version
        threshold = b',"threshold":' + _encode(model.threshold) + version
        before, after = self._key.replace(b"%", b"%%") + b'"probability":%b,"decision":', threshold.replace(b"%", b"%%")
        self._decided = (before + b"false" + after, before + b"true" + after)
        self._classes = [_encode(name) for name in model.classes]

    def write(self, matrix: npt.NDArray[np.float64], counted: dict[str, list[float]]) -> list[bytes]:
        """The part of each row; puts what is to be counted of the outputs into `counted`."""
        outputs = self._model.predict(matrix)
        decisions: list[Any] = self._model.decide(outputs).tolist()
        if self._model.task == "multiclass":
            counted[self._label] = decisions
            return self._shares(outputs, decisions)
        values = counted[self._label] = outputs.tolist()
        # One call writes all numbers, the way every other answer writes them.
        numbers = _encode(values)[1:-1].split(b",")
        if self._model.task == "regression":
            return [b'%b"value":%b%b' % (self._key, number, self._end) for number in numbers]
        decided = self._decided
        return [decided[decision] % number for number, decision in zip(numbers, decisions, strict=True)]

    def _shares(self, outputs: npt.NDArray[np.float64], decisions: Sequence[int]) -> list[bytes]:
        names = self._model.classes
        return [
            b'%b"probabilities":%b,"decision":%b%b'
            % (self._key, _encode(dict(zip(names, shares, strict=True))), self._classes[decision], self._end)
            for shares, decision in zip(outputs.tolist(), decisions, strict=True)
        ]
