"""The point-in-time join of any number of groups, computed and stored."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backend.pipelines.historical import Stored, _mapped, join_stored
from holdfast.backend.pipelines.materialise import ENTITY
from holdfast.errors import InputError, NotFoundError


def frame():
    rng = np.random.default_rng(3)
    days = pd.Timestamp("2024-01-05", tz="UTC") + pd.to_timedelta(rng.integers(0, 80 * 86_400, 200), unit="s")
    shops = rng.integers(1, 45, 200)
    return pd.DataFrame({"note": range(200), "shop_id": shops, "districts": "东城", "event_timestamp": days})


def test_groups_of_different_entities_in_the_order_of_the_rows(project):
    asked = frame()
    asked.loc[5, "districts"] = "nowhere"
    groups = ["门店统计", "districts:COUNT(shops)", "recent"]
    found = project.get_historical_features(asked, groups, full_feature_names=True)
    assert found.column_names[:4] == list(asked.columns)
    assert found.column("note").to_pylist() == list(range(200))
    assert found.column("districts__COUNT(shops)").to_pylist()[5] == 0
    # Each row as it is when asked alone, at its own cutoff.
    for row in (0, 77, 199):
        alone = project.get_historical_features(asked.iloc[row : row + 1], groups, full_feature_names=True)
        assert alone.to_pylist() == found.slice(row, 1).to_pylist()


def test_nothing_of_the_cutoff_or_later_is_seen(project):
    visits = project.data.read(None, ["visits"])["visits"].to_pylist()
    visit = next(v for v in visits if v["score"] is not None)
    at = visit["date"]
    moments = [at, at + timedelta(microseconds=1)]
    before, after = (
        project.get_historical_features(
            {"shop_id": [visit["shop_id"]] * 2, "cutoff": moments}, "recent:COUNT(visits, 30d)"
        )
        .column("COUNT(visits, 30d)")
        .to_pylist()
    )
    here = [v for v in visits if v["shop_id"] == visit["shop_id"] and at - timedelta(days=30) <= v["date"]]
    assert before == sum(v["date"] < at for v in here)
    assert after == before + sum(v["date"] == at for v in here)


@pytest.mark.parametrize("kind", ["arrow", "mapping", "text", "date", "naive", "offset", "ns"])
def test_frames_of_every_kind(project, kind):
    noon = datetime(2024, 3, 1, 4, tzinfo=UTC)
    moments = {
        "arrow": pa.array([noon]), "mapping": [noon], "text": ["2024-03-01T12:00"], "date": None,
        "naive": [datetime(2024, 3, 1, 12)], "offset": [noon.astimezone(timezone(timedelta(hours=2)))],
        "ns": pa.array([np.datetime64("2024-03-01T12:00:00.000000999")], pa.timestamp("ns")),
    }[kind]  # fmt: skip
    if kind == "date":
        found = project.get_historical_features({"shop_id": [7], "cutoff": [datetime(2024, 3, 1).date()]}, "门店统计")
        wanted = project.get_historical_features({"shop_id": [7], "cutoff": ["2024-03-01"]}, "门店统计")
    else:
        given = {"shop_id": [7], "cutoff": moments}
        found = project.get_historical_features(pa.table(given) if kind == "arrow" else given, "门店统计")
        wanted = project.get_historical_features({"shop_id": [7], "cutoff": [noon]}, "门店统计")
    assert found.drop_columns(["cutoff"]).to_pylist() == wanted.drop_columns(["cutoff"]).to_pylist()


@pytest.mark.parametrize(
    ("given", "features", "words"),
    [
        ({"shop_id": [1]}, "门店统计", "cutoff"),
        ({"cutoff": ["2024-03-01"]}, "门店统计", "shop_id"),
        ({"shop_id": [1, 2], "cutoff": ["2024-03-01", None]}, "门店统计", "row 2"),
        ({"shop_id": [1], "cutoff": [5]}, "门店统计", "int64"),
        ({"shop_id": [1], "cutoff": ["yesterday"]}, "门店统计", "yesterday"),
        ({"shop_id": ["x"], "cutoff": ["2024-03-01"]}, "门店统计", "keys"),
        ({"shop_id": [1], "cutoff": ["2024-03-01"], "seats": [1]}, "门店统计", "seats"),
        ({"shop_id": [1], "cutoff": ["2024-03-01"]}, ["门店统计", "risk"], "full"),
        ({"shop_id": [1], "cutoff": ["2024-03-01"]}, [], "no feature group"),
        (7, "门店统计", "frame"),
    ],
)
def test_what_cannot_be_joined_is_said(project, given, features, words):
    with pytest.raises(InputError, match=words):
        project.get_historical_features(given, features)


def test_names_are_found_or_said(project):
    asked = {"shop_id": [1], "cutoff": ["2024-03-01"]}
    for name, hint in (("门店", "门店统计"), ("门店统计:seat", "seats")):
        with pytest.raises(NotFoundError, match=hint):
            project.get_historical_features(asked, name)
    found = project.get_historical_features(asked, ["门店统计", "risk"], full_feature_names=True)
    assert {"门店统计__seats", "risk__seats"} <= set(found.column_names)


def test_an_empty_frame(project):
    asked = pa.table({"shop_id": pa.array([], pa.int64()), "event_timestamp": pa.array([], pa.timestamp("us"))})
    found = project.get_historical_features(asked, "门店统计")
    assert found.num_rows == 0
    assert found.num_columns == 8


def test_stored_rows_are_joined_as_of(project):
    for day in ("2024-02-10", "2024-03-10", "2024-02-25"):
        project.materialise("门店统计", at=day)
    asked = frame()
    stored = project.get_historical_features(asked, "门店统计", stored=True)
    moments = pd.to_datetime(["2024-02-10", "2024-02-25", "2024-03-10"]).tz_localize("Asia/Shanghai").tz_convert("UTC")
    names = stored.column_names[4:]
    for row, said in zip(asked.itertuples(), stored.to_pylist(), strict=True):
        past = moments[moments <= row.event_timestamp]
        known = project.data.read(None, ["shops"])["shops"]
        wanted = dict.fromkeys(names)
        if len(past) and any(
            shop["shop_id"] == row.shop_id and shop["__known_from"] <= past[-1] for shop in known.to_pylist()
        ):
            at = {"shop_id": [row.shop_id], "cutoff": [past[-1]]}
            wanted = project.get_historical_features(at, "门店统计").select(names).to_pylist()[0]
        assert {name: said[name] for name in names} == wanted


def test_stored_rows_have_to_be_there(project):
    with pytest.raises(NotFoundError, match="materialise"):
        project.get_historical_features({"shop_id": [1], "cutoff": ["2024-03-01"]}, "门店统计", stored=True)


KEYS = st.sampled_from([[1, 2, 3, 5, 8, 13], ["", "a", "甲", "乙", "🜁"]])
BATCHES = st.lists(st.tuples(st.integers(-5, 5), st.sets(st.integers(0, 4))), min_size=1, max_size=8)
ASKED = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.integers(-7, 7)), max_size=20)


@settings(deadline=None)  # the first example of a process loads the compiler
@given(KEYS, BATCHES, ASKED, st.one_of(st.none(), st.integers(0, 6)))
def test_the_join_of_stored_rows_is_what_it_says(keys, batches, asked, ttl):
    batches = sorted(batches, key=lambda batch: batch[0])
    kind = pa.array(keys).type
    stored = []
    for number, (cutoff, held) in enumerate(batches):
        mine = sorted(keys[place] for place in held)
        stored.append(
            Stored(cutoff, pa.table({ENTITY: pa.array(mine, kind), "f": [f"{number} {key}" for key in mine]}))
        )
        stored[-1] = stored[-1]._replace(rows=stored[-1].rows.cast(pa.schema([(ENTITY, kind), ("f", pa.string())])))
    entities = pa.array([None if place is None else keys[place] for place, _ in asked], kind)
    cutoffs = np.array([cutoff for _, cutoff in asked], np.int64)
    found = join_stored(stored, entities, cutoffs, ["f"], ttl)["f"].to_pylist()
    for (place, cutoff), said in zip(asked, found, strict=True):
        fit = [
            f"{number} {keys[place]}"
            for number, (at, held) in enumerate(batches)
            if place in held and at <= cutoff and (ttl is None or at >= cutoff - ttl)
        ]
        assert said == (fit[-1] if fit else None)


# Far apart, even and uneven, negative, and one that only a table in the middle holds.
WIDE = st.sampled_from(
    [[-(2**63), -1, 0, 7, 2**40, 2**63 - 1], [10, 20, 30, 40, 50, 60], ["", "a", "甲", "乙", "丙", "🜁"]]
)
VALUES = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)), "float": (pa.float64(), st.floats(allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()), "text": (pa.string(), st.sampled_from(["", "a", "丙", "🜁🜁"])),
    "time": (pa.timestamp("us", tz="UTC"), st.integers(-(2**40), 2**40)),
}  # fmt: skip


def stored_table(data, kind, keys, first):
    """Rows in batches of two that begin in the midst of their memory, as a file of many batches has them."""
    columns = {ENTITY: pa.array(keys, kind)}
    for name, (dtype, values) in VALUES.items():
        drawn = data.draw(st.lists(st.one_of(st.none(), values), min_size=len(keys), max_size=len(keys)))
        columns[name] = pa.array([None, *drawn], dtype).slice(1)
    # A sum that became too large for its type: float64 in one file, int64 in the others.
    columns["mixed"] = pa.array([1.5 if first else 2] * len(keys), pa.float64() if first else pa.int64())
    table = pa.table(columns)
    return pa.concat_tables([table.slice(start, 2) for start in range(0, max(len(keys), 1), 2)])


@settings(deadline=None)  # the first example of a process loads the compiler
@given(WIDE, st.lists(st.tuples(st.integers(-5, 5), st.sets(st.integers(0, 5))), min_size=1, max_size=4), st.data())
def test_stored_values_of_every_type_come_back_as_they_are(keys, batches, data):
    kind, batches = pa.array(keys).type, sorted(batches, key=lambda batch: batch[0])
    stored = [
        Stored(cutoff, stored_table(data, kind, sorted(keys[place] for place in held), number == 0))
        for number, (cutoff, held) in enumerate(batches)
    ]
    asked = data.draw(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from(keys)), st.integers(-7, 7)), max_size=30))
    ttl = data.draw(st.one_of(st.none(), st.integers(0, 6)))
    names = data.draw(st.permutations([*VALUES, "mixed"]))
    entities = pa.array([None, *(key for key, _ in asked)], kind).slice(1)
    cutoffs = np.array([cutoff for _, cutoff in asked], np.int64)
    found = pa.table(dict(join_stored(stored, entities, cutoffs, names, ttl)))
    assert found.column_names == list(names)
    types = {name: dtype for name, (dtype, _) in VALUES.items()}
    types["mixed"] = pa.float64()
    assert {name: found.schema.field(name).type for name in names} == types
    found.validate(full=True)
    known = [{row[ENTITY]: row for row in one.rows.to_pylist()} for one in stored]
    for (key, cutoff), said in zip(asked, found.to_pylist(), strict=True):
        fit = [
            rows[key] for one, rows in zip(stored, known, strict=True)
            if key in rows and one.cutoff <= cutoff and (ttl is None or one.cutoff >= cutoff - ttl)
        ]  # fmt: skip
        assert said == ({name: fit[-1][name] for name in names} if fit else dict.fromkeys(names))


def test_a_file_stays_mapped_and_a_newer_one_is_seen(project):
    asked = {"shop_id": [7], "cutoff": ["2024-03-20"]}
    project.materialise("门店统计", at="2024-02-10")
    first = project.get_historical_features(asked, "门店统计", stored=True)
    kept = _mapped.cache_info().hits
    assert project.get_historical_features(asked, "门店统计", stored=True) == first
    assert _mapped.cache_info().hits > kept
    project.materialise("门店统计", at="2024-03-15")
    newer = project.get_historical_features(asked, "门店统计", stored=True)
    at = project.get_historical_features({**asked, "cutoff": ["2024-03-15"]}, "门店统计")
    assert newer.drop_columns(["cutoff"]) == at.drop_columns(["cutoff"])
    assert newer != first
