"""Keys that are asked for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.formulas import parse_feature
from holdfast.core.features.keys import ArrowKeys, DenseKeys
from holdfast.core.features.world import World
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.core.timeline import DAY
from holdfast.errors import InputError


@pytest.mark.parametrize("asked", [[1, "a"], [2**70], [[1]], ["a"], [1.5], np.array([1, "a"], object)])
def test_what_can_be_no_key_is_said(asked: Any) -> None:
    column = [pa.chunked_array([pa.array([1, 2, 3])])]
    for keys in (DenseKeys.fitting("顾客", column), ArrowKeys("顾客", column)):
        assert keys is not None
        with pytest.raises(InputError, match="keys of '顾客' are int64"):
            keys.codes(asked)


def test_keys_of_arrays_are_told_apart_as_those_of_tables_are() -> None:
    """Fractions are no whole numbers, and a moment is the same one as an integer and in Arrow."""
    columns = (Column("at", DType.TIME), Column("size", DType.FLOAT), Column("n", DType.INT))
    tables = {
        "sizes": Table("sizes", columns[1:], ("size",)),
        "moments": Table("moments", columns, ("at",), links={"size": "sizes"}),
    }
    arrays = {"at": np.array([0, DAY]), "size": np.array([1.5, 1.25]), "n": np.array([1, 2])}
    sizes = {name: arrays[name] for name in ("size", "n")}
    world = World.build(Schema(tables), {"sizes": sizes, "moments": arrays})
    found = world.codes("sizes", pa.array([1.25, 1.5, 1.0, None])).tolist()
    assert found == [1, 0, -1, -1]
    assert world.codes("moments", pa.array([DAY, 0, 1], pa.timestamp("us", "UTC"))).tolist() == [1, 0, -1]


def test_rows_of_one_moment_come_in_the_same_order_from_arrays() -> None:
    """Rows without a key are told apart by their content, in which a null is less than every whole number."""
    stamp = pa.timestamp("us", "UTC")
    columns = (Column("up", DType.INT), Column("at", DType.TIME), Column("n", DType.INT), Column("x", DType.FLOAT))
    schema = Schema({"p": Table("p", columns[:1], ("up",)), "c": Table("c", columns, (), "at", {"up": "p"})})
    zeros = np.zeros(2, np.int64)
    arrays = {"up": zeros + 1, "at": zeros, "n": np.array([5, np.nan]), "x": np.array([1.0, 2.0])}
    table = pa.table({"up": [1, 1], "at": pa.array([0, 0], stamp), "n": [5, None], "x": [1.0, 2.0]})
    for rows in (table, arrays):
        feature_set = FeatureSet("p", (parse_feature("FIRST(c.x)", schema, "p"),), schema)
        world = World.build(schema, {"p": {"up": np.array([1])}, "c": rows})
        frame = evaluate(feature_set, world, pa.array([1]), np.array([DAY]))
        assert [column.tolist() for column in frame.columns.values()] == [[2.0]]
