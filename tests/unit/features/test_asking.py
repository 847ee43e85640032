"""Which rows a target asks, and their labels."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from holdfast.backend.features.asking import Asked, ask, hidden_columns, label_columns
from holdfast.backend.settings import TargetSettings
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, Column, DType, Schema, Table
from holdfast.core.timeline import DAY
from holdfast.errors import ConfigError, InputError, NotFoundError

C, T = Column, DType
SCHEMA = Schema(
    {
        "店": Table("店", (C("id", T.INT), C("churned", T.BOOL), C("tier", T.CATEGORY)), ("id",)),
        "visits": Table(
            "visits",
            (C("店id", T.INT), C("at", T.TIME), C("kind", T.CATEGORY), C("分", T.INT)),
            ("店id", "at"),
            "at",
            {"店id": "店"},
        ),
    },
    "Asia/Shanghai",
)


def system(rows: int, known: list[int]) -> dict[str, pa.Array]:
    stamp = pa.timestamp("us", tz="UTC")
    return {
        KNOWN_FROM: pa.array(known, stamp),
        KNOWN_TO: pa.nulls(rows, stamp),
        SOURCE_FILE: pa.array(["f.csv"] * rows),
        SOURCE_ROW: pa.array(range(rows), pa.int64()),
    }


VISITS = pa.table(
    {
        "店id": pa.array([2, 1, 1, None, 3], pa.int64()),
        "at": pa.array([3 * DAY, 3 * DAY, DAY, DAY, None], pa.timestamp("us", tz="UTC")),
        "kind": ["例行", "投诉", "例行", "例行", "例行"],
        "分": pa.array([90, None, 80, 70, 60], pa.int64()),
        **system(5, [3 * DAY, 4 * DAY, DAY, DAY, DAY]),
    }
)
SHOPS = pa.table(
    {
        "id": pa.array([1, 2], pa.int64()),
        "churned": [True, False],
        "tier": ["金", "银"],
        **system(2, [0, 0]),
    }
)
TABLES = {"店": SHOPS, "visits": VISITS}


def asked(**target: object) -> Asked:
    target = {"from": "visits", "entity": "店", "cutoff": "at"} | target
    return ask(SCHEMA, TABLES, "t", TargetSettings.model_validate(target), end=9 * DAY)


def test_rows_come_in_order_and_what_cannot_be_asked_is_counted() -> None:
    found = asked(label="分", context=["kind"])
    assert found.task == "regression"
    assert found.entities.to_pylist() == [1, 2]
    assert found.cutoffs.tolist() == [DAY, 3 * DAY]
    assert found.context["kind"].to_pylist() == ["例行", "例行"]
    assert found.labels["t"].tolist() == [80, 90]
    assert found.dropped == {"no entity": 1, "no cutoff": 1, "no label": 1}


def test_labels_are_sql_over_the_asking_row_and_the_tables() -> None:
    sql = "exists(select 1 from visits v where v.店id = t.店id and v.at > t.at and v.kind = '投诉')"
    found = asked(labels={"投诉 next": sql, "low": "分 < 85"}, where="kind = '例行'")
    assert found.task == "multilabel"
    assert found.labels["投诉 next"].tolist() == [1, 0]
    assert found.labels["low"].tolist() == [1, 0]


def test_a_null_label_is_no_label() -> None:
    found = asked(labels={"low": "分 < 85", "any": "true"})
    assert found.entities.to_pylist() == [1, 1, 2]
    assert np.isnan(found.labels["low"]).tolist() == [False, True, False]


def test_labels_are_known_with_their_row_unless_said() -> None:
    assert asked(labels={"any": "true"}).label_known.tolist() == [DAY, 4 * DAY, 3 * DAY]
    later = asked(labels={"any": "true"}, label_known="t.at + interval 2 day").label_known
    assert later.tolist() == [3 * DAY, 5 * DAY, 5 * DAY]


def test_a_table_may_ask_about_itself() -> None:
    target = TargetSettings.model_validate({"from": "店", "label": "churned"})
    found = ask(SCHEMA, TABLES, "churn", target, end=9 * DAY)
    assert found.task == "binary"
    assert found.cutoffs.tolist() == [9 * DAY, 9 * DAY]
    assert label_columns(SCHEMA, target) == ("churned",)


def test_columns_that_the_label_mentions_are_hidden_where_the_entity_asks() -> None:
    target = TargetSettings.model_validate({"from": "店", "label": "not \"churned\" and tier = '金'"})
    assert label_columns(SCHEMA, target) == ("churned", "tier")


def test_what_labels_are_made_of_is_hidden_in_all_tables_of_the_same_rows() -> None:
    """The newest line's `left` is the customer's, and the latest customer's the city's."""
    line = (C("no", T.INT), C("customer", T.INT), C("city", T.CATEGORY), C("left", T.BOOL), C("paid", T.FLOAT))
    tables = {
        "lines": Table("lines", line, ("no",), links={"customer": "customers"}),
        "customers": Table("customers", line[1:4], ("customer",), links={"city": "cities"}, source="lines"),
        "cities": Table("cities", line[2:4], ("city",), source="customers"),
        "others": Table("others", (C("left", T.BOOL),)),
    }
    target = TargetSettings.model_validate({"from": "customers", "label": "left"})
    assert hidden_columns(Schema(tables), target) == ["lines.left", "customers.left", "cities.left"]
    later = {"entity": "customers", "from": "lines", "label": "t.left", "label_known": "today()"}
    assert hidden_columns(Schema(tables), TargetSettings.model_validate(later)) == [
        "lines.left",
        "customers.left",
        "cities.left",
    ]


def test_classes_are_sorted() -> None:
    found = asked(label="kind")
    assert found.task == "multiclass"
    assert found.classes == ("例行", "投诉")
    assert found.labels["t"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("target", "key", "wrong"),
    [
        ({"label": "分", "where": "kid = 1"}, "targets.t.where", "kid"),
        ({"labels": {"好": "分 > 1", "坏": "feen < 1"}}, "targets.t.labels.坏", "feen"),
        ({"label": "分 >"}, "targets.t.label", "syntax"),
        ({"label": "分", "label_known": "tomorrow"}, "targets.t.label_known", "tomorrow"),
        ({"label": "kind", "task": "regression"}, "targets.t.label", "must be a number"),
        ({"label": "kind", "task": "binary"}, "targets.t.label", "true/false or 0/1"),
        ({"label": "分", "task": "binary"}, "targets.t.label", "0 or 1; there is 80"),
        ({"label": "分", "cutoff": "kind"}, "targets.t.cutoff", "is no time"),
        (
            {"label": "(select count(*) from read_csv('/etc/passwd'))"},
            "targets.t.label",
            "disabled|permission|read_csv",
        ),
        ({"label": "t.分 > 50), (1"}, "targets.t", "one SQL expression"),
        ({"label": "random() > 0.5"}, "targets.t.label", "'random' gives another answer each time"),
        ({"label": "t.at < now()"}, "targets.t.label", "'now' gives another answer"),
        ({"label": "t.at < current_timestamp"}, "targets.t.label", "'current_timestamp' gives another answer"),
        ({"label": "Kind", "context": ["kind"]}, "targets.t.label", "is a context column too"),
        ({"label": "(select 1 from '/etc/passwd')"}, "targets.t.label", "passwd"),
    ],
)
def test_what_is_wrong_names_the_key(target: dict[str, object], key: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        asked(**target)
    assert caught.value.where["key"] == key


def test_no_row_with_a_label_is_an_error_that_counts() -> None:
    with pytest.raises(InputError, match=r"no row with a label.*no entity"):
        asked(label="分", where="店id is null")


def test_a_context_column_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="no column 'kinde'"):
        asked(label="分", context=["kinde"])


def test_a_table_that_cannot_name_its_rows_needs_a_key() -> None:
    with pytest.raises(
        ConfigError, match=r"do not name themselves.*Give table 'visits' a `key` of one column"
    ) as caught:
        asked(entity="visits", label="分")
    assert caught.value.where["key"] == "targets.t.from"


def test_names_that_differ_only_in_case_are_refused() -> None:
    columns = (*SCHEMA.tables["visits"].columns, C("KIND", T.CATEGORY))
    twice = Schema({**SCHEMA.tables, "visits": replace(SCHEMA.tables["visits"], columns=columns)})
    target = TargetSettings.model_validate({"from": "visits", "entity": "店", "cutoff": "at", "label": "分"})
    tables = {**TABLES, "visits": VISITS.append_column("KIND", VISITS["kind"])}
    with pytest.raises(ConfigError, match="'kind' of 'visits' and column 'KIND' of 'visits' differ only in case"):
        ask(twice, tables, "t", target, end=9 * DAY)


def test_a_label_spelt_in_another_case_is_hidden_too() -> None:
    target = TargetSettings.model_validate({"from": "店", "label": "CHURNED"})
    assert label_columns(SCHEMA, target) == ("churned",)
