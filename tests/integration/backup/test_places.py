"""What lies in a place beside the backups: the list of the erased, and files of others."""

from pathlib import Path

import pytest

import holdfast
from holdfast.frontend.backups import clone, restore
from holdfast.frontend.client import Project

FILE = """
project: 名册
tables:
  persons: {files: persons.csv, key: id}
remotes: {origin: ../远}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "项目"
    root.mkdir()
    (root / "holdfast.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "persons.csv").write_text("id,name\nA,安\nB,波\nC,齐\n", encoding="utf-8")
    made = holdfast.open(root)
    made.ingest("2024-01", [tmp_path / "persons.csv"])
    return made


def keys(project: Project) -> set[str]:
    return set(project.data.read(None, ["persons"])["persons"]["id"].to_pylist())


def test_a_project_restored_from_an_old_backup_forgets_nobody_who_was_erased(project, tmp_path):
    place = tmp_path / "盘"
    first = project.backup(place)
    project.upsert("persons", [{"id": "X", "name": "后"}])
    second = project.backup(place)
    for key in ("A", "X"):
        project.erase("persons", key, "请求")
    project.backup(place)
    restore(place, tmp_path / "old", backup=first.id)
    with holdfast.open(tmp_path / "old") as old:
        assert keys(old) == {"B", "C"}
        old.backup(place)  # it knows of A, and never knew X
    restore(place, tmp_path / "later", backup=second.id)
    with holdfast.open(tmp_path / "later") as later:
        assert keys(later) == {"B", "C"}


def test_files_of_others_in_a_place_are_left_alone(project, tmp_path):
    place = tmp_path / "盘"
    made = project.backup(place)
    (place / "backups" / "note.txt").write_text("of somebody", encoding="utf-8")
    assert [one.id for one in project.backups(place)] == [made.id]
    newer = project.backup(place, keep=1)
    assert [one.id for one in project.backups(place)] == [newer.id]
    assert restore(place, tmp_path / "into").id == newer.id
    project.push()
    (tmp_path / "远" / "states" / "zz.tmp").write_text("of somebody", encoding="utf-8")
    clone(tmp_path / "远", tmp_path / "clone")
    assert (place / "backups" / "note.txt").exists()
