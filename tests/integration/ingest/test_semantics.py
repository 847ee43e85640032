"""What a delivery does to what is known, on small tables."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pyarrow.parquet as pq
import pytest

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.datasets.raw import RawFiles
from holdfast.backend.store import Leases, Pointers
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW
from holdfast.core.timeline import Period, parse_instant
from holdfast.errors import (
    ConfigError,
    ConflictError,
    ContractError,
    FileError,
    InputError,
    IntegrityError,
    LockedError,
    NotFoundError,
)

PROJECT = """
project: 厨房
tables:
  店: {files: 店*.csv, key: 编号, delivery: full, columns: {名: {type: text, personal: true}}}
  检查: {files: 检查.csv, key: [编号, 日期], time: 日期, links: {编号: 店}}
  违规: {files: 违规.csv, time: 日期, links: {编号: 店}}
"""
SHOPS = "编号,名,区\n" + "".join(f"{n},店{n},{'东西'[n % 2]}\n" for n in range(1, 41))
VISITS = "编号,日期,分\n" + "".join(f"{n},2016-01-{n % 28 + 1:02},{60 + n}\n" for n in range(1, 41))
FINDS = (
    "编号,日期,级\n"
    + "".join(f"{n},2016-01-{n % 28 + 1:02},{'高低'[n % 2]}\n" for n in range(1, 41))
    + ("1,2016-01-02,低\n" * 2)
)


def first(world):
    return world.deliver("2016-01", 店=SHOPS, 检查=VISITS, 违规=FINDS)


def moved(text):
    return text.replace("2016-01", "2016-02")


def state(row):
    end = row[KNOWN_TO]
    return str(row[KNOWN_FROM])[:10], None if end is None else str(end)[:10]


@pytest.fixture
def world(make_world):
    return make_world(PROJECT)


def everything(world):
    """Every file of the project but the database's and locks, and every version."""
    files = {
        str(path.relative_to(world.root)): path.read_bytes()
        for top in ("data", ".holdfast/blobs")
        for path in (world.root / top).rglob("*")
        if path.is_file()
    }
    return files, [version.id for version in world.datasets.list()]


def test_a_first_delivery(world):
    result = first(world)
    version = result.version
    assert (version.version, version.state, version.period, result.created) == ("v1.0", "pending", "2016-01", True)
    assert version.rows == {"店": 40, "检查": 40, "违规": 42}
    row = world.datasets.read()["违规"].slice(41, 1).to_pylist()[0]
    assert (row[SOURCE_FILE], row[SOURCE_ROW]) == ("data/raw/2016-01/违规.csv", 43)
    assert state(row) == ("2016-01-02", None)
    assert state(world.datasets.read()["店"].slice(0, 1).to_pylist()[0]) == ("2016-02-01", None)
    assert world.datasets.schema().table("店").column("名").personal
    assert len(version.sources) == 3
    assert pq.read_table(world.layout.processed / "违规.parquet").num_rows == 42


def test_changed_removed_returning_and_unchanged_rows(world):
    first(world)
    february = SHOPS.replace("店5,西", "店五,西").replace("7,店7,西\n", "")
    result = world.deliver("2016-02", 店=february, 检查=moved(VISITS), 违规=moved(FINDS))
    report = result.report["tables"]["店"]
    assert [report[k] for k in ("added", "changed", "removed", "unchanged")] == [0, 1, 1, 38]
    world.deliver("2016-03", 店=SHOPS, 检查="编号,日期,分\n", 违规="编号,日期,级\n")
    states = world.datasets.read()["店"].to_pylist()
    assert [(r["名"], *state(r)) for r in states if r["编号"] in (5, 7)] == [
        ("店5", "2016-02-01", "2016-03-01"),
        ("店7", "2016-02-01", "2016-03-01"),
        ("店五", "2016-03-01", "2016-04-01"),
        ("店7", "2016-04-01", None),
        ("店5", "2016-04-01", None),
    ]
    assert world.datasets.get().rows["店"] == world.datasets.read(current_only=True)["店"].num_rows == 40
    assert world.datasets.read("v1.1", current_only=True)["店"].num_rows == 39


def test_a_correction_is_a_delivery_of_its_own(world):
    first(world)
    result = world.deliver("2016-01", "fixed", 检查=VISITS.replace("2016-01-03,62", "2016-01-03,99"))
    assert result.delivery == "2016-01~2"
    assert (world.root / "data/raw/2016-01~2/检查.csv").is_file()
    assert (world.root / "data/raw/2016-01/检查.csv").read_text(encoding="utf-8") == VISITS
    states = [r for r in world.datasets.read()["检查"].to_pylist() if r["编号"] == 2]
    assert [(r["分"], *state(r)) for r in states] == [
        (62, "2016-01-03", "2016-02-01"),
        (99, "2016-02-01", None),
    ]
    again = world.deliver("2016-01", "fixed", 检查=VISITS.replace("2016-01-03,62", "2016-01-03,99"))
    assert not again.created
    assert len(world.datasets.list()) == 2


def test_a_correction_of_an_older_period_does_not_move_now_backwards(world):
    first(world)
    world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS))
    result = world.deliver("2016-01", "fixed", 检查=VISITS.replace("2016-01-03,62", "2016-01-03,99"))
    assert (result.delivery, result.version.report["delivery"]) == ("2016-01~2", "2016-01~2")
    assert result.version.period == world.datasets.get().period == "2016-02"
    with world.store.read() as connection:
        assert [move.why for move in Pointers(connection).history("dataset")][-1] == "data of 2016-01~2"


def test_what_was_delivered_before_is_known_also_after_its_correction(world):
    first(world)
    fixed = VISITS.replace("2016-01-03,62", "2016-01-03,99")
    world.deliver("2016-01", "fixed", 检查=fixed)
    results = world.ingest_folder(world.layout.raw)
    assert [(result.created, result.delivery) for result in results] == [(False, "2016-01"), (False, "2016-01")]
    assert not world.deliver("2016-01", 店=SHOPS, 检查=VISITS, 违规=FINDS).created
    assert not world.deliver("2016-01", 检查=fixed, 违规=FINDS).created
    rows = world.datasets.read(current_only=True)["检查"].to_pylist()
    assert next(row["分"] for row in rows if row["编号"] == 2) == 99
    assert len(world.datasets.list()) == 2


def test_what_was_known_when_it_was_read_ahead_may_be_news_when_it_is_applied(world):
    first(world)
    folder = world.root / "交付"
    for name, text in (("2016-01", VISITS.replace("2016-01-03,62", "2016-01-03,99")), ("2016-01~2", VISITS)):
        (folder / name).mkdir(parents=True)
        (folder / name / "检查.csv").write_text(text, encoding="utf-8")
    assert [result.created for result in world.ingest_folder(folder)] == [True, True]
    rows = world.datasets.read(current_only=True)["检查"].to_pylist()
    assert next(row["分"] for row in rows if row["编号"] == 2) == 62


def test_equal_rows_without_a_key_are_numbered(world):
    first(world)
    more = "编号,日期,级\n" + "1,2016-01-02,低\n" * 4 + "2,2016-01-03,高\n"
    report = world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=more).report["tables"]["违规"]
    assert (report["unchanged"], report["added"]) == (4, 1)
    rows = world.datasets.read()["违规"].to_pylist()
    assert sum((r["编号"], str(r["日期"])[:10], r["级"]) == (1, "2016-01-02", "低") for r in rows) == 4


def test_equal_rows_of_other_periods_are_other_rows_where_nothing_tells_their_time(make_world):
    world = make_world("project: p\ntables:\n  t: {files: t.csv}\n")
    rows = "谁,额\n1,10\n1,10\n2,20\n"
    world.deliver("2016-01", t=rows)
    report = world.deliver("2016-02", t=rows).report["tables"]["t"]
    assert (report["added"], report["unchanged"]) == (3, 0)
    assert not world.deliver("2016-01", t=rows).created
    report = world.deliver("2016-01", "fixed", t=rows + "1,10\n").report["tables"]["t"]
    assert (report["added"], report["unchanged"]) == (1, 3)
    report = world.deliver("2016-01", "again", t=rows + "3,30\n").report["tables"]["t"]
    assert (report["added"], report["unchanged"]) == (1, 3)
    assert world.datasets.get().rows == {"t": world.datasets.read(current_only=True)["t"].num_rows} == {"t": 8}


def test_out_of_order(world):
    first(world)
    world.deliver("2016-03", 店=SHOPS, 检查="编号,日期,分\n1,2016-01-02,10\n", 违规="编号,日期,级\n")
    with pytest.raises(ConflictError, match="full list") as caught:
        world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS))
    assert caught.value.where["period"] == "2016-02"
    late = moved(VISITS) + "1,2016-01-02,20\n"
    report = world.deliver("2016-02", 检查=late, 违规=moved(FINDS)).report["tables"]["检查"]
    assert report["reasons"] == {"differs from what a later period delivered": 1}
    fault = world.datasets.quarantine().to_pylist()[-1]
    assert (fault["row"], fault["column"], fault["value"][:4]) == (42, "编号, 日期", "1, 2")
    assert next(r["分"] for r in world.datasets.read(current_only=True)["检查"].to_pylist() if r["编号"] == 1) == 10


def test_a_row_in_quarantine_is_not_removed_from_the_full_list(world):
    first(world)
    world.use(PROJECT.replace("columns: {", "columns: {区: {values: [东, 西]}, "))
    february = SHOPS.replace("5,店5,西", "5,店5,南")
    result = world.deliver("2016-02", 店=february, 检查=moved(VISITS), 违规=moved(FINDS))
    assert result.version.version == "v2.0"
    assert result.report["tables"]["店"]["removed"] == 0
    fault = world.datasets.quarantine().to_pylist()[0]
    assert fault["value"] == "南"
    assert (fault["table"], fault["row"], fault["column"]) == ("店", 6, "区")


def test_personal_values_are_masked(world):
    first(world)
    world.use(PROJECT.replace("personal: true", "personal: true, pattern: '店\\d+'"))
    world.deliver("2016-02", 店=SHOPS.replace("店9,", "张三,"), 检查=moved(VISITS), 违规=moved(FINDS))
    fault = world.datasets.quarantine().to_pylist()[0]
    assert fault["value"] == "***"
    assert "张三" not in json.dumps(world.datasets.get().report, ensure_ascii=False)


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        ({"店": SHOPS, "检查": moved(VISITS)}, ContractError, "table '违规' is missing"),
        (
            {"店": SHOPS, "检查": moved(VISITS).replace("分", "分数"), "违规": FINDS},
            ContractError,
            "Did you mean '分数'",
        ),
        (
            {"店": SHOPS, "检查": moved(VISITS).replace(",7", ",x7"), "违规": FINDS},
            ContractError,
            "分 is not a whole number",
        ),
        ({"店": "编号,名,区\n", "检查": VISITS, "违规": FINDS}, ContractError, "no usable row"),
        ({"店": SHOPS, "检查": "\0\0\1\2\3" * 99, "违规": FINDS}, FileError, "检查.csv"),
        ({"店": SHOPS, "检查": VISITS.replace("日期", "__row"), "违规": FINDS}, ContractError, "reserved"),
    ],
)
def test_a_failed_import_leaves_nothing(world, texts, error, said):
    first(world)
    before = everything(world)
    with pytest.raises(error) as caught:
        world.deliver("2016-02", **texts)
    assert said in str(caught.value)
    assert caught.value.where["period"] == "2016-02"
    assert ".incoming" not in str(caught.value)
    assert "data/raw" not in str(caught.value)
    place = caught.value.where.get("file") or caught.value.where.get("first")
    assert place is None or str(world.root / "incoming" / "2016-02") in place
    assert everything(world) == before
    assert world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).version.version == "v1.1"


def test_other_refusals(world):
    with pytest.raises(NotFoundError, match="no data yet"):
        world.datasets.get()
    with pytest.raises(InputError, match="not a period"):
        world.ingest("2016-13", "x.csv")
    with pytest.raises(InputError, match="no files"):
        world.ingest("2016-01")
    with pytest.raises(FileError, match="cannot be read"):
        world.ingest("2016-01", world.root / "没有.csv")
    first(world)
    with pytest.raises(NotFoundError, match=r"v1\.0"):
        world.datasets.get("v1.9")
    with pytest.raises(NotFoundError, match="no table"):
        world.datasets.read(tables=["x"])
    with pytest.raises(InputError, match="pending"), world.store.write("test") as connection:
        world.datasets.set_state(connection, "v1.0", "done")
    with pytest.raises(InputError, match="without their table"):
        world.datasets.confirm_contract(columns=["分"])
    world.use(PROJECT.replace("files: 违规.csv", "files: 检查*.csv"))
    with pytest.raises(ConfigError, match="more than one table"):
        world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS))
    world.use(PROJECT + "timezone: Asia/Shanghai\n")
    with pytest.raises(ConflictError, match="time zone"):
        world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS))


def test_files_in_place_are_used_and_may_not_change(world):
    folder = world.layout.raw / "2016-01"
    folder.mkdir(parents=True)
    for name, text in {"店": SHOPS, "检查": VISITS, "违规": FINDS}.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    (folder / "说明.txt").write_text("?", encoding="utf-8")
    result = world.ingest("2016-01", folder)
    assert result.delivery == "2016-01"
    assert "no table claims 说明.txt; it is kept with the raw files" in result.notes
    assert [path.name for path in world.layout.raw.iterdir()] == ["2016-01"]
    (folder / "检查.csv").write_text(VISITS + "1,2016-01-30,5\n", encoding="utf-8")
    with pytest.raises(ConflictError, match="never rewritten"):
        world.ingest("2016-01", folder)


def test_schema_changes_make_a_major_version(world):
    first(world)
    with_phone = SHOPS.replace("区\n", "区,电话\n").replace("东\n", "东,\n").replace("西\n", "西,\n")
    result = world.deliver("2016-02", 店=with_phone, 检查=moved(VISITS), 违规=moved(FINDS))
    assert result.version.version == "v2.0"
    assert result.report["tables"]["店"]["unchanged"] == 40
    typed = with_phone.replace("东,\n", "东,0123\n")
    result = world.deliver("2016-03", 店=typed, 检查="编号,日期,分\n", 违规="编号,日期,级\n")
    assert result.report["tables"]["店"]["notes"] == ["电话: first values seen: the type is category"]
    assert result.version.version == "v3.0"
    difference = world.datasets.compare("v1.0", "v3.0")
    assert difference.schema == ("店.电话 added",)
    assert difference.tables["店"].changed == 20
    example = difference.tables["店"].examples["changed"][0]
    assert (example["was"], example["is"]) == ({"电话": None}, {"电话": "0123"})
    assert json.dumps(difference.to_dict(), ensure_ascii=False, default=str)
    assert world.datasets.compare("v3.0", "v1.0").schema == ("店.电话 removed",)


def test_going_back_and_on(world):
    one = first(world).version
    two = world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).version
    world.datasets.checkout("v1.0", "二月有误")
    assert world.datasets.get().id == one.id
    assert pq.read_table(world.layout.processed / "检查.parquet").num_rows == 40
    three = world.deliver("2016-02", "again", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).version
    assert (three.version, three.parents) == ("v1.2", (one.id,))
    assert three.rows == two.rows
    assert {file.path for file in world.datasets.files()} == {file.path for file in world.datasets.files(two.id)}
    assert [v.version for v in world.datasets.list()] == ["v1.0", "v1.1", "v1.2"]
    a, b = world.datasets.read("v1.1"), world.datasets.read("v1.2")
    assert all(a[name].equals(b[name]) for name in a)


def test_states(world):
    first(world)
    with world.store.write("test") as connection:
        world.datasets.set_state(connection, "v1.0", "trained")
    second = world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).version
    assert world.datasets.get("v1.0").state == "trained"
    assert second.state == "retrain_needed"
    third = world.deliver("2016-03", 店=SHOPS, 检查="编号,日期,分\n", 违规="编号,日期,级\n").version
    assert third.state == "retrain_needed"


def test_confirmed_contract_binds(world):
    first(world)
    before = world.datasets.contract()
    assert before["检查"].columns["分"].binding == {}
    confirmed = world.datasets.confirm_contract("检查", ["分"], author="李四")
    assert (confirmed.version, confirmed.author, confirmed.rows) == ("v2.0", "李四", world.datasets.get("v1.0").rows)
    assert world.datasets.contract()["检查"].columns["分"].binding == {"nullable": False, "min": 61, "max": 100}
    assert world.datasets.confirm_contract("检查", ["分"]).id == confirmed.id
    february = moved(VISITS).replace(",100\n", ",101\n")
    result = world.deliver("2016-02", 店=SHOPS, 检查=february, 违规=moved(FINDS))
    assert result.version.version == "v2.1"
    assert result.report["tables"]["检查"]["reasons"] == {"分 is more than 100": 1}
    with pytest.raises(NotFoundError, match="no column"):
        world.datasets.confirm_contract("检查", ["没有"])


def test_one_change_at_a_time_and_dead_holders_do_not_matter(world):
    first(world)
    with (
        Leases(world.store, SystemClock()).hold(["data"], doing="ingest 2016-04"),
        ThreadPoolExecutor() as other,
        pytest.raises(LockedError, match=f"the data is held by process {os.getpid()} .*ingest 2016-04"),
    ):
        other.submit(world.deliver, "2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).result()
    code = "import os, sys; from holdfast.backend.store import Leases, Store\n"
    code += "from holdfast.backend.adapters.clock import SystemClock\n"
    code += "with Leases(Store(sys.argv[1]), SystemClock()).hold(['data'], doing='it'): os.kill(os.getpid(), 9)"
    url = world.layout.database_url
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == -9
    assert world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS)).created


def test_importers_at_once_are_serial_or_refused(world):
    first(world)
    outcomes = []

    def run(month):
        try:
            outcomes.append(
                world.deliver(
                    f"2016-{month:02}", 店=SHOPS, 检查="编号,日期,分\n", 违规="编号,日期,级\n"
                ).version.version
            )
        except (LockedError, ConflictError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(month,)) for month in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(one for one in outcomes if one.startswith("v"))
    assert len(outcomes) == 6
    assert numbers
    assert len(world.datasets.list()) == 1 + len(numbers)


def test_a_damaged_part_is_noticed(world, make_world):
    first(world)
    blobs = sorted((world.layout.private / "blobs").glob("??/*"), key=lambda path: path.stat().st_size)
    for path in blobs:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    fresh = make_world(PROJECT, root=world.root)
    with pytest.raises(IntegrityError, match="not what was written"):
        fresh.datasets.read()


def test_an_interrupted_face_is_redone(world):
    first(world)
    (world.layout.processed / "manifest.json").unlink()
    (world.layout.processed / "店.parquet").write_bytes(b"half")
    (world.layout.processed / ".违规.parquet.1.new").write_bytes(b"half")
    world.datasets.refresh_face()
    assert pq.read_table(world.layout.processed / "店.parquet").num_rows == 40
    assert {path.name for path in world.layout.processed.iterdir()} == {
        "manifest.json", "店.parquet", "检查.parquet", "违规.parquet"
    }  # fmt: skip


def test_folders_of_periods(world):
    folder = world.root / "交付"
    for name in ("2016-02", "2016-01", "notes"):
        (folder / name).mkdir(parents=True)
    for name, change in (("2016-01", str), ("2016-02", moved)):
        (folder / name / "店.csv").write_text(SHOPS, encoding="utf-8")
        (folder / name / "检查.csv").write_text(change(VISITS), encoding="utf-8")
        (folder / name / "违规.csv").write_text(change(FINDS), encoding="utf-8")
        (folder / name / ".hidden").write_text("", encoding="utf-8")
    (folder / "2016-03").mkdir()
    told = []
    with pytest.raises(InputError, match="no files") as caught:
        world.ingest_folder(folder, progress=lambda *said: told.append(said))
    assert "2 deliveries before it were imported" in str(caught.value)
    assert [v.period for v in world.datasets.list()] == ["2016-01", "2016-02"]
    assert told[1:] == [(1, 3, "2016-01 imported as v1.0"), (2, 3, "2016-02 imported as v1.1")]
    (folder / "2016-03").rmdir()
    results = world.ingest_folder(folder)
    assert [result.created for result in results] == [False, False]
    assert "not named by a period, left alone: notes" in results[0].notes
    with pytest.raises(InputError, match="no sub-folder"):
        world.ingest_folder(folder / "notes")


@pytest.mark.parametrize(
    ("known", "expected"),
    [("event + 3d", "2016-01-05"), ("period_start", "2016-01-01"), ("delivery", "2016-02-01"), ("到", "2016-01-20")],
)
def test_known_rules(make_world, known, expected):
    world = make_world(f"project: p\ntables:\n  t: {{files: t.csv, key: id, time: 日, known: {known}}}\n")
    text = "id,日,到\n" + "".join(f"{n},2016-01-02,2016-01-20\n" for n in range(40))
    assert world.deliver("2016-01", t=text).created
    assert {state(row) for row in world.datasets.read()["t"].to_pylist()} == {(expected, None)}
    changed = text.replace("5,2016-01-02", "5,2016-01-03")
    world.deliver("2016-01", "fixed", t=changed)
    states = [state(row) for row in world.datasets.read()["t"].to_pylist() if row["id"] == 5]
    assert states == [(expected, "2016-02-01"), ("2016-02-01", None)]


def test_codes_and_links_keep_their_leading_zeros(make_world):
    world = make_world(
        "project: p\ntables:\n"
        "  a: {files: a.csv, key: 码, delivery: full}\n"
        "  b: {files: b.csv, key: id, links: {码: a}}\n"
    )
    world.deliver("2016-01", a="码,x\n007,1\n12,2\n", b="id,码\n1,007\n2,12\n3,7\n")
    tables = world.datasets.read()
    assert tables["b"]["码"].to_pylist() == ["007", "12", "7"]
    assert world.datasets.get().report["tables"]["b"]["unknown_parents"] == {
        "码": {"rows": 1, "keys": 1, "examples": ["7"]}
    }


def test_the_last_instant_of_a_period_belongs_to_the_time_zone(make_world):
    world = make_world("project: p\ntimezone: Asia/Shanghai\ntables:\n  t: {files: t.csv, key: id, delivery: full}\n")
    world.deliver("2016-01", t="id,v\n1,2\n")
    moment = world.datasets.read()["t"][KNOWN_FROM].cast("int64")[0].as_py()
    assert moment == Period.parse("2016-01", "Asia/Shanghai").end == parse_instant("2016-01-31T16:00:00Z")


def test_rows_with_nulls_are_found_again_in_older_parts(make_world):
    world = make_world("project: p\ntables:\n  t: {files: t.csv, time: 日, columns: {v: int, w: category}}\n")
    world.deliver("2016-01", t="v,w,日\n5,a,2016-01-02\n,a,2016-01-02\n")
    report = world.deliver("2016-02", t="v,w,日\n,a,2016-01-02\n7,a,2016-01-02\n").report["tables"]["t"]
    assert (report["added"], report["unchanged"]) == (1, 1)


def test_a_published_but_uncommitted_delivery_is_taken_away(world):
    first(world)
    other = world.root / "违规.csv"
    other.write_text(moved(FINDS), encoding="utf-8")
    raw = RawFiles(world.layout, world.store)
    raw.publish(raw.stage([other], "2016-02"), "2016-02")
    raw.stage([other], "2016-03")
    assert len(list(world.layout.raw.iterdir())) == 3
    result = world.deliver("2016-02", 店=SHOPS, 检查=moved(VISITS), 违规=moved(FINDS))
    assert result.delivery == "2016-02"
    assert {path.name for path in world.layout.raw.iterdir()} == {"2016-01", "2016-02"}


def test_one_sheet_a_table_of_one_workbook(make_world):
    import openpyxl

    world = make_world(
        "project: p\ntables:\n"
        "  店: {files: 全部.xlsx, sheet: 店铺, key: 编号, delivery: full}\n"
        "  检: {files: 全部.xlsx, sheet: 检查, key: [编号, 日], time: 日, links: {编号: 店}}\n"
    )
    book = openpyxl.Workbook()
    book.active.title = "店铺"
    for row in (["编号", "名"], [1, "甲"], [2, "乙"]):
        book.active.append(row)
    sheet = book.create_sheet("检查")
    for row in (["编号", "日"], [1, datetime(2016, 1, 5)], [2, datetime(2016, 1, 6)]):
        sheet.append(row)
    file = world.root / "全部.xlsx"
    book.save(file)
    result = world.ingest("2016-01", file)
    assert result.version.rows == {"店": 2, "检": 2}
    assert [(f.table, f.rows) for f in world.datasets.files()] == [("店", 2), ("检", 2)]
    assert not world.ingest("2016-01", file).created


def test_several_files_a_table_and_types_that_meet(make_world):
    world = make_world("project: p\ntables:\n  t: {files: 't*.csv', key: id}\n")
    folder = world.root / "in"
    folder.mkdir(parents=True)
    (folder / "t1.csv").write_text("id,v\n1,2\n", encoding="utf-8")
    (folder / "t2.csv").write_text("v,id\n2.5,2\n", encoding="utf-8")
    world.ingest("2016-01", folder)
    rows = world.datasets.read()["t"].to_pylist()
    assert [(r["id"], r["v"], r[SOURCE_FILE]) for r in rows] == [
        (1, 2.0, "data/raw/2016-01/t1.csv"),
        (2, 2.5, "data/raw/2016-01/t2.csv"),
    ]
    (folder / "t2.csv").write_text("id,w\n3,9\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"column v") as caught:
        world.ingest("2016-02", folder)
    assert caught.value.where["file"] == str(folder / "t2.csv")
    (world.root / "t1.csv").write_text("id,v\n", encoding="utf-8")
    with pytest.raises(ConflictError, match="two files"):
        world.ingest("2016-02", folder / "t1.csv", world.root / "t1.csv")


def test_a_correction_is_not_known_before_what_it_corrects(make_world):
    world = make_world("project: p\ntables:\n  t: {files: t.csv, key: id, time: 日, known: event + 60d}\n")
    world.deliver("2016-01", t="id,日,v\n1,2016-01-02,5\n")
    world.deliver("2016-01", "fixed", t="id,日,v\n1,2016-01-02,6\n")
    states = [(row["v"], *state(row)) for row in world.datasets.read()["t"].to_pylist()]
    assert states == [(5, "2016-03-02", "2016-03-02"), (6, "2016-03-02", None)]
