"""Promise 1 and no leakage: batch, one entity from raw rows, and shuffled storage give the same bits."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.features import evaluate as evaluating
from holdfast.core.features import stages
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.features.world import World
from holdfast.core.schema import Column, DType
from holdfast.core.timeline import DAY

from .worlds import CUSTOMERS, ORDERS, SCHEMA, Generated, generated, moments

CONTEXT = (Column("渠道", DType.CATEGORY), Column("budget", DType.FLOAT))
OPTIONS = Options(
    depth=3,
    windows=("all", "2d"),
    conditions={("orders", "渠道"): ("网店", "é")},
    limit=5000,
    include=(
        "MEAN(orders[payer].total WHERE paid = true, 3d)",
        "MAX(orders[payer].SUM(items.数量), 2d)",
        "地区.等级",
        *(
            f"{name}(orders[payer].total{tail})"
            for name in ("MEDIAN", "VARIANCE", "SKEW", "NUM_VALUES", "TREND")
            for tail in ("", ", 2d", " WHERE 渠道 = 网店", " WHERE total > 0.2, 3d")
        ),
        "QUANTILE(orders[payer].total, q=0.75)",
        "QUANTILE(orders[payer].SUM(items.数量), q=0.3, 2d)",
        "MEDIAN(orders[payer].LAST(items.数量))",
        *(f"{name}(orders[payer].paid{tail})" for name in ("ANY", "ALL", "NUM_TRUE") for tail in ("", ", 1d")),
        *(
            f"{name}(orders[payer].渠道{tail})"
            for name in ("ENTROPY", "MODE", "NUM_UNIQUE", "FIRST", "LAST")
            for tail in (", 3d", " WHERE paid != true")
        ),
        "N_MOST_COMMON(orders[payer].渠道, n=2)",
        "N_MOST_COMMON(orders[payer].渠道, n=3, 2d)",
        "N_MOST_COMMON(orders[payer].MODE(items.kind), n=2, 3d)",
        # The same statistic under two names: neither may take the other's place.
        *("MAX(orders[payer].paid)", "SUM(orders[payer].paid, 1d)", "N_MOST_COMMON(orders[payer].渠道, n=1, 3d)"),
        *("MIN(orders[payer].paid)", "MEAN(orders[payer].paid)", "QUANTILE(orders[payer].total, q=0.5)"),
        "AVG_TIME_BETWEEN(orders[payer])",
        "AVG_TIME_BETWEEN(orders[payer] WHERE 渠道 != 网店, 2d)",
        "TIME_SINCE_LAST(orders[payer] WHERE total <= 0.3, 2d)",
        "TIME_SINCE_FIRST(orders[payer] WHERE paid = false)",
        *(f"{name}(since)" for name in ("QUARTER", "WEEK", "DAY_OF_YEAR", "MINUTE")),
        "IS_NULL(credit)",
        "IS_NULL(城市)",
        "ABSOLUTE(credit)",
        "NEGATE(credit)",
        "SQUARE(credit)",
        "SQUARE_ROOT(credit)",
        "NATURAL_LOGARITHM(credit)",
        "NUM_CHARACTERS(城市)",
        "NUM_WORDS(城市)",
        "ABOVE(credit, value=0.2)",
        "BELOW(credit, value=1e3)",
        "NOT(IS_WEEKEND(since))",
        "ADD(credit, 地区.税率)",
        "SUBTRACT(credit, 地区.税率)",
        "MULTIPLY(credit, SUM(orders[payer].total))",
        "DIVIDE(SUM(orders[payer].total), COUNT(orders[payer]))",
        "GREATER_THAN(credit, 地区.税率)",
        "EQUAL(城市, 地区.等级)",
        "AND(ABOVE(credit, value=0.2), IS_WEEKEND(since))",
        "OR(ABOVE(credit, value=0.2), IS_WEEKEND(since))",
        *(
            f"LAST(orders[payer].{name}(total BY payer))"
            for name in ("DIFF", "CUM_SUM", "CUM_MEAN", "CUM_MIN", "CUM_MAX", "PERCENTILE", "LAG")
        ),
        "MEAN(orders[payer].LAG(total BY payer, periods=2), 2d)",
        "MAX(orders[payer].CUM_COUNT(BY payer))",
        "SUM(orders[payer].TIME_SINCE_PREVIOUS(BY payer))",
        "地区.COUNT(customers)",
        "地区.SUM(customers.COUNT(orders[customer_id]))",
    ),
)


def feature_set(entity: str, *, include_cutoff: bool = False) -> FeatureSet:
    others = (
        "MODE(items.kind WHERE 数量 = 1152921504606846977)",
        "customers[payer].地区.等级",
        "NUM_TRUE(items.ABOVE(数量, value=0), 2d)",
        "DIFF(total BY customer_id)",
        "customers[payer].地区.税率",
    )
    include = OPTIONS.include if entity == "customers" else others
    depth = 3 if entity == "customers" else 2
    options = replace(OPTIONS, depth=depth, include=include, include_cutoff=include_cutoff)
    return synthesise(SCHEMA, entity, CONTEXT, options).feature_set


SETS = {
    "customers": feature_set("customers"),
    "orders": feature_set("orders"),
    "customers, cutoff included": feature_set("customers", include_cutoff=True),
}
ASKED = st.lists(st.tuples(st.integers(0, 4), moments), min_size=1, max_size=6)
ENTITIES = {"customers": [*CUSTOMERS, 77, 9], "orders": [*ORDERS, "lost"]}


def bits(frame: FeatureFrame, row: int) -> dict[str, object]:
    """Each value so that equal means the same bits (NaN included)."""
    return {
        name: column.decode()[row] if isinstance(column, Categories) else column[row].tobytes()
        for name, column in frame.columns.items()
    }


def run(feature_set: FeatureSet, world: World, asked: list[tuple[int, int]]) -> FeatureFrame:
    context = {"渠道": pa.array(["网店"] * len(asked)), "budget": pa.array([1.5] * len(asked))}
    entities = pa.array([ENTITIES[feature_set.entity][entity] for entity, _ in asked])
    return evaluate(feature_set, world, entities, np.array([cutoff for _, cutoff in asked], np.int64), context)


@settings(max_examples=150, deadline=None)
@given(generated(), ASKED, st.sampled_from(sorted(SETS)))
def test_one_entity_from_raw_rows_has_the_bits_of_the_batch(
    history: Generated, asked: list[tuple[int, int]], name: str
) -> None:
    feature_set = SETS[name]
    assert len(feature_set.features) > 70
    batch = run(feature_set, World.build(SCHEMA, history.tables()), asked)
    for row, (entity, cutoff) in enumerate(asked):
        online = World.build(SCHEMA, typed_rows(SCHEMA, history.known(cutoff)))
        assert bits(run(feature_set, online, [(entity, cutoff)]), 0) == bits(batch, row)


@settings(max_examples=100, deadline=None)
@given(generated(), ASKED, st.sampled_from(sorted(SETS)), st.randoms(use_true_random=False))
def test_storage_order_never_shows(
    history: Generated, asked: list[tuple[int, int]], name: str, rng: random.Random
) -> None:
    shuffled = Generated({name: rng.sample(rows, len(rows)) for name, rows in history.states.items()})
    one = run(SETS[name], World.build(SCHEMA, history.tables()), asked)
    two = run(SETS[name], World.build(SCHEMA, shuffled.tables()), asked)
    assert [bits(one, row) for row in range(len(asked))] == [bits(two, row) for row in range(len(asked))]


@settings(max_examples=30, deadline=None)
@given(generated(), ASKED, st.sampled_from(sorted(SETS)))
def test_threads_and_parts_never_show(history: Generated, asked: list[tuple[int, int]], name: str) -> None:
    """What only large tables are given, for these small ones: a pool, and parts of a few pairs."""
    asked = asked * 5
    one = run(SETS[name], World.build(SCHEMA, history.tables()), asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluating, "_SMALL", -1)
        patch.setattr(stages, "_SMALLEST", 1)
        patch.setattr(stages, "_CELLS", 50)
        two = run(SETS[name], World.build(SCHEMA, history.tables()), asked)
    assert [bits(one, row) for row in range(len(asked))] == [bits(two, row) for row in range(len(asked))]


@settings(max_examples=100, deadline=None)
@given(generated(), generated(), st.sampled_from(["customers", "orders"]), st.integers(0, 4), moments)
def test_nothing_that_was_not_known_before_the_cutoff_changes_a_feature(
    history: Generated, future: Generated, name: str, entity: int, cutoff: int
) -> None:
    """Rows that happened at or after the cutoff, or became known after it, come and go: the features stay."""

    def hidden(table: str, row: dict[str, object]) -> bool:
        time = SCHEMA.table(table).time
        happened = row[time] if time else -DAY
        assert isinstance(happened, int)
        known_from, known_to = row["known_from"], row["known_to"]
        assert isinstance(known_from, int)
        assert known_to is None or isinstance(known_to, int)
        return happened >= cutoff or known_from > cutoff or (known_to is not None and known_to <= cutoff)

    seen = {name: [row for row in rows if not hidden(name, row)] for name, rows in history.states.items()}
    planted = {
        name: [*seen[name], *(row for row in rows if hidden(name, row) and not _clashes(name, row, seen[name]))]
        for name, rows in future.states.items()
    }
    before = run(SETS[name], World.build(SCHEMA, Generated(seen).tables()), [(entity, cutoff)])
    after = run(SETS[name], World.build(SCHEMA, Generated(planted).tables()), [(entity, cutoff)])
    assert bits(before, 0) == bits(after, 0)


def _clashes(table: str, row: dict[str, object], rows: list[dict[str, object]]) -> bool:
    """Whether a planted state would be valid at the same time as another of its key, which no store allows."""
    key = SCHEMA.table(table).key
    return bool(key) and any(other[key[0]] == row[key[0]] for other in rows)
