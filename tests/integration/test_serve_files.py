"""Predictions for files, and what a loader does without a server."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.backend.adapters.files import FileReader, read_file
from holdfast.backend.pipelines.deploy import deploy
from holdfast.backend.pipelines.ingest import ingest
from holdfast.backend.pipelines.predict import predict_entities_file, predict_features_file
from holdfast.backend.pipelines.trace import trace_prediction
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog, read_prediction
from holdfast.backend.serving.service import Service
from holdfast.errors import AlignmentError, ConflictError, FileError, InputError, NotFoundError, UnavailableError

from .serving_project import CONFIG, LABELS, write_period
from .test_serve_answers import bundle, features_of
from .test_serve_schema import opened, project


@pytest.fixture
def service(rooms):
    live = Live(rooms.sources)
    made = Service(live, PredictionLog(rooms.log), rooms.clock)
    live.look()
    yield made
    made.log.close()


def written(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_of_features(service, rooms, tmp_path, kind):
    rows = [features_of(rooms, entity=entity)[0] | {"店名": f"第{entity}家"} for entity in range(1, 8)]
    names = list(rows[0])
    source = tmp_path / f"query.{kind}"
    if kind == "csv":
        with source.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), source)
    output = tmp_path / f"out.{kind}"
    done = []
    report = predict_features_file(service, "风险", read_file(source), output, file=source.name, progress=done.append)
    expected = service.features("风险", [{n: v for n, v in row.items() if n != "店名"} for row in rows])["predictions"]
    found = written(output)
    assert (report.rows, done[-1], len(found)) == (7, 7, 7)
    for row, answer in zip(found, expected, strict=True):
        assert row["店名"].startswith("第")
        for label in LABELS["风险"]:
            assert float(row[label]) == answer["labels"][label]["probability"]
            assert str(row[f"{label} decision"]).lower() == str(answer["labels"][label]["decision"]).lower()
        assert int(row["repairs"]) == len(answer["repairs"])
        assert trace_prediction(rooms.lineage, row["prediction_id"]).facts["target"] == "风险"


def test_a_bad_row_leaves_nothing(service, rooms, tmp_path):
    values, _ = features_of(rooms)
    number = next(name for name, value in values.items() if isinstance(value, float))
    source, output = tmp_path / "q.csv", tmp_path / "out.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(values))
        writer.writeheader()
        writer.writerows([values, values, {**values, number: "很多"}])
    before = service.log.stats.written
    with pytest.raises(AlignmentError) as caught:
        predict_features_file(service, "风险", read_file(source), output, file="q.csv")
    assert caught.value.where == {"file": "q.csv", "row": 4, "feature": number}
    assert not output.exists()
    assert list(tmp_path.iterdir()) == [source]
    assert service.log.stats.written == before
    with pytest.raises(FileError, match=r"\.csv or \.parquet"):
        predict_features_file(service, "风险", read_file(source), tmp_path / "out.xlsx", file="q.csv")


@pytest.mark.parametrize("name", ["高风险", "Low Risk decision", "repairs", "prediction_id"])
def test_a_column_called_as_a_result_is_refused_before_anything_is_predicted(service, rooms, tmp_path, name):
    values, _ = features_of(rooms)
    source, output = tmp_path / "q.csv", tmp_path / "out.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*values, name])
        writer.writeheader()
        writer.writerow({**values, name: "mine"})
    people = tmp_path / "e.csv"
    people.write_text(f"shop_id,type,{name}\n5,投诉,mine\n", encoding="utf-8")
    before = service.log.stats.written
    for predict, asked in ((predict_features_file, source), (predict_entities_file, people)):
        with pytest.raises(InputError) as caught:
            predict(service, "风险", read_file(asked), output, file=asked.name)
        assert caught.value.where == {"file": asked.name, "column": name}
    assert not output.exists()
    assert service.log.stats.written == before


@pytest.mark.parametrize(("target", "results"), [("score", ["score"]), ("grade", ["grade 优", "grade decision"])])
def test_results_of_every_task_are_guarded(service, tmp_path, target, results):
    plain, output = tmp_path / "e.csv", tmp_path / "out.parquet"
    plain.write_text("shop_id,type\n5,投诉\n", encoding="utf-8")
    predict_entities_file(service, target, read_file(plain), output, file="e.csv")
    assert set(results) <= set(pq.read_table(output).column_names)
    for name in results:
        plain.write_text(f"shop_id,type,{name}\n5,投诉,mine\n", encoding="utf-8")
        with pytest.raises(InputError, match=name):
            predict_entities_file(service, target, read_file(plain), output, file="e.csv")


def test_a_list_of_entities(service, tmp_path):
    source, output = tmp_path / "店.csv", tmp_path / "out.parquet"
    source.write_text("shop_id,cutoff,type\n5,2024-03-15,投诉\n6,,\n", encoding="utf-8")
    report = predict_entities_file(service, "风险", read_file(source), output, file="店.csv")
    found = written(output)
    assert (report.rows, report.data_version) == (2, service.live.stored(service.live.predictor("风险")).version)
    one = service.entities("score", _questions(5))["predictions"][0]
    assert one["cutoff"] == "2024-03-15T00:00:00Z"
    assert (
        found[0]["高风险"]
        == service.entities("风险", _questions(5))["predictions"][0]["labels"]["高风险"]["probability"]
    )
    source.write_text("shop_id,cutoff,type\n5,2024-03-15,投诉\n6,bald,\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        predict_entities_file(service, "风险", read_file(source), output, file="店.csv")
    assert caught.value.where == {"file": "店.csv", "row": 3, "column": "cutoff"}
    source.write_text("id,type\n5,a\n", encoding="utf-8")
    with pytest.raises(InputError, match="shop_id"):
        predict_entities_file(service, "风险", read_file(source), output, file="店.csv")


def test_text_is_read_as_the_context_column_is(tmp_path):
    before, after = CONFIG.split("  score: {", 1)
    config = before + "  score: {" + after.replace("context: [type]", "context: [vip, weight, rank]", 1)
    rooms = project(tmp_path / "p", config)
    folder = tmp_path / "2024-01"
    write_period(folder, 1, shops=30, visits=200)
    first, *lines = (folder / "visits.csv").read_text(encoding="utf-8").splitlines()
    more = [f"{line},{('true', 'false')[n % 2]},{n % 9}.5,{n % 7}" for n, line in enumerate(lines)]
    (folder / "visits.csv").write_text("\n".join([first + ",vip,weight,rank", *more]), encoding="utf-8")
    with FileReader() as reader:
        ingest(rooms.datasets, rooms.settings, reader.read, "2024-01", [folder])
    rooms.train("score", rounds=5)
    deploy(rooms.sources, "score", rooms.newest("score"))
    running = opened(rooms)
    source, output = tmp_path / "ask.csv", tmp_path / "out.parquet"
    source.write_text("shop_id,vip,weight,rank\n5,Yes,2.5,3\n5,否,.5,4\n5,,,\n", encoding="utf-8")
    assert predict_entities_file(running, "score", read_file(source), output, file="ask.csv").rows == 3
    logged = [read_prediction(rooms.log, row["prediction_id"]).input["context"] for row in written(output)]
    assert logged == [
        {"vip": True, "weight": 2.5, "rank": 3},
        {"vip": False, "weight": 0.5, "rank": 4},
        {"vip": None, "weight": None, "rank": None},
    ]
    for column, bad in (("vip", "perhaps"), ("weight", "1_0"), ("rank", "1_0"), ("weight", "nan")):
        cells = {"vip": "yes", "weight": "1", "rank": "1", column: bad}
        source.write_text("shop_id,vip,weight,rank\n5," + ",".join(cells.values()) + "\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            predict_entities_file(running, "score", read_file(source), output, file="ask.csv")
        assert caught.value.where == {"file": "ask.csv", "row": 2, "column": column}
    running.log.close()
    rooms.store.close()


def _questions(entity):
    from holdfast.backend.serving.questions import Question

    return [Question(entity, "2024-03-15", {"type": "投诉"})]


def test_a_loader_before_and_after_its_first_look(rooms):
    live = Live(rooms.sources)
    with pytest.raises(UnavailableError, match="starting"):
        live.predictor("风险")
    assert not live.ready
    live.look()
    assert live.ready
    with pytest.raises(NotFoundError, match="风"):
        live.predictor("风")
    kept = live.predictor("风险")
    live.look()
    assert live.predictor("风险") is kept


def test_models_of_two_feature_sets_do_not_answer_together(rooms):
    from holdfast.backend.serving.predictor import Predictor
    from holdfast.core.features.definitions import FeatureSet

    models = {label: bundle(rooms, target, label) for target in ("风险", "score") for label in LABELS[target]}
    version = rooms.registry.get(rooms.newest("风险")["高风险"])
    feature_set = FeatureSet.from_dict(rooms.features.get(version.feature_set).definitions)
    shorter = FeatureSet(feature_set.entity, feature_set.features[1:], feature_set.schema, feature_set.context)
    with pytest.raises(ConflictError, match="another feature set"):
        Predictor("dep_0", "风险", models, shorter, rooms.clock)
