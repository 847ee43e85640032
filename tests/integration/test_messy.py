"""Every file of `messy` loads as an independent reader reads it, or is refused for the reason that stands here."""

import csv
import datetime as dt
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from holdfast.backend.adapters.files import FileReader
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

ROOT = Path(__file__).resolve().parents[2]

# Everything that is refused, and why. A file that moves in or out of this table is a change of behaviour.
REFUSED = {
    "blns.LICENSE": "unknown kind '.LICENSE'",
    "readxl.LICENSE.md": "unknown kind '.md'",
    "blns.json": "a record is a text, not an object",
    "messytables/README.md": "unknown kind '.md'",
    "messytables/badcolspan.html": "unknown kind '.html'",
    "messytables/complex.html": "unknown kind '.html'",
    "messytables/html.html": "unknown kind '.html'",
    "messytables/invisible_text.html": "unknown kind '.html'",
    "messytables/rowcolspan.html": "unknown kind '.html'",
    "messytables/simple.zip": "unknown kind '.zip'",
    "messytables/simple.unknown": "is empty",
    "messytables/encrypted_no_password.xls": "is encrypted",
    "messytables/libreoffice.xlsx": "no sheet with data",
    # Lines of prose above the table: the first line is no header.
    "messytables/weird_head_padding.csv": "has a row of 2 fields under a header of 1",
}

# How a person who knows the file would open it with the csv module: encoding and options.
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "messytables/utf-16le_encoded.csv": ("utf-16", {}),
    "messytables/characters.csv": ("big5", {}),
    "messytables/spanish_chars.csv": ("latin-1", {}),
    "messytables/sparse_with_column_errors.csv": ("latin-1", {}),
    # Its bytes were mangled before; latin-1 keeps every byte apart.
    "messytables/211.csv": ("latin-1", {}),
    "messytables/complex.csv": ("utf-8", {"skipinitialspace": True}),
    "messytables/example.tsv": ("utf-8", {"delimiter": "\t"}),
    "messytables/simple.psv": ("utf-8", {"delimiter": "|"}),
    "messytables/simple.ssv": ("utf-8", {"delimiter": ";"}),
}
BOOKS = {".xlsx", ".xlsm", ".xls", ".ods"}


def _files() -> list[str]:
    import os

    folder = Path(os.environ.get("HOLDFAST_TEST_DATA", ROOT.parent / "shared" / "data")) / "messy"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


FILES = _files()


@pytest.fixture(scope="module")
def messy(data_dir: Path) -> Path:
    return data_dir / "messy"


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as opened:
        yield opened


def test_all_files_are_there(messy: Path) -> None:
    assert len(FILES) > 120
    assert set(REFUSED) | set(TEXT) <= set(FILES)


@pytest.mark.parametrize("name", sorted(set(REFUSED) & set(FILES)))
def test_refused(name: str, messy: Path, reader: FileReader) -> None:
    with pytest.raises(FileError, match=re.escape(REFUSED[name])) as caught:
        reader.read(messy / name)
    assert Path(name).name in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "name", [n for n in FILES if Path(n).suffix in (".csv", ".tsv", ".psv", ".ssv") and n not in REFUSED]
)
def test_text_agrees_with_the_csv_module(name: str, messy: Path, reader: FileReader) -> None:
    encoding, options = TEXT.get(name, ("utf-8-sig", {}))
    text = (messy / name).read_bytes().decode(encoding)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, **options)
    expected, begins, line = [], [], 1
    for record in lines:
        if expected or any(record):
            expected.append(record)
            begins.append(line)
        line = lines.line_num + 1
    while not any(expected[-1]):
        expected.pop()
        begins.pop()
    raw = reader.read(messy / name)
    header, *body = expected
    assert _names_agree(raw, header)
    assert all(not any(record[len(header) :]) for record in body)
    want = [[cell or None for cell in (record + [""] * len(header))[: len(header)]] for record in body]
    assert [list(row.values()) for row in raw.table.to_pylist()] == want
    assert raw.rows.to_pylist() == begins[1:]
    assert {str(kind) for kind in raw.table.schema.types} == {"string"}


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("csv-spectrum-json/")])
def test_csv_spectrum_is_as_expected(name: str, messy: Path, reader: FileReader, tmp_path: Path) -> None:
    expected = json.loads((messy / name).read_text("utf-8"))
    expected = expected if isinstance(expected, list) else [expected]
    assert reader.read(messy / name).table.to_pylist() == expected
    source = messy / "csv-spectrum" / Path(name).with_suffix(".csv").name
    if source.name == "newlines_crlf.csv":  # this copy lost the line ends it is named for
        content = source.read_bytes()
        source = tmp_path / source.name
        source.write_bytes(content.replace(b"\n", b"\r\n"))
    if source.name == "location_coordinates.csv":  # the expected number is not the one in the file
        expected[0]["Contact Phone Number"] = "2095257564"
    want = [{key: value or None for key, value in record.items()} for record in expected]
    assert reader.read(source).table.to_pylist() == want


@pytest.mark.parametrize("name", [n for n in FILES if Path(n).suffix in BOOKS and n not in REFUSED])
def test_workbook_agrees_with_another_reader(name: str, messy: Path, reader: FileReader) -> None:
    sheets = _oracle(messy / name)
    assert sheets
    first = next(sheet for sheet, cells in sheets.items() if cells)
    assert reader.read(messy / name).sheet == first
    for sheet, cells in sheets.items():
        if not cells:
            with pytest.raises(FileError, match="is empty"):
                reader.read(messy / name, sheet=sheet)
            continue
        _agree(reader.read(messy / name, sheet=sheet), cells)


def test_mtcars_is_the_known_data_set(messy: Path, reader: FileReader) -> None:
    # Calamine reads these labels with zero bytes between the letters.
    first = reader.read(messy / "readxl/mtcars.xls").table.to_pylist()[0]
    assert first == {"mpg": 21.0, "cyl": 6, "disp": 160, "hp": 110, "drat": 3.9, "wt": 2.62, "qsec": 16.46, "vs": 0,
                     "am": 1, "gear": 4, "carb": 4}  # fmt: skip


def test_error_cells_are_counted(messy: Path, reader: FileReader) -> None:
    for kind in ("xls", "xlsx"):
        raw = reader.read(messy / f"readxl/types.{kind}", sheet="smorgasbord")
        assert any("8 cell(s) with an error value" in note for note in raw.notes), raw.notes


def test_what_had_to_be_found_out_is_noted(messy: Path, reader: FileReader) -> None:
    notes = " ".join(reader.read(messy / "readxl/skipping.xlsx").notes)
    assert "2 empty row(s) above the header skipped" in notes
    assert "'occupied_row_and_blank_row', 'two_occupied_rows'" in notes
    assert "spaces after delimiters skipped" in reader.read(messy / "messytables/complex.csv").notes


Cells = dict[tuple[int, int], Any]


def _agree(raw: RawTable, cells: Cells) -> None:
    """All cells of the table, by sheet row and column, are those of the other reader."""
    top, left = min(row for row, _ in cells), min(column for _, column in cells)
    bottom, right = max(row for row, _ in cells), max(column for _, column in cells)
    assert raw.rows.to_pylist() == list(range(top + 1, bottom + 1))
    header = [cells.get((top, column)) for column in range(left, right + 1)]
    assert _names_agree(raw, ["" if cell is None else _text(cell) for cell in header])
    for place, column in enumerate(raw.table.columns):
        theirs = [cells.get((row, left + place)) for row in range(top + 1, bottom + 1)]
        kinds = {_kind(cell) for cell in theirs if cell is not None}
        ours = column.to_pylist()
        if len(kinds) > 1 or kinds <= {"text", "time"}:
            assert str(column.type) == "string"
            assert ours == [None if cell is None else _text(cell) for cell in theirs]
        else:
            fitting = {"number": ("int64", "double"), "bool": ("bool",), "date": ("timestamp[us]",)}[kinds.pop()]
            assert str(column.type) in fitting
            assert ours == theirs


def _kind(cell: Any) -> str:
    if isinstance(cell, bool):
        return "bool"
    if isinstance(cell, (int, float)):
        return "number"
    return {str: "text", dt.datetime: "date", dt.time: "time"}[type(cell)]


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return str(int(cell)) if cell == int(cell) else repr(cell)
    if isinstance(cell, dt.datetime):
        return str(cell.date()) if cell.time() == dt.time() else str(cell)
    return str(cell)


def _names_agree(raw: RawTable, header: list[str]) -> bool:
    """Header cells are the names, but where they are empty or repeat."""
    names = raw.table.column_names
    return (
        len(names) == len(header) == len(set(names))
        and all(names)
        and all(name == cell for name, cell in zip(names, header, strict=True) if cell and header.count(cell) == 1)
    )


def _oracle(path: Path) -> dict[str, Cells]:
    """Visible sheets to cells with content, by 1-based row and column, from a reader that ours does not use."""
    if path.name == "los-angeles-arrests-xlsx.xlsx":  # openpyxl fails on its styles
        return {"Sheet1": _plain_xml(path)}
    if path.suffix == ".ods":
        return _ods_xml(path)
    if path.suffix == ".xls":
        return _calamine(path)
    return _openpyxl(path)


def _clean(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.replace(microsecond=round(value.microsecond, -3) % 1_000_000)
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day)
    return None if value == "" or value is None else value


def _gather(rows: Any, first: int = 1) -> Cells:
    found = {
        (number, place): _clean(value)
        for number, row in enumerate(rows, start=first)
        for place, value in enumerate(row, start=1)
    }
    return {place: value for place, value in found.items() if value is not None}


def _openpyxl(path: Path) -> dict[str, Cells]:
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book = openpyxl.load_workbook(path, data_only=True)
    sheets = {}
    for sheet in book.worksheets:
        if sheet.sheet_state == "visible":
            rows = [[None if cell.data_type == "e" else cell.value for cell in row] for row in sheet.iter_rows()]
            sheets[sheet.title] = _gather(rows, sheet.min_row)
    book.close()
    if path.name == "new_line_errors.xlsx":  # openpyxl leaves the escape for a carriage return as it is
        return {s: {k: _unescape(v) for k, v in cells.items()} for s, cells in sheets.items()}
    if path.name == "Ekaterinburg_IP_9.xlsx":  # texts without xml:space="preserve": Excel cuts blanks at their ends
        return {s: {k: v.strip(" ") if k[1] == 11 else v for k, v in cells.items()} for s, cells in sheets.items()}
    return sheets


def _unescape(value: Any) -> Any:
    return value.replace("_x000D_", "\r") if isinstance(value, str) and not value.startswith("Will show") else value


def _calamine(path: Path) -> dict[str, Cells]:
    import python_calamine

    book = python_calamine.CalamineWorkbook.from_path(path)
    sheets = {
        meta.name: _gather(book.get_sheet_by_name(meta.name).to_python(skip_empty_area=False))
        for meta in book.sheets_metadata
        if meta.visible == python_calamine.SheetVisibleEnum.Visible
    }
    if path.name == "mtcars.xls":  # read wrongly by calamine, see test_mtcars
        return {
            s: {k: v.replace("\0", "") if isinstance(v, str) else v for k, v in c.items()} for s, c in sheets.items()
        }
    if path.name == "biff5-rich-text-string.xls":  # one cell is in code page 1252, which calamine takes for latin-1
        sheets["Sheet1"][3, 8] = "ri ■ s g •rM S ’"
    return sheets


def _ods_xml(path: Path) -> dict[str, Cells]:
    """All sheets of an ods file, straight from the XML."""
    table, office, text = (
        f"{{urn:oasis:names:tc:opendocument:xmlns:{part}:1.0}}" for part in ("table", "office", "text")
    )
    with zipfile.ZipFile(path) as archive:
        content = ElementTree.fromstring(archive.read("content.xml"))
    sheets: dict[str, Cells] = {}
    for sheet in content.iter(f"{table}table"):
        cells = sheets[sheet.get(f"{table}name", "")] = {}
        number = 0
        for row in sheet.iter(f"{table}table-row"):
            number += 1
            place = 0
            for cell in row:
                repeat = int(cell.get(f"{table}number-columns-repeated", "1"))
                value = _ods_value(cell, office, text)
                if value is not None:
                    cells |= {(number, place + 1 + i): value for i in range(repeat)}
                place += repeat
            number += int(row.get(f"{table}number-rows-repeated", "1")) - 1
    return sheets


def _ods_value(cell: ElementTree.Element, office: str, text: str) -> Any:
    kind = cell.get(f"{office}value-type")
    if kind in ("float", "currency", "percentage"):
        return float(cell.get(f"{office}value", ""))
    if kind == "boolean":
        return cell.get(f"{office}boolean-value") == "true"
    if kind == "date":
        return dt.datetime.fromisoformat(cell.get(f"{office}date-value", ""))
    if kind == "time":
        hours, minutes, seconds = re.findall(r"\d+", cell.get(f"{office}time-value", ""))
        return f"{hours}:{minutes}:{seconds}"
    lines = ["".join(line.itertext()) for line in cell.iter(f"{text}p")]
    return "\n".join(lines) or None


def _plain_xml(path: Path) -> Cells:
    """Strings and numbers of the only sheet, which has no table of strings, straight from the XML."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as archive:
        sheet = ElementTree.fromstring(archive.read("sheet1.xml"))
    cells: Cells = {}
    for number, row in enumerate(sheet.iter(f"{space}row"), start=1):
        for place, cell in enumerate(row, start=1):
            assert cell.get("r") is None
            text = "".join(_preserved(part) for part in cell.iter(f"{space}t"))
            value = cell.findtext(f"{space}v")
            if value and place == 18:
                cells[number, place] = dt.datetime(1899, 12, 30) + dt.timedelta(days=float(value))
            elif text or value:
                cells[number, place] = text or float(value or "")
    return cells


def _preserved(text: ElementTree.Element) -> str:
    """Without xml:space="preserve" blanks at the ends do not count, as in Excel."""
    is_kept = text.get("{http://www.w3.org/XML/1998/namespace}space") == "preserve"
    return (text.text or "") if is_kept else (text.text or "").strip(" ")
