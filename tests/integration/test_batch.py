"""Predictions for files, folders and stored entities, as durable jobs."""

import csv
import datetime as dt
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import holdfast
from holdfast.backend.adapters.files import FileReader
from holdfast.backend.pipelines import predicting as module
from holdfast.backend.pipelines.deploy import deploy
from holdfast.backend.pipelines.ingest import ingest
from holdfast.backend.pipelines.trace import trace_prediction
from holdfast.backend.serving.log import read_prediction, read_predictions
from holdfast.errors import AlignmentError, ConflictError, FileError, InputError, NotFoundError, UnavailableError

from .serving_project import CONFIG, LABELS, copy_project, write_period
from .test_serve_answers import features_of
from .test_serve_schema import project as schema_project

ROOT = Path(__file__).resolve().parents[2]
RISK = ["高风险", "高风险 decision", "Low Risk", "Low Risk decision"]


@pytest.fixture(scope="module")
def opened(rooms, serving_root):
    with holdfast.open(serving_root) as made:
        yield made


def written(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def some_rows(rooms, count):
    values, _ = features_of(rooms)
    number = next(name for name, value in values.items() if isinstance(value, float))
    return [values | {number: float(n % 97), "店名": f"第{n}家"} for n in range(count)], number


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_file_of_features(opened, rooms, tmp_path, kind):
    rows = [features_of(rooms, entity=entity)[0] | {"店名": f"第{entity}家"} for entity in range(1, 8)]
    source = write_rows(tmp_path / f"query.{'csv' if kind == 'csv' else 'parquet'}", rows)
    output, done = tmp_path / f"out.{kind}", []
    report = opened.predict_file("风险", source, output, progress=lambda *told: done.append(told))
    plain = [{n: v for n, v in row.items() if n != "店名"} for row in rows]
    expected = opened.service.features("风险", plain)["predictions"]
    found = written(output)
    assert (report.rows, report.rejected, done[-1][:2], len(found)) == (7, 0, (7, 7), 7)
    for row, answer in zip(found, expected, strict=True):
        assert row["店名"].startswith("第")
        assert row["deployment"] == report.deployment
        for label in LABELS["风险"]:
            assert float(row[label]) == answer["labels"][label]["probability"]
            assert str(row[f"{label} decision"]).lower() == str(answer["labels"][label]["decision"]).lower()
        assert int(row["repairs"]) == len(answer["repairs"])
        assert trace_prediction(rooms.lineage, row["prediction_id"]).facts["target"] == "风险"
    assert not (rooms.layout.private / "batches" / opened.jobs.list(kind="predict", limit=1)[0].id).exists()


def test_a_bad_row_leaves_nothing(opened, rooms, tmp_path):
    rows, number = some_rows(rooms, 3)
    rows[2][number] = "很多"
    source, output = write_rows(tmp_path / "q.csv", rows), tmp_path / "out.csv"
    before = len(read_predictions(rooms.log, limit=100_000))
    with pytest.raises(AlignmentError) as caught:
        opened.predict_file("风险", source, output)
    assert caught.value.where == {"file": "q.csv", "row": 4, "feature": number}
    assert list(tmp_path.iterdir()) == [source]
    assert len(read_predictions(rooms.log, limit=100_000)) == before
    with pytest.raises(FileError, match=r"\.jsonl"):
        opened.predict_file("风险", source, tmp_path / "out.xlsx")
    with pytest.raises(NotFoundError, match="风"):
        opened.predict_file("风", source, output)


def test_bad_rows_are_collected_with_their_reason_and_the_others_answered(opened, rooms, tmp_path):
    rows, number = some_rows(rooms, 40)
    bad = {5, 6, 31}
    for index in bad:
        rows[index][number] = "很多"
    source, output = write_rows(tmp_path / "q.csv", rows), tmp_path / "out.csv"
    report = opened.predict_file("风险", source, output, on_error="collect")
    assert (report.rows, report.rejected, report.rejects) == (37, 3, tmp_path / "out.rejected.csv")
    assert [row["店名"] for row in written(output)] == [f"第{n}家" for n in range(40) if n not in bad]
    rejects = written(report.rejects)
    assert [(row["file"], int(row["row"]), row["column"], row["code"]) for row in rejects] == [
        ("q.csv", index + 2, number, "alignment") for index in sorted(bad)
    ]
    assert all("很多" in row["reason"] for row in rejects)
    entities = tmp_path / "e.csv"
    entities.write_text("shop_id,cutoff,type\n5,2024-03-15,投诉\nabc,,投诉\n6,bald,\n", encoding="utf-8")
    again = opened.predict_file("风险", entities, output, on_error="collect")
    assert (again.rows, [(int(row["row"]), row["column"]) for row in written(again.rejects)]) == (
        1, [(3, "shop_id"), (4, "cutoff")],
    )  # fmt: skip
    with pytest.raises(InputError, match="collected"):
        opened.predict_file("风险", source, output, on_error="ignore")


@pytest.mark.parametrize("name", ["高风险", "Low Risk decision", "repairs", "prediction_id", "deployment"])
def test_a_column_called_as_a_result_is_refused_before_anything_is_predicted(opened, rooms, tmp_path, name):
    rows, _ = some_rows(rooms, 1)
    source, output = write_rows(tmp_path / "q.csv", [rows[0] | {name: "mine"}]), tmp_path / "out.csv"
    people = tmp_path / "e.csv"
    people.write_text(f"shop_id,type,{name}\n5,投诉,mine\n", encoding="utf-8")
    for asked in (source, people):
        with pytest.raises(InputError) as caught:
            opened.predict_file("风险", asked, output)
        assert caught.value.where == {"file": asked.name, "column": name}
    assert not output.exists()


@pytest.mark.parametrize(("target", "results"), [("score", ["score"]), ("grade", ["grade 优", "grade decision"])])
def test_results_of_every_task(opened, tmp_path, target, results):
    plain, output = tmp_path / "e.csv", tmp_path / "out.parquet"
    plain.write_text("shop_id,type\n5,投诉\n", encoding="utf-8")
    opened.predict_file(target, plain, output)
    (found,) = written(output)
    assert all(found[name] is not None for name in results)
    for name in results:
        plain.write_text(f"shop_id,type,{name}\n5,投诉,mine\n", encoding="utf-8")
        with pytest.raises(InputError, match=name):
            opened.predict_file(target, plain, output)


def test_a_list_of_entities(opened, tmp_path):
    from holdfast.backend.serving.questions import Question

    source, output = tmp_path / "店.csv", tmp_path / "out.parquet"
    source.write_text("shop_id,cutoff,type\n5,2024-03-15,投诉\n6,,\n", encoding="utf-8")
    report = opened.predict_file("风险", source, output, entities=True, cutoff="2024-02-01")
    service, found = opened.service, written(output)
    assert (report.rows, report.data_version) == (2, service.live.stored(service.live.predictor("风险")).version)
    asked = [Question(5, "2024-03-15", {"type": "投诉"}), Question(6, "2024-02-01", {"type": None})]
    expected = service.entities("风险", asked)["predictions"]
    assert [row["高风险"] for row in found] == [one["labels"]["高风险"]["probability"] for one in expected]
    source.write_text("shop_id,cutoff,type\n5,2024-03-15,投诉\n6,bald,\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        opened.predict_file("风险", source, output)
    assert caught.value.where == {"file": "店.csv", "row": 3, "column": "cutoff"}
    source.write_text("id,type\n5,a\n", encoding="utf-8")
    with pytest.raises(InputError, match="shop_id"):
        opened.predict_file("风险", source, output)


def test_all_stored_entities_as_known_at_a_time(opened, rooms, tmp_path):
    output = tmp_path / "all.jsonl"
    report = opened.predict_stored("风险", output, cutoff="2024-03-15", context={"type": "投诉"})
    known = sorted(opened.data.read(None, ["shops"], current_only=True)["shops"]["shop_id"].to_pylist())
    found = written(output)
    assert [row["shop_id"] for row in found] == known
    assert report.rows == len(known) > 10
    assert read_prediction(rooms.log, found[0]["prediction_id"]).input["cutoff"].startswith("2024-03-15")
    with pytest.raises(InputError, match="no column 'type'"):
        opened.predict_stored("风险", output, cutoff="2024-03-15")
    with pytest.raises(InputError, match="no row of 'shops' was known"):
        opened.predict_stored("风险", output, cutoff="1999-01-01", context={"type": "投诉"})


def test_a_folder_is_its_files_one_after_the_other(opened, rooms, tmp_path):
    rows, _ = some_rows(rooms, 9)
    folder = tmp_path / "问"
    folder.mkdir()
    write_rows(folder / "b.csv", rows[4:])
    write_rows(folder / "a.parquet", [row | {"n": 1.5} for row in rows[:4]])
    (folder / ".hidden").write_text("x")
    report = opened.predict_file("风险", folder, tmp_path / "out.parquet")
    found = written(report.output)
    assert [row["店名"] for row in found] == [f"第{n}家" for n in range(9)]
    assert [row["n"] for row in found] == [1.5] * 4 + [None] * 5
    (tmp_path / "空").mkdir()
    with pytest.raises(FileError, match="no files"):
        opened.predict_file("风险", tmp_path / "空", tmp_path / "out.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_what_files_know_as_different_types_loses_nothing(opened, rooms, tmp_path, kind):
    rows, _ = some_rows(rooms, 2)
    large = 2**53 + 1
    a = {"number": large, "small": 3, "mixed": 7, "moment": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "flag": True}
    b = {"number": 1.5, "small": 0.5, "mixed": "x", "moment": dt.datetime(2024, 1, 1), "flag": 2}
    folder = tmp_path / "in"
    folder.mkdir()
    write_rows(folder / "a.parquet", [rows[0] | a])
    write_rows(folder / "b.parquet", [rows[1] | b])
    report = opened.predict_file("风险", folder, tmp_path / f"out.{kind}")
    found = written(report.output)
    assert [row["number"] for row in found] == [str(large), "1.5"]
    assert [float(row["small"]) for row in found] == [3.0, 0.5]
    assert [row["mixed"] for row in found] == ["7", "x"]
    assert [row["moment"][:10] for row in found] == ["2024-01-01"] * 2
    assert [row["flag"] for row in found] == ["true", "2"]


def test_a_file_that_is_overwritten_between_look_and_answer_is_told(opened, rooms, tmp_path):
    rows, number = some_rows(rooms, 5)
    source, output = write_rows(tmp_path / "q.parquet", rows), tmp_path / "out.csv"

    def change(_done, _total, message):
        if message.startswith("looked"):
            write_rows(source, [row | {number: 1.0} for row in rows])

    with pytest.raises(ConflictError, match=r"q\.parquet changed"):
        opened.predict_file("风险", source, output, progress=change)
    assert not output.exists()


def test_a_batch_waits_for_a_slow_log_and_is_tried_again_when_it_stays_away(opened, rooms, tmp_path, monkeypatch):
    rows, _ = some_rows(rooms, 3)
    source, told = write_rows(tmp_path / "q.csv", rows), []
    monkeypatch.setattr(module, "_LOG_TELL", 0.2)
    locked = sqlite3.connect(rooms.log, isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN IMMEDIATE")

    def progress(_done, _total, message):
        told.append(message)
        if "waits" in message and locked.in_transaction:
            locked.execute("ROLLBACK")

    assert opened.predict_file("风险", source, tmp_path / "out.csv", progress=progress).rows == 3
    assert any(message.startswith("waits for the prediction log") for message in told)
    locked.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(module, "_LOG_PATIENCE", 0.0)
    with pytest.raises(UnavailableError, match="logged within"):
        opened.predict_file("风险", source, tmp_path / "out2.csv")
    locked.execute("ROLLBACK")
    locked.close()


def test_an_empty_table_gives_an_empty_one(opened, rooms, tmp_path):
    rows, _ = some_rows(rooms, 1)
    source = write_rows(tmp_path / "q.csv", rows)
    source.write_text(source.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    report = opened.predict_file("风险", source, tmp_path / "out.csv")
    assert report.rows == 0
    names = [name.strip('"') for name in (tmp_path / "out.csv").read_text(encoding="utf-8").strip().split(",")]
    assert names[:3] == ["店名", "prediction_id", "deployment"]
    assert sorted(names[3:]) == sorted([*RISK, "repairs"])


def test_parquet_is_read_in_blocks_and_each_row_keeps_its_place(opened, rooms, tmp_path, monkeypatch):
    rows, number = some_rows(rooms, 53)
    rows = [row | {number: str(row[number])} for row in rows]
    rows[47][number] = "?"
    source = tmp_path / "q.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=11)
    with FileReader() as reader:
        blocks = list(reader.blocks(source, 7))
    assert [block.table.num_rows for block in blocks] == [7] * 7 + [4]
    assert pa.concat_tables(block.table for block in blocks).to_pylist() == rows
    assert [row for block in blocks for row in block.rows.to_pylist()] == list(range(1, 54))
    monkeypatch.setattr(module, "_ROWS", 7)
    report = opened.predict_file("风险", source, tmp_path / "o.jsonl", on_error="collect")
    assert [row["店名"] for row in written(report.output)] == [f"第{n}家" for n in range(53) if n != 47]
    assert [row["row"] for row in written(report.rejects)] == [48]


_KILLED = """
import sys
import holdfast
from holdfast.backend.pipelines import predicting
predicting._ROWS = 10
with holdfast.open(sys.argv[1]) as project:
    project.predict_file("风险", sys.argv[2], sys.argv[3], on_error="collect")
"""


def run_child(root, source, output, crash=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOLDFAST_CRASH": crash}
    command = [sys.executable, "-c", _KILLED, str(root), str(source), str(output)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def copied(rooms, serving_root, tmp_path):
    copy_project(serving_root, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "point", ["rename part-000002.parquet: before#1", "rename part-000002.parquet: after#1", "rename out.csv: after#1"]
)
def test_killed_it_goes_on_without_losing_or_doubling_a_row(rooms, copied, tmp_path, point):
    rows, number = some_rows(rooms, 45)
    rows[3][number] = rows[28][number] = "?"
    source = write_rows(tmp_path / "q.csv", rows)
    output, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    assert run_child(copied, source, whole).returncode == 0
    assert run_child(copied, source, output, point).returncode == -signal.SIGKILL
    assert output.exists() == (point == "rename out.csv: after#1")
    with holdfast.open(copied) as project:
        first = project.deployments.current("风险").id
        (job,) = project.jobs.list(kind="predict", state="running")
        parts = {step.name for step in project.jobs.steps(job.id)}
        kept = [row["prediction_id"] for row in written(output)] if output.exists() else []
        project.deploy("风险", note="while it lay there")
        assert project.deployments.current("风险").id != first
    done = run_child(copied, source, output)
    assert done.returncode == 0, done.stderr
    same = [{name: row[name] for name in ("店名", "deployment", *RISK, "repairs")} for row in written(output)]
    assert same == [{name: row[name] for name in same[0]} for row in written(whole)]
    assert [row["店名"] for row in same] == [f"第{n}家" for n in range(45) if n not in (3, 28)]
    assert {row["deployment"] for row in same} == {first}
    assert written(tmp_path / "out.rejected.csv") == written(tmp_path / "whole.rejected.csv")
    found = [row["prediction_id"] for row in written(output)]
    assert len(set(found)) == 43
    with holdfast.open(copied) as project:
        again = project.jobs.get(job.id)
        assert (again.state, again.attempts) == ("done", 2)
        # What had been recorded was not done again.
        attempts = {step.name: step.attempt for step in project.jobs.steps(job.id)}
        assert {attempts[name] for name in parts} == {1}
        assert not list((copied / ".holdfast" / "batches").glob("*"))
        for identity in (*found, *kept):
            read_prediction(copied / ".holdfast" / "predictions.db", identity)


def test_a_file_that_changed_meanwhile_is_told(rooms, copied, tmp_path):
    rows, _ = some_rows(rooms, 25)
    source, output = write_rows(tmp_path / "q.csv", rows), tmp_path / "out.csv"
    assert run_child(copied, source, output, "rename part-000001.parquet: after#1").returncode == -signal.SIGKILL
    write_rows(source, rows[:20])
    with holdfast.open(copied) as project, pytest.raises(ConflictError, match=r"q\.csv changed"):
        project.predict_file("风险", source, output, on_error="collect")


def test_text_is_read_as_the_context_column_is(tmp_path):
    before, after = CONFIG.split("  score: {", 1)
    config = before + "  score: {" + after.replace("context: [type]", "context: [vip, weight, rank]", 1)
    rooms = schema_project(tmp_path / "p", config)
    folder = tmp_path / "2024-01"
    write_period(folder, 1, shops=30, visits=200)
    first, *lines = (folder / "visits.csv").read_text(encoding="utf-8").splitlines()
    more = [f"{line},{('true', 'false')[n % 2]},{n % 9}.5,{n % 7}" for n, line in enumerate(lines)]
    (folder / "visits.csv").write_text("\n".join([first + ",vip,weight,rank", *more]), encoding="utf-8")
    with FileReader() as reader:
        ingest(rooms.datasets, rooms.settings, reader.read, "2024-01", [folder])
    rooms.train("score", rounds=5)
    deploy(rooms.sources, "score", rooms.newest("score"))
    rooms.store.close()
    source, output = tmp_path / "ask.csv", tmp_path / "out.parquet"
    source.write_text("shop_id,vip,weight,rank\n5,Yes,2.5,3\n5,否,.5,4\n5,,,\n", encoding="utf-8")
    with holdfast.open(tmp_path / "p") as running:
        assert running.predict_file("score", source, output).rows == 3
        logged = [read_prediction(rooms.log, row["prediction_id"]).input["context"] for row in written(output)]
        assert logged == [
            {"vip": True, "weight": 2.5, "rank": 3},
            {"vip": False, "weight": 0.5, "rank": 4},
            {"vip": None, "weight": None, "rank": None},
        ]
        for column, bad in (("vip", "perhaps"), ("weight", "1_0"), ("rank", "1_0"), ("weight", "nan")):
            cells = {"vip": "yes", "weight": "1", "rank": "1", column: bad}
            source.write_text("shop_id,vip,weight,rank\n5," + ",".join(cells.values()) + "\n", encoding="utf-8")
            with pytest.raises(InputError) as caught:
                running.predict_file("score", source, output)
            assert caught.value.where == {"file": "ask.csv", "row": 2, "column": column}
