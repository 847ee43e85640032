"""From definitions to a plan: what is computed for the rows of each table, once, in which order, by which loop.

A `Stage` is the rows of one table at cutoffs: its columns, the stages of its parents, and per link of its children the
loops to run. Every feature of a stage has a slot: a row of the stage's matrix of numbers or of codes. What several
features share is planned once. All of a link's statistics over stored columns are one `Program` a family of loops, and
those over features of the children another, over the stage of the children.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from holdfast.core.features.definitions import Condition, Feature, FeatureSet, Kind
from holdfast.core.features.kernels import (
    CATEGORY_STATISTICS,
    NUMBER_STATISTICS,
    ROW_STATISTICS,
    SHAPE_STATISTICS,
)
from holdfast.core.features.primitives import Primitive
from holdfast.core.schema import DType, Link

__all__ = ["Children", "Loops", "Own", "Program", "Quantiles", "Stage", "Step", "compile_plan", "is_code"]

Ints = npt.NDArray[np.int64]
_SAME_AS = {"PERCENT_TRUE": "MEAN", "NUM_TRUE": "SUM", "ANY": "MAX", "ALL": "MIN"}
"""Primitives of truth values that are a statistic of their 0 and 1."""
_QUANTILES = {"MEDIAN": 0.5, "QUANTILE": None}


def is_code(feature: Feature) -> bool:
    """Whether the feature's values are categories (or text), not numbers."""
    return feature.dtype in (DType.CATEGORY, DType.TEXT)


@dataclass(frozen=True)
class Program:
    """One call of a loop: `which` int64 [series, 2], `slots` int64 [windows, series, statistics]; see `kernels`."""

    which: Ints
    slots: Ints
    coded: tuple[tuple[int, int], ...]
    """Slots that take categories, with the source that they are of."""


@dataclass(frozen=True)
class Quantiles:
    """One call of `kernels.quantiles`."""

    which: Ints
    wanted: Ints
    shares: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Own:
    """A user's aggregate: rows of the inputs' matrix, the condition's row (-1: none), the window's place (-1: all)."""

    feature: Feature
    primitive: Primitive
    inputs: tuple[int, ...]
    condition: int
    window: int
    slot: int


@dataclass(frozen=True)
class Loops:
    """What to run over the rows behind a link: first without window, then with windows; None where nothing is asked."""

    rows: tuple[Program | None, Program | None]
    numbers: tuple[Program | None, Program | None]
    shapes: tuple[Program | None, Program | None]
    categories: tuple[Program | None, Program | None]
    quantiles: tuple[Quantiles | None, Quantiles | None]
    own: tuple[Own, ...]


@dataclass(frozen=True)
class Children:
    """The rows behind one link. `windows` int64, microseconds, ascend; a window's place is its position there.

    `stored` runs over `numbers` and `codes`, the columns that it reads, `computed` over the stage of the children,
    of which rows within the `widest` window (its place; -1: all) are needed.
    """

    link: Link
    windows: Ints
    conditions: tuple[Condition, ...]
    numbers: tuple[str, ...]
    codes: tuple[str, ...]
    stored: Loops
    computed: Loops | None
    stage: "Stage | None"
    widest: int


@dataclass(frozen=True)
class Step:
    """A feature made from others of the same rows: slots of the inputs, in the matrix that fits each, and its own."""

    feature: Feature
    primitive: Primitive
    inputs: tuple[int, ...]
    slot: int


@dataclass
class Stage:
    """See the module. `slots`: each feature's slot among the numbers, the codes or the times."""

    table: str
    slots: dict[Feature, int] = field(default_factory=dict)
    numbers: int = 0
    codes: int = 0
    times: int = 0
    columns: list[tuple[Feature, int]] = field(default_factory=list)
    asked: list[tuple[Feature, int]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    parents: list[tuple[Link, "Stage", list[tuple[Feature, int, int]]]] = field(default_factory=list)
    children: list[Children] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many values a row takes."""
        return self.numbers + self.codes + self.times

    @property
    def heavy(self) -> bool:
        """Whether a row costs more than looking it up: equal rows at equal cutoffs are then computed once."""
        return bool(self.children) or any(stage.heavy for _, stage, _ in self.parents)


def compile_plan(feature_set: FeatureSet) -> Stage:
    """The stage of the entity's rows."""
    builder = _Stage(feature_set.entity)
    for feature in feature_set.features:
        builder.slot(feature)
    return builder.done()


class _Stage:
    def __init__(self, table: str) -> None:
        self.stage = Stage(table)
        self.parents: dict[Link, tuple[_Stage, list[tuple[Feature, int, int]]]] = {}
        self.children: dict[Link, _Children] = {}

    def slot(self, feature: Feature) -> int:
        if feature not in self.stage.slots:
            self.stage.slots[feature] = self._plan(feature)
        return self.stage.slots[feature]

    def _take(self, feature: Feature) -> int:
        stage = self.stage
        if is_code(feature):
            stage.codes += 1
            return stage.codes - 1
        if feature.dtype is DType.TIME:
            stage.times += 1
            return stage.times - 1
        stage.numbers += 1
        return stage.numbers - 1

    def _plan(self, feature: Feature) -> int:
        link = feature.link
        if feature.kind is Kind.COLUMN:
            slot = self._take(feature)
            self.stage.columns.append((feature, slot))
        elif feature.kind in (Kind.CONTEXT, Kind.CUTOFF):
            slot = self._take(feature)
            self.stage.asked.append((feature, slot))
        elif feature.kind is Kind.DIRECT:
            assert link is not None
            builder, taken = self.parents.setdefault(link, (_Stage(link.parent), []))
            slot = self._take(feature)
            taken.append((feature, builder.slot(feature.inputs[0]), slot))
        elif feature.kind is Kind.AGGREGATE:
            assert link is not None
            slot = self._take(feature)
            self.children.setdefault(link, _Children(link)).add(feature, slot)
        else:
            assert feature.primitive is not None
            inputs = tuple(self.slot(inner) for inner in feature.inputs)
            slot = self._take(feature)
            self.stage.steps.append(Step(feature, feature.primitive, inputs, slot))
        return slot

    def done(self) -> Stage:
        stage = self.stage
        stage.parents = [(link, builder.done(), taken) for link, (builder, taken) in self.parents.items()]
        stage.children = [children.done() for children in self.children.values()]
        return stage


class _Children:
    """Collects the aggregates behind one link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.features: list[tuple[Feature, int]] = []

    def add(self, feature: Feature, slot: int) -> None:
        self.features.append((feature, slot))

    def done(self) -> Children:
        windows = sorted({feature.window for feature, _ in self.features if feature.window})
        conditions = tuple(dict.fromkeys(f.condition for f, _ in self.features if f.condition))
        places: dict[int | None, int] = {None: -1, **{window: place for place, window in enumerate(windows)}}
        stored, computed = _Loops(places, conditions), _Loops(places, conditions)
        numbers: dict[str, int] = {}
        codes: dict[str, int] = {}
        below = _Stage(self.link.child)
        inner = []
        for feature, slot in self.features:
            if all(one.kind is Kind.COLUMN for one in feature.inputs):
                sources = [
                    (codes if is_code(one) else numbers).setdefault(one.column, len(codes if is_code(one) else numbers))
                    for one in feature.inputs
                ]
                stored.add(feature, sources, slot)
            else:
                inner.append(feature)
                computed.add(feature, [below.slot(one) for one in feature.inputs], slot)
        spans = {places[feature.window] for feature in inner}
        return Children(
            link=self.link,
            windows=np.array(windows, np.int64),
            conditions=conditions,
            numbers=tuple(numbers),
            codes=tuple(codes),
            stored=stored.done(),
            computed=computed.done() if inner else None,
            stage=below.done() if inner else None,
            widest=-1 if -1 in spans else max(spans, default=-1),
        )


class _Loops:
    """Collects aggregates whose inputs lie in the same matrices."""

    def __init__(self, places: dict[int | None, int], conditions: Sequence[Condition]) -> None:
        self.places = places
        self.conditions: dict[Condition | None, int] = {None: -1}
        self.conditions.update((condition, place) for place, condition in enumerate(conditions))
        self.entries: dict[str, list[tuple[int, int, int, int, int]]] = {
            family: [] for family in ("rows", "numbers", "shapes", "categories")
        }
        self.shares: list[tuple[int, int, int, int, float]] = []
        self.own: list[Own] = []

    def add(self, feature: Feature, sources: list[int], slot: int) -> None:
        primitive = feature.primitive
        assert primitive is not None
        window, condition = self.places[feature.window], self.conditions[feature.condition]
        name = _SAME_AS.get(primitive.name, primitive.name)
        if primitive.compute is not None:
            self.own.append(Own(feature, primitive, tuple(sources), condition, window, slot))
        elif name in _QUANTILES:
            share = _QUANTILES[name]
            share = dict(feature.parameters)["q"] if share is None else share
            self.shares.append((window, sources[0], condition, slot, share))
        elif not sources:
            self.entries["rows"].append((window, -1, condition, ROW_STATISTICS.index(name), slot))
        elif is_code(feature.inputs[0]):
            rank = int(dict(feature.parameters)["n"]) - 1 if name == "N_MOST_COMMON" else 0
            place = CATEGORY_STATISTICS.index("MODE" if name == "N_MOST_COMMON" else name) + rank
            self.entries["categories"].append((window, sources[0], condition, place, slot))
        elif name in SHAPE_STATISTICS:
            self.entries["shapes"].append((window, sources[0], condition, SHAPE_STATISTICS.index(name), slot))
        else:
            self.entries["numbers"].append((window, sources[0], condition, NUMBER_STATISTICS.index(name), slot))

    def done(self) -> Loops:
        return Loops(
            rows=self._both("rows", len(ROW_STATISTICS)),
            numbers=self._both("numbers", len(NUMBER_STATISTICS)),
            shapes=self._both("shapes", len(SHAPE_STATISTICS)),
            categories=self._both("categories", len(CATEGORY_STATISTICS)),
            quantiles=(self._quantiles(whole=True), self._quantiles(whole=False)),
            own=tuple(self.own),
        )

    def _both(self, family: str, statistics: int) -> tuple[Program | None, Program | None]:
        entries = self.entries[family]
        whole = [entry for entry in entries if entry[0] < 0]
        return (
            _program([(0, *entry[1:]) for entry in whole], 1, statistics),
            _program([entry for entry in entries if entry[0] >= 0], len(self.places) - 1, statistics),
        )

    def _quantiles(self, *, whole: bool) -> Quantiles | None:
        entries = sorted(entry for entry in self.shares if (entry[0] < 0) == whole)
        if not entries:
            return None
        series = list(dict.fromkeys((source, condition) for _, source, condition, _, _ in entries))
        ordered = sorted((series.index((s, c)), max(window, 0), slot, share) for window, s, c, slot, share in entries)
        return Quantiles(
            np.array(series, np.int64),
            np.array([entry[:3] for entry in ordered], np.int64),
            np.array([entry[3] for entry in ordered]),
        )


def _program(entries: list[tuple[int, int, int, int, int]], windows: int, statistics: int) -> Program | None:
    """Entries are (window, source, condition, statistic, slot)."""
    if not entries:
        return None
    # Two features may be the same statistic (ANY is MAX of truth values): the second has a series of its own.
    series: dict[tuple[int, int, int], int] = {}
    taken: dict[tuple[int, int, int], int] = {}
    for window, source, condition, statistic, slot in entries:
        again = 0
        while (window, series.setdefault((source, condition, again), len(series)), statistic) in taken:
            again += 1
        taken[window, series[source, condition, again], statistic] = slot
    statistics = max(statistics, 1 + max(entry[3] for entry in entries))
    slots = np.full((windows, len(series), statistics), -1, np.int64)
    for (window, place, statistic), slot in taken.items():
        slots[window, place, statistic] = slot
    coded = tuple((slot, source) for _, source, _, statistic, slot in entries if statistic not in (2, 3))
    return Program(np.array([pair[:2] for pair in series], np.int64), slots, coded)
