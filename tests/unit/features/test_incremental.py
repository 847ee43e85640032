"""What is said to be unaffected by newer states is: equal bits; and it is not everything."""

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from holdfast.backend.features.incremental import reusable, unaffected
from holdfast.core.features.world import World

from .test_partitions import questions
from .test_promises import ASKED, SETS, bits, run
from .worlds import SCHEMA, Generated, generated, moments


def before(history: Generated, day: int, missing: set[int]) -> Generated:
    """The history as it was stored when the day ended: later states not there, later ends not set, some rows late."""
    states = {}
    for place, (name, rows) in enumerate(history.states.items()):
        kept = [row for number, row in enumerate(rows) if (place * 7 + number) % 23 not in missing]
        states[name] = [
            {**row, "known_to": None if row["known_to"] is not None and row["known_to"] > day else row["known_to"]}
            for row in kept
            if row["known_from"] <= day
        ]
    return Generated(states)


@settings(max_examples=60, deadline=None)
@given(generated(), ASKED, st.sampled_from(sorted(SETS)), moments, st.sets(st.integers(0, 22), max_size=2))
def test_unaffected_rows_have_the_bits_of_the_newer_data(
    history: Generated, asked: list[tuple[int, int]], name: str, day: int, missing: set[int]
) -> None:
    """Late rows, corrections and removals: whatever came after `day`, and rows that had been missing."""
    older = before(history, day, missing)
    same = unaffected(SETS[name], older.tables(), history.tables(), questions(name, asked))
    one = run(SETS[name], World.build(SCHEMA, older.tables()), asked)
    two = run(SETS[name], World.build(SCHEMA, history.tables()), asked)
    for row in np.flatnonzero(same):
        assert bits(one, row) == bits(two, row)
    event(f"{int(same.sum())} of {len(same)} kept")


def test_a_set_is_reusable_for_itself_and_not_for_another_meaning() -> None:
    one, inclusive = SETS["customers"], SETS["customers, cutoff included"]
    assert reusable(one, one) == tuple(range(len(one.features)))
    assert reusable(one, inclusive) == ()
