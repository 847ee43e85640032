"""Fitted selection and transforms as plain data: what lies between aligned features and the model, and its replay.

A step makes columns; each is one operation on columns of the step before:

keep          the column itself
yeo_johnson   numbers (lambda, mean, scale): the power transform of Yeo & Johnson (2000, doi:10.1093/biomet/87.4.954)
box_cox       the same numbers, of Box & Cox (1964); values <= 0 are null
equals        numbers (value): 1 where the column has that value, else 0
ordinal,      numbers for the values in `keys` (ascending), the last one for every other value and for null
target
product       of two columns
ratio         of two columns; null where the second is 0

Null is NaN, and stays NaN unless said otherwise. The results are those of float64 elementwise arithmetic on contiguous
columns, so that one row and many rows give the same bits. Selection is a step of `keep` alone; `prune` then removes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.features.encoding import FeatureSpec

__all__ = ["LARGEST", "Op", "Steps", "apply_ops"]

LARGEST = float(np.finfo(np.float32).max)
"""What the booster can take: larger numbers become this one, before and after each step."""
_LOOKUPS = ("ordinal", "target")
_WORDS = {
    "yeo_johnson": "{} (Yeo-Johnson)",
    "box_cox": "{} (Box-Cox)",
    "ordinal": "the rank of {}",
    "target": "the label's average for {}",
    "product": "{} times {}",
    "ratio": "{} divided by {}",
}
_NAMES = {
    "keep": "{}", "yeo_johnson": "YEO_JOHNSON({})", "box_cox": "BOX_COX({})", "ordinal": "ORDINAL({})",
    "target": "TARGET({})", "product": "{} × {}", "ratio": "{} / {}",
}  # fmt: skip

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Op:
    """One column of a step; `of` are places in the step before. See the head of this module for the kinds.

    `word` is what the value is called in the column's name: the category of `equals`, the class of `target`.
    """

    kind: str
    of: tuple[int, ...]
    numbers: tuple[float, ...] = ()
    keys: tuple[float, ...] = ()
    word: str = ""

    def name(self, names: Sequence[str]) -> str:
        """The name of the column, from the names of the step before."""
        inner = [names[place] for place in self.of]
        if self.kind == "equals":
            return f"{inner[0]} = {self.word or format(self.numbers[0], 'g')}"
        if self.kind == "target" and self.word:
            return f"TARGET({inner[0]}, {self.word})"
        return _NAMES[self.kind].format(*inner)

    def describe(self, words: Sequence[str]) -> str:
        """The column in words, from the words of the step before."""
        inner = [words[place] for place in self.of]
        if self.kind == "equals":
            return f"whether {inner[0]} is {self.word or format(self.numbers[0], 'g')}"
        if self.kind == "target" and self.word:
            return f"the share of {self.word} for {inner[0]}"
        return _WORDS.get(self.kind, "{}").format(*inner)

    def apply(self, matrix: Floats) -> Floats:
        """The column, float64 [n], from the columns of the step before, [n, columns]."""
        first = np.ascontiguousarray(matrix[:, self.of[0]])
        with np.errstate(all="ignore"):
            if self.kind in ("yeo_johnson", "box_cox"):
                power, mean, scale = self.numbers
                return ((_yeo_johnson if self.kind == "yeo_johnson" else _box_cox)(first, power) - mean) / scale
            if self.kind == "equals":
                return np.asarray(first == self.numbers[0], np.float64)
            if self.kind in _LOOKUPS:
                return self._look_up(first)
            if self.kind == "keep":
                return first
            second = np.ascontiguousarray(matrix[:, self.of[1]])
            return first * second if self.kind == "product" else first / np.where(second == 0, np.nan, second)

    def _look_up(self, values: Floats) -> Floats:
        keys, numbers = np.array(self.keys), np.array(self.numbers)
        places = np.searchsorted(keys, values)
        found = np.zeros(len(values), np.bool_)
        inside = places < len(keys)
        found[inside] = keys[places[inside]] == values[inside]
        return np.asarray(numbers[np.where(found, places, len(keys))])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`; NaN is None, so that it is JSON."""
        data: dict[str, Any] = {"kind": self.kind, "of": list(self.of)}
        if self.numbers:
            data["numbers"] = [None if np.isnan(number) else number for number in self.numbers]
        if self.keys:
            data["keys"] = list(self.keys)
        return data | ({"word": self.word} if self.word else {})

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Op":
        """The inverse of `to_dict`."""
        numbers = tuple(np.nan if number is None else float(number) for number in data.get("numbers", ()))
        return Op(
            data["kind"], tuple(data["of"]), numbers, tuple(map(float, data.get("keys", ()))), data.get("word", "")
        )


@dataclass(frozen=True)
class Steps:
    """Steps from aligned features to what the model sees.

    `inputs` names the features; each stage makes columns of those before; `outputs` says what the model sees, with the
    statistics of the training rows.
    """

    inputs: tuple[str, ...]
    stages: tuple[tuple[Op, ...], ...]
    outputs: tuple[FeatureSpec, ...]

    def apply(self, matrix: Floats) -> Floats:
        """What the model sees, float64 [n, outputs], of encoded rows [n, inputs]. Safe in any number of threads."""
        if not self.stages:
            return matrix
        matrix = np.clip(matrix, -LARGEST, LARGEST)
        for stage in self.stages:
            matrix = np.clip(apply_ops(stage, matrix), -LARGEST, LARGEST)
        return matrix

    @cached_property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """Of each output the inputs that it is made of, ascending."""
        sources = [frozenset({place}) for place in range(len(self.inputs))]
        for stage in self.stages:
            sources = [frozenset().union(*(sources[place] for place in op.of)) for op in stage]
        return tuple(tuple(sorted(found)) for found in sources)

    def prune(self) -> tuple["Steps", list[int]]:
        """Steps that compute only what the outputs need, and the places of the inputs that they need, ascending.

        The outputs are the same, bit for bit. Steps that only keep columns vanish.
        """
        needed: list[int] = list(range(len(self.outputs)))
        stages: list[tuple[Op, ...]] = []
        for number in range(len(self.stages) - 1, -1, -1):
            ops = [self.stages[number][place] for place in needed]
            needed = sorted({place for op in ops for place in op.of})
            moved = {place: new for new, place in enumerate(needed)}
            placed = tuple(
                Op(op.kind, tuple(moved[place] for place in op.of), op.numbers, op.keys, op.word) for op in ops
            )
            if any(op.kind != "keep" or op.of != (place,) for place, op in enumerate(placed)):
                stages.insert(0, placed)
        return Steps(tuple(self.inputs[place] for place in needed), tuple(stages), self.outputs), needed

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "inputs": list(self.inputs),
            "stages": [[op.to_dict() for op in stage] for stage in self.stages],
            "outputs": [spec.to_dict() for spec in self.outputs],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Steps":
        """The inverse of `to_dict`."""
        return Steps(
            tuple(data["inputs"]),
            tuple(tuple(Op.from_dict(op) for op in stage) for stage in data["stages"]),
            tuple(FeatureSpec.from_dict(spec) for spec in data["outputs"]),
        )


def apply_ops(ops: Sequence[Op], matrix: Floats) -> Floats:
    """The columns of one step, float64 [n, ops], from those before, [n, columns]."""
    made = np.empty((len(matrix), len(ops)))
    kept = [place for place, op in enumerate(ops) if op.kind == "keep"]
    made[:, kept] = matrix[:, [ops[place].of[0] for place in kept]]
    for place, op in enumerate(ops):
        if op.kind != "keep":
            made[:, place] = op.apply(matrix)
    return made


def _yeo_johnson(values: Floats, power: float) -> Floats:
    positive, negative = np.maximum(values, 0.0), np.minimum(values, 0.0)
    above = np.log1p(positive) if power == 0 else np.expm1(power * np.log1p(positive)) / power
    other = 2.0 - power
    below = np.log1p(-negative) if other == 0 else np.expm1(other * np.log1p(-negative)) / other
    return np.asarray(np.where(values >= 0, above, -below) + (values - values), np.float64)


def _box_cox(values: Floats, power: float) -> Floats:
    logs = np.log(np.where(values > 0, values, np.nan))
    return np.asarray(logs if power == 0 else np.expm1(power * logs) / power, np.float64)
