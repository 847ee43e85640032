"""Workbooks to RawTable; runs in the child process only (see sandbox.py).

xlsx, xlsm, xlsb and ods by calamine, xls by xlrd: calamine reads some xls texts (unpacked labels, symbol code pages)
wrongly. Both give typed cells, so text stays text and numbers stay numbers.
"""

import datetime as dt
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from holdfast.backend.adapters.files.cells import column, to_text
from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.names import unique_names
from holdfast.backend.adapters.files.prelook import SheetLook, look
from holdfast.backend.records import RawTable
from holdfast.errors import FileError, LimitError

__all__ = ["read_workbook"]

_ODS_ERRORS = frozenset({"#N/A", "#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!"})


_ISO_DURATION = re.compile(r"PT(\d+)H(\d+)M(\d+(?:\.\d+)?)S")


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Cells of the used range by row; `first` is the 1-based sheet row of the first. An error cell is null."""

    first: int
    rows: Sequence[Sequence[Any]]
    errors: int


@dataclass(frozen=True, slots=True)
class _Book:
    """Names of the visible worksheets, of all others, and how to load one."""

    visible: list[str]
    others: list[str]
    load: Callable[[str], _Sheet]
    has_data: Callable[[str], bool]


def read_workbook(path: str, kind: str, file: str, sheet: str | None, limits: Limits) -> RawTable:
    """Read one sheet of `path`, whose extension must be `kind`.

    The named one, or the first visible one with data (further ones are named in the notes). The header is the first
    row that is not empty; wholly empty rows at the end are left out. Error cells (#N/A ...) are null and counted.
    FileError or LimitError if it cannot be read.
    """
    looks = look(path, kind, file, limits) if kind != "xls" else {}
    book = _open_xls(path, file, limits) if kind == "xls" else _open_calamine(path, kind, file, looks, limits)
    names = [*book.visible, *book.others]
    if sheet is not None and sheet not in names:
        raise FileError(
            f"{file} has no sheet {sheet!r}",
            where={"file": file, "sheet": sheet},
            hint=f"Its sheets are: {', '.join(names)}",
        )
    notes: list[str] = []
    if sheet is not None:
        chosen, content = sheet, book.load(sheet)
    else:
        chosen, content, more = _first_with_data(book, file)
        if more:
            notes.append(f"sheet {chosen!r} was read; there is also data on {', '.join(map(repr, more))}")
    if not content.rows:
        raise FileError(
            f"sheet {chosen!r} of {file} is empty",
            where={"file": file, "sheet": chosen},
            hint="Name the sheet that holds the table",
        )
    table, rows, found = _to_table(content, file, chosen, limits)
    return RawTable(table, rows, kind, sheet=chosen, notes=(*notes, *found))


def _first_with_data(book: _Book, file: str) -> tuple[str, _Sheet, list[str]]:
    for place, name in enumerate(book.visible):
        content = book.load(name)
        if content.rows:
            return name, content, [other for other in book.visible[place + 1 :] if book.has_data(other)]
    raise FileError(
        f"{file} has no sheet with data", where={"file": file}, hint="Put the table on a sheet that is not hidden"
    )


def _to_table(content: _Sheet, file: str, sheet: str, limits: Limits) -> tuple[pa.Table, pa.Array, list[str]]:
    rows = content.rows
    names, notes = unique_names([to_text(cell) or "" for cell in rows[0]], file, limits.columns)
    if content.first > 1:
        notes.insert(0, f"{content.first - 1} empty row(s) above the header skipped")
    body = rows[1:]
    if content.errors:
        notes.append(f"{content.errors:,} cell(s) with an error value (such as #N/A) are null")
    columns = list(zip(*body, strict=True)) if body else [()] * len(names)
    arrays = []
    for name, cells in zip(names, columns, strict=True):
        try:
            array, note = column(cells, integral=True)
        except UnicodeEncodeError as error:
            raise FileError(
                f"{file} has text that is not valid Unicode in column {name!r}",
                where={"file": file, "sheet": sheet, "column": name},
                hint="Repair it in a spreadsheet program and save it again",
            ) from error
        arrays.append(array)
        if note:
            notes.append(f"column {name!r} {note}")
    numbers = pa.array(range(content.first + 1, content.first + 1 + len(body)), pa.int64())
    return pa.Table.from_arrays(arrays, names=names), numbers, notes


def _trim(rows: list[list[Any]], first: int, errors: int) -> _Sheet:
    """Cut wholly empty rows and columns at the ends."""
    start, end = 0, len(rows)
    while end and all(cell is None for cell in rows[end - 1]):
        end -= 1
    while start < end and all(cell is None for cell in rows[start]):
        start += 1
    rows = rows[start:end]
    width = len(rows[0]) if rows else 0
    left, right = 0, width
    while left < right and all(row[left] is None for row in rows):
        left += 1
    while left < right and all(row[right - 1] is None for row in rows):
        right -= 1
    if (left, right) != (0, width):
        rows = [row[left:right] for row in rows]
    return _Sheet(first + start, rows, errors)


def _open_calamine(path: str, kind: str, file: str, looks: dict[str, SheetLook], limits: Limits) -> _Book:
    import python_calamine as calamine

    try:
        book = calamine.CalamineWorkbook.from_path(path)
    except calamine.PasswordError as error:
        raise FileError(
            f"{file} is encrypted", where={"file": file}, hint="Save it without a password and deliver it again"
        ) from error
    except calamine.CalamineError as error:
        raise _damaged(file, error) from error
    sheets = [meta for meta in book.sheets_metadata if meta.typ == calamine.SheetTypeEnum.WorkSheet]
    shown = [meta.name for meta in sheets if meta.visible == calamine.SheetVisibleEnum.Visible]

    def load(name: str) -> _Sheet:
        if name in looks:
            looks[name].check(file, name, limits)
        try:
            sheet = book.get_sheet_by_name(name)
            if sheet.start is None:
                return _Sheet(1, [], 0)
            _check_cells(file, name, sheet.height * sheet.width, limits)
            rows = sheet.to_python(skip_empty_area=True)
        except calamine.CalamineError as error:
            raise _damaged(file, error) from error
        errors = looks.get(name, SheetLook()).errors
        blank: frozenset[str] = frozenset({""})
        if kind == "ods" and looks[""].errors:
            errors = sum(cell in _ODS_ERRORS or str(cell).startswith("Err:") for row in rows for cell in row)
            blank = _ODS_ERRORS | {""}
        cells = [[None if cell.__class__ is str and cell in blank else cell for cell in row] for row in rows]
        if kind == "ods":
            cells = [[_duration(cell) if cell.__class__ is str else cell for cell in row] for row in cells]
        return _trim(cells, sheet.start[0] + 1, errors)

    def has_data(name: str) -> bool:
        # The look misses cells that do not say where they are.
        return (name in looks and looks[name].cells > 0) or book.get_sheet_by_name(name).start is not None

    return _Book(shown, [meta.name for meta in sheets if meta.name not in shown], load, has_data)


def _duration(cell: str) -> Any:
    """Calamine gives times of a day and more in ods as ISO text."""
    match = _ISO_DURATION.fullmatch(cell) if cell[:2] == "PT" else None
    if match is None:
        return cell
    hours, minutes, seconds = match.groups()
    return dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))


def _open_xls(path: str, file: str, limits: Limits) -> _Book:
    import xlrd

    try:
        book = xlrd.open_workbook(path, on_demand=True, logfile=io.StringIO())
    except xlrd.XLRDError as error:
        if "encrypted" in str(error).lower():
            raise FileError(
                f"{file} is encrypted", where={"file": file}, hint="Save it without a password and deliver it again"
            ) from error
        raise _damaged(file, error) from error

    def load(name: str) -> _Sheet:
        sheet = book.sheet_by_name(name)
        _check_cells(file, name, sheet.nrows * sheet.ncols, limits)
        rows, errors = [], 0
        for place in range(sheet.nrows):
            kinds, values = sheet.row_types(place), sheet.row_values(place)
            errors += sum(kind == xlrd.XL_CELL_ERROR for kind in kinds)
            rows.append(list(_xls_cells(kinds, values, book.datemode)))
        book.unload_sheet(name)
        return _trim([row + [None] * (sheet.ncols - len(row)) for row in rows], 1, errors)

    visible = [name for place, name in enumerate(book.sheet_names()) if book._sheet_visibility[place] == 0]
    others = [name for name in book.sheet_names() if name not in visible]
    return _Book(visible, others, load, lambda name: bool(load(name).rows))


def _xls_cells(kinds: Sequence[int], values: Sequence[Any], datemode: int) -> Iterator[Any]:
    for kind, value in zip(kinds, values, strict=True):
        if kind == 1:
            yield value or None
        elif kind == 2:
            yield float(value)
        elif kind == 3:
            yield _xls_moment(value, datemode)
        elif kind == 4:
            yield bool(value)
        else:
            yield None


def _xls_moment(serial: float, datemode: int) -> Any:
    """An Excel serial number of days as datetime, date or (below one day) time; a number where there is no such day.

    Excel believes in 1900-02-29, so serials below 60 count from a day later. Rounded to milliseconds, which is what
    Excel itself keeps.
    """
    if not 0 <= serial < 2_958_466:
        return float(serial)
    milliseconds = round(serial * 86_400_000)
    span = dt.timedelta(milliseconds=milliseconds)
    if milliseconds < 86_400_000:
        return (dt.datetime(1900, 1, 1) + span).time()  # noqa: DTZ001 - a time of day
    epoch = dt.datetime(1904, 1, 1) if datemode else dt.datetime(1899, 12, 31 if serial < 60 else 30)  # noqa: DTZ001
    return epoch + span


def _check_cells(file: str, sheet: str, cells: int, limits: Limits) -> None:
    if cells > limits.cells:
        raise LimitError(
            f"{file} uses a range of {cells:,} cells, more than {limits.cells:,}",
            where={"file": file, "sheet": sheet},
            hint="Delete the cells that lie far outside the table, or deliver it as csv or parquet",
        )


def _damaged(file: str, error: Exception) -> FileError | LimitError:
    if "limit exceeded" in str(error).lower():
        return LimitError(
            f"{file} spans too many cells: {error}",
            where={"file": file},
            hint="Delete the cells that lie far outside the table, or deliver it as csv or parquet",
        )
    return FileError(
        f"{file} cannot be read as a workbook: {str(error) or type(error).__name__}",
        where={"file": file},
        hint="It is damaged or cut off; open it in a spreadsheet program, save it again and deliver that",
    )
