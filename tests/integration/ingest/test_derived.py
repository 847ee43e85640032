"""Tables that derive from delivered ones: they follow every delivery, correction and return."""

import pyarrow as pa
import pytest

from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW
from holdfast.errors import ConfigError, ConflictError, ContractError

SHOP = """
project: 商店
tables:
  顾客: {from: lines, key: 顾客号, columns: [国]}
  lines: {files: lines.csv, key: [单, 行], time: at, columns: {顾客号: int, 国: category, 单: category}}
  invoices: {from: lines, key: 单, time: at, links: {顾客号: 顾客}}
  国家: {from: 顾客, key: 国}
"""
HEAD = "单,行,顾客号,at,国\n"
FIRST = HEAD + "a,1,7.0,2024-01-05,中\na,2,7,2024-01-05,中\nb,1,,2024-01-06,英\nc,1,8,2024-01-07,英\n"


def states(world, table, *columns, current=False):
    rows = world.datasets.read(None, [table], current_only=current)[table]
    moments = {n: rows[n].cast(pa.string()) for n in (KNOWN_FROM, KNOWN_TO)}
    return [tuple(row.values()) for row in pa.table({**{n: rows[n] for n in columns}, **moments}).to_pylist()]


def day(text):
    return f"2024-{text} 00:00:00.000001Z"


def test_rows_are_the_keys_known_from_the_first_row_that_mentions_them(make_world):
    world = make_world(SHOP)
    version = world.deliver("2024-01", lines=FIRST).version
    assert version.rows == {"顾客": 2, "lines": 4, "invoices": 3, "国家": 2}
    assert states(world, "顾客", "顾客号", "国") == [(7, "中", day("01-05"), None), (8, "英", day("01-07"), None)]
    schema = world.datasets.schema()
    assert schema.table("lines").links == {"顾客号": "顾客", "单": "invoices"}
    assert schema.table("顾客").links == {"国": "国家"}
    assert schema.table("invoices").links == {"顾客号": "顾客"}
    assert [s[2:] for s in states(world, "invoices", "单", "顾客号", current=True)] == [
        ("2024-01-05 00:00:00.000000Z", None),
        ("2024-01-06 00:00:00.000000Z", None),
        ("2024-01-07 00:00:00.000000Z", None),
    ]
    # A country is known through a customer: invoice b has none, so it is customer 8 who brings 英.
    assert [row[:2] for row in states(world, "国家", "国")] == [("中", day("01-05")), ("英", day("01-07"))]


def test_a_changed_value_is_a_new_state_and_each_names_its_raw_row(make_world):
    world = make_world(SHOP)
    world.deliver("2024-01", lines=FIRST)
    world.deliver("2024-02", lines=HEAD + "d,1,7,2024-02-03,法\ne,1,8,2024-02-04,英\nf,1,9,2024-02-05,英\n")
    assert states(world, "顾客", "顾客号", "国") == [
        (7, "中", day("01-05"), day("02-03")),
        (7, "法", day("02-03"), None),
        (8, "英", day("01-07"), None),
        (9, "英", day("02-05"), None),
    ]
    rows = world.datasets.read(None, ["顾客"])["顾客"]
    assert [file[-17:-10] for file in rows[SOURCE_FILE].to_pylist()] == ["2024-01", "2024-02", "2024-01", "2024-02"]
    assert rows[SOURCE_ROW].to_pylist() == [3, 2, 5, 4]
    comparison = world.datasets.compare("v1.0", "v1.1").tables["顾客"]
    assert (comparison.added, comparison.changed, comparison.same) == (1, 1, 1)
    assert world.datasets.read("v1.0", ["顾客"])["顾客"].num_rows == 2


def test_a_correction_changes_what_is_known_from_then_on(make_world):
    world = make_world(SHOP)
    world.deliver("2024-01", lines=FIRST)
    corrected = FIRST.replace("c,1,8,2024-01-07,英", "c,1,9,2024-01-07,法")
    version = world.deliver("2024-01", "again", lines=corrected).version
    assert version.rows["顾客"] == 2
    assert states(world, "顾客", "顾客号", "国") == [
        (7, "中", day("01-05"), None),
        (8, "英", day("01-07"), "2024-02-01 00:00:00.000000Z"),
        (9, "法", "2024-02-01 00:00:00.000000Z", None),
    ]


def test_a_late_line_is_known_as_its_rule_says(make_world):
    world = make_world(SHOP.replace("time: at, columns", "time: at, known: period_end, columns"))
    world.deliver("2024-02", lines=HEAD + "d,1,7,2024-02-03,法\n")
    world.deliver("2024-03", lines=HEAD + "a,1,7,2024-01-05,中\nb,1,8,2024-01-06,中\n")
    # The older line comes later: it says nothing new of customer 7, and customer 8 was not known before it came.
    assert states(world, "顾客", "顾客号", "国") == [
        (7, "法", "2024-03-01 00:00:00.000000Z", None),
        (8, "中", "2024-04-01 00:00:00.000000Z", None),
    ]


def test_a_full_list_that_drops_a_row_drops_what_only_it_mentioned(make_world):
    project = """
project: x
tables:
  shops: {files: shops.csv, key: id, delivery: full, columns: {region: category}}
  regions: {from: shops, key: region, columns: [lead]}
"""
    world = make_world(project)
    world.deliver("2024-01", shops="id,region,lead\n1,北,张\n2,南,李\n3,南,李\n")
    world.deliver("2024-02", shops="id,region,lead\n2,南,王\n3,南,王\n")
    end = [f"2024-{month}-01 00:00:00.000000Z" for month in ("02", "03")]
    known = states(world, "regions", "region", "lead")
    assert known == [("北", "张", *end), ("南", "李", *end), ("南", "王", end[1], None)]
    assert world.datasets.get().rows == {"shops": 2, "regions": 1}


def test_what_is_added_to_the_project_file_later_comes_with_the_next_import_of_anything(make_world):
    plain = SHOP.replace("  国家: {from: 顾客, key: 国}\n", "")
    world = make_world(plain)
    world.deliver("2024-01", lines=FIRST)
    assert not world.deliver("2024-01", lines=FIRST).created
    world.use(SHOP)
    result = world.deliver("2024-01", lines=FIRST)
    assert result.created
    assert "derived tables" in result.notes[-1]
    assert result.version.version == "v2.0"
    assert result.version.rows == {"lines": 4, "顾客": 2, "invoices": 3, "国家": 2}
    assert world.datasets.schema().table("顾客").links == {"国": "国家"}
    assert not world.deliver("2024-01", lines=FIRST).created
    assert world.datasets.confirm_contract().rows == result.version.rows
    world.use(plain)
    assert "国家" not in world.deliver("2024-01", lines=FIRST).version.rows


def test_a_link_to_a_derived_table_takes_its_type_and_counts_what_it_does_not_find(make_world):
    project = SHOP + "  visits: {files: visits.csv, time: at, links: {顾客号: 顾客}}\n"
    world = make_world(project)
    version = world.deliver("2024-01", lines=FIRST, visits="顾客号,at\n7.0,2024-01-02\n99.0,2024-01-02\n").version
    assert version.report["tables"]["visits"]["unknown_parents"]["顾客号"]["examples"] == [99]
    assert "顾客号" not in version.report["tables"]["lines"]["unknown_parents"]


def test_columns_that_the_source_lacks_are_named(make_world):
    world = make_world(SHOP.replace("columns: [国]", "columns: [国名]").replace("  国家: {from: 顾客, key: 国}\n", ""))
    with pytest.raises(ConfigError, match="no column '国名' that '顾客' could take") as caught:
        world.deliver("2024-01", lines=FIRST)
    assert caught.value.where["key"] == "tables.顾客.columns"
    assert "国" in caught.value.hint
    world.use(SHOP.replace("key: 顾客号", "key: 客户号"))
    with pytest.raises(ContractError, match="missing") as caught:
        world.deliver("2024-01", lines=FIRST)
    assert caught.value.where["column"] == "客户号"
    assert world.datasets.current() is None


def test_a_delivered_table_does_not_become_derived(make_world):
    world = make_world("project: x\ntables:\n  lines: {files: lines.csv}\n  顾客: {files: c.csv}\n")
    world.deliver("2024-01", lines=FIRST, c="顾客号,国\n7,中\n")
    world.use("project: x\ntables:\n  lines: {files: lines.csv}\n  顾客: {from: lines, key: 顾客号}\n")
    with pytest.raises(ConflictError, match="delivered as files so far"):
        world.deliver("2024-02", lines=FIRST.replace("2024-01", "2024-02"))
