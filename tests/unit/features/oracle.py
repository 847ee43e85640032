"""The meaning of every primitive, written a second time: slowly, row by row, in plain Python."""

import math
import statistics
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from holdfast.core.features.definitions import Feature, Kind
from holdfast.core.timeline import DAY

from .worlds import ROW, SCHEMA, Generated

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
            return transform(feature.primitive, value(world, feature.inputs[0], row, key, cutoff, context), cutoff)
        case Kind.AGGREGATE:
            return aggregate(world, feature, key, cutoff, context)


def visible(row: ROW, table: str, cutoff: int) -> bool:
    time = SCHEMA.table(table).time
    happened = time is None or row[time] < cutoff
    return happened and row["known_from"] <= cutoff and (row["known_to"] is None or cutoff < row["known_to"])


def state(world: Generated, table: str, key: Any, cutoff: int) -> ROW | None:
    name = SCHEMA.table(table).key[0]
    found = [row for row in world.states[table] if row[name] == key and visible(row, table, cutoff)]
    assert len(found) <= 1
    return found[0] if found else None


def transform(primitive: str, moment: int | None, cutoff: int) -> float | None:
    if moment is None:
        return None
    if primitive == "TIME_SINCE":
        return (cutoff - moment) / 1e6
    local = (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(SCHEMA.timezone))
    values = {
        "YEAR": local.year,
        "MONTH": local.month,
        "DAY": local.day,
        "WEEKDAY": local.weekday(),
        "HOUR": local.hour,
        "IS_WEEKEND": local.weekday() >= 5,
    }
    return float(values[primitive])


def aggregate(world: Generated, feature: Feature, key: Any, cutoff: int, context: ROW) -> Any:
    link, condition = feature.link, feature.condition
    assert link is not None
    table = SCHEMA.table(link.child)
    rows = [row for row in world.states[link.child] if key is not None and row[link.column] == key]
    rows = [row for row in rows if visible(row, link.child, cutoff)]
    if feature.window:
        assert table.time is not None
        rows = [row for row in rows if row[table.time] >= cutoff - feature.window]
    if condition:
        rows = [row for row in rows if row[condition.column] is not None and row[condition.column] == condition.value]
    rows.sort(key=lambda row: order(link.child, row))
    times = [row[table.time] if table.time else 0 for row in rows]
    if feature.primitive == "COUNT":
        return float(len(rows))
    if feature.primitive.startswith("TIME_SINCE"):
        return None if not rows else (cutoff - times[-1 if feature.primitive.endswith("LAST") else 0]) / 1e6
    child_key = table.key[0] if len(table.key) == 1 else None
    inner = feature.inputs[0]
    found = [value(world, inner, row, row[child_key] if child_key else None, cutoff, context) for row in rows]
    pairs = [(t, v) for t, v in zip(times, found, strict=True) if v is not None]
    return of_values(feature.primitive, [t for t, _ in pairs], [v for _, v in pairs])


def order(table: str, row: ROW) -> tuple[Any, ...]:
    schema = SCHEMA.table(table)
    names = schema.key or schema.names
    content = tuple((row[name] is not None, row[name] if row[name] is not None else 0) for name in names)
    # Null categories and integers come first; other numbers can be null only beside an unequal key.
    return (row[schema.time] if schema.time else 0, *content)


def of_values(primitive: str, times: list[int], values: list[Any]) -> Any:
    if primitive == "SUM":
        total = 0.0
        for v in values:
            total += v
        return total
    if not values:
        return None
    mean = of_values("SUM", times, values) / len(values) if not isinstance(values[0], str) else None
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


def same(got: Any, wanted: Any, scale: float) -> bool:
    """Exact for text and counts; for sums of floats, within rounding of the largest value that took part."""
    if wanted is None or isinstance(wanted, str):
        return got is None or got == wanted if wanted is None else got == wanted
    return got is not None and math.isclose(got, float(wanted), rel_tol=1e-9, abs_tol=1e-9 + scale * 1e-14)
