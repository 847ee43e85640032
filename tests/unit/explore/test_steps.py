"""Fitted steps: plain data, equal bits for one row and many, nothing learnt from rows that are not given."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.explore.fitting import FittedSteps, Rule, fit_steps
from holdfast.core.explore.steps import LARGEST, Steps
from holdfast.core.features.alignment import FeatureSpec
from holdfast.errors import ConfigError, InputError

SPECS = (
    FeatureSpec("得分", "number", "keep"), FeatureSpec("COUNT(检查)", "number", "keep"),
    FeatureSpec("城区", "category", "unknown", categories=("北", "南", "东")), FeatureSpec("open", "truth", "keep"),
    FeatureSpec("always", "number", "keep"),
)  # fmt: skip
EVERYTHING = (
    Rule("t.0", "yeo_johnson", ("得分",)), Rule("t.1", "interactions", (), {"keep": 3}), Rule("t.2", "target"),
    Rule("s.0", "constant"), Rule("s.1", "mutual_information", (), {"keep": 4}),
)  # fmt: skip


def rows(seed: int = 0, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([
        rng.exponential(5, count), rng.poisson(3, count) * 1.0, rng.integers(0, 4, count) * 1.0,
        (rng.random(count) < 0.5) * 1.0, np.full(count, 3.0),
    ])  # fmt: skip
    X[rng.random(count) < 0.1, 0] = np.nan
    y = (np.nan_to_num(X[:, 0]) * X[:, 1] + 5 * (X[:, 2] == 2) + rng.normal(size=count) > 15).astype(float)
    return X, y


def fitted(rules: tuple[Rule, ...] = EVERYTHING, seed: int = 0) -> FittedSteps:
    X, y = rows(seed)
    return fit_steps(rules, SPECS, X, y, task="binary")


def test_steps_are_plain_data_and_pruning_changes_no_bit() -> None:
    found = fitted()
    X, _ = rows(1)
    pruned, places = found.steps.prune()
    again = Steps.from_dict(json.loads(json.dumps(pruned.to_dict(), allow_nan=False)))
    assert again == pruned
    assert "always" not in again.inputs
    assert again.apply(X[:, places]).tobytes() == found.steps.apply(X).tobytes()
    assert found.dropped["always"] == "constant: one value makes up 100.0% of the rows"


def test_selection_alone_leaves_nothing_to_run() -> None:
    found = fitted((Rule("s", "mutual_information", (), {"keep": 2}),))
    pruned, places = found.steps.prune()
    assert pruned.stages == ()
    assert len(places) == 2
    assert pruned.apply(rows()[0][:, places]) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.one_of(st.just(np.nan), st.floats(-1e308, 1e308), st.floats(-50, 50)) for _ in range(2)],
            st.integers(0, 3), st.sampled_from([0.0, 1.0, np.nan]), st.floats(-5, 5),
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_one_row_and_many_rows_give_the_same_bits(values: list[tuple[float, ...]]) -> None:
    rules = (
        Rule("0", "yeo_johnson"), Rule("1", "interactions", (), {"keep": 4}), Rule("2", "one_hot", (), {"most": 3})
    )  # fmt: skip
    for steps in (fitted(rules).steps, fitted().steps.prune()[0]):
        X = np.array(values)[:, [[s.name for s in SPECS].index(name) for name in steps.inputs]]
        together = steps.apply(X)
        assert np.abs(np.nan_to_num(together)).max() <= LARGEST
        for place in range(len(X)):
            assert steps.apply(X[place : place + 1]).tobytes() == together[place : place + 1].tobytes()
        assert steps.apply(np.asfortranarray(X)).tobytes() == together.tobytes()


def test_training_rows_are_replayed_with_the_bits_they_were_fitted_with() -> None:
    rules = tuple(rule for rule in EVERYTHING if rule.method != "target")
    found = fitted(rules)
    assert found.steps.apply(rows()[0]).tobytes() == found.matrix.tobytes()


def test_names_say_what_a_column_is_and_where_from() -> None:
    steps = fitted((Rule("0", "one_hot"), Rule("1", "yeo_johnson", ("COUNT(*",)))).steps
    names = [spec.name for spec in steps.outputs]
    assert names == [
        "得分", "YEO_JOHNSON(COUNT(检查))", "城区 = 未知", "城区 = 北", "城区 = 南", "城区 = 东", "open", "always",
    ]  # fmt: skip
    assert steps.sources == ((0,), (1,), (2,), (2,), (2,), (2,), (3,), (4,))
    assert steps.outputs[3].kind == "truth"


def test_ordinal_takes_a_declared_order() -> None:
    rule = Rule("0", "ordinal", (), {"orders": {"城区": ["南", "西", "北", "东"]}})
    steps = fitted((rule,)).steps
    X = np.zeros((4, 5))
    X[:, 2] = [2, 1, 3, 0]
    assert steps.apply(X)[:3, 2].tolist() == [0, 2, 3]
    assert np.isnan(steps.apply(X)[3, 2])


@pytest.mark.parametrize(
    ("rule", "error", "words"),
    [
        (Rule("k", "yeo_johnson", ("城区",)), ConfigError, "which is a category"),
        (Rule("k", "one_hot", ("得分",)), ConfigError, "which is a number"),
        (Rule("k", "target", ("城",)), ConfigError, "which is no feature"),
        (Rule("k", "ordinal", (), {"orders": {"x": []}}), ConfigError, "no category feature 'x'"),
        (Rule("k", "ordinal", (), {"orders": {"城区": ["北", "北"]}}), ConfigError, "listed twice"),
        (Rule("k", "nulls", (), {"above": -1.0}), InputError, "drops every feature"),
    ],
)
def test_rules_that_cannot_be_name_their_key(rule: Rule, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        fitted((rule,))
    assert caught.value.where["key"] == "k"  # type: ignore[attr-defined]
