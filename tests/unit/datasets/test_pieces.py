"""Large parts, read piece by piece, give what reading them whole and filtering would: every value, in order."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.datasets.keyfiles import KeyFiles
from holdfast.backend.datasets.parts import PERIOD_END, REMOVED, PartStore
from holdfast.backend.datasets.pieces import AT_ONCE, Piece, gathered, row_groups
from holdfast.backend.datasets.tables import Part
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, Column, DType, Table
from holdfast.errors import ConflictError

ROWS = 20_000


def content() -> pa.Table:
    """Columns of every kind of storage: repeating, single, unique and missing text, numbers with nulls."""
    numbers = np.arange(ROWS)
    return pa.table(
        {
            "a": [f"键{n % 7}" if n % 11 else None for n in range(ROWS)],
            "a.b": ["always the same"] * ROWS,
            "同": [*(["one"] * (ROWS - 1)), None],
            "unique": [f"{n:0150}" for n in range(ROWS)],
            "empty": [""] * ROWS,
            "none": pa.nulls(ROWS, pa.string()),
            "whole": pa.array(numbers, mask=numbers % 5 == 0),
            "truth": pa.array(numbers % 3 == 0),
        }
    )


@pytest.fixture(params=["row groups", "memory"])
def pieces(request: pytest.FixtureRequest, tmp_path: Path) -> list[Piece]:
    part = Part("t", "", ROWS, 0, supersedes=False, period_end=77)
    if request.param == "memory":
        return [Piece(part, 9000, content().slice(0, 9000)), Piece(part, ROWS - 9000, content().slice(9000))]
    # The unique text outgrows its dictionary and is written plainly from there on.
    pq.write_table(content(), tmp_path / "part", row_group_size=9000, dictionary_pagesize_limit=100_000)
    found = row_groups(part, tmp_path / "part")
    assert [piece.rows for piece in found] == [9000, 9000, 2000]
    return found


def masks() -> Iterator[np.ndarray]:
    random = np.random.default_rng(3)
    yield np.ones(ROWS, bool)
    yield np.zeros(ROWS, bool)
    yield random.random(ROWS) > 0.03
    yield np.arange(ROWS) >= 18_000
    yield np.arange(ROWS) < 9_000


def test_pieces_together_are_the_whole_filtered(pieces: list[Piece]) -> None:
    bounds = np.cumsum([piece.rows for piece in pieces])[:-1]
    expected = content()
    for mask in masks():
        found = gathered("t", expected.schema, pieces, np.split(mask, bounds))
        found.validate(full=True)
        assert found.equals(expected.filter(pa.array(mask)))
    assert gathered("t", expected.schema, pieces, [None] * len(pieces)).equals(expected)


def test_what_a_part_lacks_is_null_and_its_period_is_the_parts(pieces: list[Piece]) -> None:
    schema = pa.schema([("whole", pa.float64()), ("later", pa.string()), (PERIOD_END, pa.int64())])
    keeps = [np.arange(piece.rows) % 2 == 0 for piece in pieces]
    found = gathered("t", schema, pieces, keeps)
    assert found["later"].null_count == len(found) == ROWS // 2
    assert set(found[PERIOD_END].to_pylist()) == {77}
    assert found["whole"].to_pylist() == content()["whole"].cast(pa.float64()).to_pylist()[::2]


def test_values_that_cannot_be_widened_are_refused(pieces: list[Piece]) -> None:
    with pytest.raises(ConflictError, match="cannot become int64"):
        gathered("t", pa.schema([("unique", pa.int64()), ("a", pa.int64())]), pieces, [None] * len(pieces))


def stored(ids: np.ndarray, known: int, removed: np.ndarray | None = None) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "note": pa.array([f"n{known}"]).take(pa.array(np.zeros(n, np.int64))),
            KNOWN_FROM: pa.array(np.full(n, known), pa.int64()).cast(SYSTEM_FIELDS[KNOWN_FROM]),
            SOURCE_FILE: pa.array([f"f{known}"]).take(pa.array(np.zeros(n, np.int64))),
            SOURCE_ROW: pa.array(np.arange(n)),
            REMOVED: pa.array(np.zeros(n, bool) if removed is None else removed),
        }
    )


def delivered(store: PartStore, table: Table) -> tuple[list[Part], list[pa.Table]]:
    """A large part out of the order of its keys, an append, an update that removes rows, rows that return."""
    random = np.random.default_rng(5)
    n = AT_ONCE + 4_000
    changed = random.choice(n, 3_000, replace=False)
    steps = [
        stored(random.permutation(n), 1),
        stored(np.arange(n, n + 500), 2),
        stored(np.r_[changed, n + 3], 3, np.r_[np.arange(3_000) % 4 == 0, False]),
        stored(changed[:8], 4),
    ]
    parts = [store.write(table, rows, supersedes=place > 1, period_end=9) for place, rows in enumerate(steps)]
    return parts, steps


def test_current_rows_and_all_states_of_a_large_table(tmp_path: Path) -> None:
    table = Table("t", (Column("id", DType.INT, nullable=False), Column("note", DType.CATEGORY)), ("id",))
    store = PartStore(LocalBlobs(tmp_path / "blobs"), KeyFiles(tmp_path / "keys"))
    parts, steps = delivered(store, table)
    whole = pa.concat_tables(steps)
    ids, known = whole["id"].to_numpy(), whole[KNOWN_FROM].cast(pa.int64()).to_numpy()
    until = np.zeros(len(ids), np.int64)
    following: dict[int, int] = {}
    for place in range(len(ids) - 1, -1, -1):
        until[place] = following.get(int(ids[place]), 0)
        following[int(ids[place])] = int(known[place])
    ends = pa.array(until, mask=until == 0).cast(SYSTEM_FIELDS[KNOWN_TO])
    present = ~whole[REMOVED].to_numpy()
    expected = whole.drop_columns([REMOVED]).add_column(3, KNOWN_TO, ends)

    states, current = store.states(table, parts), store.states(table, parts, current_only=True)

    assert states.equals(expected.filter(pa.array(present)))
    assert current.equals(expected.filter(pa.array(present & (until == 0))))
    assert len(current) == AT_ONCE + 4_000 + 500 - 750 + 2
    some = pa.table({"id": ids[-8:]})
    last = store.last(table, parts, keys=some)
    assert sorted(last.rows["id"].to_pylist()) == sorted(ids[-8:].tolist())
    assert set(last.known_from.tolist()) == {4}


def test_what_was_read_is_freed_without_collecting_garbage(tmp_path: Path) -> None:
    table = Table("t", (Column("id", DType.INT, nullable=False), Column("note", DType.CATEGORY)), ("id",))
    store = PartStore(LocalBlobs(tmp_path / "blobs"), KeyFiles(tmp_path / "keys"))
    parts, _ = delivered(store, table)
    gc.collect()
    gc.disable()
    try:
        before = pa.total_allocated_bytes()
        found = store.states(table, parts, current_only=True)
        held = weakref.ref(found)
        assert pa.total_allocated_bytes() > before + 8 * AT_ONCE
        del found
        assert held() is None
        assert pa.total_allocated_bytes() < before + AT_ONCE
    finally:
        gc.enable()
