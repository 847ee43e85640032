"""What the project file says of features before a model sees them: missing rules, aliases, transforms and selection."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from holdfast.backend.settings import ConstantSettings, Settings
from holdfast.core.explore.fitting import Rule
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.encoding import Constant, Encoding, MissingRule
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.names import matching
from holdfast.errors import ConfigError, nearest

__all__ = ["fit_encoding", "step_rules"]


def fit_encoding(
    settings: Settings, feature_set: FeatureSet, frame: FeatureFrame, rows: npt.NDArray[np.bool_]
) -> Encoding:
    """The encoding of computed features by the project's rules, fitted on `rows` (bool [n]).

    ConfigError for a rule or an alias of no feature, one that does not suit its feature, or an alias of two.
    """
    return Encoding.fit(
        frame, rows, missing=_missing(settings, frame), aliases=_aliases(settings, feature_set, tuple(frame.columns))
    )


def step_rules(settings: Settings) -> list[Rule]:
    """The steps of the project file in the order in which they are run: transforms, then selection."""
    rule = settings.features
    transforms = [
        Rule(f"features.transforms.{number}", step.method, step.features, step.options())
        for number, step in enumerate(rule.transforms)
    ]
    return transforms + [
        Rule(f"features.selection.{number}", step.method, (), step.options())
        for number, step in enumerate(rule.selection)
    ]


def _missing(settings: Settings, frame: FeatureFrame) -> dict[str, MissingRule]:
    """Feature → rule. A later pattern wins; a pattern with `*` or `?` passes over features that it does not suit."""
    found: dict[str, MissingRule] = {}
    for pattern, said in settings.features.missing.items():
        rule: MissingRule
        if isinstance(said, ConstantSettings):
            rule = Constant(said.constant)
        else:
            rule = said if isinstance(said, str) else Constant(float(said))
        meant = matching(pattern, frame.columns)
        exact = pattern in frame.columns
        suited = [name for name in meant if exact or _suits(rule, category=isinstance(frame.columns[name], Categories))]
        if not suited:
            raise ConfigError(
                f"the missing rule of {pattern!r} is for no feature" + (" of a type that it suits" if meant else ""),
                where={"key": f"features.missing.{pattern}"},
                hint=None if meant else nearest(pattern, frame.columns),
            )
        found |= dict.fromkeys(suited, rule)
    return found


def _suits(rule: MissingRule, *, category: bool) -> bool:
    if isinstance(rule, Constant):
        return category == isinstance(rule.value, str)
    return category == (rule == "unknown")


def _aliases(settings: Settings, feature_set: FeatureSet, names: Iterable[str]) -> dict[str, list[str]]:
    """Feature → its other names: as declared, and with the aliases of the columns that it reads."""
    columns = {
        (table, column): said.aliases
        for table, rule in settings.tables.items()
        for column, said in rule.columns.items()
        if said.aliases
    }
    known = set(names)
    found: dict[str, list[str]] = {}
    if columns:
        for feature in feature_set.features:
            spelt = [variant.name for variant in _variants(feature, columns) if variant.name not in known]
            found[feature.name] = list(dict.fromkeys(spelt))
    for name, aliases in settings.features.aliases.items():
        if name not in known:
            raise ConfigError(
                f"there is no feature {name!r}", where={"key": f"features.aliases.{name}"}, hint=nearest(name, known)
            )
        found[name] = list(dict.fromkeys([*aliases, *found.get(name, ())]))
    _check_distinct(found, known)
    return found


def _check_distinct(aliases: Mapping[str, list[str]], known: set[str]) -> None:
    meaning: dict[str, str] = {}
    for name, alias in chain.from_iterable(((name, alias) for alias in found) for name, found in aliases.items()):
        other = alias if alias in known and alias != name else meaning.setdefault(alias, name)
        if other != name:
            raise ConfigError(
                f"{alias!r} would mean both {name!r} and {other!r}",
                where={"key": f"features.aliases.{name}", "feature": name},
                hint="Give each feature names of its own.",
            )


def _variants(feature: Feature, columns: Mapping[tuple[str, str], tuple[str, ...]]) -> list[Feature]:
    """The feature as it would be called if a column that it reads had one of its other names."""
    if feature.kind in (Kind.COLUMN, Kind.CONTEXT):
        return [replace(feature, column=alias) for alias in columns.get((feature.table, feature.column), ())]
    if feature.alias or len(feature.inputs) != 1:
        return []
    return [replace(feature, inputs=(inner,)) for inner in _variants(feature.inputs[0], columns)]
