import numpy as np
import pytest

from holdfast.core.learn.fit import Recipe, fit, output_of
from holdfast.core.learn.importance import cross_weights, feature_importance
from holdfast.core.learn.metrics import evaluate
from holdfast.core.learn.split import TEST, TRAIN, VALIDATE
from holdfast.errors import ConfigError, InputError

rng = np.random.default_rng(3)
N, F = 1500, 6
NAMES = ["甲", "乙", "丙", "[x] < 1", "noise 1", "noise 2"]
X = rng.normal(size=(N, F)).astype(np.float32)
X[rng.random(X.shape) < 0.1] = np.nan
SCORE = 2 * np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 1]) * np.nan_to_num(X[:, 2]) * 2 + rng.normal(size=N)
PART = rng.choice([TRAIN, VALIDATE, TEST], N, p=[0.7, 0.15, 0.15]).astype(np.int8)
TRUTHS = {
    "binary": (SCORE > 1).astype(np.float64),
    "multiclass": np.digitize(SCORE, [-1, 1]).astype(np.float64),
    "regression": SCORE * 10 + 50,
}
FAST = Recipe(patience=10, parameters={"learning_rate": 0.1})


@pytest.mark.parametrize("task", list(TRUTHS))
def test_fit_learns_stops_early_and_is_proven(task: str) -> None:
    truth, seen = TRUTHS[task], []
    fitted = fit(task, X, truth, PART, FAST, classes=3, progress=lambda rounds, loss: seen.append((rounds, loss)))
    figures = evaluate(
        task, truth[PART == TEST], output_of(fitted.estimator, X[PART == TEST]), threshold=fitted.threshold
    )
    assert {"binary": "roc_auc", "multiclass": "roc_auc_macro", "regression": "r2"}[task] in figures
    assert figures.get("roc_auc", figures.get("roc_auc_macro", figures.get("r2"))) > 0.6
    assert fitted.engine == "forest"
    # The best rounds are kept: patience rounds more were tried, and none was better.
    assert len(seen) == fitted.rounds + 10 == len(fitted.history)
    assert int(np.argmin(fitted.history)) == fitted.rounds - 1
    assert fitted.estimator.get_booster().num_boosted_rounds() == fitted.rounds
    assert seen[0][0] == 1
    assert (fitted.threshold is None) == (task != "binary")


@pytest.mark.parametrize("task", list(TRUTHS))
def test_same_input_same_model_byte_for_byte_for_any_number_of_threads(task: str) -> None:
    models = [fit(task, X, TRUTHS[task], PART, FAST, classes=3, threads=threads) for threads in (1, 1, 2)]
    assert models[0].ubj == models[1].ubj == models[2].ubj
    assert models[0].threshold == models[1].threshold
    other = fit(task, X, TRUTHS[task], PART, Recipe(10, "auto", 43, FAST.parameters), classes=3)
    assert other.ubj != models[0].ubj


def test_imbalance_moves_the_threshold_and_leaves_probabilities_alone() -> None:
    truth = (SCORE > 4).astype(np.float64)
    auto = fit("binary", X, truth, PART, FAST)
    none = fit("binary", X, truth, PART, Recipe(10, "none", 42, FAST.parameters))
    assert auto.ubj == none.ubj
    assert none.threshold == 0.5
    assert auto.threshold < 0.5
    outputs = output_of(auto.estimator, X[PART == TEST])
    assert abs(outputs.mean() - truth[PART == TEST].mean()) < 0.04
    rows = PART == VALIDATE
    f1 = [
        evaluate("binary", truth[rows], output_of(m.estimator, X[rows]), threshold=m.threshold)["f1"]
        for m in (auto, none)
    ]
    assert f1[0] > f1[1]


def test_without_validation_rows_it_says_so() -> None:
    fitted = fit("binary", X, TRUTHS["binary"], np.where(PART == VALIDATE, TEST, PART).astype(np.int8), FAST)
    assert fitted.rounds == 300
    assert fitted.threshold == 0.5
    assert "without early stopping" in fitted.note


def test_one_class_on_validation_rows_leaves_the_threshold_at_a_half() -> None:
    truth = np.where(PART == VALIDATE, 0.0, TRUTHS["binary"])
    fitted = fit("binary", X, truth, PART, FAST)
    assert fitted.threshold == 0.5
    assert "threshold" in fitted.note


def test_labels_that_cannot_be_learnt_are_refused() -> None:
    with pytest.raises(InputError, match="same label"):
        fit("binary", X, np.ones(N), PART, FAST)
    with pytest.raises(InputError, match="no labelled row"):
        fit("binary", X, np.ones(N), np.full(N, TEST, np.int8), FAST)
    with pytest.raises(InputError, match="2 of 3 classes"):
        fit("multiclass", X, TRUTHS["binary"], PART, FAST, classes=3)
    with pytest.raises(InputError, match="float32"):
        fit("regression", X, np.full(N, 1e300), PART, FAST)


@pytest.mark.parametrize("given", [{"foo": 1}, {"max_depth": -5}, {"objective": "x"}, {"max_depth": "deep"}])
def test_wrong_parameters_are_named(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        fit("binary", X, TRUTHS["binary"], PART, Recipe(5, parameters=given))
    assert next(iter(given)) in str(caught.value)


def test_importance_and_crosses_find_what_was_planted() -> None:
    fitted = fit("regression", X, TRUTHS["regression"], PART, FAST)
    importance = feature_importance(fitted.json, NAMES)
    assert list(importance) == NAMES
    assert sum(importance.values()) == pytest.approx(1)
    assert sorted(importance, key=lambda name: -importance[name])[:3] == [
        "甲",
        *sorted(["乙", "丙"], key=lambda n: -importance[n]),
    ]
    crosses = cross_weights(fitted.json, NAMES)
    weights = [cross["weight"] for cross in crosses]
    assert weights == sorted(weights, reverse=True)
    assert {"乙", "丙"} in [set(cross["features"]) for cross in crosses[:2]]


def test_without_a_split_importance_is_even() -> None:
    noise = rng.normal(size=N)
    fitted = fit("regression", X, noise, PART, Recipe(3, parameters={"gamma": 1e9}))
    assert feature_importance(fitted.json, NAMES) == pytest.approx(dict.fromkeys(NAMES, 1 / F))
    assert cross_weights(fitted.json, NAMES) == []


def test_two_named_classes_are_multiclass_too():
    fitted = fit("multiclass", X, TRUTHS["binary"], PART, FAST, classes=2)
    outputs = output_of(fitted.estimator, X)
    assert outputs.shape == (len(X), 2)
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-6)
    assert fitted.engine == "forest"
