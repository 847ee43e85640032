"""A workspace that an older Holdfast made opens in this one, answers as it did, and goes on.

`workspace-0008.tar.xz` was made by the program of migration 0008, from two months of `tests.integration.undo.world`.
"""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.backend.store.migrations import HEAD
from holdfast.frontend.client import Project
from tests.integration.undo.world import person, write_period

WORKSPACE = Path(__file__).parent / "workspace-0008.tar.xz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(WORKSPACE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "老项目"


def test_it_answers_as_it_did_and_goes_on(root: Path, tmp_path: Path) -> None:
    with Project(root) as project:
        name, question = project.question("风险", person(3), "2024-03-01", {"kind": "投诉"})
        [answer] = project.service.entities(name, [question])["predictions"]
        told = {label: one["probability"] for label, one in answer["labels"].items()}
        assert told == {"高": 0.292482852935791, "low": 0.731618344783783}
        assert [found for found in project.check(deep=True) if found.level == "broken"] == []
        assert [version.version for version in project.data.list()] == ["v1.0", "v1.1"]
        month = write_period(tmp_path / "2024-03", 3, people=12, visits=40)
        project.ingest("2024-03", [month])
        project.train(note="after the upgrade")
        project.deploy()
        project.go_back("v1.1")
        assert project.data.get().version == "v1.1"
        assert project.verify_audit().id > 0
        assert project.check(deep=True) == []


def test_several_processes_may_open_it_first(root: Path) -> None:
    def opened() -> str | None:
        with Project(root) as project:
            return project._services.store._revision()

    with ThreadPoolExecutor(4) as pool:
        assert {one.result() for one in [pool.submit(opened) for _ in range(4)]} == {HEAD}
