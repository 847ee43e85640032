"""The serving bundle: one file, no pickle, that holds everything a server needs of one model version.

Layout: the magic `HOLDFAST-BUNDLE1`, the length of the header (uint64, little endian), the header (UTF-8 JSON), padding
to 64 bytes, then the arrays, little endian, each at a multiple of 64. The header is
`{"meta": {...}, "arrays": {name: {"dtype", "shape", "offset"}}}`; offsets count from the first array.

meta    target, label, model, version, task, threshold, classes, encoding (Encoding.to_dict()), feature_set (hash),
        link, engine (`forest`: the kernel was proven equal; `booster`: it was not), steps (Steps.to_dict(): what lies
        between the encoded features and the model; absent where nothing does)
arrays  nodes, roots, groups, base (the forest; absent for engine `booster`), booster (uint8: the model as UBJ),
        golden_rows float64 [g, features] as encoded, golden_margins float32 [g, outputs],
        golden_outputs float64 [g(, classes)]

`ServedModel(buffer)` reads it from any buffer, such as a memory-mapped file, without copying the arrays.
"""

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.explore.steps import Steps
from holdfast.core.features.encoding import Encoding, FeatureSpec
from holdfast.errors import AlignmentError, IntegrityError

__all__ = ["MAGIC", "ServedModel", "pack", "unpack"]

MAGIC = b"HOLDFAST-BUNDLE1"
_ALIGN = 64
_DTYPES = {"int32": "<i4", "float32": "<f4", "float64": "<f8", "uint8": "|u1"}
_FOREST = ("nodes", "roots", "groups", "base")
_GOLDEN = ("golden_rows", "golden_margins", "golden_outputs")
_FIELDS = ("target", "label", "model", "version", "task", "threshold", "classes", "encoding", "feature_set", "link",
           "engine")  # fmt: skip


def pack(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A bundle as bytes; equal input gives equal bytes."""
    directory, body, offset = {}, [], 0
    for name, array in sorted(arrays.items()):
        data = np.ascontiguousarray(array, _DTYPES[array.dtype.name]).tobytes()
        directory[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        padding = -len(data) % _ALIGN
        body += [data, bytes(padding)]
        offset += len(data) + padding
    header = json.dumps({"meta": meta, "arrays": directory}, ensure_ascii=False, sort_keys=True).encode()
    start = len(MAGIC) + 8 + len(header)
    return b"".join([MAGIC, len(header).to_bytes(8, "little"), header, bytes(-start % _ALIGN), *body])


def unpack(buffer: memoryview | bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Meta and arrays (read-only views) of a bundle. IntegrityError when it is none, or is cut short."""
    view = memoryview(buffer).cast("B")
    head = len(MAGIC) + 8
    if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < head:
        raise IntegrityError("this is not a serving bundle: its first bytes are others")
    end = head + int.from_bytes(view[len(MAGIC) : head], "little")
    if end > len(view):
        raise IntegrityError(f"the serving bundle is cut short: {len(view)} bytes, the header alone takes {end}")
    try:
        header = json.loads(bytes(view[head:end]))
        start = end + -end % _ALIGN
        arrays = {name: _array(view, start, name, entry) for name, entry in header["arrays"].items()}
        return dict(header["meta"]), arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the header of the serving bundle cannot be read: {error!r}") from error


def _array(view: memoryview, start: int, name: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    shape = [int(length) for length in entry["shape"]]
    begin = start + int(entry["offset"])
    count = math.prod(shape)
    if min([0, begin, *shape]) < 0 or begin + count * dtype.itemsize > len(view):
        raise IntegrityError(f"the serving bundle is cut short: array {name!r} ends beyond its {len(view)} bytes")
    array = np.frombuffer(view, dtype, count, begin).reshape(shape)
    array.flags.writeable = False
    return array


class ServedModel:
    """One model version, ready to answer. Immutable; safe in any number of threads.

    Attributes: target, label, model (`<target>/<label>`), version, task (multilabel, binary, multiclass, regression),
    threshold (None where the task has none), classes, encoding (of the features that are asked for), feature_set
    (hash), engine, steps (from encoded features to what the booster sees; None where that is the same), names (what the
    booster sees, in order), shown (what explanations are about).
    """

    def __init__(self, buffer: memoryview | bytes) -> None:
        """Read a bundle. IntegrityError when it is damaged or incomplete; call `verify` before it answers."""
        meta, self._arrays = unpack(buffer)
        absent = [name for name in _FIELDS if name not in meta]
        wanted = ["booster", *_GOLDEN, *(_FOREST if meta.get("engine") == "forest" else ())]
        absent += [name for name in wanted if name not in self._arrays]
        if absent:
            raise IntegrityError(f"the serving bundle lacks {', '.join(absent)}", where={"field": absent[0]})
        self.target: str = meta["target"]
        self.label: str = meta["label"]
        self.model: str = meta["model"]
        self.version: str = meta["version"]
        self.task: str = meta["task"]
        self.threshold: float | None = meta["threshold"]
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.feature_set: str = meta["feature_set"]
        self.engine: str = meta["engine"]
        self.encoding = Encoding.from_dict(meta["encoding"])
        self.steps = Steps.from_dict(meta["steps"]) if meta.get("steps") else None
        if self.steps is not None and self.steps.inputs != self.encoding.names:
            raise IntegrityError("the steps of the serving bundle are about other features", where={"field": "steps"})
        self.names = tuple(spec.name for spec in self.steps.outputs) if self.steps else self.encoding.names
        self._shown_places = self._places_shown()
        self._link: str = meta["link"]
        self._forest = self._open_forest() if self.engine == "forest" else None

    def _open_forest(self) -> Any:
        from holdfast.core.learn.forest import Forest

        nodes, roots, groups, base = (self._arrays[name] for name in _FOREST)
        forest = Forest(nodes, roots, groups, base, self._link)
        forest.check(len(self.names))
        return forest

    @cached_property
    def _booster(self) -> Any:
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(self._arrays["booster"].tobytes()))
        return booster

    def predict(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Outputs of encoded rows, float64 [rows, features] → [rows], or [rows, classes] for multiclass.

        The probability of the label, or the predicted number. AlignmentError when the width is another.
        """
        matrix = self._inputs(matrix)
        if self._forest is not None:
            outputs: npt.NDArray[np.float64] = self._forest.predict(matrix)
            return outputs
        answer = self._booster.inplace_predict(_float32(matrix), validate_features=False)
        return np.asarray(answer, np.float64)

    def decide(self, outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
        """Decisions of outputs: 0/1 by the threshold, the index of the likeliest class, or the number itself."""
        if self.task == "multiclass":
            return np.asarray(outputs.argmax(axis=1), np.int64)
        return outputs if self.threshold is None else np.asarray(outputs >= self.threshold, np.int64)

    def counted(self, answer: Mapping[str, Any]) -> float:
        """The number of an answer that statistics are about: probability, predicted number, or place of the class."""
        if self.task == "multiclass":
            return self.classes.index(answer["decision"])
        return float(answer["value" if self.task == "regression" else "probability"])

    def explain(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """SHAP values of encoded rows in margin units, [rows, shown + 1], the last column being the base value.

        For multiclass [rows, classes, shown + 1]. A row sums to its margin (log-odds for probabilities). Exact tree
        SHAP by the booster (Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9); what several columns of the booster
        say of one feature is added up (see `shown`). Imports xgboost at the first call.
        """
        matrix = self._inputs(matrix)
        import xgboost

        data = xgboost.DMatrix(_float32(matrix))
        values = np.asarray(self._booster.predict(data, pred_contribs=True, validate_features=False), np.float64)
        if self.steps is None or not self.steps.stages:
            return values
        folded = np.zeros((*values.shape[:-1], len(self.shown) + 1))
        for place, shown in enumerate(self._shown_places):
            folded[..., shown] += values[..., place]
        folded[..., -1] = values[..., -1]
        return folded

    @property
    def shown(self) -> tuple[FeatureSpec, ...]:
        """What explanations are about: the features asked for, then the columns that are made of several of them."""
        made = self.steps.outputs if self.steps else ()
        return (*self.encoding.specs, *(made[place] for place in self._joint))

    def shown_values(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The values of `shown` of encoded rows, [rows, shown]."""
        return np.hstack([matrix, self._inputs(matrix)[:, self._joint]]) if self._joint else matrix

    @cached_property
    def _joint(self) -> list[int]:
        """The columns of the booster that are made of several features."""
        sources = self.steps.sources if self.steps else ()
        return [place for place, source in enumerate(sources) if len(source) > 1]

    def _places_shown(self) -> list[int]:
        """Of each column of the booster its place in `shown`."""
        if self.steps is None:
            return list(range(len(self.names)))
        joint = {place: len(self.encoding.specs) + number for number, place in enumerate(self._joint)}
        return [joint.get(place, source[0]) for place, source in enumerate(self.steps.sources)]

    def verify(self) -> None:
        """Replay the golden rows; IntegrityError when an answer is not the recorded one.

        Margins must be equal bit for bit; outputs may differ by the last bits of this machine's `exp`.
        """
        rows = self._arrays["golden_rows"]
        if self._forest is not None:
            margins = self._forest.margins(self._inputs(rows))
            if margins.tobytes() != self._arrays["golden_margins"].tobytes():
                raise IntegrityError(f"model {self.model} {self.version} does not give the margins recorded for it")
        if not np.allclose(self.predict(rows), self._arrays["golden_outputs"], rtol=1e-5, atol=1e-7):
            raise IntegrityError(f"model {self.model} {self.version} does not give the answers recorded for it")

    @property
    def golden_rows(self) -> npt.NDArray[np.float64]:
        """The encoded rows kept for verification, float64 [g, features]."""
        return self._arrays["golden_rows"]

    def _inputs(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What the booster sees of encoded rows. AlignmentError when the width is another."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.encoding.names):
            raise AlignmentError(
                f"model {self.model} takes rows of {len(self.encoding.names)} features, not an array of shape"
                f" {matrix.shape}"
            )
        return matrix if self.steps is None else self.steps.apply(matrix)


def _float32(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The matrix as the booster takes it: numbers beyond float32 become its largest, which sorts the same way."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(matrix, -largest, largest).astype(np.float32)
