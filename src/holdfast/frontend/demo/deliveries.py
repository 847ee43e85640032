"""Writes what a city would deliver: a folder a month, a file a table, with the defects that such files have.

Planted, each under 5 % of its table: rows delivered twice, rows that share a key and differ, impossible dates, scores
beyond 100, empty cells, restaurants nobody knows, and one month in another encoding.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from holdfast.frontend.demo.city import FIRST_DAY, MONTHS, City, Inspection, Restaurant

__all__ = ["write"]

Row = Sequence[str | int | date | None]

_RESTAURANTS = ("餐厅编号", "名称", "english_name", "区", "菜系", "座位数", "开业日期", "业主身份证")
_INSPECTIONS = ("restaurant_id", "date", "type", "inspector", "score")
_VIOLATIONS = ("restaurant_id", "date", "code", "风险", "description")
_COMPLAINTS = ("投诉编号", "餐厅编号", "日期", "渠道", "内容")
_OTHER_ENCODING = 5
"""The month whose list of restaurants comes in GB18030 instead of UTF-8."""


def write(city: City, folder: Path, seed: int, report: Callable[[int, int, str], None]) -> list[str]:
    """Write all months below `folder` (as `2023-01/...`); returns their names. Same city and seed, same bytes."""
    rng = np.random.default_rng([seed, 1])
    periods = []
    for month in range(MONTHS):
        first = _month(month)
        begin, end = ((day - FIRST_DAY).days for day in (first, _month(month + 1)))
        place = folder / f"{first:%Y-%m}"
        place.mkdir(parents=True)
        visits = [visit for visit in city.inspections if begin <= visit.day < end]
        encoding = "gb18030" if month == _OTHER_ENCODING else "utf-8"
        _csv(place / "餐厅.csv", _RESTAURANTS, _restaurants(rng, city.restaurants, month, end), encoding)
        _xlsx(place / "inspections.xlsx", _INSPECTIONS, _inspections(rng, visits))
        _csv(place / "violations.csv", _VIOLATIONS, _violations(rng, visits), "utf-8-sig")
        _csv(place / "投诉.csv", _COMPLAINTS, _complaints(rng, city, begin, end), "gb18030")
        periods.append(place.name)
        report(month + 1, MONTHS, f"wrote the delivery of {place.name}")
    return periods


def _month(number: int) -> date:
    return date(FIRST_DAY.year + number // 12, number % 12 + 1, 1)


def _day(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


def _restaurants(rng: np.random.Generator, restaurants: list[Restaurant], month: int, end: int) -> list[Row]:
    """Every restaurant open that month: a full list."""
    rows: list[Row] = []
    for restaurant in restaurants:
        if restaurant.opened >= end or restaurant.closed < end:
            continue
        # Now and then a place is rebuilt; the list says so from then on.
        if month and rng.random() < 0.004:
            restaurant.seats += 10
        seats = None if rng.random() < 0.006 else restaurant.seats
        cuisine = None if rng.random() < 0.004 else restaurant.cuisine
        row = (restaurant.id, restaurant.name, restaurant.english, restaurant.district, cuisine, seats,
               _day(restaurant.opened).isoformat(), restaurant.owner)  # fmt: skip
        rows.append(row)
        if rng.random() < 0.002:
            rows.append(row)
        elif rng.random() < 0.001:
            rows.append((*row[:5], restaurant.seats + 5, *row[6:]))
    return rows


def _inspections(rng: np.random.Generator, visits: list[Inspection]) -> list[Row]:
    rows: list[Row] = []
    for visit in visits:
        score = visit.score if rng.random() > 0.004 else 900 + int(rng.integers(100))
        name = visit.restaurant if rng.random() > 0.004 else f"R9{int(rng.integers(1000)):04d}"
        row = (name, _day(visit.day), visit.kind, visit.inspector, score)
        rows += [row, row] if rng.random() < 0.005 else [row]
    return rows


def _violations(rng: np.random.Generator, visits: list[Inspection]) -> list[Row]:
    rows: list[Row] = []
    for visit in visits:
        for risk, code, description in visit.found:
            day = _day(visit.day).isoformat() if rng.random() > 0.003 else ("2023-13-45", "未知")[int(rng.integers(2))]
            said = description if rng.random() > 0.01 else None
            rows.append((visit.restaurant, day, code, risk, said))
    return rows


def _complaints(rng: np.random.Generator, city: City, begin: int, end: int) -> list[Row]:
    rows: list[Row] = []
    for number, (day, restaurant, channel, text) in enumerate(city.complaints, 1):
        if not begin <= day < end:
            continue
        row = (f"C{number:06d}", restaurant, f"{_day(day):%Y/%m/%d}", channel if rng.random() > 0.01 else None, text)
        rows += [row, row] if rng.random() < 0.008 else [row]
    return rows


def _csv(path: Path, header: Row, rows: Iterable[Row], encoding: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


_PARTS = {
    "[Content_Types].xml": """\
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">\
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>\
<Default Extension="xml" ContentType="application/xml"/>\
<Override PartName="/xl/workbook.xml" \
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>\
<Override PartName="/xl/styles.xml" \
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/>\
<Override PartName="/xl/worksheets/sheet1.xml" \
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>""",
    "_rels/.rels": """\
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" \
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>\
</Relationships>""",
    "xl/workbook.xml": """\
<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" \
xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>\
<sheet name="检查" sheetId="1" r:id="rId1"/></sheets></workbook>""",
    "xl/_rels/workbook.xml.rels": """\
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" \
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/>\
<Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" \
Target="styles.xml"/></Relationships>""",
    "xl/styles.xml": """\
<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><fonts count="1"><font/></fonts>\
<fills count="1"><fill><patternFill patternType="none"/></fill></fills>\
<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>\
<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>""",
}
"""The parts around a sheet, as small as ECMA-376 allows; style 1 is a date."""
_EPOCH = date(1899, 12, 30)


def _xlsx(path: Path, header: Row, rows: Iterable[Row]) -> None:
    """One sheet. Own code and not a library: it is little, and the bytes must not hold the time of writing."""
    lines = [f"<row>{''.join(map(_cell, row))}</row>" for row in [header, *rows]]
    sheet = (
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
        f"{''.join(lines)}</sheetData></worksheet>"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**_PARTS, "xl/worksheets/sheet1.xml": sheet}.items():
            whole = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
            archive.writestr(zipfile.ZipInfo(name), whole, zipfile.ZIP_DEFLATED)


def _cell(value: str | int | date | None) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, date):
        return f'<c s="1"><v>{(value - _EPOCH).days}</v></c>'
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
