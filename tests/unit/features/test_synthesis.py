"""What synthesis asks: primitives by name, seeds, conditions, exclusions, and no more than the limit needs."""

from dataclasses import replace

import pytest

from holdfast.core.features import synthesis
from holdfast.core.features.definitions import Feature, FeatureSet
from holdfast.core.features.formulas import parse_feature
from holdfast.core.features.primitives import DEFAULT_PRIMITIVES, PRIMITIVES
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.core.timeline import DAY
from holdfast.errors import ConfigError

from .worlds import SCHEMA, SCHOOL

WIDE = Options(depth=2, windows=("all", "2d"), limit=100_000)


def made(entity: str = "customers", **changes: object) -> FeatureSet:
    return synthesise(SCHEMA, entity, (), replace(WIDE, **changes)).feature_set


def used(found: FeatureSet) -> set[str]:
    return {below.primitive.name for one in found.features for below in one.walk() if below.primitive}


def test_all_are_those_that_need_no_choice() -> None:
    asked = {name for name, p in PRIMITIVES.items() if len(p.takes) < 2 and None not in p.parameters.values()}
    everywhere = used(made(primitives=("all",), depth=3)) | used(made("orders", primitives=("all",)))
    seeded = used(made("orders", primitives=("all",), seeds={"orders": ("ABOVE(total, value=0)",)}))
    school = synthesise(SCHOOL, "courses", (), replace(WIDE, primitives=("all",))).feature_set
    assert everywhere | seeded | used(school) == asked | {"ABOVE"}


def test_a_minus_drops_and_parameters_are_kept_apart() -> None:
    assert used(made(primitives=("-STD", "-YEAR"))) == used(made()) - {"STD", "YEAR"}
    assert used(made(primitives=("default", "MEDIAN", "-STD"))) == used(made()) - {"STD"} | {"MEDIAN"}
    names = made(primitives=("QUANTILE(q=0.1)", "QUANTILE(q=0.9)", "N_MOST_COMMON(n=3)")).names
    assert {"QUANTILE(orders[payer].total, q=0.1)", "QUANTILE(orders[payer].total, q=0.9, 2d)",
            "N_MOST_COMMON(orders[payer].渠道, n=3)"} <= set(names)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "wrong", "key"),
    [
        ({"primitives": ("MEAM",)}, "no primitive 'MEAM'", "features.primitives"),
        ({"primitives": ("-MEAM",)}, "no primitive 'MEAM'", "features.primitives"),
        ({"primitives": ("QUANTILE(p=1)",)}, "'p=1' is no parameter of QUANTILE", "features.primitives"),
        ({"primitives": ("QUANTILE(q=2)",)}, "q of QUANTILE is between 0 and 1", "features.primitives"),
        ({"primitives": ("ABOVE",)}, "ABOVE needs value=", "features.primitives"),
        ({"conditional": ("COUMT",)}, "no primitive 'COUMT'", "features.conditional"),
        ({"windowed": ("LUST",)}, "no primitive 'LUST'", "features.windowed"),
        ({"seeds": {"orders": ("ABOVE(totel, value=1)",)}}, "no column 'totel'", "features.seeds.orders"),
        ({"seeds": {"order": ("x",)}}, "no table 'order'", "features.seeds.order"),
        ({"exclude": ("MEAM",)}, "'MEAM' excludes nothing", "features.exclude"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, object], wrong: str, key: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        made(**changes)
    assert caught.value.where["key"] == key


def test_seeds_are_taken_as_columns() -> None:
    found = made(seeds={"orders": ("ABOVE(total, value=100)",), "customers": ("ABOVE(credit, value=1)",)},
                 primitives=("default", "AND", "NOT"), depth=1)  # fmt: skip
    assert {"PERCENT_TRUE(orders[payer].ABOVE(total, value=100))", "ABOVE(credit, value=1)",
            "PERCENT_TRUE(orders[payer].ABOVE(total, value=100), 2d)", "NOT(ABOVE(credit, value=1))",
            } <= set(found.names)  # fmt: skip
    assert found.feature("PERCENT_TRUE(orders[payer].ABOVE(total, value=100), 2d)").describe() == (
        "share of rows of orders by payer in the last 2d for which total is above 100"
    )


@pytest.mark.parametrize("dropped", ["orders.total", "items", "ABOVE", "SUM(*"])
def test_what_is_excluded_is_in_no_seed_either(dropped: str) -> None:
    seeds = {"orders": ("ABOVE(total, value=100)", "SUM(items.数量)", "IS_NULL(渠道)")}
    left = made(seeds=seeds, exclude=(dropped,)).names
    gone = {"orders.total": "ABOVE(total", "items": "SUM(items", "ABOVE": "ABOVE(", "SUM(*": "SUM("}[dropped]
    assert not any(gone in name for name in left)
    assert any("IS_NULL(渠道)" in name for name in left)


def test_what_labels_are_made_of_comes_in_by_no_formula() -> None:
    formulas = ("MEAN(orders[payer].total)", "COUNT(orders[payer] WHERE total > 3)", "地区.MAX(customers.credit)",
                "SUM(orders[payer].SUM(items.数量))", "MAX(orders[payer].CUM_SUM(total BY payer))")  # fmt: skip
    hidden = ("orders.total", "customers.credit")
    seeds = {"orders": ("ABOVE(total, value=100)",), "customers": ("ABOVE(credit, value=1)",)}
    names = made(include=formulas, seeds=seeds, hidden=hidden).names
    assert formulas[3] in names
    assert not any("total" in name or "credit" in name for name in names)


def test_conditions_and_windows_of_more_primitives() -> None:
    options = {"conditions": {("orders", "渠道"): ("网店",), ("orders", "paid"): (True,)}}
    plain = {name for name in made(**options).names if "WHERE" in name}
    assert {name.split("(")[0] for name in plain if "." not in name.split("(")[0]} == {"COUNT", "TIME_SINCE_LAST"}
    more = set(made(**options, conditional=("MEAN", "MODE"), windowed=("LAST",)).names)
    assert {"MEAN(orders[payer].total WHERE paid = True, 2d)", "MODE(orders[payer].渠道 WHERE paid = True)",
            "LAST(orders[payer].total, 2d)"} <= more  # fmt: skip
    assert not any(name.startswith("COUNT(orders[payer] WHERE") for name in more)
    assert "MODE(orders[payer].渠道 WHERE 渠道 = 网店)" not in more


def test_two_inputs_only_when_named_and_each_pair_once() -> None:
    assert not used(made(primitives=("all",))) & {"ADD", "DIVIDE"}
    names = made(primitives=("ADD", "DIVIDE", "SUM"), windows=("all",)).names
    one, two = "credit", "SUM(orders[payer].total)"
    assert f"ADD({one}, {two})" in names
    assert f"ADD({two}, {one})" not in names
    assert {f"DIVIDE({one}, {two})", f"DIVIDE({two}, {one})"} <= set(names)


@pytest.mark.parametrize("dropped", ["MEAN", "orders", "orders.total", "地区", "*total*"])
def test_what_is_excluded_is_in_no_input_either(dropped: str) -> None:
    everything, less = made(depth=3), made(depth=3, exclude=(dropped,))

    def reads(feature: Feature) -> bool:
        names = {name for below in feature.walk() for name in synthesis._names(below)}
        own = {below.primitive.name for below in feature.walk() if below.primitive}
        return any(synthesis._matches(name, dropped) for name in names) or dropped in own

    assert less.names == tuple(one.name for one in everything.features if not reads(one))


def test_the_limit_saves_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six tables in a chain, each with a child of its own, to depth 4: a multitude, of which the first are made."""
    columns = tuple(Column(f"x{i}", DType.FLOAT) for i in range(20))
    names = [f"t{i}" for i in range(6)]
    tables = {
        name: Table(name, (Column("id", DType.INT), Column("at", DType.TIME), Column("up", DType.INT),
                           Column("self", DType.INT), *columns), ("id",), "at", {"up": names[i - 1], "self": name})
        for i, name in enumerate(names)
    }  # fmt: skip
    count = 0
    plain = synthesis.make_feature

    def counting(*args: object, **named: object) -> Feature:
        nonlocal count
        count += 1
        return plain(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(synthesis, "make_feature", counting)
    options = Options(depth=4, primitives=("all", "ADD", "DIVIDE"), conditional=("COUNT", "MEAN"))
    found = synthesise(Schema(tables), "t0", (), options)
    assert len(found.feature_set.features) == 500
    assert not found.counted
    assert count < 20_000
    again = synthesise(Schema(tables), "t0", (), replace(options, limit=700)).feature_set.features
    assert again[:500] == found.feature_set.features
    monkeypatch.setattr(synthesis, "_MOST", 10_000)
    with pytest.raises(ConfigError, match="more than 10,000 features to look for"):
        synthesise(Schema(tables), "t0", (), replace(options, include=("SKEW(*",)))


def test_default_is_what_it_was() -> None:
    assert len(DEFAULT_PRIMITIVES) == 21
    assert used(made(depth=3)) == set(DEFAULT_PRIMITIVES)


def test_what_labels_are_made_of_is_in_no_feature() -> None:
    found = made(
        "orders", hidden=("orders.total",), primitives=("all", "ADD"), conditions={("orders", "total"): (1.0,)}
    )
    assert "CUM_COUNT(BY payer)" in found.names
    assert not any("total" in name for name in found.names)


@pytest.mark.parametrize(
    "value", ["a, 90d", " lead", "trail ", "é, 7d", '"quoted"', 'say "hi"', "x, q=3", "a) b(", "", "数, 2h"]
)
def test_a_condition_that_reads_like_a_formula_is_quoted(value: str) -> None:
    kinds = Column("id", DType.INT), Column("p", DType.INT), Column("at", DType.TIME), Column("k", DType.CATEGORY)
    schema = Schema(
        {"p": Table("p", (kinds[0],), ("id",)), "c": Table("c", kinds, ("id",), "at", {"p": "p"})}
    )  # fmt: skip
    options = Options(depth=1, primitives=("COUNT",), conditions={("c", "k"): ("a", value)}, windows=("all", "90d"))
    found = synthesise(schema, "p", (), options).feature_set
    assert {(f.condition and f.condition.value, f.window) for f in found.features} >= {(value, None), ("a", 90 * DAY)}
    assert [parse_feature(f.name, schema, "p") for f in found.features if f.table == "p"] == [
        f for f in found.features if f.table == "p"
    ]
