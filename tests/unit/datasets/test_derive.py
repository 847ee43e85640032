"""Derived tables, against their meaning written a second time: at every instant, look at the visible source rows."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.derive import derive, with_derived
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, Column, DType, Schema, Table

STAMP = pa.timestamp("us", tz="UTC")
TYPES = {"顾客": DType.CATEGORY, "at": DType.TIME, "国": DType.CATEGORY, "n": DType.INT}
COLUMNS = tuple(Column(name, dtype) for name, dtype in TYPES.items())
TIMED = Table("lines", COLUMNS, (), "at", {}, "event")
UNTIMED = Table("lines", COLUMNS, (), None, {}, "delivery")
END = 2**40


def source(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {
            "顾客": pa.array([r["key"] for r in rows], pa.string()),
            "at": pa.array([r["at"] for r in rows], STAMP),
            "国": pa.array([r["国"] for r in rows], pa.string()),
            "n": pa.array([r["n"] for r in rows], pa.int64()),
            KNOWN_FROM: pa.array([r["from"] for r in rows], STAMP),
            KNOWN_TO: pa.array([r["to"] for r in rows], STAMP),
            SOURCE_FILE: pa.array(["f"] * len(rows), pa.string()),
            SOURCE_ROW: pa.array(range(len(rows)), pa.int64()),
        }
    )


def plain(states: pa.Table) -> list[dict[str, Any]]:
    columns = {
        name: states[name].cast(pa.int64()) if pa.types.is_timestamp(states[name].type) else states[name]
        for name in states.column_names
    }
    return pa.table(columns).to_pylist()


def visible(states: list[dict[str, Any]], time: str | None, now: int) -> dict[str, dict[str, Any]]:
    """What the evaluator sees of a table at a cutoff, by key; every key at most once."""
    found: dict[str, dict[str, Any]] = {}
    for state in states:
        until = END if state[KNOWN_TO] is None else state[KNOWN_TO]
        if state[KNOWN_FROM] <= now < until and (time is None or state[time] < now):
            assert state["顾客"] not in found
            found[state["顾客"]] = state
    return found


def meaning(rows: list[dict[str, Any]], timed: bool, own_time: bool, now: int) -> dict[str, tuple[Any, ...]]:
    result = {}
    for key in {row["key"] for row in rows} - {None}:
        seen = [
            row
            for row in rows
            if row["key"] == key
            and row["from"] <= now < (END if row["to"] is None else row["to"])
            and (not timed or row["at"] < now)
        ]
        if not seen:
            continue

        def order(row: dict[str, Any]) -> tuple[Any, ...]:
            return (row["at"] if timed else 0, row["from"], row["国"] is not None, row["国"] or "")

        newest = max(seen, key=order)
        result[key] = (newest["国"], min(row["at"] for row in seen)) if own_time else (newest["国"],)
    return result


moments = st.integers(0, 12)
rows_of_lines = st.lists(
    st.builds(
        lambda key, at, country, n, first, late, life: {
            "key": key, "at": at, "国": country, "n": n, "from": at if late is None else first,
            "to": None if life is None else (at if late is None else first) + life,
        },
        st.sampled_from(["甲", "乙", None]), moments, st.sampled_from(["中", "英", None]), st.integers(0, 3), moments,
        st.sampled_from([None, 1]), st.sampled_from([None, None, 1, 4]),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(rows_of_lines, st.booleans(), st.booleans())
def test_at_every_instant_the_newest_visible_row_speaks(
    rows: list[dict[str, Any]], timed: bool, own_time: bool
) -> None:
    own_time &= timed
    names = ("顾客", "at", "国") if own_time else ("顾客", "国")
    columns = tuple(c for c in COLUMNS if c.name in names)
    table = Table("customers", columns, ("顾客",), "at" if own_time else None, {}, "event", "lines")
    states = plain(derive(table, TIMED if timed else UNTIMED, source(rows)))
    for now in range(-1, 20):
        found = {
            key: (state["国"], state["at"]) if own_time else (state["国"],)
            for key, state in visible(states, table.time, now).items()
        }
        assert found == meaning(rows, timed, own_time, now), now


@settings(max_examples=100, deadline=None)
@given(rows_of_lines, st.randoms())
def test_the_order_of_the_source_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    table = Table("customers", COLUMNS, ("顾客",), "at", {}, "event", "lines")
    shuffled = list(rows)
    random.shuffle(shuffled)

    def states(given: list[dict[str, Any]]) -> list[tuple[str, ...]]:
        found = plain(derive(table, TIMED, source(given)))
        return sorted(tuple(repr(v) for k, v in state.items() if k not in (SOURCE_FILE, SOURCE_ROW)) for state in found)

    assert states(rows) == states(shuffled)


def line(key: str | None, at: int, country: str | None, **more: Any) -> dict[str, Any]:
    return {"key": key, "at": at, "国": country, "n": 0, "from": at, "to": None} | more


CUSTOMERS = Table("customers", (COLUMNS[0], COLUMNS[2]), ("顾客",), None, {}, "event", "lines")


def test_a_changed_column_is_a_new_state_and_an_equal_one_is_none() -> None:
    rows = [line("甲", 10, "中"), line("甲", 20, "中"), line("甲", 30, "英"), line(None, 5, "法"), line("乙", 15, None)]
    found = plain(derive(CUSTOMERS, TIMED, source(rows)))
    assert [(s["顾客"], s["国"], s[KNOWN_FROM], s[KNOWN_TO], s[SOURCE_ROW]) for s in found] == [
        ("甲", "中", 11, 31, 0),
        ("甲", "英", 31, None, 2),
        ("乙", None, 16, None, 4),
    ]


def test_a_row_known_late_makes_its_key_known_late() -> None:
    assert plain(derive(CUSTOMERS, TIMED, source([line("甲", 10, "中", **{"from": 50})])))[0][KNOWN_FROM] == 50


def test_a_table_with_its_own_time_is_known_as_its_source_is() -> None:
    invoices = Table("invoices", COLUMNS[:3], ("顾客",), "at", {}, "event", "lines")
    found = plain(derive(invoices, TIMED, source([line("甲", 10, "中"), line("甲", 10, "中"), line("甲", 20, "英")])))
    assert [(s["at"], s["国"], s[KNOWN_FROM], s[KNOWN_TO]) for s in found] == [(10, "中", 10, 21), (10, "英", 21, None)]


def test_tables_derive_from_derived_ones_and_from_rows_without_history() -> None:
    countries = Table("国家", (COLUMNS[2],), ("国",), None, {}, "event", "customers")
    schema = Schema({"国家": countries, "customers": CUSTOMERS, "lines": TIMED})
    rows = source([line("甲", 10, "中"), line("乙", 20, "中")])
    bare = rows.drop_columns([KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW])
    found = with_derived(schema, {"lines": bare}, ["lines"])
    assert [(s["国"], s[KNOWN_FROM], s[SOURCE_FILE]) for s in plain(found["国家"])] == [("中", 11, None)]
    assert with_derived(schema, {}, []) == {}


@pytest.mark.parametrize("rows", [[], [line(None, 1, "中")]])
def test_nothing_gives_nothing(rows: list[dict[str, Any]]) -> None:
    found = derive(CUSTOMERS, TIMED, source(rows))
    assert found.num_rows == 0
    assert found.column_names == ["顾客", "国", KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW]
