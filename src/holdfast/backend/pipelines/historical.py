"""The offline side of the feature store: features of any number of groups at each row's own cutoff."""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.features.columns import arrow_columns
from holdfast.backend.pipelines.materialise import ENTITY, FeatureRooms, world_of
from holdfast.backend.records import FeatureGroup
from holdfast.core.features.asof import fetch, last_at_most
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.timeline import parse_instant
from holdfast.errors import InputError, NotFoundError, nearest

__all__ = ["Stored", "historical_features", "join_stored", "stored_rows"]

_MOMENTS = ("event_timestamp", "cutoff")
_NO_BITS = np.empty(0, np.uint8)
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
    place = _places(stored, keys, cutoffs, ttl)
    plain, other = [], []
    for name in names:
        kinds = {one.rows.schema.field(name).type for one in stored}
        (plain if len(kinds) == 1 and _is_64_bit(kinds.pop()) else other).append(name)
    columns = _fetched(stored, plain, place)
    rows = pa.concat_tables([one.rows.select(other) for one in stored], promote_options="permissive")
    taken = rows.take(pa.array(place, mask=place < 0))
    columns.update({name: taken.column(name) for name in other})
    return {name: columns[name] for name in names}


def _places(stored: Sequence[Stored], keys: pa.Array, cutoffs: Ints, ttl: int | None) -> Ints:
    """For each question the row that answers it, counted through all stored tables; -1 for none."""
    times = np.array([one.cutoff for one in stored], np.int64)
    starts = np.cumsum([0, *(len(one.rows) for one in stored)])
    newest = last_at_most(times, cutoffs)
    newest[np.asarray(pc.is_null(keys))] = -1
    # By table: each is searched once, for all that may be in it.
    order = _ascending(newest)
    ends = np.searchsorted(newest[order], np.arange(len(stored) + 1))
    place = np.full(len(keys), -1, np.int64)
    left = order[:0]
    for number in range(len(stored) - 1, -1, -1):
        asked = order[ends[number] : ends[number + 1]]
        if len(left):
            asked = np.concatenate([left, asked])
        if ttl is not None:
            # What this one is too old for, an older one is too.
            asked = asked[cutoffs[asked] - times[number] <= ttl]
        left = asked
        if len(asked):
            found = _positions(stored[number].rows.column(ENTITY), keys.take(pa.array(asked)))
            there = found >= 0
            place[asked[there]] = starts[number] + found[there]
            left = asked[~there]
    return place


def _ascending(numbers: Ints) -> Ints:
    """The order that sorts numbers from -1 up, stably: by 16 bits at a time, which numpy sorts by counting."""
    order = np.arange(len(numbers))
    largest = int(numbers.max(initial=-1)) + 1
    for shift in range(0, max(largest.bit_length(), 1), 16):
        digits = ((numbers + 1) >> shift).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _positions(keys: pa.ChunkedArray, wanted: pa.Array) -> Ints:
    """Where each wanted key is among `keys` (ascending), -1 for nowhere."""
    if keys.type != pa.int64() or not len(keys):
        return np.asarray(pc.fill_null(pc.index_in(wanted, value_set=keys), -1).to_numpy(), np.int64)
    held, looked = keys.to_numpy(), wanted.to_numpy()
    found = last_at_most(held, looked)
    return np.where((found >= 0) & (held[found] == looked), found, -1)


def _is_64_bit(kind: pa.DataType) -> bool:
    return pa.types.is_primitive(kind) and kind.bit_width == 64


def _fetched(stored: Sequence[Stored], names: Sequence[str], place: Ints) -> dict[str, pa.ChunkedArray]:
    """Columns of 64-bit values at the places that `_places` found.

    In the order in which they are stored: memory is read forwards, once, where `take` in the order of the questions
    reads it at random.
    """
    order = _ascending(place)
    order = order[np.searchsorted(place[order], 0) :]
    rows = place[order]
    lengths = [len(chunk) for one in stored for chunk in one.rows.column(ENTITY).chunks]
    starts = np.cumsum([0, *lengths])
    bounds = np.searchsorted(rows, starts)
    # Pieces that hold an answer: number, and which of the rows are in it.
    pieces = [
        (number, order[begin:end], rows[begin:end] - starts[number])
        for number, (begin, end) in enumerate(itertools.pairwise(bounds.tolist()))
        if begin < end
    ]
    there = (place >= 0).view(np.uint8)

    def fetched(name: str) -> pa.ChunkedArray:
        chunks = [chunk for one in stored for chunk in one.rows.column(name).chunks]
        out, known = np.zeros(len(place), np.int64), there.copy()
        for number, places, inside in pieces:
            chunk = chunks[number]
            valid, values = chunk.buffers()
            bits = np.frombuffer(valid, np.uint8) if chunk.null_count else _NO_BITS
            numbers = np.frombuffer(values, np.int64, len(chunk), 8 * chunk.offset)
            fetch(numbers, bits, chunk.offset, inside, places, (out, known))
        bitmap = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
        return pa.chunked_array([pa.Array.from_buffers(chunks[0].type, len(out), [bitmap, pa.py_buffer(out)])])

    return {name: fetched(name) for name in names}


def _table(frame: Any) -> pa.Table:
    if not isinstance(frame, pa.Table):
        try:
            if isinstance(frame, Mapping):
                frame = pa.table(dict(frame))
            else:
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
