"""Rows changed directly: what is refused, when it is known, what it costs, and that reading is as of a full rewrite."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from holdfast.backend.datasets.changing import change
from holdfast.backend.store import Store
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, Column, DType, Schema, Table
from holdfast.core.timeline import instant
from holdfast.errors import ConflictError, ContractError, InputError, NotFoundError
from tests.integration.versions.world import World


def test_changes_are_versions_and_the_past_stays(world: World) -> None:
    first = world.tick()
    assert world.change("户", [{"号": 1, "值": "a"}, {"号": 2, "值": None}], "append").added == 2
    second = world.tick()
    made = world.change("户", [{"号": 2, "值": "b"}, {"号": 3, "值": "c"}], "upsert")
    assert (made.added, made.changed) == (1, 1)
    third = world.tick()
    assert world.change("户", [{"号": 1}], "delete").removed == 1
    assert world.rows("户") == [{"号": 2, "值": "b"}, {"号": 3, "值": "c"}]
    assert [version.rows["户"] for version in world.datasets.list()] == [0, 2, 3, 2]
    states = world.datasets.read()["户"].to_pylist()
    found = {
        (row["号"], row["值"], instant(row[KNOWN_FROM]), row[KNOWN_TO] and instant(row[KNOWN_TO])) for row in states
    }
    assert found == {(1, "a", first, third), (2, None, first, second), (2, "b", second, None), (3, "c", second, None)}
    assert world.rows("户", "v1.1") == [{"号": 1, "值": "a"}, {"号": 2, "值": None}]


def test_no_rows_are_no_version(world: World) -> None:
    before = world.datasets.get().id
    assert world.change("户", [], "append").version.id == before
    assert world.datasets.get().id == before


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ({"号": ["x"], "值": ["a"]}, {"column": "号"}),
        ({"号": [1.5], "值": ["a"]}, {"column": "号"}),
        ({"号": pa.array([1, 2**63], pa.uint64()), "值": ["a", "b"]}, {"column": "号", "row": 2}),
        ({"号": [1, 2, None], "值": ["a", "b", "c"]}, {"column": "号", "row": 3}),
        ({"号": [1], "值": [5]}, {"column": "值"}),
        ({"号": [1]}, {"column": "值"}),
        ({"号": [1], "值": ["a"], "别": [1]}, {"column": "别"}),
    ],
)
def test_what_does_not_fit_names_its_place(world: World, rows: dict[str, Any], place: dict[str, Any]) -> None:
    before = world.datasets.get().id
    with pytest.raises(ContractError) as refused:
        change(world.datasets, "户", pa.table(rows), "upsert")
    assert refused.value.where.items() >= ({"table": "户"} | place).items()
    assert world.datasets.get().id == before


def test_refuses_keys_twice_keys_there_keys_absent_and_tables_without_key(world: World) -> None:
    world.change("账", [{"名": "甲", "次": 1, "额": 1.0}], "append")
    before = world.datasets.get().id
    with pytest.raises(InputError, match="same key") as twice:
        world.change("账", [{"名": "乙", "次": n % 2, "额": None} for n in range(3)], "upsert")
    assert twice.value.where["rows"] == "1 and 3"
    with pytest.raises(ConflictError, match="there already") as there:
        world.change("账", [{"名": "甲", "次": 1, "额": 2.0}, {"名": "甲", "次": 2, "额": 2.0}], "append")
    assert there.value.where["keys"] == ["名=甲, 次=1"]
    with pytest.raises(NotFoundError, match="not in") as absent:
        world.change("账", [{"名": "甲", "次": 1}, {"名": "甲", "次": 3}], "delete")
    assert absent.value.where["keys"] == ["名=甲, 次=3"]
    for mode in ("upsert", "delete"):
        with pytest.raises(ConflictError, match="no key"):
            change(world.datasets, "记", pa.table({"时": [1], "事": ["x"]}), mode)
    assert world.datasets.get().id == before


def test_a_frame_of_pandas_and_naive_times(world: World) -> None:
    frame = pd.DataFrame({"时": pd.to_datetime(["2024-01-01 08:00", "2024-01-02 00:00"]), "事": ["x", None]})
    assert change(world.datasets, "记", frame, "append").added == 2
    # 08:00 in Shanghai.
    assert instant(world.rows("记")[0]["时"]) == 1_704_067_200_000_000


def test_rule_of_the_table_or_now(store: Store, tmp_path: Path) -> None:
    table = Table(
        "事", (Column("号", DType.INT, False), Column("时", DType.TIME, False)), ("号",), "时", {}, "event + 1d"
    )
    world = World(store, tmp_path / "p", Schema({"事": table}))
    day = 86_400_000_000
    rows = pa.table({"号": [1], "时": pa.array([day], pa.timestamp("us", "UTC"))})
    change(world.datasets, "事", rows, "append", known="rule")
    change(world.datasets, "事", rows.set_column(0, "号", [[2]]), "append")
    states = world.datasets.read()["事"]
    assert states[KNOWN_FROM].cast(pa.int64()).to_pylist() == [2 * day, world.clock.now()]


def test_by_the_rule_a_replaced_row_is_known_from_now_and_a_new_one_as_the_rule_says(
    store: Store, tmp_path: Path
) -> None:
    table = Table("事", (Column("号", DType.INT, False), Column("时", DType.TIME, False)), ("号",), "时", {}, "event")
    world = World(store, tmp_path / "p", Schema({"事": table}))
    rows = pa.table({"号": [1, 2, 3], "时": pa.array([5, 6, 7], pa.timestamp("us", "UTC"))})
    change(world.datasets, "事", rows.slice(1, 1), "append", known="rule")
    change(world.datasets, "事", rows, "upsert", known="rule")
    states = world.datasets.read(current_only=True)["事"].sort_by("号")
    assert states[KNOWN_FROM].cast(pa.int64()).to_pylist() == [5, world.clock.now(), 7]


def test_a_change_never_comes_before_the_state_it_follows(store: Store, tmp_path: Path) -> None:
    """A list is known from the end of its period, which may lie ahead: what replaces a row of it is known then."""
    table = Table("事", (Column("号", DType.INT, False), Column("时", DType.TIME, False)), ("号",), "时", {}, "event")
    world = World(store, tmp_path / "p", Schema({"事": table}))
    ahead = world.clock.now() + 10**12
    rows = pa.table({"号": [1, 2], "时": pa.array([ahead, 5], pa.timestamp("us", "UTC"))})
    change(world.datasets, "事", rows, "append", known="rule")
    change(world.datasets, "事", rows, "upsert")
    states = world.datasets.read(current_only=True)["事"].sort_by("号")
    assert states[KNOWN_FROM].cast(pa.int64()).to_pylist() == [ahead, world.clock.now()]


def test_the_cost_follows_the_change_and_reading_equals_a_rewrite(world: World) -> None:
    """Bytes of a change do not grow with the table, and nothing of the table is read for it but indexes of keys."""
    count = 200_000
    random = np.random.default_rng(1)
    big = pa.table({"号": np.arange(count), "值": random.integers(0, 10**9, count).astype(str)})
    change(world.datasets, "户", big, "append")

    def parts() -> int:
        return sum(
            file.stat().st_size for file in world.layout.private.rglob("*") if file.is_file() and "db" not in file.name
        )

    before, model = parts(), dict(zip(range(count), big["值"].to_pylist(), strict=True))
    for turn in range(3):
        keys = random.choice(count + 100, 200, replace=False)
        rows = pa.table({"号": keys, "值": [f"neu {turn} {key}" for key in keys]})
        model |= dict(zip(keys.tolist(), rows["值"].to_pylist(), strict=True))
        done = change(world.datasets, "户", rows, "upsert")
        assert done.version.rows["户"] == len(model)
    assert parts() - before < 60_000
    read = world.datasets.read(current_only=True)["户"]
    assert dict(zip(read["号"].to_pylist(), read["值"].to_pylist(), strict=True)) == model


def test_an_index_of_keys_that_is_lost_or_damaged_is_made_again(world: World) -> None:
    world.change("账", [{"名": f"名{n}", "次": n, "额": None} for n in range(50)], "append")
    files = list((world.layout.private / "keys").glob("*.keys"))
    assert len(files) == 1
    for harm in (b"", files[0].read_bytes()[:-8], files[0].read_bytes()[:-1] + b"\1", None):
        if harm is None:
            files[0].unlink()
        else:
            files[0].write_bytes(harm)
        fresh = type(world.datasets)(world.store, world.blobs, world.clock, world.layout)
        done = change(fresh, "账", pa.table({"名": ["名7", "名99"], "次": [7, 99], "额": [1.0, 2.0]}), "upsert")
        assert done.changed >= 1
        assert done.version.rows["账"] == fresh.read(current_only=True)["账"].num_rows == 51


def test_tables_that_were_read_are_freed_without_collecting_garbage(world: World) -> None:
    world.change("户", [{"号": 1, "值": "a"}], "append")
    gc.disable()
    try:
        read = weakref.ref(world.datasets.read(None, ["户"])["户"])
        assert read() is None
    finally:
        gc.enable()
