"""Alignment: aliases, missing rules, strict mode; properties over any rows."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backend.pipelines.encoding import fit_encoding
from holdfast.backend.project_file import parse
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.encoding import Constant, Encoding
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.errors import AlignmentError, ConfigError

NAMES = ("得分", "COUNT(检查)", "flag", "城市")
ALIASES = {"得分": ("score", "Score"), "城市": ("city",)}


def frame() -> FeatureFrame:
    return FeatureFrame(
        6,
        {
            "得分": np.array([1.0, np.nan, 3.0, 5.0, 2.0, 4.0]),
            "COUNT(检查)": np.array([0.0, 1, 2, 3, 4, 5]),
            "flag": np.array([1.0, 0.0, np.nan, 1.0, 0.0, 1.0]),
            "城市": Categories(np.array([1, 0, 1, -1, 0, 1]), ["上海", "北京"]),
        },
        dict(zip(NAMES, (DType.FLOAT, DType.INT, DType.BOOL, DType.CATEGORY), strict=True)),
    )


def encoding(**missing: Any) -> Encoding:
    return Encoding.fit(frame(), np.ones(6, bool), missing=missing, aliases=ALIASES)


GOOD = {"得分": 2.0, "COUNT(检查)": 3, "flag": True, "城市": "北京"}


def test_an_alias_is_the_feature_and_is_told() -> None:
    found = encoding()
    sent = {"city": "北京", "score": 2.0, "flag": True, "COUNT(检查)": 3}
    aligned = found.align([sent])
    assert aligned.matrix.tobytes() == found.align([GOOD]).matrix.tobytes()
    assert [(r.feature, r.kind, r.detail) for r in aligned.repairs[0]] == [
        ("城市", "renamed", "sent as 'city'"), ("得分", "renamed", "sent as 'score'"),
    ]  # fmt: skip
    assert found.name_of("Score") == "得分"
    assert Encoding.from_dict(json.loads(json.dumps(found.to_dict()))).specs == found.specs


@pytest.mark.parametrize("twice", [{"score": 1}, {"score": None, "Score": 1}])
def test_two_names_for_one_feature_are_an_error(twice: dict[str, Any]) -> None:
    row = {**GOOD, **twice}
    if "Score" in twice:
        del row["得分"]
    with pytest.raises(AlignmentError, match="'得分' is given twice") as caught:
        encoding().align([GOOD, row])
    assert caught.value.where == {"row": 1, "feature": "得分"}


def test_an_alias_of_two_features_is_refused() -> None:
    with pytest.raises(AlignmentError, match="'score' is an alias of 'flag' and means '得分' too"):
        Encoding.fit(frame(), np.ones(6, bool), aliases={**ALIASES, "flag": ("score",)})


def test_missing_rules() -> None:
    rules = {"得分": "median", "flag": Constant(0), "城市": Constant("上海")}
    found = Encoding.fit(frame(), np.ones(6, bool), missing=rules)
    aligned = found.align([dict.fromkeys(NAMES)])
    assert aligned.matrix[0, [0, 2, 3]].tolist() == [3.0, 0.0, 2.0]
    assert np.isnan(aligned.matrix[0, 1])
    assert [r.detail for r in aligned.repairs[0]] == [
        "filled with the training median 3", "left to the model", "filled with the constant 0", "counts as 上海",
    ]  # fmt: skip
    encoded = found.encode(frame())
    assert (encoded[1, 0], encoded[2, 2], encoded[3, 3]) == (3.0, 0.0, 2.0)


@pytest.mark.parametrize(
    "rule",
    [{"得分": "unknown"}, {"城市": "keep"}, {"城市": Constant(1)}, {"城市": Constant("广州")}, {"得分": Constant("x")}],
)
def test_a_rule_that_does_not_suit_its_feature(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Encoding.fit(frame(), np.ones(6, bool), missing=rule)


def test_strict_repairs_nothing_and_names_everything() -> None:
    rows = [
        GOOD,
        {**GOOD, "得分": "2", "城市": "广州"},
        {"score": 1e9, "COUNT(检查)": [], "flag": None, "城市": None, "x": 1},
    ]
    with pytest.raises(AlignmentError, match="'得分': text '2' read as 2, the first of 7 problems") as caught:
        encoding().align(rows, strict=True)
    assert caught.value.where["row"] == 1
    problems = caught.value.where["problems"]
    assert isinstance(problems, list)
    assert [(p["row"], p["feature"], p["kind"]) for p in problems] == [
        (1, "得分", "cast"), (1, "城市", "unseen"), (2, "COUNT(检查)", "refused"), (2, "得分", "renamed"),
        (2, "得分", "range"), (2, "城市", "missing"), (2, "x", "extra"),
    ]  # fmt: skip
    assert encoding().align([{**GOOD, "得分": None}], strict=True).repairs[0][0].detail == "left to the model"


VALUES = {
    "得分": st.none() | st.floats(-1e9, 1e9) | st.integers(-5, 5) | st.sampled_from(["3", "4.5"]),
    "COUNT(检查)": st.none() | st.integers(0, 9),
    "flag": st.none() | st.booleans() | st.sampled_from(["yes", "否"]),
    "城市": st.none() | st.sampled_from(["北京", "上海", "广州", "未知"]) | st.integers(0, 3),
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_and_aliases_change_no_bit_and_strict_takes_what_needs_no_repair(rows: Any, random: Any) -> None:
    found = encoding()
    plain = found.align(rows)
    shuffled = []
    for row in rows:
        names = [(random.choice([n, *ALIASES.get(n, ())]), row[n]) for n in NAMES]
        random.shuffle(names)
        shuffled.append(dict(names))
    again = found.align(shuffled)
    assert again.matrix.tobytes() == plain.matrix.tobytes()
    kept = [tuple(r for r in one if r.kind != "renamed") for one in again.repairs]
    assert [set(one) for one in kept] == [set(one) for one in plain.repairs]
    clean = all(r.detail == "left to the model" for one in plain.repairs for r in one)
    try:
        assert found.align(rows, strict=True).matrix.tobytes() == plain.matrix.tobytes()
        assert clean
    except AlignmentError as error:
        assert not clean
        told = {(p["row"], p["feature"], p["kind"]) for p in error.where["problems"]}  # type: ignore[attr-defined]
        assert told == {
            (n, r.feature, r.kind)
            for n, one in enumerate(plain.repairs)
            for r in one
            if r.detail != "left to the model"
        }


def test_computed_rows_are_inspected() -> None:
    found = encoding()
    other = FeatureFrame(
        2,
        {
            "得分": np.array([99.0, np.nan]), "COUNT(检查)": np.array([1.0, 2]), "flag": np.array([1.0, 0]),
            "城市": Categories(np.array([0, -1]), ["广州"]),
        },
        frame().dtypes,
    )  # fmt: skip
    repairs = found.inspect(other, found.encode(other))
    assert [(r.feature, r.kind) for r in repairs[0]] == [("城市", "unseen")]
    assert repairs[1] == ()


PROJECT = """
project: p
tables:
  shops: {files: s.csv, key: id, columns: {得分: {aliases: [score]}}}
features:
  missing: {"*": median, "城*": unknown, "COUNT*": 0}
  aliases: {flag: 开}
"""


def fitted(text: str = PROJECT) -> Encoding:
    schema = Schema({"shops": Table("shops", tuple(Column(n, frame().dtypes[n]) for n in NAMES), ("得分",))})
    features = tuple(Feature(Kind.COLUMN, "shops", frame().dtypes[n], column=n) for n in NAMES)
    return fit_encoding(parse(text), FeatureSet("shops", features, schema), frame(), np.ones(6, bool))


def test_the_project_file_says_rules_and_aliases() -> None:
    specs = {spec.name: spec for spec in fitted().specs}
    assert {name: spec.missing for name, spec in specs.items()} == {
        "得分": "median", "COUNT(检查)": "constant", "flag": "median", "城市": "unknown",
    }  # fmt: skip
    assert specs["得分"].aliases == ("score",)
    assert specs["flag"].aliases == ("开",)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{flag: 开}", "{flog: 开}", "no feature 'flog'"),
        ("{flag: 开}", "{flag: score}", "would mean both"),
        ("{flag: 开}", "{flag: 城市}", "would mean both"),
        ('"城*": unknown', '"域*": unknown', "is for no feature"),
        ('"城*": unknown', '"城市": median', "does not suit"),
    ],
)
def test_the_project_file_is_checked_against_the_features(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fitted(PROJECT.replace(old, new))
