"""The rules of a project file for transforms and selection, fitted on training rows and turned into `Steps`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.explore.steps import LARGEST, Op, Steps
from holdfast.core.features.alignment import UNKNOWN, FeatureSpec
from holdfast.core.names import matching
from holdfast.errors import ConfigError, InputError, nearest

__all__ = ["FittedSteps", "Rule", "fit_steps"]

Floats = npt.NDArray[np.float64]
_KINDS = {
    "yeo_johnson": ("number",), "box_cox": ("number",), "interactions": ("number",),
    "one_hot": ("category",), "ordinal": ("category",), "target": ("category",),
}  # fmt: skip
"""What each transform is applied to; the other methods are selection."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `features.transforms` or `features.selection`: its `key` for errors, method, and options given.

    `features` are patterns of names (empty: all that the method suits).
    """

    key: str
    method: str
    features: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedSteps:
    """`steps` from all features to what the model sees; `matrix`, the training rows as the model should see them in
    fitting (differs from `steps.apply` for target encoding, which is out of fold here); `dropped`: name → why.
    """

    steps: Steps
    matrix: Floats
    dropped: Mapping[str, str]


@dataclass
class _State:
    """The columns so far: what each is called, says and is, and the training rows."""

    specs: list[FeatureSpec]
    matrix: Floats

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]


def fit_steps(
    rules: Sequence[Rule],
    specs: Sequence[FeatureSpec],
    matrix: Floats,
    truth: Floats,
    *,
    task: str,
    classes: Sequence[str] = (),
    seed: int = 42,
) -> FittedSteps:
    """Fit the rules in their order on encoded training rows, float64 [n, features], and their labels [n] (no NaN).

    ConfigError for a rule that names no feature or one it does not suit; InputError when nothing is left.
    """
    state = _State(list(specs), np.clip(matrix, -LARGEST, LARGEST))
    stages: list[tuple[Op, ...]] = []
    dropped: dict[str, str] = {}
    for rule in rules:
        try:
            estimator = _estimator(rule, state, task, classes, seed)
            if rule.method in _KINDS:
                made = np.asarray(estimator.fit_transform(state.matrix, truth), np.float64)
                ops = list(estimator.ops_)
            else:
                ops = [
                    Op("keep", (place,)) for place in _kept(rule, state, estimator.fit(state.matrix, truth), dropped)
                ]
                made = state.matrix[:, [op.of[0] for op in ops]]
        except ValueError as error:
            raise InputError(
                f"{rule.method} cannot be fitted on the training rows: {error}", where={"key": rule.key}
            ) from error
        state = _next(state, ops, np.clip(made, -LARGEST, LARGEST))
        stages.append(tuple(ops))
    steps = Steps(tuple(spec.name for spec in specs), tuple(stages), tuple(state.specs))
    return FittedSteps(steps, state.matrix, dropped)


def _kept(rule: Rule, state: _State, selector: Any, dropped: dict[str, str]) -> list[int]:
    """The places that a fitted selector keeps; the others are noted in `dropped` with the reason."""
    kept: list[int] = np.flatnonzero(selector.get_support()).tolist()
    if not kept:
        raise InputError(
            f"{rule.method} drops every feature that is left",
            where={"key": rule.key},
            hint="Loosen the rule, or leave it out.",
        )
    for place, reason in sorted(selector.reasons_.items()):
        dropped[state.names[place]] = f"{rule.method}: {reason}"
    return kept


def _next(state: _State, ops: Sequence[Op], made: Floats) -> _State:
    words = [spec.description or spec.name for spec in state.specs]
    specs: list[FeatureSpec] = []
    taken = {state.names[op.of[0]] for op in ops if op.kind == "keep"}
    for place, op in enumerate(ops):
        if op.kind == "keep":
            spec = state.specs[op.of[0]]
        else:
            spec = _measured(op, _unique(op.name(state.names), taken), op.describe(words), made[:, place])
        taken.add(spec.name)
        specs.append(spec)
    return _State(specs, made)


def _unique(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _measured(op: Op, name: str, description: str, values: Floats) -> FeatureSpec:
    present = values[~np.isnan(values)]
    kind = "truth" if op.kind == "equals" else "number"
    nulls = len(values) - len(present)
    if not len(present):
        return FeatureSpec(name, kind, "keep", nulls=nulls, description=description)
    return FeatureSpec(
        name, kind, "keep", minimum=float(present.min()), maximum=float(present.max()), mean=float(present.mean()),
        std=float(present.std(ddof=1)) if len(present) > 1 else None, nulls=nulls, description=description,
    )  # fmt: skip


def _estimator(rule: Rule, state: _State, task: str, classes: Sequence[str], seed: int) -> Any:
    from holdfast.core.explore import selection, transforms

    kind = "regression" if task == "regression" else "classification"
    options = dict(rule.options)
    if rule.method not in _KINDS:
        match rule.method:
            case "constant":
                return selection.ConstantFilter(**options)
            case "nulls":
                return selection.NullFilter(**options)
            case "duplicates":
                return selection.DuplicateFilter(**options)
            case "rfe":
                return selection.RecursiveElimination(**options, task=kind, seed=seed)
            case "l1" | "importance":
                return selection.EmbeddedSelector(rule.method, **options, task=kind, seed=seed)
            case _:
                return selection.RelevanceFilter(rule.method, **options, task=kind)
    columns = _columns(rule, state.specs)
    match rule.method:
        case "one_hot":
            words = {
                place: {float(code): name for code, name in enumerate([UNKNOWN, *state.specs[place].categories])}
                for place in columns
            }
            return transforms.OneHot(**options, columns=columns, words=words)
        case "ordinal":
            return transforms.Ordinal(columns, _orders(rule, state, columns, options.get("orders", {})))
        case "target":
            return transforms.TargetEncode(**options, columns=columns, task=kind, words=tuple(classes), seed=seed)
        case "interactions":
            return transforms.Interactions(**options, columns=columns, task=kind)
        case _:
            return transforms.PowerTransform(rule.method, columns)


def _columns(rule: Rule, specs: Sequence[FeatureSpec]) -> list[int]:
    fits, names = _KINDS[rule.method], [spec.name for spec in specs]
    if not rule.features:
        return [place for place, spec in enumerate(specs) if spec.kind in fits]
    found: set[str] = set()
    for pattern in rule.features:
        meant = matching(pattern, names)
        suited = [name for name in meant if specs[names.index(name)].kind in fits]
        if not suited:
            what = f"which is a {specs[names.index(meant[0])].kind}" if meant else "which is no feature"
            raise ConfigError(
                f"{rule.method} is for a {fits[0]}, not for {pattern!r}, {what}", where={"key": rule.key},
                hint=None if meant else nearest(pattern, names),
            )  # fmt: skip
        found.update(suited)
    return [place for place, name in enumerate(names) if name in found]


def _orders(rule: Rule, state: _State, columns: Sequence[int], given: Mapping[str, Sequence[str]]) -> Any:
    """Of each column the codes of its categories in the order given, else by Unicode code point; never the unknown."""
    names = state.names
    for name in given:
        if name not in [names[place] for place in columns]:
            raise ConfigError(
                f"there is no category feature {name!r} to be ordered", where={"key": rule.key},
                hint=nearest(name, [names[place] for place in columns]),
            )  # fmt: skip
    orders = {}
    for place in columns:
        known = {category: code + 1.0 for code, category in enumerate(state.specs[place].categories)}
        listed = list(given.get(names[place], sorted(known)))
        if twice := [one for number, one in enumerate(listed) if one in listed[:number]]:
            raise ConfigError(f"{twice[0]!r} is listed twice", where={"key": rule.key, "feature": names[place]})
        # A category that the training rows do not have can be listed; its place in the order counts.
        orders[place] = [known.get(one, -1.0 - number) for number, one in enumerate(listed)]
    return orders
