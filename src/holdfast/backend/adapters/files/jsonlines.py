"""JSON lines, or one JSON array of objects, to RawTable."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import pyarrow as pa

from holdfast.backend.adapters.files.cells import column
from holdfast.backend.adapters.files.encoding import decode
from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.names import unique_names
from holdfast.backend.adapters.files.sniff import Sniffed
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

__all__ = ["read_json"]

_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_NUMBER = 4000


class _ObjectError(ValueError):
    """What is wrong with one object, in words."""


def read_json(source: Sniffed, limits: Limits) -> RawTable:
    """Read an object a line, or an array of objects; columns in the order they first appear, a missing key is null.

    `rows` are the lines each object begins on. FileError, naming line and column, for what is no object, for nested
    values, repeated keys and Infinity. NaN, which is not JSON but common, is null and counted.
    """
    if source.data is None:
        raise AssertionError("text is always given as bytes")
    file = source.name
    decoded = decode(source.data, file)
    reader = _Reader()
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    for line, record in _objects(decoded.text, reader, file):
        for key, value in record.items():
            cells = columns.get(key)
            if cells is None:
                cells = columns[key] = []
            if isinstance(value, (dict, list)):
                _bad(file, line, f"the value of {key!r} is nested", key)
            cells.extend([None] * (len(lines) - len(cells)))
            cells.append(value)
        lines.append(line)
    if not columns:
        raise FileError(f"{file} has no records", where={"file": file}, hint="Deliver one JSON object a line")
    names, notes = unique_names(list(columns), file, limits.columns)
    notes = [*source.notes, *([decoded.note] if decoded.note else []), *notes]
    if reader.nans:
        notes.append(f"{reader.nans:,} NaN read as null")
    arrays = []
    for name, cells in zip(names, columns.values(), strict=True):
        cells.extend([None] * (len(lines) - len(cells)))
        array, note = _column(cells, name, file, lines)
        arrays.append(array)
        if note:
            notes.append(f"column {name!r} {note}")
    table = pa.Table.from_arrays(arrays, names=names)
    return RawTable(table, pa.array(lines, pa.int64()), "json", decoded.encoding, notes=tuple(notes))


class _Reader:
    """The JSON decoder, told to refuse what is ambiguous; counts NaN."""

    def __init__(self) -> None:
        self.nans = 0
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._pairs, parse_constant=self._constant, parse_int=self._integer
        )

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise _ObjectError(f"the key {repeated!r} is given twice")
        return record

    def _constant(self, name: str) -> None:
        if name != "NaN":
            raise _ObjectError(f"{name} is no JSON number")
        self.nans += 1

    def _integer(self, digits: str) -> int:
        if len(digits) > _LONGEST_NUMBER:
            raise _ObjectError(f"a number has {len(digits):,} digits")
        return int(digits)


def _objects(text: str, reader: _Reader, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with the line each begins on; commas and brackets of an array around them are checked."""
    begin = _SPACE.match(text)
    place = begin.end() if begin else 0
    is_array = text[place : place + 1] == "["
    place += is_array
    line, counted = 1, 0
    first = True
    while True:
        place = _skip(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if is_array and text[place : place + 1] == "]":
            rest = _skip(text, place + 1)
            if rest < len(text):
                _bad(file, line, "there is text after the array")
            return
        if place >= len(text):
            if is_array:
                _bad(file, line, "the array is not closed; the file was cut off")
            return
        if is_array and not first:
            if text[place] != ",":
                _bad(file, line, "a comma is missing between objects")
            place = _skip(text, place + 1)
            line, counted = line + text.count("\n", counted, place), place
        record, end = _decode(text, place, line, reader, file)
        yield line, record
        if not is_array and "\n" not in text[end : _skip(text, end)] and _skip(text, end) < len(text):
            _bad(file, line, "there is more than one value on the line")
        place, first = end, False


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _decode(text: str, place: int, line: int, reader: _Reader, file: str) -> tuple[dict[str, Any], int]:
    try:
        record, end = reader.decoder.raw_decode(text, place)
    except json.JSONDecodeError as error:
        _bad(file, line + text.count("\n", place, error.pos), f"it is not valid JSON: {error.msg}")
    except _ObjectError as error:
        _bad(file, line, str(error))
    except RecursionError:
        _bad(file, line, "values are nested too deep")
    if not isinstance(record, dict):
        _bad(file, line, f"a record is {_NAMES.get(type(record), type(record).__name__)}, not an object")
    return record, end


_NAMES = {
    list: "an array",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def _column(cells: list[Any], name: str, file: str, lines: list[int]) -> tuple[pa.Array, str]:
    try:
        return column(cells, integral=False)
    except UnicodeEncodeError:
        place = next(i for i, cell in enumerate(cells) if isinstance(cell, str) and not _is_unicode(cell))
        _bad(file, lines[place], f"the value of {name!r} is not valid Unicode (half of a surrogate pair)", name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(file: str, line: int, what: str, key: str | None = None) -> NoReturn:
    where: dict[str, object] = {"file": file, "line": line}
    if key is not None:
        where["column"] = key
    raise FileError(
        f"{file} is not a table: {what}", where=where, hint="Deliver one JSON object of plain values a line"
    )
