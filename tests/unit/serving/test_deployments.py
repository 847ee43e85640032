"""Deployments: one transaction, a pointer, and going back."""

import threading

import pytest

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.deployment import Deployments
from holdfast.backend.serving.predictor import deployment_of
from holdfast.backend.store import Store
from holdfast.errors import ConflictError, InputError, NotFoundError


@pytest.fixture
def deployments(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'h.db'}")
    store.upgrade()
    yield Deployments(store, SystemClock())
    store.close()


def test_deploy_and_go_back(deployments):
    assert deployments.current("风险") is None
    assert deployments.pointers() == {}
    made = []
    for number in range(3):
        after = made[-1].id if made else None
        made.append(deployments.deploy("风险", {"高风险": f"m{number}"}, f"n{number}", after=after))
    other = deployments.deploy("风", {"x": "m"})
    assert deployments.current("风险") == made[2] == deployments.get(made[2].id)
    assert [d.id for d in deployments.history("风险")] == [d.id for d in reversed(made)]
    assert deployments.pointers() == {"风险": made[2].id, "风": other.id}
    assert deployments.rollback("风险") == made[1]
    assert deployments.rollback("风险") == made[0]
    with pytest.raises(ConflictError):
        deployments.rollback("风险")
    assert deployments.rollback("风险", made[2].id) == made[2]
    assert len(deployments.history()) == 4
    with pytest.raises(ConflictError, match="not of"):
        deployments.rollback("风险", other.id)
    for call in (lambda: deployments.rollback("nothing"), lambda: deployments.rollback("风险", "dep_x")):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(InputError):
        deployments.deploy("风险", {})


def test_what_is_withdrawn_resumes_as_it_was(deployments):
    with pytest.raises(NotFoundError, match="nothing is deployed"):
        deployments.withdraw("风险")
    with pytest.raises(NotFoundError, match="ever"):
        deployments.last("风险")
    first = deployments.deploy("风险", {"高风险": "m1"})
    second = deployments.deploy("风险", {"高风险": "m2"}, after=first.id)
    deployments.rollback("风险")
    assert deployments.last("风险") == first.id
    with pytest.raises(ConflictError):
        deployments.resume("风险")
    assert deployments.withdraw("风险") == first.id
    assert deployments.pointers() == {}
    assert deployments.current("风险") is None
    assert deployments.last("风险") == first.id
    with pytest.raises(NotFoundError):
        deployments.withdraw("风险")
    deployments.resume("风险")
    assert deployments.current("风险") == first
    # What is deployed while another is withdrawn stays.
    deployments.withdraw("风险")
    third = deployments.deploy("风险", {"高风险": "m3"})
    with pytest.raises(ConflictError):
        deployments.resume("风险")
    assert deployments.current("风险") == third
    assert second in deployments.history("风险")


def test_of_two_at_once_one_wins_and_the_other_leaves_nothing(deployments):
    outcomes = []

    def attempt(number):
        try:
            outcomes.append(deployments.deploy("t", {"x": f"m{number}"}, after=None).id)
        except ConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome]
    assert [d.id for d in deployments.history("t")] == [winner]


@pytest.mark.parametrize("text", ["", "dep_1", "x-1a1fbf30fbcb1d85bf282", "dep_1-zz", "dep_1-12", "dep_1-" + "G" * 30])
def test_what_is_no_prediction_id(text):
    with pytest.raises(InputError):
        deployment_of(text)


def test_a_prediction_id_names_its_deployment():
    assert deployment_of("dep_1a1fbf1f9b0c0e4533a5d-1a1fbf30fbcb1d85bf282") == "dep_1a1fbf1f9b0c0e4533a5d"
