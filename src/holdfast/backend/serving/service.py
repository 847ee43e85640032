"""Answers with their log: what the HTTP server, the Python API and batch jobs ask."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from holdfast.backend.ports import Clock
from holdfast.backend.serving.exchange import Exchange, instant_of
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.meters import ArmMeter, Meters, prometheus, read_meters
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.questions import Question, StoredData, ask, compute
from holdfast.backend.serving.shadows import Shadows
from holdfast.core.derive import with_derived
from holdfast.core.features.alignment import refuse
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.world import World
from holdfast.core.schema import Schema
from holdfast.core.timeline import isoformat
from holdfast.errors import HoldfastError, InputError, IntegrityError, RequestError, UnavailableError

__all__ = ["Reply", "Service", "unit_of"]

_COUNTED = "counted"
_EXTRAS = 100
_log = logging.getLogger("holdfast.serving")
_encode = msgspec.json.Encoder(enc_hook=str).encode
Reply = dict[str, Any]
"""`target`, `deployment`, `predictions` in the order asked and, where stored rows were seen, `data_version`."""


class Service:
    """Predictions of whatever `live` says is deployed. Safe in any number of threads."""

    def __init__(
        self, live: Live, log: PredictionLog, clock: Clock, *, strict: bool = False, meters: Meters | None = None,
        shadows: Shadows | None = None,
    ) -> None:  # fmt: skip
        """`strict` is what holds for questions that do not say. Without `meters` nothing is counted, without `shadows`
        the stable deployments answer everything: what is not a server takes no part in trials.
        """
        self.live = live
        self.log = log
        self.strict = strict
        self._clock = clock
        self._meters = meters
        self._uncounted: set[str] = set()
        self.shadows = shadows

    def now(self) -> int:
        """Microseconds UTC."""
        return self._clock.now()

    def meter(self, predictor: Predictor) -> ArmMeter | None:
        """The counters of a predictor's deployment; None when it is not counted, for which no answer waits or fails."""
        if self._meters is None:
            return None
        try:
            return self._meters.arm(predictor.target, predictor.deployment, predictor.tasks)
        except OSError as error:
            if predictor.deployment not in self._uncounted:
                self._uncounted.add(predictor.deployment)
                _log.error("requests of %s cannot be counted: %s", predictor.deployment, error)
            return None

    def choose(self, target: str, unit: str | None = None) -> Predictor:
        """What answers for `unit` (whose requests stay together while models are on trial); without trials, the stable
        deployment.
        """
        return self.live.choose(target, unit) if self.shadows else self.live.predictor(target)

    def features(
        self, target: str, rows: Sequence[Mapping[str, Any]], *, explain: bool = False, strict: bool | None = None,
        caller: str | None = None, unit: str | None = None, by: Predictor | None = None,
    ) -> Reply:  # fmt: skip
        """Answers for rows of feature values. AlignmentError names row and feature.

        `caller` is the caller's own id of the request, for the log. With `strict` nothing is repaired: what would be is
        an AlignmentError that lists all of it. Requests of one `unit` are answered by one deployment, or by `by` where
        it was chosen before.
        """
        _some(rows, "features")

        def work(predictor: Predictor) -> _Made:
            answers = predictor.predict_features(rows, explain=explain, strict=self._strictly(strict))
            for answer in answers:
                answer["repairs"] = _shortened(answer["repairs"])
            reply = {"target": target, "deployment": predictor.deployment, "predictions": answers}
            return _Made("features", {"features": rows}, reply)

        return self._answered(target, unit, caller, work, by)

    def rows(
        self,
        target: str,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        questions: Sequence[Question],
        *,
        merge: bool = False,
        explain: bool = False,
        strict: bool | None = None,
        caller: str | None = None,
        unit: str | None = None,
    ) -> Reply:
        """Answers from raw rows of any tables: they are all that is seen or, with `merge`, added to the stored ones.

        InputError names table, row and column, or the question.
        """
        _some(questions, "questions")

        def work(predictor: Predictor) -> _Made:
            return self._of_rows(
                predictor, rows, questions, merge=merge, explain=explain, strict=self._strictly(strict)
            )

        return self._answered(target, unit_of(questions, unit), caller, work)

    def _of_rows(
        self, predictor: Predictor, rows: Mapping[str, Sequence[Mapping[str, Any]]], questions: Sequence[Question], *,
        merge: bool, explain: bool, strict: bool,
    ) -> "_Made":  # fmt: skip
        feature_set = predictor.feature_set
        stored = self.live.stored(predictor) if merge else None
        schema = stored.schema if stored else feature_set.schema
        for name in rows:
            if name not in schema.tables:
                raise InputError(
                    f"there is no table {name!r}", where={"table": name}, hint=f"Tables: {', '.join(schema.tables)}"
                )
        given = typed_rows(schema, rows)
        world = stored.merged(given) if stored else World.build(schema, with_derived(schema, given, given))
        kind = "rows+stored" if stored else "rows"
        notes = _absent_columns(schema, rows)
        return self._computed(
            predictor, kind, world, questions, explain=explain, strict=strict, stored=stored, raw=rows, notes=notes
        )

    def entities(
        self, target: str, questions: Sequence[Question], *, explain: bool = False, strict: bool | None = None,
        caller: str | None = None, unit: str | None = None,
    ) -> Reply:  # fmt: skip
        """Answers by entity id from the stored rows of the current data version, which the reply names.

        One entity is its own unit.
        """
        _some(questions, "entities")

        def work(predictor: Predictor) -> _Made:
            stored = self.live.stored(predictor)
            return self._computed(
                predictor, "entity", stored.world, questions, explain=explain, strict=self._strictly(strict),
                stored=stored,
            )  # fmt: skip

        return self._answered(target, unit_of(questions, unit), caller, work)

    def _answered(
        self, target: str, unit: str | None, caller: str | None, work: "Callable[[Predictor], _Made]",
        by: Predictor | None = None,
    ) -> Reply:  # fmt: skip
        """Let the deployment that `unit` belongs to answer; log and count it, and give copies to shadows."""
        began = time.perf_counter()
        predictor = by or self.choose(target, unit)
        try:
            made = work(predictor)
        except Exception as error:
            self.unanswered(predictor, error)
            raise
        size = self._done(predictor, made, round((time.perf_counter() - began) * 1e6), caller)
        if self.shadows:
            for shadow in self.live.shadows(target, unit):
                self.shadows.put(partial(self._shadowed, shadow, work, made.reply), size)
        return made.reply

    def _shadowed(self, shadow: Predictor, work: "Callable[[Predictor], _Made]", given: Reply | bytes) -> None:
        """Answer what another deployment answered already, for the log and the counters only.

        The ids are those of the answers that were `given`, but for the deployment: what becomes known of these holds
        for both. The latency is the time of the processor, since it is done when there is nothing else to do.
        """
        began = time.thread_time()
        try:
            made = work(shadow)
        except Exception as error:
            self.unanswered(shadow, error)
            raise
        took = round((time.thread_time() - began) * 1e6)
        first = given if isinstance(given, dict) else msgspec.json.decode(given)
        for answer, original in zip(made.reply["predictions"], first["predictions"], strict=True):
            answer["id"] = f"{shadow.deployment}-{original['id'].partition('-')[2]}"
        self._done(shadow, replace(made, kind="shadow"), took, None)

    def shadow_fast(self, target: str, unit: str | None, body: bytes, given: bytes) -> None:
        """Give copies of a request that went the fast way, and was answered with `given`, to shadows."""
        shadows = self.live.shadows(target, unit) if self.shadows else ()
        if not self.shadows or not shadows:
            return

        def work(predictor: Predictor) -> _Made:
            taken = predictor.fast.take(body, self.strict) if predictor.fast else None
            asked = msgspec.json.decode(body)
            if predictor.fast is None or taken is None:
                rows = asked["features"] if isinstance(asked["features"], list) else [asked["features"]]
                answers = predictor.predict_features(rows, strict=asked.get("strict", self.strict))
                reply = {"target": target, "deployment": predictor.deployment, "predictions": answers}
            else:
                reply = msgspec.json.decode(predictor.fast.answer([taken]).answers[0])
            return _Made("features", asked, reply)

        for shadow in shadows:
            self.shadows.put(partial(self._shadowed, shadow, work, given), len(body) + len(given))

    def metrics(self) -> str:
        """The counts of all workers, for Prometheus."""
        return prometheus(read_meters(self._meters.folder) if self._meters else {})

    def unanswered(self, predictor: Predictor | None, error: BaseException) -> None:
        """Count a request that got no prediction, once: it asked for what cannot be answered, or the server failed."""
        meter = self.meter(predictor) if predictor else None
        if meter and not vars(error).get(_COUNTED):
            vars(error)[_COUNTED] = True
            asked = isinstance(error, HoldfastError) and not isinstance(error, UnavailableError | IntegrityError)
            (meter.refused if asked else meter.failed)()

    def _strictly(self, asked: bool | None) -> bool:
        return self.strict if asked is None else asked

    def _computed(
        self,
        predictor: Predictor,
        kind: str,
        world: World,
        questions: Sequence[Question],
        *,
        explain: bool,
        strict: bool,
        stored: StoredData | None,
        raw: Any = None,
        notes: Sequence[dict[str, str]] = (),
    ) -> "_Made":
        asked = ask(predictor.feature_set, questions, self._clock.now())
        keys = asked.entities.to_pylist()
        unseen = world.codes(predictor.feature_set.entity, asked.entities) < 0
        if strict:
            refuse([{"row": row, **note} for row in range(len(keys)) for note in notes])
            refuse([{"row": int(row), **_stranger(predictor, keys[row])} for row in np.flatnonzero(unseen)])
        answers = predictor.predict_frame(compute(predictor.needed, world, asked), explain=explain, strict=strict)
        for index, answer in enumerate(answers):
            answer["entity"], answer["cutoff"] = keys[index], isoformat(int(asked.cutoffs[index]))
            answer["repairs"].extend(notes)
            if unseen[index]:
                answer["repairs"].append(_stranger(predictor, keys[index]))
        reply = {"target": predictor.target, "deployment": predictor.deployment, "predictions": answers}
        version = stored.version if stored else None
        if version:
            reply["data_version"] = version
        identity = "id" if kind == "entity" else "entity"
        told = [{identity: one.entity, "cutoff": one.cutoff, "context": dict(one.context)} for one in questions]
        request = {"entities": told} if kind == "entity" else {"questions": told, "rows": raw}
        return _Made(kind, request, reply, version)

    def _done(self, predictor: Predictor, made: "_Made", latency: int, caller: str | None) -> int:
        """Log and count what was asked and answered; returns how many bytes of text that is."""
        reply, answers = made.reply, made.reply["predictions"]
        bodies: tuple[bytes, ...] = ()
        try:
            bodies = _encode(made.request), _encode(reply)
        except (ValueError, TypeError, RecursionError) as error:
            self.log.refuse(len(answers), error)
        else:
            instant = instant_of(answers[0]["id"])
            assert instant is not None
            self.log.put(
                [
                    Exchange(instant, self.now(), predictor.deployment, predictor.target, made.kind, latency,
                             len(answers), made.version, caller, *bodies)
                ]
            )  # fmt: skip
        meter = self.meter(predictor)
        if meter:
            outputs = {label: [model.counted(answer["labels"][label]) for answer in answers]
                       for label, model in predictor.models.items()}  # fmt: skip
            meter.answered([latency], len(answers), outputs)
        return sum(map(len, bodies))


@dataclass(frozen=True, slots=True)
class _Made:
    """What was asked and answered, and the data version whose rows were seen."""

    kind: str
    request: Mapping[str, Any]
    reply: Reply
    version: str | None = None


def unit_of(questions: Sequence[Question], given: str | None) -> str | None:
    """The unit of a question about one entity is that entity; of several, what was given."""
    return str(questions[0].entity) if len(questions) == 1 else given


def _shortened(repairs: list[dict[str, str]]) -> list[dict[str, str]]:
    """The repairs of a row; of many names that are no features the first are listed, and the others counted."""
    if len(repairs) <= _EXTRAS:
        return repairs
    extra = [repair for repair in repairs if repair["kind"] == "extra"]
    if len(extra) <= _EXTRAS:
        return repairs
    rest = {"feature": "", "kind": "extra", "detail": f"and {len(extra) - _EXTRAS:,} more names; ignored"}
    return [*(repair for repair in repairs if repair["kind"] != "extra"), *extra[:_EXTRAS], rest]


def _stranger(predictor: Predictor, key: object) -> dict[str, str]:
    """The repair of an entity that no row mentions."""
    table = predictor.feature_set.schema.table(predictor.feature_set.entity)
    shown = "***" if table.column(table.key[0]).personal else repr(key)
    detail = f"no row mentions {table.name} {shown}: counts are 0, the rest is missing"
    return {"feature": "", "kind": "entity", "detail": detail}


def _absent_columns(schema: Schema, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """A repair for each column that no given row of its table has."""
    return [
        {"feature": "", "kind": "missing", "detail": f"column {column!r} of {name!r} was not sent; it counts as null"}
        for name, records in rows.items()
        if records
        for column in schema.table(name).names
        if not any(column in record for record in records)
    ]


def _some(rows: Sequence[Any], what: str) -> None:
    if not rows:
        raise RequestError(f"{what!r} is empty: there is nothing to predict", where={"field": what})
