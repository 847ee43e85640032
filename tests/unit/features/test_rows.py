"""Raw rows of a request."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from holdfast.core.features.rows import typed_rows, typed_values
from holdfast.core.features.world import World
from holdfast.core.schema import Column, DType, Schema
from holdfast.core.timeline import DAY, NEVER, parse_instant
from holdfast.errors import InputError, NotFoundError

from .worlds import SCHEMA

ORDER = {"no": "甲", "customer_id": 1, "at": "2024-01-01", "total": 5, "渠道": "网店", "paid": True}


def test_rows_become_typed_tables() -> None:
    table = typed_rows(SCHEMA, {"orders": [ORDER, {"no": "乙", "at": "2024-01-01T00:00:00Z"}]})["orders"]
    assert table["at"].cast("int64").to_pylist() == [
        parse_instant("2024-01-01", "Asia/Shanghai"),
        parse_instant("2024-01-01", "UTC"),
    ]
    assert table["total"].to_pylist() == [5.0, None]


@pytest.mark.parametrize(
    ("rows", "wrong", "where"),
    [
        (
            {"orders": [{**ORDER, "total": "5"}]},
            "'total' must be a finite number, not str",
            {"row": 0, "column": "total"},
        ),
        ({"orders": [{**ORDER, "total": math.nan}]}, "'total' must be a finite number", {"column": "total"}),
        ({"orders": [{**ORDER, "customer_id": 1.5}]}, "'customer_id' must be a whole number", {"table": "orders"}),
        ({"orders": [{**ORDER, "customer_id": 2**70}]}, "'customer_id' must be a whole number", {}),
        ({"orders": [{**ORDER, "paid": 1}]}, "'paid' must be true or false", {}),
        ({"orders": [{**ORDER, "at": "soon"}]}, "'at' must be an ISO 8601 date or time", {}),
        ({"orders": [{**ORDER, "渠道": ["a"]}]}, "'渠道' must be text", {}),
        ({"orders": [{**ORDER, "渠道": "\ud800"}]}, "'渠道' must be text", {"row": 0}),
        ({"orders": [{**ORDER, "total": -math.inf}]}, "'total' must be a finite number", {"column": "total"}),
        ({"orders": [{**ORDER, "total": True}]}, "'total' must be a finite number", {"column": "total"}),
        ({"orders": [ORDER, {**ORDER, "no": None}]}, "'no' must be given", {"row": 1}),
        ({"orders": [{**ORDER, "when": 1}]}, "no column 'when'", {"row": 0}),
        ({"orders": {"no": "x"}}, "must be a list", {"table": "orders"}),
        ({"orders": ["x"]}, "must be an object", {"row": 0}),
    ],
)
def test_what_does_not_fit_is_named(
    rows: dict[str, list[dict[str, object]]], wrong: str, where: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=wrong) as caught:
        typed_rows(SCHEMA, rows)
    assert where.items() <= caught.value.where.items()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.INT, [1, None, 2.0, -(2**63), 2**63 - 1]),
        (DType.FLOAT, [1, None, 2.5, 2**53 + 1, 2**70, 1e308, -0.0]),
        (DType.TEXT, ["a", None, 5, "", "城"]),
        (DType.CATEGORY, ["a", 5]),
        (DType.BOOL, [True, None, False]),
        (DType.TIME, ["2024-01-01", None, "2024-01-01T00:00:00+08:00"]),
    ],
)
def test_a_value_is_read_alike_alone_and_among_others(dtype: DType, values: list[object]) -> None:
    column = Column("值", dtype)
    alone = [typed_values(column, [value], "Asia/Shanghai") for value in values]
    assert typed_values(column, values, "Asia/Shanghai").equals(pa.concat_arrays(alone))


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(NotFoundError, match="'ordres'"):
        typed_rows(SCHEMA, {"ordres": []})


def test_two_rows_of_one_key_are_refused() -> None:
    customer = {"id": 1, "region": None}
    with pytest.raises(InputError, match="two rows have the key id = 1") as caught:
        typed_rows(SCHEMA, {"customers": [customer, {"id": 2}, customer]})
    assert caught.value.where == {"table": "customers", "row": 2}


def test_two_stored_rows_of_one_key_at_once_are_refused() -> None:
    table = typed_rows(SCHEMA, {"customers": [{"id": 1}]})["customers"]
    with pytest.raises(InputError, match="two rows with id = 1"):
        World.build(SCHEMA, {"customers": pa.concat_tables([table, table])}).states("customers")


def test_rows_are_known_as_their_table_says() -> None:
    late = Schema({**SCHEMA.tables, "orders": replace(SCHEMA.tables["orders"], known="event + 3d")}, SCHEMA.timezone)
    table = typed_rows(late, {"orders": [ORDER]})["orders"]
    known = table["__known_from"].cast("int64").to_pylist()
    assert known == [parse_instant("2024-01-01", "Asia/Shanghai") + 3 * DAY]
    at = replace(SCHEMA.tables["customers"], known="since")
    table = typed_rows(Schema({"customers": at}), {"customers": [{"id": 1, "since": "2024-01-02"}, {"id": 2}]})
    assert table["customers"]["__known_from"].cast("int64").to_pylist() == [parse_instant("2024-01-02"), NEVER]
