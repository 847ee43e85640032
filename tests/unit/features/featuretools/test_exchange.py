"""Definitions as data: the JSON schema, differences in words, and documents of Featuretools both ways."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import holdfast.core.features
from holdfast.core.features.compare import diff_sets
from holdfast.core.features.definitions import Condition, Feature, FeatureSet, Kind
from holdfast.core.features.exchange import from_featuretools, to_featuretools
from holdfast.core.features.formulas import parse_feature
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.schema import Column, DType, Schema
from holdfast.errors import FileError

HERE = Path(__file__).parent
SHOP = json.loads((HERE / "shop.json").read_text(encoding="utf-8"))
SCHEMA = Schema.from_dict(SHOP["schema"])
RULES = json.loads(
    (Path(holdfast.core.features.__file__).parent / "definitions.schema.json").read_text(encoding="utf-8")
)


def written(*formulas: str, table: str = "customers") -> FeatureSet:
    return FeatureSet(table, tuple(parse_feature(text, SCHEMA, table) for text in formulas), SCHEMA)


def whole() -> FeatureSet:
    conditions = {("orders", "channel"): ("web", "电话")}
    options = Options(depth=3, windows=("all", "90d", "36h"), conditions=conditions, limit=5000)
    context = (Column("渠道", DType.CATEGORY), Column("when", DType.TIME))
    return synthesise(SCHEMA, "customers", context, options).feature_set


def words(old: FeatureSet, new: FeatureSet) -> list[str]:
    return [change.words for change in diff_sets(old, new)]


def test_every_set_follows_the_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(RULES)
    check = jsonschema.Draft202012Validator(RULES)
    found = whole()
    aliased = replace(found, features=tuple(replace(f, alias=f"f{i}") for i, f in enumerate(found.features)))
    derived = {name: replace(table, source="orders") for name, table in found.schema.tables.items()}
    others = replace(found, frozen_at=0), replace(found, schema=replace(found.schema, tables=derived))
    for one in (found, aliased, *others):
        assert [error.message for error in check.iter_errors(json.loads(one.to_json()))] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("entity"),
        lambda data: data.update(extra=1),
        lambda data: data["features"][0].pop("kind"),
        lambda data: data["features"][0].update(dtype="decimal"),
        lambda data: data["features"][-1].update(window=0),
        lambda data: data["schema"]["tables"][0]["columns"][0].pop("dtype"),
    ],
)
def test_what_is_no_set_breaks_the_json_schema(damage: Any) -> None:
    data = json.loads(whole().to_json())
    damage(data)
    assert not jsonschema.Draft202012Validator(RULES).is_valid(data)


def test_equal_sets_have_no_difference() -> None:
    assert diff_sets(whole(), FeatureSet.from_dict(json.loads(whole().to_json()))) == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("MEAN(orders.total, 90d)", "MEAN(orders.total, 30d)", "window 90d → 30d"),
        ("MEAN(orders.total)", "MEAN(orders.total, 30d)", "window all → 30d"),
        ("COUNT(orders)", "COUNT(orders WHERE channel = 电话)", "condition none → channel = 电话"),
        ("MEAN(orders.total)", "STD(orders.total)", "primitive MEAN → STD"),
        ("SUM(orders.total)", "SUM(orders.SUM(items.price))", "input total → SUM(items.price)"),
    ],
)
def test_one_aspect_is_one_change(old: str, new: str, said: str) -> None:
    before, after = written("COUNT(orders)", "age", old), written("COUNT(orders)", "age", new)
    if old == "COUNT(orders)":
        before, after = written("age", old), written("age", new)
    (change,) = diff_sets(before, after)
    assert (change.kind, change.words) == ("changed", f"{old} became {new}: {said}")


def test_another_end_of_history_is_told() -> None:
    one, frozen = whole(), replace(whole(), frozen_at=86_400_000_000)
    assert words(one, frozen) == ["history is frozen at: never → 1970-01-02T00:00:00Z"]
    assert words(frozen, one) == ["history is frozen at: 1970-01-02T00:00:00Z → never"]


def test_added_removed_renamed_and_reordered() -> None:
    base = written("age", "COUNT(orders)", "MODE(orders.channel)", "城市")
    assert words(base, written("age", "COUNT(orders)", "MODE(orders.channel)")) == ["城市 was removed"]
    assert words(written("age"), written("age", "城市")) == ["城市 was added"]
    named = replace(base, features=(replace(base.features[0], alias="年龄"), *base.features[1:]))
    assert words(base, named) == ["age is now called 年龄"]
    moved = replace(base, features=(*base.features[1:], base.features[0]))
    assert words(base, moved) == ["the order of features changed: age moved"]
    other = replace(base.features[1], alias="年龄", window=90 * 86_400_000_000)
    again = replace(other, window=None)
    assert words(replace(base, features=(other,)), replace(base, features=(again,))) == ["年龄: window 90d → all"]


def test_schema_context_and_rules_are_told() -> None:
    base = written("age")
    tables = dict(SCHEMA.tables)
    orders = tables["orders"]
    columns = tuple(replace(c, dtype=DType.INT) if c.name == "total" else c for c in orders.columns if c.name != "memo")
    tables["orders"] = replace(orders, columns=columns, known="event + 3d", links={})
    del tables["products"]
    after = replace(
        base, schema=Schema(tables, "Asia/Shanghai"), include_cutoff=True, context=(Column("x", DType.CATEGORY),)
    )
    assert words(base, after) == [
        "context: column x is new",
        "the time zone is Asia/Shanghai instead of UTC",
        "table products is no longer read",
        "table orders: column memo is gone",
        "table orders: column total: type float → int",
        "table orders: rule of when a row is known event → event + 3d",
        "table orders: customer links to nothing instead of customers",
        "rows that happened at the cutoff itself are seen now",
    ]


def test_there_and_back_again() -> None:
    """What Featuretools' JSON can say comes back as the same definitions; the rest is named."""
    base = whole()
    there = to_featuretools(base)
    back = from_featuretools(json.dumps(there.document), base.schema)
    assert back.left_out == {}
    assert back.feature_set is not None
    kept = [f for f in base.features if f.name not in there.left_out]
    assert [f.to_dict() for f in back.feature_set.features] == [f.to_dict() for f in kept]
    assert len(kept) > 300
    assert there.left_out["context.渠道"] == "Featuretools knows no columns of the question"
    assert "include_cutoff_time=False" in " ".join(there.notes)


def test_what_cannot_be_said_is_named_with_its_reason() -> None:
    left = to_featuretools(written("MEAN(orders.paid)", "COUNT(orders)")).left_out
    assert left == {"MEAN(orders.paid)": "Featuretools' Mean takes numeric columns, and paid is boolean"}
    odd = Feature(Kind.AGGREGATE, "customers", DType.INT, primitive=written("COUNT(orders)").features[0].primitive,
                  link=written("COUNT(orders)").features[0].link, window=1)  # fmt: skip
    assert to_featuretools(FeatureSet("customers", (odd,), SCHEMA)).left_out == {
        "COUNT(orders, 1us)": "Featuretools has no window of microseconds"
    }


def test_conditions_and_windows_come_through() -> None:
    found = written("COUNT(orders WHERE paid = true, 36h)", "MEAN(orders.total WHERE channel = 电话)")
    document = to_featuretools(found).document
    back = from_featuretools(document, SCHEMA).feature_set
    assert back is not None
    assert [f.formula for f in back.features] == [f.formula for f in found.features]
    assert back.features[0].condition == Condition("paid", True)


def test_names_given_there_are_kept_as_aliases() -> None:
    document = json.loads(json.dumps(SHOP["documents"][SHOP["cases"][0]["document"]]))
    found = from_featuretools(document, SCHEMA)
    assert found.feature_set is not None
    feature = found.feature_set.feature("TIME_SINCE_LAST(orders.at)")
    assert feature.formula == "TIME_SINCE_LAST(orders)"
    assert "COUNT(items) spans 2 links" in " ".join(found.notes)
    assert found.feature_set.feature("COUNT(items)").formula == "SUM(orders.COUNT(items))"
    assert set(found.left_out) | set(found.feature_set.names) == {
        n.partition(": ")[2] for n in document["feature_list"]
    }


EMPTY = {"schema_version": "10.0.0", "feature_list": [], "feature_definitions": {}, "primitive_definitions": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a document of saved features"),
        ('{"feature_list": []}', "'schema_version' is missing"),
        (json.dumps(EMPTY), "lists no features"),
        (json.dumps({**EMPTY, "feature_list": ["a: b"], "schema_version": "4.0"}), "its schema version is 4.0"),
        (json.dumps({**EMPTY, "feature_list": ["a: b"]}), "none of the 1 features could be translated"),
    ],
)
def test_what_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        from_featuretools(text, SCHEMA)


def test_a_damaged_definition_costs_only_its_feature() -> None:
    document = to_featuretools(written("COUNT(orders)", "SUM(orders.total)", "age")).document
    document["feature_definitions"]["customers: SUM(orders.total)"]["arguments"] = {}
    found = from_featuretools(document, SCHEMA)
    assert found.feature_set is not None
    assert found.feature_set.names == ("COUNT(orders)", "age")
    assert "damaged" in found.left_out["SUM(orders.total)"]
