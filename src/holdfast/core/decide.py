"""What becomes of a rollout: its policy and the evidence so far → go on, promote, hold, roll back or stop, and why.

Pure: no clock, no files. Two kinds of question are kept apart. A *rule* asks whether the candidate does harm; it acts
only when what it saw is beyond its limit and is no chance (an always-valid p-value, so that looking every few seconds
does not add up to false alarms). Whether there was *enough* to see (requests, time) is asked when no rule speaks.

An always-valid p-value holds for a test that begins once. What begins anew spends a part of `alpha` of its own, so that
all of them together raise a false alarm with a chance of at most `alpha` over a whole rollout, however long it is
(union bound; Bonferroni 1936). Each of the R rules that are on has alpha / R, and of that

    the j-th stretch of counts (a stretch begins with each step)        a_j = 6 / (pi² j²)      sum over all j: 1
    errors and latency, the stretch as a whole                          a_j / 2
    errors and latency, the k-th window of it (disjoint windows)        a_j / 2 · 6 / (pi² k²)
    shift and area, each of L labels                                    a_j / L

as alpha-spending over an unbounded number of tests does (Foster and Stine, "alpha-investing", JRSS B 2008; the sum is
Euler's). A `p` that is told is p divided by that part: it is what is compared with `alpha` itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from holdfast.core.drift.shift import psi
from holdfast.core.learn.sequential import Compared, difference, excess, homogeneous

__all__ = [
    "Action",
    "Counts",
    "Decision",
    "Evidence",
    "Finding",
    "Outcome",
    "Policy",
    "Quality",
    "Recent",
    "Rules",
    "Sample",
    "Step",
    "decide",
    "quantile",
]

Mode = Literal["canary", "shadow", "ab", "green"]
Action = Literal["hold", "next step", "promote", "roll back", "stop"]
_TAIL = 0.95
"""The quantile of the latency that is compared: of the slowest requests one in twenty."""
_LEAST = 20
"""Requests of the stable deployment without which its latency and error rate are not known."""
_LEAST_ERRORS = 3
"""Errors of the candidate without which its error rate breaks no rule: one bad client is no bad model."""
_LEAST_LATENCIES = 100
"""Latencies of the stable deployment without which its 95th percentile is too rough to be a limit."""
_PER_CLASS = 10
"""Positive, and negative, labels of each arm without which no area under the curve is compared."""
_AUC_EFFECT = 0.05
_EFFECT = 0.1
"""Standard deviations: what difference of an A/B test is looked for first."""
_STRICTER = 1000.0
"""How much stricter the test of outputs in bins is, which is not always valid: it stands for that many fresh looks."""
_SPREAD = 10.0
"""Standard deviations of one arm's numbers to the other's, from which on they are doubted."""


@dataclass(frozen=True, slots=True)
class Step:
    """The candidate gets a `share` (0 to 1) of the requests for at least so many `seconds`."""

    share: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of harm; None switches one off. `alpha` is the chance of a false alarm of any rule in a whole rollout.

    error_rate: by how much (0.01: one request in a hundred) the candidate's error rate may exceed the stable one's.
    latency: by which part of it (1.0: twice as slow) the 95th percentile may. auc_drop: by how much the area under the
    ROC curve may be lower. shift: the population stability index of the outputs.
    A step ends after `min_requests` of the candidate; areas are compared from `min_labels` labels of each arm on.
    """

    error_rate: float | None = 0.01
    latency: float | None = 1.0
    auc_drop: float | None = 0.05
    shift: float | None = 0.2
    min_requests: int = 100
    min_labels: int = 100
    alpha: float = 0.01


@dataclass(frozen=True, slots=True)
class Policy:
    """How a rollout goes: its mode, its steps (one, unless it is a canary) and the rules.

    For `ab`: `alpha` is the chance to see a difference where there is none, `metric` what is compared (None: the
    models' loss), `higher` whether more of it is better. `window`: seconds that count as lately: a stretch is cut into
    windows of so many.
    """

    mode: Mode
    steps: tuple[Step, ...]
    rules: Rules = field(default_factory=Rules)
    alpha: float = 0.05
    metric: str | None = None
    higher: bool = False
    window: float = 300.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a deployment did: requests, those of them without an answer, answered ones per latency bucket.

    Outputs by label: counts per bin, or where they are numbers their `moments`: count, sum, sum of squares.
    """

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    moments: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def since(self, earlier: "Counts") -> "Counts":
        """What was added after `earlier`. Counters that began anew (their files were lost) count from 0."""
        if earlier.requests > self.requests:
            return self
        outputs = {label: _less(bins, earlier.outputs.get(label, ())) for label, bins in self.outputs.items()}
        return Counts(
            self.requests - earlier.requests,
            max(self.errors - earlier.errors, 0),
            _less(self.latency, earlier.latency),
            outputs,
            {label: _fewer(now, earlier.moments.get(label)) for label, now in self.moments.items()},
        )


def _less(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    padded = (*before, *([0] * (len(now) - len(before))))
    return tuple(max(a - b, 0) for a, b in zip(now, padded, strict=False))


def _fewer(now: tuple[float, float, float], before: tuple[float, float, float] | None) -> tuple[float, float, float]:
    return now if before is None else (now[0] - before[0], now[1] - before[1], now[2] - before[2])


@dataclass(frozen=True, slots=True)
class Quality:
    """Areas under the ROC curve of one label (or class): both arms', the variance of their difference, rows of each."""

    label: str
    stable: float
    candidate: float
    variance: float
    labels: tuple[int, int]
    """Labels that came, of the stable arm and of the candidate."""
    rarest: int
    """The least of the positives and the negatives of both arms."""


@dataclass(frozen=True, slots=True)
class Sample:
    """So many values of an arm, their mean and variance."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an A/B test compares: values per arm, and whether more is better."""

    metric: str
    higher: bool
    stable: Sample
    candidate: Sample


@dataclass(frozen=True, slots=True)
class Recent:
    """What both arms did in the `number`-th window (from 1) of a stretch, from its beginning until now."""

    number: int
    stable: Counts
    candidate: Counts


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at a look: `elapsed` seconds of this step, and counts of both arms since the stretch began.

    `stretch`: the how-manieth (from 1) of the rollout it is; one begins with each step, and where counting has to begin
    anew. `recent`: what began to fail late must not hide behind what went well. `edges` are the upper ends of the
    latency buckets in microseconds (one bucket more lies above the last).
    """

    elapsed: float
    stable: Counts
    candidate: Counts
    edges: tuple[float, ...] = ()
    recent: Recent | None = None
    quality: tuple[Quality, ...] = ()
    outcome: Outcome | None = None
    stretch: int = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: both arms' figures, the difference that counts, its limit, p; and what that means.

    `p` is the chance of such a difference between equal arms, over all that is tested in a rollout (see the module).

    verdict: `fine`, `broken` (beyond the limit, and no chance), `unclear` (beyond it, but it may be chance), `unknown`
    (too little was seen).
    """

    rule: str
    verdict: Literal["fine", "broken", "unclear", "unknown"]
    words: str
    label: str = ""
    stable: float | None = None
    candidate: float | None = None
    value: float | None = None
    limit: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why in words, and what was found. `code` stays the same while the reason is of the same kind."""

    action: Action
    code: str
    reason: str
    findings: tuple[Finding, ...] = ()


def decide(policy: Policy, step: int, evidence: Evidence) -> Decision:
    """What to do with a rollout that is in step `step` (from 0)."""
    found = tuple(_findings(policy, policy.steps[step].share, evidence))
    broken = [one for one in found if one.verdict == "broken"]
    if broken:
        return Decision("roll back", "rule", "; ".join(one.words for one in broken), found)
    now = policy.steps[step]
    if policy.mode == "ab":
        return _tested(policy, now, evidence, found)
    waiting = _waiting(policy.rules, now, evidence)
    if waiting is not None:
        return Decision("hold", *waiting, found)
    unclear = [one for one in found if one.verdict == "unclear"]
    if unclear:
        return Decision("hold", "unclear", "; ".join(one.words for one in unclear), found)
    seen = f"{evidence.candidate.requests:,} requests in {_time(evidence.elapsed)}, no rule broken"
    if policy.mode == "shadow":
        return Decision("stop", "passed", f"the shadow held: {seen}", found)
    if step + 1 < len(policy.steps):
        return Decision(
            "next step", "step", f"{seen}; from {now.share:.3g} to {policy.steps[step + 1].share:.3g}", found
        )
    return Decision("promote", "passed", seen, found)


def _waiting(rules: Rules, now: Step, evidence: Evidence) -> tuple[str, str] | None:
    if evidence.candidate.requests < rules.min_requests:
        return "requests", f"{evidence.candidate.requests:,} of {rules.min_requests:,} requests at {now.share:.3g}"
    if evidence.elapsed < now.seconds:
        return "time", f"{_time(now.seconds - evidence.elapsed)} left at {now.share:.3g}"
    return None


def _tested(policy: Policy, now: Step, evidence: Evidence, found: tuple[Finding, ...]) -> Decision:
    """An A/B test: ends when the difference is no chance, or its time is over."""
    outcome = evidence.outcome
    least = 0 if outcome is None else min(outcome.stable.n, outcome.candidate.n)
    over = evidence.elapsed >= now.seconds
    if outcome is None or least < policy.rules.min_labels:
        words = f"{least:,} of {policy.rules.min_labels:,} outcomes of the smaller arm"
        if over:
            return Decision("stop", "undecided", f"the time of {_time(now.seconds)} is over with {words}", found)
        return Decision("hold", "outcomes", words, found)
    seen = _compared(policy, outcome)
    a, b = outcome.stable, outcome.candidate
    words = (
        f"{outcome.metric} {b.mean:.4g} against {a.mean:.4g} ({b.n:,} and {a.n:,} outcomes;"
        f" difference {seen.low:.3g} to {seen.high:.3g}, p = {seen.p:.2g})"
    )
    finding = Finding("ab", "fine", words, outcome.metric, a.mean, b.mean, seen.difference, policy.alpha, seen.p)
    found = (*found, finding)
    if seen.p <= policy.alpha:
        if (seen.difference > 0) == outcome.higher:
            return _better(policy.rules, now, evidence, found, words)
        return Decision("roll back", "worse", f"the candidate is worse: {words}", found)
    if over:
        return Decision("stop", "undecided", f"no difference was found in {_time(now.seconds)}: {words}", found)
    return Decision("hold", "undecided", f"not decided yet: {words}", found)


def _better(rules: Rules, now: Step, evidence: Evidence, found: tuple[Finding, ...], words: str) -> Decision:
    """A candidate that is better is promoted when no rule doubts it; with time over and doubts left it is stopped."""
    unclear = "; ".join(one.words for one in found if one.verdict == "unclear")
    few = evidence.candidate.requests < rules.min_requests
    if not few and not unclear:
        return Decision("promote", "better", f"the candidate is better: {words}", found)
    doubt = unclear or f"{evidence.candidate.requests:,} of {rules.min_requests:,} requests at {now.share:.3g}"
    if evidence.elapsed >= now.seconds:
        reason = f"the time of {_time(now.seconds)} is over; the candidate is better, but not fit: {doubt}"
        return Decision("stop", "unclear", reason, found)
    return Decision("hold", "unclear" if unclear else "requests", f"the candidate is better, but {doubt}", found)


def _compared(policy: Policy, outcome: Outcome) -> Compared:
    if not _whole(outcome.stable, outcome.candidate):
        return Compared(0.0, 0.0, 0.0, 1.0)
    return _means(outcome.stable, outcome.candidate, _EFFECT, policy.alpha)


def _means(a: Sample, b: Sample, effect: float, alpha: float) -> Compared:
    """The difference of two means (b - a); `effect` in standard deviations of all values."""
    whole = _whole(a, b)
    # Not less than by the variance of all values together: an arm whose few values are all alike is not known to have
    # none, and few values of a skewed kind have a small one whenever their mean is small.
    variance = max(a.variance / a.n + b.variance / b.n, whole / a.n + whole / b.n)
    return difference(b.mean - a.mean, variance, effect * whole**0.5, alpha)


def _whole(a: Sample, b: Sample) -> float:
    """The variance of all values together."""
    n, gap = a.n + b.n, b.mean - a.mean
    return (a.n * a.variance + b.n * b.variance) / n + a.n * b.n * gap * gap / (n * n)


# -- rules -------------------------------------------------------------------------------------------------------------


def _spent(number: int) -> float:
    """The part of the whole that the `number`-th (from 1) of any number of tests has; all parts together are 1."""
    return 6 / (math.pi * number) ** 2


def _findings(policy: Policy, share: float, evidence: Evidence) -> Iterator[Finding]:
    rules, stable, candidate = policy.rules, evidence.stable, evidence.candidate
    on = sum(limit is not None for limit in (rules.error_rate, rules.latency, rules.auc_drop, rules.shift))
    part = _spent(evidence.stretch) / max(on, 1)
    if stable.requests >= _LEAST:
        yield from _errors(rules, stable, candidate, part / 2)
    else:
        yield from _uncompared(rules, share, candidate, part / 2)
    yield from _slowness(rules, evidence, part / 2)
    if evidence.recent is not None:
        yield from _lately(rules, evidence, evidence.recent, part / 2 * _spent(evidence.recent.number))
    yield from _shifts(rules, evidence, part)
    yield from _drops(rules, evidence, part)


def _lately(rules: Rules, evidence: Evidence, recent: Recent, part: float) -> Iterator[Finding]:
    """The window only adds alarms: the stretch as a whole tells how things are."""
    found = [*_slowness(rules, evidence, part, recent)]
    if recent.stable.requests >= _LEAST:  # else there is nothing to compare with: the stretch tells
        found += _errors(rules, recent.stable, recent.candidate, part, " lately")
    yield from (one for one in found if one.verdict == "broken")


def _errors(rules: Rules, stable: Counts, candidate: Counts, part: float, when: str = "") -> Iterator[Finding]:
    if rules.error_rate is None:
        return
    if not candidate.requests:
        yield Finding("error_rate", "unknown", "no request yet", limit=rules.error_rate)
        return
    before = stable.errors / stable.requests
    share = candidate.requests / (candidate.requests + stable.requests)
    p = excess(candidate.errors, candidate.errors + stable.errors, share) / part
    yield _error_rate(rules, candidate, before, p, when)


def _uncompared(rules: Rules, share: float, candidate: Counts, part: float) -> Iterator[Finding]:
    """The error rate against the limit itself, where the stable arm has no requests although it should have by now.

    Not before: an error rate that both arms have may be above the limit.
    """
    if rules.error_rate is None:
        return
    due = max(rules.min_requests, 3 * _LEAST * share / (1 - share) if share < 1 else 0)
    if candidate.requests < max(due, 1):
        words = "too few requests of the stable one to compare error rates"
        yield Finding("error_rate", "unknown", words, limit=rules.error_rate)
        return
    inside = 0 < rules.error_rate < 1
    p = excess(candidate.errors, candidate.requests, rules.error_rate) / part if inside else 1.0
    yield _error_rate(rules, candidate, None, p, "")


def _error_rate(rules: Rules, candidate: Counts, before: float | None, p: float, when: str) -> Finding:
    limit = rules.error_rate or 0.0
    rate, p = candidate.errors / candidate.requests, min(1.0, p)
    verdict = _verdict(rate - (before or 0.0) - limit, p, rules.alpha)
    if verdict == "broken" and candidate.errors < _LEAST_ERRORS:
        verdict = "unclear"
    against = (
        "the stable one has no requests to compare with" if before is None else f"{_percent(before)} of the stable one"
    )
    words = (
        f"error rate{when} {_percent(rate)} ({candidate.errors:,} of {candidate.requests:,} requests), {against};"
        f" allowed is {_percent(limit)} more, p = {p:.2g}"
    )
    return Finding("error_rate", verdict, words, "", before, rate, rate - (before or 0.0), limit, p)


def _slowness(rules: Rules, evidence: Evidence, part: float, recent: Recent | None = None) -> Iterator[Finding]:
    """The candidate's 95th percentile is beyond the limit if more than 5 % of its requests are: that is a count.

    In a window the limit is that of the window or of the stretch, which is slower: few latencies may look fast.
    """
    if rules.latency is None:
        return
    stable, candidate = (evidence.stable, evidence.candidate) if recent is None else (recent.stable, recent.candidate)
    edges, known = evidence.edges, evidence.stable.latency
    if sum(known) < _LEAST_LATENCIES or sum(stable.latency) < _LEAST or not sum(candidate.latency):
        yield Finding("latency", "unknown", "too few requests to compare latencies", limit=rules.latency)
        return
    before = max(quantile(edges, counted, _TAIL) for counted in (stable.latency, known))
    now = quantile(edges, candidate.latency, _TAIL)
    slow = _above(edges, candidate.latency, before * (1 + rules.latency))
    p = min(1.0, excess(slow, sum(candidate.latency), 1 - _TAIL) / part)
    more = now / before - 1 if before else 0.0
    verdict = _verdict(more - rules.latency, p, rules.alpha)
    words = (
        f"latency{' lately' if recent else ''} (95th percentile) {now / 1000:.3g} ms against {before / 1000:.3g} ms,"
        f" {more:+.0%}; allowed is +{rules.latency:.0%}, p = {p:.2g}"
    )
    yield Finding("latency", verdict, words, "", before, now, more, rules.latency, p)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Outputs of a label: `rows` of the smaller arm, the stability index, what chance alone would give, p, a doubt."""

    label: str
    rows: int
    value: float = 0.0
    noise: float = 0.0
    p: float = 1.0
    doubt: str = ""


def _shifts(rules: Rules, evidence: Evidence, part: float) -> Iterator[Finding]:
    """Outputs by label: the index beyond the limit and three times its noise, and a strict test."""
    if rules.shift is None:
        return
    measured = [*_binned(evidence), *_numeric(evidence, rules.shift, rules.alpha)]
    for one in measured:
        if one.rows < rules.min_requests:
            words = f"too few outputs of {one.label} to compare"
            yield Finding("shift", "unknown", words, one.label, limit=rules.shift)
            continue
        limit, p = max(rules.shift, 3 * one.noise), min(1.0, one.p * len(measured) / part)
        verdict = _verdict(one.value - limit, p, rules.alpha)
        words = f"the outputs of {one.label} are distributed otherwise: PSI {one.value:.3g}, allowed is {limit:.3g}"
        if verdict == "fine" and one.doubt:
            verdict, words = "unclear", f"the outputs of {one.label} are distributed otherwise: {one.doubt}"
        yield Finding("shift", verdict, words, one.label, None, None, one.value, limit, p)


def _binned(evidence: Evidence) -> Iterator[_Measured]:
    for label, counted in evidence.candidate.outputs.items():
        before = evidence.stable.outputs.get(label)
        if before is not None and len(before) == len(counted):
            a, b = np.array(before, np.int64), np.array(counted, np.int64)
            m, n = int(a.sum()), int(b.sum())
            noise = (int(((a + b) > 0).sum()) - 1) * (1 / max(m, 1) + 1 / max(n, 1))
            yield _Measured(label, min(m, n), psi(a, b), noise, homogeneous(a, b) * _STRICTER)


def _numeric(evidence: Evidence, limit: float, alpha: float) -> Iterator[_Measured]:
    """Numbers, of which only moments are counted: their means, by the test of an A/B test's.

    The index is that of two normals of one variance, (m1 - m2)² / variance (Jeffreys 1946). How far two sample
    variances differ by chance depends on the fourth moment, which nobody counted, and is much for skewed numbers: a
    spread that is another altogether is a doubt, and no more.
    """
    for label, (n, total, squares) in evidence.candidate.moments.items():
        m, before, before_squares = evidence.stable.moments.get(label, (0.0, 0.0, 0.0))
        if min(m, n) < 2:
            yield _Measured(label, 0)
            continue
        stable, candidate = _sample(m, before, before_squares), _sample(n, total, squares)
        gap, whole = candidate.mean - stable.mean, _whole(stable, candidate)
        p = _means(stable, candidate, limit**0.5, alpha).p if limit > 0 else 1.0
        spreads = sorted((stable.variance**0.5, candidate.variance**0.5))
        doubt = ""
        if spreads[1] > _SPREAD * spreads[0]:
            wider = "wider" if candidate.variance > stable.variance else "narrower"
            doubt = f"a standard deviation more than {_SPREAD:.3g} times {wider}"
        yield _Measured(label, int(min(m, n)), gap * gap / whole, 2 * (1 / m + 1 / n), p, doubt)


def _sample(n: float, total: float, squares: float) -> Sample:
    mean = total / n
    # Never less than what the sum of squares is exact to.
    return Sample(int(n), mean, max(squares / n - mean * mean, 1e-12 * (1 + mean * mean)))


def _drops(rules: Rules, evidence: Evidence, part: float) -> Iterator[Finding]:
    if rules.auc_drop is None:
        return
    for one in evidence.quality:
        if min(one.labels) < rules.min_labels or one.rarest < _PER_CLASS:
            words = f"too few labels of {one.label}: {one.labels[1]:,} and {one.labels[0]:,}, the rarest {one.rarest:,}"
            yield Finding("auc_drop", "unknown", words, one.label, one.stable, one.candidate, limit=rules.auc_drop)
            continue
        drop = one.stable - one.candidate
        p = difference(drop, one.variance, _AUC_EFFECT, rules.alpha).p if drop > 0 else 1.0
        p = min(1.0, p * len(evidence.quality) / part)
        verdict = _verdict(drop - rules.auc_drop, p, rules.alpha)
        words = (
            f"AUC of {one.label} {one.candidate:.3f} against {one.stable:.3f} ({one.labels[1]:,} and"
            f" {one.labels[0]:,} labels); allowed is {rules.auc_drop:.3g} less, p = {p:.2g}"
        )
        yield Finding("auc_drop", verdict, words, one.label, one.stable, one.candidate, drop, rules.auc_drop, p)


def _verdict(beyond: float, p: float, alpha: float) -> Literal["fine", "broken", "unclear"]:
    if beyond <= 0:
        return "fine"
    return "broken" if p <= alpha else "unclear"


# -- latency buckets ---------------------------------------------------------------------------------------------------


def quantile(edges: Sequence[float], counts: Sequence[int], q: float) -> float:
    """The quantile of bucketed values, straight between the ends of its bucket; the last edge for what is above it."""
    total, below = sum(counts), 0.0
    for index, count in enumerate(counts):
        if count and below + count >= q * total:
            low, high = _ends(edges, index)
            return low + (high - low) * (q * total - below) / count
        below += count
    return float(edges[-1]) if edges else 0.0


def _above(edges: Sequence[float], counts: Sequence[int], limit: float) -> int:
    """How many values are surely above `limit`: of the bucket it is in its part above, rounded down."""
    above = 0.0
    for index, count in enumerate(counts):
        low, high = _ends(edges, index)
        if low >= limit or (index == len(edges) and limit <= low):
            above += count
        elif high > limit:
            above += count * (high - limit) / (high - low)
    return int(above)


def _ends(edges: Sequence[float], index: int) -> tuple[float, float]:
    low = float(edges[index - 1]) if index else 0.0
    return low, float(edges[index]) if index < len(edges) else low


# -- words -------------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
