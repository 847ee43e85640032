"""Delimited text: exact values and line numbers, whatever the delimiter, quoting, encoding and line ends."""

import codecs
import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from holdfast.backend.adapters.files import FileReader, Limits, read_file
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

LIMITS = Limits()


def read(tmp_path: Path, content: bytes, name: str = "表.csv") -> RawTable:
    path = tmp_path / name
    path.write_bytes(content)
    return read_file(path)


def rows(raw: RawTable) -> list[list[str | None]]:
    return [list(row.values()) for row in raw.table.to_pylist()]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "{end}", "{end}{end}", "{end},,{end}"])
def test_line_ends(end: str, last: str, tmp_path: Path) -> None:
    text = end.join(["a,b,c", "1,2,3", '"x\ny",,"q""q"', '"",z,']) + last.format(end=end)
    raw = read(tmp_path, text.encode())
    assert rows(raw) == [["1", "2", "3"], ["x\ny", None, 'q"q'], [None, "z", None]]
    assert raw.rows.to_pylist() == [2, 3, 5]


def test_values_are_exact(tmp_path: Path) -> None:
    text = 'id,v\n007, x \n1e5,"  "\nNA,null\nTrue,-0\n" a\t",\u00a0\n'
    assert rows(read(tmp_path, text.encode())) == [
        ["007", " x "], ["1e5", "  "], ["NA", "null"], ["True", "-0"], [" a\t", "\u00a0"],
    ]  # fmt: skip


def test_short_rows_are_filled_and_counted(tmp_path: Path) -> None:
    raw = read(tmp_path, b"a,b,c\n1\n1,2,3\n4,5\n")
    assert rows(raw) == [["1", None, None], ["1", "2", "3"], ["4", "5", None]]
    assert any("2 row(s) have fewer fields" in note for note in raw.notes)


def test_long_rows_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a row of 4 fields under a header of 3") as caught:
        read(tmp_path, b'a,b,c\n"1\n1",2,3\n1,2,3,4\n')
    assert caught.value.where == {"file": "表.csv", "line": 4}


def test_empty_fields_beyond_the_header_are_left_out_and_counted(tmp_path: Path) -> None:
    raw = read(tmp_path, b"a,b\n1,2,,\n3,4\n")
    assert rows(raw) == [["1", "2"], ["3", "4"]]
    assert any("1 row(s) have empty fields beyond the header" in note for note in raw.notes)


def test_empty_lines_inside_are_rows_of_nulls(tmp_path: Path) -> None:
    raw = read(tmp_path, b"\n\na,b\n1,2\n\n3,4\n\n\n")
    assert rows(raw) == [["1", "2"], [None, None], ["3", "4"]]
    assert raw.rows.to_pylist() == [4, 5, 6]
    assert "2 empty line(s) above the header skipped" in raw.notes


def test_one_column(tmp_path: Path) -> None:
    raw = read(tmp_path, "名\n一\n\n三\n".encode())
    assert rows(raw) == [["一"], [None], ["三"]]
    assert raw.rows.to_pylist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("a,a,a", ["a", "a_2", "a_3"]),
        ("a,a,a_2", ["a", "a_3", "a_2"]),
        ("a,,b,", ["a", "column_2", "b", "column_4"]),
        (",column_1,x", ["column_1_2", "column_1", "x"]),
        ("a,A,ä", ["a", "A", "ä"]),
    ],
)
def test_names_are_made_unique(header: str, names: list[str], tmp_path: Path) -> None:
    width = header.count(",") + 1
    raw = read(tmp_path, f"{header}\n{','.join('123456'[:width])}\n".encode())
    assert raw.table.column_names == names
    assert rows(raw) == [list("123456"[:width])]
    changed = sum(name != cell for name, cell in zip(names, header.split(","), strict=True))
    assert len(raw.notes) == changed


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'a,b\n1,"2\n3,4\n', 2), (b'a,b\n1,"x"y\n', 2), (b'a,b\n1,2\n3,"x" \n', 3)],
)
def test_broken_quoting_is_refused(content: bytes, line: int, tmp_path: Path) -> None:
    try:
        raw = read(tmp_path, content)
    except FileError as error:
        assert "quoting" in str(error)  # noqa: PT017
        assert error.where["line"] == line  # noqa: PT017
    else:
        # Or read with quotes as ordinary characters, which is said.
        assert "quotes are ordinary characters" in raw.notes


def test_a_quote_inside_a_bare_field_is_a_character(tmp_path: Path) -> None:
    raw = read(tmp_path, b'size,n\n5" pipe,1\n6" pipe,2\n')
    assert rows(raw) == [['5" pipe', "1"], ['6" pipe', "2"]]


@pytest.mark.parametrize(
    ("text", "expected", "note"),
    [
        ('a,b\n"x \\"y\\", z",1\n"w",2\n', [['x "y", z', "1"], ["w", "2"]], "quotes escaped with \\"),
        ("a,b\n'x, y',1\n'z',2\n", [["x, y", "1"], ["z", "2"]], "quoted with '"),
        ('a, b\n1, "x, y"\n', [["1", "x, y"]], "spaces after delimiters skipped"),
    ],
)
def test_other_quoting_is_found_out(text: str, expected: list[list[str]], note: str, tmp_path: Path) -> None:
    raw = read(tmp_path, text.encode())
    assert rows(raw) == expected
    assert note in raw.notes


def test_apostrophes_are_not_quotes(tmp_path: Path) -> None:
    raw = read(tmp_path, b"a,b\n'tis,1\nit's,2\n")
    assert rows(raw) == [["'tis", "1"], ["it's", "2"]]


def test_decimal_commas(tmp_path: Path) -> None:
    raw = read(tmp_path, b"x;y;z\n1,5;2,5;3\n1,25;2;4,0\n")
    assert rows(raw) == [["1,5", "2,5", "3"], ["1,25", "2", "4,0"]]
    assert "delimiter ';' found out" in raw.notes


CHINESE = "日期,名称,备注\n2024-01-01,北京烤鸭店,环境良好；无违规\n2024-01-02,上海小笼包,发现“高风险”问题\n" * 20
WESTERN = "id,name\n" + "".join(f"{i},Shop number {i}\n" for i in range(300)) + "7,CAFÉ MÜLLER\n8,PIÑA & FRÈRES\n"
ENCODED = [
    (CHINESE, "utf-8", "utf-8"),
    (CHINESE, "utf-8-sig", "utf-8"),
    (CHINESE, "utf-16", "utf-16-le"),
    (CHINESE, "utf-16-le", "utf-16-le"),
    (CHINESE, "utf-16-be", "utf-16-be"),
    (CHINESE, "utf-32", "utf-32-le"),
    (CHINESE, "utf-32-be", "utf-32-be"),
    (CHINESE, "gb18030", "gb18030"),
    (CHINESE, "gbk", "gb18030"),
    ("id,name\n" + "1,plain\n" * 500 + "2,𠮷野家餐厅\n3,北京\n4,北京\n5,好\n", "gb18030", "gb18030"),
    ("id,城市\n1,北京\n", "gb18030", "gb18030"),
    ("日期,店名,備註\n2024-01-01,臺北小館,環境良好\n2024-01-02,鼎泰豐,發現問題\n" * 20, "big5", "big5"),
    (WESTERN, "latin-1", "latin-1"),
    (WESTERN.replace("&", "– “œuf”"), "cp1252", "cp1252"),
    ("Größe,Straße\nübergroß,Mühlstraße\n" * 30, "latin-1", "latin-1"),
    ("имя,город\nИван Петров,Москва\nАнна Сидорова,Новосибирск\n" * 30, "cp1251", "cp1251"),
]


@pytest.mark.parametrize(("text", "encoding", "found"), ENCODED)
def test_encodings(text: str, encoding: str, found: str, tmp_path: Path) -> None:
    raw = read(tmp_path, text.encode(encoding))
    expected = list(csv.reader(io.StringIO(text)))
    assert [raw.table.column_names, *rows(raw)] == expected
    assert raw.encoding == found


def test_gb18030_mark(tmp_path: Path) -> None:
    raw = read(tmp_path, b"\x84\x31\x95\x33" + "a,b\n1,中\n".encode("gb18030"))
    assert (raw.table.column_names, rows(raw)) == (["a", "b"], [["1", "中"]])


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"a,b\n1,\x002\n", {"line": 2, "byte": 6}),
        ("a,b\n1,好\n2,好好好\n".encode() + b"3,\xff\n", {"line": 4}),
        (codecs.BOM_UTF16_LE + "a,b\n1,2\n".encode("utf-16-le")[:-1], {"line": 2}),
        (codecs.BOM_UTF8 + b"a,b\n1,\xe9\n", {"line": 2, "byte": 9}),
    ],
)
def test_what_does_not_decode_is_refused(content: bytes, where: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        read(tmp_path, content)
    assert where.items() <= caught.value.where.items()


def test_gzip(tmp_path: Path) -> None:
    content = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    assert rows(read(tmp_path, content, "x.csv.gz")) == [["1", "2"], ["3", "4"]]
    raw = read(tmp_path, content, "x.csv")
    assert rows(raw) == [["1", "2"], ["3", "4"]]
    assert "is gzipped, though its name does not say so" in raw.notes


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"<!DOCTYPE html><html><table>", "HTML page"),
        ("a.xls", b"\n<html><table><tr><td>1</td></tr></table></html>", "HTML page"),
        ("a.xls", b'<?xml version="1.0"?><Workbook>', "XML document"),
        ("a.csv", b"%PDF-1.7\n", "PDF"),
        ("a.csv", b"PK\x03\x04zzzz", "damaged zip"),
        ("a.xlsx", b"a,b\n1,2\n", "no xlsx file"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n\n,,\n", "no content"),
        ("a.csv.gz", gzip.compress(gzip.compress(b"a,b\n1,2\n", mtime=0), mtime=0), "gzipped twice"),
        ("a.doc", b"a,b\n1,2\n", "unknown kind '.doc'"),
        ("a", b"a,b\n1,2\n", "without an extension"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"), "Word document"),
        ("a.parquet", b"PAR1zzzzPAR1", "cannot be read as parquet"),
    ],
)
def test_other_kinds_are_refused_by_name(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=reason) as caught:
        read(tmp_path, content, name)
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_text_header_may_begin_like_a_signature(tmp_path: Path) -> None:
    for start in ("PK", "MZ", "BZh", "PAR1", "Rar!"):
        assert read(tmp_path, f"{start},x\n1,2\n".encode()).table.column_names == [start, "x"]


def test_absent_file_folder_and_sheet_of_a_csv(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be opened"):
        read_file(tmp_path / "absent.csv")
    with pytest.raises(FileError, match="is not a file"):
        read_file(tmp_path)
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(FileError, match="has no sheets"):
        read_file(path, sheet="x")


def test_real_retail_lines_agree_with_pandas(data_dir: Path) -> None:
    import pandas

    path = data_dir / "online_retail/2010-11/lines.csv.gz"
    raw = read_file(path)
    theirs = pandas.read_csv(path, dtype=str, keep_default_na=False)
    assert [[cell or None for cell in row] for row in theirs.to_numpy().tolist()] == rows(raw)
    assert raw.rows.to_pylist() == list(range(2, len(theirs) + 2))


def test_real_latin1_names(data_dir: Path) -> None:
    for folder in sorted((data_dir / "sf_inspections").iterdir())[::6]:
        path = folder / "businesses.csv"
        text = path.read_bytes().decode("latin-1")
        expected = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        raw = read_file(path)
        assert raw.encoding == "latin-1" or text.isascii() or raw.encoding == "utf-8"
        assert rows(raw) == [[cell or None for cell in row] for row in expected[1:]]


def naughty(data_dir: Path) -> list[str]:
    return [text for text in json.loads((data_dir / "messy/blns.json").read_text("utf-8")) if text]


def test_naughty_strings(data_dir: Path, tmp_path: Path) -> None:
    import openpyxl
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    strings = [text for text in naughty(data_dir) if "\x00" not in text]
    assert len(strings) > 400
    with (tmp_path / "n.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *([i, text] for i, text in enumerate(strings))])
    assert read_file(tmp_path / "n.csv").table["text"].to_pylist() == strings
    lines = "".join(json.dumps({"text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(strings))
    (tmp_path / "n.jsonl").write_text(lines, encoding="utf-8")
    assert read_file(tmp_path / "n.jsonl").table["text"].to_pylist() == strings
    # openpyxl writes a lone blank without xml:space="preserve", and then it is none.
    legal = [text for text in strings if not ILLEGAL_CHARACTERS_RE.search(text) and text != " "]
    assert len(legal) > 400
    book = openpyxl.Workbook()
    for text in ["text", *legal]:
        book.worksheets[0].append([text])
        book.worksheets[0].cell(book.worksheets[0].max_row, 1).data_type = "s"
    book.save(tmp_path / "n.xlsx")
    assert read_file(tmp_path / "n.xlsx").table["text"].to_pylist() == legal


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufeff"), max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.integers(2, 5).flatmap(lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=8)),
    delimiter=st.sampled_from(",\t;|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030-mark"]),
    zipped=st.booleans(),
)
def test_what_csv_writer_writes_reads_back(
    body: list[list[str]], delimiter: str, quoting: int, end: str, encoding: str, zipped: bool, tmp_path: Path
) -> None:
    width = len(body[0]) if body else 3
    header = [f"列{i}" for i in range(width)]
    target = io.StringIO(newline="")
    csv.writer(target, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([header, *body])
    text = target.getvalue()
    data = ("\ufeff" + text).encode("gb18030") if encoding == "gb18030-mark" else text.encode(encoding)
    others = set(",\t;|") - {delimiter}
    # A text in which another delimiter makes as good a table has no one reading.
    assume(not any(other in cell for other in others for row in body for cell in row))
    # The writer of Python before 3.12 leaves a lone carriage return bare.
    assume(list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)) == [header, *body])
    raw = read(tmp_path, gzip.compress(data) if zipped else data, "gen.csv.gz" if zipped else "gen.csv")
    expected = [[cell or None for cell in row] for row in body]
    while expected and not any(expected[-1]):
        expected.pop()
    assert raw.table.column_names == header
    assert rows(raw) == expected
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins, line = [], 1
    for _ in lines:
        begins.append(line)
        line = lines.line_num + 1
    assert raw.rows.to_pylist() == begins[1 : len(expected) + 1]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(min_size=1, max_size=60), st.text('ab",\n\r ;é中', min_size=1).map(str.encode)))
def test_any_bytes_load_or_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(content)
    with FileReader(LIMITS) as reader:
        try:
            raw = reader.read(path)
        except FileError as error:
            assert "any.csv" in str(error)  # noqa: PT017
        else:
            assert raw.table.num_rows == len(raw.rows)
