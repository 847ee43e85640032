"""Every feature of the generated worlds equals its meaning written a second time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.features.frame import Categories
from holdfast.core.features.primitives import PRIMITIVES
from holdfast.core.features.world import World

from . import oracle
from .test_promises import ASKED, ENTITIES, SETS, run
from .worlds import SCHEMA, Generated, generated

NAMES = ["customers", "orders"]


def test_the_sets_use_every_primitive() -> None:
    used = {
        below.primitive.name
        for name in NAMES
        for feature in SETS[name].features
        for below in feature.walk()
        if below.primitive
    }
    assert used >= set(PRIMITIVES)


@settings(max_examples=80, deadline=None)
@given(generated(), ASKED, st.sampled_from(NAMES))
def test_every_feature_means_what_it_says(history: Generated, asked: list[tuple[int, int]], name: str) -> None:
    feature_set = SETS[name]
    frame = run(feature_set, World.build(SCHEMA, history.tables()), asked)
    for feature in feature_set.features:
        column = frame.columns[feature.name]
        values = column.decode() if isinstance(column, Categories) else column
        for row, (entity, cutoff) in enumerate(asked):
            key = ENTITIES[name][entity]
            state = oracle.state(history, name, key, cutoff)
            wanted = oracle.value(history, feature, state, key, cutoff, {"渠道": "网店", "budget": 1.5})
            got = None if values[row] is None or values[row] != values[row] else values[row]
            scale = 1e17 if np.any([abs(r["total"] or 0) > 1e15 for r in history.states["orders"]]) else 0.0
            scale = max(scale, 1e17 * any(abs(r["credit"] or 0) > 1e15 for r in history.states["customers"]))
            scale = max(scale, 1e17 * any(abs(r["税率"] or 0) > 1e15 for r in history.states["地区"]))
            assert oracle.same(got, wanted, scale), (feature.name, got, wanted)
