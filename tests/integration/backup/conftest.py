"""One trained project for all tests of the folder; copy it to change it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.frontend.client import Project

from .world import answers, make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a project (SQLite, local files) and the answers it gives."""
    root = tmp_path_factory.mktemp("trained") / "项目"
    with make(root) as project:
        project.materialise()
        return root, answers(project)


@pytest.fixture
def copied(trained: tuple[Path, Any], tmp_path: Path) -> Callable[[str], Project]:
    """Opens a copy of it under a name."""

    def copy(name: str = "项目") -> Project:
        shutil.copytree(trained[0], tmp_path / name)
        return holdfast.open(tmp_path / name)

    return copy
