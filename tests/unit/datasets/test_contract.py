"""Rules that warn until they bind."""

import json

import pyarrow as pa
import pytest

from holdfast.core.prepare import ColumnContract, Declared, Source, TableRule, prepare_delivery
from holdfast.core.prepare.contract import check, observe
from holdfast.core.schema import DType
from holdfast.core.timeline import Known
from holdfast.errors import ConflictError, ContractError


def rule(key=("编号",), columns=None, **more):
    return TableRule("表", key, more.get("time"), Known("delivery"), "delivery", "increment", {}, columns or {})


def source(path="data/raw/2016-01/a.csv", **columns):
    cells = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return Source(path, path, cells, pa.array(range(2, cells.num_rows + 2), pa.int64()))


def run(source_, rule_=None, before=None):
    return prepare_delivery(rule_ or rule(), [source_], before, {}, "UTC")


def test_observed_ranges_and_sets_only_warn():
    first = run(source(编号=["1", "2"], 分=["10", "20"], 级=["高", "低"]))
    assert first.contract.columns["分"].min == 10
    assert first.contract.columns["级"].values == ("低", "高")
    assert first.contract.columns["编号"].max is None
    later = run(source(编号=["3", "4"], 分=["99", None], 级=["高", "中"]), before=(first.table, first.contract))
    assert later.rows.num_rows == 2
    warned = {(w["column"], w["rule"], w["rows"]): w["examples"] for w in later.report["warnings"]}
    assert warned == {("分", "nullable", 1): [None], ("分", "max", 1): ["99"], ("级", "values", 1): ["中"]}
    assert later.contract.columns["分"].max == 99
    assert later.contract.binding == first.contract.binding


def test_declared_rules_quarantine_with_value_and_reason():
    columns = {
        "分": Declared(rules={"min": 0.0, "max": 100.0, "nullable": False}),
        "级": Declared(rules={"values": ("高", "低")}),
        "码": Declared(rules={"pattern": "[A-Z]\\d"}, personal=True),
    }
    rows = source(编号=["1", "2", "3", "4", "5"], 分=["1", "101", "-1", None, "5"], 级=["高", "中", "低", "低", "低"],
                  码=["A1", "B2", "C3", "D4", "secret"])  # fmt: skip
    result = run(rows, rule(columns=columns))
    assert result.rows["编号"].to_pylist() == [1]
    found = [(q["row"], q["column"], q["value"], q["reason"]) for q in result.quarantine.to_pylist()]
    assert found == [
        (5, "分", None, "is missing"),
        (4, "分", "-1", "is less than 0"),
        (3, "分", "101", "is more than 100"),
        (3, "级", "中", "is not one of the known values"),
        (6, "码", "***", "does not match [A-Z]\\d"),
    ]
    assert result.report["quarantined"] == 4
    assert not result.table.column("分").nullable


def test_confirmed_rules_bind():
    contract = observe(ColumnContract(), DType.INT, pa.array([1, 5]), first=True, identifier=False)
    assert contract.binding == {}
    bound = contract.confirm()
    assert bound.binding == {"nullable": False, "min": 1, "max": 5}
    assert {b.rule for b in check(bound, DType.INT, pa.array([None, 9])) if b.binds} == {"nullable", "max"}
    assert observe(bound, DType.INT, pa.array([0]), first=False, identifier=False) == bound
    assert ColumnContract.from_dict(json.loads(json.dumps(bound.to_dict()))) == bound


def test_equal_rows_are_dropped_and_rows_that_share_a_key_go_but_the_last():
    result = run(source(编号=["1", "1", "2", "2", "2"], 值=["a", "a", "b", "c", "b"]))
    assert result.rows.select(["编号", "值", "__row"]).to_pylist() == [
        {"编号": 1, "值": "a", "__row": 3},
        {"编号": 2, "值": "b", "__row": 6},
    ]
    assert result.report["duplicates"] == 2
    assert result.quarantine.select(["row", "value", "reason"]).to_pylist() == [
        {"row": 5, "value": "2", "reason": "shares its key with row 6, which differs and was kept"}
    ]


def test_a_missing_column_names_file_column_and_nearest_name():
    first = run(source(编号=["1"], Score=["1"]))
    with pytest.raises(ContractError, match=r"Did you mean 'score'") as caught:
        run(source("data/raw/2016-02/b.csv", 编号=["2"], score=["1"]), before=(first.table, first.contract))
    assert caught.value.where == {"file": "data/raw/2016-02/b.csv", "table": "表", "column": "Score"}
    aliased = rule(columns={"Score": Declared(aliases=("score",))})
    result = run(source(编号=["2"], score=["7"]), aliased, (first.table, first.contract))
    assert result.rows["Score"].to_pylist() == [7]


def test_types_bind_but_may_widen_and_an_empty_column_stays_open():
    first = run(source(编号=["1"], 数=["1"], 空=[None]))
    assert first.contract.columns["空"].provisional
    before = (first.table, first.contract)
    later = run(source(编号=["2", "3"], 数=["2", "x"], 空=["2.5", None]), before=before)
    assert later.table.column("空").dtype is DType.FLOAT
    assert not later.contract.columns["空"].provisional
    assert later.quarantine["value"].to_pylist() == ["x"]
    wider = run(source(编号=["2"], 数=["2.5"], 空=[None]), rule(columns={"数": Declared(DType.FLOAT)}), before)
    assert wider.rows["数"].to_pylist() == [2.5]
    with pytest.raises(ConflictError, match="bound to int"):
        run(source(编号=["2"], 数=["2"], 空=[None]), rule(columns={"数": Declared(DType.TIME)}), before)
    with pytest.raises(ConflictError, match="key of table"):
        run(source(编号=["2"], 数=["2"], 空=[None]), rule(key=("数",)), before)


def test_the_format_of_times_binds():
    first = run(source(编号=["1", "2"], 日=["1/2/2014", "7/14/1999"]))
    later = run(source(编号=["3"], 日=["3/4/2015"]), before=(first.table, first.contract))
    assert str(later.rows["日"][0]) == "2015-03-04 00:00:00+00:00"


def test_reserved_and_clashing_names_are_refused():
    with pytest.raises(ContractError, match="reserved"):
        run(source(编号=["1"], __known_from=["x"]))
