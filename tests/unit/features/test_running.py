"""Very many rows, and very large numbers."""

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.formulas import parse_feature
from holdfast.core.features.world import World
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, Column, DType, Schema, Table
from holdfast.core.timeline import DAY

ROWS = 60_000
SCHEMA = Schema(
    {
        "shops": Table("shops", (Column("id", DType.INT),), ("id",)),
        "sales": Table("sales", (Column("no", DType.INT), Column("shop", DType.INT), Column("at", DType.TIME),
                                 Column("x", DType.FLOAT)), ("no",), "at", {"shop": "shops"}),
    }
)  # fmt: skip


def world(*, late: bool) -> World:
    """One shop whose sales are a day apart; with `late`, row 3 is known from the last day on."""
    stamp = pa.timestamp("us", "UTC")
    at = np.arange(ROWS) * DAY
    known = at.copy()
    if late:
        known[3] = (ROWS - 1) * DAY
    values = [None if n % 7 == 5 else float((n * 7919) % 1009) for n in range(ROWS)]
    sales = {"no": np.arange(ROWS), "shop": np.ones(ROWS, np.int64), "at": pa.array(at).cast(stamp), "x": values,
             KNOWN_FROM: pa.array(known).cast(stamp), KNOWN_TO: pa.nulls(ROWS, stamp)}  # fmt: skip
    return World.build(SCHEMA, {"shops": pa.table({"id": [1]}), "sales": pa.table(sales)})


@pytest.mark.parametrize("late", [False, True])
def test_a_long_history_is_walked_once_for_each_cutoff(late: bool) -> None:
    features = tuple(
        parse_feature(f"MEAN(sales.{name}(x BY shop))", SCHEMA, "shops")
        for name in ("PERCENTILE", "CUM_MAX", "CUM_SUM")
    )
    cutoffs = np.array([ROWS * DAY, 10 * DAY, 9 * DAY, ROWS * DAY])
    frame = evaluate(FeatureSet("shops", features, SCHEMA), world(late=late), pa.array([1] * 4), cutoffs)
    for place, cutoff in enumerate(cutoffs):
        rows = [n for n in range(cutoff // DAY) if not (late and n == 3 and cutoff < ROWS * DAY)]
        values = np.array([(n * 7919) % 1009 for n in rows if n % 7 != 5], np.float64)
        seen = np.zeros(1009)
        shares = []
        for count, value in enumerate(values.astype(int), 1):
            seen[value] += 1
            shares.append((seen[:value].sum() + (seen[value] + 1) / 2) / count)
        percentile, largest, total = (column[place] for column in frame.columns.values())
        assert percentile == pytest.approx(np.mean(shares), rel=1e-12)
        assert largest == np.maximum.accumulate(values).mean()
        assert total == pytest.approx(np.cumsum(values).mean(), rel=1e-12)


def test_what_is_too_large_is_infinite_and_does_no_harm_to_others() -> None:
    """The square of 1e200 is more than a float holds; the others' quantiles and the least are what they were."""
    stamp = pa.timestamp("us", "UTC")
    sales = {"no": range(4), "shop": [1, 1, 1, 2], "at": pa.array(range(4)).cast(stamp), "x": [1.0, 1e200, 2.0, 1e200]}
    built = World.build(SCHEMA, {"shops": pa.table({"id": [1, 2]}), "sales": pa.table(sales)})
    names = ("MEDIAN(sales.SQUARE(x))", "QUANTILE(sales.NEGATE(SQUARE(x)), q=0)", "QUANTILE(sales.SQUARE(x), q=0.75)",
             "QUANTILE(sales.NEGATE(SQUARE(x)), q=0.25)", "SUM(sales.SUBTRACT(SQUARE(x), SQUARE(x)))")  # fmt: skip
    features = tuple(parse_feature(name, SCHEMA, "shops") for name in names)
    frame = evaluate(FeatureSet("shops", features, SCHEMA), built, pa.array([1, 2]), np.array([DAY, DAY]))
    infinite = float("inf")
    assert [column.tolist() for column in frame.columns.values()] == [
        [4.0, infinite],
        [-infinite, -infinite],
        [infinite, infinite],
        [-infinite, -infinite],
        [0.0, 0.0],
    ]
