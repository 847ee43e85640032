"""The tables change under what is deployed: what answered goes on, and health and errors name what does not fit."""

import json

import pytest

from holdfast.backend.adapters.files import FileReader
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.predict import PredictApp
from holdfast.backend.pipelines.deploy import deploy, rollback
from holdfast.backend.pipelines.ingest import ingest
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.questions import Question, check_schema
from holdfast.backend.serving.service import Service
from holdfast.core.schema import Schema
from holdfast.errors import ConflictError

from .serving_project import CONFIG, Rooms, write_period

NOTES = "  notes: {files: notes.csv, key: note_id, time: date, links: {shop_id: shops}}\n"
WITH_NOTES = CONFIG.replace("targets:", NOTES + "targets:", 1)


def project(root, config):
    root.mkdir(exist_ok=True)
    (root / "holdfast.yaml").write_text(config, encoding="utf-8")
    return Rooms(root)


def delivered(rooms, month, *, notes):
    folder = rooms.layout.root / "delivered" / f"2024-0{month}"
    write_period(folder, month, shops=40, visits=300)
    if notes:
        lines = [f"{month * 1000 + n},{1 + n % 40},2024-0{month}-{1 + n % 28:02},{n % 7}" for n in range(60)]
        (folder / "notes.csv").write_text("note_id,shop_id,date,words\n" + "\n".join(lines), encoding="utf-8")
    with FileReader() as reader:
        return ingest(rooms.datasets, rooms.settings, reader.read, folder.name, [folder])


@pytest.fixture
def service(tmp_path):
    """Two periods with a table of notes that `score` reads; `score` is deployed."""
    rooms = project(tmp_path / "p", WITH_NOTES)
    for month in (1, 2):
        delivered(rooms, month, notes=True)
    rooms.train("score", rounds=5)
    deploy(rooms.sources, "score", rooms.newest("score"))
    yield rooms, opened(rooms)
    rooms.store.close()


def opened(rooms):
    live = Live(rooms.sources)
    live.look()
    return Service(live, PredictionLog(rooms.log), rooms.clock)


def health(service):
    app = PredictApp(lambda: service, 1 << 20, Notices())
    app._service = service
    return json.loads(json.dumps(app._health()))


ASKED = [Question(5, "2024-05-01", {"type": "投诉"})]


def test_a_dropped_table_leaves_the_older_data_answering_and_is_told(service):
    rooms, running = service
    before = running.entities("score", ASKED)
    rooms.store.close()
    # The table leaves the project file, and a period comes without it.
    changed = project(rooms.layout.root, CONFIG)
    delivered(changed, 3, notes=False)
    new = changed.datasets.current().version
    running.live.look()
    running.live.look()
    after = running.entities("score", ASKED)
    assert after["data_version"] == before["data_version"] != new
    assert after["predictions"][0]["labels"] == before["predictions"][0]["labels"]
    told = health(running)
    assert told["status"] == "degraded"
    failure = told["failures"]["score"]
    assert failure["where"] == {"target": "score", "data_version": new, "table": "notes"}
    assert failure["answered_by_data"] == before["data_version"]
    # A server that starts now has no older rows: by entity it says why, by features it answers.
    fresh = opened(changed)
    assert health(fresh)["status"] == "degraded"
    with pytest.raises(ConflictError, match="notes"):
        fresh.entities("score", ASKED)
    visit = {"visit_id": 1, "shop_id": 5, "date": "2024-04-01", "type": "投诉", "score": 55.0, "结果": "差"}
    with pytest.raises(ConflictError, match="notes"):
        fresh.rows("score", {"visits": [visit]}, ASKED, merge=True)
    assert fresh.rows("score", {"visits": [visit]}, ASKED)["predictions"]
    # What was trained on the older tables cannot be deployed again; trained anew, it sees the new rows.
    with pytest.raises(ConflictError) as caught:
        deploy(changed.sources, "score", changed.newest("score"))
    assert caught.value.where["table"] == "notes"
    changed.train("score", rounds=5)
    deploy(changed.sources, "score", changed.newest("score"))
    running.live.look()
    assert running.entities("score", ASKED)["data_version"] == new
    assert health(running)["status"] == "ok"
    with pytest.raises(ConflictError, match="notes"):
        rollback(changed.sources, "score")
    for made in (running, fresh):
        made.log.close()
    changed.store.close()


def test_what_a_schema_must_keep(service):
    rooms, running = service
    feature_set = running.live.predictor("score").feature_set
    schema = rooms.datasets.schema()
    check_schema(feature_set, schema)

    def changed(table, change):
        data = schema.to_dict()
        change(next(made for made in data["tables"] if made["name"] == table))
        return Schema.from_dict(data)

    def column(called, **values):
        def change(table):
            next(made for made in table["columns"] if made["name"] == called).update(values)

        return change

    for table, change, where in (
        ("visits", lambda t: t["links"].clear(), {"table": "visits", "column": "shop_id"}),
        ("visits", column("score", name="分数"), {"table": "visits", "column": "score"}),
        ("visits", column("score", dtype="bool"), {"table": "visits", "column": "score"}),
        ("visits", lambda t: t.update(time=None), {"table": "visits"}),
        ("shops", lambda t: t.update(key=["seats"]), {"table": "shops"}),
        ("shops", column("shop_id", dtype="float"), {"table": "shops", "column": "shop_id"}),
    ):
        with pytest.raises(ConflictError) as caught:
            check_schema(feature_set, changed(table, change))
        assert caught.value.where == where
    with pytest.raises(ConflictError, match="time zone"):
        check_schema(feature_set, Schema(schema.tables, "Asia/Shanghai"))
    # What an import may change, a deployment survives.
    check_schema(feature_set, changed("shops", column("seats", dtype="float")))
    check_schema(feature_set, changed("shops", column("区域", dtype="text")))
    running.log.close()
