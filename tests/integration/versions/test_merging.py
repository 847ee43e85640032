"""Merges that the random histories do not reach: schemas that grew, decisions by file, names, and what is refused."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from holdfast.backend.datasets import Draft
from holdfast.backend.datasets.merging import conflicts_csv, decisions_from, list_conflicts, merge
from holdfast.backend.datasets.rewriting import compact, revert
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.errors import ConflictError, InputError, NotFoundError
from tests.integration.versions.world import World, contract


def parted(world: World) -> None:
    """Both branches begin with keys 1 to 3; the current one stays main."""
    world.tick()
    world.change("户", [{"号": n, "值": "alt"} for n in (1, 2, 3)], "append")
    world.datasets.refs.branch("试")
    world.tick()


def on(world: World, branch: str, rows: dict[int, str | None]) -> None:
    world.datasets.checkout(branch, "test")
    world.tick()
    world.change("户", [{"号": key, "值": value} for key, value in rows.items()], "upsert")


def values(world: World) -> dict[int, str | None]:
    return {row["号"]: row["值"] for row in world.rows("户")}


def evolve(world: World, table: Table) -> None:
    """A new major version with another schema, as an import of more or wider columns makes it."""
    base = world.datasets.get()
    schema = Schema({**world.datasets.schema().tables, table.name: table}, "Asia/Shanghai")
    draft = Draft(base, base.period, schema, contract(schema), base.rows, (), "schema", "test",
                  report={"tables": {}, "notes": [], "delivery": "x"})  # fmt: skip
    with world.datasets.changing("evolve"):
        world.datasets.commit(draft)


def test_columns_added_and_types_widened_on_both_sides_meet(world: World) -> None:
    world.change("账", [{"名": "甲", "次": 1, "额": 1.5}], "append")
    table = world.datasets.schema().table("账")
    evolve(world, replace(table, columns=(*table.columns, Column("量", DType.INT))))
    world.change("账", [{"名": "甲", "次": 1, "额": 1.5, "量": 7}], "upsert")
    world.datasets.refs.branch("试")
    wide = world.datasets.schema().table("账")
    evolve(world, replace(wide, columns=(*wide.columns, Column("左", DType.TEXT))))
    world.tick()
    world.change("账", [{"名": "乙", "次": 1, "额": 2.0, "量": 8, "左": "l"}], "append")
    world.datasets.checkout("试", "test")
    widened = tuple(replace(c, dtype=DType.FLOAT) if c.name == "量" else c for c in wide.columns)
    evolve(world, replace(wide, columns=(*widened, Column("右", DType.BOOL))))
    world.tick()
    world.change("账", [{"名": "丙", "次": 1, "额": 3.0, "量": 8.5, "右": True}], "append")
    world.datasets.checkout("main", "test")
    made = merge(world.datasets, "试")
    assert {row["名"]: (row["量"], row["左"], row["右"]) for row in world.rows("账")} == {
        "甲": (7.0, None, None), "乙": (8.0, "l", None), "丙": (8.5, None, True),
    }  # fmt: skip
    assert made.version.rows["账"] == 3
    assert made.version.version.endswith(".0"), "a schema that neither side's last version had is a major version"
    assert len(made.version.parents) == 2


def test_personal_values_are_masked_in_files_of_conflicts(world: World) -> None:
    table = world.datasets.schema().table("户")
    evolve(world, replace(table, columns=(table.columns[0], replace(table.columns[1], personal=True))))
    parted(world)
    on(world, "试", {1: "geheim"})
    on(world, "main", {1: "auch geheim"})
    found = list_conflicts(world.datasets, "试")
    assert found[0].ours == {"号": 1, "值": "auch geheim"}
    assert "geheim" not in conflicts_csv(found)
    assert conflicts_csv(found).count("***") == 2


def test_a_schema_that_both_changed_is_a_conflict(world: World) -> None:
    world.datasets.refs.branch("试")
    table = world.datasets.schema().table("户")
    for branch, dtype in (("main", DType.CATEGORY), ("试", DType.INT)):
        world.datasets.checkout(branch, "test")
        columns = (table.columns[0], replace(table.columns[1], dtype=dtype))
        evolve(world, replace(table, columns=columns))
    before = world.datasets.get().id
    with pytest.raises(ConflictError, match="schema") as refused:
        merge(world.datasets, "main")
    assert "户.值: type: ours int, theirs category" in str(refused.value.where)
    assert world.datasets.get().id == before
    merge(world.datasets, "main", rule="ours")
    assert world.datasets.schema().table("户").column("值").dtype is DType.INT


def test_conflicts_are_listed_and_decided_by_a_file(world: World) -> None:
    parted(world)
    on(world, "试", {1: "theirs", 2: "theirs", 4: "theirs"})
    world.change("户", [{"号": 3}], "delete")
    on(world, "main", {1: "ours", 2: "theirs", 3: "ours"})
    found = list_conflicts(world.datasets, "试")
    assert [(one.key, one.ours, one.theirs) for one in found] == [
        ({"号": 1}, {"号": 1, "值": "ours"}, {"号": 1, "值": "theirs"}),
        ({"号": 3}, {"号": 3, "值": "ours"}, None),
    ]
    with pytest.raises(ConflictError, match="2 rows") as refused:
        merge(world.datasets, "试")
    assert refused.value.where["keys"] == ["户: 号=1", "户: 号=3"]
    text = conflicts_csv(found)
    with pytest.raises(InputError, match="take"):
        decisions_from(text, "f.csv")
    lines = text.splitlines()
    filled = "\n".join([lines[0], lines[1] + "ours", lines[2] + "theirs"])
    decided = decisions_from(filled, "f.csv")
    with pytest.raises(InputError, match="no conflict"):
        merge(world.datasets, "试", decisions={**decided, ("户", '{"号": 9}'): "ours"})
    with pytest.raises(ConflictError, match="1 rows"):
        merge(world.datasets, "试", decisions=dict(list(decided.items())[:1]))
    made = merge(world.datasets, "试", decisions=decided)
    assert values(world) == {1: "ours", 2: "theirs", 4: "theirs"}
    assert (made.resolved, made.version.rows["户"]) == ({"户": 2}, 3)
    # Nor are decisions dropped where there is nothing to decide.
    with pytest.raises(InputError, match="2 of the decisions"):
        merge(world.datasets, "试", decisions=decided)


@pytest.mark.parametrize(("rule", "one"), [("ours", "main"), ("theirs", "试"), ("newest", "main")])
def test_rules_decide(world: World, rule: str, one: str) -> None:
    parted(world)
    on(world, "试", {1: "试"})
    on(world, "main", {1: "main"})
    merge(world.datasets, "试", rule=rule)
    assert values(world)[1] == one


def test_newest_does_not_guess_between_equals(world: World) -> None:
    parted(world)
    world.change("户", [{"号": 1, "值": "main"}], "upsert")
    world.datasets.checkout("试", "test")
    world.change("户", [{"号": 1, "值": "试"}], "upsert")
    with pytest.raises(ConflictError, match="known at the same time"):
        merge(world.datasets, "main", rule="newest")


def test_merge_after_compaction_of_either_side_finds_the_same(world: World) -> None:
    parted(world)
    on(world, "试", {1: "a", 4: "d"})
    assert compact(world.datasets).created
    on(world, "main", {2: "b"})
    assert compact(world.datasets).created
    merge(world.datasets, "试")
    assert values(world) == {1: "a", 2: "b", 3: "alt", 4: "d"}


def test_what_was_reverted_stays_out_when_the_other_side_did_not_touch_it(world: World) -> None:
    parted(world)
    on(world, "main", {7: "x"})
    wrong = world.datasets.get().version
    world.datasets.refs.branch("二")
    on(world, "二", {8: "y"})
    world.datasets.checkout("main", "test")
    revert(world.datasets, wrong)
    world.tick()
    merge(world.datasets, "二")
    assert values(world) == {1: "alt", 2: "alt", 3: "alt", 8: "y"}


def test_one_import_is_taken_out_of_the_middle_or_said_why_not(world: World) -> None:
    parted(world)
    on(world, "main", {1: "falsch", 9: "falsch"})
    wrong = world.datasets.get().version
    on(world, "main", {2: "gut"})
    compact(world.datasets)
    made = revert(world.datasets, wrong)
    assert (values(world), made.rows["户"]) == ({1: "alt", 2: "gut", 3: "alt"}, 3)
    with pytest.raises(ConflictError, match="not in"):
        revert(world.datasets, wrong)
    on(world, "main", {1: "neu"})
    again = world.datasets.get().version
    on(world, "main", {1: "neuer"})
    with pytest.raises(ConflictError, match="changed again later") as refused:
        revert(world.datasets, again)
    assert refused.value.where["keys"] == ["号=1"]


def test_names_are_checked_and_kept(world: World) -> None:
    refs = world.datasets.refs
    parted(world)
    first = world.datasets.get()
    refs.tag("基线")
    with pytest.raises(ConflictError, match="already"):
        refs.tag("试")
    with pytest.raises(ConflictError, match="already"):
        refs.branch("基线")
    for name in ("", "v1.0", "a b", "-x", "a\n", "data_12"):
        with pytest.raises(InputError):
            refs.branch(name)
    with pytest.raises(ConflictError, match="current"):
        refs.drop("main")
    with pytest.raises(NotFoundError):
        refs.drop("无")
    on(world, "main", {5: "e"})
    assert world.datasets.get("基线").id == first.id
    assert world.datasets.checkout("试", "x").id == first.id
    assert refs.current == "试"
    on(world, "试", {6: "f"})
    assert refs.branches()["main"] != refs.branches()["试"] == world.datasets.get().id
    world.datasets.checkout("基线", "back")
    assert (refs.current, refs.branches()["试"]) == ("试", first.id)
    world.datasets.checkout("main", "x")
    refs.drop("试")
    assert list(refs.branches()) == ["main"]


def test_a_tag_that_is_merged_moves_forward_or_does_nothing(world: World) -> None:
    parted(world)
    on(world, "试", {4: "d"})
    newest = world.datasets.get().id
    world.datasets.checkout("main", "x")
    moved = merge(world.datasets, "试")
    assert (moved.created, moved.version.id, world.datasets.get().id) == (False, newest, newest)
    assert not merge(world.datasets, "试").created


def test_a_side_that_took_a_change_back_shows_what_it_was_before(world: World) -> None:
    parted(world)
    changed = world.change("户", [{"号": 1, "值": "neu"}], "upsert").version
    world.datasets.refs.branch("二")
    revert(world.datasets, changed.version)
    on(world, "二", {1: "neuer"})
    world.datasets.checkout("main", "test")
    [conflict] = list_conflicts(world.datasets, "二")
    assert conflict.ours == {"号": 1, "值": "alt"}
    assert conflict.theirs == {"号": 1, "值": "neuer"}


def test_what_a_merge_brought_is_taken_out_with_the_merge(world: World) -> None:
    parted(world)
    on(world, "试", {1: "neu"})
    theirs = world.datasets.get().version
    on(world, "main", {2: "neu"})
    made = merge(world.datasets, "试").version
    with pytest.raises(ConflictError, match=f"by the merge {made.version}"):
        revert(world.datasets, theirs)
    revert(world.datasets, made.version)
    assert values(world) == {1: "alt", 2: "neu", 3: "alt"}


def test_rows_without_a_key_that_come_and_go_in_one_merge_are_both_counted(world: World) -> None:
    def note(hour: int) -> str:
        return world.change("记", [{"时": datetime(2024, 1, 1, hour, tzinfo=UTC), "事": "x"}], "append").version.version

    first = note(1)
    world.datasets.refs.branch("试")
    note(2)
    world.datasets.checkout("试", "test")
    revert(world.datasets, first)
    note(3)
    world.datasets.checkout("main", "test")
    done = merge(world.datasets, "试")
    assert (done.changes["记"]["added"], done.changes["记"]["removed"]) == (1, 1)
    assert done.version.rows["记"] == len(world.rows("记")) == 2
