"""The real 54 months, checked against an independent count with pandas."""

import json
from datetime import UTC, datetime
from hashlib import sha256

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, SYSTEM_FIELDS
from holdfast.core.timeline import Period

ZONE = "America/Los_Angeles"


@pytest.fixture(scope="module")
def raw(data_dir):
    """The delivered text, read by pandas alone."""
    months = sorted(path.name for path in (data_dir / "sf_inspections").iterdir())
    frames = {name: [] for name in ("businesses", "violations", "inspections")}
    for month in months:
        folder = data_dir / "sf_inspections" / month
        for name in ("businesses", "violations"):
            frame = pd.read_csv(folder / f"{name}.csv", encoding="latin-1", dtype=str, keep_default_na=False)
            frames[name].append(frame.assign(month=month, line=range(2, len(frame) + 2)))
        frames["inspections"].append(pd.read_excel(folder / "inspections.xlsx", engine="openpyxl").assign(month=month))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}


def test_counts(sf, raw):
    assert [result.version.version for result in sf.results] == [f"v1.{n}" for n in range(54)]
    rows = sf.datasets.get().rows
    assert rows["inspections"] == len(raw["inspections"]) == 45_207
    assert rows["violations"] == len(raw["violations"]) == 65_764
    newest = raw["businesses"][raw["businesses"].month == "2016-12"]
    assert rows["businesses"] == newest.business_id.nunique() == 5_745
    current = sf.datasets.read(current_only=True)
    assert {name: table.num_rows for name, table in current.items()} == rows


def test_defects_of_the_lists(sf, raw):
    lists = raw["businesses"].drop(columns="line")
    repeated = int(lists.duplicated(["business_id", "month"]).sum())
    exact = int(lists.duplicated().sum())
    assert repeated == 494
    reports = [result.report["tables"]["businesses"] for result in sf.results]
    assert sum(report["duplicates"] for report in reports) == exact == 334
    assert sum(report["quarantined"] for report in reports) == repeated - exact == 160
    quarantine = sf.datasets.quarantine()
    assert quarantine.num_rows == 160
    one = quarantine.slice(0, 1).to_pylist()[0]
    line = raw["businesses"].set_index(["month", "line"]).loc[(one["file"].split("/")[2], one["row"])]
    assert line.business_id == one["value"]


def test_unknown_parents(sf, raw):
    pairs = raw["inspections"][["business_id", "month"]].drop_duplicates()
    lists = raw["businesses"][["business_id", "month"]].drop_duplicates().astype({"business_id": "int64"})
    missing = pairs.merge(lists, how="left", indicator=True)._merge.eq("left_only").sum()
    found = [result.report["tables"]["inspections"]["unknown_parents"] for result in sf.results]
    assert sum(one["business_id"]["keys"] for one in found if one) == missing == 669


def test_violations_without_inspection(sf):
    tables = sf.datasets.read(current_only=True)
    seen = set(zip(*(tables["inspections"][c].to_pylist() for c in ("business_id", "date")), strict=True))
    asked = zip(*(tables["violations"][c].to_pylist() for c in ("business_id", "date")), strict=True)
    assert sum(pair not in seen for pair in asked) == 155


def test_every_month_of_the_full_list_can_be_read_back(sf, raw):
    history = sf.datasets.read(tables=["businesses"])["businesses"]
    for month, rows in raw["businesses"].groupby("month"):
        end = pa.scalar(Period.parse(month, ZONE).end, pa.int64()).cast(SYSTEM_FIELDS[KNOWN_FROM])
        visible = history.filter(
            pc.and_(
                pc.less_equal(history[KNOWN_FROM], end),
                pc.or_kleene(pc.is_null(history[KNOWN_TO]), pc.less(end, history[KNOWN_TO])),
            )
        )
        wanted = rows.drop_duplicates("business_id", keep="last")
        assert visible.num_rows == len(wanted)
        names = dict(
            zip(
                wanted.business_id.astype(int),
                zip(wanted.name, wanted.address, wanted.TaxCode, strict=True),
                strict=True,
            )
        )
        blank = {None: ""}
        found = {
            row["business_id"]: tuple(blank.get(row[c], row[c]) for c in ("name", "address", "TaxCode"))
            for row in visible.select(["business_id", "name", "address", "TaxCode"]).to_pylist()
        }
        assert found == names


def test_events_are_known_when_they_happened_and_come_from_a_file_and_row(sf, raw):
    tables = sf.datasets.read()
    violations = tables["violations"]
    assert violations[KNOWN_FROM].equals(violations["date"])
    assert violations[KNOWN_TO].null_count == violations.num_rows
    one = violations.slice(30_000, 1).to_pylist()[0]
    month = one[SOURCE_FILE].split("/")[2]
    text = raw["violations"][(raw["violations"].month == month) & (raw["violations"].line == one[SOURCE_ROW])].iloc[0]
    local = pd.Timestamp(text.date).tz_localize(ZONE).tz_convert("UTC")
    assert (int(text.business_id), text.description, local) == (one["business_id"], one["description"], one["date"])
    scores = raw["inspections"]
    got = tables["inspections"].select(["business_id", "type", "Score", "date"]).to_pandas()
    got["date"] = got.date.dt.tz_convert(ZONE).dt.tz_localize(None)
    both = got.merge(scores, on=["business_id", "date", "type"], suffixes=("", "_raw"))
    assert len(both) == 45_207
    assert both.Score.astype("Float64").equals(both.Score_raw.astype("Float64"))


def test_raw_files_are_kept_as_they_came(sf, data_dir):
    files = sf.datasets.files()
    assert len(files) == 162
    for file in files[::20]:
        data = (sf.root / file.path).read_bytes()
        assert data == (data_dir / "sf_inspections" / file.period / file.name).read_bytes()
        assert sha256(data).hexdigest() == file.sha256
        assert len(data) == file.bytes


def test_old_versions_read_as_they_were(sf, raw):
    version = sf.datasets.get("v1.11")
    assert version.period == "2013-06"
    until = raw["inspections"].month <= "2013-06"
    assert (
        sf.datasets.read("v1.11", ["inspections"])["inspections"].num_rows == until.sum() == version.rows["inspections"]
    )
    difference = sf.datasets.compare("v1.11", "v1.12")
    assert difference.schema == ()
    added = (raw["violations"].month == "2013-07").sum()
    assert (difference.tables["violations"].added, difference.tables["violations"].removed) == (added, 0)
    old, new = (
        raw["businesses"][raw["businesses"].month == month].drop_duplicates("business_id", keep="last")
        for month in ("2013-06", "2013-07")
    )
    lists = difference.tables["businesses"]
    assert lists.added == len(set(new.business_id) - set(old.business_id))
    assert lists.removed == len(set(old.business_id) - set(new.business_id))


def test_a_repeat_changes_nothing(sf, data_dir):
    before = sf.datasets.list()
    results = sf.ingest_folder(data_dir / "sf_inspections")
    assert not any(result.created for result in results)
    assert sf.datasets.list() == before
    assert {path.name for path in sf.layout.raw.iterdir()} == {result.delivery for result in sf.results}


def test_face_shows_the_current_version(sf):
    manifest = json.loads((sf.layout.processed / "manifest.json").read_text())
    assert manifest["version"] == "v1.53"
    frame = pd.read_parquet(sf.layout.processed / "businesses.parquet")
    assert len(frame) == 5_745
    assert frame[KNOWN_FROM].max() == pd.Timestamp(datetime(2017, 1, 1, 8, tzinfo=UTC))
