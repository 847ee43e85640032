"""Tree ensembles as flat arrays, scored with the booster's own arithmetic.

XGBoost compares and adds in float32: a value is rounded to float32, goes left when it is smaller than the threshold,
right otherwise, to the default child when it is missing; the margin begins at the base score and takes the leaves in
the order of the trees. The kernel does exactly that, so margins are equal bit for bit; whoever publishes a model
proves it by replaying rows. Outputs use the same formulas as XGBoost's `Sigmoid` and `Softmax` (src/common/math.h).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from holdfast.errors import IntegrityError

__all__ = ["Forest", "compile_forest", "link_outputs"]

_LEAF = -1
_LINKS = {"binary:logistic": "logistic", "multi:softprob": "softmax", "reg:squarederror": "identity"}


@dataclass(frozen=True, slots=True)
class Forest:
    """An ensemble of binary trees in contiguous arrays, which may be memory-mapped and read-only.

    `nodes` int32 [nodes, 4]: feature (-1 for a leaf), the bits of the float32 threshold or leaf value, the left child
    (the right one follows it), the child of a missing value. `roots` and `groups` int32 [trees]: the first node of a
    tree and the output it adds to. `base` float32 [outputs]: margins before the first tree. `link` turns margins into
    outputs: identity, logistic or softmax.
    """

    nodes: npt.NDArray[np.int32]
    roots: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]
    base: npt.NDArray[np.float32]
    link: str

    def __post_init__(self) -> None:
        # One kernel for arrays of our own and for mapped files: numba compiles read-only arrays as another type.
        for array in (self.nodes, self.roots, self.groups, self.base):
            array.flags.writeable = False

    def check(self, features: int) -> None:
        """IntegrityError unless every walk ends inside the arrays; the kernel itself does not look."""
        nodes, count = self.nodes, len(self.nodes)
        inner = np.flatnonzero(nodes[:, 0] != _LEAF) if nodes.ndim == 2 and nodes.shape[1] == 4 else None
        sound = (
            inner is not None
            and len(self.roots) == len(self.groups)
            and _within(nodes[inner, 0], 0, features)
            and _within(nodes[inner, 2] - inner, 1, count)
            and _within(nodes[inner, 2], 0, count - 1)
            and bool(np.isin(nodes[inner, 3] - nodes[inner, 2], (0, 1)).all())
            and _within(self.roots, 0, count)
            and _within(self.groups, 0, len(self.base))
        )
        if not sound:
            raise IntegrityError("the arrays of the forest do not form trees")

    def margins(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Margins float32 [rows, outputs] of a float64 [rows, features] matrix (NaN = missing)."""
        margins: npt.NDArray[np.float32] = _margins(
            self.nodes, self.nodes.view(np.float32), self.roots, self.groups, self.base, _rows(matrix)
        )
        return margins

    def predict(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Probabilities of the positive class or numbers [rows]; for softmax, probabilities [rows, classes]."""
        return link_outputs(self.margins(matrix), self.link)


def _within(values: npt.NDArray[Any], low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())


def link_outputs(margins: npt.NDArray[np.float32], link: str) -> npt.NDArray[np.float64]:
    """Outputs of float32 [rows, outputs] margins, in float32 as XGBoost computes them, then widened."""
    kernel = {"softmax": _softmax, "logistic": _logistic}.get(link)
    outputs: npt.NDArray[np.float64] = kernel(margins) if kernel else margins[:, 0].astype(np.float64)
    return outputs


def _rows(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rows = np.ascontiguousarray(matrix, np.float64).view()
    rows.flags.writeable = False
    return rows


def compile_forest(model: bytes) -> Forest | None:
    """The forest of a booster saved as XGBoost JSON; None when it uses what the kernel does not know.

    That is: another objective or booster than those Holdfast trains, categorical splits, vector leaves.
    """
    learner = json.loads(model)["learner"]
    link = _LINKS.get(learner["objective"]["name"])
    booster = learner["gradient_booster"]
    if link is None or booster.get("name") != "gbtree":
        return None
    trees = booster["model"]["trees"]
    if any(any(tree["split_type"]) or tree["tree_param"]["size_leaf_vector"] not in ("0", "1") for tree in trees):
        return None
    tables, roots, start = [], [], 0
    for tree in trees:
        table = _flatten(tree, start)
        tables.append(table)
        roots.append(start)
        start += len(table)
    groups = np.array(booster["model"]["tree_info"], np.int32)
    parameters = learner["learner_model_param"]
    outputs = max(1, int(parameters["num_class"]))
    return Forest(
        nodes=np.concatenate(tables) if tables else np.empty((0, 4), np.int32),
        roots=np.array(roots, np.int32),
        groups=groups,
        base=_base_margins(parameters, link, outputs),
        link=link,
    )


def _flatten(tree: Mapping[str, Any], start: int) -> npt.NDArray[np.int32]:
    """Nodes of one tree in breadth-first order with siblings adjacent; pruned nodes are left out."""
    left, right = tree["left_children"], tree["right_children"]
    values = np.array(tree["split_conditions"], np.float32).view(np.int32)
    order = [0]
    table = []
    for node in order:
        if left[node] == -1:
            table.append((_LEAF, values[node], 0, 0))
            continue
        child = start + len(order)
        order += [left[node], right[node]]
        missing = child if tree["default_left"][node] else child + 1
        table.append((tree["split_indices"][node], values[node], child, missing))
    return np.array(table, np.int32).reshape(-1, 4)


def _base_margins(parameters: Mapping[str, str], link: str, outputs: int) -> npt.NDArray[np.float32]:
    text = parameters["base_score"]
    scores = np.array(json.loads(text) if text.startswith("[") else [float(text)], np.float32)
    if link == "logistic":
        scores = np.array([_logit(score) for score in scores], np.float32)
    return np.broadcast_to(scores, (outputs,)).copy()


@numba.njit(cache=True)
def _logit(score: np.float32) -> np.float32:
    one = np.float32(1)
    return -np.float32(math.log(one / score - one))


@numba.njit(cache=True, nogil=True)
def _margins(nodes, values, roots, groups, base, matrix):  # type: ignore[no-untyped-def] # noqa: PLR0917
    # Unsigned places (no index counts from the end) and steps that are written out: as a function, or signed, a step
    # takes several times as long.
    u = np.uint32
    rows, features = matrix.shape
    trees = len(roots)
    out = np.empty((rows, len(base)), np.float32)
    row = np.empty(features, np.float32)
    for i in range(rows):
        for j in range(features):
            row[j] = np.float32(matrix[i, j])
        for k in range(len(base)):
            out[i, k] = base[k]
        # Four trees at once: a walk waits for memory at every step, four of them wait together. The leaves are added
        # in the order of the trees all the same.
        for tree in range(0, trees - 3, 4):
            a, b, c, d = u(roots[tree]), u(roots[tree + 1]), u(roots[tree + 2]), u(roots[tree + 3])
            while True:
                fa, fb, fc, fd = nodes[a, 0], nodes[b, 0], nodes[c, 0], nodes[d, 0]
                if (fa & fb & fc & fd) < 0:  # all four are at leaves, whose feature is negative
                    break
                if fa >= 0:
                    value = row[u(fa)]
                    after = u(nodes[a, 2]) + u(not (value < values[a, 1]))
                    a = u(nodes[a, 3]) if np.isnan(value) else after
                if fb >= 0:
                    value = row[u(fb)]
                    after = u(nodes[b, 2]) + u(not (value < values[b, 1]))
                    b = u(nodes[b, 3]) if np.isnan(value) else after
                if fc >= 0:
                    value = row[u(fc)]
                    after = u(nodes[c, 2]) + u(not (value < values[c, 1]))
                    c = u(nodes[c, 3]) if np.isnan(value) else after
                if fd >= 0:
                    value = row[u(fd)]
                    after = u(nodes[d, 2]) + u(not (value < values[d, 1]))
                    d = u(nodes[d, 3]) if np.isnan(value) else after
            out[i, groups[tree]] += values[a, 1]
            out[i, groups[tree + 1]] += values[b, 1]
            out[i, groups[tree + 2]] += values[c, 1]
            out[i, groups[tree + 3]] += values[d, 1]
        for tree in range(trees - trees % 4, trees):
            a = u(roots[tree])
            while nodes[a, 0] >= 0:
                value = row[u(nodes[a, 0])]
                after = u(nodes[a, 2]) + u(not (value < values[a, 1]))
                a = u(nodes[a, 3]) if np.isnan(value) else after
            out[i, groups[tree]] += values[a, 1]
    return out


@numba.njit(cache=True, nogil=True)
def _logistic(margins):  # type: ignore[no-untyped-def]
    out = np.empty(len(margins), np.float64)
    one = np.float32(1)
    for i in range(len(margins)):
        # XGBoost bounds the exponent so that the sum stays finite, and adds a float32 epsilon to it.
        power = np.float32(min(-margins[i, 0], np.float32(88.7)))
        out[i] = one / (np.float32(math.exp(power)) + one + np.float32(1e-16))
    return out


@numba.njit(cache=True, nogil=True)
def _softmax(margins):  # type: ignore[no-untyped-def]
    rows, outputs = margins.shape
    out = np.empty((rows, outputs), np.float64)
    powers = np.empty(outputs, np.float32)
    for i in range(rows):
        top = margins[i, 0]
        for k in range(1, outputs):
            top = max(top, margins[i, k])
        total = 0.0
        for k in range(outputs):
            powers[k] = np.float32(math.exp(np.float32(margins[i, k] - top)))
            total += powers[k]
        for k in range(outputs):
            out[i, k] = powers[k] / np.float32(total)
    return out
