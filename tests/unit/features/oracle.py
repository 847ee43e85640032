"""The meaning of every primitive, written a second time: slowly, row by row, in plain Python."""

import math
import operator as op
import statistics
from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from holdfast.core.features.definitions import Condition, Feature, Kind
from holdfast.core.schema import DType
from holdfast.core.timeline import DAY

from .worlds import ROW, Generated

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def value(world: Generated, feature: Feature, row: ROW | None, key: Any, cutoff: int, context: ROW) -> Any:
    """The feature of one row (None: the entity has none) with that key at a cutoff, strictly."""
    match feature.kind:
        case Kind.CONTEXT:
            return context[feature.column]
        case Kind.CUTOFF:
            return cutoff
        case Kind.COLUMN:
            return None if row is None else row[feature.column]
        case Kind.DIRECT:
            assert feature.link is not None
            linked = None if row is None else row[feature.link.column]
            parent = state(world, feature.link.parent, linked, cutoff)
            return value(world, feature.inputs[0], parent, linked, cutoff, context)
        case Kind.TRANSFORM:
            found = [value(world, inner, row, key, cutoff, context) for inner in feature.inputs]
            return transform(world, feature, found, cutoff)
        case Kind.WITHIN:
            return within(world, feature, row, cutoff)
        case Kind.AGGREGATE:
            return aggregate(world, feature, key, cutoff, context)


def visible(world: Generated, row: ROW, table: str, cutoff: int) -> bool:
    time = world.schema.table(table).time
    happened = time is None or row[time] < cutoff
    return happened and row["known_from"] <= cutoff and (row["known_to"] is None or cutoff < row["known_to"])


def state(world: Generated, table: str, key: Any, cutoff: int) -> ROW | None:
    name = world.schema.table(table).key[0]
    found = [row for row in world.states[table] if row[name] == key and visible(world, row, table, cutoff)]
    assert len(found) <= 1
    return found[0] if found else None


def transform(world: Generated, feature: Feature, found: list[Any], cutoff: int) -> float | None:
    primitive, one = feature.primitive.name, found[0]
    if primitive == "IS_NULL":
        return float(one is None)
    if primitive in ("AND", "OR"):
        deciding = primitive == "OR"
        if any(v is not None and bool(v) is deciding for v in found):
            return float(deciding)
        return None if None in found else float(not deciding)
    if None in found:
        return None
    if feature.inputs[0].dtype is DType.TIME:
        return calendar(primitive, one, cutoff, world.schema.timezone)
    bound = dict(feature.parameters).get("value")
    with_two = found[-1]
    plain = {
        "NOT": lambda: not one,
        "ABSOLUTE": lambda: abs(one),
        "NEGATE": lambda: -one,
        "SQUARE": lambda: one**2,
        "SQUARE_ROOT": lambda: math.sqrt(one) if one >= 0 else None,
        "NATURAL_LOGARITHM": lambda: math.log(one) if one > 0 else None,
        "NUM_CHARACTERS": lambda: len(one),
        "NUM_WORDS": lambda: len(one.split()),
        "ABOVE": lambda: one > bound,
        "BELOW": lambda: one < bound,
        "ADD": lambda: one + with_two,
        "SUBTRACT": lambda: one - with_two,
        "MULTIPLY": lambda: one * with_two,
        "DIVIDE": lambda: one / with_two if with_two else None,
        "GREATER_THAN": lambda: one > with_two,
        "EQUAL": lambda: one == with_two,
    }
    got = plain[primitive]()
    return None if got is None else float(got)


def within(world: Generated, feature: Feature, row: ROW | None, cutoff: int) -> float | None:
    link, primitive = feature.link, feature.primitive.name
    if row is None or row[link.column] is None:
        return None
    table = world.schema.table(link.child)
    rows = [r for r in world.states[link.child] if r[link.column] == row[link.column]]
    rows = sorted((r for r in rows if visible(world, r, link.child, cutoff)), key=lambda r: order(world, link.child, r))
    rows = rows[: next(i for i, r in enumerate(rows) if r is row) + 1]
    if primitive == "CUM_COUNT":
        return float(len(rows))
    if primitive == "TIME_SINCE_PREVIOUS":
        return (rows[-1][table.time] - rows[-2][table.time]) / 1e6 if len(rows) > 1 else None
    values = [r[feature.inputs[0].column] for r in rows]
    here = values[-1]
    if primitive == "LAG":
        back = 1 + int(dict(feature.parameters)["periods"])
        return values[-back] if len(values) >= back else None
    if here is None:
        return None
    if primitive == "DIFF":
        return here - values[-2] if len(values) > 1 and values[-2] is not None else None
    known = [v for v in values if v is not None]
    total = 0.0
    for v in known:
        total += v
    less, equal = sum(v < here for v in known), sum(v == here for v in known)
    return {
        "CUM_SUM": total,
        "CUM_MEAN": total / len(known),
        "CUM_MIN": min(known),
        "CUM_MAX": max(known),
        "PERCENTILE": (less + (equal + 1) / 2) / len(known),
    }[primitive]


def calendar(primitive: str, moment: int, cutoff: int, timezone: str) -> float:
    if primitive == "TIME_SINCE":
        return (cutoff - moment) / 1e6
    local = (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(timezone))
    values = {
        "YEAR": local.year,
        "MONTH": local.month,
        "DAY": local.day,
        "WEEKDAY": local.weekday(),
        "HOUR": local.hour,
        "IS_WEEKEND": local.weekday() >= 5,
        "QUARTER": (local.month + 2) // 3,
        "WEEK": local.isocalendar().week,
        "DAY_OF_YEAR": local.timetuple().tm_yday,
        "MINUTE": local.minute,
    }
    return float(values[primitive])


def aggregate(world: Generated, feature: Feature, key: Any, cutoff: int, context: ROW) -> Any:
    link, condition = feature.link, feature.condition
    assert link is not None
    table = world.schema.table(link.child)
    rows = [row for row in world.states[link.child] if key is not None and row[link.column] == key]
    rows = [row for row in rows if visible(world, row, link.child, cutoff)]
    if feature.window:
        assert table.time is not None
        rows = [row for row in rows if row[table.time] >= cutoff - feature.window]
    if condition:
        rows = [row for row in rows if met(row[condition.column], condition)]
    rows.sort(key=lambda row: order(world, link.child, row))
    if feature.window:
        rows.reverse()  # newest first: the walk of windows
    times = [row[table.time] if table.time else 0 for row in rows]
    if feature.primitive.name == "COUNT":
        return float(len(rows))
    if feature.primitive.name.startswith("TIME_SINCE"):
        return None if not rows else (cutoff - (max if feature.primitive.name.endswith("LAST") else min)(times)) / 1e6
    if feature.primitive.name == "AVG_TIME_BETWEEN":
        return (max(times) - min(times)) / 1e6 / (len(times) - 1) if len(times) > 1 else None
    child_key = table.key[0] if len(table.key) == 1 else None
    inner = feature.inputs[0]
    found = [value(world, inner, row, row[child_key] if child_key else None, cutoff, context) for row in rows]
    pairs = [(t, v) for t, v in zip(times, found, strict=True) if v is not None]
    name = feature.primitive.name
    if feature.window:
        name = {"FIRST": "LAST", "LAST": "FIRST"}.get(name, name)
    return of_values(name, [t for t, _ in pairs], [v for _, v in pairs], dict(feature.parameters))


def met(value: Any, condition: Condition) -> bool:
    compare = {"=": op.eq, "!=": op.ne, "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}[condition.operator]
    return value is not None and compare(value, condition.value)


def order(world: Generated, table: str, row: ROW) -> tuple[Any, ...]:
    schema = world.schema.table(table)
    names = schema.key or schema.names
    content = tuple((row[name] is not None, row[name] if row[name] is not None else 0) for name in names)
    # Null categories and integers come first; other numbers can be null only beside an unequal key.
    return (row[schema.time] if schema.time else 0, *content)


def of_values(primitive: str, times: list[int], values: list[Any], parameters: dict[str, float]) -> Any:
    if primitive in ("NUM_VALUES", "NUM_TRUE"):
        return float(len(values) if primitive == "NUM_VALUES" else sum(values))
    if primitive == "SUM":
        total = 0.0
        for v in values:
            total += v
        return total
    if not values:
        return None
    mean = of_values("SUM", times, values, {}) / len(values) if not isinstance(values[0], str) else None
    match primitive:
        case "MEAN" | "PERCENT_TRUE":
            return mean
        case "MIN":
            return float(min(values))
        case "MAX":
            return float(max(values))
        case "FIRST":
            return values[0]
        case "LAST":
            return values[-1]
        case "NUM_UNIQUE":
            return float(len(set(values)))
        case "MODE":
            counts = Counter(values)
            return min(v for v in counts if counts[v] == max(counts.values()))
        case "N_MOST_COMMON":
            ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
            place = int(parameters["n"]) - 1
            return ranked[place][0] if place < len(ranked) else None
        case "ENTROPY":
            shares = [count / len(values) for count in Counter(values).values()]
            return -sum(share * math.log(share) for share in shares)
        case "ANY" | "ALL":
            return float((any if primitive == "ANY" else all)(values))
        case "VARIANCE":
            return statistics.variance([float(v) for v in values]) if len(values) > 1 else None
        case "SKEW":
            return skewness([float(v) for v in values])
        case "MEDIAN" | "QUANTILE":
            place = parameters.get("q", 0.5) * (len(values) - 1)
            ascending = sorted(float(v) for v in values)
            low, high = ascending[math.floor(place)], ascending[math.ceil(place)]
            return low + (high - low) * (place - math.floor(place))
        case "STD":
            return statistics.stdev([float(v) for v in values]) if len(values) > 1 else None
        case "TREND":
            days = [(t - times[0]) / DAY for t in times]
            if len(set(days)) < 2:
                return None
            try:
                return statistics.linear_regression(days, [float(v) for v in values]).slope
            except statistics.StatisticsError:
                return None
    raise AssertionError(primitive)


def skewness(values: list[float]) -> float | None:
    n = len(values)
    if n < 3:
        return None
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / n
    second, third = (float(sum((v - mean) ** power for v in exact) / n) for power in (2, 3))
    return 0.0 if second == 0 else third / second**1.5 * math.sqrt(n * (n - 1)) / (n - 2)


def same(got: Any, wanted: Any, scale: float) -> bool:
    """Exact for text and counts; for sums of floats, within rounding of the largest value that took part."""
    if wanted is None or isinstance(wanted, str):
        return got is None or got == wanted if wanted is None else got == wanted
    return got is not None and math.isclose(got, float(wanted), rel_tol=1e-9, abs_tol=1e-9 + scale * 1e-14)
