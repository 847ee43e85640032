"""Parts are coded by what their values look like: whatever those are, a plain Parquet reader has the same back."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.backend.datasets.coding import parquet_bytes

MANY = 20_000
random = np.random.default_rng(5)
EXTREMES = [-(2**63), 2**63 - 1, 0, -1, 1]
COLUMNS = {
    "as good as random": random.normal(size=MANY),
    "prices": np.round(random.normal(size=MANY), 2),
    "not a number": np.where(np.arange(MANY) % 2, np.nan, random.normal(size=MANY)),
    "zeros of both signs": np.tile([0.0, -0.0], MANY // 2),
    "sorted": np.arange(MANY),
    "few": random.integers(0, 4, MANY),
    "some": random.integers(0, 1000, MANY),
    "any": random.integers(-(2**63), 2**63 - 1, MANY),
    "the widest steps": np.array(EXTREMES * (MANY // 5)),
    "missing": pa.nulls(MANY, pa.int64()),
    "mostly missing": pa.array(np.arange(MANY), mask=np.arange(MANY) % 5000 != 0),
    "fractions missing": pa.nulls(MANY, pa.float64()),
    "times": pa.array(random.integers(0, 10**15, MANY)).cast(pa.timestamp("us", "UTC")),
    "truth": random.integers(0, 2, MANY).astype(bool),
    "small": pa.array(random.integers(0, 100, MANY), pa.int16()),
    "text": [f"键{n % 9}" if n % 4 else None for n in range(MANY)],
    "unique": [f"{n:09}" for n in range(MANY)],
    "none": pa.nulls(MANY, pa.string()),
}


@pytest.mark.parametrize("rows", [0, 1, 33, 4096, 4097, MANY])
def test_any_values_come_back(rows: int) -> None:
    table = pa.table(COLUMNS)
    whole = table.slice(0, rows)
    chunks = pa.concat_tables([table.slice(0, rows // 3), table.slice(rows // 3, rows - rows // 3)])
    for given in (whole, chunks):
        found = pq.read_table(io.BytesIO(parquet_bytes(given)))
        assert found.schema.equals(table.schema)
        for name in table.column_names:
            there, wanted = found[name].combine_chunks(), whole[name].combine_chunks()
            if pa.types.is_floating(wanted.type):  # NaN and the sign of zero too
                assert there.is_null().equals(wanted.is_null())
                there, wanted = (pa.array(side.fill_null(0.0).to_numpy().view(np.int64)) for side in (there, wanted))
            assert there.equals(wanted), name


@pytest.mark.parametrize("name", list(COLUMNS))
def test_no_column_takes_much_more_than_compressed_by_the_usual_way(name: str) -> None:
    table = pa.table({name: COLUMNS[name]})
    usual = io.BytesIO()
    pq.write_table(table, usual, compression="zstd")
    assert len(parquet_bytes(table)) <= 1.25 * len(usual.getvalue()) + 1000
