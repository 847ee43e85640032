"""What a feature group of the project file means: the feature set, over the schema of one dataset version."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from holdfast.backend.settings import FeatureGroupSettings, Settings
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.formulas import parse_condition, parse_feature
from holdfast.core.features.primitives import Primitive
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.schema import Schema
from holdfast.errors import ConfigError, HoldfastError

__all__ = ["declared_conditions", "resolve"]


def resolve(
    name: str,
    given: FeatureGroupSettings,
    settings: Settings,
    schema: Schema,
    set_of: Callable[[str], FeatureSet],
    *,
    own: Sequence[Primitive] = (),
) -> tuple[FeatureSet, tuple[str, ...]]:
    """The features of a group, and the names of those of its target that only a question could compute.

    `own` are the user's primitives, which the project file may name for its targets; a group cannot hold them.
    ConfigError names the key of the project file.
    """
    key = f"feature_groups.{name}"
    if given.target is not None:
        found = set_of(given.target)
        kept = [feature for feature in found.features if not _asks(feature)]
        left_out = tuple(feature.name for feature in found.features if _asks(feature))
        _check_own(kept, key)
        if not kept:
            raise ConfigError(f"target {given.target!r} has only features of its question", where={"key": key})
        return replace(found, features=tuple(kept), context=()), left_out
    assert given.entity is not None
    features = []
    for text in given.features:
        features += _features(text, given.entity, settings, schema, f"{key}.features", own=own)
    features = list(_once(features))
    _check_own(features, f"{key}.features")
    used = {
        given.entity,
        *(table for f in features for g in f.walk() if g.link for table in (g.link.child, g.link.parent)),
    }
    tables = {
        table.name: replace(table, links={c: p for c, p in table.links.items() if p in used})
        for table in schema.tables.values()
        if table.name in used
    }
    needed = Schema(tables, schema.timezone)
    return FeatureSet(given.entity, tuple(features), needed, (), settings.features.include_cutoff), ()


def declared_conditions(
    schema: Schema, declared: Mapping[str, Sequence[str | float | bool]]
) -> dict[tuple[str, str], Sequence[str | float | bool]]:
    """`features.conditions` of the project file: (table, column) → values, typed as the column is.

    ConfigError names the key whose column is none, or whose value does not fit it.
    """
    found: dict[tuple[str, str], Sequence[str | float | bool]] = {}
    for key, values in declared.items():
        table, _, column = key.partition(".")
        try:
            typed = [parse_condition(column, "=", str(value), schema, table).value for value in values]
            for value, made in zip(values, typed, strict=True):
                # It would be sought as the category `True`, and never found.
                if isinstance(value, bool) and isinstance(made, str):
                    raise ConfigError(
                        f"{column!r} holds categories, and {str(value).lower()} is a truth value",
                        hint="YAML reads yes, no, on and off as truth values: write the category in quotes.",
                    )
        except HoldfastError as error:
            where = {**error.where, "key": f"features.conditions.{key}"}
            raise ConfigError(error.message, where=where, hint=error.hint) from error
        found[table, column] = typed
    return found


def _asks(feature: Feature) -> bool:
    return any(part.kind is Kind.CONTEXT for part in feature.walk())


def _check_own(features: Iterable[Feature], key: str) -> None:
    if found := [f.name for f in features for part in f.walk() if part.primitive and part.primitive.compute]:
        raise ConfigError(
            f"a feature group cannot hold {found[0]!r}: it has a primitive of your own",
            where={"key": key, "feature": found[0]},
            hint="List the group's features by `features`, without those.",
        )


def _features(
    text: str, entity: str, settings: Settings, schema: Schema, key: str, *, own: Sequence[Primitive]
) -> list[Feature]:
    """What one entry stands for: a pattern for synthesised features, else one formula."""
    if "*" in text or "?" in text:
        rule = settings.features
        conditions = declared_conditions(schema, rule.conditions) if isinstance(rule.conditions, dict) else {}
        options = Options(
            depth=rule.depth, windows=rule.windows, primitives=rule.primitives, conditions=conditions,
            conditional=rule.conditional, windowed=rule.windowed, seeds=rule.seeds, limit=rule.max, include=[text],
            exclude=rule.exclude, include_cutoff=rule.include_cutoff, own=own,
        )  # fmt: skip
        try:
            return _named(text, synthesise(schema, entity, (), options).feature_set.features, key)
        except ConfigError as error:
            if error.where.get("key") != "features.include":
                raise
            return _named(text, (), key)
    try:
        return [parse_feature(text, schema, entity, own)]
    except ConfigError as error:
        raise ConfigError(error.message, where={**error.where, "key": key}, hint=error.hint) from error


def _named(text: str, features: Iterable[Feature], key: str) -> list[Feature]:
    """The features that a name or pattern (`*` any text, `?` one character) means."""
    wild = re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
    found = [feature for feature in features if feature.name == text or wild.fullmatch(feature.name)]
    if not found:
        raise ConfigError(
            f"no feature is called {text!r}", where={"key": key},
            hint="`holdfast features show TARGET` lists those of a target; or write the formula.",
        )  # fmt: skip
    return found


def _once(features: Iterable[Feature]) -> Iterable[Feature]:
    return {feature.name: feature for feature in features}.values()
