"""The commands of safety, as people and programs see them."""

import csv
import hashlib
import json

import pytest

from holdfast.backend.store.heads import read_head
from holdfast.errors import FileError, IntegrityError

from .test_check import run as sql
from .test_masking import run
from .world import person


def test_the_way_back_and_forward(sqlite_project, capsys):
    root = str(sqlite_project.root)
    assert "data v1.0" in run(capsys, "at", "v1.0", "-C", root)
    planned = run(capsys, "rollback", "--to", "v1.0", "--dry-run", "-C", root)
    assert "nothing was changed" in planned
    said = run(capsys, "rollback", "--to", "v1.0", "-C", root)
    forward = said.split("forward again: ")[1].split()
    assert sqlite_project.data.get().version == "v1.0"
    run(capsys, *forward[1:], "-C", root)
    assert sqlite_project.data.get().version == "v1.1"


def test_checkpoints(sqlite_project, capsys):
    root = str(sqlite_project.root)
    run(capsys, "checkpoint", "create", "vorher", "--note", "why not", "-C", root)
    run(capsys, "rollback", "--to", "v1.0", "-C", root)
    assert "vorher" in run(capsys, "checkpoint", "list", "-C", root)
    assert "v1.1" in run(capsys, "checkpoint", "restore", "vorher", "-C", root)
    run(capsys, "checkpoint", "remove", "vorher", "-C", root)
    assert json.loads(run(capsys, "checkpoint", "list", "-C", root, "--json")) == []


def test_check_says_what_and_fails(sqlite_project, capsys):
    root = str(sqlite_project.root)
    assert "holds together" in run(capsys, "check", "--deep", "-C", root)
    (sqlite_project.root / "data" / "raw" / "2024-01" / "visits.csv").unlink()
    [found] = json.loads(run(capsys, "check", "-C", root, "--json"))
    assert found["object"] == "data/raw/2024-01/visits.csv"


def test_erase(sqlite_project, capsys):
    root = str(sqlite_project.root)
    asked = ["erase", "persons", person(1), "--reason", "asked for it", "-C", root]
    assert "nothing was changed" in run(capsys, *asked, "--dry-run")
    said = run(capsys, *asked)
    assert "recorded as erasure:" in said
    assert person(1) not in said
    assert "erase" in run(capsys, "audit", "list", "--object", "erasure:", "-C", root)


def test_the_audit_log_is_listed_verified_and_exported(project, capsys, tmp_path):
    entries = list(project.audit())
    assert [one.id for one in project.audit("deployment:")] == [
        e.id for e in entries if e.object.startswith("deployment:")
    ]
    assert list(project.audit(who="nobody")) == []
    assert list(project.audit(since="2999-01-01")) == []
    root = str(project.root)
    head = project.verify_audit()
    assert head.hash in run(capsys, "audit", "verify", "-C", root)
    lines, table = tmp_path / "log.jsonl", tmp_path / "log.csv"
    assert project.export_audit(lines) == project.export_audit(table) == head.id
    told = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    previous = "0" * 64
    for row in told:
        content = {name: value for name, value in row.items() if name not in {"hash", "time"}}
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        assert (row["previous"], row["hash"]) == (previous, hashlib.sha256(text.encode()).hexdigest())
        previous = row["hash"]
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["hash"] for row in csv.DictReader(file)] == [row["hash"] for row in told]
    with pytest.raises(FileError):
        project.export_audit(tmp_path / "log.xml")


def test_a_tail_that_was_cut_off_shows_against_the_file_beside_the_database(project):
    path = project.root / ".holdfast" / "audit.head"
    assert read_head(path) == project.verify_audit()
    sql(project, "DELETE FROM audit WHERE id > (SELECT max(id) - 2 FROM audit)")
    with pytest.raises(IntegrityError, match="missing"):
        project.verify_audit()


def test_a_damaged_head_is_told(sqlite_project):
    path = sqlite_project.root / ".holdfast" / "audit.head"
    path.write_text("{}")
    with pytest.raises(IntegrityError, match="head"):
        sqlite_project.verify_audit()
    sqlite_project.rows("persons")
    assert path.read_text() == "{}"
