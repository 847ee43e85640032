"""Our values against those that Featuretools 1.31 calculated (benchmarks/features/record_featuretools.py wrote them).

Each recorded case is its own `save_features` document, read by `from_featuretools` and evaluated on the same rows.
Values are equal (numbers to 1e-9 relative) but for the differences argued below; what has no translation is listed too,
so that a new primitive fails here until its line in NOT_YET is taken out.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features.definitions import Feature, Kind
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.exchange import from_featuretools
from holdfast.core.features.frame import Categories
from holdfast.core.features.primitives import PRIMITIVES
from holdfast.core.features.world import World
from holdfast.core.schema import DType, Schema
from holdfast.core.timeline import parse_duration, parse_instant

HERE = Path(__file__).parent
WORLDS = {
    name: json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in ("shop", "transfers", "staff")
}
CASES = [(world, case["name"]) for world, data in WORLDS.items() for case in data["cases"]]

DIFFERENCES = {
    "FIRST": "the first value that is known; Featuretools takes the first row's, also when it is null",
    "LAST": "the last value that is known; Featuretools takes the last row's, also when it is null",
    "PERCENT_TRUE": "the share of the values that are known; Featuretools counts null as false",
    "TREND": "per day, from two rows on; Featuretools' unit follows the smallest part of the first time that is not "
    "zero (hours, minutes ...), so that one more row may change it, and it wants three rows",
    "ENTROPY": "of the values that are known; Featuretools counts null as a value of its own",
    "IS_NULL": "true of a row that is not there yet; Featuretools says nothing of it",
    "NUM_UNIQUE": "null where no value is known; Featuretools gives 0 where rows are there and all their values null",
}
"""Primitives whose values differ by nulls or units: every difference must have one of them in its name."""

NOT_YET = {
    "CountAboveMean": "COUNT_ABOVE_MEAN", "Kurtosis": "KURTOSIS", "MaxMinDelta": "MAX_MIN_DELTA",
    "NUniqueDays": "N_UNIQUE_DAYS", "PercentUnique": "PERCENT_UNIQUE",
}  # fmt: skip
"""Featuretools' primitives that Holdfast does not have; take a line out when one arrives."""

LEFT_OUT = (
    r"there is no primitive (NMostCommon|Percentile) here",  # several values there; a rank among all entities there
    r"\w+ over 2 links at once is no stack of aggregates",
    r"(MODE|NUM_UNIQUE) takes category columns, and \w+\(at\) is int here",  # calendar features are numbers here
    r"the condition '.*' is not a column that equals a value",  # it is a column of the parent
    r"a window of 2 'mo' has no fixed length",
    r"features of the type GroupByTransformFeature are not read",
)
"""Reasons for which features stay out for good, or until definitions can say them."""


def tables(data: dict[str, Any], schema: Schema) -> dict[str, pa.Table]:
    def array(values: list[Any], dtype: DType) -> pa.Array:
        if dtype is DType.TIME:
            return pa.array([None if v is None else parse_instant(v) for v in values], pa.int64()).cast(dtype.arrow)
        return pa.array(values, dtype.arrow)

    return {
        table.name: pa.table({c.name: array(data["tables"][table.name][c.name], c.dtype) for c in table.columns})
        for table in schema.tables.values()
    }


def windowed(feature: Feature, window: int) -> Feature:
    """Featuretools' training window cuts the rows of every table off: a window on every aggregate."""
    inputs = tuple(windowed(below, window) for below in feature.inputs)
    return replace(feature, inputs=inputs, window=window if feature.kind is Kind.AGGREGATE else None)


def same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None or isinstance(theirs, str):
        return bool(ours == theirs)
    return math.isclose(ours, float(theirs), rel_tol=1e-9)


@pytest.mark.parametrize(("world", "name"), CASES)
def test_values_are_those_of_featuretools(world: str, name: str) -> None:
    data = WORLDS[world]
    case = next(case for case in data["cases"] if case["name"] == name)
    schema, options = Schema.from_dict(data["schema"]), case["options"]
    inclusive = options.get("include_cutoff_time", True)
    found = from_featuretools(data["documents"][case["document"]], schema, include_cutoff=inclusive)
    feature_set = found.feature_set
    assert feature_set is not None
    if window := options.get("training_window"):
        length = parse_duration(window.replace(" days", "d"))
        cut = tuple(replace(windowed(f, length), alias=f.name) for f in feature_set.features)
        feature_set = replace(feature_set, features=cut)
    cutoffs = np.array([parse_instant(text) for text in case["cutoffs"]], np.int64)
    world_of = World.build(schema, tables(data, schema))
    frame = evaluate(feature_set, world_of, pa.array(case["entities"], pa.int64()), cutoffs)
    unlike = []
    for feature in feature_set.features:
        values = frame.columns[feature.name]
        known = values.decode() if isinstance(values, Categories) else values
        ours = [None if isinstance(v, float) and math.isnan(v) else v for v in known.tolist()]
        theirs = case["values"][feature.name]
        if not all(same(a, b) for a, b in zip(ours, theirs, strict=True)):
            argued = any(re.search(rf"\b{primitive}\(", feature.name) for primitive in DIFFERENCES)
            unlike += [] if argued else [(feature.name, ours, theirs)]
    assert unlike == []
    assert set(found.left_out) | {f.name for f in feature_set.features} == {
        n.partition(": ")[2] for n in data["documents"][case["document"]]["feature_list"]
    }
    reasons = {reason for reason in found.left_out.values() if not any(re.fullmatch(p, reason) for p in LEFT_OUT)}
    absent = {f"there is no primitive {name} here" for name in NOT_YET}
    assert reasons - absent == set()


def test_what_is_not_there_yet_is_not_there() -> None:
    assert [ours for ours in NOT_YET.values() if ours in PRIMITIVES] == []


def test_the_differences_are_what_they_are_said_to_be() -> None:
    """Of customers at one cutoff: where no value is null, FIRST, LAST and PERCENT_TRUE are equal; TREND is in hours."""
    data = WORLDS["shop"]
    case = data["cases"][0]
    schema = Schema.from_dict(data["schema"])
    rows = data["tables"]["orders"]
    full = [
        customer
        for customer in case["entities"]
        if all(
            None not in (rows["total"][i], rows["paid"][i], rows["channel"][i])
            for i, owner in enumerate(rows["customer"])
            if owner == customer and parse_instant(rows["at"][i]) <= parse_instant(case["cutoffs"][0])
        )
    ]
    assert full
    found = from_featuretools(data["documents"][case["document"]], schema, include_cutoff=True).feature_set
    assert found is not None
    cutoffs = np.full(len(case["entities"]), parse_instant(case["cutoffs"][0]), np.int64)
    frame = evaluate(found, World.build(schema, tables(data, schema)), pa.array(case["entities"], pa.int64()), cutoffs)
    for name in ("FIRST(orders.total)", "LAST(orders.total)", "PERCENT_TRUE(orders.paid)"):
        ours = np.asarray(frame.columns[name])
        assert all(same(None if math.isnan(ours[i]) else ours[i], case["values"][name][i]) for i in full)
    trend, theirs = np.asarray(frame.columns["TREND(orders.total, at)"]), case["values"]["TREND(orders.total, at)"]
    ratios = [a / b for a, b in zip(trend, theirs, strict=True) if b]
    assert ratios
    assert all(math.isclose(ratio, 24, rel_tol=1e-9) for ratio in ratios)


def test_its_last_time_index_leaks_and_ours_cannot() -> None:
    """An item after the cutoff pulls an old order into Featuretools' training window: the earlier value moves."""
    data = json.loads((HERE / "leak.json").read_text(encoding="utf-8"))
    schema, theirs, ours = Schema.from_dict(data["schema"]), [], []
    for case in data["cases"]:
        theirs.append(case["values"]["COUNT(orders)"])
        found = from_featuretools(data["documents"][case["document"]], schema, include_cutoff=True).feature_set
        assert found is not None
        cut = replace(found, features=tuple(windowed(feature, parse_duration("45d")) for feature in found.features))
        cutoffs = np.array([parse_instant(text) for text in case["cutoffs"]], np.int64)
        world = World.build(schema, tables(case, schema))
        frame = evaluate(cut, world, pa.array(case["entities"], pa.int64()), cutoffs)
        ours.append(frame.columns["COUNT(orders, 45d)"].tolist())
    assert theirs == [[0], [1]]
    assert ours == [[0.0], [0.0]]


def test_a_link_of_a_table_with_itself_is_beyond_featuretools() -> None:
    assert WORLDS["staff"]["refused"].startswith("RecursionError")
