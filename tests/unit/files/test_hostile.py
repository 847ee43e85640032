"""Hostile and broken files end within their limits, with an error; the reader lives on."""

import gzip
import io
import os
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.backend.adapters.files import FileReader, Limits, read_file
from holdfast.errors import FileError, HoldfastError, LimitError

GIB = 1 << 30
TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/xl/workbook.xml"
 ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>
<Override PartName="/xl/worksheets/sheet1.xml"
 ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>
</Types>"""
RELS = """<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rId1" Target="{target}"
 Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{type}"/>
</Relationships>"""
MANIFEST = '<m:manifest xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
BOOK = """<?xml version="1.0"?><workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
 xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>
<sheet name="表一" sheetId="1" r:id="rId1"/></sheets></workbook>"""
SHEET = """<?xml version="1.0"?>{before}<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">
<sheetData>{rows}</sheetData></worksheet>"""


def make_xlsx(path: Path, rows: str, before: str = "", extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELS.format(type="officeDocument", target="xl/workbook.xml"))
        archive.writestr("xl/workbook.xml", BOOK)
        archive.writestr("xl/_rels/workbook.xml.rels", RELS.format(type="worksheet", target="worksheets/sheet1.xml"))
        archive.writestr("xl/worksheets/sheet1.xml", SHEET.format(before=before, rows=rows))
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def cell(place: str, value: object) -> str:
    return f'<c r="{place}"><v>{value}</v></c>'


def row(number: int, *cells: str) -> str:
    return f'<row r="{number}">{"".join(cells)}</row>'


@pytest.fixture
def reader() -> Iterator[FileReader]:
    with FileReader() as opened:
        yield opened


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_xlsx(tmp_path / "好.xlsx", row(1, cell("A1", 7)) + row(2, cell("A2", 8)))


def test_a_small_book_reads(good: Path, reader: FileReader) -> None:
    raw = reader.read(good)
    assert (raw.sheet, raw.table.to_pydict(), raw.rows.to_pylist()) == ("表一", {"7": [8]}, [2])


def test_far_away_cell(tmp_path: Path, good: Path, reader: FileReader) -> None:
    rows = row(1, cell("A1", 1)) + row(1048576, cell("XFD1048576", 1))
    path = make_xlsx(tmp_path / "far.xlsx", rows)
    assert path.stat().st_size < 5000
    with pytest.raises(LimitError, match="XFD1048576") as caught:
        reader.read(path)
    assert caught.value.where["cell"] == "XFD1048576"
    assert reader.peak_bytes < GIB // 4
    assert reader.read(good).table.num_rows == 1


def test_far_away_cell_that_only_has_a_style_is_nothing(tmp_path: Path, reader: FileReader) -> None:
    rows = row(1, cell("A1", "1")) + row(2, cell("A2", 5)) + row(1048576, '<c r="XFD1048576" s="0"/>')
    assert reader.read(make_xlsx(tmp_path / "styled.xlsx", rows)).table.to_pydict() == {"1": [5]}


def test_a_far_cell_on_another_sheet_does_no_harm(tmp_path: Path, reader: FileReader) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.worksheets[0].append(["a"])
    book.worksheets[0].append([1])
    book.create_sheet("远")["A1"] = 1
    book.worksheets[1]["XFD1048576"] = 1
    book.save(tmp_path / "two.xlsx")
    raw = reader.read(tmp_path / "two.xlsx")
    assert raw.table.to_pydict() == {"a": [1]}
    assert any("'远'" in note for note in raw.notes)
    with pytest.raises(LimitError, match="XFD1048576"):
        reader.read(tmp_path / "two.xlsx", sheet="远")


def test_range_of_100_million_cells(tmp_path: Path, reader: FileReader) -> None:
    from openpyxl.utils import get_column_letter

    rows = "".join(row(i, cell(f"{get_column_letter(i)}{i}", 1)) for i in range(1, 10_001))
    with pytest.raises(LimitError, match=r"spans [0-9,]+ cells, up to NTP10000"):
        reader.read(make_xlsx(tmp_path / "diagonal.xlsx", rows))
    assert reader.peak_bytes < GIB // 4


def test_100_million_cells_declared(tmp_path: Path, reader: FileReader) -> None:
    path = make_xlsx(tmp_path / "huge.xlsx", row(1, cell("A1", 1)))
    _declare(path, "xl/worksheets/sheet1.xml", 100_000_000 * 24)
    begin = time.monotonic()
    with pytest.raises(LimitError, match="unpacks to 2,400,"):
        reader.read(path)
    assert time.monotonic() - begin < 20


def test_too_many_cells_observed(tmp_path: Path) -> None:
    rows = "".join(row(i, *(cell(f"{letter}{i}", i) for letter in "ABCDEFGHIJ")) for i in range(1, 20_001))
    path = make_xlsx(tmp_path / "dense.xlsx", rows)
    with pytest.raises(LimitError, match="more than 100,000"):
        read_file(path, limits=Limits(cells=100_000))


def test_zip_bomb(tmp_path: Path, reader: FileReader) -> None:
    bomb = make_xlsx(tmp_path / "bomb.xlsx", row(1, cell("A1", 1)), extra={"xl/media/zeros.bin": b"\0" * (100 << 20)})
    assert bomb.stat().st_size < 200_000
    with pytest.raises(LimitError, match="times its size, as zip bombs do"):
        reader.read(bomb)
    assert reader.peak_bytes < GIB // 4


def test_zip_that_lies_about_its_size(tmp_path: Path, good: Path, reader: FileReader) -> None:
    path = make_xlsx(tmp_path / "liar.xlsx", row(1, cell("A1", 1)) + " " * (100 << 20))
    _declare(path, "xl/worksheets/sheet1.xml", 1000)
    with pytest.raises(FileError, match=r"liar\.xlsx"):
        reader.read(path)
    assert reader.read(good).table.num_rows == 1
    assert reader.peak_bytes < GIB // 2


def test_entity_bomb(tmp_path: Path, reader: FileReader) -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    before = f'<!DOCTYPE worksheet [<!ENTITY e0 "lol">{entities}]>'
    path = make_xlsx(tmp_path / "lol.xlsx", row(1, '<c r="A1" t="inlineStr"><is><t>&e11;</t></is></c>'), before)
    with pytest.raises(FileError, match="entities"):
        reader.read(path)
    assert reader.peak_bytes < GIB // 4


@pytest.mark.parametrize(("count", "reason"), [(4096, "memory"), (1_048_576, "spans too many cells")])
def test_ods_with_repeated_cells(count: int, reason: str, tmp_path: Path, good: Path) -> None:
    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    one = '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="16384"/>'
    rows = f'<table:table-row table:number-rows-repeated="{count}">{one}</table:table-row>'
    sheet = f'<table:table table:name="t">{rows}</table:table>'
    path = tmp_path / "repeat.ods"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", MANIFEST)
        archive.writestr(
            "content.xml",
            f"<office:document-content{names}><office:body><office:spreadsheet>{sheet}"
            "</office:spreadsheet></office:body></office:document-content>",
        )
    with FileReader(Limits(memory_bytes=GIB // 2)) as reader:
        with pytest.raises(LimitError, match=reason):
            reader.read(path)
        assert reader.read(good).table.num_rows == 1
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 2 * GIB


def test_time_limit(tmp_path: Path, good: Path) -> None:
    rows = "".join(row(i, *(cell(f"{letter}{i}", i) for letter in "ABCDEFGHIJ")) for i in range(1, 30_001))
    path = make_xlsx(tmp_path / "slow.xlsx", rows)
    with FileReader(Limits(seconds=0.01)) as reader, pytest.raises(LimitError, match="took more than"):
        reader.read(path)
    assert read_file(good).table.num_rows == 1


def test_a_child_that_was_killed_is_replaced(good: Path, reader: FileReader) -> None:
    reader.read(good)
    child = reader._sandbox._child
    assert child is not None
    os.kill(child.pid, 9)
    child.wait()
    with pytest.raises(FileError, match="crashed its reader"):
        reader.read(good)
    assert reader.read(good).table.num_rows == 1


@pytest.mark.parametrize("name", ["simple.xlsx", "simple.xls", "simple.ods"])
def test_truncated_workbook(name: str, data_dir: Path, tmp_path: Path, reader: FileReader) -> None:
    content = (data_dir / "messy/messytables" / name).read_bytes()
    whole = reader.read(data_dir / "messy/messytables" / name).table
    for share in (0.001, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        path = tmp_path / f"{share}-{name}"
        path.write_bytes(content[: int(len(content) * share)])
        error = _trouble(reader, path)
        if error is None:
            # The last sectors of an xls may hold nothing but padding.
            assert name.endswith(".xls")
            assert reader.read(path).table.equals(whole)
        else:
            assert path.name in str(error)
            assert error.hint


def _trouble(reader: FileReader, path: Path) -> HoldfastError | None:
    try:
        reader.read(path)
    except HoldfastError as error:
        return error
    return None


def test_any_damage_is_an_error_or_harmless(data_dir: Path, tmp_path: Path, reader: FileReader) -> None:
    import random

    dice = random.Random(5)
    for name in ("simple.xlsx", "simple.xls", "simple.ods"):
        content = (data_dir / "messy/messytables" / name).read_bytes()
        for number in range(15):
            damaged = bytearray(content)
            for _ in range(20):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            path = tmp_path / f"{number}-{name}"
            path.write_bytes(damaged)
            error = _trouble(reader, path)
            assert error is None or path.name in str(error)


def test_gzip_bomb_and_truncated_gzip(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.csv.gz"
    bomb.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * (20 << 20)))
    with pytest.raises(LimitError, match="unpacks to more than"):
        read_file(bomb, limits=Limits(unzipped_bytes=10 << 20))
    with pytest.raises(LimitError, match="unpacks to more than"):
        read_file(bomb, limits=Limits(zip_ratio=10))
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"a,b\n1,2\n" * 1000)[:-10])
    with pytest.raises(FileError, match="cut off"):
        read_file(cut)


def test_file_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(LimitError, match="more than 5"):
        read_file(path, limits=Limits(file_bytes=5))
    with pytest.raises(LimitError, match="3 columns, more than 2"):
        read_file(path, limits=Limits(columns=2))


def _declare(path: Path, name: str, size: int) -> None:
    """Write another unpacked size for one entry into a zip's directory."""
    data = bytearray(path.read_bytes())
    directory = zipfile.ZipFile(io.BytesIO(data)).start_dir
    entry = data.index(name.encode(), directory) - 46
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)
