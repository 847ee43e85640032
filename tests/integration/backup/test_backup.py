"""Backups: complete, incremental, proven by restoring; and what they say when something is wrong."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.store import Audit, Leases
from holdfast.errors import ConfigError, ConflictError, FileError, IntegrityError, LockedError, NotFoundError
from holdfast.frontend.backups import restore, verify_backup

from .world import answers, deliver, make, storage


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    return str(tmp_path / "备份") if request.param == "folder" else request.getfixturevalue("s3_url")


def test_a_restored_project_is_the_project(trained, copied, place, tmp_path):
    with copied() as project:
        online = project.get_feature_vector(5, "店")
        prediction = project.service.entities(
            "风险", [project.question(None, "5", "2024-06-01", {"type": "Routine"})[1]]
        )
        logged = prediction["predictions"][0]["id"]
        project.service.log.close()
        made = project.backup(place, note="夜里")
        history = [entry.hash for entry in _audit(project)]
        versions = project.data.list()
        processed = {p.name: p.read_bytes() for p in (project.root / "data" / "processed").glob("*.parquet")}
        models = {p.name: p.read_bytes() for p in (project.root / "data" / "model").iterdir()}
    proof = verify_backup(place)
    assert (proof.backup, sorted(proof.replayed)) == (made.id, ["风险/Low Risk", "风险/高风险"])
    assert proof.audit == made.audit.id > 0

    restored = restore(place, tmp_path / "新" / "家")
    assert restored == made
    with holdfast.open(tmp_path / "新" / "家") as project:
        assert answers(project) == trained[1]
        assert project.get_feature_vector(5, "店") == online
        assert project.trace(logged).id == logged
        assert project.data.list() == versions
        assert [entry.hash for entry in _audit(project)][: made.audit.id] == history[: made.audit.id]
        assert {p.name: p.read_bytes() for p in (project.root / "data" / "processed").glob("*.parquet")} == processed
        assert {p.name: p.read_bytes() for p in (project.root / "data" / "model").iterdir()} == models
        for file in project.data.files():
            assert (project.root / file.path).read_bytes() == (trained[0] / file.path).read_bytes()
        # The backup was a running job when it looked; a worker here must not make another one.
        assert [job.kind for job in project.jobs.list(state="running")] == []
        # And it goes on from there.
        deliver(project, 3)
        assert project.data.current().version == "v1.2"


def _audit(project):
    with project._services.store.read() as connection:
        return list(Audit(connection).entries())


@pytest.mark.parametrize("there", ["sqlite", "postgresql"])
def test_between_databases(there, tmp_path, postgres_url, s3_url, trained, copied):
    """PostgreSQL and a bucket become SQLite and files, and the other way round; both go on working."""
    place = tmp_path / "backups"
    far, near = {"database": postgres_url, "blobs": s3_url}, {"database": "sqlite", "blobs": "local"}
    target = near if there == "sqlite" else far
    with make(tmp_path / "far", storage(**far)) if there == "sqlite" else copied() as project:
        before = answers(project)
        project.backup(place)
    restore(place, tmp_path / "into", **target)
    with holdfast.open(tmp_path / "into") as project:
        assert project._services.store.engine.dialect.name == there
        assert answers(project) == before
        # New rows get numbers that are free.
        deliver(project, 3)
        assert project.data.current().version == "v1.2"
        assert project.data.checkout("v1.1", "back").version == "v1.1"
        assert answers(project) == before
    if there == "postgresql":
        with pytest.raises(ConflictError, match="holds records already"):
            restore(place, tmp_path / "again", **far)
        assert not (tmp_path / "again").exists()


def test_plugins_go_along(tmp_path):
    page = Path(__file__).resolve().parents[3] / "docs" / "manual" / "features.md"
    code = re.search(r"```python\n(import numpy.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    with make(tmp_path / "one", gini=code) as project:
        before = answers(project)
        assert any("GINI" in name for name in project.models.load("风险/高风险")["feature_names"])
        assert "gini.py" in project.backup(tmp_path / "place").files
    shutil.rmtree(tmp_path / "one")
    assert verify_backup(tmp_path / "place").replayed
    restore(tmp_path / "place", tmp_path / "two")
    with holdfast.open(tmp_path / "two") as project:
        assert answers(project) == before


def test_only_what_is_new_is_sent(copied, place):
    with copied() as project:
        first = project.backup(place)
        again = project.backup(place)
        deliver(project, 3, visits=20)
        third = project.backup(place)
        assert [one.id for one in project.backups(place)] == [first.id, again.id, third.id]
        # The records of a small project are one piece; nothing else is sent twice.
        records = [one.files[".holdfast/holdfast.db"].bytes for one in (again, third)]
        assert again.sent <= records[0] < first.sent
        new = set(third.blobs) - set(first.blobs)
        parts = sum(project.models.blobs.path(digest).stat().st_size for digest in new)
        raw = sum(file.bytes for file in project.data.files() if file.path not in first.files)
        assert 0 < parts + raw <= third.sent <= records[1] + parts + raw


def test_unchanged_pieces_of_a_database_are_not_sent_again(tmp_path):
    from holdfast.backend.adapters.placefolder import FolderPlace
    from holdfast.backend.pipelines.vault import PIECE, Vault

    path = tmp_path / "log.db"
    path.write_bytes(bytes(PIECE) + b"1" * PIECE + b"2" * 100)
    first = Vault(FolderPlace(tmp_path / "place"), "blobs")
    stored = first.keep_pieces(path)
    with path.open("ab") as file:
        file.write(b"3" * 100)
    second = Vault(FolderPlace(tmp_path / "place"), "blobs")
    grown = second.keep_pieces(path)
    assert (len(stored.pieces), first.sent, second.sent) == (3, 2 * PIECE + 100, 200)
    second.fetch_file(grown, tmp_path / "copy", "the log")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_place_keeps_the_newest_and_what_they_need(copied, place, tmp_path):
    with copied() as project:
        made = []
        for month in (3, 4, 5):
            deliver(project, month, visits=20)
            made.append(project.backup(place, keep=2))
        vault = project._services.vault(place)
        assert [one.id for one in project.backups(place)] == [one.id for one in made[1:]]
        used = {piece for one in made[1:] for stored in one.files.values() for piece in stored.pieces}
        assert vault.known == used | {digest for one in made[1:] for digest in one.blobs}
        gone = made[0].files[".holdfast/holdfast.db"].pieces
        assert not set(gone) & vault.known
        with pytest.raises(NotFoundError, match=made[0].id):
            verify_backup(place, made[0].id)
    for one in made[1:]:
        assert verify_backup(place, one.id).backup == one.id


def test_a_place_is_of_one_project(copied, tmp_path):
    with copied("one") as project:
        project.backup(tmp_path / "place")
    with copied("two") as project:
        file = project.root / "holdfast.yaml"
        file.write_text(file.read_text(encoding="utf-8").replace("餐厅检查", "另一个"), encoding="utf-8")
    with holdfast.open(tmp_path / "two") as project, pytest.raises(ConflictError, match="餐厅检查"):
        project.backup(tmp_path / "place")


def test_while_others_write(copied, tmp_path):
    """Backups that are made while another process imports are each a moment of it."""
    script = (
        "import shutil, sys, holdfast\n"
        "from pathlib import Path\n"
        "with holdfast.open(sys.argv[1]) as project:\n"
        "    print('ready', flush=True)\n"
        "    for day in range(1, 9):\n"
        "        file = Path(sys.argv[1]).parent / f'day{day}' / 'visits.csv'\n"
        "        file.parent.mkdir()\n"
        "        shops = Path(shutil.copy(Path(sys.argv[1]) / 'data' / 'raw' / '2024-02' / 'shops.csv', file.parent))\n"
        "        head = 'visit_id,shop_id,date,type,score,结果\\n'\n"
        "        file.write_text(head + f'{900000+day},1,2024-03-0{day},Routine,70,优\\n')\n"
        "        project.ingest(f'2024-03-0{day}', [shops, file])\n"
    )
    copied().close()
    root = tmp_path / "项目"
    child = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    numbers = []
    with holdfast.open(root) as project:
        while child.poll() is None:
            numbers.append(project.backup(tmp_path / "place").data)
        child.stdout.close()
        assert child.returncode == 0
        for number, one in zip(numbers, project.backups(tmp_path / "place"), strict=True):
            into = tmp_path / f"restored-{one.id}"
            restore(tmp_path / "place", into, backup=one.id)
            with holdfast.open(into) as other:
                assert other.data.current().version == number
                assert other.data.read(number)["visits"].equals(project.data.read(number)["visits"])
    assert len(set(numbers)) > 1, numbers


# -- what is wrong is said --------------------------------------------------------------------------------------------


def test_a_missing_raw_file_is_named(copied, tmp_path):
    with copied() as project:
        lost = project.data.files()[0].path
        (project.root / lost).unlink()
        with pytest.raises(FileError, match="raw file is missing") as told:
            project.backup(tmp_path / "place")
        assert str(project.root / lost) in str(told.value)
        assert project.backups(tmp_path / "place") == []


def test_a_missing_and_a_damaged_blob_are_named(copied, tmp_path):
    with copied() as project:
        model = project.models.current()[0]
        path = project.models.blobs.path(model.serving)
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + b"!")
        with pytest.raises(IntegrityError, match=f"serving file of model {model.model} v1.0 is not what"):
            project.backup(tmp_path / "place")
        path.unlink()
        with pytest.raises(NotFoundError, match=f"serving file of model {model.model} v1.0 is missing"):
            project.backup(tmp_path / "place")
        assert project.backups(tmp_path / "place") == []
        path.write_bytes(content)
        assert project.backup(tmp_path / "place").sent > 0


def _a_model(made, project):
    digest = project.models.current()[0].serving
    assert digest in made.blobs
    return digest


def test_damage_in_a_backup_is_found_and_named(copied, tmp_path):
    place = tmp_path / "place"
    with copied() as project:
        made = project.backup(place)
        digest = _a_model(made, project)
    assert verify_backup(place).blobs == len(made.blobs)
    blob = place / "blobs" / digest[:2] / digest[2:]
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[:-1] + b"!")
    with pytest.raises(IntegrityError, match="damaged there") as told:
        verify_backup(place)
    assert f"{digest[:2]}/{digest[2:]}" in str(told.value)
    with pytest.raises(IntegrityError):
        restore(place, tmp_path / "into")
    assert not (tmp_path / "into").exists()
    blob.unlink()
    with pytest.raises(NotFoundError, match="missing there"):
        verify_backup(place)
    # As the hint says: the next backup sends it again.
    with holdfast.open(tmp_path / "项目") as project:
        project.backup(place)
    assert verify_backup(place, made.id).backup == made.id


def test_an_edited_manifest_is_found(copied, tmp_path):
    place = tmp_path / "place"
    with copied() as project:
        made = project.backup(place)
        file = place / "backups" / f"{made.id}.json"
        manifest = json.loads(file.read_bytes())
        manifest["backup"]["files"]["../../evil"] = next(iter(manifest["backup"]["files"].values()))
        file.write_text(json.dumps(manifest), encoding="utf-8")
        assert project.backups(place)[0].fault == "its manifest is not what was written"
        with pytest.raises(IntegrityError, match="not what was written"):
            verify_backup(place)
        # Retention removes nothing then: nobody knows what that manifest needs.
        project.backup(place)
        project.backup(place, keep=1)
        assert set(made.blobs) <= project._services.vault(place).known


def test_entries_cut_off_the_audit_log_show_against_a_backup(copied, tmp_path):
    with copied() as project:
        made = project.backup(tmp_path / "place")
    with sqlite3.connect(tmp_path / "项目" / ".holdfast" / "holdfast.db") as database:
        database.execute("DELETE FROM audit WHERE id >= ?", (made.audit.id,))
    database.close()
    with holdfast.open(tmp_path / "项目") as project, project._services.store.read() as connection:
        Audit(connection).verify()
        with pytest.raises(IntegrityError, match="kept elsewhere"):
            Audit(connection).verify(made.audit)


def test_only_into_an_empty_place(copied, tmp_path):
    with copied() as project:
        project.backup(tmp_path / "place")
        with pytest.raises(ConflictError, match="is there already"):
            restore(tmp_path / "place", project.root)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "place", tmp_path / "empty")
    with pytest.raises(NotFoundError, match="no backup"):
        restore(tmp_path / "nothing", tmp_path / "into")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("storage_of_new", [None, "postgresql"])
def test_whoever_was_erased_after_a_backup_is_erased_again_by_a_restore(
    storage_of_new, copied, place, tmp_path, request
):
    with copied() as project:
        project.backup(place)
        before = project.rows("visits").num_rows
        project.erase("shops", "5", "asked")
        gone = before - project.rows("visits").num_rows
        assert gone > 0
        project.backup(place)
        first = project.backups(place)[0].id
    database = request.getfixturevalue("postgres_url") if storage_of_new else None
    restore(place, tmp_path / "old", backup=first, database=database)
    with holdfast.open(tmp_path / "old") as project:
        assert project.rows("visits").num_rows == before - gone
        assert "5" not in {str(key) for key in project.rows("shops")["shop_id"].to_pylist()}
        assert [found for found in project.check(deep=True) if found.level == "broken"] == []


def test_a_restore_that_dies_while_it_erases_leaves_no_project(copied, place, tmp_path):
    with copied() as project:
        project.backup(place)
        project.erase("shops", "5", "asked")
        project.backup(place)
        first = project.backups(place)[0].id
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOLDFAST_CRASH": "commit erase: before#1"}
    command = [sys.executable, "-m", "holdfast", "restore", str(place), str(tmp_path / "old"), "--id", first]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "old").exists()
    restore(place, tmp_path / "old", backup=first)
    with holdfast.open(tmp_path / "old") as project:
        assert "5" not in {str(key) for key in project.rows("shops")["shop_id"].to_pylist()}


def test_nobody_is_erased_under_a_backup_or_push(copied):
    with copied() as project:
        leases = Leases(project._services.store, project._services.clock)
        with (
            leases.hold(["backup"], doing="backup"),
            ThreadPoolExecutor(1) as elsewhere,
            pytest.raises(LockedError, match="the backup is held"),
        ):
            elsewhere.submit(project.erase, "shops", "5", "asked").result()
        assert project.erase("shops", "5", "asked").rows


def test_a_wrong_place_is_not_recorded(copied):
    with copied() as project:
        before = project.jobs.list()
        with pytest.raises(ConfigError):
            project.backup("s3://key:hush@bucket/folder")
        with pytest.raises(ConfigError, match="it is not said where"):
            project.backup()
        assert project.jobs.list() == before


def test_a_backup_is_a_job_and_a_schedule_sends_it(copied, tmp_path):
    root = tmp_path / "项目"
    copied().close()
    file = root / "holdfast.yaml"
    text = f"backup: {{to: '{tmp_path / 'there'}', schedule: '* * * * *', keep: 2}}\n"
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
    with holdfast.open(root) as project:
        assert project.schedules()["backup"]["job"] == "backup"
        for _ in range(3):
            project.backup()
        assert [job.kind for job in project.jobs.list(kind="backup", state="done")] == ["backup"] * 3
        assert len(project.backups()) == 2
