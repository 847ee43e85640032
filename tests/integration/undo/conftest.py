"""Projects to be undone, on both databases: data of two months, models deployed twice, one group online."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.frontend.client import Project

from .world import person, write_period, write_project


def fill(project: Project, delivered: Path) -> None:
    """Two deliveries with a training and a deployment after each, vectors online, and a logged prediction."""
    for month in (1, 2):
        project.ingest(f"2024-0{month}", [write_period(delivered / f"2024-0{month}", month)])
        project.train()
        project.deploy()
    project.materialise()
    name, question = project.question(None, person(1), None, {"kind": "Routine"})
    project.service.entities(name, [question])


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled project in a folder, to be copied."""
    root = tmp_path_factory.mktemp("filled") / "项目"
    write_project(root)
    with Project(root) as project:
        fill(project, root.parent / "delivered")
    return root


@pytest.fixture
def sqlite_project(filled: Path, tmp_path: Path) -> Iterator[Project]:
    """A filled project of the test's own, on SQLite."""
    root = tmp_path / "项目"
    shutil.copytree(filled, root)
    with Project(root) as project:
        yield project


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A filled project of the test's own, on each database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_project")
        return
    root = tmp_path / "postgres"
    write_project(root, request.getfixturevalue("postgres_url"))
    with Project(root) as project:
        fill(project, tmp_path / "delivered")
        yield project
