"""A cheap look into a workbook's zip container before a reader opens it: sizes, entities, and how far its cells reach.

A sheet of 5 kB with one cell in XFD1048576 makes a reader allocate the whole range; this finds such cells by streaming.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from xml.etree import ElementTree

from holdfast.backend.adapters.files.limits import Limits
from holdfast.errors import FileError, LimitError

__all__ = ["SheetLook", "look"]

_ENTRIES = 20_000
_RATIO_FREE = 64 << 20
_CHUNK = 4 << 20
_AS_CSV = "If that is meant, deliver the table as csv or parquet"
# A cell with content: `<c r="B7" ...>`; one that only carries a style closes itself and is no content.
_CELL = re.compile(rb"""<(?:\w+:)?c\s(?:[^>]*?\s)?r=["']([A-Z]{1,3})([0-9]{1,7})["'][^>]*?(/?)>""")
# The same as nearly every program writes it, without empty cells and name prefixes: four times as fast.
_PLAIN_CELL = re.compile(rb"""<c r="([A-Z]{1,3})([0-9]{1,7})"[^>]*(?<!/)>""")
_PREFIXED_CELL = re.compile(rb":c[\s>]")
_ERROR = re.compile(rb"""<(?:\w+:)?c\s[^>]*\bt=["']e["']""")
_ODS_ERROR = re.compile(rb"""value-type=["']error["']""")
# Records of xlsb: a sheet in the book, cells that hold an error (as a value, as the result of a formula).
_BUNDLE_SHEET = 156
_ERROR_RECORDS = (3, 11)
_HEAD = 1 << 16
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_RELATION_STRICT = "{http://purl.oclc.org/ooxml/officeDocument/relationships}id"


@dataclass(frozen=True, slots=True)
class SheetLook:
    """What streaming through one sheet found.

    Cells with content, those of them that hold an error value, the cells of the range they span, and its far corner.
    """

    cells: int = 0
    errors: int = 0
    area: int = 0
    corner: str = ""

    def check(self, file: str, sheet: str, limits: Limits) -> None:
        """LimitError, naming the far corner, if the sheet is too large to read."""
        where = {"file": file, "sheet": sheet, "cell": self.corner}
        if self.cells > limits.cells:
            raise LimitError(f"{file} has more than {limits.cells:,} cells in one sheet", where=where, hint=_AS_CSV)
        if self.area > limits.cells:
            raise LimitError(
                f"{file} spans {self.area:,} cells, up to {self.corner}, for {self.cells:,} values; "
                f"at most {limits.cells:,} are read",
                where=where,
                hint="Delete the cells that lie far outside the table, or deliver it as csv or parquet",
            )


def look(path: str, kind: str, file: str, limits: Limits) -> dict[str, SheetLook]:
    """Look through the zip container of an xlsx, xlsb or ods workbook; sheets by name (ods: one for all).

    LimitError when it would unpack too large (`SheetLook.check` tells of single sheets);
    FileError when it is damaged or has document type or entity declarations, which no spreadsheet program writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, file, limits)
            _check_entities(archive, file)
            if kind == "ods":
                return {"": _look_ods(archive)}
            if kind == "xlsb":
                return {name: _look_records(archive, part, limits) for name, part in _record_parts(archive).items()}
            return {name: _look_sheet(archive, part, limits) for name, part in _sheet_parts(archive).items()}
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError, ElementTree.ParseError, NotImplementedError) as error:
        raise FileError(
            f"{file} is damaged: {error}",
            where={"file": file},
            hint="It was probably cut off or changed on its way; deliver it again",
        ) from error


def _check_sizes(archive: zipfile.ZipFile, file: str, limits: Limits) -> None:
    entries = archive.infolist()
    if len(entries) > _ENTRIES:
        raise LimitError(
            f"{file} has {len(entries):,} parts, more than {_ENTRIES:,}", where={"file": file}, hint=_AS_CSV
        )
    total = sum(entry.file_size for entry in entries)
    if total > limits.unzipped_bytes:
        raise LimitError(
            f"{file} unpacks to {total:,} bytes, more than {limits.unzipped_bytes:,}",
            where={"file": file},
            hint=_AS_CSV,
        )
    packed = sum(entry.compress_size for entry in entries)
    if total > _RATIO_FREE and total > limits.zip_ratio * packed:
        raise LimitError(
            f"{file} unpacks to {total:,} bytes, {total // max(packed, 1):,} times its size, as zip bombs do",
            where={"file": file},
            hint=_AS_CSV,
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise FileError(f"{file} is encrypted", where={"file": file}, hint="Save it without a password")


def _check_entities(archive: zipfile.ZipFile, file: str) -> None:
    for entry in archive.infolist():
        if not entry.filename.lower().endswith((".xml", ".rels", ".vml")):
            continue
        with archive.open(entry) as part:
            head = part.read(_HEAD)
        if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
            raise FileError(
                f"{file} declares document types or entities, which are not read",
                where={"file": file, "part": entry.filename},
                hint="No spreadsheet program writes them; open it in one and save it again",
            )


def _sheet_parts(archive: zipfile.ZipFile) -> dict[str, str]:
    """Sheet names of an xlsx workbook to the parts that hold them."""
    names = {name.lower(): name for name in archive.namelist()}
    book = next((name for low, name in names.items() if low.endswith("workbook.xml")), "")
    folder = dirname(book)
    relations = names.get(join(folder, "_rels", "workbook.xml.rels").lower(), "")
    if not book or not relations:
        return {}
    targets = {
        element.get("Id"): normpath(join(folder, element.get("Target", ""))) if element.get("Target", "")[:1] != "/"
        else element.get("Target", "")[1:]
        for element in ElementTree.fromstring(archive.read(relations))  # noqa: S314 - declarations were refused above
    }  # fmt: skip
    parts: dict[str, str] = {}
    for element in ElementTree.fromstring(archive.read(book)).iter():  # noqa: S314
        if element.tag.endswith("}sheet"):
            target = targets.get(element.get(_RELATION) or element.get(_RELATION_STRICT)) or ""
            part = names.get(target.lower())
            if part:
                parts[element.get("name", "")] = part
    return parts


def _stream(archive: zipfile.ZipFile, part: str) -> Iterator[bytes]:
    """The part in pieces that end at the end of a tag."""
    rest = b""
    with archive.open(part) as source:
        while chunk := source.read(_CHUNK):
            chunk = rest + chunk
            cut = chunk.rfind(b">") + 1
            rest = chunk[cut:] if len(chunk) - cut < _CHUNK else b""
            yield chunk[:cut] if cut else chunk


def _look_sheet(archive: zipfile.ZipFile, part: str, limits: Limits) -> SheetLook:
    """Stream through a sheet, up to where it proves too large."""
    cells = errors = area = 0
    low_row = low_column = 1 << 30
    high_row = high_column = 0
    for chunk in _stream(archive, part):
        found = _cells(chunk)
        if not found:
            continue
        cells += len(found)
        if b'"e"' in chunk or b"'e'" in chunk:
            errors += len(_ERROR.findall(chunk))
        rows = [int(row) for row in {match[1] for match in found}]
        columns = [_column_number(letters) for letters in {match[0] for match in found}]
        low_row, high_row = min(low_row, *rows), max(high_row, *rows)
        low_column, high_column = min(low_column, *columns), max(high_column, *columns)
        area = (high_row - low_row + 1) * (high_column - low_column + 1)
        if max(cells, area) > limits.cells:
            break
    return SheetLook(cells, errors, area, f"{_column_letters(high_column)}{high_row}")


def _cells(chunk: bytes) -> list[tuple[bytes, ...]]:
    """Column letters and row digits of the cells with content."""
    plain: list[tuple[bytes, ...]] = _PLAIN_CELL.findall(chunk)
    if len(plain) == chunk.count(b"<c") and not _PREFIXED_CELL.search(chunk):
        return plain
    return [match for match in _CELL.findall(chunk) if not match[2]]


def _record_parts(archive: zipfile.ZipFile) -> dict[str, str]:
    """Sheet names of an xlsb workbook to the parts that hold them."""
    names = {name.lower(): name for name in archive.namelist()}
    relations = names.get("xl/_rels/workbook.bin.rels", "")
    if not relations:
        return {}
    targets = {
        element.get("Id"): normpath(join("xl", element.get("Target", ""))).lower()
        for element in ElementTree.fromstring(archive.read(relations))  # noqa: S314 - declarations were refused above
    }
    parts = {}
    for number, body in _records(archive.read(names["xl/workbook.bin"])):
        if number == _BUNDLE_SHEET:
            relation, rest = _wide_text(body[8:])
            name, _ = _wide_text(rest)
            part = names.get(targets.get(relation, ""))
            if part:
                parts[name] = part
    return parts


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Records of a part of an xlsb workbook ([MS-XLSB] 2.1.4): a number and its size, seven bits a byte, and a body."""
    place, end = 0, len(data)
    while place < end:
        number = data[place]
        place += 1
        if number & 0x80 and place < end:
            number = (number & 0x7F) | (data[place] & 0x7F) << 7
            place += 1
        size = shift = 0
        while place < end:
            byte = data[place]
            place += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80 or shift == 28:
                break
        yield number, data[place : place + size]
        place += size


def _wide_text(data: bytes) -> tuple[str, bytes]:
    size = 4 + 2 * int.from_bytes(data[:4], "little")
    return data[4:size].decode("utf-16-le", errors="replace"), data[size:]


def _look_records(archive: zipfile.ZipFile, part: str, limits: Limits) -> SheetLook:
    """The same as _look_sheet for a sheet of an xlsb workbook."""
    cells = errors = row = 0
    rows: set[int] = set()
    columns: set[int] = set()
    for number, body in _records(archive.read(part)):
        if number == 0:
            row = int.from_bytes(body[:4], "little") + 1
        elif 2 <= number <= 11:
            cells += 1
            errors += number in _ERROR_RECORDS
            rows.add(row)
            columns.add(int.from_bytes(body[:4], "little") + 1)
            if cells > limits.cells:
                break
    if not cells:
        return SheetLook()
    area = (max(rows) - min(rows) + 1) * (max(columns) - min(columns) + 1)
    return SheetLook(cells, errors, area, f"{_column_letters(max(columns))}{max(rows)}")


def _look_ods(archive: zipfile.ZipFile) -> SheetLook:
    if "content.xml" not in archive.namelist():
        return SheetLook()
    return SheetLook(errors=sum(len(_ODS_ERROR.findall(chunk)) for chunk in _stream(archive, "content.xml")))


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _column_letters(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters
