"""Equal arms, looked at all the time: over a whole rollout a rule speaks with a chance of `alpha` at most.

All looks are counted at once; `decide` is asked at those that are worst, by the test statistic itself.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import betainc, betaln

from holdfast.core.decide import Counts, Evidence, Policy, Recent, Rules, Step, decide
from holdfast.core.learn.sequential import excess

Numbers = npt.NDArray[np.int64]
WINDOW = 300.0
ONLY_ERRORS = Rules(latency=None, shift=None, auc_drop=None)
CANARY = Policy("canary", (Step(0.05, 600), Step(0.25, 600), Step(0.5, 600)), ONLY_ERRORS)


def log_p(events: Numbers, of: Numbers, share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logarithm of `excess`, of arrays."""
    with np.errstate(all="ignore"):
        rest, tail = of - events, betainc(of - events + 1, events + 1, 1 - share)
        mixed = betaln(events + 1, rest + 1) + np.log(tail) - np.log1p(-share)
        factor = mixed - events * np.log(share) - rest * np.log1p(-share)
        found: npt.NDArray[np.float64] = np.where((of > 0) & (tail > 0) & (share > 0) & (share < 1), factor, 0.0)
    return -np.maximum(found, 0.0)


def test_the_arrays_say_what_the_function_says() -> None:
    for k, n, share in ((3, 9, 0.1), (40, 60, 0.5), (1, 500, 0.05)):
        told = math.exp(log_p(np.array([k]), np.array([n]), np.array([share]))[0])
        assert told == pytest.approx(excess(k, n, share))


def looks(
    rng: np.random.Generator, step: Step, rate: float, per_second: float, every: float, known: int
) -> Iterator[Evidence]:
    """The worst looks of a step whose arms both fail at `rate`; `known` requests of the stable one came before."""
    times = np.arange(1, int(step.seconds / every) + 1) * every
    requests, errors = [], []
    for share, before in ((1 - step.share, known), (step.share, 0)):
        came = rng.poisson(per_second * every * share, len(times))
        requests.append(came.cumsum() + before)
        errors.append(rng.binomial(came, rate).cumsum() + rng.binomial(before, rate))
    number = (times // WINDOW).astype(np.int64)
    opened = np.searchsorted(number, np.arange(number[-1] + 1))[number]
    lately = [[counted - counted[opened] for counted in kind] for kind in (requests, errors)]
    for (n, k), spent in (((requests, errors), None), (tuple(lately), number)):
        p = log_p(k[1], k[0] + k[1], n[1] / np.maximum(n[0] + n[1], 1))
        p = np.where(n[0] >= 20, p, 0.0)
        worst = {*np.argsort(p)[:3].tolist()}
        if spent is None:
            worst |= {*np.flatnonzero(n[0] < 20)[-2:].tolist()}
        else:
            worst |= {*np.argsort(np.where(spent > 0, p + 2 * np.log(np.maximum(spent, 1)), 0.0))[:3].tolist()}
        for at in worst:
            stable, candidate = (Counts(int(requests[arm][at]), int(errors[arm][at])) for arm in (0, 1))
            recent = None
            if spent is not None and spent[at]:
                arms = (Counts(int(n[arm][at]), int(k[arm][at])) for arm in (0, 1))
                recent = Recent(int(spent[at]), *arms)
            yield Evidence(float(times[at]), stable, candidate, recent=recent)


def alarms(
    policy: Policy, rate: float, runs: int, *, per_second: float = 20.0, every: float = 2.0, known: int = 0
) -> int:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(runs):
        wrong += any(
            decide(policy, place, Evidence(**{**fields(one), "stretch": place + 1})).action == "roll back"
            for place, step in enumerate(policy.steps)
            for one in looks(rng, step, rate, per_second, every, known)
        )
    return wrong


def fields(evidence: Evidence) -> dict[str, object]:
    return {name: getattr(evidence, name) for name in Evidence.__dataclass_fields__}


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.2, 0.5])
def test_equal_arms_of_a_canary_raise_few_false_alarms_over_all_its_steps(rate: float) -> None:
    assert alarms(CANARY, rate, 300, per_second=3) <= 0.01 * 300


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5])
def test_equal_arms_of_a_test_of_fourteen_days_raise_few_false_alarms_over_its_4032_windows(rate: float) -> None:
    assert alarms(Policy("ab", (Step(0.5, 14 * 86_400),), ONLY_ERRORS), rate, 10, per_second=2, every=30) == 0


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5])
@pytest.mark.parametrize(("share", "known"), [(0.9, 0), (1.0, 200), (1.0, 10_000)])
def test_a_stable_arm_with_few_requests_or_with_old_ones_raises_few_false_alarms(
    rate: float, share: float, known: int
) -> None:
    assert alarms(Policy("green", (Step(share, 600),), ONLY_ERRORS), rate, 200, known=known) <= 0.01 * 200
