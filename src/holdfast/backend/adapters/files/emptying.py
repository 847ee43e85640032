"""Rows of a raw file made empty, everything else left: their places stay, so that the numbers of all other rows do.

A line of text becomes an empty line, a row of a sheet or of a Parquet file one without values.
"""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.records import RawTable

__all__ = ["empty_rows"]

_TEXT = ("csv", "tsv", "ssv", "psv")
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")
_JSON_LINE = re.compile(rb"[^\n]*(?:\n|$)")


def empty_rows(path: Path, raw: RawTable, rows: Sequence[int]) -> bytes | None:
    """The content of the file at `path`, which `raw` was read from, with `rows` (numbers as in `raw.rows`) empty.

    None for a kind of file that cannot be edited like this (old and binary workbooks, an array of JSON, packed files,
    text of two bytes a character). The caller reads the result again and compares.
    """
    if raw.format in _TEXT or raw.format == "json":
        return _text(path.read_bytes(), raw, set(rows))
    if raw.format == "parquet":
        return _parquet(path, raw, set(rows))
    if raw.format == "xlsx":
        return _sheet(path, raw.sheet, rows)
    return None


def _text(data: bytes, raw: RawTable, rows: set[int]) -> bytes | None:
    if raw.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")) or data[:2] == b"\x1f\x8b":
        return None
    if raw.format == "json" and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return None
    lines = [line for line in (_JSON_LINE if raw.format == "json" else _LINE).findall(data) if line]
    numbers = raw.rows.to_pylist()
    # A record goes on to the line before the next one: a quoted cell may hold line ends.
    ends = dict(zip(numbers, [*numbers[1:], len(lines) + 1], strict=True))
    for row in rows:
        for place in range(row - 1, ends[row] - 1):
            line = lines[place]
            lines[place] = line[len(line.rstrip(b"\r\n")) :]
    return b"".join(lines)


def _parquet(path: Path, raw: RawTable, rows: set[int]) -> bytes:
    table = pq.read_table(path)
    gone = pa.array(np.isin(raw.rows.to_numpy(zero_copy_only=False), list(rows)))
    columns = [pc.if_else(gone, pa.scalar(None, column.type), column) for column in table.columns]
    schema = pa.schema([field.with_nullable(True) for field in table.schema], metadata=table.schema.metadata)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _sheet(path: Path, sheet: str, rows: Sequence[int]) -> bytes:
    import openpyxl

    with warnings.catch_warnings():
        # What it leaves out (styles, pictures) it only warns of; the caller compares all values.
        warnings.simplefilter("ignore", UserWarning)
        book = openpyxl.load_workbook(path)
    for row in rows:
        for cell in book[sheet][row]:
            cell.value = None
            cell.comment = None
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()
