"""Nothing that records say names an erased person: observed values, parts that are gone, what jobs told."""

from pathlib import Path

import pytest

import holdfast
from holdfast.errors import ConflictError
from holdfast.frontend.client import Project

from .seek import seek_database

FILE = """
project: 病人
tables:
  persons:
    files: persons.csv
    key: id
    delivery: full
    columns: {name: {type: category, personal: true}, ssn: {type: int, personal: true}, group: {values: [g1, g2, g9]}}
  visits: {files: visits.csv, key: [id, day], time: day, links: {id: persons}}
"""
PERSONS = """id,name,ssn,group
甲,安,1001,g1
乙,波,1002,g2
丙,安,999999001,g2
THEM,王五,999999002,g9
"""
VISITS = "id,day,n\n甲,2024-01-03,1\nTHEM,2024-01-04,2\nSTRAY,2024-01-04,2\n"
THEM = ["THEM", "王五", "999999002"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "项目").mkdir()
    (tmp_path / "项目" / "holdfast.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "persons.csv").write_text(PERSONS, encoding="utf-8")
    (tmp_path / "in" / "visits.csv").write_text(VISITS, encoding="utf-8")
    made = holdfast.open(tmp_path / "项目")
    made.ingest("2024-01", [tmp_path / "in"])
    return made


def left(project: Project, texts: list[str]) -> list[tuple[str, str]]:
    return seek_database(project._services.store, texts)


def test_observed_values_that_only_they_had_go(project):
    assert {text for _, text in left(project, THEM)} == set(THEM)
    project.erase("persons", "THEM", "r")
    assert left(project, THEM) == []
    rules = project.data.contract()["persons"].columns
    assert rules["name"].values == ("安", "波")
    assert (rules["ssn"].min, rules["ssn"].max) == (1001, 999999001)
    assert rules["group"].values == ("g1", "g2", "g9")  # the project file says so
    assert project.check(deep=True) == []


def test_what_is_left_of_collected_parts_names_nobody(project):
    project.upsert("persons", [{"id": "THEM", "name": "王五", "ssn": 999999002, "group": "g1"}])
    project.compact()
    assert project.collect(keep=1, grace="0").blobs
    assert any(table == "dataset_parts" for table, _ in left(project, THEM))
    project.erase("persons", "THEM", "r")
    assert left(project, THEM) == []


def test_one_after_another_from_the_end_of_a_file(project):
    """The row before the last one is empty by then: it must not count as one that would be lost."""
    for key in ("丙", "THEM"):
        assert project.erase("persons", key, "r").dropped == ()
    path = project.root / "data" / "raw" / "2024-01" / "persons.csv"
    assert path.read_text(encoding="utf-8") == "id,name,ssn,group\n甲,安,1001,g1\n乙,波,1002,g2\n\n\n"
    assert project.check(deep=True) == []


def test_what_jobs_told_names_nobody(project):
    assert any(table == "jobs" for table, _ in left(project, ["STRAY"]))
    with pytest.raises(ConflictError):
        project.append("visits", project.data.read(None, ["visits"])["visits"].select(["id", "day", "n"]))
    project.erase("persons", "STRAY", "r")
    assert left(project, ["STRAY"]) == []
    unknown = project.jobs.list(kind="ingest")[0].result["report"]["tables"]["visits"]["unknown_parents"]
    assert unknown["id"]["examples"] == ["***"]
