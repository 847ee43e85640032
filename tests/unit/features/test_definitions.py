"""Names, formulas, JSON and synthesis."""

import json
from dataclasses import replace
from typing import Any

import pytest

from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.formulas import parse_feature
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.errors import ConfigError, NotFoundError

from .test_promises import OPTIONS, SETS
from .worlds import SCHEMA


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_set_survives_json(name: str) -> None:
    feature_set = SETS[name]
    again = FeatureSet.from_dict(json.loads(json.dumps(feature_set.to_dict(), ensure_ascii=False)))
    assert again == feature_set
    assert again.hash == feature_set.hash
    assert len(set(feature_set.names)) == len(feature_set.names)


@pytest.mark.parametrize("name", ["customers", "orders"])
def test_every_name_is_a_formula_that_reads_back(name: str) -> None:
    feature_set = SETS[name]
    for feature in feature_set.features:
        if not any(below.kind is Kind.CONTEXT for below in feature.walk()):
            assert parse_feature(feature.name, SCHEMA, name) == feature


@pytest.mark.parametrize(
    "name",
    [
        "MEAN(orders[payer].COUNT(items WHERE kind = z))",
        "MEAN(orders[payer].COUNT(items WHERE kind = z, 1d), 2d)",
        "MEAN(orders[payer].COUNT(items WHERE kind = z) WHERE paid = True, 2d)",
        "QUANTILE(orders[payer].SUM(items.数量 WHERE kind = a (b)) WHERE total > 0.5, q=0.3, 2d)",
        "地区.MAX(customers.COUNT(orders[payer] WHERE 渠道 = é))",
    ],
)
def test_a_condition_may_be_on_any_level(name: str) -> None:
    assert parse_feature(name, SCHEMA, "customers").name == name


def test_a_condition_on_a_column_that_is_called_as_a_parameter() -> None:
    columns = (Column("no", DType.INT), Column("up", DType.INT), Column("q", DType.FLOAT), Column("n", DType.INT))
    tables = {"p": Table("p", columns[:1], ("no",)), "c": Table("c", columns, ("no",), links={"up": "p"})}
    for name in ("QUANTILE(c.n WHERE q = 5.0, q=0.5)", "QUANTILE(c.q WHERE n = 5, q=0.9)"):
        assert parse_feature(name, Schema(tables), "p").name == name
    assert parse_feature("QUANTILE(c.n WHERE q > 5)", Schema(tables), "p").name == "QUANTILE(c.n WHERE q > 5.0, q=0.9)"


def test_names_of_tables_and_columns_may_hold_what_formulas_are_made_of() -> None:
    numbers = tuple(Column(name, DType.FLOAT) for name in ("x.y", "a, b", "p (USD)", "(z", "COUNT(x)"))
    words = Column("a = b", DType.CATEGORY), Column("v < w", DType.CATEGORY), Column("k WHERE", DType.CATEGORY)
    keys = Column("no", DType.INT), Column("up", DType.INT), Column("at", DType.TIME)
    tables = {
        "v1.c": Table("v1.c", (*keys[:1], *numbers), ("no",)),
        "o": Table("o", (*keys, *numbers, *words), ("no",), "at", {"up": "v1.c"}),
        "o.s[1]": Table("o.s[1]", (*keys, *numbers[:2]), ("no",), "at", {"up": "v1.c"}),
    }
    schema = Schema(tables)
    options = Options(conditions={("o", word.name): ("u",) for word in words}, limit=5000)
    for entity in ("v1.c", "o"):
        features = synthesise(schema, entity, (), options).feature_set.features
        assert any("o.s[1]" in feature.name for feature in features)
        written = [feature for feature in features if "cutoff" not in feature.name]
        assert [parse_feature(feature.name, schema, entity) for feature in written] == written


@pytest.mark.parametrize(
    ("formula", "what"),
    [
        ("COUNT(customers, 2d)", "a window"),
        ("TIME_SINCE_LAST(customers)", "TIME_SINCE_LAST"),
        ("TREND(customers.credit)", "TREND"),
        ("AVG_TIME_BETWEEN(customers WHERE 城市 = z)", "AVG_TIME_BETWEEN"),
        ("MAX(customers.CUM_SUM(credit BY region))", "CUM_SUM"),
    ],
)
def test_rows_without_a_time_are_not_asked_about_time(formula: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"{what} needs to know when rows happened, and table 'customers' has no"):
        parse_feature(formula, SCHEMA, "地区")


@pytest.mark.parametrize(
    "formula",
    ["COUNT(orders[payer] WHERE total > inf)", "COUNT(orders[payer] WHERE total < nan)", "ABOVE(credit, value=1e999)"],
)
def test_what_is_compared_with_is_finite(formula: str) -> None:
    with pytest.raises(ConfigError, match="a finite number, not"):
        parse_feature(formula, SCHEMA, "customers")


@pytest.mark.parametrize("window", ["200000000d", "9" * 400 + "d"])
def test_a_window_is_no_longer_than_there_are_dates(window: str) -> None:
    with pytest.raises(ConfigError, match="is longer than the time there are dates for"):
        parse_feature(f"COUNT(orders[payer], {window})", SCHEMA, "customers")


def test_names_read_like_featuretools() -> None:
    names = set(SETS["customers"].names)
    assert {
        "COUNT(orders[customer_id])", "MEAN(orders[customer_id].total, 2d)", "MODE(orders[payer].渠道)",
        "COUNT(orders[payer] WHERE 渠道 = 网店)", "MAX(orders[payer].SUM(items.数量))", "MONTH(cutoff)",
        "TIME_SINCE(since)",
        "context.渠道", "地区.等级", "COUNT(orders[payer])",
    } <= names  # fmt: skip


def test_descriptions_are_words() -> None:
    feature = SETS["customers"].feature("MEAN(orders[payer].total, 2d)")
    assert feature.describe() == "mean of total of orders by payer in the last 2d"


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(NotFoundError, match="没有"):
        SETS["customers"].feature("没有")


@pytest.mark.parametrize(
    ("formula", "wrong"),
    [
        ("MEAN(orders[payer].total WHERE paid = true, 30days)", "'30days' is not a window"),
        ("MEAN(order.total)", r"'order' is no child here; there are: orders\[customer_id\], orders\[payer\]"),
        ("COUNT(orders)", "'orders' has several links; name one of"),
        ("PERCENT_TRUE(orders[payer].total)", "PERCENT_TRUE takes truth values"),
        ("LAST(orders[payer].at)", "LAST takes numbers, truth values and categories"),
        ("since", "would be a time"),
        ("COUNT(orders[payer] WHERE at = 2024-01-01)", "'at' is a time"),
        ("MEAM(orders[payer].total)", "no primitive 'MEAM'"),
        ("MEAN(orders[payer].渠道)", "MEAN takes numbers, and '渠道' is category"),
        ("MODE(orders[payer].total)", "MODE takes categories"),
        ("COUNT(orders[payer].total)", "COUNT takes no column"),
        ("SUM(orders[payer])", "SUM takes a column"),
        ("SUM(orders[payer].totl)", "no column 'totl'"),
        ("SUM(orders[payer].total WHERE paid = maybe)", "'paid' is bool, and 'maybe' is no such value"),
        ("YEAR(credit)", "YEAR takes a time"),
        ("nowhere.x", "'nowhere' is no parent here"),
    ],
)
def test_a_wrong_formula_says_which_part(formula: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        synthesise(SCHEMA, "customers", (), replace(OPTIONS, include=(formula,)))


def test_the_limit_is_counted_and_spares_what_is_included() -> None:
    include = ("STD(orders[payer].total)", "MODE(orders[payer].渠道*")
    made = synthesise(SCHEMA, "customers", (), Options(depth=2, limit=10, include=include))
    names = made.feature_set.names
    everything = synthesise(SCHEMA, "customers", (), Options(depth=2, limit=100_000))
    assert made.cut == len(everything.feature_set.features) - len(names)
    assert "STD(orders[payer].total)" in names
    assert "MODE(orders[payer].渠道)" in names
    assert len(names) == 10


def test_what_is_excluded_appears_at_no_depth() -> None:
    options = replace(OPTIONS, exclude=("orders.total", "items.*", "STD(*"), include=(), conditions={})
    names = " ".join(synthesise(SCHEMA, "customers", (), options).feature_set.names)
    assert "total" not in names
    assert "数量" not in names
    assert "STD(" not in names


def test_an_excluded_column_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'orders.totle' excludes nothing.*Did you mean 'orders.total'"):
        synthesise(SCHEMA, "customers", (), replace(OPTIONS, exclude=("orders.totle",)))


def test_personal_columns_keys_and_text_are_no_features() -> None:
    table = Table(
        "people",
        (Column("id", DType.INT), Column("身份证", DType.CATEGORY, personal=True), Column("bio", DType.TEXT),
         Column("age", DType.INT)),
        ("id",),
    )  # fmt: skip
    made = synthesise(Schema({"people": table}), "people", (), Options(depth=0))
    assert made.feature_set.names == ("age",)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"include": ("MODE(people.name)",)}, "features.include"),
        ({"include": ("COUNT(people WHERE name = 甲)",)}, "features.include"),
        ({"seeds": {"people": ("NUM_CHARACTERS(name)",)}}, "features.seeds.people"),
        ({"conditions": {("people", "name"): ("甲",)}}, "features.conditions.people.name"),
    ],
)
def test_a_personal_column_is_no_feature_even_when_it_is_asked_for(changes: dict[str, Any], key: str) -> None:
    personal = Column("name", DType.CATEGORY, personal=True)
    people = Table(
        "people", (Column("id", DType.INT), Column("home", DType.INT), personal), ("id",), None, {"home": "h"}
    )
    schema = Schema({"people": people, "h": Table("h", (Column("id", DType.INT),), ("id",))})
    with pytest.raises(ConfigError, match="would show the personal column 'name'") as caught:
        synthesise(schema, "h", (), Options(**changes))
    assert caught.value.where["key"] == key
    named = synthesise(schema, "h", (personal, Column("age", DType.INT)), Options()).feature_set.names
    assert "context.age" in named
    assert not any("name" in name for name in named)


def test_no_feature_left_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no feature is left"):
        synthesise(SCHEMA, "customers", (), Options(exclude=("*",)))


def test_equal_definitions_have_equal_hashes_and_others_not() -> None:
    one = synthesise(SCHEMA, "customers", (), Options()).feature_set
    assert one.hash == synthesise(SCHEMA, "customers", (), Options()).feature_set.hash
    assert one.hash != synthesise(SCHEMA, "customers", (), Options(windows=("all",))).feature_set.hash


def test_an_alias_names_a_feature() -> None:
    feature = Feature(Kind.COLUMN, "customers", DType.FLOAT, column="credit", alias="信用")
    assert feature.name == "信用"
    assert Feature.from_dict(feature.to_dict()) == feature


def test_a_bracket_in_a_pattern_stands_for_itself() -> None:
    options = replace(OPTIONS, exclude=("COUNT(orders[payer]*)",), include=())
    names = synthesise(SCHEMA, "customers", (), options).feature_set.names
    assert not [name for name in names if name.startswith("COUNT(orders[payer]")]
    assert "COUNT(orders[customer_id])" in names


def test_an_excluded_table_is_not_looked_into() -> None:
    feature_set = synthesise(SCHEMA, "customers", (), replace(OPTIONS, exclude=("orders",), include=())).feature_set
    assert {f.link.child for feature in feature_set.features for f in feature.walk() if f.link} <= {"customers"}


def test_hidden_columns_are_in_no_feature() -> None:
    options = replace(OPTIONS, hidden=("orders.total", "customers.credit"), include=())
    names = " ".join(synthesise(SCHEMA, "customers", (), options).feature_set.names)
    assert "total" not in names
    assert "credit" not in names


@pytest.mark.parametrize("value", [1234567.0, 1234568.0, 0.123456789, -1e-7, 1e300, 2.0**53])
def test_a_parameter_is_said_with_all_its_digits(value: float) -> None:
    feature = parse_feature(f"ABOVE(total, value={value!r})", SCHEMA, "orders")
    assert dict(feature.parameters) == {"value": value}
    assert parse_feature(feature.name, SCHEMA, "orders") == feature
    assert repr(value).removesuffix(".0") in feature.describe()


def test_parameters_that_are_near_make_features_of_their_own() -> None:
    asked = ["ABOVE(value=1234567)", "ABOVE(value=1234568)"]
    names = synthesise(SCHEMA, "orders", (), Options(primitives=asked)).feature_set.names
    assert {"ABOVE(total, value=1234567)", "ABOVE(total, value=1234568)"} <= set(names)
