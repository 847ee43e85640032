"""Parts read piece by piece: of a large one only what is kept of it is ever in memory, and a few columns of row groups.

A whole table that is read, cast and then filtered is in memory several times over, and touching new memory costs more
than decoding Parquet does.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.datasets.tables import Part
from holdfast.errors import ConflictError

__all__ = ["AT_ONCE", "PERIOD_END", "Piece", "each", "gathered", "nothing", "row_groups", "widened"]

PERIOD_END = "__period_end"
"""In compacted parts only: the end of the period that delivered each state (int64)."""

AT_ONCE = 1 << 20
"""Parts of more rows are read piece by piece: Arrow writes row groups of so many."""

T = TypeVar("T")
R = TypeVar("R")
_BLOCK_BYTES = 1 << 21
_TEXT_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring states of a part: `held` in memory, or a row group of the file at `path`."""

    part: Part
    rows: int
    held: pa.Table | None = None
    path: Path | None = None
    metadata: pq.FileMetaData | None = None
    group: int = 0

    def column(self, table: str, field: pa.Field, keep: pa.BooleanArray | None = None) -> pa.ChunkedArray:
        """One column as the present schema of `table` has it, null where the part lacks it; only rows of `keep`."""
        found = self._stored(field)
        if found is None and field.name == PERIOD_END:
            ends = np.full(self.rows if keep is None else keep.true_count, self.part.period_end, np.int64)
            return pa.chunked_array([pa.array(ends)])
        if found is None:
            return nothing(self.rows if keep is None else keep.true_count, field.type)
        if pa.types.is_dictionary(found.type):
            return _decoded(found if keep is None else found.filter(keep), field.type)
        found = widened(table, field, found)
        return found if keep is None else found.filter(keep)

    def _stored(self, field: pa.Field) -> pa.ChunkedArray | None:
        if self.held is not None:
            return self.held[field.name] if field.name in self.held.column_names else None
        assert self.metadata is not None
        place = self.metadata.schema.names.index(field.name) if field.name in self.metadata.schema.names else None
        if place is None:
            return None
        about = self.metadata.row_group(self.group).column(place)
        # Text that repeats is filtered as numbers and made text afterwards. A dictionary that became too large for the
        # page was given up for plain text, which takes four bytes and more for each value.
        coded = (
            pa.types.is_string(field.type)
            and about.has_dictionary_page
            and about.total_uncompressed_size < 4 * about.num_values
        )
        coded_names = [field.name] if coded else None
        with pq.ParquetFile(self.path, metadata=self.metadata, memory_map=True, read_dictionary=coded_names) as file:
            return file.read_row_group(self.group, columns=[field.name], use_threads=False)[field.name]


def row_groups(part: Part, path: Path) -> list[Piece]:
    """The pieces of a part in a file."""
    metadata = pq.read_metadata(path, memory_map=True)
    return [
        Piece(part, metadata.row_group(group).num_rows, None, path, metadata, group)
        for group in range(metadata.num_row_groups)
    ]


def each(pieces: Sequence[Piece], work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of all items, in their order: by several threads if any of `pieces` must be read."""
    if all(piece.held is not None for piece in pieces):
        return [work(item) for item in items]
    with ThreadPoolExecutor(pa.cpu_count(), thread_name_prefix="parts") as pool:
        return list(pool.map(work, items))


def gathered(
    table: str, schema: pa.Schema, pieces: Sequence[Piece], keeps: Sequence[npt.NDArray[np.bool_] | None]
) -> pa.Table:
    """The columns of `schema` of all pieces, one after the other; of each piece the rows in its mask (None: all)."""
    masks = [None if keep is None or keep.all() else pa.array(keep) for keep in keeps]
    wanted = [(piece, mask) for piece, mask in zip(pieces, masks, strict=True) if mask is None or mask.true_count]
    jobs = [(field, piece, mask) for piece, mask in wanted for field in schema]
    found = each(pieces, lambda job: job[1].column(table, job[0], job[2]), jobs)
    columns = [
        pa.chunked_array([chunk for one in found[place :: len(schema)] for chunk in one.chunks], field.type)
        for place, field in enumerate(schema)
    ]
    return pa.table(columns, schema=schema)


def nothing(rows: int, kind: pa.DataType) -> pa.ChunkedArray:
    """Nulls that take the memory of few."""
    block = pa.nulls(min(rows, AT_ONCE), kind)
    return pa.chunked_array([block.slice(0, min(AT_ONCE, rows - start)) for start in range(0, rows, AT_ONCE)], kind)


def widened(table: str, field: pa.Field, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Stored values in the present type of their column; ConflictError when they do not fit."""
    try:
        return values.cast(field.type)
    except pa.ArrowInvalid as error:
        raise ConflictError(
            f"stored values of this column cannot become {field.type}: {error}",
            where={"table": table, "column": field.name},
            hint="Change its type in the project file back.",
        ) from error


def _decoded(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Text by its codes. No chunk holds the 2 GiB that none may; of a text that is everywhere a block is there once."""
    chunks: list[pa.Array] = []
    for chunk in values.chunks:
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 1
        if len(chunk.dictionary) == 1 and not chunk.null_count:
            step = min(max(_BLOCK_BYTES // longest, 1), len(chunk))
            block = pa.repeat(chunk.dictionary[0], step).cast(kind)
            chunks += [block.slice(0, min(step, len(chunk) - start)) for start in range(0, len(chunk), step or 1)]
            continue
        step = _TEXT_BYTES // longest
        chunks += [chunk.slice(start, step).cast(kind) for start in range(0, len(chunk), step)]
    return pa.chunked_array(chunks, kind)
