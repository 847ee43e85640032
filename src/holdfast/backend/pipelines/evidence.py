"""What is known of a rollout: the counts of both arms, and outcomes joined with the predictions they are of."""

import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.backend.deployment import Outcome, Outcomes
from holdfast.backend.records import Rollout
from holdfast.backend.serving.exchange import instant_of
from holdfast.backend.serving.log import read_found
from holdfast.backend.serving.meters import LATENCY_EDGES_US, meters_folder, read_meters
from holdfast.core import decide
from holdfast.core.decide import Counts, Quality, Sample
from holdfast.core.learn.sequential import Area, auc, paired_auc

__all__ = [
    "EDGES",
    "Answered",
    "Find",
    "Joined",
    "Scored",
    "counts_from",
    "logged",
    "meters_id",
    "plain_counts",
    "read_counts",
    "score",
]

EDGES = tuple(float(edge) for edge in LATENCY_EDGES_US)
"""Upper ends of the latency buckets, in microseconds."""
LOSS = "loss"
"""What an A/B test compares when it names no metric: squared distance of probabilities, absolute one of numbers."""

_SECOND = 1_000_000
_AGAIN = 2
"""Seconds until a prediction that is not in the log is looked for again; twice as many each time."""
_PATIENCE = 3600
"""Seconds until an outcome is given up whose prediction is not in the log: another machine's log has it, or none."""
_log = logging.getLogger("holdfast.rollout")
_KINDS = frozenset(("value", "probabilities", "probability"))
"""What an answer to a label has one of, by its task."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as it was logged: when, its labels, and the entity it is about."""

    at: int
    labels: Mapping[str, Mapping[str, Any]]
    entity: str | None = None


Rows = npt.NDArray[np.float64]
Find = Callable[[Collection[str]], Mapping[str, Answered]]
"""Ids of predictions → those of them that are in the log."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A truth beside what was predicted: `pairs` of name, 0 or 1 and probability (for areas), and the loss."""

    pairs: tuple[tuple[str, float, float], ...]
    loss: float


def score(label: str, answer: Mapping[str, Any], truth: Any, classes: Iterable[str] = ()) -> Scored:
    """How good the answer to a label was. A class that is none of the answer's has a probability of 0.

    `classes` get a pair each also where this answer knows none of them: those of another answer it is compared with.
    """
    if "value" in answer:
        return Scored((), abs(float(answer["value"]) - float(truth)))
    if "probabilities" in answer:
        named = {str(name): float(share) for name, share in answer["probabilities"].items()}
        for name in (*classes, str(truth)):
            named.setdefault(name, 0.0)
        pairs = tuple((f"{label}={name}", float(name == str(truth)), share) for name, share in named.items())
        return Scored(pairs, sum((share - hit) ** 2 for _, hit, share in pairs))
    probability, hit = float(answer["probability"]), float(bool(truth))
    return Scored(((label, hit, probability),), (probability - hit) ** 2)


@dataclass
class _Known:
    """Of one outcome: its value, and the answers it is of, by arm (0 stable, 1 candidate)."""

    value: Any
    answers: dict[int, Answered]


@dataclass
class _Missing:
    """An outcome whose prediction is not in the log: since when it is looked for, and when it will be again."""

    outcome: Outcome
    since: int
    again: int


@dataclass
class Joined:
    """The outcomes of a rollout's predictions, read on from look to look.

    Predictions from before the rollout do not count, but of blue/green, whose stable arm has none after. A shadow's
    answers bear the ids of those they were copied from: an outcome of these is one of both. What was told before the
    entry `after` of the audit log is not read.
    """

    rollout: Rollout
    outcomes: Outcomes
    find: Find
    after: int = -1
    _missing: dict[tuple[str, str], _Missing] = field(default_factory=dict)
    _known: dict[tuple[str, str], _Known] = field(default_factory=dict)
    _quality: tuple[Quality, ...] = ()

    def read_on(self, now: int) -> None:
        """Read what was told since the last time, and look again for predictions that were not in the log yet."""
        first = 0 if self.rollout.mode == "green" else self.rollout.made_at
        arms = (self.rollout.stable, self.rollout.candidate)
        told = [one for arm in arms for one in self.outcomes.of(arm, after=self.after)]
        self.after = max([self.after, *(one.told for one in told)])
        wanted = {key: one.outcome for key, one in self._missing.items() if one.again <= now}
        # A prediction's id tells its millisecond: what is older than the rollout need not be looked for.
        wanted |= {
            (one.prediction, one.label): one for one in told
            if not self._is_known(one) and ((instant_of(one.prediction) or 0) + 1) * 1000 > first
        }  # fmt: skip
        if not wanted:
            return
        names = {prediction: self._names(prediction) for prediction, _ in wanted}
        found = self.find({name for one in names.values() for name in one.values()})
        changed, lost = False, 0
        for key, one in wanted.items():
            answers = {arm: found[name] for arm, name in names[one.prediction].items() if name in found}
            if not answers:
                lost += self._is_lost(key, one, now)
                continue
            self._missing.pop(key, None)
            if min(answer.at for answer in answers.values()) >= first:
                self._known[key] = _Known(one.value, answers)
                changed = True
        if lost:
            _log.warning("%s: %d outcomes are of predictions that are not in this machine's log", self.rollout.id, lost)
        if changed:
            self._quality = tuple(self._areas())

    def _is_lost(self, key: tuple[str, str], one: Outcome, now: int) -> bool:
        """Note that a prediction was not found; whether it will not be looked for any more."""
        since = self._missing[key].since if key in self._missing else now
        if now - since >= _PATIENCE * _SECOND:
            del self._missing[key]
            return True
        self._missing[key] = _Missing(one, since, now + max(_AGAIN * _SECOND, now - since))
        return False

    def _is_known(self, one: Outcome) -> bool:
        known = self._known.get((one.prediction, one.label))
        return known is not None and known.value == one.value

    def _names(self, prediction: str) -> dict[int, str]:
        """Arm → the id of its answer: only a shadow's request has one of each."""
        made_by, _, tail = prediction.partition("-")
        arms = (self.rollout.stable, self.rollout.candidate)
        return {
            arm: f"{name}-{tail}" for arm, name in enumerate(arms) if name == made_by or self.rollout.mode == "shadow"
        }

    @property
    def quality(self) -> tuple[Quality, ...]:
        """Areas under the curve of both arms, label by label."""
        return self._quality

    def _areas(self) -> Iterable[Quality]:
        rows: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}
        paired = self.rollout.mode == "shadow"
        classes: dict[str, dict[str, None]] = {}
        for (_, label), known in self._known.items():
            for answer in known.answers.values():
                names = answer.labels.get(label, {}).get("probabilities", ())
                classes.setdefault(label, {}).update(dict.fromkeys(map(str, names)))
        for (_, label), known in self._known.items():
            said = {arm: answer.labels[label] for arm, answer in known.answers.items() if label in answer.labels}
            # Rows are paired when both arms answered, and alike (with a class, or with a probability).
            if paired and (len(said) < 2 or len({frozenset(_KINDS & one.keys()) for one in said.values()}) > 1):
                continue
            for arm, one in said.items():
                # The arms may know different classes: each has a row of every class, or rows would be no pairs.
                for name, truth, probability in score(label, one, known.value, classes[label]).pairs:
                    rows.setdefault(name, ([], []))[arm].append((truth, probability))
        for name, arms in rows.items():
            if arms[0] and arms[1]:
                made = _quality(name, *(np.array(arm, np.float64) for arm in arms), paired=paired)
                if made is not None:
                    yield made

    def outcome(self, metric: str | None, *, higher: bool) -> decide.Outcome | None:
        """What an A/B test compares: a metric that was told, or the loss. An entity counts once, with its mean."""
        values: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
        for (prediction, label), known in self._known.items():
            for arm, answer in known.answers.items():
                if metric is None and label in answer.labels:
                    value = score(label, answer.labels[label], known.value).loss
                elif metric is not None and label == metric:
                    value = float(known.value)
                else:
                    continue
                values[arm].setdefault(answer.entity or prediction, []).append(value)
        if not values[0] and not values[1]:
            return None
        return decide.Outcome(metric or LOSS, higher, *(_sample(arm) for arm in values))


def _quality(name: str, stable: Rows, candidate: Rows, *, paired: bool) -> Quality | None:
    if paired:
        both = paired_auc(stable[:, 0], stable[:, 1], candidate[:, 1])
        if both is None:
            return None
        first, second, variance = both
    else:
        mine, other = auc(stable[:, 0], stable[:, 1]), auc(candidate[:, 0], candidate[:, 1])
        if mine is None or other is None:
            return None
        first, second = mine, other
        variance = first.variance + second.variance
    rarest = min(_rarest(first), _rarest(second))
    return Quality(name, first.auc, second.auc, variance, (len(stable), len(candidate)), rarest)


def _rarest(area: Area) -> int:
    return min(area.positives, area.negatives)


def _sample(values: Mapping[str, list[float]]) -> Sample:
    means = np.array([sum(one) / len(one) for one in values.values()])
    if not len(means):
        return Sample()
    return Sample(len(means), float(means.mean()), float(means.var(ddof=1)) if len(means) > 1 else 0.0)


def read_counts(log: Path) -> dict[str, Counts]:
    """What every deployment did, by the meters beside the prediction log: what was refused has no answer either."""
    return {
        deployment: Counts(
            arm.requests + arm.refused + arm.errors,
            arm.refused + arm.errors,
            arm.latency,
            {label: one.bins for label, one in arm.outputs.items() if any(one.bins)},
            {
                label: (one.count, one.total, one.squares)
                for label, one in arm.outputs.items()
                if one.count and not any(one.bins)
            },
        )
        for deployment, arm in read_meters(meters_folder(log)).items()
    }


def meters_id(log: Path) -> str:
    """Which counters `read_counts` reads here: an id that lies beside them, made where there is none.

    Each machine counts in a folder of its own; what was read from one is nothing to subtract from another.
    """
    path = meters_folder(log) / "id"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = secrets.token_hex(8)
    scratch = path.with_name(f".id.{made}.new")
    try:
        scratch.write_text(made, encoding="utf-8")
        # A link, which does not replace: of several processes that make one at once, the first one's holds.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(scratch)
    finally:
        scratch.unlink(missing_ok=True)
    return path.read_text(encoding="utf-8")


def logged(path: Path) -> Find:
    """Finds predictions in the log at `path`."""

    def find(predictions: Collection[str]) -> dict[str, Answered]:
        found = read_found(path, predictions)
        return {name: Answered(one.at, one.output["labels"], one.entity) for name, one in found.items()}

    return find


def plain_counts(counts: Counts) -> dict[str, Any]:
    """Counts as plain data, to be kept."""
    return asdict(counts)


def counts_from(kept: Mapping[str, Any]) -> Counts:
    """What `plain_counts` made."""
    return Counts(
        kept["requests"],
        kept["errors"],
        tuple(kept["latency"]),
        {label: tuple(bins) for label, bins in kept["outputs"].items()},
        {label: (one[0], one[1], one[2]) for label, one in kept["moments"].items()},
    )
