"""Targets on small projects, from files to matrices."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.errors import ConfigError, ConflictError, ContractError, IntegrityError
from holdfast.frontend.client import Project

YAML = """
project: 贷款
tables:
  people: {files: people.csv, key: id}
  loans:
    files: loans.csv
    key: loan
    time: issued
    links: {person: people}
    columns: {due: time}
targets:
  on issue: {entity: people, from: loans, cutoff: issued, label: defaulted, label_known: due}
  on due: {entity: people, from: loans, cutoff: due, label: defaulted}
features: {EXCLUDE}
"""


def project_in(folder: Path, features: str = "depth: 2") -> Project:
    folder.mkdir(parents=True)
    (folder / "holdfast.yaml").write_text(YAML.replace("EXCLUDE", features), encoding="utf-8")
    return holdfast.open(folder)


def deliver(project: Project, folder: Path, month: int) -> None:
    files = folder / f"2024-{month:02}"
    files.mkdir(parents=True)
    (files / "people.csv").write_text("id,town\n" + "".join(f"{i},镇{i % 3}\n" for i in range(40)), encoding="utf-8")
    rows = [
        f"{month}-{i},{i % 40},2024-{month:02}-{1 + i % 20:02},2025-01-{1 + i % 28:02},{i % 4 == 0}" for i in range(80)
    ]
    (files / "loans.csv").write_text("loan,person,issued,due,defaulted\n" + "\n".join(rows) + "\n", encoding="utf-8")
    project.ingest(f"2024-{month:02}", [files])


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path / "p") as opened:
        deliver(opened, tmp_path / "files", 1)
        yield opened


def test_rows_that_would_see_themselves_are_refused(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"rows of 'loans' would see themselves.*'due'") as caught:
        project.matrix("on due")
    assert caught.value.where["key"] == "targets.on due.cutoff"
    assert "features.exclude" in str(caught.value.hint)


def test_unless_the_table_is_not_looked_into(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", "exclude: [loans]") as opened:
        deliver(opened, tmp_path / "files", 1)
        names = opened.matrix("on due").matrix.feature_set.names
    assert "town" in names
    assert not [name for name in names if "loans" in name]


def test_a_cutoff_at_the_event_is_fine_and_labels_may_be_known_later(project: Project) -> None:
    matrix = project.matrix("on issue").matrix
    assert "COUNT(loans)" in matrix.feature_set.names
    assert not [name for name in matrix.feature_set.names if "defaulted" in name], "known when due, not when issued"
    assert (matrix.label_known > matrix.cutoffs).all()


def test_a_matrix_record_names_bytes_that_stay(project: Project, tmp_path: Path) -> None:
    first = project.matrix("on issue").matrix.record
    deliver(project, tmp_path / "files", 2)
    second = project.matrix("on issue").matrix.record
    again = project.matrix("on issue", version="v1.0").matrix.record
    assert again == first
    assert first.sha256 != second.sha256
    for record in (first, second):
        assert hashlib.sha256((project.root / record.path).read_bytes()).hexdigest() == record.sha256
    shown = project.root / "features" / "feature_matrix_2024-02.parquet"
    assert hashlib.sha256(shown.read_bytes()).hexdigest() == second.sha256
    manifest = (project.root / "features" / "manifest.json").read_text(encoding="utf-8")
    assert second.id in manifest


def test_a_label_in_another_case_is_no_feature(tmp_path: Path) -> None:
    root = tmp_path / "p"
    root.mkdir()
    (root / "holdfast.yaml").write_text(
        "project: x\ntables: {customers: {files: c.csv, key: id}}\n"
        "targets: {churn: {from: customers, label: churned}}\n"
    )
    (tmp_path / "c.csv").write_text("id,Churned,x\n" + "".join(f"{i},{i % 2},{i * 7 % 5}\n" for i in range(50)))
    with holdfast.open(root) as opened:
        opened.ingest("2024-01", [tmp_path / "c.csv"])
        matrix = opened.matrix("churn").matrix
    assert matrix.task == "binary"
    assert matrix.feature_set.names == ("x",)


def test_another_time_zone_than_that_of_the_data_is_refused(project: Project) -> None:
    file = project.root / "holdfast.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "timezone: Asia/Shanghai\n", encoding="utf-8")
    with holdfast.open(project.root) as again, pytest.raises(ConflictError, match="read in the time zone UTC"):
        again.matrix("on issue")


def test_files_that_belong_to_no_table_are_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ContractError, match="none of the delivered files belongs to a table"):
        project.ingest("2024-01", [tmp_path / "readme.txt"])
    assert project.data.get().version == "v1.0"


def test_a_damaged_database_is_said(project: Project) -> None:
    root = project.root
    project.close()
    for path in (root / ".holdfast").glob("holdfast.db*"):
        path.write_bytes(b"garbage" * 1000)
    with holdfast.open(root) as again, pytest.raises(IntegrityError, match="cannot be read"):
        again.status()
