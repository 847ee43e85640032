"""Answers with their log: what the HTTP server, the Python API and batch jobs ask."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.backend.ports import Clock
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import Logged, PredictionLog
from holdfast.backend.serving.predictor import Answer, Predictor
from holdfast.backend.serving.questions import Asked, Question, StoredData, ask, compute
from holdfast.core.derive import with_derived
from holdfast.core.features.alignment import refuse
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.world import World
from holdfast.core.schema import Schema
from holdfast.core.timeline import isoformat
from holdfast.errors import InputError, RequestError

__all__ = ["Reply", "Service"]

Reply = dict[str, Any]
"""`target`, `deployment`, `predictions` in the order asked and, where stored rows were seen, `data_version`."""


class Service:
    """Predictions of whatever `live` says is deployed. Safe in any number of threads."""

    def __init__(self, live: Live, log: PredictionLog, clock: Clock, *, strict: bool = False) -> None:
        """`strict` is what holds for questions that do not say."""
        self.live = live
        self.log = log
        self._clock = clock
        self.strict = strict

    def features(
        self, target: str, rows: Sequence[Mapping[str, Any]], *, explain: bool = False, strict: bool | None = None
    ) -> Reply:
        """Answers for rows of feature values. AlignmentError names row and feature.

        With `strict` nothing is repaired: what would be is an AlignmentError that lists all of it.
        """
        began = time.perf_counter()
        predictor = self.live.predictor(target)
        _some(rows, "features")
        answers = predictor.predict_features(rows, explain=explain, strict=self._strictly(strict))
        self._write(predictor, "features", rows, answers, began)
        return {"target": target, "deployment": predictor.deployment, "predictions": answers}

    def rows(
        self,
        target: str,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        questions: Sequence[Question],
        *,
        merge: bool = False,
        explain: bool = False,
        strict: bool | None = None,
    ) -> Reply:
        """Answers from raw rows of any tables: they are all that is seen or, with `merge`, added to the stored ones.

        InputError names table, row and column, or the question.
        """
        began = time.perf_counter()
        predictor = self.live.predictor(target)
        _some(questions, "questions")
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
            predictor, kind, world, questions, began, explain=explain, strict=self._strictly(strict), stored=stored,
            raw=rows, notes=notes,
        )  # fmt: skip

    def entities(
        self, target: str, questions: Sequence[Question], *, explain: bool = False, strict: bool | None = None
    ) -> Reply:
        """Answers by entity id from the stored rows of the current data version, which the reply names."""
        began = time.perf_counter()
        predictor = self.live.predictor(target)
        _some(questions, "entities")
        stored = self.live.stored(predictor)
        return self._computed(
            predictor, "entity", stored.world, questions, began, explain=explain, strict=self._strictly(strict),
            stored=stored,
        )  # fmt: skip

    def _strictly(self, asked: bool | None) -> bool:
        return self.strict if asked is None else asked

    def _computed(
        self,
        predictor: Predictor,
        kind: str,
        world: World,
        questions: Sequence[Question],
        began: float,
        *,
        explain: bool,
        strict: bool,
        stored: StoredData | None,
        raw: Any = None,
        notes: Sequence[dict[str, str]] = (),
    ) -> Reply:
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
        inputs = [{"entity": q.entity, "cutoff": q.cutoff, "context": dict(q.context)} for q in questions]
        version = stored.version if stored else None
        self._write(predictor, kind, inputs, answers, began, asked=asked, version=version, raw=raw)
        reply = {"target": predictor.target, "deployment": predictor.deployment, "predictions": answers}
        return reply | {"data_version": version} if version else reply

    def _write(
        self,
        predictor: Predictor,
        kind: str,
        inputs: Sequence[Any],
        answers: Sequence[Answer],
        began: float,
        *,
        asked: Asked | None = None,
        version: str | None = None,
        raw: Any = None,
    ) -> None:
        latency, now = round((time.perf_counter() - began) * 1e6), self._clock.now()
        entities = [str(key) for key in asked.entities.to_pylist()] if asked else itertools.repeat(None)
        cutoffs = asked.cutoffs.tolist() if asked else itertools.repeat(None)
        rows_id = answers[0]["id"] if raw is not None else None
        self.log.put(
            Logged(
                id=answer["id"],
                at=now,
                deployment=predictor.deployment,
                target=predictor.target,
                kind=kind,
                input=given,
                output={name: answer[name] for name in ("labels", "repairs")},
                latency_us=latency,
                entity=entity,
                cutoff=cutoff,
                data_version=version,
                rows_id=rows_id,
                raw_rows=raw if answer is answers[0] else None,
            )
            for answer, given, entity, cutoff in zip(answers, inputs, entities, cutoffs, strict=False)
        )


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
