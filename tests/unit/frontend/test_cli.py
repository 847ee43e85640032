"""The command line as a process: what it prints where, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """\
project: 小店
timezone: Asia/Shanghai
tables:
  顾客:
    files: 顾客.csv
    key: 编号
    columns:
      身份证: {type: text, personal: true}
      年龄: {type: int, min: 0, max: 120}
"""
FIRST = "编号,身份证,年龄,开户\n1,990000190001011234,30,2024-01-05\n2,990000190001011235,41,2024-01-06\n"
ROWS = "".join(f"{n},99{n:016d},{20 + n % 50},2024-02-03\n" for n in range(3, 60))


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def ok(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions and one row in quarantine."""
    folder = tmp_path_factory.mktemp("店")
    (folder / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    for period, text in (
        ("2024-01", FIRST),
        ("2024-02", FIRST.splitlines()[0] + "\n" + ROWS + "60,x,999,2024-02-09\n"),
    ):
        place = folder / "in" / period
        place.mkdir(parents=True)
        (place / "顾客.csv").write_text(text, encoding="gb18030")
    ok(folder, "ingest", "--folder", "in")
    return folder


def test_versions_can_be_listed_and_compared(project: Path) -> None:
    listed = json.loads(ok(project, "data", "list", "--json"))
    assert [v["version"] for v in listed["versions"]] == ["v1.0", "v1.1"]
    assert listed["current"] == "v1.1"
    assert listed["versions"][0]["made_at"].endswith("Z")
    compared = json.loads(ok(project, "data", "compare", "v1.0", "v1.1", "--json"))
    assert compared["tables"]["顾客"]["added"] == 57
    text = ok(project, "data", "show")
    assert "59" in text
    assert "is more than 120" in text


def test_rows_are_read_with_personal_columns_masked(project: Path) -> None:
    found = json.loads(ok(project, "data", "read", "顾客", "--limit", "2", "--json"))
    assert (found["rows"], found["shown"]) == (59, 2)
    assert found["data"][0] == {"编号": 1, "身份证": "***", "年龄": 30, "开户": "2024-01-05T00:00:00+08:00"}
    assert "99000019" not in ok(project, "data", "read", "顾客", "--history")
    assert "2 of 59 rows" in ok(project, "data", "read", "顾客", "--limit", "2")


def test_the_quarantine_says_file_row_column_and_reason(project: Path) -> None:
    found = json.loads(ok(project, "data", "quarantine", "--json"))
    assert found["faults"] == 1
    fault = found["data"][0]
    assert (fault["column"], fault["value"], fault["row"]) == ("年龄", "999", 59)
    assert fault["file"].endswith("2024-02/顾客.csv")
    assert "年龄" in ok(project, "data", "quarantine")


def test_importing_again_changes_nothing(project: Path) -> None:
    text = ok(project, "ingest", "2024-01", "in/2024-01/顾客.csv")
    assert "nothing changed" in text


def test_going_back_and_forth(project: Path) -> None:
    ok(project, "data", "checkout", "v1.0", "--note", "看看")
    assert json.loads(ok(project, "data", "read", "顾客", "--json"))["rows"] == 2
    ok(project, "data", "checkout", "v1.1")
    assert json.loads(ok(project, "data", "list", "--json"))["current"] == "v1.1"


def test_a_contract_binds_once_it_is_confirmed(project: Path) -> None:
    shown = json.loads(ok(project, "contract", "show", "--json"))
    assert shown["顾客"]["columns"]["年龄"]["declared"]
    assert "observed" in ok(project, "contract", "show", "顾客")
    confirmed = json.loads(ok(project, "contract", "confirm", "顾客", "--json"))
    assert confirmed["version"] == "v2.0"
    assert "nothing new" in ok(project, "contract", "confirm", "顾客")
    ok(project, "data", "checkout", "v1.1")


def test_an_error_says_what_where_and_what_next(project: Path) -> None:
    done = run(project, "data", "show", "v9.9")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_json_when_json_was_asked_for(project: Path) -> None:
    done = run(project, "data", "show", "v9.9", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)
    assert set(error) == {"code", "message", "where", "hint"}
    assert error["code"] == "not_found"


def test_wrong_usage_ends_with_two(project: Path) -> None:
    assert run(project, "data", "shew").returncode == 2
    assert run(project, "ingest").returncode == 2
    assert run(project, "ingest", "2024-01", "--folder", "in").returncode == 2
    for command in (("data", "read", "顾客"), ("data", "quarantine")):
        done = run(project, *command, "--limit", "9" * 20, "--json")
        assert (done.returncode, json.loads(done.stderr)["code"]) == (2, "usage")
    done = run(project, "data", "show", "--nonsense", "--json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["code"] == "usage"


def test_debug_shows_the_traceback(project: Path) -> None:
    done = run(project, "data", "show", "v9.9", HOLDFAST_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_outside_a_project_the_next_step_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "data", "list")
    assert done.returncode == 1
    assert "holdfast init" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_project_can_be_elsewhere(project: Path, tmp_path: Path) -> None:
    assert "v1.1" in ok(tmp_path, "data", "list", "-C", str(project))


def test_with_json_nothing_but_the_document_is_printed(project: Path) -> None:
    done = run(project, "ingest", "--folder", "in", "--json")
    assert done.stderr == ""
    assert [result["created"] for result in json.loads(done.stdout)] == [False, False]


def test_a_refused_import_leaves_nothing(project: Path, tmp_path: Path) -> None:
    before = ok(project, "data", "list")
    (tmp_path / "顾客.csv").write_text("编号,身份证\n1,2\n", encoding="utf-8")
    done = run(project, "ingest", "2024-03", str(tmp_path / "顾客.csv"), "--json")
    assert done.returncode == 1
    assert "年龄" in done.stderr
    assert ok(project, "data", "list") == before
    assert not (project / "data" / "raw" / "2024-03").exists()


def test_what_happened_is_in_the_log(project: Path) -> None:
    lines = (project / "logs" / "holdfast.log").read_text(encoding="utf-8").splitlines()
    assert any("[INFO] [ingest] in: done" in line for line in lines)
    assert "9900001900" not in "".join(lines)


def test_a_reader_that_leaves_early_is_no_error(project: Path) -> None:
    command = f"{sys.executable} -m holdfast data read 顾客 --limit 100000 | head -n 1"
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
