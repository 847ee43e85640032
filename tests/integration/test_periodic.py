"""Entities asked by the calendar, and labels that come as a file: from files to answers."""

import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast.backend.features import Matrix
from holdfast.backend.serving.questions import Question
from holdfast.core.derive import with_derived
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.world import World
from holdfast.core.learn.split import TRAIN
from holdfast.core.timeline import instant
from holdfast.errors import ConfigError, InputError, NotFoundError
from holdfast.frontend.client import Project

ZONE = ZoneInfo("America/New_York")
YAML = """
project: 商店
timezone: America/New_York
tables:
  lines: {files: lines.csv, time: at, columns: {单: category, 国: category}}
  顾客: {from: lines, key: 顾客号, columns: [国]}
  invoices: {from: lines, key: 单, time: at, links: {顾客号: 顾客}}
targets:
  spend:
    entity: 顾客
    every: month
    horizon: 1mo
    label: >-
      coalesce((select sum(l.量 * l.价) from lines l
      where l.顾客号 = t.顾客号 and l.at >= cutoff and l.at < cutoff_end), 0)
    task: regression
  repeat:
    entity: 顾客
    every: week
    horizon: 14d
    where: >-
      t.国 = '中' and exists(select 1 from lines l
      where l.顾客号 = t.顾客号 and l.at < cutoff and l.at >= cutoff - interval 60 day)
    label: "exists(select 1 from lines l where l.顾客号 = t.顾客号 and l.at >= cutoff and l.at < cutoff_end)"
  each: {entity: 顾客, from: lines, cutoff: at, label: "t.国 = '中'"}
features: {windows: [all, 30d]}
split: {by: time, train: "< 2024-04-01", validate: "< 2024-05-01", test: "< 2024-06-01"}
"""
Line = tuple[str, int, datetime, int, float, str]


def made_lines() -> list[Line]:
    """Purchases of 60 customers over half a year; customers move now and then, and some buy at midnight of a first."""
    rng = random.Random(7)
    lines: list[Line] = []
    for customer in range(60):
        moment = datetime(2024, 1, 1) + timedelta(minutes=rng.randrange(60 * 24 * 120))
        country = rng.choice(["中", "英"])
        while moment < datetime(2024, 7, 1):
            if rng.random() < 0.1:
                moment = datetime(moment.year, moment.month, 1)
            country = rng.choice(["中", "英"]) if rng.random() < 0.1 else country
            order = f"{customer}-{len(lines)}"
            line = (order, customer, moment, rng.randrange(1, 9), rng.randrange(1, 50) / 4, country)
            lines += [line] * rng.choice([1, 2])
            moment += timedelta(minutes=rng.randrange(1, 60 * 24 * 40))
    return [line for line in lines if line[2] >= datetime(2024, 1, 1)]


LINES = made_lines()


def project_in(root: Path, yaml: str = YAML) -> Project:
    root.mkdir(parents=True)
    (root / "holdfast.yaml").write_text(yaml, encoding="utf-8")
    return holdfast.open(root)


def deliver(project: Project, lines: list[Line], files: Path) -> None:
    for month in range(1, 7):
        folder = files / f"2024-{month:02}"
        folder.mkdir(parents=True)
        rows = [",".join(map(str, line)) for line in lines if line[2].month == month]
        (folder / "lines.csv").write_text("\n".join(["单,顾客号,at,量,价,国", *rows, ""]), encoding="utf-8")
    project.ingest_folder(files)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("shop")
    with project_in(folder / "项目") as opened:
        deliver(opened, LINES, folder / "files")
        yield opened


def at(day: date) -> int:
    return instant(datetime(day.year, day.month, day.day, tzinfo=ZONE))


def told(matrix: Matrix, label: str) -> dict[tuple[int, int], float]:
    keys = zip(matrix.entities.to_pylist(), matrix.cutoffs.tolist(), strict=True)
    return dict(zip(keys, matrix.labels[label].tolist(), strict=True))


def moment(line: Line) -> int:
    return instant(line[2].replace(tzinfo=ZONE))


def test_each_entity_is_asked_at_each_step_from_when_it_is_known(shop: Project) -> None:
    matrix = shop.matrix("spend").matrix
    expected = {}
    for month in range(1, 7):
        start, end = at(date(2024, month, 1)), at(date(2024, month + 1, 1))
        for customer in {line[1] for line in LINES if moment(line) < start}:
            mine = [line for line in LINES if line[1] == customer and start <= moment(line) < end]
            expected[customer, start] = sum(line[3] * line[4] for line in mine)
    assert told(matrix, "spend") == pytest.approx(expected)
    assert any(line[2] == datetime(2024, 3, 1) for line in LINES)  # one who buys at the cutoff itself is planted
    ends = {at(date(2024, month, 1)): at(date(2024, month + 1, 1)) - 1 for month in range(1, 7)}
    assert [ends[cutoff] for cutoff in matrix.cutoffs.tolist()] == matrix.label_known.tolist()
    assert matrix.task == "regression"


def test_where_narrows_and_what_is_not_over_is_left_out_and_counted(shop: Project) -> None:
    matrix = shop.matrix("repeat").matrix
    mondays = [date(2024, 1, 1) + timedelta(weeks=week) for week in range(26)]
    expected, unfinished = {}, 0
    for monday in mondays:
        start, since, end = at(monday), at(monday - timedelta(days=60)), at(monday + timedelta(days=14))
        for customer in range(60):
            before = [line for line in LINES if line[1] == customer and moment(line) < start]
            # As known at the cutoff: the newest line's country, the larger one where two lines are as new.
            country = max((moment(line), line[5]) for line in before)[1] if before else None
            if country == "中" and any(moment(line) >= since for line in before):
                if end > at(date(2024, 7, 1)):
                    unfinished += 1
                    continue
                expected[customer, start] = float(
                    any(line[1] == customer and start <= moment(line) < end for line in LINES)
                )
    assert told(matrix, "repeat") == expected
    assert matrix.dropped == {"horizon not over": unfinished}
    assert unfinished > 0
    assert matrix.task == "binary"


def test_no_training_label_is_known_after_training(shop: Project) -> None:
    built = shop.matrix("repeat")
    end = at(date(2024, 4, 1))
    train = built.parts == TRAIN
    assert train.any()
    assert built.matrix.label_known[train].max() < end
    assert built.late > 0  # two weeks ahead of the bound the label is not known in time
    spend = shop.matrix("spend")
    # The month that ends with the training part is settled when it ends.
    assert set(spend.matrix.cutoffs[spend.parts == TRAIN].tolist()) == {at(date(2024, m, 1)) for m in (2, 3)}
    assert spend.late == 0


def test_the_model_answers_by_id_as_the_matrix_says_and_the_trace_leads_to_the_lines(shop: Project) -> None:
    shop.train("repeat")
    shop.deploy("repeat")
    matrix = shop.matrix("repeat").matrix
    place = int(np.flatnonzero(matrix.cutoffs == at(date(2024, 5, 6)))[0])
    customer = matrix.entities[place].as_py()
    named = [Question(customer, "2024-05-06"), Question(customer)]
    reply = shop.service.entities("repeat", named)["predictions"]
    assert reply[0]["labels"]["repeat"]["probability"] != reply[1]["labels"]["repeat"]["probability"]
    node = shop.trace(reply[0]["id"]).to_dict()
    seen = next(n for n in node["from"] if n["kind"] == "rows seen")
    assert {n["facts"]["table"] for n in seen["from"]} >= {"lines", "invoices"}

    before = [line for line in LINES if line[1] == customer and moment(line) < at(date(2024, 5, 6))]
    names = ("单", "顾客号", "at", "量", "价", "国")
    rows = [dict(zip(names, (*one[:2], one[2].isoformat(), *one[3:]), strict=True)) for one in before]
    raw = shop.service.rows("repeat", {"lines": rows}, named[:1])["predictions"][0]
    assert raw["labels"] == reply[0]["labels"]
    # One more line merges into the stored ones, and the tables that derive from it follow.
    more = {"单": "新", "顾客号": customer, "at": "2024-05-05T12:00:00", "量": 1, "价": 2.5, "国": "英"}
    merged = shop.service.rows("repeat", {"lines": [more]}, named[:1], merge=True)["predictions"][0]
    alone = shop.service.rows("repeat", {"lines": [*rows, more]}, named[:1])["predictions"][0]
    assert merged["labels"] == alone["labels"]
    with pytest.raises(InputError, match="derive from those of 'lines'"):
        shop.service.rows("repeat", {"顾客": [{"顾客号": 1}]}, named[:1])


def bits(frame: FeatureFrame, mask: Any = slice(None)) -> dict[str, Any]:
    return {
        name: column.decode()[mask].tolist() if isinstance(column, Categories) else column[mask].tobytes()
        for name, column in frame.columns.items()
    }


def test_what_comes_at_or_after_the_cutoff_changes_nothing(shop: Project, tmp_path: Path) -> None:
    cutoff = at(date(2024, 5, 1))
    rng = random.Random(1)
    garbled = [
        line if moment(line) < cutoff else (line[0], rng.randrange(90), line[2], -line[3], 999.0, "法")
        for line in LINES
    ]
    truth = shop.matrix("spend").matrix
    with project_in(tmp_path / "p") as other:
        deliver(other, garbled, tmp_path / "files")
        false = other.matrix("spend").matrix
    assert truth.feature_set.hash == false.feature_set.hash
    masks = [m.cutoffs <= cutoff for m in (truth, false)]
    assert truth.entities.filter(masks[0]).equals(false.entities.filter(masks[1]))
    assert bits(truth.frame, masks[0]) == bits(false.frame, masks[1])
    # The same with the rows gone.
    schema, tables = shop.data.schema(), shop.data.read()
    kept = tables["lines"].filter(pc.less(tables["lines"]["at"].cast("int64"), cutoff))
    world = World.build(schema, with_derived(schema, {"lines": kept}, ["lines"]))
    asked = truth.cutoffs == cutoff
    frame = evaluate(truth.feature_set, world, truth.entities.filter(asked), truth.cutoffs[asked], {})
    assert bits(frame) == bits(truth.frame, asked)


def test_a_derived_column_is_not_that_of_the_asking_row(shop: Project) -> None:
    matrix = shop.matrix("each").matrix
    countries = matrix.frame.columns["国"]
    assert isinstance(countries, Categories)
    changed = 0
    for customer, cutoff, label, country in zip(
        matrix.entities.to_pylist(), matrix.cutoffs.tolist(), matrix.labels["each"], countries.decode(), strict=True
    ):
        before = [(moment(line), line[5]) for line in LINES if line[1] == customer and moment(line) < cutoff]
        assert country == (max(before)[1] if before else None)
        changed += country is not None and (country == "中") != bool(label)
    assert changed > 10


def test_a_table_that_the_data_do_not_have_yet_is_said(shop: Project) -> None:
    file = shop.root / "holdfast.yaml"
    try:
        text = YAML.replace("targets:", "  国家: {from: 顾客, key: 国}\ntargets:")
        file.write_text(text.replace("entity: 顾客", "entity: 国家", 1).replace("t.顾客号", "1"), encoding="utf-8")
        with holdfast.open(shop.root) as again, pytest.raises(NotFoundError, match="no table '国家'") as caught:
            again.matrix("spend")
    finally:
        file.write_text(YAML, encoding="utf-8")
    assert "repeat the last one" in str(caught.value.hint)


LABELS = """
project: 流失
tables:
  lines: {files: lines.csv, time: at, columns: {单: category, 国: category}}
  顾客: {from: lines, key: 顾客号, columns: [国]}
  流失: {files: labels.csv, key: [顾客号, 截止], columns: {截止: time}, links: {顾客号: 顾客}}
targets:
  churn: {entity: 顾客, from: 流失, cutoff: 截止, label: 流失了, label_known: "截止 + interval 30 day"}
split: {by: time, train: "< 2024-04-01", validate: "< 2024-05-01", test: "< 2024-06-01"}
"""


def labelled(project: Project, folder: Path) -> None:
    folder.mkdir()
    lines = [",".join(map(str, line)) for line in LINES]
    (folder / "lines.csv").write_text("\n".join(["单,顾客号,at,量,价,国", *lines, ""]), encoding="utf-8")
    rows = [f"{customer},2024-0{month}-{day},{(customer + month) % 3 == 0}" for customer in range(60)
            for month in range(2, 6) for day in ("01", "10")]  # fmt: skip
    (folder / "labels.csv").write_text("\n".join(["顾客号,截止,流失了", *rows, "61,2024-03-01,", ""]), encoding="utf-8")
    project.ingest("2024", [folder])


def test_labels_may_be_a_delivered_file(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", LABELS) as project:
        labelled(project, tmp_path / "files")
        built = project.matrix("churn")
        matrix = built.matrix
        assert matrix.task == "binary"
        assert len(matrix.entities) == 480
        assert matrix.dropped == {"no label": 1}
        assert "COUNT(lines)" in matrix.feature_set.names
        # The labels of before are no features: in training none of them would be there yet.
        assert not [name for name in matrix.feature_set.names if "流失" in name]
        # Known 30 days later, after the end of their part: those of the tenth of March, April and May, and of 1 April.
        assert built.late == 60 * 4
        project.train("churn")
        project.deploy("churn")
        answer = project.service.entities("churn", [Question(7, "2024-05-15")])["predictions"][0]
        assert 0 < answer["labels"]["churn"]["probability"] < 1


def wrong(target: str) -> str:
    return f"{YAML.partition('targets:')[0]}targets:\n  x: {target}\n"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{entity: 顾客, every: month, label: '1'}", "`every`.*`horizon`.*go together"),
        ("{entity: 顾客, horizon: 1mo, from: lines, label: '1'}", "go together"),
        ("{entity: 顾客, every: fortnight, horizon: 1mo, label: '1'}", "'fortnight' is no step of the calendar"),
        ("{entity: 顾客, every: month, horizon: 0d, label: '1'}", "'0d' is no step"),
        ("{entity: 顾客, from: lines, every: month, horizon: 1mo, label: '1'}", "leave `from: lines` out"),
        ("{entity: 顾客, every: month, horizon: 1mo, cutoff: at, label: '1'}", "`cutoff` is of a row that asks"),
        ("{entity: 顾客, every: month, horizon: 1mo, context: [国], label: '1'}", "`context` is of a row that asks"),
        ("{every: month, horizon: 1mo, label: '1'}", "key 'from' is missing"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught, project_in(tmp_path / "p", wrong(target)) as project:
        _ = project.settings
    assert str(caught.value.where["key"]).startswith("targets.x")


@pytest.mark.parametrize(
    ("target", "key", "message"),
    [
        ("{entity: 顾客, every: month, horizon: 1mo, label: 'l.量 > 1'}", "targets.x.label", "the SQL fails.*l"),
        ("{entity: 顾客, every: month, horizon: 1mo, where: 'cutof < 1', label: '1'}", "targets.x.where", "cutof"),
        ("{entity: 顾客, every: month, horizon: 9mo, label: '1'}", "targets.x", "no row with a label"),
        ("{entity: 顾客, every: year, horizon: 1d, label: '1'}", "targets.x.every", "no row of '顾客' at the start"),
    ],
)
def test_what_the_data_show_to_be_wrong_names_the_key(
    shop: Project, tmp_path: Path, target: str, key: str, message: str
) -> None:
    file = shop.root / "holdfast.yaml"
    try:
        file.write_text(wrong(target), encoding="utf-8")
        with holdfast.open(shop.root) as again, pytest.raises((ConfigError, InputError), match=message) as caught:
            again.matrix("x")
    finally:
        file.write_text(YAML, encoding="utf-8")
    assert caught.value.where["key"] == key


def test_a_column_called_cutoff_is_in_the_way(tmp_path: Path) -> None:
    text = (
        "project: x\ntables: {c: {files: c.csv, key: id}}\n"
        "targets: {x: {entity: c, every: day, horizon: 1d, label: 'true'}}\n"
    )
    (tmp_path / "c.csv").write_text("id,Cutoff\n1,2\n")
    with project_in(tmp_path / "p", text) as project:
        project.ingest("2024-01-01", [tmp_path / "c.csv"])
        project.ingest("2024-01-05", [tmp_path / "c.csv"])
        with pytest.raises(ConfigError, match="column 'Cutoff', which is what `every` calls"):
            project.matrix("x")
