"""Derived tables: one row for each key that another table mentions, with the columns that belong to the key.

What Featuretools calls `normalize_dataframe`, with history. At an instant T the row of a key is there when a row of the
source that mentions it is visible at T; its columns are those of the newest such row (by event time, then by when it
was known, then by content), its `time` is that of the oldest. A derived row is never visible before its source row is:
rows at a cutoff are not seen, so it is known 1 µs after they happened, unless its own time keeps it hidden as long.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.convert import unify
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, Schema, Table
from holdfast.core.timeline import ALWAYS, NEVER

__all__ = ["derive", "with_derived"]

Ints = npt.NDArray[np.int64]


def with_derived(schema: Schema, tables: Mapping[str, pa.Table], changed: Iterable[str]) -> dict[str, pa.Table]:
    """`tables` (every state of every row) with what derives from those `changed` among them made anew."""
    found, fresh = dict(tables), set(changed)
    for table in schema.derived:
        if table.source in fresh:
            found[table.name] = derive(table, schema.table(table.source), found[table.source])
            fresh.add(table.name)
    return found


def derive(table: Table, source: Table, rows: pa.Table) -> pa.Table:
    """The states of a derived table, from every state of the rows of its source.

    The result has the columns of `table`, then SYSTEM_FIELDS, ordered by the first appearance of the key, then by time.
    System columns that `rows` lacks mean: known always, current, of no file. Rows without a key make no row.
    """
    key = table.key[0]
    rows = rows.filter(pc.is_valid(rows[key]))
    codes, seen = _ordinals(rows[key], by_value=False), _visible(source, rows)
    content = np.stack([_ordinals(rows[name]) for name in table.names], axis=1)
    newest = np.empty(len(rows), np.int64)
    newest[np.lexsort((*content.T[::-1], seen.known_from, seen.happened))] = np.arange(len(rows))
    track = _leaders(codes, seen, newest)
    if table.time is None:
        code, begin, row = track
        oldest = row
    else:
        code, begin, row, oldest = _merged(track, _leaders(codes, seen, len(rows) - 1 - newest))
        content[:, table.names.index(table.time)] = 0
    # What follows a state and says the same is no new state; of a gap (row -1) only the beginning counts.
    said = np.where((row < 0)[:, None], -2, content[row])
    same = np.zeros(len(row), np.bool_)
    same[1:] = (code[1:] == code[:-1]) & (said[1:] == said[:-1]).all(axis=1)
    if table.time is not None:
        same[1:] &= seen.happened[oldest[1:]] == seen.happened[oldest[:-1]]
    code, begin, row, oldest = (values[~same] for values in (code, begin, row, oldest))
    until = np.full(len(row), NEVER, np.int64)
    follows = code[1:] == code[:-1]
    until[:-1][follows] = begin[1:][follows]
    if table.time is not None:
        begin = _as_hidden_by_time((code, begin, row, oldest), seen)
    there = row >= 0
    return _states(table, rows, (row[there], oldest[there]), (begin[there], until[there]))


@dataclass(frozen=True)
class _Seen:
    """When each source row can be seen: [begin, end), and what makes it so."""

    happened: Ints
    known_from: Ints
    begin: Ints
    end: Ints


def _visible(source: Table, rows: pa.Table) -> _Seen:
    count = len(rows)

    def moments(name: str, default: int) -> Ints:
        if name not in rows.column_names:
            return np.full(count, default, np.int64)
        return np.asarray(pc.fill_null(rows[name].cast(pa.int64()), default).to_numpy(), np.int64)

    known_from, end = moments(KNOWN_FROM, ALWAYS), moments(KNOWN_TO, NEVER)
    if source.time is None:
        return _Seen(np.full(count, ALWAYS, np.int64), known_from, known_from, end)
    happened = moments(source.time, NEVER - 1)
    return _Seen(happened, known_from, np.maximum(known_from, happened + 1), end)


def _ordinals(values: pa.ChunkedArray, *, by_value: bool = True) -> Ints:
    """A number for each value, int64 [n]: in the order of values, or of first appearance; -1 is null."""
    encoded = unify([values]).dictionary_encode()
    codes: Ints = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    if not by_value:
        return codes
    rank: Ints = np.empty(len(encoded.dictionary) + 1, np.int64)
    rank[np.asarray(pc.sort_indices(encoded.dictionary), np.int64)] = np.arange(len(encoded.dictionary))
    rank[-1] = -1
    ordered: Ints = rank[codes]
    return ordered


def _leaders(codes: Ints, seen: _Seen, rank: Ints) -> tuple[Ints, Ints, Ints]:
    """Per code the row of the highest rank among those visible, as (code, from when on, row or -1 for none).

    Sorted by code and instant, one entry per instant at which it may change.
    """
    live = seen.begin < seen.end
    mixed = np.zeros(int(codes.max(initial=-1)) + 1, np.bool_)
    mixed[codes[seen.end != NEVER]] = True
    plain, other = (np.flatnonzero(live & (mixed[codes] == wanted)) for wanted in (False, True))
    pieces = [_growing(codes, seen, rank, plain), _changing(codes, seen, rank, other)]
    code, begin, row = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    order = np.lexsort((begin, code))
    return code[order], begin[order], row[order]


def _growing(codes: Ints, seen: _Seen, rank: Ints, members: Ints) -> tuple[Ints, Ints, Ints]:
    """`_leaders` where nothing is ever superseded: the highest rank so far."""
    order = members[np.lexsort((rank[members], seen.begin[members], codes[members]))]
    code, begin = codes[order], seen.begin[order]
    highest = np.maximum.accumulate(code * len(rank) + rank[order]) if len(order) else order
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank))
    last = np.ones(len(order), np.bool_)
    last[:-1] = (code[1:] != code[:-1]) | (begin[1:] != begin[:-1])
    return code[last], begin[last], place[highest[last] - code[last] * len(rank)]


def _changing(codes: Ints, seen: _Seen, rank: Ints, members: Ints) -> tuple[Ints, Ints, Ints]:
    """`_leaders` where rows come and go."""
    order = members[np.lexsort((seen.begin[members], codes[members]))]
    found: list[tuple[int, int, int]] = []
    for group in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else ():
        code, waiting = int(codes[group[0]]), 0
        heap: list[tuple[int, int]] = []
        for now in np.unique(np.r_[seen.begin[group], seen.end[group]]).tolist():
            while waiting < len(group) and seen.begin[group[waiting]] <= now:
                heappush(heap, (-int(rank[group[waiting]]), int(group[waiting])))
                waiting += 1
            while heap and seen.end[heap[0][1]] <= now:
                heappop(heap)
            if now < NEVER:
                found.append((code, now, heap[0][1] if heap else -1))
    columns = np.array(found, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _merged(one: tuple[Ints, Ints, Ints], other: tuple[Ints, Ints, Ints]) -> tuple[Ints, Ints, Ints, Ints]:
    """Two tracks over the same codes and spans as one: (code, from, row of the one, row of the other)."""
    code, begin = np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1]))
    which = np.repeat([0, 1], [len(one[0]), len(other[0])])
    rows = np.concatenate((one[2], other[2]))
    order = np.lexsort((which, begin, code))
    code, begin, which, rows = code[order], begin[order], which[order], rows[order]
    last = np.ones(len(code), np.bool_)
    last[:-1] = (code[1:] != code[:-1]) | (begin[1:] != begin[:-1])
    filled = []
    for track in (0, 1):
        newest = np.maximum.accumulate(np.where(which == track, np.arange(len(code)), -1))
        filled.append(rows[newest[last]])
    return code[last], begin[last], filled[0], filled[1]


def _as_hidden_by_time(states: tuple[Ints, Ints, Ints, Ints], seen: _Seen) -> Ints:
    """When each state is known: the first of a key as its source row is, where the row's own time hides it as long.

    Else every such row would count as known late, which costs the evaluator a test per row.
    """
    code, begin, row, oldest = states
    own = np.ones(len(code), np.bool_)
    own[1:] = code[1:] != code[:-1]
    own &= (row >= 0) & (seen.happened[oldest] == seen.happened[row]) & (begin == seen.happened[row] + 1)
    return np.where(own, seen.known_from[row], begin)


def _states(table: Table, rows: pa.Table, places: tuple[Ints, Ints], known: tuple[Ints, Ints]) -> pa.Table:
    """States of the source rows at `places` (newest and oldest), known from and to."""
    (row, oldest), (begin, until) = places, known
    taken = rows.take(pa.array(row))
    columns = {name: taken[name] for name in table.names}
    if table.time is not None:
        columns[table.time] = rows[table.time].take(pa.array(oldest))
    stamp = SYSTEM_FIELDS[KNOWN_FROM]
    columns[KNOWN_FROM] = pa.array(begin, pa.int64()).cast(stamp)
    columns[KNOWN_TO] = pa.array(until, pa.int64(), mask=until == NEVER).cast(stamp)
    for name in (SOURCE_FILE, SOURCE_ROW):
        present = name in rows.column_names
        columns[name] = taken[name] if present else pa.nulls(len(row), SYSTEM_FIELDS[name])
    return pa.table(columns)
