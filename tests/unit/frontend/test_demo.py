"""The city of the demo: always the same, with the defects and the signal that it promises."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from holdfast.backend.adapters.files import read_file
from holdfast.backend.project_file import load
from holdfast.frontend.demo import DELIVERIES, generate
from holdfast.frontend.demo.city import City, build


@pytest.fixture(scope="module")
def city() -> City:
    return build(7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("demo")
    assert len(generate(place)) == 18
    return place


def rows(path: Path, encoding: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(encoding))))


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path)

    def hashes(root: Path) -> dict[str, str]:
        files = (path for path in sorted(root.rglob("*")) if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert hashes(tmp_path) == hashes(folder)


def test_nothing_is_overwritten(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        generate(folder)


def test_the_project_file_is_right_and_files_are_read(folder: Path) -> None:
    settings = load(folder)
    assert list(settings.targets["风险"].labels or {}) == ["高风险", "中风险", "低风险"]
    month = folder / DELIVERIES / "2023-05"
    inspections = read_file(month / "inspections.xlsx")
    assert [str(field.type) for field in inspections.table.schema][:2] == ["string", "timestamp[us]"]
    assert read_file(month / "投诉.csv").encoding == "gb18030"
    assert read_file(folder / DELIVERIES / "2023-06" / "餐厅.csv").encoding == "gb18030"
    assert read_file(month / "餐厅.csv").table["名称"][0].as_py() == "四季龙食堂"


def test_defects_are_there_and_few(folder: Path) -> None:
    months = sorted((folder / DELIVERIES).iterdir())
    violations = [row for month in months for row in rows(month / "violations.csv", "utf-8-sig")]
    bad = sum(not row["date"].startswith("202") or row["date"] == "2023-13-45" for row in violations)
    assert 0 < bad < 0.05 * len(violations)
    complaints = [tuple(row.values()) for month in months for row in rows(month / "投诉.csv", "gb18030")]
    assert 0 < len(complaints) - len(set(complaints)) < 0.05 * len(complaints)
    known = {row["餐厅编号"] for month in months for row in csv_of(month)}
    inspections = [row for month in months for row in read_file(month / "inspections.xlsx").table.to_pylist()]
    unknown = sum(row["restaurant_id"] not in known for row in inspections)
    assert 0 < unknown < 0.05 * len(inspections)


def csv_of(month: Path) -> list[dict[str, str]]:
    return rows(month / "餐厅.csv", "gb18030" if month.name == "2023-06" else "utf-8")


def test_identity_numbers_are_of_nobody(city: City) -> None:
    assert all(restaurant.owner.startswith("990000") and len(restaurant.owner) == 18 for restaurant in city.restaurants)


def test_the_past_tells_the_future(city: City) -> None:
    """Earlier high risks of a restaurant and recent complaints rank its next routine visit, well but not perfectly."""
    from sklearn.metrics import roc_auc_score

    complaints: dict[str, list[int]] = {}
    for day, restaurant, *_ in city.complaints:
        complaints.setdefault(restaurant, []).append(day)
    history: dict[str, list[float]] = {}
    scores, answers = [], []
    for visit in city.inspections:
        found = float(any(risk == "高风险" for risk, *_ in visit.found))
        before = history.setdefault(visit.restaurant, [])
        if visit.kind == "例行" and visit.day > 365:
            recent = sum(visit.day - 180 <= day < visit.day for day in complaints.get(visit.restaurant, []))
            scores.append((sum(before) + 0.5) / (len(before) + 2) + 0.15 * recent)
            answers.append(found)
        before.append(found)
    assert 0.15 < np.mean(answers) < 0.4
    assert 0.72 < roc_auc_score(answers, scores) < 0.9
