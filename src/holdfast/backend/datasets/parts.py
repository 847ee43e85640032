"""Parts: immutable Parquet blobs of states, and how states are read back."""

import io
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.datasets.tables import Part
from holdfast.backend.ports import Blobs
from holdfast.backend.store.files import sha256_of_file
from holdfast.core.prepare import current_states, row_ids, superseded_at
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS, Table
from holdfast.core.timeline import NEVER
from holdfast.errors import ConflictError, IntegrityError

__all__ = ["REMOVED", "PartStore", "Stored", "identity_columns", "ranges_of"]

REMOVED = "__removed"
"""Marks a state in which the row is gone; kept in parts only."""

_CACHE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """Last states of rows, as arrays beside the user columns in `rows`. `files` are the paths they were read from."""

    rows: pa.Table
    files: pa.ChunkedArray
    known_from: npt.NDArray[np.int64]
    period_end: npt.NDArray[np.int64]
    removed: npt.NDArray[np.bool_]


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


class PartStore:
    """Writes and reads parts over `Blobs`; keeps recently read ones, and checks each part's hash once."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._cache: OrderedDict[str, pa.Table] = OrderedDict()
        self._cached_bytes = 0
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def write(self, table: Table, states: pa.Table, *, supersedes: bool, period_end: int) -> Part:
        """Store states (user columns, KNOWN_FROM, SOURCE_FILE, SOURCE_ROW, REMOVED) as a part."""
        digest, size = self.write_plain(states)
        ranges = ranges_of(states, identity_columns(table))
        return Part(table.name, digest, states.num_rows, size, supersedes, period_end, ranges)

    def write_plain(self, rows: pa.Table) -> tuple[str, int]:
        """Store any rows as Parquet; returns address and bytes."""
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd", store_schema=True)
        data = sink.getvalue()
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
        path = self._blobs.path(digest)
        if digest not in self._checked:
            found = sha256_of_file(path)
            if found != digest:
                raise IntegrityError(
                    "a stored part is not what was written", where={"blob": digest, "found": found},
                    hint="Restore it from a backup, or ingest the raw files into a new project.",
                )  # fmt: skip
            self._checked.add(digest)
        rows = pq.read_table(path, memory_map=True)
        self._remember(digest, rows)
        return rows

    def forget(self, digests: Collection[str]) -> None:
        """Forget parts that were deleted."""
        with self._lock:
            for digest in digests:
                self._checked.discard(digest)
                if digest in self._cache:
                    self._cached_bytes -= self._cache.pop(digest).nbytes

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

    def states(self, table: Table, parts: Sequence[Part]) -> pa.Table:
        """Every state of the rows of `table` with the system columns, in order of delivery."""
        states = self._all(table, parts)
        never = pa.nulls(states.num_rows, SYSTEM_FIELDS[KNOWN_TO])
        removed = states[REMOVED].combine_chunks()
        if any(part.supersedes for part in parts):
            ids = row_ids([states], table.key)[0]
            known = states[KNOWN_FROM].cast(pa.int64()).to_numpy()
            until = superseded_at(ids, known, NEVER)
            never = pa.array(until, pa.int64(), mask=until == NEVER).cast(SYSTEM_FIELDS[KNOWN_TO])
        states = states.drop_columns([REMOVED])
        states = states.add_column(states.column_names.index(KNOWN_FROM) + 1, KNOWN_TO, never)
        return states.filter(pc.invert(removed))

    def last(self, table: Table, parts: Sequence[Part], like: Mapping[str, list[Any]] | None = None) -> Stored:
        """Last states (removals too) of the rows that may fall into the ranges of `like`; of all rows when None."""
        chosen = [part for part in parts if like is None or _overlaps(part.ranges, like)]
        states = self._all(table, chosen)
        ends = np.repeat(np.array([p.period_end for p in chosen], np.int64), [p.rows for p in chosen])
        if table.key and any(part.supersedes for part in chosen):
            mask = current_states(row_ids([states], table.key)[0])
            states, ends = states.filter(pa.array(mask)), ends[mask]
        return Stored(
            states.select(table.names),
            states[SOURCE_FILE],
            states[KNOWN_FROM].cast(pa.int64()).to_numpy(),
            ends,
            states[REMOVED].to_numpy(),
        )

    def _all(self, table: Table, parts: Sequence[Part]) -> pa.Table:
        """States of the parts in the table's present schema: columns that a part lacks are null."""
        fields = [pa.field(column.name, column.dtype.arrow) for column in table.columns]
        fields += [pa.field(name, SYSTEM_FIELDS[name]) for name in (KNOWN_FROM, SOURCE_FILE, SOURCE_ROW)]
        schema = pa.schema([*fields, pa.field(REMOVED, pa.bool_())])
        pieces = []
        for part in parts:
            rows = self.read_plain(part.digest)
            columns = [
                _widened(table.name, rows, field)
                if field.name in rows.column_names
                else pa.nulls(len(rows), field.type)
                for field in schema
            ]
            pieces.append(pa.table(columns, schema=schema))
        return pa.concat_tables([schema.empty_table(), *pieces])


def _widened(table: str, rows: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    try:
        return rows[field.name].cast(field.type)
    except pa.ArrowInvalid as error:
        raise ConflictError(
            f"stored values of this column cannot become {field.type}: {error}",
            where={"table": table, "column": field.name},
            hint="Change its type in the project file back.",
        ) from error


def _overlaps(ranges: Mapping[str, list[Any]], like: Mapping[str, list[Any]]) -> bool:
    """Whether rows of both may be the same; only columns whose range both know can deny it."""
    return all(
        type(low) is not type(like[name][0]) or (low <= like[name][1] and like[name][0] <= high)
        for name, (low, high) in ranges.items()
        if name in like
    )
