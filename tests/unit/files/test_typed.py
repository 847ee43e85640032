"""Workbooks, Parquet and JSON lines: types, exact values, and what is said about the rest."""

import datetime as dt
import decimal
import gzip
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.backend.adapters.files import FileReader, Limits, read_file
from holdfast.backend.records import RawTable
from holdfast.errors import FileError, LimitError


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as opened:
        yield opened


def types(raw: RawTable) -> list[str]:
    return [str(kind) for kind in raw.table.schema.types]


def save(path: Path, rows: list[list[Any]], *, epoch_1904: bool = False, title: str = "检查") -> Path:
    import openpyxl
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    book = openpyxl.Workbook()
    if epoch_1904:
        book.epoch = CALENDAR_MAC_1904
    book.worksheets[0].title = title
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return path


MOMENTS = [dt.datetime(2024, 2, 29, 23, 59, 59), dt.datetime(1999, 12, 31), dt.datetime(2031, 7, 1, 6, 7, 8, 123000)]


@pytest.mark.parametrize("epoch_1904", [False, True])
def test_types_of_xlsx_columns(epoch_1904: bool, tmp_path: Path, reader: FileReader) -> None:
    rows = [
        ["编号", "分数", "名称", "时间", "是否", "混合", "文本数", "大数", "空"],
        [1, 0.5, "北京", MOMENTS[0], True, 1, "007", 2**53, None],
        [2, 2, "上海", MOMENTS[1], False, 2.5, "1.0", -1, None],
        [-3, None, "it's “ok”", MOMENTS[2], None, "x", None, 0, None],
    ]
    raw = reader.read(save(tmp_path / "表.xlsx", rows, epoch_1904=epoch_1904))
    assert raw.sheet == "检查"
    assert types(raw) == ["int64", "double", "string", "timestamp[us]", "bool", "string", "string", "int64", "string"]
    values = raw.table.to_pydict()
    assert values["编号"] == [1, 2, -3]
    assert values["分数"] == [0.5, 2.0, None]
    assert values["时间"] == MOMENTS
    assert values["是否"] == [True, False, None]
    assert values["混合"] == ["1", "2.5", "x"]
    assert values["文本数"] == ["007", "1.0", None]
    assert values["大数"] == [2**53, -1, 0]
    assert values["空"] == [None] * 3
    assert raw.rows.to_pylist() == [2, 3, 4]
    assert "column '混合' mixes number and text: read as text" in raw.notes


def test_microseconds_do_not_wander(tmp_path: Path, reader: FileReader) -> None:
    start = dt.datetime(2016, 1, 1)
    moments = [start + dt.timedelta(seconds=7919 * i) for i in range(3000)]
    raw = reader.read(save(tmp_path / "t.xlsx", [["t"], *([moment] for moment in moments)]))
    assert raw.table["t"].to_pylist() == moments


def test_percent_currency_time_of_day_and_merged_cells(tmp_path: Path, reader: FileReader) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in [["p", "c", "t", "m", "n"], [0.25, 9.5, dt.time(8, 30), "合", None], [0.5, 1, dt.time(9, 0, 1), "z", 1]]:
        sheet.append(row)
    sheet["A2"].number_format, sheet["B2"].number_format = "0%", "¥#,##0.00"
    sheet.merge_cells("D2:E2")
    book.save(tmp_path / "f.xlsx")
    raw = reader.read(tmp_path / "f.xlsx")
    assert raw.table.to_pydict() == {
        "p": [0.25, 0.5], "c": [9.5, 1.0], "t": ["08:30:00", "09:00:01"], "m": ["合", "z"], "n": [None, 1],
    }  # fmt: skip


def test_place_of_the_table_in_the_sheet(tmp_path: Path, reader: FileReader) -> None:
    rows: list[list[Any]] = [[], [], [None, None, "a", "b"], [None, None, 1, 2], [], [None, None, 3, None], [], []]
    raw = reader.read(save(tmp_path / "p.xlsx", rows))
    assert raw.table.to_pydict() == {"a": [1, None, 3], "b": [2, None, None]}
    assert raw.rows.to_pylist() == [4, 5, 6]
    assert "2 empty row(s) above the header skipped" in raw.notes


def test_sheets(tmp_path: Path, reader: FileReader) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.create_sheet("隐藏").append(["h"])
    book.worksheets[1].sheet_state = "hidden"
    book.create_sheet("数据 ①").append(["x"])
    book.worksheets[2].append([1])
    book.create_sheet("另").append(["y"])
    book.create_sheet("空")
    book.save(tmp_path / "s.xlsx")
    raw = reader.read(tmp_path / "s.xlsx")
    assert (raw.sheet, raw.table.to_pydict()) == ("数据 ①", {"x": [1]})
    assert raw.notes == ("sheet '数据 ①' was read; there is also data on '另'",)
    assert reader.read(tmp_path / "s.xlsx", sheet="隐藏").table.column_names == ["h"]
    with pytest.raises(FileError, match="no sheet '没有'") as caught:
        reader.read(tmp_path / "s.xlsx", sheet="没有")
    assert "数据 ①" in str(caught.value.hint)


def test_errors_are_null_and_counted(tmp_path: Path, reader: FileReader) -> None:
    raw = reader.read(save(tmp_path / "e.xlsx", [["a", "b"], [1, "#N/A"], ["#REF!", "t"], [2, "u"]]))
    assert raw.table.to_pydict() == {"a": [1, None, 2], "b": [None, "t", "u"]}
    assert any("2 cell(s) with an error value" in note for note in raw.notes)


def test_content_decides_not_the_name(tmp_path: Path, reader: FileReader) -> None:
    path = save(tmp_path / "old.xlsx", [["a"], [1]])
    named = path.rename(tmp_path / "old.xls")
    raw = reader.read(named)
    assert (raw.format, raw.table.to_pydict()) == ("xlsx", {"a": [1]})
    assert any("is xlsx by its content" in note for note in raw.notes)
    (tmp_path / "packed.xlsx.gz").write_bytes(gzip.compress(named.read_bytes()))
    assert reader.read(tmp_path / "packed.xlsx.gz").table.to_pydict() == {"a": [1]}


def test_one_child_reads_many_files(tmp_path: Path) -> None:
    with FileReader() as reader:
        for number in range(5):
            assert reader.read(save(tmp_path / f"{number}.xlsx", [["a"], [number]])).table.to_pydict() == {
                "a": [number]
            }
        child = reader._sandbox._child
        assert child is not None
        assert child.poll() is None
    assert child.poll() is not None


# --- xlsb: no library writes it, so the records are written here ([MS-XLSB] 2.4)


def _record(number: int, body: bytes = b"") -> bytes:
    head = bytes([number]) if number < 128 else bytes([number & 0x7F | 0x80, number >> 7])
    size, sizes = len(body), b""
    while size >= 128:
        sizes, size = sizes + bytes([size & 0x7F | 0x80]), size >> 7
    return head + sizes + bytes([size]) + body


def _wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def _xlsb_cell(column: int, value: Any) -> bytes:
    start = struct.pack("<II", column, 0)
    if value is ValueError:
        return _record(3, start + b"\x2a")
    if isinstance(value, bool):
        return _record(4, start + bytes([value]))
    if isinstance(value, str):
        return _record(6, start + _wide(value))
    return _record(5, start + struct.pack("<d", value))


def make_xlsb(path: Path, cells: dict[tuple[int, int], Any]) -> Path:
    """Cells by 0-based row and column."""
    rows = b"".join(
        _record(0, struct.pack("<II", row, 0) + bytes(9))
        + b"".join(_xlsb_cell(column, cells[row, column]) for r, column in sorted(cells) if r == row)
        for row in sorted({row for row, _ in cells})
    )
    last_row, last_column = max(row for row, _ in cells), max(column for _, column in cells)
    sheet = _record(129) + _record(148, struct.pack("<IIII", 0, last_row, 0, last_column))
    sheet += _record(145) + rows + _record(146) + _record(130)
    bundle = _record(156, struct.pack("<II", 0, 1) + _wide("rId1") + _wide("数"))
    rels = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{}" Target="{}"/></Relationships>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("_rels/.rels", rels.format("officeDocument", "xl/workbook.bin"))
        archive.writestr("xl/_rels/workbook.bin.rels", rels.format("worksheet", "worksheets/sheet1.bin"))
        archive.writestr("xl/workbook.bin", _record(131) + _record(143) + bundle + _record(144) + _record(132))
        archive.writestr("xl/worksheets/sheet1.bin", sheet)
    return path


def test_xlsb(tmp_path: Path, reader: FileReader) -> None:
    cells = {
        (1, 0): "名",
        (1, 1): "n",
        (1, 2): "b",
        (2, 0): "甲",
        (2, 1): 1.0,
        (2, 2): True,
        (3, 1): ValueError,
        (4, 1): 2.0,
    }
    raw = reader.read(make_xlsb(tmp_path / "t.xlsb", cells))
    assert (raw.format, raw.sheet) == ("xlsb", "数")
    assert raw.table.to_pydict() == {"名": ["甲", None, None], "n": [1, None, 2], "b": [True, None, None]}
    assert raw.rows.to_pylist() == [3, 4, 5]
    assert any("1 cell(s) with an error value" in note for note in raw.notes)


def test_xlsb_with_a_far_away_cell(tmp_path: Path, reader: FileReader) -> None:
    path = make_xlsb(tmp_path / "far.xlsb", {(0, 0): "a", (1048575, 16383): 1.0})
    with pytest.raises(LimitError, match="XFD1048576"):
        reader.read(path)


# --- Parquet


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_types(tmp_path: Path, reader: FileReader) -> None:
    utc = pa.timestamp("ns", tz="Asia/Shanghai")
    moment = dt.datetime(2024, 1, 1, 8, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    columns = {
        "b": pa.array([True, None]),
        "i8": pa.array([1, -1], pa.int8()),
        "u64": pa.array([1, 2**40], pa.uint64()),
        "u64 big": pa.array([1, 2**64 - 1], pa.uint64()),
        "f32": pa.array([0.5, None], pa.float32()),
        "城市": pa.array(["北京", "上海"]).dictionary_encode(),
        "large": pa.array(["a", None], pa.large_string()),
        "day": pa.array([dt.date(2024, 1, 1), dt.date(1950, 1, 1)]),
        "ns": pa.array([1_000, 2_000_000], pa.timestamp("ns")),
        "tz": pa.array([moment, None], utc),
        "money": pa.array([decimal.Decimal("1.25"), decimal.Decimal("-3.10")]),
        "whole": pa.array([decimal.Decimal(12), None], pa.decimal128(10, 0)),
        "exact": pa.array([decimal.Decimal("12345678901234567.25"), None], pa.decimal128(30, 2)),
        "clock": pa.array([dt.time(1, 2, 3), None], pa.time64("us")),
        "none": pa.nulls(2),
    }
    raw = reader.read(parquet(tmp_path / "t.parquet", columns))
    assert dict(zip(columns, types(raw), strict=True)) == {
        "b": "bool", "i8": "int64", "u64": "int64", "u64 big": "string", "f32": "double", "城市": "string",
        "large": "string", "day": "timestamp[us]", "ns": "timestamp[us]", "tz": "timestamp[us, tz=UTC]",
        "money": "double", "whole": "int64", "exact": "string", "clock": "string", "none": "string",
    }  # fmt: skip
    values = raw.table.to_pydict()
    assert values["u64 big"] == ["1", str(2**64 - 1)]
    assert values["day"] == [dt.datetime(2024, 1, 1), dt.datetime(1950, 1, 1)]
    assert values["tz"] == [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None]
    assert values["money"] == [1.25, -3.1]
    assert values["exact"] == ["12345678901234567.25", None]
    assert raw.rows.to_pylist() == [1, 2]
    noted = " ".join(raw.notes)
    assert all(f"column {name!r}" in noted for name in ("u64 big", "exact", "clock"))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([[1], [2]]), "list"),
        (pa.array([{"a": 1}, None]), "struct"),
        (pa.array([b"a", None]), "binary"),
        (pa.array([1], pa.duration("s")), "duration"),
        (pa.array([1_001], pa.timestamp("ns")), "do not fit microseconds"),
    ],
)
def test_parquet_refuses_by_column(column: pa.Array, reason: str, tmp_path: Path, reader: FileReader) -> None:
    with pytest.raises(FileError, match=reason) as caught:
        reader.read(parquet(tmp_path / "n.parquet", {"坏": column}))
    assert caught.value.where["column"] == "坏"


def test_parquet_nan_is_kept_and_said(tmp_path: Path, reader: FileReader) -> None:
    raw = reader.read(parquet(tmp_path / "nan.parquet", {"x": pa.array([1.0, float("nan"), None])}))
    assert raw.table["x"].null_count == 1
    assert "column 'x' holds 1 NaN, left as they are" in raw.notes


def test_damaged_parquet(tmp_path: Path, reader: FileReader) -> None:
    content = parquet(tmp_path / "p.parquet", {"x": list(range(1000))}).read_bytes()
    for size in (4, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.parquet").write_bytes(content[:size])
        with pytest.raises(FileError, match=r"cut\.parquet"):
            reader.read(tmp_path / "cut.parquet")


# --- JSON


def read_json(tmp_path: Path, text: str, name: str = "t.jsonl") -> RawTable:
    (tmp_path / name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    return read_file(tmp_path / name)


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"编号": 1, "f": 1.0, "s": "甲\n乙", "b": True, "m": 1, "big": 2**63},
        {"编号": 2, "f": None, "s": "", "b": False, "m": "x", "extra": 3, "big": 1},
    ]
    raw = read_json(tmp_path, "\n".join(json.dumps(record) for record in records) + "\n\n")
    assert raw.table.column_names == ["编号", "f", "s", "b", "m", "big", "extra"]
    assert types(raw) == ["int64", "double", "string", "bool", "string", "string", "int64"]
    assert raw.table.to_pylist() == [
        {**records[0], "m": "1", "big": str(2**63), "extra": None},
        {**records[1], "m": "x", "big": "1"},
    ]
    assert raw.rows.to_pylist() == [1, 2]


def test_json_array_and_its_lines(tmp_path: Path) -> None:
    raw = read_json(tmp_path, '[\n {"a": 1},\n\n {"a":\n 2.5}, {"a": 3}]\n', "t.json")
    assert raw.table.to_pydict() == {"a": [1.0, 2.5, 3.0]}
    assert raw.rows.to_pylist() == [2, 4, 5]


def test_json_nan_is_null_and_counted(tmp_path: Path) -> None:
    raw = read_json(tmp_path, '{"a": NaN}\n{"a": 1.5}\n')
    assert raw.table.to_pydict() == {"a": [None, 1.5]}
    assert "1 NaN read as null" in raw.notes


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ('{"a": 1}\n{"a": [1]}\n', "nested", 2),
        ('{"a": 1}\n\n{"a": 1, "a": 2}\n', "given twice", 3),
        ('{"a": 1}\n{"a": Infinity}\n', "Infinity", 2),
        ('{"a": 1}\n{"a": 1\n', "not valid JSON", 3),
        ('{"a": 1}\n[1]\n', "an array, not an object", 2),
        ('{"a": 1} {"a": 2}\n', "more than one value", 1),
        ('{"a": "\\ud800"}\n', "surrogate", 1),
        ('[{"a": 1}\n', "not closed", 2),
        ('[{"a": 1} {"a": 2}]', "comma is missing", 1),
        ('[{"a": 1}] x', "text after the array", 1),
        ('{"a": ' + "[" * 100_000, "nested too deep", 1),
        ('{"a": ' + "9" * 100_000 + "}", "digits", 1),
        ("[]", "no records", None),
        ("3", "a number, not an object", 1),
    ],
)
def test_json_refused(text: str, reason: str, line: int | None, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=reason) as caught:
        read_json(tmp_path, text)
    assert caught.value.where.get("line") == line
    assert caught.value.where["file"] == "t.jsonl"


def test_too_many_json_columns(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text(json.dumps({f"c{i}": i for i in range(20)}))
    with pytest.raises(LimitError, match="20 columns"):
        read_file(tmp_path / "w.jsonl", limits=Limits(columns=10))
