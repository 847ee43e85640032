"""A whole project with its records in PostgreSQL and its blobs in a bucket."""

import shutil
from pathlib import Path

import holdfast

from .world import answers, deliver, make, storage


def test_a_whole_project_on_postgresql_and_s3(tmp_path: Path, postgres_url: str, s3_url: str) -> None:
    root = tmp_path / "远"
    with make(root, storage(postgres_url, s3_url)) as project:
        before = answers(project)
        assert len({str(answer) for answer in before}) > 1
        assert not (root / ".holdfast" / "blobs").exists()
        assert not (root / ".holdfast" / "holdfast.db").exists()
        blobs = set(project.models.blobs)
        assert {version.serving for version in project.models.current()} <= blobs
        assert {one.sha256 for one in project.features.matrices()} <= blobs

    # Another computer: nothing of the first one but the project file.
    other = tmp_path / "另"
    other.mkdir()
    shutil.copy(root / "holdfast.yaml", other / "holdfast.yaml")
    with holdfast.open(other) as project:
        assert answers(project) == before
        assert project.models.load(project.models.current()[0].model)["feature_names"]
        deliver(project, 3)
        again = project.train()
        assert {version.version for version in again.models} == {"v1.1"}
        project.deploy()
        after = answers(project)
        assert after != before
        project.rollback()
        project.data.checkout("v1.1", "back")
        assert answers(project) == before
        assert project.materialise()[0].rows > 0
    with holdfast.open(root) as project:
        assert answers(project) == before
        assert (project.models.sync(), len(project.data.list())) == ([], 3)
