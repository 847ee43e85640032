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


def test_a_training_that_was_registered_is_not_done_again_when_the_data_has_changed(bench: Bench) -> None:
    _, before, _ = bench.points("train")
    with bench.copy("ingested", "registered") as root:
        assert bench.server(root, "train", ask="commit register models: after#1")[0] < 0
        status, told = bench.server(root, "ingest", "drain", "faults", "summary")
        assert (status, told.get("faults")) == (0, []), told
    assert told["summary"]["versions"] != before["versions"]
    assert told["summary"]["runs"] == {"done": 1}
    assert told["summary"]["jobs"]["train done"] == 1
