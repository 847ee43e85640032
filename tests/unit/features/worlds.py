"""Small generated worlds, with corrections, late rows, ties, nulls, Unicode.

Regions ← customers ← orders ← items; and a school: students ← enrolments → courses → staff, whose managers are staff.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, Column, DType, Schema, Table
from holdfast.core.timeline import DAY, isoformat

C, T = Column, DType
SCHEMA = Schema(
    {
        "地区": Table("地区", (C("id", T.TEXT), C("税率", T.FLOAT), C("等级", T.CATEGORY)), ("id",)),
        "customers": Table(
            "customers",
            (C("id", T.INT), C("region", T.TEXT), C("城市", T.CATEGORY), C("credit", T.FLOAT), C("since", T.TIME)),
            ("id",),
            links={"region": "地区"},
        ),
        "orders": Table(
            "orders",
            (C("no", T.TEXT), C("customer_id", T.INT), C("payer", T.INT), C("at", T.TIME), C("total", T.FLOAT),
             C("渠道", T.CATEGORY), C("paid", T.BOOL)),
            ("no",),
            "at",
            {"customer_id": "customers", "payer": "customers"},
        ),
        "items": Table(
            "items",
            (C("order_no", T.TEXT), C("at", T.TIME), C("数量", T.INT), C("kind", T.CATEGORY), C("memo", T.TEXT)),
            (),
            "at",
            {"order_no": "orders"},
        ),
    },
    "Asia/Shanghai",
)  # fmt: skip
SCHOOL = Schema(
    {
        "staff": Table(
            "staff",
            (C("id", T.INT), C("manager", T.INT), C("salary", T.FLOAT), C("职称", T.CATEGORY)),
            ("id",),
            links={"manager": "staff"},
        ),
        "courses": Table("courses", (C("id", T.TEXT), C("teacher", T.INT), C("credits", T.INT), C("title", T.TEXT)),
                         ("id",), links={"teacher": "staff"}),
        "students": Table("students", (C("id", T.INT), C("mentor", T.INT), C("级", T.INT)), ("id",),
                          links={"mentor": "staff"}),
        "enrolments": Table(
            "enrolments",
            (C("student", T.INT), C("course", T.TEXT), C("at", T.TIME), C("grade", T.FLOAT), C("passed", T.BOOL)),
            (),
            "at",
            {"student": "students", "course": "courses"},
        ),
    },
    "Asia/Shanghai",
)  # fmt: skip
"""A link table between many and many, and a table that links to itself."""
STAFF, COURSES, STUDENTS = [1, 2, 3], ["数学", "k"], [7, 8]
CUSTOMERS, ORDERS, REGIONS = [1, 2**60, 2**60 + 1], ["甲", "乙", "c", "d"], ["东", "w"]
WORDS = ["网店", "门店", "é", "z", None]
ROW = dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """States per table: dicts of columns plus `known_from` and `known_to` (None while current), in days."""

    states: dict[str, list[ROW]]
    schema: Schema = SCHEMA

    def tables(self) -> dict[str, pa.Table]:
        """Stored tables with all states."""
        return {name: stored(self.schema.table(name), rows) for name, rows in self.states.items()}

    def known(self, cutoff: int) -> dict[str, list[ROW]]:
        """What a caller who knows all that was known at the cutoff would send: JSON rows per table."""
        return {
            name: [
                json_row(self.schema.table(name), row)
                for row in rows
                if row["known_from"] <= cutoff and (row["known_to"] is None or cutoff < row["known_to"])
            ]
            for name, rows in self.states.items()
        }


def stored(table: Table, rows: list[ROW]) -> pa.Table:
    columns = {c.name: pa.array([row[c.name] for row in rows], c.dtype.arrow) for c in table.columns}
    stamp = pa.timestamp("us", tz="UTC")
    columns[KNOWN_FROM] = pa.array([row["known_from"] for row in rows], stamp)
    columns[KNOWN_TO] = pa.array([row["known_to"] for row in rows], stamp)
    columns[SOURCE_FILE] = pa.array([f"data/raw/2024-01/{table.name}.csv" for _ in rows], pa.string())
    columns[SOURCE_ROW] = pa.array(range(2, len(rows) + 2), pa.int64())
    return pa.table(columns)


def json_row(table: Table, row: ROW) -> ROW:
    return {
        c.name: isoformat(row[c.name]) if c.dtype is T.TIME and row[c.name] is not None else row[c.name]
        for c in table.columns
    }


moments = st.integers(0, 6).map(lambda day: day * DAY // 2)
numbers = st.one_of(st.none(), st.sampled_from([0.1, 0.3, 1e16, -1e16, -0.0, 3.0]))
words = st.sampled_from(WORDS)


@st.composite
def histories(draw: st.DrawFn, table: Table, keys: list[Any], columns: dict[str, st.SearchStrategy[Any]]) -> list[ROW]:
    """For each key, no row, one, or several states one after another (a removal leaves a gap)."""
    rows = []
    for key in keys:
        times = sorted(draw(st.lists(moments, max_size=3, unique=True)))
        happened = draw(st.sampled_from([DAY, DAY, 2 * DAY]))
        for position, known_from in enumerate(times):
            ends = [*times[position + 1 : position + 2]]
            known_to = ends[0] if ends else draw(st.sampled_from([None, known_from + 3 * DAY]))
            row = {name: draw(values) for name, values in columns.items()}
            row |= {table.key[0]: key, "known_from": known_from, "known_to": known_to}
            if table.time:
                row[table.time] = happened
            rows.append(row)
    return rows


@st.composite
def generated(draw: st.DrawFn) -> Generated:
    """A world of a handful of rows with plenty of ties."""
    regions = draw(histories(SCHEMA.table("地区"), REGIONS, {"税率": numbers, "等级": words}))
    customers = draw(
        histories(
            SCHEMA.table("customers"),
            CUSTOMERS,
            {
                "region": st.sampled_from([*REGIONS, "nowhere", None]),
                "城市": words,
                "credit": numbers,
                "since": st.one_of(st.none(), moments),
            },
        )
    )
    orders = draw(
        histories(
            SCHEMA.table("orders"),
            ORDERS,
            {
                "customer_id": st.sampled_from([*CUSTOMERS, 9]),
                "payer": st.sampled_from([*CUSTOMERS, None]),
                "total": numbers,
                "渠道": words,
                "paid": st.sampled_from([True, False, None]),
            },
        )
    )
    item = st.fixed_dictionaries(
        {
            "order_no": st.sampled_from([*ORDERS, "lost", None]),
            "at": moments,
            "数量": st.one_of(st.none(), st.sampled_from([-3, 0, 2, 2**60, 2**60 + 1])),
            "kind": words,
            "memo": words,
            "late": st.integers(0, 4),
        }
    )
    items = [
        {**row, "known_from": row["at"] + row["late"] * DAY, "known_to": None}
        for row in draw(st.lists(item, max_size=14))
    ]
    return Generated({"地区": regions, "customers": customers, "orders": orders, "items": items})


@st.composite
def schools(draw: st.DrawFn) -> Generated:
    """A school; staff may manage themselves, or each other in a circle."""
    small = st.sampled_from([0.5, -2.0, 3.0, None])
    who = st.sampled_from([*STAFF, None])
    staff = {"manager": who, "salary": small, "职称": words}
    courses = {
        "teacher": who,
        "credits": st.sampled_from([1, 4, None]),
        "title": st.sampled_from(["a b", "数学 一", None]),
    }
    enrolment = st.fixed_dictionaries(
        {
            "student": st.sampled_from([*STUDENTS, None]),
            "course": st.sampled_from([*COURSES, "gone"]),
            "at": moments,
            "grade": small,
            "passed": st.sampled_from([True, False, None]),
            "late": st.integers(0, 2),
        }
    )
    enrolments = [
        {**row, "known_from": row["at"] + row["late"] * DAY, "known_to": None}
        for row in draw(st.lists(enrolment, max_size=10))
    ]
    return Generated(
        {
            "staff": draw(histories(SCHOOL.table("staff"), STAFF, staff)),
            "courses": draw(histories(SCHOOL.table("courses"), COURSES, courses)),
            "students": draw(histories(SCHOOL.table("students"), STUDENTS, {"mentor": who, "级": st.integers(1, 3)})),
            "enrolments": enrolments,
        },
        SCHOOL,
    )
