"""Child rows behind a link: their order, their columns in it, and that threads make the same of them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features import ranges
from holdfast.core.features.world import World
from holdfast.core.schema import Column, DType, Link, Schema, Table

LATEST = 2**63 - 1


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 128, 129, 1000])
@pytest.mark.parametrize("moments", [3, 1_000_000])
def test_rows_by_code_then_time_and_equal_ones_as_they_came(size: int, moments: int) -> None:
    rng = np.random.default_rng(size)
    codes = rng.permutation(np.repeat([-1, 0, 2, 3], size)).astype(np.int64)
    times = rng.integers(-moments, moments, len(codes))
    times[rng.random(len(codes)) < 0.1] = LATEST
    times[rng.random(len(codes)) < 0.1] = -LATEST
    order, sorted_times, offsets = ranges.sort_blocks(codes, times, 4)
    wanted = np.lexsort((times, codes))[size:]
    assert order.tolist() == wanted.tolist()
    assert sorted_times.tolist() == times[wanted].tolist()
    assert offsets.tolist() == [0, size, size, 2 * size, 3 * size]


SCHEMA = Schema({
    "shops": Table("shops", (Column("id", DType.INT),), ("id",)),
    "sales": Table(
        "sales",
        (
            Column("id", DType.INT), Column("shop", DType.INT), Column("at", DType.TIME), Column("price", DType.FLOAT),
            Column("pieces", DType.INT), Column("few", DType.INT), Column("paid", DType.BOOL),
            Column("gift", DType.BOOL), Column("种类", DType.CATEGORY),
        ),
        ("id",), "at", {"shop": "shops"},
    ),
})  # fmt: skip
LINK = Link("sales", "shop", "shops")
NUMBERS = ("price", "pieces", "few", "paid", "gift")


def sales(rows: int) -> dict[str, pa.Table]:
    """Shops, and sales with every kind of number, with nulls and without, some at the same moment."""
    rng = np.random.default_rng(8)
    shops = rng.integers(0, 40, rows)
    some = rng.random(rows) < 0.2
    return {
        "shops": pa.table({"id": pa.array(np.arange(50))}),
        "sales": pa.table({
            "id": pa.array(rng.permutation(rows)),
            "shop": pa.array(shops, mask=rng.random(rows) < 0.05),
            "at": pa.array(rng.integers(0, 500, rows), mask=rng.random(rows) < 0.05).cast(DType.TIME.arrow),
            "price": pa.array(np.where(some, -0.0, rng.normal(size=rows)), mask=rng.random(rows) < 0.1),
            "pieces": pa.array(rng.integers(-9, 9, rows) * (2**53 + 1)),
            "few": pa.array(rng.integers(0, 9, rows), mask=some),
            "paid": pa.array(some),
            "gift": pa.array(rng.random(rows) < 0.5, mask=some),
            "种类": pa.array(np.array(["x", "电", "é"])[rng.integers(0, 3, rows)], mask=rng.random(rows) < 0.1),
        }),
    }  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_threads_make_the_same(rows: int) -> None:
    tables = sales(rows)
    alone, shared = World.build(SCHEMA, tables), World.build(SCHEMA, tables)
    with ThreadPoolExecutor(3) as pool:
        one, two = alone.index(LINK), shared.index(LINK, pool)
        assert one.order.tolist() == two.order.tolist()
        assert one.offsets.tolist() == two.offsets.tolist()
        assert one.times.tolist() == two.times.tolist()
        shared.arrange([(LINK, NUMBERS, ("种类",))], pool)
        shared.tables = {}  # all that is asked is there already
        numbers = shared.sorted_numbers(LINK, NUMBERS)
        assert alone.sorted_numbers(LINK, NUMBERS).tobytes() == numbers.tobytes()
        codes = shared.sorted_codes(LINK, ("种类",))
        assert alone.sorted_codes(LINK, ("种类",)).tobytes() == codes.tobytes()


def test_gathered_numbers_are_the_columns() -> None:
    tables = sales(5_000)
    gathering, reading = World.build(SCHEMA, tables), World.build(SCHEMA, tables)
    order = gathering.index(LINK).order
    for name, values in zip(NUMBERS, gathering.sorted_numbers(LINK, NUMBERS), strict=True):
        column = reading.tables["sales"].column(name)
        assert isinstance(column, np.ndarray)
        assert column.dtype == np.float64
        assert values.tobytes() == column[order].tobytes(), name
