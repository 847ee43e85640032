"""The checker finds what is planted, and nothing in a project that is sound."""

import json
import shutil
from contextlib import suppress

import pytest
import sqlalchemy as sa

from holdfast.backend.pipelines.integrity import check
from holdfast.backend.records import Run
from holdfast.backend.store import Pointers


def objects(found):
    return {one.object for one in found}


def test_a_sound_project_has_no_findings(project):
    assert check(project._services) == []
    assert check(project._services, deep=True) == []


def run(project, statement, **values):
    """Change the database behind everybody's back."""
    with project._services.store.write("test") as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET session_replication_role = replica"))
        else:
            connection.execute(sa.text("PRAGMA defer_foreign_keys=ON"))
        assert connection.execute(sa.text(statement), values).rowcount > 0
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET session_replication_role = DEFAULT"))


PLANTED = [
    ("UPDATE pointers SET target = 'data_gone' WHERE name = 'dataset'", "dataset"),
    ("UPDATE pointers SET target = (SELECT min(id) FROM datasets) WHERE name = 'dataset'", "dataset"),
    ("UPDATE pointers SET target = 'dep_gone' WHERE name = 'deployment:风险'", "deployment:风险"),
    ("UPDATE pointers SET target = (SELECT min(id) FROM model_versions WHERE label='low') WHERE name='model:风险/高'",
     "model:风险/高"),
    ("DELETE FROM pointers WHERE name = 'group/person'", "group/person"),
    ("DELETE FROM pointer_moves WHERE id = (SELECT max(id) FROM pointer_moves)", "group/person"),
    ("UPDATE datasets SET state = 'strange' WHERE version = 'v1.0'", "dataset v1.0"),
    ("UPDATE datasets SET schema = '{' WHERE version = 'v1.0'", "dataset v1.0"),
    ("UPDATE datasets SET parents = '[\"data_gone\"]' WHERE version = 'v1.1'", "dataset v1.1"),
    ("UPDATE datasets SET minor = 0 WHERE version = 'v1.1'", "dataset v1.0"),
    ("UPDATE matrices SET feature_set = 'gone'", "matrix"),
    ("UPDATE runs SET matrix = 'gone'", "run"),
    ("UPDATE model_versions SET run = 'run_gone' WHERE version = 'v1.0' AND label = 'low'", "model 风险/low v1.0"),
    ("UPDATE feature_groups SET dataset = 'data_gone'", "feature group person"),
    ("UPDATE audit SET who = 'nobody' WHERE id = 3", "audit log"),
    ("DELETE FROM audit WHERE id = (SELECT max(id) FROM audit)", "audit log"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "object_"), PLANTED, ids=[statement[:60] for statement, _ in PLANTED])
def test_what_was_changed_behind_its_back_is_found(sqlite_project, statement, object_):
    run(sqlite_project, statement)
    found = check(sqlite_project._services)
    assert any(one.object.startswith(object_) and one.level == "broken" for one in found), found


def test_findings_on_postgresql_too(project):
    run(project, "UPDATE pointers SET target = 'data_gone' WHERE name = 'dataset'")
    run(project, "DELETE FROM audit WHERE id = (SELECT max(id) FROM audit)")
    assert {"dataset", "audit log"} <= objects(check(project._services))


def test_a_missing_blob_and_a_changed_one(sqlite_project):
    rooms = sqlite_project._services
    part = rooms.datasets.manifest(rooms.datasets.get().id, "visits")[0].digest
    model = rooms.registry.current()[0]
    path = rooms.blobs.path(model.files["weights"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    assert check(rooms) == []
    assert objects(check(rooms, deep=True)) == {f"model {model.model} {model.version}"}
    rooms.blobs.delete(part)
    [found] = check(rooms)
    assert found.object == "dataset v1.0"
    assert part in found.message


def test_raw_files(sqlite_project):
    rooms = sqlite_project._services
    raw = rooms.layout.raw
    visits = raw / "2024-01" / "visits.csv"
    before = visits.read_bytes()
    visits.write_bytes(before.replace(b"Routine", b"routine", 1))
    assert check(rooms) == []
    assert objects(check(rooms, deep=True)) == {"data/raw/2024-01/visits.csv"}
    visits.unlink()
    assert objects(check(rooms)) == {"data/raw/2024-01/visits.csv"}
    visits.write_bytes(before)
    (raw / "2024-01" / "stray.csv").write_text("x")
    assert [(one.level, one.object) for one in check(rooms)] == [("behind", "data/raw/2024-01/stray.csv")]


def test_what_an_interrupted_import_left_is_behind_until_the_next(sqlite_project):
    rooms = sqlite_project._services
    incoming = rooms.layout.raw / ".incoming-1-x"
    incoming.mkdir()
    shutil.copytree(rooms.layout.raw / "2024-01", rooms.layout.raw / "2024-09")
    (rooms.layout.private / "delivery.intent").write_text(json.dumps({"delivery": "2024-09"}))
    assert [(one.level, one.object) for one in check(rooms)] == [("behind", "data/raw")]
    with rooms.datasets.changing("test") as raw:
        staged = raw.stage([rooms.layout.raw / "2024-01" / "visits.csv"], "2024-09")
        assert staged.folder
        assert staged.folder.exists()
        assert check(rooms) == []
    assert check(rooms, deep=True) == []


def test_a_run_whose_process_is_gone(sqlite_project):
    rooms = sqlite_project._services
    last = rooms.registry.runs()[0]
    values = {name: getattr(last, name) for name in Run.__dataclass_fields__}
    rooms.registry.start_run(Run(**values | {"id": "run_dead", "state": "running", "ended_at": None}))
    assert [(one.level, one.object) for one in check(rooms)] == [("behind", "run run_dead")]
    sqlite_project.train(force=True)
    assert check(rooms) == []


def test_faces(sqlite_project):
    rooms = sqlite_project._services
    (rooms.layout.processed / "visits.parquet").unlink()
    (rooms.layout.models / "manifest.json").unlink()
    (rooms.layout.features / "feature_definitions.json").write_text("{}")
    assert objects(check(rooms)) == {"data/processed/visits.parquet", "data/model"}
    assert "features/feature_definitions.json" in objects(check(rooms, deep=True))
    rooms.registry.refresh()
    rooms.datasets.refresh_face()
    assert check(rooms) == []


def test_a_wrong_count_of_rows(sqlite_project):
    statement = "UPDATE datasets SET rows = replace(rows, :was, :now) WHERE version = 'v1.1'"
    run(sqlite_project, statement, was='"persons":60', now='"persons":61')
    assert check(sqlite_project._services) == []
    assert objects(check(sqlite_project._services, deep=True)) == {"dataset v1.1"}


def test_a_rolled_back_part_of_a_transaction_is_not_kept_as_the_head(sqlite_project):
    store = sqlite_project._services.store
    with store.write("outer") as connection:
        Pointers(connection).move("x", "1", at=1, why="test")
        with suppress(RuntimeError), store.write("inner"):
            Pointers(connection).move("x", "2", at=1, why="test")
            raise RuntimeError
    assert check(sqlite_project._services) == []
