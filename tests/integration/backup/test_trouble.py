"""Backups that are killed, run out of disk, or meet another one."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.adapters.placefolder import FolderPlace
from holdfast.errors import LimitError, LockedError
from holdfast.frontend.backups import verify_backup

from .world import answers, deliver


def run(root: Path, *arguments: str, crash: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOLDFAST_CRASH": crash}
    command = [sys.executable, "-m", "holdfast", *arguments, "-C", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


FOLDER = ("rename kept file: before#3", "rename kept file: after#3", "backup manifest: before", "link new file: before",
          "link new file: after", "commit note backup: before", "commit note backup: after", "remove backup: before",
          "remove backup: after", "delete kept file: after#2", "commit give back leases: before")  # fmt: skip
BUCKET = ("upload: before#3", "upload: after#3", "upload new: before", "upload new: after", "delete upload: after#2")


@pytest.mark.parametrize(("kind", "point"), [*(("folder", p) for p in FOLDER), *(("s3", p) for p in BUCKET)])
def test_killed_anywhere_every_listed_backup_is_whole(kind, point, copied, tmp_path, request):
    place = str(tmp_path / "place") if kind == "folder" else request.getfixturevalue("s3_url")
    with copied() as project:
        first = project.backup(place)
        deliver(project, 3, visits=20)
    root = tmp_path / "项目"
    name = point if "#" in point else f"{point}#1"
    killed = run(root, "backup", "create", place, "--keep", "1", crash=name)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    with holdfast.open(root) as project:
        listed = project.backups(place)
        assert listed
        assert listed[0].id == first.id or len(listed) == 1
        for one in listed:
            assert verify_backup(place, one.id).backup == one.id
        again = project.backup(place, keep=1)
        assert [one.id for one in project.backups(place)] == [again.id]
        used = {piece for stored in again.files.values() for piece in stored.pieces} | set(again.blobs)
        assert project._services.vault(place).known == used  # what the killed one had sent and nobody needs is gone
        assert not (root / ".holdfast" / "tmp" / "backup").exists()
    assert verify_backup(place).audit == again.audit.id


@pytest.mark.parametrize("point", ["commit copy records: before", "commit copy records: after",
                                   "rename restored project: before", "rename restored project: after"])  # fmt: skip
def test_a_killed_restore_leaves_nothing_or_all(point, copied, trained, tmp_path):
    with copied() as project:
        project.backup(tmp_path / "place")
    # The copy that is read is filled by such a commit too.
    killed = run(tmp_path, "restore", str(tmp_path / "place"), str(tmp_path / "into"), crash=f"{point}#1")
    assert killed.returncode == -signal.SIGKILL
    if point.endswith("after") and "rename" in point:
        assert (tmp_path / "into" / "holdfast.yaml").exists()
    else:
        assert not (tmp_path / "into").exists()
        assert run(tmp_path, "restore", str(tmp_path / "place"), str(tmp_path / "into")).returncode == 0
    with holdfast.open(tmp_path / "into") as project:
        assert answers(project) == trained[1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, of which little is free as long as there is a file `filler`."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted (that needs root): {mounted.stderr.decode().strip()}")
    (folder / "filler").write_bytes(bytes(2_900_000))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_no_backup(copied, small_disk, tmp_path):
    with copied() as project:
        with pytest.raises(LimitError, match="no room left") as told:
            project.backup(small_disk)
        assert str(small_disk) in str(told.value)
        assert project.backups(small_disk) == []
        assert not list(small_disk.rglob(".new-*"))
        # What is whole stays: it is not sent again.
        assert list(FolderPlace(small_disk).names("blobs"))
        made = project.backup(tmp_path / "place")
    with pytest.raises(LimitError, match="no room left"):
        holdfast.frontend.backups.restore(tmp_path / "place", small_disk / "into")
    assert {path.name for path in small_disk.iterdir()} == {"blobs", "filler"}
    assert verify_backup(tmp_path / "place").backup == made.id


def test_a_full_disk_under_the_project_is_said(copied, small_disk, tmp_path):
    """The records are written as a file first: into the project's own disk."""
    copied().close()
    root = tmp_path / "项目"
    (root / ".holdfast" / "tmp").symlink_to(small_disk)
    with holdfast.open(root) as project:
        with pytest.raises(LimitError, match="no room left"):
            project.backup(tmp_path / "place")
        assert project.backups(tmp_path / "place") == []
        (small_disk / "filler").unlink()
        assert project.backup(tmp_path / "place").sent > 0


def test_a_file_that_may_not_grow_is_said(tmp_path):
    """The kernel's own refusal, in a process that may write small files only."""
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from holdfast.backend.adapters.placefolder import FolderPlace\n"
        "from holdfast.errors import LimitError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "place = FolderPlace(Path(sys.argv[1]))\n"
        "try:\n"
        "    place.put('a/b', bytes(200_000))\n"
        "except LimitError as error:\n"
        "    print(error)\n"
        "place.put('a/c', bytes(1000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "place")], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "no room left" in done.stdout
    assert list(FolderPlace(tmp_path / "place").names("a")) == ["a/c"]
    assert len(list((tmp_path / "place").rglob("*"))) == 2


def test_two_at_once_one_is_told(copied, tmp_path):
    copied().close()
    root = tmp_path / "项目"
    began, go_on = threading.Event(), threading.Event()

    def wait(_done, _total, _message):
        began.set()
        assert go_on.wait(60)

    def first():
        with holdfast.open(root) as project:
            project.backup(tmp_path / "place", progress=wait)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert began.wait(60)
        with (
            holdfast.open(root) as project,
            pytest.raises(LockedError, match=r"the backup is held|does the same, is held"),
        ):
            project.backup(tmp_path / "place")
    finally:
        go_on.set()
        thread.join()
    shutil.rmtree(root)
    assert verify_backup(tmp_path / "place").replayed
