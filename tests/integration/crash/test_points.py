"""Every pipeline killed at its crash points, on every database; then as if nothing had happened.

Here a sample that takes minutes: each kind of point once, at its first and its last time. `make bench NAME=crash` kills
at all of them.
"""

import pytest

from .harness import Bench, sample
from .operations import OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_is_killed_ends_as_if_nothing_had_happened(bench: Bench, operation: str) -> None:
    points, before, after = bench.points(operation)
    assert before != after
    wanted = sample(points, 3 if bench.databases is None else 2)
    assert len(wanted) >= 3
    assert [line for point in wanted for line in bench.kill(operation, point, before, after)] == []


def test_the_checks_can_fail(bench: Bench) -> None:
    """A point that is never passed, and an end that is not the wanted one, are told."""
    _, before, after = bench.points("deploy")
    assert "it was not killed" in bench.kill("deploy", "commit nothing: before#1", before, after)[0]
    wrong = bench.kill("deploy", "commit deploy: after#1", before, {**after, "versions": ["v9.9"]})
    assert any("/versions is" in line for line in wrong)


@pytest.mark.parametrize("seed", [11, 12])
def test_several_workers_that_are_killed_and_stopped_lose_nothing_and_double_nothing(bench: Bench, seed: int) -> None:
    wrong, done = bench.chaos(seed, seconds=5)
    assert wrong == []
    assert done.total() >= 3
