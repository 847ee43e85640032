"""What became of predictions: true labels and other results, told later by the id of the prediction."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from holdfast.backend.deployment.tables import outcomes
from holdfast.backend.ports import Clock
from holdfast.backend.store import Audit, Store, actor

__all__ = ["Outcome", "Outcomes", "OutcomesAdded", "Value"]

Value = float | int | bool | str
Item = TypeVar("Item")
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """The `value` of a label (or of another metric) that became known of a prediction, told at an instant.

    `told`: its place in the order of telling, equal for those told together.
    """

    prediction: str
    label: str
    value: Value
    at: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True)
class OutcomesAdded:
    """How many outcomes were new, how many were known as they are, how many were told otherwise before."""

    added: int
    known: int
    changed: int


class Outcomes:
    """The outcomes of one project. To tell one again changes nothing; to tell it otherwise corrects it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def add(self, told: Sequence[Outcome]) -> OutcomesAdded:
        """Record outcomes, all or none; of several for the same prediction and label the last one holds."""
        wanted = {(one.prediction, one.label): _json(one.value) for one in told}
        with self._store.write("outcomes") as connection:
            known = dict(self._known(connection, sorted({prediction for prediction, _ in wanted})))
            new = [key for key in wanted if key not in known]
            changed = [key for key, value in wanted.items() if known.get(key, value) != value]
            made = OutcomesAdded(len(new), len(told) - len(new) - len(changed), len(changed))
            if not new and not changed:
                return made
            now, who = self._clock.now(), actor()
            details = {"added": made.added, "changed": made.changed}
            number = Audit(connection).append("add", "outcomes", at=now, details=details).id
            for prediction, label in changed:
                where = (outcomes.c.prediction == prediction) & (outcomes.c.label == label)
                values = {"value": wanted[prediction, label], "at": now, "who": who, "told": number}
                connection.execute(outcomes.update().where(where).values(**values))
            rows = [
                {"prediction": one, "label": label, "at": now, "value": wanted[one, label], "who": who, "told": number}
                for one, label in new
            ]
            for page in _pages(rows):
                connection.execute(outcomes.insert(), page)
        return made

    def _known(self, connection: sa.Connection, predictions: Sequence[str]) -> Iterator[tuple[tuple[str, str], str]]:
        for page in _pages(predictions):
            query = sa.select(outcomes).where(outcomes.c.prediction.in_(page))
            for row in connection.execute(query):
                yield (row.prediction, row.label), row.value

    def of(self, deployment: str, *, after: int = -1) -> list[Outcome]:
        """The outcomes of predictions of a deployment, in the order in which they were told.

        `after`: only those told after the entry of that number in the audit log. Times would not do: a machine whose
        clock is behind tells at an instant that was read already.
        """
        mine = outcomes.c.prediction.startswith(f"{deployment}-", autoescape=True)
        query = sa.select(outcomes).where(mine, outcomes.c.told > after)
        query = query.order_by(outcomes.c.told, outcomes.c.prediction, outcomes.c.label)
        with self._store.read() as connection:
            return [
                Outcome(row.prediction, row.label, json.loads(row.value), row.at, row.told)
                for row in connection.execute(query)
            ]

    def erase(self, predictions: Sequence[str]) -> int:
        """Forget the outcomes of predictions that were erased; returns how many."""
        gone = 0
        with self._store.write("erase outcomes") as connection:
            for page in _pages(predictions):
                gone += connection.execute(outcomes.delete().where(outcomes.c.prediction.in_(page))).rowcount
        return gone


def _pages(items: Sequence[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), _PAGE):
        yield list(items[start : start + _PAGE])


def _json(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
