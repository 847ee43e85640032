"""Parts: immutable Parquet blobs of states, and how states are read back."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.datasets.coding import parquet_bytes
from holdfast.backend.datasets.keyfiles import KeyFiles
from holdfast.backend.datasets.pieces import AT_ONCE, PERIOD_END, Piece, each, gathered, nothing, row_groups
from holdfast.backend.datasets.tables import Part
from holdfast.backend.ports import Blobs
from holdfast.backend.store.files import sha256_of_file
from holdfast.core.prepare import current_states, row_ids, superseded_at
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, Table
from holdfast.core.timeline import ALWAYS, NEVER
from holdfast.core.versions.keys import KeyIndex, Keys, keys_of
from holdfast.errors import IntegrityError

__all__ = ["PERIOD_END", "REMOVED", "PartStore", "Standing", "Stored", "identity_columns", "ranges_of"]

REMOVED = "__removed"
"""Marks a state in which the row is gone; kept in parts only."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_CACHE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """Last states of rows, as arrays beside the user columns in `rows`. `files` are the paths they were read from."""

    rows: pa.Table
    files: pa.ChunkedArray
    known_from: npt.NDArray[np.int64]
    period_end: npt.NDArray[np.int64]
    removed: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of n keys: whether each is the key of a current row (`alive`), and whether it ever was (`seen`); bool [n].

    `holders` are the parts with the last states of any of them, in order of delivery.
    """

    alive: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]
    holders: tuple[Part, ...]


def identity_columns(table: Table) -> tuple[str, ...]:
    """What tells rows of a table apart: its key, else all of its content."""
    return table.key or table.names


def ranges_of(rows: pa.Table, columns: Sequence[str]) -> dict[str, list[Any]]:
    """[min, max] of those `columns` of whole numbers, times and text that have no nulls, as plain data."""
    result: dict[str, list[Any]] = {}
    for name in columns:
        column = rows[name]
        if column.null_count or not rows.num_rows or pa.types.is_boolean(column.type):
            continue
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if pa.types.is_integer(column.type) or pa.types.is_string(column.type):
            result[name] = list(pc.min_max(column).as_py().values())
    return result


@dataclass(frozen=True, slots=True)
class _Ends:
    """Rows of a piece that may have several states: `places` int64 [n] in it, and `until` when each ends, or NEVER."""

    places: Ints
    until: Ints


class PartStore:
    """Writes and reads parts over `Blobs`; keeps recently read ones, and checks each part's hash once."""

    def __init__(self, blobs: Blobs, keys: KeyFiles) -> None:
        self._blobs = blobs
        self._keys = keys
        self._cache: OrderedDict[str, pa.Table] = OrderedDict()
        self._cached_bytes = 0
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def write(
        self, table: Table, states: pa.Table, *, supersedes: bool, period_end: int, coded: bytes | None = None
    ) -> Part:
        """Store states as a part: user columns, KNOWN_FROM, SOURCE_FILE, SOURCE_ROW, REMOVED, if need be PERIOD_END.

        `coded` are their `parquet_bytes`, where they were made before.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="parts") as pool:
            stored = pool.submit(self.write_plain, states, coded)
            # Meanwhile, since storing is compression and waiting for the disk:
            ranges = ranges_of(states, [*identity_columns(table), KNOWN_FROM])
            index = KeyIndex.of(keys_of(states, table.key), states[REMOVED].to_numpy()) if table.key else None
            digest, size = stored.result()
        if index is not None:
            self._keys.index(table, digest, lambda: index)
        return Part(table.name, digest, states.num_rows, size, supersedes, period_end, ranges)

    def write_plain(self, rows: pa.Table, coded: bytes | None = None) -> tuple[str, int]:
        """Store any rows as Parquet; returns address and bytes."""
        data = parquet_bytes(rows) if coded is None else coded
        digest = self._blobs.put(data)
        self._checked.add(digest)
        self._remember(digest, rows)
        return digest, len(data)

    def read_plain(self, digest: str) -> pa.Table:
        """The rows of a blob; IntegrityError when its bytes are not what was stored."""
        with self._lock:
            if digest in self._cache:
                self._cache.move_to_end(digest)
                return self._cache[digest]
        rows = pq.read_table(self._file(digest), memory_map=True)
        self._remember(digest, rows)
        return rows

    def _pieces(self, part: Part) -> list[Piece]:
        if part.rows > AT_ONCE:
            return row_groups(part, self._file(part.digest))
        return [Piece(part, part.rows, self.read_plain(part.digest))]

    def _file(self, digest: str) -> Path:
        """A blob's file, of which it is known that it is what was stored."""
        path = self._blobs.path(digest)
        if digest not in self._checked:
            found = sha256_of_file(path)
            if found != digest:
                raise IntegrityError(
                    "a stored part is not what was written", where={"blob": digest, "found": found},
                    hint="Restore it from a backup, or ingest the raw files into a new project.",
                )  # fmt: skip
            self._checked.add(digest)
        return path

    def _remember(self, digest: str, rows: pa.Table) -> None:
        size = rows.nbytes
        if size > _CACHE_BYTES // 4:
            return
        with self._lock:
            if digest in self._cache:
                return
            self._cache[digest] = rows
            self._cached_bytes += size
            while self._cached_bytes > _CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def states(self, table: Table, parts: Sequence[Part], *, current_only: bool = False) -> pa.Table:
        """Every state of the rows of `table`, or the current ones, with the system columns, in order of delivery."""
        pieces = [piece for part in parts for piece in self._pieces(part)]
        ends = _ends(table, pieces)

        def kept(place: int) -> Mask:
            keep = _present(table, pieces[place])
            end = ends[place]
            if current_only and end is not None:
                keep[end.places] &= end.until == NEVER
            return keep

        keeps = each(pieces, kept, range(len(pieces)))
        states = gathered(table.name, _read(table), pieces, keeps)
        if current_only:
            until = nothing(len(states), SYSTEM_FIELDS[KNOWN_TO])
        else:
            found = each(pieces, lambda place: _until(ends[place], keeps[place]), range(len(pieces)))
            until = pa.chunked_array([chunk for one in found for chunk in one.chunks], SYSTEM_FIELDS[KNOWN_TO])
        return states.add_column(len(table.names) + 1, _field(KNOWN_TO), until)

    def last(
        self,
        table: Table,
        parts: Sequence[Part],
        like: Mapping[str, list[Any]] | None = None,
        keys: pa.Table | None = None,
    ) -> Stored:
        """Last states (removals too) of the rows that may fall into the ranges of `like`; of all rows when None.

        With `keys` (rows of the key columns) of the rows with these keys only: other parts are not read.
        """
        if keys is not None:
            chosen: Sequence[Part] = self.standing(table, parts, keys).holders
        else:
            chosen = [part for part in parts if like is None or _overlaps(part.ranges, like)]
        pieces = [piece for part in chosen for piece in self._pieces(part)]
        keeps: list[Mask | None] = [None] * len(pieces)
        if keys is not None:
            wanted = keys_of(_typed_keys(table, keys), table.key)
            wanted = wanted.take(wanted.order())
            keeps = list(each(pieces, lambda piece: _among(_keys(table, piece), table, wanted), pieces))
        states = gathered(table.name, _stored(table), pieces, keeps)
        if table.key and any(part.supersedes for part in chosen):
            states = states.filter(pa.array(current_states(row_ids([states], table.key)[0])))
        return Stored(
            states.select(table.names),
            states[SOURCE_FILE],
            states[KNOWN_FROM].cast(pa.int64()).to_numpy(),
            states[PERIOD_END].to_numpy(),
            states[REMOVED].to_numpy(),
        )

    def standing(self, table: Table, parts: Sequence[Part], keys: pa.Table) -> Standing:
        """What the parts of a keyed table know of `keys` (rows of its key columns), by indexes alone."""
        keys = _typed_keys(table, keys)
        like, wanted = ranges_of(keys, table.key), keys_of(keys, table.key)
        alive, seen = np.zeros(len(wanted), bool), np.zeros(len(wanted), bool)
        # Sorted once: each index finds sorted keys soonest.
        open_ = wanted.order()
        wanted = wanted.take(open_)
        holders = []
        for part in reversed(parts):
            if not len(open_):
                break
            if not _overlaps(part.ranges, like):
                continue
            index = self._index(table, part)
            there, gone = index.alive.holds(wanted), index.gone.holds(wanted)
            found = there | gone
            if found.any():
                holders.append(part)
                alive[open_[there]] = True
                seen[open_[found]] = True
                open_, wanted = open_[~found], wanted.take(~found)
        return Standing(alive, seen, tuple(holders[::-1]))

    def newest_known(self, table: Table, parts: Sequence[Part], keys: pa.Table) -> npt.NDArray[np.int64]:
        """The KNOWN_FROM of the last state of each of `keys`, int64 [n]; ALWAYS where there is none."""
        stored = self.last(table, parts, keys=keys)
        theirs, mine = row_ids([stored.rows.select(table.key), _typed_keys(table, keys)], table.key)
        known = np.full(int(max(theirs.max(initial=-1), mine.max(initial=-1))) + 1, ALWAYS, np.int64)
        known[theirs] = stored.known_from
        return known[mine]

    def forget(self, digests: Collection[str]) -> None:
        """Forget parts that were deleted."""
        self._keys.forget(digests)
        with self._lock:
            for digest in digests:
                self._checked.discard(digest)
                if digest in self._cache:
                    self._cached_bytes -= self._cache.pop(digest).nbytes

    def _index(self, table: Table, part: Part) -> KeyIndex:
        def make() -> KeyIndex:
            pieces = self._pieces(part)
            keys = pa.concat_tables(each(pieces, lambda piece: _keys(table, piece), pieces))
            present = np.concatenate(each(pieces, lambda piece: _present(table, piece), pieces))
            return KeyIndex.of(keys_of(keys, table.key), ~present)

        return self._keys.index(table, part.digest, make)

    def raw_states(self, table: Table, parts: Sequence[Part]) -> pa.Table:
        """States as they are stored, in the table's present schema: columns that a part lacks are null.

        User columns, KNOWN_FROM, SOURCE_FILE, SOURCE_ROW, REMOVED, PERIOD_END.
        """
        pieces = [piece for part in parts for piece in self._pieces(part)]
        return gathered(table.name, _stored(table), pieces, [None] * len(pieces))


def _read(table: Table) -> pa.Schema:
    fields = [pa.field(name, table.column(name).dtype.arrow) for name in table.names]
    return pa.schema([*fields, *(_field(name) for name in (KNOWN_FROM, SOURCE_FILE, SOURCE_ROW))])


def _stored(table: Table) -> pa.Schema:
    return _read(table).append(pa.field(REMOVED, pa.bool_())).append(pa.field(PERIOD_END, pa.int64()))


def _ends(table: Table, pieces: Sequence[Piece]) -> list[_Ends | None]:
    """When states of each piece end: only rows are looked at that have a state in a superseding part, by their keys."""
    superseding = [piece for piece in pieces if piece.part.supersedes]
    if not superseding:
        return [None] * len(pieces)
    again = pa.concat_tables(each(pieces, lambda piece: _keys(table, piece), superseding))
    like = ranges_of(again, table.key)
    few = len(again) * 4 < sum(piece.rows for piece in pieces)
    wanted = keys_of(again, table.key) if few else None
    if wanted is not None:
        wanted = wanted.take(wanted.order())

    def marked(piece: Piece) -> tuple[Ints, pa.Table, Ints]:
        if not _overlaps(piece.part.ranges, like):
            return np.zeros(0, np.int64), again.slice(0, 0), np.zeros(0, np.int64)
        keys, places = _keys(table, piece), np.arange(piece.rows)
        if wanted is not None and not piece.part.supersedes:
            places = np.flatnonzero(_among(keys, table, wanted))
            keys = keys.take(pa.array(places))
        known = piece.column(table.name, _field(KNOWN_FROM)).cast(pa.int64()).to_numpy() if len(places) else places
        return places, keys, known[places]

    found = each(pieces, marked, pieces)
    ids = row_ids([keys for _, keys, _ in found], table.key)
    until = superseded_at(np.concatenate(ids), np.concatenate([known for _, _, known in found]), NEVER)
    bounds = np.cumsum([len(places) for places, _, _ in found])[:-1]
    return [
        _Ends(places, part) if len(places) else None
        for (places, _, _), part in zip(found, np.split(until, bounds), strict=True)
    ]


def _until(end: _Ends | None, keep: Mask) -> pa.ChunkedArray:
    """KNOWN_TO of the states of a piece that are kept."""
    kind = SYSTEM_FIELDS[KNOWN_TO]
    if end is None or (end.until == NEVER).all():
        return nothing(int(keep.sum()), kind)
    values = np.full(len(keep), NEVER, np.int64)
    values[end.places] = end.until
    values = values if keep.all() else values[keep]
    return pa.chunked_array([pa.array(values, pa.int64(), mask=values == NEVER).cast(kind)])


def _keys(table: Table, piece: Piece) -> pa.Table:
    fields = [pa.field(name, table.column(name).dtype.arrow) for name in table.key]
    return pa.table([piece.column(table.name, field) for field in fields], schema=pa.schema(fields))


def _present(table: Table, piece: Piece) -> Mask:
    """Of the states of a piece: which do not remove their row, bool [n]."""
    removed = piece.column(table.name, pa.field(REMOVED, pa.bool_()))
    mask: Mask = pc.invert(removed).to_numpy()
    return mask


def _field(name: str) -> pa.Field:
    return pa.field(name, SYSTEM_FIELDS[name])


def _typed_keys(table: Table, keys: pa.Table) -> pa.Table:
    return pa.table({name: keys[name].cast(table.column(name).dtype.arrow) for name in table.key})


def _among(rows: pa.Table, table: Table, wanted: Keys) -> Mask:
    """Which rows have one of the keys, which are sorted."""
    mine = keys_of(rows, table.key)
    first, found = mine.words[0], np.zeros(len(mine), bool)
    if not len(mine):
        return found
    # Rows mostly lie in the order of their keys: few of a large number are within the range of a piece.
    begin = np.searchsorted(wanted.words[0], first.min())
    end = np.searchsorted(wanted.words[0], first.max(), side="right")
    near = Keys(tuple(word[begin:end] for word in wanted.words))
    if (first[1:] > first[:-1]).all():
        place = np.searchsorted(first, near.words[0])
        found[place[first[place] == near.words[0]]] = True
    else:
        found = pc.is_in(pa.array(first), pa.array(near.words[0])).to_numpy(zero_copy_only=False)
    if len(mine.words) > 1:
        maybe = np.flatnonzero(found)
        found = np.zeros(len(mine), bool)
        found[maybe] = near.holds(mine.take(maybe))
    return found


def _overlaps(ranges: Mapping[str, list[Any]], like: Mapping[str, list[Any]]) -> bool:
    """Whether rows of both may be the same; only columns whose range both know can deny it."""
    return all(
        type(low) is not type(like[name][0]) or (low <= like[name][1] and like[name][0] <= high)
        for name, (low, high) in ranges.items()
        if name in like
    )
