"""Primitives of a user's own: definition, use, errors, and the same bits in batch and alone."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from holdfast.core.features.definitions import Feature, FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.plugins import own_primitive
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.features.world import World
from holdfast.core.timeline import DAY
from holdfast.errors import ConfigError, InputError
from holdfast.primitives import Aggregation, Transform

from .test_promises import ASKED, CONTEXT, bits, run
from .worlds import SCHEMA, Generated, generated, stored

# They are written as a user would, without self, annotations and ClassVar.
# ruff: noqa: N805, RUF012
# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call"


class Spread(Aggregation):
    name = "SPREAD"
    words = "spread of {0}"
    unit = "input"

    def compute(values):
        values.sort()
        return values[-1] - values[0]


class Gini(Aggregation):
    name = "GINI"
    words = "Gini coefficient of {0:the}"
    compiled = True

    def compute(values):
        ordered = np.sort(np.abs(values))
        n, total = len(ordered), ordered.sum()
        if total == 0:
            return np.nan
        return 2 * (np.arange(1, n + 1) * ordered).sum() / (n * total) - (n + 1) / n


class Weighted(Aggregation):
    name = "WEIGHTED"
    takes = ("number", "truth")
    parameters = {"share": 0.5}
    compiled = True

    def compute(values, flags, share):
        return (values * (flags + share)).sum()


class Ratio(Transform):
    name = "RATIO"
    takes = ("number", "number")
    words = "{0} over {1:the}"
    parameters = {"least": 1.0}

    def compute(one, two, least):
        return None if two == 0 else max(one / two, least)


class Halved(Transform):
    name = "HALVED"
    compiled = True

    def compute(value):
        return value / 2


class Broken(Aggregation):
    name = "BROKEN"

    def compute(values):
        return values[99]


OWN = tuple(own_primitive(kind) for kind in (Spread, Gini, Weighted, Ratio, Halved))
INCLUDE = (
    "GINI(orders[payer].total WHERE paid = true, 3d)",
    "WEIGHTED(orders[payer].total, orders[payer].paid, share=0.25)",
    "WEIGHTED(orders[payer].SUM(items.数量), orders[payer].paid, 2d)",
    "RATIO(credit, 地区.税率)",
    "SPREAD(orders[payer].HALVED(total))",
    "MEAN(orders[payer].SPREAD(items.数量), 2d)",
)
OPTIONS = Options(depth=2, primitives=("COUNT", "SPREAD", "GINI", "HALVED"), windows=("all", "2d"), own=OWN, limit=5000,
                  include=INCLUDE)  # fmt: skip
SET = synthesise(SCHEMA, "customers", CONTEXT, OPTIONS).feature_set


def test_synthesis_asks_them_by_name() -> None:
    assert {"SPREAD(orders[payer].total)", "GINI(orders[payer].total, 2d)", "HALVED(credit)",
            "SPREAD(orders[payer].HALVED(total))", *INCLUDE[1:2]} <= set(SET.names)  # fmt: skip
    assert SET.feature("GINI(orders[payer].total, 2d)").describe() == (
        "Gini coefficient of total of orders by payer in the last 2d"
    )
    assert not any("GINI" in name for name in synthesise(SCHEMA, "customers", (), Options(own=OWN)).feature_set.names)


@settings(max_examples=50, deadline=None)
@given(generated(), ASKED)
def test_one_entity_from_raw_rows_has_the_bits_of_the_batch(history: Generated, asked: list[tuple[int, int]]) -> None:
    batch = run(SET, World.build(SCHEMA, history.tables()), asked)
    for row, (entity, cutoff) in enumerate(asked):
        online = World.build(SCHEMA, typed_rows(SCHEMA, history.known(cutoff)))
        assert bits(run(SET, online, [(entity, cutoff)]), 0) == bits(batch, row)


def customer(name: str, totals: list[float], own: tuple[object, ...] = OWN) -> float:
    """The feature of a customer with credit 3 and one paid order a day."""
    options = replace(OPTIONS, own=own, include=(name,), limit=1)
    feature_set = synthesise(SCHEMA, "customers", (), options).feature_set
    base = {"known_from": 0, "known_to": None}
    orders = [
        {"no": f"o{i}", "customer_id": 1, "payer": 1, "at": i * DAY, "total": total, "渠道": "z", "paid": True, **base}
        for i, total in enumerate(totals)
    ]
    person = {"id": 1, "region": None, "城市": "é", "credit": 3.0, "since": 0, **base}
    rows = {"地区": [], "customers": [person], "orders": orders, "items": []}
    world = World.build(SCHEMA, {table: stored(SCHEMA.table(table), found) for table, found in rows.items()})
    # Two cutoffs share rows: what a primitive does to its arrays is not seen by the other.
    frame = evaluate(feature_set, world, pa.array([1, 1]), np.array([20 * DAY, 21 * DAY], np.int64))
    one, two = (float(value) for value in frame.columns[feature_set.feature(name).name])
    assert one == two
    return one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPREAD(orders[payer].total)", 7.0),
        ("GINI(orders[payer].total)", pytest.approx(2 * (1 + 2 * 4 + 3 * 8) / (3 * 13) - 4 / 3)),
        ("WEIGHTED(orders[payer].total, orders[payer].paid, share=0.5)", 19.5),
        ("HALVED(credit)", 1.5),
        ("RATIO(credit, HALVED(credit), least=1)", 2.0),
        ("RATIO(credit, HALVED(credit), least=5)", 5.0),
    ],
)
def test_values(name: str, value: float) -> None:
    assert customer(name, [8.0, 1.0, 4.0]) == value


def test_failing_code_is_named() -> None:
    with pytest.raises(InputError, match="BROKEN failed: IndexError") as caught:
        customer("BROKEN(orders[payer].total)", [1.0], (*OWN, own_primitive(Broken)))
    assert caught.value.where == {"feature": "BROKEN(orders[payer].total)", "primitive": "BROKEN"}


def test_definitions_hold_the_hash_of_the_code() -> None:
    data = SET.to_dict()
    assert FeatureSet.from_dict(data, OWN) == SET
    with pytest.raises(ConfigError, match="no primitive"):
        FeatureSet.from_dict(data)
    changed = [replace(one, code="0" * 64) if one.name == "GINI" else one for one in OWN]
    with pytest.raises(ConfigError, match="'GINI' was changed since"):
        FeatureSet.from_dict(data, changed)
    assert Feature.from_dict(SET.feature("HALVED(credit)").to_dict(), changed) == SET.feature("HALVED(credit)")


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"name": "gini"}, "no name of a primitive"),
        ({"name": "MEAN"}, "is a primitive of Holdfast already"),
        ({"takes": ("category",)}, "takes"),
        ({"gives": "text"}, "gives 'text'"),
        ({"takes": ("number", "number")}, "takes 1 arguments, not 2"),
        ({"words": "{3}"}, r"name \{3\}"),
        ({"compute": 3}, "it is no primitive"),
    ],
)
def test_a_wrong_class_says_what_is_wrong(told: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        own_primitive(type("Wrong", (Spread,), {"name": "WRONG", **told}))
