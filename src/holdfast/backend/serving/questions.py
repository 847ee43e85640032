"""From what a caller asks to features: questions, raw rows and stored rows go to the one evaluator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.derive import with_derived
from holdfast.core.features.definitions import FeatureSet, Kind
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.frame import FeatureFrame
from holdfast.core.features.rows import typed_values
from holdfast.core.features.world import World
from holdfast.core.schema import (
    KNOWN_FROM,
    KNOWN_TO,
    SOURCE_FILE,
    SOURCE_ROW,
    SYSTEM_FIELDS,
    Column,
    DType,
    Schema,
    Table,
)
from holdfast.core.timeline import ALWAYS, isoformat, parse_instant
from holdfast.core.words import number_of, truth_of, whole_of
from holdfast.errors import ConflictError, InputError

__all__ = ["Asked", "Question", "StoredData", "ask", "check_schema", "compute", "entity_column", "from_text"]

REQUEST = "(request)"
"""The file that rows of a request are said to come from."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row asked: an entity key, a cutoff (ISO 8601 text; None is now) and the context known beforehand."""

    entity: Any
    cutoff: Any = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions in columns: Arrow keys [n], instants int64 [n], context name → Arrow [n]."""

    entities: pa.Array
    cutoffs: npt.NDArray[np.int64]
    context: Mapping[str, pa.Array]


@dataclass(frozen=True)
class StoredData:
    """All rows of one dataset version with their history, as tables and as the evaluator's world."""

    version: str
    schema: Schema
    tables: Mapping[str, pa.Table]
    world: World
    _fits: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def build(version: str, schema: Schema, tables: Mapping[str, pa.Table]) -> "StoredData":
        """Make the world; takes about as long as reading the tables."""
        return StoredData(version, schema, tables, World.build(schema, tables))

    def fits(self, feature_set: FeatureSet) -> bool:
        """Whether these rows can give the features of the set; found out once for each set."""
        if feature_set.hash not in self._fits:
            try:
                check_schema(feature_set, self.schema)
            except ConflictError:
                self._fits[feature_set.hash] = False
            else:
                self._fits[feature_set.hash] = True
        return self._fits[feature_set.hash]

    def merged(self, given: Mapping[str, pa.Table]) -> World:
        """The world of the stored rows and `given` ones, known as these say, else always.

        A given row takes the place of all stored states of its key. Derived tables follow.
        """
        tables = dict(self.tables)
        for name, rows in given.items():
            if rows.num_rows:
                table = self.schema.table(name)
                tables[name] = _united(table, tables[name], rows) if name in tables else rows
        changed = [name for name, rows in given.items() if rows.num_rows]
        return World.build(self.schema, with_derived(self.schema, tables, changed))


def _united(table: Table, stored: pa.Table, given: pa.Table) -> pa.Table:
    if table.key:
        keys = list(table.key)
        stored = stored.join(given.select(keys).group_by(keys).aggregate([]), keys=keys, join_type="left anti")
    count = given.num_rows
    system = {
        KNOWN_FROM: given[KNOWN_FROM] if KNOWN_FROM in given.column_names else _always(count),
        KNOWN_TO: pa.nulls(count, SYSTEM_FIELDS[KNOWN_TO]),
        SOURCE_FILE: pa.array([REQUEST] * count, SYSTEM_FIELDS[SOURCE_FILE]),
        SOURCE_ROW: pa.array(range(1, count + 1), SYSTEM_FIELDS[SOURCE_ROW]),
    }
    columns = [*table.names, *SYSTEM_FIELDS]
    given = pa.table({name: system[name] if name in system else given[name] for name in columns})
    return pa.concat_tables([stored.select(columns), given])


def entity_column(feature_set: FeatureSet) -> Column:
    """The key column of the feature set's entity table."""
    table = feature_set.schema.table(feature_set.entity)
    return table.column(table.key[0])


def _always(count: int) -> pa.Array:
    return pa.array([ALWAYS] * count, pa.int64()).cast(SYSTEM_FIELDS[KNOWN_FROM])


def check_schema(feature_set: FeatureSet, schema: Schema) -> None:
    """ConflictError, naming table and column, when rows of `schema` cannot give the features of the set.

    Every table, column, key, time and link that the features read must be there as it was when they were made; a
    column may have widened the way an import may widen it. What else the schema has does not matter.
    """
    if schema.timezone != feature_set.schema.timezone:
        raise _conflict(f"the time zone was {feature_set.schema.timezone} and is {schema.timezone}")
    for name, needed in _needed(feature_set).items():
        was = feature_set.schema.table(name)
        if name not in schema.tables:
            raise _conflict(f"there is no table {name!r} any more", table=name)
        table = schema.table(name)
        if table.key != was.key or table.time != was.time:
            raise _conflict(
                f"table {name!r} had the key {_listed(was.key)} and the time {was.time or 'none'}; now the key is"
                f" {_listed(table.key)} and the time {table.time or 'none'}",
                table=name,
            )
        if table.source != was.source:
            one, other = (f"derived from {t.source!r}" if t.source else "delivered" for t in (was, table))
            raise _conflict(f"table {name!r} was {one} and is {other}", table=name)
        for column in sorted(needed):
            if column not in table.names:
                raise _conflict(f"table {name!r} has no column {column!r} any more", table=name, column=column)
            old, new = was.column(column).dtype, table.column(column).dtype
            same = column in was.key or column in was.links
            if column in was.links and table.links.get(column) != was.links[column]:
                raise _conflict(
                    f"column {column!r} no longer points at table {was.links[column]!r}", table=name, column=column
                )
            if new is not old and (same or (old, new) not in _WIDENED):
                raise _conflict(f"column {column!r} was {old.value} and is {new.value}", table=name, column=column)


_WIDENED = {(DType.INT, DType.FLOAT), (DType.CATEGORY, DType.TEXT), (DType.TEXT, DType.CATEGORY)}


def _needed(feature_set: FeatureSet) -> dict[str, set[str]]:
    """Table → the columns that the features read, among them keys and times."""
    needed: dict[str, set[str]] = {feature_set.entity: set()}
    for feature in (below for top in feature_set.features for below in top.walk()):
        if feature.kind is Kind.COLUMN:
            needed.setdefault(feature.table, set()).add(feature.column)
        if feature.link:
            needed.setdefault(feature.link.parent, set())
            child = needed.setdefault(feature.link.child, set())
            child.add(feature.link.column)
            if feature.condition:
                child.add(feature.condition.column)
    for name, columns in needed.items():
        table = feature_set.schema.table(name)
        columns.update(table.key, (table.time,) if table.time else ())
    return needed


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _conflict(message: str, **where: object) -> ConflictError:
    return ConflictError(
        f"the stored rows no longer fit the features: {message}",
        where=where,
        hint="Train again and deploy, or go back to the data version before.",
    )


def from_text(dtype: DType, value: Any) -> Any:
    """What a text spells as a value of that type; anything else as it came, to be refused where its place is known."""
    read = {DType.INT: whole_of, DType.FLOAT: number_of, DType.BOOL: truth_of}.get(dtype)
    if read is None or not isinstance(value, str):
        return value
    found = read(value)
    return value if found is None else found


def ask(feature_set: FeatureSet, questions: Sequence[Question], now: int) -> Asked:
    """Type the questions. InputError names the question and what does not fit: entity, cutoff or context column."""
    key = entity_column(feature_set)
    entities = [question.entity for question in questions]
    for number, entity in enumerate(entities):
        if entity is None:
            raise InputError("the question names no entity", where={"question": number, "column": key.name})
    context_names = [column.name for column in feature_set.context]
    for number, question in enumerate(questions):
        _check_context(question.context, context_names, number)
    timezone = feature_set.schema.timezone
    cutoffs = [_cutoff(question.cutoff, timezone, now, number) for number, question in enumerate(questions)]
    return Asked(
        typed_values(key, entities, timezone, table=feature_set.entity),
        np.array(cutoffs, np.int64),
        {
            column.name: typed_values(column, [question.context[column.name] for question in questions], timezone)
            for column in feature_set.context
        },
    )


def _check_context(context: Mapping[str, Any], names: Sequence[str], number: int) -> None:
    for name in names:
        if name not in context:
            raise InputError(
                f"context column {name!r} is missing",
                where={"question": number, "column": name},
                hint="Send null where the value is not known.",
            )
    for name in context:
        if name not in names:
            raise InputError(
                f"there is no context column {name!r}",
                where={"question": number, "column": name},
                hint=f"The context is: {', '.join(names) or 'none'}",
            )


def _cutoff(value: Any, timezone: str, now: int, number: int) -> int:
    where = {"question": number, "column": "cutoff"}
    if value is None:
        return now
    if not isinstance(value, str):
        raise InputError(
            f"the cutoff must be text such as 2016-01-31T08:00:00Z, not {type(value).__name__}", where=where
        )
    try:
        found = parse_instant(value, timezone)
        # The answer names the cutoff in UTC, where the first and the last year may end earlier.
        isoformat(found)
    except InputError as error:
        raise InputError(f"the cutoff {error.message}", where=where, hint=error.hint) from error
    except OverflowError as error:
        raise InputError(f"the cutoff {value[:80]!r} is out of range", where=where) from error
    return found


def compute(feature_set: FeatureSet, world: World, asked: Asked) -> FeatureFrame:
    """The features of the questions."""
    return evaluate(feature_set, world, asked.entities, asked.cutoffs, asked.context)
