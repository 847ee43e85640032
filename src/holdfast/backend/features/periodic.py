"""Questions asked by the calendar: every entity known at the start of each step, about the horizon that follows."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.settings import TargetSettings
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SYSTEM_FIELDS, Schema
from holdfast.core.timeline import NEVER, Step
from holdfast.errors import ConfigError, InputError

__all__ = ["PERIODIC", "periodic_rows"]

PERIODIC = "__periodic"
"""What the asking rows are called in SQL; they are `t` there, as every asking row is."""


def periodic_rows(schema: Schema, states: pa.Table, name: str, target: TargetSettings, end: int) -> pa.Table:
    """One row per entity and cutoff: the entity's columns as they were known at the cutoff, and cutoff, cutoff_end.

    `states` are all states of the entity table; cutoffs lie before `end`, the end of the data. An entity is asked from
    the first cutoff at which it can be seen until it is removed. ConfigError when the table has columns of these names,
    InputError when no cutoff finds an entity.
    """
    assert target.every is not None
    assert target.horizon is not None
    table = schema.table(target.from_)
    for column in table.names:
        if column.casefold() in ("cutoff", "cutoff_end"):
            raise ConfigError(
                f"table {table.name!r} has a column {column!r}, which is what `every` calls the moment of asking",
                where={"key": f"targets.{name}.every"},
                hint="Give that column another name in the delivered files, or with `aliases`.",
            )
    since = pc.fill_null(states[KNOWN_FROM].cast(pa.int64()), NEVER).to_numpy()
    until = pc.fill_null(states[KNOWN_TO].cast(pa.int64()), NEVER).to_numpy()
    if table.time is not None:  # it must have happened, strictly before the cutoff
        since = np.maximum(since, pc.fill_null(states[table.time].cast(pa.int64()), NEVER - 1).to_numpy() + 1)
    step, horizon = Step.parse(target.every), Step.parse(target.horizon)
    cutoffs = step.starts(int(since.min()), end, schema.timezone) if len(since) and since.min() < end else []
    asked = [np.flatnonzero((since <= cutoff) & (cutoff < until)) for cutoff in cutoffs]
    if not sum(map(len, asked)):
        raise InputError(
            f"target {name!r} finds no row of {table.name!r} at the start of any {target.every}",
            where={"key": f"targets.{name}.every"},
            hint="The first row must be known before the last step of the data begins: deliver more, or ask oftener.",
        )
    counts = [len(rows) for rows in asked]
    stamp = SYSTEM_FIELDS[KNOWN_FROM]
    rows = states.take(pa.array(np.concatenate(asked))).drop_columns([KNOWN_TO])
    for column, moments in (
        ("cutoff", cutoffs),
        ("cutoff_end", [horizon.after(cutoff, schema.timezone) for cutoff in cutoffs]),
    ):
        rows = rows.append_column(column, pa.array(np.repeat(np.array(moments, np.int64), counts)).cast(stamp))
    return rows
