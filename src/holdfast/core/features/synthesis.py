"""Deep Feature Synthesis: definitions from a schema.

After Kanter and Veeramachaneni, "Deep Feature Synthesis: Towards Automating Data Science Endeavors" (DSAA 2015):
features of a table are its columns, transforms of its times, direct features of its parents, and aggregates of the
features of its children, stacked up to `depth`. Windows and conditions apply to the outermost aggregate.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast.core.features.definitions import Condition, Feature, FeatureSet, Kind
from holdfast.core.features.formulas import make_feature, parse_feature
from holdfast.core.features.primitives import DEFAULT_PRIMITIVES, Input, Primitive, Role, find_primitive
from holdfast.core.schema import Column, DType, Link, Schema, Table
from holdfast.core.timeline import parse_duration
from holdfast.errors import ConfigError

__all__ = ["Options", "Synthesis", "synthesise"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to synthesise; the words of `features:` in the project file.

    `conditions`: (table, column) → the values that become conditions. `include`: names or patterns that survive the
    limit, or formulas of further features. `exclude`: `table.column`, a table (then nothing looks into it), or names or
    patterns of features. In a pattern `*` stands for any text and `?` for one character. `hidden`: columns, as
    `table.column`, that the labels are made of. `calendar`: whether the cutoff's month, weekday ... are features.
    """

    depth: int = 2
    windows: Sequence[str] = ("all", "90d", "365d")
    primitives: Sequence[str] = ("default",)
    conditions: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    limit: int = 500
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hidden: Sequence[str] = ()
    calendar: bool = True
    include_cutoff: bool = False


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The feature set, and how many features the limit cut off."""

    feature_set: FeatureSet
    cut: int


def synthesise(schema: Schema, entity: str, context: Sequence[Column], options: Options) -> Synthesis:
    """Definitions for rows of `entity`, simplest first. ConfigError for a primitive, column or formula that is none."""
    table = schema.table(entity)
    if len(table.key) != 1:
        raise ConfigError(f"table {entity!r} needs a key of one column to have features", where={"table": entity})
    builder = _Builder(schema, options)
    asked = [*_asked(context, builder)]
    found = asked + sorted(builder.features(entity, options.depth, outer=True), key=lambda f: f.depth)
    unique = {feature.name: feature for feature in found if not builder.excluded(feature)}
    builder.check_excluded()
    parsed = [parse_feature(name, schema, entity) for name in options.include if _is_formula(name, unique)]
    written = {feature.name: feature for feature in parsed}
    forced = [f for f in unique.values() if any(_matches(f.name, pattern) for pattern in options.include)]
    ordered = {f.name: f for f in (*written.values(), *forced, *unique.values())}
    kept = set(list(ordered)[: max(options.limit, len(written) + len(forced))])
    features = tuple(f for f in {**unique, **written}.values() if f.name in kept)
    if not features:
        raise ConfigError(f"no feature is left for {entity!r}", where={"key": "features"}, hint="Exclude less.")
    used = Schema({name: t for name, t in schema.tables.items() if name in _tables(features, entity)}, schema.timezone)
    feature_set = FeatureSet(entity, features, _pruned(used), tuple(context), options.include_cutoff)
    return Synthesis(feature_set, len(ordered) - len(kept))


class _Builder:
    def __init__(self, schema: Schema, options: Options) -> None:
        names = [n for p in options.primitives for n in (DEFAULT_PRIMITIVES if p == "default" else (p,))]
        try:
            primitives = [find_primitive(name) for name in names]
        except ConfigError as error:
            raise ConfigError(error.message, where={"key": "features.primitives"}, hint=error.hint) from error
        self.schema = schema
        self.options = options
        self.aggregates = [primitive for primitive in primitives if primitive.aggregates]
        self.transforms = [primitive for primitive in primitives if primitive.role is Role.TRANSFORM]
        self.met: set[str] = set()
        self.windows = [None if w == "all" else parse_duration(w) for w in options.windows]

    def excluded(self, feature: Feature) -> bool:
        names = {name for f in feature.walk() for name in _names(f)}
        met = {pattern for pattern in self.options.exclude if any(_matches(name, pattern) for name in names)}
        self.met |= met
        return bool(met or names & set(self.options.hidden))

    def check_excluded(self) -> None:
        """ConfigError for an exclusion that no column, table or feature has: it would protect from nothing."""
        columns = [f"{table.name}.{name}" for table in self.schema.tables.values() for name in table.names]
        for pattern in self.options.exclude:
            known = (*columns, *self.schema.tables)
            if pattern not in self.met and not any(_matches(name, pattern) for name in known):
                near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
                raise ConfigError(
                    f"{pattern!r} excludes nothing: no column, table or feature is called so",
                    where={"key": "features.exclude"},
                    hint=f"Did you mean {near[0]!r}?" if near else "`holdfast features show` lists the features.",
                )

    def features(self, table: str, depth: int, *, came: Link | None = None, outer: bool = False) -> Iterator[Feature]:
        """Features of a table's rows; children that were `came` to from their parent do not look back at it."""
        yield from self.columns(self.schema.table(table), depth)
        if depth == 0:
            return
        for link in self.schema.parents(table):
            if link != came:
                for inner in self.features(link.parent, depth - 1, outer=outer):
                    yield Feature(Kind.DIRECT, table, inner.dtype, inputs=(inner,), link=link)
        for link in self.schema.children(table):
            yield from self.of_children(link, depth, outer=outer)

    def columns(self, table: Table, depth: int) -> Iterator[Feature]:
        linking = set(table.links) | ({table.time} if table.time else set())
        linking |= set(table.key) if len(table.key) == 1 else set()
        for column in table.columns:
            if column.name in linking or column.personal:
                continue
            feature = Feature(Kind.COLUMN, table.name, column.dtype, column=column.name)
            if column.dtype is DType.TIME:
                yield from self.times(feature) if depth else ()
            elif column.dtype is not DType.TEXT:
                yield feature

    def times(self, moment: Feature) -> Iterator[Feature]:
        for primitive in self.transforms:
            if primitive.takes == (Input.TIME,) and (moment.kind is not Kind.CUTOFF or primitive.name != "TIME_SINCE"):
                yield make_feature(primitive, (moment,), moment.table)

    def of_children(self, link: Link, depth: int, *, outer: bool) -> Iterator[Feature]:
        timed = self.schema.table(link.child).time is not None
        inputs = list(self.features(link.child, depth - 1, came=link))
        for primitive in self.aggregates:
            if primitive.timed and not timed:
                continue
            windows = self.windows if outer and timed and primitive.windowed else [None]
            for window in windows:
                if not primitive.takes:
                    for condition in (None, *(self.conditions(link) if outer and primitive.conditional else ())):
                        yield self.aggregate(primitive, link, window, None, condition)
                for inner in inputs:
                    if _fits(primitive, inner):
                        yield self.aggregate(primitive, link, window, inner, None)

    def conditions(self, link: Link) -> Iterator[Condition]:
        for (table, column), values in self.options.conditions.items():
            if table == link.child:
                yield from (Condition(column, value) for value in values)

    def aggregate(
        self, primitive: Primitive, link: Link, window: int | None, inner: Feature | None, condition: Condition | None
    ) -> Feature:
        inputs = (inner,) if inner else ()
        return make_feature(primitive, inputs, link.parent, link=link, window=window, condition=condition)


def _asked(context: Sequence[Column], builder: _Builder) -> Iterator[Feature]:
    """Features of the question itself: its context columns and calendar features of the cutoff."""
    for column in context:
        feature = Feature(Kind.CONTEXT, "", column.dtype, column=column.name)
        if column.dtype is DType.TIME:
            yield from builder.times(feature)
        elif column.dtype is not DType.TEXT:
            yield feature
    if builder.options.depth and builder.options.calendar:
        yield from builder.times(Feature(Kind.CUTOFF, "", DType.TIME))


def _names(feature: Feature) -> Iterator[str]:
    """What `exclude` may call a feature: its name, the column it is or has a condition on, a table it looks into."""
    yield feature.name
    if feature.link:
        yield feature.link.child if feature.kind is Kind.AGGREGATE else feature.link.parent
    if feature.kind is Kind.COLUMN:
        yield f"{feature.table}.{feature.column}"
    if feature.condition and feature.link:
        yield f"{feature.link.child}.{feature.condition.column}"


def _fits(primitive: Primitive, inner: Feature) -> bool:
    if len(primitive.takes) != 1 or not primitive.takes[0].takes(inner.dtype):
        return False
    if primitive.takes[0] is Input.NUMBER:
        # Moments of years, weekdays and the like say little; their extremes and modes are not worth their place.
        return inner.dtype is not DType.BOOL and inner.kind is not Kind.TRANSFORM
    return True


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
