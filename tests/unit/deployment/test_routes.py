"""Who answers: sticky, by shares, growing without moving anybody back."""

from dataclasses import replace

import pytest

from holdfast.backend.deployment import Arm, Route

UNITS = [f"顾客{number}" for number in range(20_000)]


def route(share: float, mode: str = "canary", salt: str = "rollout_1") -> Route:
    return Route("stable", (Arm("new", share, mode),), salt)  # type: ignore[arg-type]


def test_without_arms_the_stable_one_answers() -> None:
    assert Route("stable").choose("x") == Route("stable").choose() == "stable"
    assert Route("stable").deployments == ("stable",)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_units_divide_by_the_share_and_each_stays_where_it_is(share: float) -> None:
    chosen = [route(share).choose(unit) for unit in UNITS]
    assert chosen == [route(share, "ab").choose(unit) for unit in UNITS]
    assert chosen.count("new") / len(UNITS) == pytest.approx(share, abs=0.01)


def test_a_share_that_grows_keeps_the_units_it_had() -> None:
    small, large = ({u for u in UNITS if route(share).choose(u) == "new"} for share in (0.05, 0.25))
    assert small < large


def test_another_rollout_divides_otherwise() -> None:
    first, second = ({u for u in UNITS if route(0.5, salt=salt).choose(u) == "new"} for salt in ("a", "b"))
    assert len(first & second) / len(first) == pytest.approx(0.5, abs=0.02)


def test_requests_without_a_unit_are_drawn_by_lot() -> None:
    chosen = [route(0.25).choose() for _ in range(20_000)]
    assert chosen.count("new") / 20_000 == pytest.approx(0.25, abs=0.02)


def test_a_shadow_never_answers_and_sees_its_share() -> None:
    shadow = route(0.2, "shadow")
    assert {shadow.choose(unit) for unit in UNITS} == {"stable"}
    copied = [unit for unit in UNITS if shadow.shadows(unit) == ("new",)]
    assert len(copied) / len(UNITS) == pytest.approx(0.2, abs=0.01)
    assert route(1.0).shadows("x") == ()


def test_several_arms_share_what_there_is() -> None:
    both = replace(route(0.25), arms=(Arm("a", 0.25, "ab"), Arm("b", 0.5, "ab"), Arm("c", 1.0, "shadow")))
    chosen = [both.choose(unit) for unit in UNITS]
    assert [chosen.count(one) / len(UNITS) for one in ("a", "b", "stable")] == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.01
    )
    assert both.deployments == ("stable", "a", "b", "c")
