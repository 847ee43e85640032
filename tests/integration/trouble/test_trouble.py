"""Trouble from outside: a full disk, a folder that may not be written, a damaged part, two at the same thing."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from holdfast.backend.pipelines.integrity import check
from holdfast.errors import IntegrityError, LimitError, LockedError
from holdfast.frontend.client import Project
from tests.integration.undo.world import person, write_period, write_project

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["sqlite", "postgresql"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with one month of data, and a second month to come."""
    database = request.getfixturevalue("postgres_url") if request.param == "postgresql" else "sqlite"
    folder = tmp_path / "项目"
    write_project(folder, database)
    for month in (1, 2):
        write_period(tmp_path / f"2024-0{month}", month, people=20, visits=60)
    with Project(folder) as project:
        project.ingest("2024-01", [tmp_path / "2024-01"])
    return folder


def sound(root: Path) -> None:
    with Project(root) as project:
        assert check(project._services, deep=True) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}; run the tests as root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_fails_the_change_and_nothing_else(small_disk: Path, tmp_path: Path) -> None:
    root, filler = small_disk / "project", small_disk / "filler"
    write_project(root)
    for month in (1, 2):
        write_period(tmp_path / f"2024-0{month}", month, people=20, visits=60)
    with Project(root) as project:
        project.ingest("2024-01", [tmp_path / "2024-01"])
        project.train()
        for left in (160_000, 80_000, 20_000):
            filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - left))
            with pytest.raises(LimitError, match="no room left on the disk"):
                project.train(force=True)
            filler.unlink()
            assert [found for found in check(project._services, deep=True) if found.level == "broken"] == []
            assert {v.version for v in project.models.current()} == {"v1.0"}
        project.train(force=True)
        project.ingest("2024-02", [tmp_path / "2024-02"])
        assert {v.version for v in project.models.current()} == {"v1.1"}
    sound(root)


def test_a_folder_that_may_not_be_written_is_named(root: Path) -> None:
    # In a mount namespace of its own, where the folder is read-only: root may write everywhere else.
    train = f"exec {sys.executable} -m holdfast train -C {root}"
    script = f"mount --bind {root} {root} && mount -o remount,ro,bind {root} || exit 77; {train}"
    said = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if said.returncode == 77:
        pytest.skip(f"a folder cannot be made read-only here: {said.stderr.strip()}; run the tests as root")
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    assert "may not be written" in said.stderr
    assert str(root) in said.stderr
    sound(root)


def test_a_damaged_part_is_found_by_its_hash_and_named(root: Path) -> None:
    with Project(root) as project:
        part = project.data.manifest(project.data.get().id, "visits")[0]
        path = project._services.blobs.path(part.digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    with Project(root) as project:
        with pytest.raises(IntegrityError, match=part.digest):
            project.data.read(tables=["visits"])
        assert any(part.digest in found.message for found in check(project._services, deep=True))


def test_two_trainings_at_once_and_fifty_queries_that_never_see_a_mix(root: Path) -> None:
    with Project(root) as project:
        project.train()
        project.deploy()
    command = [sys.executable, "-m", "holdfast", "train", "--force", "-C", str(root)]
    trainers = [
        subprocess.Popen(
            [*command, "--note", note], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for note in ("one", "two")
    ]
    asked: list[dict[str, Any]] = []
    with Project(root) as project, ThreadPoolExecutor(5) as pool:

        def ask(number: int) -> dict[str, Any]:
            name, question = project.question("风险", person(number % 20 + 1), "2024-02-01", {"kind": "投诉"})
            answer: dict[str, Any] = project.service.entities(name, [question])
            return answer

        waiting, until = list(trainers), time.monotonic() + 180
        while (waiting or len(asked) < 50) and time.monotonic() < until:
            now = pool.map(ask, range(10))
            if done := [trainer for trainer in waiting if trainer.poll() is not None]:
                waiting = [trainer for trainer in waiting if trainer not in done]
                project.deploy()  # in the midst of what is being asked
            asked += now
            time.sleep(0.05)
        asked += pool.map(ask, range(10))
    for trainer in trainers:
        trainer.wait(120)
    codes = sorted(trainer.returncode for trainer in trainers)
    errors = [trainer.communicate()[1] for trainer in trainers]
    assert codes in ([0, 1], [0, 0]), errors
    if codes == [0, 1]:
        assert any("is held by process" in said for said in errors)
    versions: dict[str, set[str]] = {}
    for answer in asked:
        [prediction] = answer["predictions"]
        assert set(prediction["labels"]) == {"高", "low"}
        versions.setdefault(answer["deployment"], set()).update(one["version"] for one in prediction["labels"].values())
    assert all(len(one) == 1 for one in versions.values()), versions
    assert len(versions) >= 2
    with Project(root) as project:
        assert {len(project.models.versions(f"风险/{label}")) for label in ("高", "low")} == {codes.count(0) + 1}
    sound(root)


def test_a_second_training_waits_as_long_as_it_is_told(root: Path) -> None:
    with Project(root) as project, ThreadPoolExecutor(2) as pool:
        first = pool.submit(project.train, note="one", force=True, wait=120)
        with Project(root) as other:
            second = other.train(note="two", force=True, wait=120)
        assert not first.result().repeated
        made = {model.version for trained in (first.result(), second) for model in trained.models}
        assert made == {"v1.0", "v1.1"}
        with pytest.raises(LockedError), project._services.engine.leases.hold(["model:风险/高"], doing="test"):
            pool.submit(project.train, note="three", force=True).result()
