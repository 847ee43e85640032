"""From evidence to decision: what is harm, what is chance, what is too little, and when a rollout goes on."""

from dataclasses import replace

import numpy as np
import pytest

from holdfast.core.decide import (
    Counts,
    Decision,
    Evidence,
    Outcome,
    Policy,
    Quality,
    Recent,
    Rules,
    Sample,
    Step,
    decide,
    quantile,
)

EDGES = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)
FAST, SLOW = (80, 20, 0, 0, 0, 0, 0), (0, 0, 0, 50, 50, 0, 0)
CANARY = Policy("canary", (Step(0.05, 600), Step(0.25, 600), Step(0.5, 600)))


def counts(requests: int, errors: int = 0, latency: tuple[int, ...] = FAST, bins: tuple[int, ...] = ()) -> Counts:
    scaled = tuple(requests * part // 100 for part in latency)
    return Counts(requests, errors, scaled, {"高": bins} if bins else {})


def seen(stable: Counts, candidate: Counts, elapsed: float = 600, **more: object) -> Evidence:
    return Evidence(elapsed, stable, candidate, EDGES, **more)  # type: ignore[arg-type]


def broken(decision: Decision) -> list[str]:
    return [one.rule for one in decision.findings if one.verdict == "broken"]


def test_a_good_canary_walks_its_steps_to_promotion() -> None:
    good = seen(counts(2000), counts(100))
    first, last = decide(CANARY, 0, good), decide(CANARY, 2, good)
    assert (first.action, last.action) == ("next step", "promote")
    assert "from 0.05 to 0.25" in first.reason
    assert "100 requests in 10 min" in last.reason


@pytest.mark.parametrize(
    ("candidate", "elapsed", "code", "words"),
    [
        (counts(99), 10_000, "requests", "99 of 100 requests"),
        (counts(0), 10_000, "requests", "0 of 100"),
        (counts(500), 480, "time", "2 min left"),
    ],
)
def test_it_holds_until_there_was_enough_to_see(candidate: Counts, elapsed: float, code: str, words: str) -> None:
    decision = decide(CANARY, 1, seen(counts(2000), candidate, elapsed))
    assert (decision.action, decision.code) == ("hold", code)
    assert words in decision.reason


def test_errors_roll_back_before_the_step_is_over_and_say_why() -> None:
    decision = decide(CANARY, 0, seen(counts(2000, 2), counts(60, 12), elapsed=5))
    assert (decision.action, broken(decision)) == ("roll back", ["error_rate"])
    assert "20 % (12 of 60 requests), 0.1 % of the stable one; allowed is 1 % more" in decision.reason


def test_one_error_among_few_requests_is_no_reason_to_roll_back() -> None:
    decision = decide(CANARY, 0, seen(counts(2000), counts(50, 1), elapsed=5))
    assert decision.action == "hold"
    assert decision.findings[0].verdict == "unclear"


def test_two_refused_requests_are_no_bad_model_however_many_the_stable_one_answered() -> None:
    green = Policy("green", (Step(1.0, 3600),))
    for requests, errors in ((1, 1), (2, 2), (20, 1)):
        decision = decide(green, 0, seen(counts(10_000), Counts(requests, errors), elapsed=5))
        assert (decision.action, decision.findings[0].verdict) == ("hold", "unclear")
    assert decide(green, 0, seen(counts(10_000), Counts(20, 3), elapsed=5)).action == "roll back"


def test_labels_and_windows_and_steps_share_one_alpha() -> None:
    """The same evidence weighs less the more is tested."""
    arms = counts(2000, 20), counts(2000, 68)

    def p(**more: object) -> float:
        told = decide(CANARY, 0, seen(*arms, **more)).findings[0].p
        assert told is not None
        return told

    assert p(stretch=3) == pytest.approx(9 * p())
    late = [decide(CANARY, 0, seen(counts(10**6), counts(10**6), recent=Recent(k, *arms))) for k in (1, 4032)]
    assert [one.action for one in late] == ["roll back", "next step"]
    drops = [
        decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.8, 900),) * labels)).findings[-1].p for labels in (1, 20)
    ]
    assert drops[1] == pytest.approx(20 * (drops[0] or 1))


def test_what_may_be_chance_is_not_promoted_either() -> None:
    decision = decide(CANARY, 2, seen(counts(3000, 30), counts(3000, 62)))
    assert (decision.action, decision.code) == ("hold", "unclear")
    assert decide(CANARY, 2, seen(counts(30_000, 300), counts(30_000, 660))).action == "roll back"
    assert decide(CANARY, 2, seen(counts(30_000, 300), counts(30_000, 540))).action == "promote"


def test_errors_that_both_have_are_not_the_candidates() -> None:
    assert decide(CANARY, 0, seen(counts(2000, 400), counts(200, 40))).action == "next step"


def test_a_stable_arm_without_requests_leaves_the_limit_itself() -> None:
    assert decide(CANARY, 0, seen(counts(3), counts(200, 20))).action == "roll back"
    assert decide(CANARY, 0, seen(counts(3), counts(200))).action == "next step"


def test_a_slow_candidate_is_rolled_back_and_twice_as_fast_a_limit_is_kept() -> None:
    decision = decide(CANARY, 0, seen(counts(2000), counts(100, latency=SLOW), elapsed=3))
    assert (decision.action, broken(decision)) == ("roll back", ["latency"])
    assert "allowed is +100%" in decision.reason
    lax = replace(CANARY, rules=Rules(latency=20.0))
    assert decide(lax, 0, seen(counts(2000), counts(100, latency=SLOW))).action == "next step"
    off = replace(CANARY, rules=Rules(latency=None))
    assert decide(off, 0, seen(counts(2000), counts(100, latency=SLOW))).action == "next step"
    one_slow = Counts(100, 0, (80, 14, 0, 0, 0, 6, 0))
    assert decide(CANARY, 0, seen(counts(2000), one_slow)).code == "unclear"


def test_what_began_to_fail_late_does_not_hide_behind_what_went_well() -> None:
    whole = seen(counts(190_000), counts(10_000, 80), 600)
    assert decide(CANARY, 0, whole).action == "next step"
    late = replace(whole, recent=Recent(4000, counts(1900), counts(100, 80)))
    decision = decide(CANARY, 0, late)
    assert decision.action == "roll back"
    assert "error rate lately 80 %" in decision.reason


def test_shifted_outputs_and_only_they_break_the_rule() -> None:
    rng = np.random.default_rng(4)
    shape = np.linspace(1, 20, 20) / 210
    usual = tuple(int(n) for n in rng.multinomial(5000, shape))
    same = tuple(int(n) for n in rng.multinomial(200, shape))
    decision = decide(CANARY, 0, seen(counts(5000, bins=usual), counts(200, bins=same)))
    assert decision.action == "next step"
    decision = decide(CANARY, 0, seen(counts(5000, bins=usual), counts(200, bins=same[::-1])))
    assert (decision.action, broken(decision)) == ("roll back", ["shift"])
    assert "the outputs of 高" in decision.reason
    few = decide(CANARY, 0, seen(counts(5000, bins=usual), counts(200, bins=(5,) * 4 + (0,) * 16)))
    assert [one.verdict for one in few.findings if one.rule == "shift"] == ["unknown"]


@pytest.mark.parametrize("bins", [2, 20])
def test_outputs_of_one_distribution_looked_at_always_raise_few_false_alarms(bins: int) -> None:
    rng = np.random.default_rng(bins)
    shape = rng.dirichlet(np.ones(bins))
    policy, alarms = replace(CANARY, rules=Rules(shift=0.02)), 0
    for _ in range(60):
        stable, candidate = (rng.multinomial(per, shape, 150).cumsum(axis=0) for per in (95, 5))
        for a, b in zip(stable, candidate, strict=True):
            arms = [Counts(int(c.sum()), 0, (), {"高": tuple(int(n) for n in c)}) for c in (a, b)]
            if decide(policy, 0, seen(*arms)).action == "roll back":
                alarms += 1
                break
    assert alarms / 60 <= 0.05


KINDS = {
    "normal": lambda rng, size: rng.normal(10, 2, size),
    "lognormal 1": lambda rng, size: rng.lognormal(0, 1, size),
    "lognormal 1.5": lambda rng, size: rng.lognormal(0, 1.5, size),
    "lognormal 1.5, downwards": lambda rng, size: -rng.lognormal(0, 1.5, size),
    "t3": lambda rng, size: rng.standard_t(3, size),
}


def numbers(values: np.ndarray) -> Counts:
    return Counts(len(values), 0, (), {}, {"金额": (float(len(values)), float(values.sum()), float(values @ values))})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("share", "limit"), [(0.05, 0.2), (0.5, 0.2), (0.5, 0.02)])
def test_numbers_of_one_distribution_however_skewed_are_no_shift(kind: str, share: float, limit: float) -> None:
    rng = np.random.default_rng(3)
    policy = replace(CANARY, rules=Rules(shift=limit))
    broken_, unclear, runs = 0, 0, 60
    for _ in range(runs):
        mine = KINDS[kind](rng, 2000)
        other = KINDS[kind](rng, int(2000 * (1 - share) / share))
        found = [
            decide(policy, 0, seen(numbers(other[: int(n * (1 - share) / share)]), numbers(mine[:n])))
            for n in (100, 120, 150, 200, 300, 500, 1000, 2000)
        ]
        broken_ += any(one.action == "roll back" for one in found)
        unclear += found[-1].code == "unclear"
    assert broken_ == 0
    assert unclear <= 0.05 * runs


def test_numbers_that_are_others_are_a_shift_and_another_spread_is_a_doubt() -> None:
    rng = np.random.default_rng(5)
    usual = rng.lognormal(0, 1.5, 5000)
    for other in (usual[:300] + 10, usual[:300] - 10, np.full(300, 10.0)):
        decision = decide(CANARY, 0, seen(numbers(usual), numbers(other)))
        assert (decision.action, broken(decision)) == ("roll back", ["shift"])
    assert decide(CANARY, 0, seen(numbers(usual), numbers(usual[-300:]))).action == "next step"
    for other in (np.full(300, usual.mean()), np.zeros(300), usual[:300] * 20 - 19 * usual[:300].mean()):
        decision = decide(CANARY, 0, seen(numbers(usual), numbers(other)))
        assert (decision.action, decision.code) == ("hold", "unclear")
        assert "standard deviation more than 10 times" in decision.reason


def quality(stable: float, candidate: float, n: int, rarest: int = 50) -> Quality:
    return Quality("高", stable, candidate, 2 * 0.25 / n, (n, n), rarest)


def test_twenty_labels_do_not_roll_back_a_good_model_and_many_do_a_bad_one() -> None:
    arms = counts(2000), counts(200)
    few = decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.6, 20),)))
    assert few.action == "next step"
    assert "too few labels of 高: 20 and 20" in few.findings[-1].words
    chance = decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.84, 100),)))
    assert (chance.action, chance.code) == ("hold", "unclear")
    bad = decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.7, 2000),)))
    assert (bad.action, broken(bad)) == ("roll back", ["auc_drop"])
    assert "AUC of 高 0.700 against 0.900" in bad.reason
    small = decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.86, 20_000),)))
    assert small.action == "next step"
    rare = decide(CANARY, 0, seen(*arms, quality=(quality(0.9, 0.7, 2000, rarest=9),)))
    assert rare.action == "next step"
    assert decide(CANARY, 0, seen(*arms, quality=(quality(0.7, 0.9, 2000),))).action == "next step"


def test_a_shadow_ends_without_taking_traffic() -> None:
    shadow = Policy("shadow", (Step(1.0, 60),))
    assert decide(shadow, 0, seen(counts(500), counts(500), 30)).action == "hold"
    passed = decide(shadow, 0, seen(counts(500), counts(500), 61))
    assert (passed.action, passed.code) == ("stop", "passed")
    assert decide(shadow, 0, seen(counts(500), counts(500, latency=SLOW), 9)).action == "roll back"


AB = Policy("ab", (Step(0.5, 86_400),))


def outcome(a: float, b: float, n: int, *, higher: bool = True) -> Outcome:
    return Outcome("转化", higher, Sample(n, a, a * (1 - a)), Sample(n, b, b * (1 - b)))


def test_an_a_b_test_ends_when_the_difference_is_no_chance() -> None:
    arms = counts(5000), counts(5000)
    assert decide(AB, 0, seen(*arms)).code == "outcomes"
    assert "50 of 100 outcomes" in decide(AB, 0, seen(*arms, outcome=outcome(0.1, 0.5, 50))).reason
    assert decide(AB, 0, seen(*arms, outcome=outcome(0.1, 0.11, 1000))).code == "undecided"
    better = decide(AB, 0, seen(*arms, outcome=outcome(0.1, 0.14, 4000)))
    assert (better.action, better.code) == ("promote", "better")
    worse = decide(AB, 0, seen(*arms, outcome=outcome(0.1, 0.14, 4000, higher=False)))
    assert (worse.action, worse.code) == ("roll back", "worse")
    assert "转化 0.14 against 0.1 (4,000 and 4,000 outcomes; difference" in worse.reason
    for late in (seen(*arms, 90_000), seen(*arms, 90_000, outcome=outcome(0.1, 0.1, 1000))):
        assert (decide(AB, 0, late).action, decide(AB, 0, late).code) == ("stop", "undecided")
    harm = seen(counts(5000), counts(5000, 500), outcome=outcome(0.1, 0.14, 4000))
    assert decide(AB, 0, harm).action == "roll back"


def test_a_better_candidate_of_an_a_b_test_is_not_promoted_while_a_rule_doubts_it() -> None:
    better = outcome(0.1, 0.14, 4000)
    doubted = seen(counts(3000, 30), counts(3000, 62), outcome=better)
    held = decide(AB, 0, doubted)
    assert (held.action, held.code) == ("hold", "unclear")
    assert "better, but error rate" in held.reason
    few = decide(AB, 0, seen(counts(5000), counts(99), outcome=better))
    assert (few.action, few.code) == ("hold", "requests")
    over = decide(AB, 0, replace(doubted, elapsed=90_000))
    assert (over.action, over.code) == ("stop", "unclear")


def test_outcomes_that_are_all_alike_decide_nothing() -> None:
    same = Outcome("m", True, Sample(100, 1.0, 0.0), Sample(100, 1.0, 0.0))
    assert decide(AB, 0, seen(counts(200), counts(200), outcome=same)).action == "hold"
    nearly = Outcome("m", True, Sample(100, 0.0, 0.0), Sample(100, 0.01, 0.0099))
    assert decide(AB, 0, seen(counts(200), counts(200), outcome=nearly)).action == "hold"


def test_counts_since_an_earlier_look_and_after_counters_began_anew() -> None:
    before, now = Counts(10, 1, (5, 5), {"a": (4, 6)}), Counts(25, 3, (9, 16), {"a": (10, 15), "b": (1, 2)})
    assert now.since(before) == Counts(15, 2, (4, 11), {"a": (6, 9), "b": (1, 2)})
    assert now.since(Counts()) == now
    assert before.since(now) == before


def test_quantiles_of_buckets() -> None:
    assert quantile(EDGES, (10, 0, 0, 0, 0, 0, 0), 0.5) == 50
    assert quantile(EDGES, (0, 0, 0, 0, 0, 0, 7), 0.95) == 3200
    assert quantile(EDGES, (50, 50, 0, 0, 0, 0, 0), 0.75) == 150
    assert quantile((), (), 0.5) == 0
