"""States of rows: what a delivery adds to what is known, and when each state is superseded.

A row is identified by its key; without a key by its content and its number among equal rows (of its period, if the
table has no time: docs/decisions/0011-equal-rows.md). A *state* is a row's content from `known_from` until the
`known_from` of the next state of the same row. Nothing is ever overwritten.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Changes", "current_states", "keyed_changes", "number_equal", "row_ids", "superseded_at", "unkeyed_changes"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_SCATTER = np.int64(-7046029254386353131)
"""2**64 over the golden ratio, as a signed number: multiplying by it modulo 2**64 can be undone."""


def row_ids(tables: Sequence[pa.Table], columns: Sequence[str]) -> list[Ints]:
    """A number per row, the same exactly when all `columns` are the same (null is a value; -0.0 is not 0.0).

    All tables share the numbering, which is dense and in order of first appearance.
    """
    lengths = [table.num_rows for table in tables]
    ids = np.zeros(sum(lengths), np.int64)
    for name in columns:
        column = pa.chunked_array([chunk for table in tables for chunk in table[name].chunks], tables[0][name].type)
        codes, count = _codes(column)
        # Scattered by an odd factor, which keeps them apart: evenly spaced numbers collide in Arrow's hash table.
        ids = codes if not ids.any() else _codes(pa.chunked_array([pa.array((ids * count + codes) * _SCATTER)]))[0]
    return [np.asarray(part) for part in np.split(ids, np.cumsum(lengths)[:-1])]


def _codes(column: pa.ChunkedArray) -> tuple[Ints, int]:
    if len(column) == 0:
        return np.zeros(0, np.int64), 1
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(encoded.dictionary)


def number_equal(ids: Ints) -> Ints:
    """How many equal ids stand before each one."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ids) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[begins, len(ids)])
    numbers = np.empty(len(ids), np.int64)
    numbers[order] = np.arange(len(ids)) - np.repeat(begins, sizes)
    return numbers


def current_states(ids: Ints) -> Mask:
    """Marks the last of each id: states are in order of delivery."""
    last = np.zeros(len(ids), bool)
    if len(ids):
        reverse = np.unique(ids[::-1], return_index=True)[1]
        last[len(ids) - 1 - reverse] = True
    return last


def superseded_at(ids: Ints, known_from: Ints, never: int) -> Ints:
    """`known_to` of states in order of delivery: the next state's `known_from`, or `never`."""
    order = np.argsort(ids, kind="stable")
    known_to = np.full(len(ids), never, np.int64)
    following = order[1:]
    same = ids[following] == ids[order[:-1]]
    known_to[order[:-1][same]] = known_from[following[same]]
    return known_to


@dataclass(frozen=True, slots=True)
class Changes:
    """What a delivery does: positions of delivered rows (`added`, `changed`, `late`) and of stored ones (`removed`).

    `known_from` belongs to `added` followed by `changed`; `removed_from` to `removed`. `late` rows differ from a state
    that a later period delivered: they are not applied. `unchanged` counts.
    """

    added: Ints
    changed: Ints
    removed: Ints
    late: Ints
    unchanged: int
    known_from: Ints
    removed_from: Ints


def keyed_changes(
    stored: pa.Table,
    delivered: pa.Table,
    key: Sequence[str],
    columns: Sequence[str],
    *,
    stored_known: Ints,
    stored_period: Ints,
    stored_removed: Mask,
    first_known: Ints,
    period_end: int,
    kept: pa.Table | None,
) -> Changes:
    """Compare delivered rows (unique keys) with the last state of every key.

    A changed, removed or returning row is known from the period's end, never before the state it follows. `kept` (for a
    full list; None for an increment) holds keys that were in the list but in quarantine: their rows stay as they are.
    """
    stored_keys, keys, kept_keys = row_ids(
        [table.select(key) for table in (stored, delivered, stored.slice(0, 0) if kept is None else kept)], key
    )
    stored_content, content = row_ids([stored, delivered], columns)
    size = int(max((ids.max(initial=-1) for ids in (stored_keys, keys, kept_keys)), default=-1)) + 1
    place = np.full(size, -1, np.int64)
    place[stored_keys] = np.arange(len(stored_keys))
    at = place[keys]
    exists = at >= 0
    if not len(stored_keys):
        stored_content, stored_known, stored_period = (np.zeros(1, np.int64) for _ in range(3))
        before_removed = np.zeros(len(keys), bool)
    else:
        before_removed = exists & stored_removed[at]
    same = exists & ~before_removed & (stored_content[at] == content)
    late = exists & ~same & (stored_period[at] > period_end)
    added = np.flatnonzero((~exists | before_removed) & ~late)
    changed = np.flatnonzero(exists & ~before_removed & ~same & ~late)
    follows = np.where(exists, np.maximum(period_end, stored_known[at]), first_known)
    removed = np.zeros(0, np.int64)
    if kept is not None and len(stored_keys):
        listed = np.zeros(size, bool)
        listed[keys] = True
        listed[kept_keys] = True
        removed = np.flatnonzero(~listed[stored_keys] & ~stored_removed)
    return Changes(
        added,
        changed,
        removed,
        np.flatnonzero(late),
        int(same.sum()),
        follows[np.r_[added, changed]],
        np.maximum(period_end, stored_known[removed]) if len(removed) else removed,
    )


def unkeyed_changes(stored: pa.Table, delivered: pa.Table, columns: Sequence[str], first_known: Ints) -> Changes:
    """The same for a table without a key: the n-th of equal rows is new when fewer than n are in `stored`.

    `stored` are the rows that a delivered one may be: of every period if the table has a time, else of the same period.
    """
    stored_ids, ids = row_ids([stored, delivered], columns)
    size = int(max(stored_ids.max(initial=-1), ids.max(initial=-1))) + 1
    held = np.bincount(stored_ids, minlength=size)
    added = np.flatnonzero(number_equal(ids) >= held[ids]) if len(ids) else np.zeros(0, np.int64)
    none = np.zeros(0, np.int64)
    return Changes(added, none, none, none, len(ids) - len(added), first_known[added], none)
