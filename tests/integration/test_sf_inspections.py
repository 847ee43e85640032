"""The example on real data: 54 months of San Francisco's restaurant inspections."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast.backend.pipelines.features import BuiltMatrix
from holdfast.core.features.evaluate import evaluate, visible_rows
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.world import World
from holdfast.core.schema import KNOWN_TO
from holdfast.core.timeline import DAY, parse_instant
from holdfast.frontend.client import Project

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sf_inspections"
ZONE = "America/Los_Angeles"
DAYS = ["2013-03-05", "2014-11-18", "2015-12-30", "2016-01-04", "2016-10-13"]


@pytest.fixture(scope="module")
def project(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("旧金山")
    shutil.copy(EXAMPLE / "holdfast.yaml", root)
    with holdfast.open(root) as opened:
        opened.ingest_folder(data_dir / "sf_inspections")
        yield opened


@pytest.fixture(scope="module")
def built(project: Project) -> BuiltMatrix:
    return project.matrix("risk")


def bits(frame: FeatureFrame) -> dict[str, object]:
    return {
        name: column.decode().tolist() if isinstance(column, Categories) else column.tobytes()
        for name, column in frame.columns.items()
    }


def test_every_row_is_there(project: Project) -> None:
    versions = project.data.list()
    assert len(versions) == 54
    newest = project.data.get()
    assert newest.rows["inspections"] == 45_207
    assert newest.rows["violations"] == 65_764


def test_the_labels_are_those_of_the_raw_files(project: Project, built: BuiltMatrix, data_dir: Path) -> None:
    """Counted again with the csv module, which knows nothing of Holdfast."""
    high = set()
    for path in sorted((data_dir / "sf_inspections").glob("*/violations.csv")):
        with path.open(encoding="latin-1", newline="") as file:
            for row in csv.DictReader(file):
                if row["risk_category"] == "High Risk":
                    high.add((int(row["business_id"]), parse_instant(row["date"], ZONE)))
    matrix = built.matrix
    asked = zip(matrix.entities.to_pylist(), matrix.cutoffs.tolist(), strict=True)
    wanted = [float(key in high) for key in asked]
    assert matrix.labels["High Risk"].tolist() == wanted
    assert (built.parts == 2).sum() == 2_888


@pytest.mark.parametrize("day", DAYS)
def test_events_at_or_after_the_cutoff_change_no_feature(project: Project, built: BuiltMatrix, day: str) -> None:
    """Take them away, and put nonsense in their place, the cutoff's own instant included: every bit stays."""
    cutoff = parse_instant(day, ZONE)
    matrix, tables, schema = built.matrix, project.data.read(), project.data.schema()
    rows = np.flatnonzero(matrix.cutoffs == cutoff)
    assert len(rows) > 5
    asked = (matrix.entities.take(pa.array(rows)), matrix.cutoffs[rows])
    context = {"type": pa.array(np.asarray(matrix.frame.columns["context.type"].decode())[rows].tolist())}  # type: ignore[union-attr]
    world = World.build(schema, tables)
    before = bits(evaluate(matrix.feature_set, world, *asked, context))

    def past(table: pa.Table) -> pa.Table:
        return table.filter(pc.less(table["date"].cast(pa.int64()), cutoff))

    def future(table: pa.Table) -> pa.Table:
        return table.filter(pc.greater_equal(table["date"].cast(pa.int64()), cutoff))

    events = ("inspections", "violations")
    emptied = {name: past(data) if name in events else data for name, data in tables.items()}
    assert bits(evaluate(matrix.feature_set, World.build(schema, emptied), *asked, context)) == before

    planted = dict(emptied)
    for name in events:
        nonsense = future(tables[name])
        at = pa.array([cutoff] * len(nonsense), nonsense.schema.field("date").type)
        nonsense = nonsense.set_column(nonsense.column_names.index("date"), "date", at)
        if name == "inspections":
            zero = pa.array([0] * len(nonsense), pa.int64())
            nonsense = nonsense.set_column(nonsense.column_names.index("Score"), "Score", zero)
        planted[name] = pa.concat_tables([emptied[name], nonsense, future(tables[name])])
    assert bits(evaluate(matrix.feature_set, World.build(schema, planted), *asked, context)) == before
    shifted = (asked[0], asked[1] + DAY)
    assert bits(evaluate(matrix.feature_set, World.build(schema, planted), *shifted, context)) != before


def test_the_asking_rows_never_appear(project: Project, built: BuiltMatrix) -> None:
    matrix, tables = built.matrix, project.data.read()
    world = World.build(project.data.schema(), tables)
    when = {
        (file, row): (int(moment), business)
        for name in ("inspections", "violations")
        for file, row, moment, business in zip(
            *(tables[name][c].to_pylist() for c in ("__file", "__row")),
            tables[name]["date"].cast(pa.int64()).to_pylist(), tables[name]["business_id"].to_pylist(), strict=True,
        )
    }  # fmt: skip
    rng = np.random.default_rng(0)
    seen = 0
    for row in rng.choice(len(matrix.cutoffs), 60, replace=False):
        entity, cutoff = matrix.entities[int(row)].as_py(), int(matrix.cutoffs[row])
        found = visible_rows(matrix.feature_set, world, pa.array([entity]), cutoff)
        for name in ("inspections", "violations"):
            for place in found.get(name, []):
                moment, business = when[place]
                assert moment < cutoff
                assert business == entity
                seen += 1
    assert seen > 200


def test_the_business_list_is_as_it_was_known(project: Project, built: BuiltMatrix) -> None:
    """From January 2016 on the city's list has no tax codes; December's answer still has them."""
    tables = project.data.read(tables=["businesses"])["businesses"]
    assert tables.filter(pc.is_null(tables[KNOWN_TO])).num_rows == 5_745
    codes = built.matrix.frame.columns["TaxCode"]
    assert isinstance(codes, Categories)
    known = codes.codes >= 0
    before = built.matrix.cutoffs < parse_instant("2016-02-01", ZONE)
    assert known[before].mean() > 0.5
    assert known[~before].mean() == 0.0
