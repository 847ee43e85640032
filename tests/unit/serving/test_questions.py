"""Questions and rows of a request, before any model sees them."""

import pyarrow as pa
import pytest

from holdfast.backend.serving.questions import Question, StoredData, ask
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.rows import typed_rows
from holdfast.core.schema import KNOWN_FROM, SYSTEM_FIELDS, Column, DType, Schema, Table
from holdfast.core.timeline import DAY, parse_instant
from holdfast.errors import InputError

NEW_YORK = "America/New_York"


def shops(timezone):
    return Schema({"shops": Table("shops", (Column("id", DType.INT),), ("id",))}, timezone)


def test_a_cutoff_that_clocks_skip_is_refused():
    feature_set = FeatureSet("shops", (), shops(NEW_YORK))
    with pytest.raises(InputError, match="does not exist in America/New_York") as caught:
        ask(feature_set, [Question(1), Question(1, "2016-03-13T02:30")], 0)
    assert caught.value.where == {"question": 1, "column": "cutoff"}
    twice = ask(feature_set, [Question(1, "2016-11-06T01:30"), Question(1, "2016-03-13T02:30-05:00")], 0)
    assert twice.cutoffs.tolist() == [parse_instant("2016-11-06T05:30Z"), parse_instant("2016-03-13T07:30Z")]


def test_a_cutoff_before_the_first_year_in_utc_is_refused():
    feature_set = FeatureSet("shops", (), shops("Asia/Shanghai"))
    with pytest.raises(InputError, match="out of range"):
        ask(feature_set, [Question(1, "0001-01-01")], 0)


def test_merged_rows_are_known_as_their_table_says():
    columns = (Column("id", DType.INT), Column("at", DType.TIME))
    schema = Schema({"t": Table("t", columns, ("id",), "at", known="event + 3d")})
    stored = {"t": pa.table({
        "id": pa.array([1], pa.int64()), "at": pa.array([0], pa.int64()).cast(DType.TIME.arrow),
        **{name: pa.nulls(1, kind) for name, kind in SYSTEM_FIELDS.items()},
    })}  # fmt: skip
    given = typed_rows(schema, {"t": [{"id": 2, "at": "2020-01-01"}]})
    assert KNOWN_FROM in given["t"].column_names
    world = StoredData.build("v1.0", schema, stored).merged(given)
    assert parse_instant("2020-01-01") + 3 * DAY in world.tables["t"].known_from.tolist()
