"""Outcomes are checked against what was predicted, all or none."""

import datetime
import math

import pytest

from holdfast.backend.deployment import Outcomes
from holdfast.backend.pipelines import outcomes
from holdfast.backend.pipelines.outcomes import add_outcomes, outcomes_of
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.wiring import file_reader
from holdfast.errors import InputError


def prediction(rooms, target, tail="1a1fbf314dbb1d85bf284"):
    return f"{rooms.deployments.current(target).id}-{tail}"


def classes(rooms):
    """Those of the one label of `grade`."""
    version = rooms.registry.get(rooms.deployments.current("grade").models["grade"])
    return sorted(load_bundle(rooms.blobs.path(version.serving), version.serving).classes)


def test_each_task_takes_what_it_predicts_and_other_names_are_metrics(rooms):
    told = [
        ("风险", "高风险", "true", True), ("风险", "Low Risk", 0, False), ("score", "score", "61.5", 61.5),
        ("grade", "grade", "差", "差"), ("风险", "回头", 1, 1.0),
    ]  # fmt: skip
    given = [{"prediction": prediction(rooms, t), "label": label, "value": value} for t, label, value, _ in told]
    assert add_outcomes(rooms, given).added == len(told)
    known = Outcomes(rooms.store, rooms.clock)
    kept = [one for t in ("风险", "score", "grade") for one in known.of(rooms.deployments.current(t).id)]
    found = {one.label: one.value for one in kept}
    assert found == {label: value for _, label, _, value in told}
    assert add_outcomes(rooms, given).known == len(told)


def test_a_class_is_one_that_the_model_knows(rooms):
    names = classes(rooms)
    good = {"prediction": prediction(rooms, "grade", "1a1fbf314dbb1d85bf777"), "label": "grade", "value": names[0]}
    for wrong in ("没有", 1.0, True, float("nan"), datetime.date(2024, 1, 2)):
        with pytest.raises(InputError, match="is no class of this label") as caught:
            add_outcomes(rooms, [good, good | {"value": wrong}], file="结果.csv")
        assert {name: caught.value.where[name] for name in ("row", "column", "file")} == {
            "row": 2, "column": "value", "file": "结果.csv"
        }  # fmt: skip
        assert caught.value.hint == f"It has the classes: {', '.join(names)}"


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0"])
def test_a_class_that_is_a_whole_number_may_come_as_a_float(value):
    assert outcomes._class(frozenset("012"), value, {}) == "1"
    assert outcomes._class(frozenset(("1.0", "1")), 1.0, {}) == "1.0"
    for wrong in (3.0, 1.5, True, math.inf, 10**400):
        with pytest.raises(InputError, match="is no class of this label"):
            outcomes._class(frozenset("012"), wrong, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 0.5}, "is no truth value"),
        ({"value": "vielleicht"}, "is no truth value"),
        ({"value": None}, "the value of an outcome is missing"),
        ({"label": ""}, "the label of an outcome is missing"),
        ({"label": "回头", "value": "oft"}, "is no number"),
        ({"label": "回头", "value": float("nan")}, "is no number"),
        ({"label": "回头", "value": datetime.date(2024, 1, 2)}, "is no number"),
        ({"label": "回头", "value": [1]}, "is no number"),
        ({"label": "回头", "value": 10**400}, "is no number"),
        ({"value": datetime.datetime(2024, 1, 2)}, "is no truth value"),
        ({"value": [1]}, "is no truth value"),
        ({"prediction": "17"}, "is not a prediction id"),
        ({"prediction": "dep_1a1fbf1f9b0c0e4533a5d-1a1fbf314dbb1d85bf284"}, "there is no deployment"),
    ],
)
def test_one_wrong_row_and_nothing_is_recorded(rooms, change, said):
    good = {"prediction": prediction(rooms, "风险", "1a1fbf314dbb1d85bf999"), "label": "高风险", "value": 1}
    with pytest.raises(InputError, match=said) as caught:
        add_outcomes(rooms, [good, good | change])
    assert caught.value.where["row"] == 2
    if "value" in change and change["value"] is not None:
        assert caught.value.where["column"] == "value"
    before = Outcomes(rooms.store, rooms.clock).of(good["prediction"].partition("-")[0])
    assert good["prediction"] not in {one.prediction for one in before}


def test_a_file_names_its_columns(tmp_path):
    file = tmp_path / "结果.csv"
    file.write_text("prediction,value\nx,1\n", encoding="utf-8")
    with file_reader() as read, pytest.raises(InputError, match="no column 'label'"):
        outcomes_of(read(file), file.name)
    file.write_text("label,prediction,value\n高,x,1\n", encoding="utf-8")
    with file_reader() as read:
        assert outcomes_of(read(file), file.name) == [{"prediction": "x", "label": "高", "value": "1", "row": 2}]
