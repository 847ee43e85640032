"""The offline side of the feature store: features of any number of groups at each row's own cutoff."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.features.columns import arrow_columns
from holdfast.backend.pipelines.materialise import ENTITY, FeatureRooms, world_of
from holdfast.backend.records import FeatureGroup
from holdfast.core.features.asof import Arrays, ascending, fetch, last_at_most, match
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.timeline import parse_instant
from holdfast.errors import InputError, NotFoundError, nearest

__all__ = ["Stored", "historical_features", "join_stored", "stored_rows"]

_MOMENTS = ("event_timestamp", "cutoff")
Chosen = list[tuple[FeatureGroup, list[str]]]
Ints = npt.NDArray[np.int64]


class Stored(NamedTuple):
    """Rows that were materialised at one cutoff: ENTITY (ascending, each once), EVENT_AT, MADE_AT and the features."""

    cutoff: int
    rows: pa.Table


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
    cutoffs = _cutoffs(table, lambda: rooms.datasets.schema().timezone)
    chosen = _chosen(rooms.online.groups.sync(), features)
    keys = {group.entity: _entity_column(rooms, group, table, chosen) for group, _ in chosen}
    added: dict[str, pa.Array | pa.ChunkedArray] = {}
    world = None
    if not stored:
        world = world_of(rooms.datasets, rooms.datasets.get(version), [group for group, _ in chosen])
    for group, names in chosen:
        entities = table.column(keys[group.entity]).combine_chunks()
        if stored:
            columns = join_stored(stored_rows(rooms, group), entities, cutoffs, names, group.ttl)
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


def stored_rows(rooms: FeatureRooms, group: FeatureGroup) -> list[Stored]:
    """What was materialised of the group's current features: one table a cutoff, oldest first, mapped from its file."""
    made = [one for one in rooms.online.groups.materialisations(group.name) if one.feature_set == group.feature_set]
    if not made:
        raise NotFoundError(
            f"group {group.name!r} was never materialised as it is defined now", where={"feature group": group.name},
            hint=f"Run: holdfast features materialise {group.name}",
        )  # fmt: skip
    made.sort(key=lambda one: (one.cutoff, one.made_at))
    return [Stored(one.cutoff, _mapped(str(rooms.blobs.path(one.sha256)))) for one in made]


@lru_cache(maxsize=1024)
def _mapped(path: str) -> pa.Table:
    """The rows of a file, mapped: kept, as the file of a content never changes.

    Reading its schema and touching its pages for the first time takes longer than a join of what is mapped already.
    """
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).read_all()


def join_stored(
    stored: Sequence[Stored],
    entities: pa.Array,
    cutoffs: npt.NDArray[np.int64],
    names: Sequence[str],
    ttl: int | None = None,
) -> Mapping[str, pa.ChunkedArray]:
    """For each (entity, cutoff) the features of the newest stored row at or before the cutoff; null where none is.

    `stored` is ordered by cutoff, of equal ones the later wins; with `ttl` a row counts to its cutoff + ttl, inclusive.
    """
    kind = stored[0].rows.schema.field(ENTITY).type
    keys = entities if entities.type == kind else _cast_keys(entities, kind)
    found = _found(stored, keys, cutoffs, ttl)
    schemas = [stored[0].rows.schema, *(one.rows.schema for one in stored if one.rows.schema != stored[0].rows.schema)]
    types = {name: {schema.field(name).type for schema in schemas} for name in names}
    plain = [name for name in names if len(types[name]) == 1 and _is_64_bit(*types[name])]
    columns = {name: _fetched(found, name, types[name].pop(), len(keys)) for name in plain}
    other = [name for name in names if name not in plain]
    if other:
        rows = pa.concat_tables([one.rows.select(other) for one in stored], promote_options="permissive")
        taken = rows.take(pa.array(found.rows + np.repeat(found.starts, np.diff(found.ends, prepend=0))))
        back = np.full(len(keys), -1, np.int64)
        back[found.places] = np.arange(len(found.places))
        taken = taken.combine_chunks().take(pa.array(back, mask=back < 0))
        columns.update({name: taken.column(name) for name in other})
    return {name: columns[name] for name in names}


class _Found(NamedTuple):
    """Which stored row answers which question, batch after batch, in the order in which the rows are stored.

    Memory is read forwards like this, where the order of the questions would read it at random.
    """

    batches: list[pa.RecordBatch]
    starts: Ints
    """The first row of each batch, counted through all stored tables."""
    ends: Ints
    """Where the answers of each batch end in `places` and `rows`."""
    places: Ints
    """The questions."""
    rows: Ints
    """The row of each in its batch."""


def _found(stored: Sequence[Stored], keys: pa.Array, cutoffs: Ints, ttl: int | None) -> _Found:
    times = np.array([one.cutoff for one in stored], np.int64)
    newest = last_at_most(times, cutoffs) + 1
    if keys.null_count:
        newest[np.asarray(pc.is_null(keys))] = 0
    # By table: each is searched once, for all that may be in it.
    order = ascending(newest)
    ends = np.cumsum(np.bincount(newest, minlength=len(stored) + 1))
    numbers = np.asarray(keys.fill_null(0)) if keys.type == pa.int64() else None
    starts = np.cumsum([0, *(len(one.rows) for one in stored)])
    left = order[:0]
    found: list[tuple[pa.RecordBatch, int, Ints, Ints]] = []
    for number in range(len(stored) - 1, -1, -1):
        left = np.concatenate([left, order[ends[number] : ends[number + 1]]])
        if ttl is not None:
            # What this one is too old for, an older one is too.
            left = left[cutoffs[left] - times[number] <= ttl]
        start = int(starts[number])
        for batch in stored[number].rows.to_batches() if len(left) else []:
            held = batch.column(ENTITY)
            rows = (
                _positions(held, keys.take(pa.array(left)))
                if numbers is None
                else match(np.asarray(held), numbers, left)
            )
            there = rows >= 0
            places, rows, left = left[there], rows[there], left[~there]
            if len(rows):
                sorting = ascending(rows)
                found.append((batch, start, places[sorting], rows[sorting]))
            start += len(batch)
    return _Found(
        [one[0] for one in found],
        np.array([one[1] for one in found], np.int64),
        np.cumsum(np.array([len(one[3]) for one in found], np.int64)),
        np.concatenate([order[:0], *(one[2] for one in found)]),
        np.concatenate([order[:0], *(one[3] for one in found)]),
    )


def _positions(held: pa.Array, wanted: pa.Array) -> Ints:
    """Where each wanted key is in `held`, -1 for nowhere."""
    return np.asarray(pc.fill_null(pc.index_in(wanted, value_set=held), -1), np.int64)


def _is_64_bit(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind)) and kind.bit_width == 64


def _fetched(found: _Found, name: str, kind: pa.DataType, length: int) -> pa.ChunkedArray:
    """A column of `length` 64-bit values; null where no row was found."""
    chunks = [batch.column(name) for batch in found.batches]
    buffers = [chunk.buffers() for chunk in chunks]
    bits = np.array([chunk.offset for chunk in chunks], np.int64)
    arrays = Arrays(
        np.array([values.address for _, values in buffers], np.int64) + 8 * bits,
        np.array([0 if valid is None else valid.address for valid, _ in buffers], np.int64),
        bits,
    )
    memory = pa.allocate_buffer(8 * length)
    out, known = np.frombuffer(memory, np.int64), np.ones(length, np.uint8)
    if len(found.places) < length:
        out[:], known[:] = 0, 0
        known[found.places] = 1
    fetch(arrays, found.ends, found.rows, found.places, (out, known))
    bitmap = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.chunked_array([pa.Array.from_buffers(kind, length, [bitmap, memory])])


def _table(frame: Any) -> pa.Table:
    if not isinstance(frame, pa.Table):
        try:
            if isinstance(frame, Mapping):
                frame = pa.table(dict(frame))
            else:
                # Numbers and times are not copied: threads would take longer to start than their work takes.
                frame = pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)
        except (AttributeError, TypeError, pa.ArrowException) as error:
            raise InputError(
                f"the frame cannot be read: {error}", hint="Give an Arrow table, a DataFrame or a mapping of columns."
            ) from error
    twice = [name for name in frame.column_names if frame.column_names.count(name) > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} is there twice", where={"column": twice[0]})
    return frame


def _cutoffs(table: pa.Table, timezone: Callable[[], str]) -> Ints:
    """The cutoff of each row in microseconds. The project's `timezone` is asked for when a cutoff has none."""
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
        zone = timezone()
        return np.array([parse_instant(text, zone) for text in column.to_pylist()], np.int64)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"a cutoff is a time, not {column.type}", where={"column": name})
    zone = column.type.tz
    if column.type.unit == "ns":
        # Down to the microsecond: a cutoff never moves past what it did not see.
        column = pc.floor_temporal(column, unit="microsecond")
    column = column.cast(pa.timestamp("us", tz=zone), safe=False)
    if zone is None:
        zone = timezone()
        try:
            column = pc.assume_timezone(column, zone, ambiguous="earliest")
        except pa.ArrowInvalid as error:
            raise InputError(f"a cutoff does not exist in {zone}: {error}", where={"column": name}) from error
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
