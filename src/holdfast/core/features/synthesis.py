"""Deep Feature Synthesis: definitions from a schema.

After Kanter and Veeramachaneni, "Deep Feature Synthesis: Towards Automating Data Science Endeavors" (DSAA 2015):
features of a table are its columns and seeds, transforms of them, direct features of its parents, and aggregates of the
features of its children, stacked up to `depth`. Windows and conditions apply to the outermost aggregate.

Level k of a table are its features of depth k. They are made one after another, from those of level k - 1 of the tables
around, only as far as they are asked for: a limit saves the work of all that comes after it.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from holdfast.core.features.definitions import Condition, Feature, FeatureSet, Kind
from holdfast.core.features.formulas import make_feature, parse_feature, parse_primitive
from holdfast.core.features.primitives import DEFAULT_PRIMITIVES, PRIMITIVES, Input, Primitive, Role
from holdfast.core.schema import Column, DType, Link, Schema, Table
from holdfast.core.timeline import parse_duration
from holdfast.errors import ConfigError, HoldfastError

__all__ = ["Options", "Synthesis", "synthesise"]

_LOOK = 5_000
"""So many features beyond the limit are counted, no more."""
_MOST = 200_000
"""So many features a pattern of `include` is looked for among."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to synthesise; the words of `features:` in the project file.

    `primitives`: names, also with parameters as in `QUANTILE(q=0.1)`; `default`; `all` (but those of two inputs and
    those whose parameter must be given); `-NAME` drops one. `conditions`: (table, column) → the values that become
    conditions of the `conditional` primitives. `windowed`: primitives that get windows besides those that do by
    themselves. `seeds`: table → formulas of features that are taken as its columns. `include`: names or patterns that
    survive the limit, or formulas of further features. `exclude`: `table.column`, a table (then nothing looks into it),
    a primitive, or names or patterns of features. In a pattern `*` stands for any text and `?` for one character.
    `hidden`: columns, as `table.column`, that the labels are made of. `calendar`: whether the cutoff's month, weekday
    ... are features. `own`: the user's primitives.
    """

    depth: int = 2
    windows: Sequence[str] = ("all", "90d", "365d")
    primitives: Sequence[str] = ("default",)
    conditions: Mapping[tuple[str, str], Sequence[str | float | bool]] = field(default_factory=dict)
    conditional: Sequence[str] = ("COUNT", "TIME_SINCE_LAST")
    windowed: Sequence[str] = ()
    seeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limit: int = 500
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hidden: Sequence[str] = ()
    calendar: bool = True
    include_cutoff: bool = False
    own: Sequence[Primitive] = ()


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The feature set, how many features the limit cut off: all of them are `counted`, or there are more."""

    feature_set: FeatureSet
    cut: int
    counted: bool = True


def synthesise(schema: Schema, entity: str, context: Sequence[Column], options: Options) -> Synthesis:
    """Definitions for rows of `entity`, simplest first. ConfigError for a primitive, column or formula that is none."""
    table = schema.table(entity)
    if len(table.key) != 1:
        raise ConfigError(f"table {entity!r} needs a key of one column to have features", where={"table": entity})
    _check_conditions(schema, options)
    builder = _Builder(schema, options)
    unique, counted = _first(builder.all(entity, context), options)
    builder.check_excluded(entity, context)
    parsed = [parse_feature(name, schema, entity, options.own) for name in options.include if _is_formula(name, unique)]
    written = {feature.name: feature for feature in parsed if not builder.hides(feature)}
    forced = [f for f in unique.values() if any(_matches(f.name, pattern) for pattern in options.include)]
    ordered = {f.name: f for f in (*written.values(), *forced, *unique.values())}
    kept = set(list(ordered)[: max(options.limit, len(written) + len(forced))])
    features = tuple(f for f in {**unique, **written}.values() if f.name in kept)
    if not features:
        raise ConfigError(f"no feature is left for {entity!r}", where={"key": "features"}, hint="Exclude less.")
    used = Schema({name: t for name, t in schema.tables.items() if name in _tables(features, entity)}, schema.timezone)
    feature_set = FeatureSet(entity, features, _pruned(used), tuple(context), options.include_cutoff)
    return Synthesis(feature_set, len(ordered) - len(kept), counted)


def _check_conditions(schema: Schema, options: Options) -> None:
    for table, column in options.conditions:
        held = schema.tables[table].columns if table in schema.tables else ()
        if any(one.name == column and one.personal for one in held):
            raise ConfigError(
                f"a condition would show the personal column {column!r}",
                where={"key": f"features.conditions.{table}.{column}", "table": table, "column": column},
                hint="Personal columns are never features, nor conditions.",
            )


def _first(features: Iterable[Feature], options: Options) -> tuple[dict[str, Feature], bool]:
    """As many features as the limit asks for and some more, by name, and whether that is all there are."""
    patterns = [name for name in options.include if "*" in name or "?" in name]
    most = max(options.limit + _LOOK, _MOST if patterns else 0)
    unique: dict[str, Feature] = {}
    for feature in features:
        if len(unique) == most:
            if patterns:
                raise ConfigError(
                    f"there are more than {most:,} features to look for {patterns[0]!r} among",
                    where={"key": "features.include"},
                    hint="Write the formulas of the features that you want, or make `features.depth` less.",
                )
            return unique, False
        if unique.setdefault(feature.name, feature) != feature:
            raise ConfigError(
                f"two different features would be called {feature.name!r}",
                where={"key": "features", "feature": feature.name},
                hint="A name of a table or column reads like a part of a formula: rename it, or exclude it.",
            )
    return unique, True


@dataclass(frozen=True)
class _Asked:
    """A primitive with its parameters, and how synthesis asks it."""

    primitive: Primitive
    parameters: tuple[tuple[str, float], ...]
    windowed: bool
    conditional: bool


class _Lazy:
    """Features that are made when they are first asked for, and kept."""

    def __init__(self, features: Iterator[Feature]) -> None:
        self._features = features
        self.made: list[Feature] = []

    def __iter__(self) -> Iterator[Feature]:
        place = 0
        while True:
            if place == len(self.made):
                feature = next(self._features, None)
                if feature is None:
                    return
                self.made.append(feature)
            yield self.made[place]
            place += 1


class _Builder:
    def __init__(self, schema: Schema, options: Options) -> None:
        asked = _asked_primitives(options)
        self.schema = schema
        self.options = options
        self.aggregates = [a for a in asked if a.primitive.role is Role.AGGREGATE]
        self.transforms = [a for a in asked if a.primitive.role is Role.TRANSFORM]
        self.within = [a for a in asked if a.primitive.role is Role.WITHIN]
        self.met: set[str] = set()
        self.windows = [None if w == "all" else parse_duration(w) for w in options.windows]
        self.seeds = {name: tuple(self._seeds(name)) for name in options.seeds}
        self.levels: dict[tuple[str, int, Link | None, bool], _Lazy] = {}

    def _seeds(self, table: str) -> Iterator[Feature]:
        try:
            self.schema.table(table)
            for formula in self.options.seeds[table]:
                seed = parse_feature(formula, self.schema, table, self.options.own)
                # What is excluded is in no input either; those of a seed were not asked before.
                kept = [self.kept(part) for part in seed.walk()]
                if all(kept):
                    yield seed
        except HoldfastError as error:
            where = {**error.where, "key": f"features.seeds.{table}"}
            raise ConfigError(error.message, where=where, hint=error.hint) from error

    def all(self, entity: str, context: Sequence[Column]) -> Iterator[Feature]:
        """All features of the entity's questions, simplest first."""
        yield from (feature for feature in self.asked(context) if self.kept(feature))
        for level in range(self.options.depth + 1):
            yield from self.level(entity, level, None, outer=True)

    def kept(self, feature: Feature) -> bool:
        """Whether nothing excludes the feature itself; its inputs were asked before."""
        names = set(_names(feature))
        used = feature.primitive.name if feature.primitive else ""
        met = {p for p in self.options.exclude if p == used or any(_matches(name, p) for name in names)}
        self.met |= met
        return not met and not names & set(self.options.hidden)

    def hides(self, feature: Feature) -> bool:
        """Whether the feature, or what it is made of, reads what the labels are made of."""
        return any(set(_names(part)) & set(self.options.hidden) for part in feature.walk())

    def check_excluded(self, entity: str, context: Sequence[Column]) -> None:
        """ConfigError for an exclusion that no column, table or feature has: it would protect from nothing."""
        columns = [f"{table.name}.{name}" for table in self.schema.tables.values() for name in table.names]
        known = (*columns, *self.schema.tables, *PRIMITIVES, *(primitive.name for primitive in self.options.own))
        for pattern in self.options.exclude:
            if pattern in self.met or any(_matches(name, pattern) for name in known):
                continue
            # What another exclusion drops, or what comes after the limit, may be what is meant.
            free = _Builder(self.schema, replace(self.options, exclude=(), hidden=()))
            found = list(islice(free.all(entity, context), self.options.limit + _LOOK + 1))
            if len(found) > self.options.limit + _LOOK or any(_matches(n, pattern) for f in found for n in _names(f)):
                continue
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
            raise ConfigError(
                f"{pattern!r} excludes nothing: no column, table, primitive or feature is called so",
                where={"key": "features.exclude"},
                hint=f"Did you mean {near[0]!r}?" if near else "`holdfast features show` lists the features.",
            )

    def level(self, table: str, level: int, came: Link | None, *, outer: bool) -> _Lazy:
        """Features of a table's rows of that depth; children `came` to from a parent do not look back at it."""
        key = (table, level, came, outer)
        if key not in self.levels:
            features = self._level(self.schema.table(table), level, came, outer=outer)
            self.levels[key] = _Lazy(feature for feature in features if self.kept(feature))
        return self.levels[key]

    def _level(self, table: Table, level: int, came: Link | None, *, outer: bool) -> Iterator[Feature]:
        if level == 0:
            yield from (one for one in self.columns(table) if one.dtype not in (DType.TIME, DType.TEXT))
            yield from self.seeds.get(table.name, ())
            return
        if level == 1:
            for column in self.columns(table):
                if column.dtype in (DType.TIME, DType.TEXT) and self.kept(column):
                    yield from self.of_column(column)
        for link in self.schema.parents(table.name):
            if link != came:
                for inner in self.level(link.parent, level - 1, None, outer=outer):
                    yield Feature(Kind.DIRECT, table.name, inner.dtype, inputs=(inner,), link=link)
        for link in self.schema.children(table.name):
            yield from self.of_children(link, level, outer=outer)
        below = [self.level(table.name, one, came, outer=outer) for one in range(level)]
        yield from self.of_row(table, below)
        if level == 1:
            yield from self.among_rows(table)

    def columns(self, table: Table) -> Iterator[Feature]:
        linking = set(table.links) | ({table.time} if table.time else set())
        linking |= set(table.key) if len(table.key) == 1 else set()
        for column in table.columns:
            if column.name not in linking and not column.personal:
                yield Feature(Kind.COLUMN, table.name, column.dtype, column=column.name)

    def asked(self, context: Sequence[Column]) -> Iterator[Feature]:
        """Features of the question itself: its context columns and calendar features of the cutoff."""
        for column in context:
            feature = Feature(Kind.CONTEXT, "", column.dtype, column=column.name)
            if column.personal:
                continue
            if column.dtype is DType.TIME:
                yield from self.of_column(feature)
            elif column.dtype is not DType.TEXT:
                yield feature
        if self.options.depth and self.options.calendar:
            yield from self.of_column(Feature(Kind.CUTOFF, "", DType.TIME))

    def of_column(self, column: Feature) -> Iterator[Feature]:
        """Transforms of a time or text, which is no feature itself."""
        for asked in self.transforms:
            fits = len(asked.primitive.takes) == 1 and asked.primitive.takes[0].takes(column.dtype)
            if fits and (column.kind is not Kind.CUTOFF or asked.primitive.name != "TIME_SINCE"):
                yield make_feature(asked.primitive, (column,), column.table, parameters=asked.parameters)

    def of_row(self, table: Table, below: Sequence[_Lazy]) -> Iterator[Feature]:
        """Transforms of the features of the same row."""
        seeds = self.seeds.get(table.name, ())

        def fits(kind: Input, inner: Feature, name: str) -> bool:
            if inner.kind is Kind.TRANSFORM and inner not in seeds:
                return False
            plain = name != "IS_NULL" or inner.kind is Kind.COLUMN or inner in seeds
            return plain and kind.takes(inner.dtype) and not (kind is Input.NUMBER and inner.dtype is DType.BOOL)

        for asked in self.transforms:
            primitive = asked.primitive
            for inputs in _inputs(primitive, below, fits):
                # What is done to features of the parent alone is done at the parent.
                links = {inner.link if inner.kind is Kind.DIRECT else None for inner in inputs}
                if links == {None} or len(links) > 1:
                    yield make_feature(primitive, inputs, table.name, parameters=asked.parameters)

    def among_rows(self, table: Table) -> Iterator[Feature]:
        """The row among those before it that have the same parent."""
        columns = [one for one in self.columns(table) if one.dtype in (DType.INT, DType.FLOAT) and self.kept(one)]
        for asked in self.within:
            if asked.primitive.timed and table.time is None:
                continue
            for link in self.schema.parents(table.name):
                for inputs in [(one,) for one in columns] if asked.primitive.takes else [()]:
                    yield make_feature(asked.primitive, inputs, table.name, link=link, parameters=asked.parameters)

    def of_children(self, link: Link, level: int, *, outer: bool) -> Iterator[Feature]:
        timed = self.schema.table(link.child).time is not None
        below = [self.level(link.child, one, link, outer=False) for one in range(level)]
        for asked in self.aggregates:
            primitive = asked.primitive
            if (primitive.timed and not timed) or (not primitive.takes and level > 1):
                continue
            windows = self.windows if outer and timed and asked.windowed else [None]
            for window in windows:
                for inputs in _inputs(primitive, below, _worth) if primitive.takes else [()]:
                    for condition in (None, *(self.conditions(link, inputs) if outer and asked.conditional else ())):
                        yield make_feature(
                            primitive, inputs, link.parent, link=link, window=window, condition=condition,
                            parameters=asked.parameters,
                        )  # fmt: skip

    def conditions(self, link: Link, inputs: Sequence[Feature]) -> Iterator[Condition]:
        """Conditions on the children, but those on the very column that is aggregated."""
        taken = {inner.column for inner in inputs if inner.kind is Kind.COLUMN}
        for (table, column), values in self.options.conditions.items():
            if table == link.child and column not in taken:
                yield from (Condition(column, value) for value in values)


def _asked_primitives(options: Options) -> list[_Asked]:
    def named(name: str, key: str) -> tuple[Primitive, tuple[tuple[str, float], ...]]:
        try:
            return parse_primitive(name, options.own)
        except ConfigError as error:
            raise ConfigError(error.message, where={"key": f"features.{key}"}, hint=error.hint) from error

    groups = {"default": DEFAULT_PRIMITIVES, "all": _all_primitives(options.own)}
    dropped = {named(name[1:], "primitives")[0].name for name in options.primitives if name.startswith("-")}
    words = [name for name in options.primitives if not name.startswith("-")] or ["default"]
    names = [name for word in words for name in groups.get(word, (word,))]
    found = dict.fromkeys(named(name, "primitives") for name in names)
    windowed = {named(name, "windowed")[0].name for name in options.windowed}
    conditional = {named(name, "conditional")[0].name for name in options.conditional}
    asked = []
    for primitive, parameters in found:
        absent = [
            name for name, value in primitive.parameters.items() if value is None and name not in dict(parameters)
        ]
        if absent:
            raise ConfigError(
                f"{primitive.name} needs {absent[0]}=...",
                where={"key": "features.primitives"},
                hint=f"Write it as {primitive.name}({absent[0]}=10).",
            )
        if primitive.name not in dropped:
            every = primitive.windowed or primitive.name in windowed
            asked.append(_Asked(primitive, parameters, every, primitive.name in conditional))
    return asked


def _all_primitives(own: Iterable[Primitive]) -> list[str]:
    found = (*PRIMITIVES.values(), *own)
    return [p.name for p in found if len(p.takes) < 2 and None not in p.parameters.values()]


def _inputs(
    primitive: Primitive, below: Sequence[_Lazy], fits: Callable[[Input, Feature, str], bool]
) -> Iterator[tuple[Feature, ...]]:
    """Inputs of a primitive of one or two: one of the last level, one made before it; both ways where that matters."""
    takes, name = primitive.takes, primitive.name
    last = below[-1]
    if len(takes) == 1:
        yield from ((one,) for one in last if fits(takes[0], one, name))
    elif len(takes) == 2:
        for place, two in enumerate(last):
            earlier = (one for level in below[:-1] for one in level)
            for one in (*earlier, *last.made[:place]):
                for pair in ((one, two), (two, one)) if name not in _ONE_WAY else ((one, two),):
                    if fits(takes[0], pair[0], name) and fits(takes[1], pair[1], name):
                        yield pair


_ONE_WAY = {"ADD", "SUBTRACT", "MULTIPLY", "GREATER_THAN", "EQUAL", "AND", "OR"}
"""Primitives that say nothing new the other way round."""


def _worth(kind: Input, inner: Feature, _name: str) -> bool:
    """Whether to aggregate it."""
    if not kind.takes(inner.dtype):
        return False
    if kind is Input.NUMBER:
        # Moments of years, weekdays and the like say little; their extremes and modes are not worth their place.
        moment = inner.kind is Kind.TRANSFORM and inner.inputs[0].dtype is DType.TIME
        return inner.dtype is not DType.BOOL and not moment
    return True


def _names(feature: Feature) -> Iterator[str]:
    """What `exclude` may call a feature: its name, the column it is or has a condition on, a table it looks into."""
    yield feature.name
    if feature.link and feature.kind is not Kind.WITHIN:
        yield feature.link.child if feature.kind is Kind.AGGREGATE else feature.link.parent
    if feature.kind is Kind.COLUMN:
        yield f"{feature.table}.{feature.column}"
    if feature.condition and feature.link:
        yield f"{feature.link.child}.{feature.condition.column}"


def _is_formula(name: str, known: Mapping[str, Feature]) -> bool:
    return not any(_matches(feature, name) for feature in known)


def _matches(name: str, pattern: str) -> bool:
    """Whether a name is meant: brackets and all else but `*` and `?` stand for themselves, as names hold them."""
    wild = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return name == pattern or re.fullmatch(wild, name, re.DOTALL) is not None


def _tables(features: Sequence[Feature], entity: str) -> set[str]:
    links = {f.link for feature in features for f in feature.walk() if f.link}
    return {entity} | {link.child for link in links} | {link.parent for link in links}


def _pruned(schema: Schema) -> Schema:
    """The schema without links to tables that are not in it."""
    tables = {
        name: replace(t, links={c: p for c, p in t.links.items() if p in schema.tables})
        for name, t in schema.tables.items()
    }
    return Schema(tables, schema.timezone)
