"""A link table and a self link: synthesised features mean what they say, and have the same bits alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.features.world import World

from . import oracle
from .test_promises import bits
from .worlds import SCHOOL, STAFF, STUDENTS, Generated, moments, schools

PRIMITIVES = (
    "COUNT", "MEAN", "MAX", "LAST", "MODE", "PERCENT_TRUE", "TIME_SINCE_LAST", "QUANTILE(q=0.25)", "QUANTILE(q=0.75)",
    "CUM_SUM", "CUM_COUNT", "LAG(periods=2)", "PERCENTILE", "TIME_SINCE_PREVIOUS", "ABSOLUTE", "NUM_WORDS",
    "GREATER_THAN", "SUBTRACT",
)  # fmt: skip
OPTIONS = Options(
    depth=2,
    windows=("all", "2d"),
    primitives=PRIMITIVES,
    conditions={("enrolments", "passed"): (True,)},
    conditional=("COUNT", "MEAN"),
    windowed=("LAST",),
    seeds={"enrolments": ("ABOVE(grade, value=0)",)},
    limit=100_000,
    calendar=False,
)
SETS = {name: synthesise(SCHOOL, name, (), OPTIONS).feature_set for name in ("students", "staff", "courses")}
KEYS = {"students": [*STUDENTS, 99], "staff": [*STAFF, 99], "courses": ["数学", "k", "gone"]}

ASKED = st.tuples(st.integers(0, 2), moments)


def run(name: str, world: World, asked: list[tuple[int, int]]) -> FeatureFrame:
    entities = pa.array([KEYS[name][place] for place, _ in asked])
    return evaluate(SETS[name], world, entities, np.array([cutoff for _, cutoff in asked], np.int64))


@pytest.mark.parametrize(
    ("entity", "names"),
    [
        (
            "students",
            # Many to many, and on from there; the student's fellows by the mentor; the mentor's manager.
            {"MEAN(enrolments.courses.credits)", "MAX(enrolments.grade, 2d)", "LAST(enrolments.grade, 2d)",
             "staff.COUNT(students)", "staff.staff.salary", "staff.COUNT(courses)", "staff.MEAN(staff.salary)",
             "MEAN(enrolments.grade WHERE passed = True, 2d)", "PERCENT_TRUE(enrolments.ABOVE(grade, value=0))",
             "LAST(enrolments.CUM_SUM(grade BY course))", "LAST(enrolments.LAG(grade BY student, periods=2))",
             "MAX(enrolments.TIME_SINCE_PREVIOUS(BY course))", "QUANTILE(enrolments.grade, q=0.25)",
             "MEAN(enrolments.ABSOLUTE(grade))",
             "GREATER_THAN(MAX(enrolments.grade), QUANTILE(enrolments.grade, q=0.25))"},
        ),
        ("staff", {"staff.salary", "COUNT(staff)", "MEAN(staff.salary)", "staff.staff.职称", "staff.COUNT(staff)",
                   "MAX(staff.COUNT(staff))", "SUBTRACT(salary, staff.salary)", "MAX(courses.NUM_WORDS(title))"}),
    ],
)  # fmt: skip
def test_what_is_asked(entity: str, names: set[str]) -> None:
    assert names - set(SETS[entity].names) == set()


@settings(max_examples=20, deadline=None)
@given(schools(), st.lists(ASKED, min_size=1, max_size=2), st.sampled_from(sorted(SETS)))
def test_every_feature_means_what_it_says(history: Generated, asked: list[tuple[int, int]], name: str) -> None:
    frame = run(name, World.build(SCHOOL, history.tables()), asked)
    for feature in SETS[name].features:
        column = frame.columns[feature.name]
        values = column.decode() if isinstance(column, Categories) else column
        for row, (place, cutoff) in enumerate(asked):
            key = KEYS[name][place]
            wanted = oracle.value(history, feature, oracle.state(history, name, key, cutoff), key, cutoff, {})
            got = None if values[row] is None or values[row] != values[row] else values[row]
            assert oracle.same(got, wanted, 0.0), (feature.name, got, wanted)


@settings(max_examples=30, deadline=None)
@given(schools(), st.lists(ASKED, min_size=1, max_size=4), st.sampled_from(sorted(SETS)))
def test_one_entity_from_raw_rows_has_the_bits_of_the_batch(
    history: Generated, asked: list[tuple[int, int]], name: str
) -> None:
    batch = run(name, World.build(SCHOOL, history.tables()), asked)
    for row, pair in enumerate(asked):
        online = World.build(SCHOOL, typed_rows(SCHOOL, history.known(pair[1])))
        assert bits(run(name, online, [pair]), 0) == bits(batch, row)
