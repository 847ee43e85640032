"""Parted evaluation gives the bits of the whole, and goes on where it was killed."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backend.features.partitions import Parts, Questions, evaluate_in_parts
from holdfast.backend.features.scratch import ScratchTables
from holdfast.core.features.frame import FeatureFrame
from holdfast.core.features.world import World

from .test_promises import ASKED, ENTITIES, SETS, bits, run
from .worlds import SCHEMA, Generated, generated


def questions(name: str, asked: list[tuple[int, int]]) -> Questions:
    """The questions that `run` asks."""
    entity = SETS[name].entity
    return Questions(
        pa.array([ENTITIES[entity][one] for one, _ in asked]),
        np.array([cutoff for _, cutoff in asked], np.int64),
        {"渠道": pa.array(["网店"] * len(asked)), "budget": pa.array([1.5] * len(asked))},
    )


def parted(name: str, history: Generated, asked: list[tuple[int, int]], parts: Parts) -> FeatureFrame:
    with ScratchTables(SCHEMA) as tables:
        tables.register(history.tables())
        return evaluate_in_parts(SETS[name], tables, questions(name, asked), parts)


@settings(max_examples=25, deadline=None)
@given(generated(), ASKED, st.sampled_from(sorted(SETS)), st.integers(1, 5))
def test_parts_have_the_bits_of_the_whole(
    history: Generated, asked: list[tuple[int, int]], name: str, count: int
) -> None:
    whole = run(SETS[name], World.build(SCHEMA, history.tables()), asked)
    found = parted(name, history, asked, Parts(least=count))
    assert list(found.columns) == list(whole.columns)
    for row in range(len(asked)):
        assert bits(found, row) == bits(whole, row)
