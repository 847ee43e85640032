"""Models of one project in another: they answer the same there, and nothing looks for what stayed behind."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.errors import IntegrityError, NotFoundError
from holdfast.frontend.client import Project
from tests.integration.serving_project import write_period

CONFIG = """
project: 餐厅
tables:
  shops: {files: shops.csv, key: shop_id, delivery: full, known: period_start, columns: {shop_id: int, 区域: category}}
  visits:
    {files: visits.csv, key: visit_id, time: date, links: {shop_id: shops}, columns: {type: category, 结果: category}}
targets:
  风险:
    {entity: shops, from: visits, cutoff: date, context: [type], task: multilabel,
     labels: {高: "t.结果 = '差'", Low/1: "t.score > 60"}}
  grade: {entity: shops, from: visits, cutoff: date, context: [type], task: multiclass, label: 结果}
features: {depth: 2, windows: [all, 90d], max: 40}
split: {by: random}
training: {early_stopping: 3, parameters: {n_estimators: 10, learning_rate: 0.3}}
"""
ROWS = {
    "shops": [{"shop_id": 7, "区域": "海淀", "seats": 30}],
    "visits": [
        {"visit_id": 1, "shop_id": 7, "date": "2024-01-02", "type": "投诉", "score": 41.5, "结果": "差"},
        {"visit_id": 2, "shop_id": 7, "date": "2024-01-20", "type": "Routine", "score": 77, "结果": "良"},
    ],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("import") / "甲"
    root.mkdir()
    (root / "holdfast.yaml").write_text(CONFIG, encoding="utf-8")
    write_period(root / "in" / "2024-01", 1, shops=40, visits=300)
    with holdfast.open(root) as project:
        project.ingest("2024-01", [root / "in" / "2024-01"])
        for target in ("风险", "grade"):
            project.train(target)
            project.deploy(target)
        yield project


@pytest.fixture
def copied(original: Project, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.root / "data" / "model", tmp_path / "copy"))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "乙"
    root.mkdir()
    (root / "holdfast.yaml").write_text(CONFIG, encoding="utf-8")
    with holdfast.open(root) as project:
        yield project


def labels(answer: Any) -> list[Any]:
    return [one["labels"] for one in answer["predictions"]]


def test_imported_models_answer_as_where_they_were_trained(original: Project, copied: Path, other: Project) -> None:
    made = other.import_models(copied, trust=True)
    assert {version.model for version in made} == {"风险/高", "风险/Low/1", "grade"}
    for target in ("风险", "grade"):
        other.deploy(target)
        encoding = original.service.live.predictor(target).encoding
        features = [
            {
                spec.name: spec.categories[0] if spec.kind == "category" else place * (spec.maximum or 0.0)
                for spec in encoding.specs
            }
            for place in (0.0, 0.3, 1.0)
        ]
        theirs = original.service.features(target, [*features, dict.fromkeys(encoding.names)])
        assert labels(other.service.features(target, [*features, dict.fromkeys(encoding.names)])) == labels(theirs)
        question = asked(7)
        by_rows = original.service.rows(target, ROWS, [question])
        assert labels(other.service.rows(target, ROWS, [question])) == labels(by_rows)


def asked(shop: int) -> Any:
    from holdfast.backend.serving.questions import Question

    return Question(shop, "2024-02-01", {"type": "Routine"})


def test_imported_models_are_traced_to_the_folder_and_status_looks_nothing_up(copied: Path, other: Project) -> None:
    made = other.import_models(copied, trust=True)
    other.deploy("风险")
    told = other.status()["targets"]["风险"]
    assert told["data_version"] == "foreign:v1.0"
    assert told["deployment"]["models"] == {"高": "v1.0", "Low/1": "v1.0"}
    answer = other.service.rows("风险", ROWS, [asked(7)])["predictions"][0]
    other.service.log.flush()
    text = json.dumps(other.trace(answer["id"]).to_dict(), ensure_ascii=False)
    assert str(copied) in text
    node = other.trace("grade").to_dict()
    version = next(version for version in made if version.model == "grade")
    assert node["facts"]["trained_on"] == "foreign:v1.0"
    assert all(parent.startswith("foreign:") for parent in node["facts"]["made_from"])
    (imported,) = node["from"]
    assert imported["kind"] == "import"
    assert imported["facts"]["folder"] == str(copied)
    assert imported["facts"]["packages"]["multiclass_model_grade.pkl"] == version.package
    assert imported["from"][0]["kind"] == "feature set"


def test_a_model_is_imported_from_where_it_was_imported(copied: Path, other: Project, tmp_path: Path) -> None:
    other.import_models(copied, trust=True)
    (tmp_path / "丙").mkdir()
    (tmp_path / "丙" / "holdfast.yaml").write_text(CONFIG, encoding="utf-8")
    with holdfast.open(tmp_path / "丙") as third:
        third.import_models(other.root / "data" / "model", trust=True)
        third.deploy("风险")
        assert third.models.get("grade").dataset == "foreign:v1.0"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_without_its_definitions_no_model_is_imported(copied: Path, other: Project, damage: str) -> None:
    for file in copied.glob("feature_definitions_*.json"):
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes().replace(b"all", b"ALL") + b" ")
    with pytest.raises(IntegrityError, match="feature definitions"):
        other.import_models(copied, trust=True)
    assert other.models.current() == []
    assert other.features.sets() == []


def test_the_algorithm_is_that_of_the_package(copied: Path, other: Project) -> None:
    made = other.import_models(copied, trust=True)
    assert {version.algorithm for version in made} == {"xgboost"}
    assert other.models.load("grade")["algorithm"] == "xgboost"


def cli(project: Project, *arguments: str) -> str:
    command = [sys.executable, "-m", "holdfast", "-C", str(project.root)]
    done = subprocess.run(
        [*command[:3], *arguments, *command[3:]], capture_output=True, text=True, encoding="utf-8", check=True
    )
    return done.stdout


def test_a_changed_package_is_seen_by_a_scan(copied: Path, other: Project) -> None:
    other.import_models(copied, trust=True)
    folder = other.root / "data" / "model"
    assert {finding.state for finding in other.scan_models()} == {"ok"}
    assert {finding.state for finding in other.scan_models(copied)} == {"ok"}
    package = folder / "multilabel_model_高.pkl"
    whole = package.read_bytes()
    package.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "grade.onnx").unlink()
    (folder / "multilabel_model_Low%2F9.pkl").write_bytes(b"who knows")
    (folder / "multilabel_model_%FF.pkl").write_bytes(b"no label has that name")
    # A manifest that was made to agree changes nothing: here the registry says what should be.
    manifest = folder / "manifest.json"
    old = other.models.get("风险/高").package
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace(old, hashlib.sha256(package.read_bytes()).hexdigest()),
        encoding="utf-8",
    )
    wrong = {f["file"]: f["state"] for f in json.loads(cli(other, "models", "scan", "--json")) if f["state"] != "ok"}
    assert wrong == {
        "multilabel_model_高.pkl": "changed",
        "grade.onnx": "missing",
        "multilabel_model_Low%2F9.pkl": "unknown",
        "multilabel_model_%FF.pkl": "unknown",
    }
    text = cli(other, "models", "scan")
    assert "by its name it is of 'Low/9'" in text
    assert "1 changed" in text
    with pytest.raises(NotFoundError, match="no folder"):
        other.scan_models(other.root / "nowhere")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"format": "holdfast-models/1", "models": {"m": {"files": {"../../holdfast.yaml": {}}}}}']
)
def test_a_manifest_that_somebody_wrote_does_no_harm(copied: Path, other: Project, text: str) -> None:
    other.import_models(copied, trust=True)
    (other.root / "data" / "model" / "manifest.json").write_text(text, encoding="utf-8")
    (copied / "manifest.json").write_text(text, encoding="utf-8")
    assert {finding.state for finding in other.scan_models(copied)} == {"ok"}
    other.models.sync()
    assert (other.root / "holdfast.yaml").is_file()
    assert {finding.state for finding in other.scan_models()} == {"ok"}


def test_tags_are_shown(copied: Path, other: Project) -> None:
    other.import_models(copied, trust=True)
    other.models.tag("grade", "v1.0", "批准")
    assert "tags: 批准" in cli(other, "models", "show", "grade")
