"""The fast way gives the answers of the general way, whatever is sent; what it cannot take it leaves."""

import json
import math
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.backend.serving.fast import MAX_ROWS
from holdfast.backend.serving.predictor import Predictor
from holdfast.core.features.encoding import Encoding, FeatureSpec
from holdfast.core.learn.forest import compile_forest
from holdfast.core.learn.serving import ServedModel, pack
from holdfast.errors import AlignmentError

NAMES = ("金额", "COUNT(visits)", "是否", "类型", "ratio")
SPECS = [
    FeatureSpec("金额", "number", "keep", minimum=-10.0, maximum=10.0, mean=0.0, std=1.0, aliases=("amount",)),
    FeatureSpec("COUNT(visits)", "number", "median", fill=3.0, minimum=0.0, maximum=50.0, mean=5.0, std=1.0),
    FeatureSpec("是否", "truth", "keep", minimum=0.0, maximum=1.0, mean=0.5, std=0.5),
    FeatureSpec("类型", "category", "unknown", categories=("投诉", "例行", 'quote"\\')),
    FeatureSpec("ratio", "number", "keep"),
]


class Clock:
    def now(self):
        return 1_700_000_000_000_000


@dataclass(frozen=True)
class FeatureSet:
    """As much of one as a predictor looks at."""

    hash: str = "set"
    names: tuple[str, ...] = (*NAMES, "not needed")
    features: tuple = ()


def model(task, label="高 \"风险\" 5%d"):  # fmt: skip
    objective = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}[task]
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(400, len(SPECS))) * 3
    matrix[:, 3] = rng.integers(0, 4, 400)
    matrix[rng.random(matrix.shape) < 0.1] = math.nan
    matrix[:, 3] = np.nan_to_num(matrix[:, 3])
    matrix[np.isnan(matrix[:, 1]), 1] = 3.0
    answer = rng.integers(0, 3 if task == "multiclass" else 2, 400)
    options = {"objective": objective, "max_depth": 4, "seed": 1}
    booster = xgboost.train(
        options | ({"num_class": 3} if task == "multiclass" else {}), xgboost.DMatrix(matrix, answer), 30
    )
    forest = compile_forest(booster.save_raw("json"))
    golden = matrix[:7]
    meta = {
        "target": "风险", "label": label, "model": f"风险/{label}", "version": "v1.0", "task": task,
        "threshold": 0.37 if task == "binary" else None,
        "classes": ["甲", "乙", "丙"] if task == "multiclass" else [], "encoding": Encoding(SPECS).to_dict(),
        "feature_set": "set", "link": forest.link, "engine": "forest",
    }  # fmt: skip
    arrays = {
        "nodes": forest.nodes, "roots": forest.roots, "groups": forest.groups, "base": forest.base,
        "booster": np.frombuffer(booster.save_raw("ubj"), np.uint8),
        "golden_rows": golden, "golden_margins": forest.margins(golden), "golden_outputs": forest.predict(golden),
    }  # fmt: skip
    return ServedModel(pack(meta, arrays))


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression", "two labels"])
def predictor(request):
    made = [model("binary"), model("binary", "低")] if request.param == "two labels" else [model(request.param)]
    return Predictor("dep_01", "风险", {one.label: one for one in made}, FeatureSet(), Clock())


def bare(predictions):
    """Without their ids."""
    return [{name: value for name, value in one.items() if name != "id"} for one in predictions]


def general(predictor, body, strict):
    asked = json.loads(body)
    rows = asked["features"] if isinstance(asked["features"], list) else [asked["features"]]
    answers = predictor.predict_features(rows, strict=asked.get("strict", strict))
    return json.loads(msgspec.json.encode(answers))


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.just(-0.0), st.floats(-9, 9)
)
ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=4), st.just("1,5"), st.just("12"), NUMBERS, st.just([]))
ROWS = st.fixed_dictionaries(
    {
        "金额": st.one_of(NUMBERS, NUMBERS, ODD),
        "COUNT(visits)": st.one_of(NUMBERS, ODD),
        "是否": st.one_of(st.booleans(), st.booleans(), ODD),
        "类型": st.one_of(st.sampled_from(["投诉", "例行", 'quote"\\', "未知", "新的"]), ODD),
        "ratio": st.one_of(NUMBERS, NUMBERS, ODD),
    },
    optional={"not needed": ODD, "extra": ODD, "amount": ODD},
)
USUAL = st.fixed_dictionaries(
    {
        "金额": st.floats(-12, 12),
        "COUNT(visits)": st.integers(0, 52),
        "是否": st.booleans(),
        "类型": st.sampled_from(["投诉", "例行", "未知"]),
        "ratio": st.one_of(st.floats(-5, 5), st.none()),
    },
    optional={"not needed": st.integers()},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(
        st.tuples(
            st.one_of(st.lists(st.one_of(USUAL, USUAL, ROWS), min_size=1, max_size=5), USUAL, ROWS),
            st.sampled_from([None, True, False]),
        ),
        min_size=1,
        max_size=5,
    ),
    strict=st.booleans(),
)
def test_every_batch_is_answered_as_each_request_alone(predictor, bodies, strict):
    fast = predictor.fast
    taken, expected = [], []
    for features, said in bodies:
        body = json.dumps({"features": features} | ({} if said is None else {"strict": said})).encode()
        try:
            alone = general(predictor, body, strict)
        except AlignmentError:
            # What is refused the general way is left to it.
            assert fast.take(body, strict) is None
            continue
        one = fast.take(body, strict)
        if one is not None:
            taken.append(one)
            expected.append(alone)
    if not taken:
        return
    made = fast.answer(taken)
    assert made.instant == 1_700_000_000_000
    for answer, alone in zip(made.answers, expected, strict=True):
        reply = json.loads(answer)
        assert (reply["target"], reply["deployment"], [*reply]) == (
            "风险", "dep_01", ["target", "deployment", "predictions"],
        )  # fmt: skip
        assert bare(reply["predictions"]) == bare(alone)
        assert [*reply["predictions"][0]] == [*alone[0]]
    ids = [one["id"] for answer in made.answers for one in json.loads(answer)["predictions"]]
    assert len(set(ids)) == len(ids)
    for label, one in predictor.models.items():
        answers = [one for alone in expected for one in alone]
        assert made.outputs[label] == [one.counted(answer["labels"][label]) for answer in answers]


USUAL_ROW = {"金额": 1.5, "COUNT(visits)": 3, "是否": True, "类型": "例行", "ratio": -2}


@pytest.mark.parametrize(
    "body",
    [
        {"features": USUAL_ROW},
        {"features": [USUAL_ROW] * MAX_ROWS},
        {"features": [USUAL_ROW], "strict": True, "explain": False},
        {"features": dict(reversed(USUAL_ROW.items()))},
        {"features": USUAL_ROW | {"not needed": {"a": [1]}}},
        {"features": USUAL_ROW | {"ratio": None}},
        {"features": USUAL_ROW | {"类型": "新的", "金额": 1e30}},
    ],
)
def test_usual_requests_are_taken(predictor, body):
    assert predictor.fast.take(msgspec.json.encode(body), strict=False) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b'{"features": []}', b'{"features": [[]]}', b'{"features": NaN}', b"[" * 100_000,
        json.dumps({"features": [USUAL_ROW] * (MAX_ROWS + 1)}).encode(),
        json.dumps({"features": USUAL_ROW, "explain": True}).encode(),
        json.dumps({"features": USUAL_ROW, "other": 1}).encode(),
        json.dumps({"features": USUAL_ROW | {"extra": 1}}).encode(),
        json.dumps({"features": {"金额": 1}}).encode(),
        json.dumps({"features": USUAL_ROW | {"类型": "新的"}, "strict": True}).encode(),
        json.dumps({"features": USUAL_ROW | {"金额": 99}, "strict": True}).encode(),
        json.dumps({"entities": ["1"]}).encode(),
    ],
)  # fmt: skip
def test_the_rest_is_left_to_the_general_way(predictor, body):
    assert predictor.fast.take(body, strict=False) is None


def test_a_predictor_verifies_the_fast_way_too(predictor):
    predictor.verify()


@pytest.mark.parametrize("name", ['COUNT(orders WHERE c = "Pink, 3d")', "a\\b", "Amount\n(EUR)"])
def test_names_that_json_escapes_go_the_general_way(monkeypatch, name):
    monkeypatch.setattr(f"{__name__}.SPECS", [*SPECS[:4], FeatureSpec(name, "number", "keep")])
    made = model("binary")
    needed = FeatureSet(names=(*NAMES[:4], name))
    predictor = Predictor("dep_01", "风险", {made.label: made}, needed, Clock())
    predictor.verify()
    assert predictor.fast is None
    row = {"金额": 1.0, "COUNT(visits)": 2.0, "是否": True, "类型": "投诉", name: 0.5}
    assert predictor.predict_features([row])[0]["repairs"] == []


def test_a_name_that_is_only_known_may_be_one_that_json_escapes():
    made = model("binary")
    predictor = Predictor("dep_01", "风险", {made.label: made}, FeatureSet(names=(*NAMES, 'x = "y"')), Clock())
    assert predictor.fast is not None
    row = {"金额": 1.0, "COUNT(visits)": 2.0, "是否": True, "类型": "投诉", "ratio": 0.5}
    assert predictor.fast.take(msgspec.json.encode({"features": row}), strict=True) is not None
    assert predictor.fast.take(msgspec.json.encode({"features": row | {'x = "y"': 1}}), strict=True) is None
