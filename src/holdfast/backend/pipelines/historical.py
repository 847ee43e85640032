"""The offline side of the feature store: features of any number of groups at each row's own cutoff."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.features.columns import arrow_columns
from holdfast.backend.pipelines.materialise import ENTITY, EVENT_AT, MADE_AT, FeatureRooms, world_of
from holdfast.backend.records import FeatureGroup
from holdfast.core.features.asof import as_of
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.timeline import parse_instant
from holdfast.errors import InputError, NotFoundError, nearest

__all__ = ["historical_features", "join_stored", "stored_rows"]

_MOMENTS = ("event_timestamp", "cutoff")
Chosen = list[tuple[FeatureGroup, list[str]]]


def historical_features(
    rooms: FeatureRooms,
    frame: Any,
    features: Sequence[str],
    *,
    version: str | None = None,
    full_feature_names: bool = False,
    stored: bool = False,
) -> pa.Table:
    """`frame` with the features of each row's entities at the row's cutoff, in the order of its rows.

    `frame` is an Arrow table, a DataFrame or a mapping of columns: the cutoff (`event_timestamp`, `cutoff`, or the only
    time column; without a zone it is in the project's) and for each entity table a column named as the table or as its
    key. `features` are groups, or single features as `group:feature`. What was known at the cutoff is computed over a
    dataset version (default: the current one); with `stored` rows materialised earlier are joined instead: the newest
    at or before the cutoff and, with a time to live, not older than it. `full_feature_names` names columns
    `group__feature`.

    InputError names row and column of what cannot be used, and names that would be there twice; NotFoundError a group
    or feature that is none.
    """
    table = _table(frame)
    cutoffs = _cutoffs(table, rooms.datasets.schema().timezone)
    chosen = _chosen(rooms.online.groups.sync(), features)
    keys = {group.entity: _entity_column(rooms, group, table, chosen) for group, _ in chosen}
    added: dict[str, pa.Array | pa.ChunkedArray] = {}
    world = None
    if not stored:
        world = world_of(rooms.datasets, rooms.datasets.get(version), [group for group, _ in chosen])
    for group, names in chosen:
        entities = table.column(keys[group.entity]).combine_chunks()
        if stored:
            columns = join_stored(stored_rows(rooms, group, names), entities, cutoffs, names, group.ttl)
        else:
            assert world is not None
            feature_set = FeatureSet.from_dict(group.definitions)
            wanted = tuple(feature_set.feature(name) for name in names)
            asked = FeatureSet(feature_set.entity, wanted, feature_set.schema, (), feature_set.include_cutoff)
            columns = arrow_columns(evaluate(asked, world, entities, cutoffs))
        for name in names:
            shown = f"{group.name}__{name}" if full_feature_names else name
            if shown in added or shown in table.column_names:
                raise InputError(
                    f"two columns would be called {shown!r}", where={"feature group": group.name, "feature": name},
                    hint="Ask for full feature names (group__feature), or rename the column of your frame.",
                )  # fmt: skip
            added[shown] = columns[name]
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def stored_rows(rooms: FeatureRooms, group: FeatureGroup, names: Sequence[str] | None = None) -> pa.Table:
    """All materialised rows of the group's current features: ENTITY, EVENT_AT, MADE_AT and features, oldest first."""
    made = [one for one in rooms.online.groups.materialisations(group.name) if one.feature_set == group.feature_set]
    if not made:
        raise NotFoundError(
            f"group {group.name!r} was never materialised as it is defined now", where={"feature group": group.name},
            hint=f"Run: holdfast features materialise {group.name}",
        )  # fmt: skip
    columns = [ENTITY, EVENT_AT, MADE_AT, *names] if names is not None else None
    parts = [pq.read_table(rooms.blobs.path(one.sha256), columns=columns) for one in reversed(made)]
    return pa.concat_tables(parts, promote_options="permissive")


def join_stored(
    rows: pa.Table, entities: pa.Array, cutoffs: npt.NDArray[np.int64], names: Sequence[str], ttl: int | None
) -> Mapping[str, pa.ChunkedArray]:
    """For each (entity, cutoff) the features of the newest row at or before the cutoff, null where there is none."""
    keys = rows.column(ENTITY)
    if entities.type != keys.type:
        entities = _cast_keys(entities, keys.type)
    space = pc.unique(keys)
    codes, asked = (
        np.asarray(pc.fill_null(pc.index_in(side, value_set=space, skip_nulls=True), -1).to_numpy(), np.int64)
        for side in (keys, entities)
    )
    times, made = (np.asarray(rows.column(name).cast(pa.int64()).to_numpy(), np.int64) for name in (EVENT_AT, MADE_AT))
    found = as_of(codes, times, made, asked, cutoffs, ttl=ttl)
    taken = rows.select(list(names)).combine_chunks().take(pa.array(found, mask=found < 0))
    return {name: taken.column(name) for name in names}


def _table(frame: Any) -> pa.Table:
    if isinstance(frame, Mapping):
        frame = pa.table(dict(frame))
    elif not isinstance(frame, pa.Table):
        try:
            frame = pa.Table.from_pandas(frame, preserve_index=False)
        except (AttributeError, TypeError, pa.ArrowException) as error:
            raise InputError(
                f"the frame cannot be read: {error}", hint="Give an Arrow table, a DataFrame or a mapping of columns."
            ) from error
    twice = [name for name in frame.column_names if frame.column_names.count(name) > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} is there twice", where={"column": twice[0]})
    return frame


def _cutoffs(table: pa.Table, timezone: str) -> npt.NDArray[np.int64]:
    """The cutoff of each row in microseconds."""
    timed = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    name = next((name for name in _MOMENTS if name in table.column_names), timed[0] if len(timed) == 1 else None)
    if name is None:
        raise InputError(
            "the frame has no column of cutoffs", where={"columns": ", ".join(table.column_names)},
            hint="Name the time of each row `event_timestamp`.",
        )  # fmt: skip
    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(pc.is_null(column)))[0])
        raise InputError("a row has no cutoff", where={"row": row + 1, "column": name})
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array([parse_instant(text, timezone) for text in column.to_pylist()], np.int64)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"a cutoff is a time, not {column.type}", where={"column": name})
    try:
        # Down to the microsecond: a cutoff never moves past what it did not see.
        column = pc.floor_temporal(column, unit="microsecond").cast(pa.timestamp("us", tz=column.type.tz), safe=False)
        if column.type.tz is None:
            column = pc.assume_timezone(column, timezone, ambiguous="earliest")
    except pa.ArrowInvalid as error:
        raise InputError(f"a cutoff does not exist in {timezone}: {error}", where={"column": name}) from error
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def _chosen(groups: Sequence[FeatureGroup], features: Sequence[str]) -> Chosen:
    """The groups meant, each with the features wanted of it, in the order of the request."""
    if isinstance(features, str):
        features = [features]
    if not features:
        raise InputError("no feature group was asked for", hint=f"There are: {', '.join(g.name for g in groups)}")
    known = {group.name: group for group in groups}
    wanted: dict[str, dict[str, None]] = {}
    for text in features:
        name, _, feature = text.partition(":")
        if name not in known:
            raise NotFoundError(
                f"there is no feature group {name!r}", where={"feature group": name}, hint=nearest(name, known)
            )
        names = FeatureSet.from_dict(known[name].definitions).names
        if feature and feature not in names:
            raise NotFoundError(
                f"group {name!r} has no feature {feature!r}", where={"feature group": name, "feature": feature},
                hint=nearest(feature, names),
            )  # fmt: skip
        wanted.setdefault(name, {}).update(dict.fromkeys([feature] if feature else names))
    return [(known[name], list(names)) for name, names in wanted.items()]


def _entity_column(rooms: FeatureRooms, group: FeatureGroup, table: pa.Table, chosen: Chosen) -> str:
    """The column of the frame that holds the group's entities: named as the table, else as its key."""
    key = rooms.online.groups.key(group).name
    if group.entity in table.column_names:
        return group.entity
    sharing = sorted({one.entity for one, _ in chosen if rooms.online.groups.key(one).name == key})
    if key in table.column_names and len(sharing) == 1:
        return key
    reason = (
        f"{key!r} is the key of {' and of '.join(map(repr, sharing))}" if len(sharing) > 1 else "the frame has none"
    )
    raise InputError(
        f"no column holds the entities of {group.entity!r}: {reason}",
        where={"feature group": group.name, "columns": ", ".join(table.column_names)},
        hint=f"Name the column {group.entity!r}" + (f" or {key!r}." if len(sharing) == 1 else "."),
    )


def _cast_keys(entities: pa.Array, wanted: pa.DataType) -> pa.Array:
    try:
        return entities.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"keys are {wanted}, not {entities.type}: {error}") from error
