import json

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.core.learn.forest import Forest, compile_forest, link_outputs
from holdfast.errors import IntegrityError

FEATURES = 4
# Values on which float32 and float64 disagree, denormals, and ones that will be thresholds.
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(-1e38, 1e38, allow_nan=False),
    st.sampled_from(
        [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 0.1, 0.1 + 1e-9, 1.0, 1.0000001, 16777217.0, float("nan")]
    ),
)


def booster_of(objective: str, seed: int, rows: int = 300, **more: object) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    matrix = rng.choice([0.0, 1e-45, 0.1, 0.3, 1.0, 5.5, -2.0, 1e30, np.nan], (rows, FEATURES)).astype(np.float32)
    signal = np.nan_to_num(matrix[:, 0]).clip(-9, 9) + np.nan_to_num(matrix[:, 1]).clip(-9, 9) + rng.normal(size=rows)
    truth = (
        signal * 1e3 if objective.startswith("reg") else np.digitize(signal, [0.5, 3] if "multi" in objective else [1])
    )
    parameters = {"objective": objective, "seed": seed, "max_depth": 4, "eta": 0.3, "nthread": 1, **more}
    if objective.startswith("multi"):
        parameters["num_class"] = 3
    return xgboost.train(parameters, xgboost.DMatrix(matrix, truth), num_boost_round=25)


def thresholds(booster: xgboost.Booster) -> np.ndarray:
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]
    return np.unique(np.concatenate([np.array(tree["split_conditions"], np.float32) for tree in trees]))


BOOSTERS = {name: booster_of(name, 7) for name in ("binary:logistic", "multi:softprob", "reg:squarederror")}
FORESTS = {name: compile_forest(bytes(booster.save_raw("json"))) for name, booster in BOOSTERS.items()}


def assert_equal(booster: xgboost.Booster, forest: Forest, rows: np.ndarray) -> None:
    margins = booster.inplace_predict(rows.astype(np.float32), predict_type="margin")
    ours = forest.margins(rows)
    assert ours.tobytes() == np.asarray(margins, np.float32).reshape(ours.shape).tobytes()
    outputs = np.asarray(booster.inplace_predict(rows.astype(np.float32)), np.float64)
    np.testing.assert_array_equal(forest.predict(rows), outputs)
    np.testing.assert_array_equal(forest.predict(rows[:1])[0], outputs[0])


@pytest.mark.parametrize("name", list(BOOSTERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(FEATURES)), elements=VALUES))
def test_kernel_is_the_booster_bit_for_bit(name: str, rows: np.ndarray) -> None:
    assert_equal(BOOSTERS[name], FORESTS[name], rows)


@pytest.mark.parametrize("name", list(BOOSTERS))
def test_values_exactly_on_and_beside_thresholds(name: str) -> None:
    cuts = thresholds(BOOSTERS[name])
    with np.errstate(over="ignore"):
        near = np.concatenate([cuts, np.nextafter(cuts, np.float32(-np.inf)), np.nextafter(cuts, np.float32(np.inf))])
    near = np.concatenate([near[np.isfinite(near)].astype(np.float64), [np.nan]])
    rng = np.random.default_rng(0)
    assert_equal(BOOSTERS[name], FORESTS[name], rng.choice(near, (4000, FEATURES)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "more",
    [
        {"max_depth": 1},
        {"max_depth": 9, "min_child_weight": 0},
        {"gamma": 50.0},
        {"grow_policy": "lossguide", "max_leaves": 9, "max_depth": 0},
        {"eta": 1e-8},
    ],
)
def test_shapes_of_trees(seed: int, more: dict[str, object]) -> None:
    for name in BOOSTERS:
        booster = booster_of(name, seed, rows=120, **more)
        forest = compile_forest(bytes(booster.save_raw("json")))
        assert forest is not None
        forest.check(FEATURES)
        rng = np.random.default_rng(seed)
        assert_equal(booster, forest, rng.choice([0.0, 0.1, 0.3, 1.0, 5.5, -2.0, 1e30, np.nan, 0.2], (300, FEATURES)))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_logistic_stays_a_probability(values: list[float]) -> None:
    outputs = link_outputs(np.array(values, np.float32).reshape(-1, 1), "logistic")
    assert ((outputs >= 0) & (outputs <= 1)).all()


def test_numbers_beyond_float32_go_where_the_largest_goes() -> None:
    forest = FORESTS["binary:logistic"]
    rows = np.zeros((2, FEATURES))
    rows[0, 0], rows[1, 0] = 1e300, float(np.finfo(np.float32).max)
    assert forest.predict(rows)[0] == forest.predict(rows)[1]


def test_what_the_kernel_does_not_know_is_left_to_the_booster() -> None:
    rng = np.random.default_rng(0)
    data = xgboost.DMatrix(rng.normal(size=(100, 2)), rng.random(100))
    for parameters in ({"objective": "count:poisson"}, {"booster": "dart", "rate_drop": 0.5}, {"booster": "gblinear"}):
        booster = xgboost.train(parameters, data, num_boost_round=3)
        assert compile_forest(bytes(booster.save_raw("json"))) is None


@pytest.mark.parametrize(("row", "column", "value"), [(0, 0, 99), (0, 2, 0), (0, 2, 10**6), (0, 3, 0), (0, 0, -7)])
def test_arrays_that_would_walk_outside_are_refused(row: int, column: int, value: int) -> None:
    sound = FORESTS["binary:logistic"]
    nodes = sound.nodes.copy()
    nodes[row, column] = value
    with pytest.raises(IntegrityError, match="do not form trees"):
        Forest(nodes, sound.roots, sound.groups, sound.base, sound.link).check(FEATURES)
