"""What the splits of an ensemble say about features: importance and pairs that act together."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["cross_weights", "feature_importance"]

_MOST_PAIRS = 200


def feature_importance(model: bytes, names: Sequence[str]) -> dict[str, float]:
    """The share of each feature in the loss that all splits removed (total gain); sums to 1.

    `model` is XGBoost JSON. Without a single split no feature is better than another, and all shares are equal.
    """
    gains = [0.0] * len(names)
    for tree in _trees(model):
        for node, left in enumerate(tree["left_children"]):
            if left != -1:
                gains[tree["split_indices"][node]] += tree["loss_changes"][node]
    total = sum(gains)
    if total <= 0:
        return dict.fromkeys(names, 1 / len(names)) if names else {}
    return {name: gain / total for name, gain in zip(names, gains, strict=True)}


def cross_weights(model: bytes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of features by the gain of splits on one below a split on the other, strongest first, at most 200.

    A split below another feature's is one that pays only, or more, in a part of that feature's range. Weights are
    shares of the total gain. This is the pair statistic of Xgbfi and of EIX (Karbowiak & Biecek 2020) over whole paths.
    """
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    total = 0.0
    for tree in _trees(model):
        total += _collect(tree, pairs)
    strongest = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PAIRS]
    return [{"features": [names[a], names[b]], "weight": gain / total} for (a, b), gain in strongest if gain > 0]


def _collect(tree: Mapping[str, Any], pairs: dict[tuple[int, int], float]) -> float:
    total = 0.0
    stack: list[tuple[int, frozenset[int]]] = [(0, frozenset())]
    while stack:
        node, above = stack.pop()
        if tree["left_children"][node] == -1:
            continue
        feature, gain = tree["split_indices"][node], tree["loss_changes"][node]
        total += gain
        for other in above - {feature}:
            pairs[min(feature, other), max(feature, other)] += gain
        below = above | {feature}
        stack += [(tree["left_children"][node], below), (tree["right_children"][node], below)]
    return total


def _trees(model: bytes) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]
    return trees
