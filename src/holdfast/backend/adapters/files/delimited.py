"""Delimited text (RFC 4180 and its dialects) to RawTable.

Two paths that give the same: Arrow's parser where the text is proved to be unambiguous (every quote opens or closes a
field, every record has as many fields as the header), and Python's csv module, strict, for the rest. An empty cell is
null, quoted or not.
"""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.adapters.files.encoding import Decoded, decode
from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.names import unique_names
from holdfast.backend.adapters.files.sniff import Sniffed
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

__all__ = ["read_delimited"]

_SAMPLE = 256 << 10
_SAMPLE_RECORDS = 500
_DELIMITERS = (",", "\t", ";", "|")
_USUAL = {".tsv": "\t", ".psv": "|", ".ssv": ";"}
_FORMATS = {",": "csv", "\t": "tsv", ";": "ssv", "|": "psv"}
# The csv module refuses longer fields; its own default of 128 KiB is too small for texts.
_LONGEST_FIELD = 1 << 30
_BLOCK = 8 << 20
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class _Dialect:
    delimiter: str
    quote: str = '"'
    escape: str | None = None
    skip_space: bool = False

    def reader(self, lines: Any) -> Any:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            doublequote=self.escape is None,
            escapechar=self.escape,
            skipinitialspace=self.skip_space,
            strict=True,
        )

    @property
    def is_plain(self) -> bool:
        return self.quote == '"' and self.escape is None and not self.skip_space

    def describe(self) -> str:
        """What is unusual about it, for the notes."""
        parts = []
        if not self.quote:
            parts.append("quotes are ordinary characters")
        elif self.quote != '"':
            parts.append(f"quoted with {self.quote}")
        if self.escape:
            parts.append(f"quotes escaped with {self.escape}")
        if self.skip_space:
            parts.append("spaces after delimiters skipped")
        return ", ".join(parts)


def read_delimited(source: Sniffed, limits: Limits) -> RawTable:
    """Read delimited text; delimiter, quoting and encoding are found out.

    The header is the first line that is not empty. A record with fewer fields than the header is filled with nulls
    (counted in the notes). FileError, with the line, for one with more (unless those are empty), for a quote that is
    never closed, and for text that does not decode.
    """
    if source.data is None:
        raise AssertionError("text is always given as bytes")
    decoded = decode(source.data, source.name)
    if not decoded.text.strip("\r\n \t,;|"):
        raise FileError(f"{source.name} has no content", where={"file": source.name}, hint="Deliver it again")
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    dialect = _find_dialect(decoded.text, source)
    found = _FORMATS[dialect.delimiter]
    notes = list(source.notes)
    notes += [note for note in (decoded.note, dialect.describe()) if note]
    if found not in ("csv", source.extension.lstrip(".")):
        notes.append(f"delimiter {dialect.delimiter!r} found out")
    header, start, lines_before = _header(decoded.text, dialect, source.name)
    names, naming = unique_names(header, source.name, limits.columns)
    if lines_before:
        notes.append(f"{lines_before} empty line(s) above the header skipped")
    notes += naming
    result = _fast(decoded, dialect, names, start, lines_before) or _exact(decoded, dialect, names, source.name)
    table, rows, more = result
    return RawTable(table, rows, found, decoded.encoding, notes=(*notes, *more))


def _records(text: str, dialect: _Dialect) -> Iterator[tuple[int, list[str]]]:
    """Records with the 1-based physical line each begins on. csv.Error on broken quoting."""
    reader = dialect.reader(io.StringIO(text, newline=""))
    line = 1
    for record in reader:
        yield line, record
        line = reader.line_num + 1


def _find_dialect(text: str, source: Sniffed) -> _Dialect:
    """The dialect under which the beginning of the text is a table: first by delimiter, then by quoting."""
    sample, whole = text[:_SAMPLE], len(text) <= _SAMPLE
    usual = _USUAL.get(source.extension, ",")
    order = sorted(_DELIMITERS, key=lambda delimiter: delimiter != usual)
    quotings: list[dict[str, Any]] = [{}, {"skip_space": True}, {"escape": "\\"}, {"quote": "'"}, {"quote": ""}]
    best, best_score = _Dialect(usual), (0.0, 0)
    for quoting in quotings:
        if quoting and not _is_possible(sample, quoting):
            continue
        for delimiter in order:
            if delimiter not in sample:
                continue
            dialect = replace(_Dialect(delimiter), **quoting)
            score = _score(sample, whole, dialect)
            # Unusual quoting must explain everything; else the plain reading is the one to complain about.
            if score > best_score and (not quoting or score[0] == 1):
                best, best_score = dialect, score
        if best_score[0] == 1:
            break
    return best


def _is_possible(sample: str, quoting: dict[str, Any]) -> bool:
    if quoting.get("skip_space"):
        return re.search(r'[,;|\t] +"', sample) is not None
    if quoting.get("escape"):
        return '\\"' in sample
    if quoting.get("quote") == "'":
        return re.search(r"(?:^|[,;|\t\r\n])'", sample) is not None
    return '"' in sample


def _score(sample: str, whole: bool, dialect: _Dialect) -> tuple[float, int]:
    """(how much of the sample is a table, its width): 1 when all records are as wide as the header.

    The share of records that have the commonest width; less where the header has another; nothing for one column.
    """
    widths: list[int] = []
    try:
        for _, record in _records(sample, dialect):
            if any(record):
                widths.append(len(record))
            if len(widths) > _SAMPLE_RECORDS:
                break
    except csv.Error:
        # A sample that was cut may end inside quotes; anything else is the wrong quoting.
        if whole:
            return (0.0, 0)
    if not whole and len(widths) > 1:
        widths.pop()
    if not widths:
        return (0.0, 0)
    commonest, count = max(Counter(widths).items(), key=lambda item: (item[1], item[0]))
    if commonest == 1:
        return (0.0, 0)
    return (count / len(widths) * (1.0 if widths[0] == commonest else 0.6), commonest)


def _header(text: str, dialect: _Dialect, file: str) -> tuple[list[str], int, int]:
    """The header, the number of characters before it, and the number of (empty) lines before it."""
    line = 1
    sample = text[:_SAMPLE]
    if len(sample) < len(text):
        # A sample that was cut in the middle of its header, or of empty lines above it, does not say enough.
        with contextlib.suppress(csv.Error):
            records = ((line, record) for line, record in _records(sample, dialect) if any(record))
            line, record = next(records, (0, []))
            if next(records, None):
                return record, _line_start(text, line), line - 1
    try:
        for line, record in _records(text, dialect):
            if any(record):
                return record, _line_start(text, line), line - 1
    except csv.Error as error:
        raise _broken(file, line, error) from error
    raise FileError(f"{file} has no header", where={"file": file}, hint="Deliver it with a line of column names")


def _line_start(text: str, line: int) -> int:
    start = 0
    for _ in range(line - 1):
        match = _LINE_END.search(text, start)
        start = match.end() if match else len(text)
    return start


def _broken(file: str, line: int, error: Exception) -> FileError:
    return FileError(
        f"{file} has broken quoting: {error}",
        where={"file": file, "line": line},
        hint='Close every quote, and write a quote inside a quoted field as ""',
    )


def _exact(decoded: Decoded, dialect: _Dialect, names: list[str], file: str) -> tuple[pa.Table, pa.Array, list[str]]:
    """Every record by the csv module."""
    width = len(names)
    rows: list[int] = []
    records: list[list[str]] = []
    short = surplus = blank = 0
    line = 1
    header_seen = False
    try:
        for line, fields in _records(decoded.text, dialect):
            if not header_seen:
                header_seen = any(fields)
                continue
            record, count = fields, len(fields)
            if count != width:
                if any(record[width:]):
                    raise _too_many(file, line, count, width)
                surplus += count > width
                short += 0 < count < width
                blank += not count
                record = (record + [""] * (width - count))[:width]
            records.append(record)
            rows.append(line)
    except csv.Error as error:
        raise _broken(file, line, error) from error
    while records and not any(records[-1]):
        records.pop()
        rows.pop()
    columns = list(zip(*records, strict=True)) if records else [()] * width
    arrays = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
    notes = []
    if blank:
        notes.append(f"{blank:,} empty line(s) below the header; inside the table they are rows of nulls")
    if short:
        notes.append(f"{short:,} row(s) have fewer fields than the header; the missing ones are null")
    if surplus:
        notes.append(f"{surplus:,} row(s) have empty fields beyond the header; those are left out")
    return pa.Table.from_arrays(arrays, names=names), pa.array(rows, pa.int64()), notes


def _too_many(file: str, line: int, count: int, width: int) -> FileError:
    return FileError(
        f"{file} has a row of {count} fields under a header of {width}",
        where={"file": file, "line": line},
        hint="Quote values that contain the delimiter; give every column a name; remove lines above the header",
    )


def _fast(
    decoded: Decoded, dialect: _Dialect, names: list[str], start: int, lines_before: int
) -> tuple[pa.Table, pa.Array, list[str]] | None:
    """Arrow's parser, or None where it might read the text differently from RFC 4180."""
    from pyarrow import csv as arrow_csv

    # Only delimiters and line ends come before the header, so characters and bytes agree up to there.
    data = decoded.utf8[start:].rstrip(b"\r\n")
    quotes = b'"' in data
    if not dialect.is_plain or len(names) == 1 or (quotes and not _is_strict(data, dialect.delimiter)):
        return None
    places = [str(place) for place in range(len(names))]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(column_names=places, block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(
                delimiter=dialect.delimiter, newlines_in_values=quotes, ignore_empty_lines=False
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    ends = _line_ends(data)
    breaks = _breaks_inside(table) if ends >= table.num_rows else np.zeros(table.num_rows, np.int64)
    if int(breaks.sum()) + table.num_rows != ends + 1:
        return None
    lines = lines_before + 1 + np.concatenate([[0], np.cumsum(breaks + 1)])[:-1]
    table = table.slice(1).rename_columns(names)
    keep = table.num_rows - _empty_at_end(table)
    return table.slice(0, keep), pa.array(lines[1 : keep + 1], pa.int64()), []


def _is_strict(data: bytes, delimiter: str) -> bool:
    """Whether every quote opens or closes a field or is doubled inside one: then there is one way to read it.

    Quotes are taken in turn as entering and leaving. Entering must follow a delimiter, a line end, or directly the
    quote that left (a doubled quote); leaving must be followed by a delimiter, a line end, or directly the next quote.
    """
    content = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(content == ord('"'))
    if len(places) % 2:
        return False
    border = np.zeros(256, bool)
    border[[ord(delimiter), ord("\r"), ord("\n")]] = True
    enter, leave = places[::2], places[1::2]
    before = border[content[np.maximum(enter - 1, 0)]]
    before[enter == 0] = True
    after = border[content[np.minimum(leave + 1, len(content) - 1)]]
    after[leave == len(content) - 1] = True
    doubled = leave[:-1] + 1 == enter[1:]
    before[1:] |= doubled
    after[:-1] |= doubled
    return bool(before.all() and after.all())


def _line_ends(data: bytes) -> int:
    if b"\r" not in data:
        return data.count(b"\n")
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _breaks_inside(table: pa.Table) -> npt.NDArray[np.int64]:
    """Line ends inside the cells of each row."""
    breaks = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        for pattern, sign in (("\n", 1), ("\r", 1), ("\r\n", -1)):
            counts = pc.fill_null(pc.count_substring(column, pattern), 0)
            breaks += sign * counts.to_numpy().astype(np.int64)
    return breaks


def _empty_at_end(table: pa.Table) -> int:
    """How many rows at the end are wholly null."""
    empty = 0
    while empty < table.num_rows:
        row = table.num_rows - 1 - empty
        if any(column[row].is_valid for column in table.columns):
            break
        empty += 1
    return empty
