"""Reading cells: numbers, truth values, text and times, and the types proposed for them."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.prepare import convert, propose
from holdfast.core.prepare.convert import time_format, unify
from holdfast.core.prepare.times import choose_format
from holdfast.core.schema import DType
from holdfast.core.timeline import instant


def texts(*values):
    return pa.array(values, pa.string())


def faulty(result):
    return {(position, reason) for mask, reason in result.faults for position, hit in enumerate(mask) if hit}


@pytest.mark.parametrize(
    ("text", "value", "repair"),
    [
        ("5", 5, None),
        ("-0", 0, None),
        (" 5 ", 5, "trimmed or full-width"),
        ("５", 5, "trimmed or full-width"),
        ("1,234", 1234, "thousands separator"),
        ("-1,234,567", -1234567, "thousands separator"),
        ("5.0", 5, "decimal zero"),
        ("1,234.00", 1234, "decimal zero"),
        ("007", 7, "leading zero"),
        ("N/A", None, "word for missing"),
        ("缺失", None, "word for missing"),
        ("9223372036854775807", 2**63 - 1, None),
    ],
)
def test_whole_numbers_are_repaired_and_counted(text, value, repair):
    result = convert(texts(text, "1"), DType.INT)
    assert result.values.to_pylist() == [value, 1]
    assert not result.faults
    assert result.repairs == ({repair: 1} if repair else {})


@pytest.mark.parametrize(
    "text", ["x", "5.5", "1,23", "0x1F", "1e3", "9223372036854775808", "5 6", "--5", "9" * 5000, "①x"]
)
def test_what_is_no_whole_number_is_a_fault(text):
    result = convert(texts("1", text, None), DType.INT)
    assert result.values.to_pylist() == [1, None, None]
    assert {position for position, _ in faulty(result)} == {1}


@pytest.mark.parametrize("text", ["inf", "Infinity", "1e999", "abc", "1,23.5", "0x1p3", "1_000"])
def test_what_is_no_finite_number_is_a_fault(text):
    result = convert(texts("1.5", text), DType.FLOAT)
    assert result.values.to_pylist() == [1.5, None]
    assert {position for position, _ in faulty(result)} == {1}


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))))
def test_whole_numbers_come_back_exactly(values):
    cells = pa.array([None if v is None else str(v) for v in values], pa.string())
    assert convert(cells, DType.INT).values.to_pylist() == values
    assert convert(pa.array(values, pa.int64()), DType.INT).values.to_pylist() == values


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))))
def test_floats_come_back_bit_by_bit(values):
    cells = pa.array([None if v is None else repr(v) for v in values], pa.string())
    assert convert(cells, DType.FLOAT).values.equals(pa.array(values, pa.float64()))


@given(st.lists(st.one_of(st.none(), st.text())), st.sampled_from(list(DType)))
def test_no_text_crashes_and_every_cell_is_accounted_for(values, dtype):
    cells = pa.array(values, pa.string())
    result = convert(cells, dtype, timezone="America/Los_Angeles")
    assert result.values.type == dtype.arrow
    bad = {position for position, _ in faulty(result)}
    lost = sum(1 for n, v in enumerate(values) if v is not None and n not in bad and result.values[n].as_py() is None)
    assert lost == result.repairs.get("word for missing", 0)
    if dtype in (DType.TEXT, DType.CATEGORY):
        assert result.values.to_pylist() == values


def test_native_cells_meet_the_bound_type():
    assert convert(pa.array([1.0, 2.5, None, float("nan")]), DType.INT).values.to_pylist() == [1, None, None, None]
    assert convert(pa.array([94133, None]), DType.CATEGORY).values.to_pylist() == ["94133", None]
    assert convert(pa.array([94133.0, 0.5]), DType.TEXT).values.to_pylist() == ["94133", "0.5"]
    assert convert(pa.array([0, 1, 2]), DType.BOOL).values.to_pylist() == [False, True, None]
    assert convert(pa.array([2**60]), DType.FLOAT).values.to_pylist() == [None]
    assert convert(pa.array([float("inf")]), DType.FLOAT).values.to_pylist() == [None]
    assert convert(pa.array([True]), DType.INT).values.to_pylist() == [1]
    assert convert(pa.array([20140203]), DType.TIME).values.to_pylist() == [datetime(2014, 2, 3, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014-02-03", datetime(2014, 2, 3, tzinfo=UTC)),
        ("2014-02-03 04:05", datetime(2014, 2, 3, 4, 5, tzinfo=UTC)),
        ("2014-02-03T04:05:06.25", datetime(2014, 2, 3, 4, 5, 6, 250000, tzinfo=UTC)),
        ("2014-02-03T04:05:06Z", datetime(2014, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2014-02-03T04:05:06+08:00", datetime(2014, 2, 2, 20, 5, 6, tzinfo=UTC)),
        ("2014-02-03T04:05:06-0130", datetime(2014, 2, 3, 5, 35, 6, tzinfo=UTC)),
        ("20140203", datetime(2014, 2, 3, tzinfo=UTC)),
        ("2014年2月3日", datetime(2014, 2, 3, tzinfo=UTC)),
        ("2014/2/3", datetime(2014, 2, 3, tzinfo=UTC)),
        ("3.2.2014", datetime(2014, 2, 3, tzinfo=UTC)),
        ("13/2/2014 12:30 AM", datetime(2014, 2, 13, 0, 30, tzinfo=UTC)),
        ("2/13/2014 12:30 pm", datetime(2014, 2, 13, 12, 30, tzinfo=UTC)),
    ],
)
def test_times_in_common_formats(text, expected):
    result = convert(texts(text), DType.TIME)
    assert result.values.to_pylist() == [expected]


@pytest.mark.parametrize("text", ["2014-02-30", "20141301", "31/31/2014", "2014-02-03 25:00", "soon", "12:30"])
def test_what_is_no_time_is_a_fault(text):
    result = convert(texts(*["2014-02-03"] * 30, text), DType.TIME)
    assert {position for position, _ in faulty(result)} == {30}


def test_day_and_month_are_decided_over_the_column():
    assert choose_format(["1/2/2014", "7/14/1999"]) == ("%m/%d/%Y", False)
    assert choose_format(["1/2/2014", "14/7/1999"]) == ("%d/%m/%Y", False)
    assert choose_format(["1/2/2014", "3/4/1999"]) == (None, True)
    assert choose_format(["14/7/1999", "7/14/1999"]) == (None, False)
    assert choose_format(["4/4/2014"])[1] is False  # both readings are the same day


def test_open_day_and_month_are_reported_not_guessed():
    result = convert(texts("1/2/2014", "3/4/1999"), DType.TIME)
    assert result.values.null_count == 2
    assert all("declare `format`" in reason for _, reason in faulty(result))
    assert convert(texts("1/2/2014"), DType.TIME, formats=["%d/%m/%Y"]).values[0].as_py() == datetime(
        2014, 2, 1, tzinfo=UTC
    )
    proposal = propose(texts("1/2/2014", "3/4/1999"))
    assert proposal.dtype is DType.CATEGORY
    assert "declare" in proposal.note


def test_a_declared_strptime_format_is_honoured():
    result = convert(texts("03|02|14 05h", "x"), DType.TIME, formats=["%d|%m|%y %Hh"])
    assert result.values[0].as_py() == datetime(2014, 2, 3, 5, tzinfo=UTC)
    assert {position for position, _ in faulty(result)} == {1}


def test_local_times_that_do_not_exist_or_exist_twice():
    cells = texts("2016-03-13 02:30", "2016-11-06 01:30", "2016-11-06 02:00", "2016-03-13 03:00", "2016-03-13")
    result = convert(cells, DType.TIME, timezone="America/Los_Angeles")
    assert result.values.to_pylist() == [
        None,
        datetime(2016, 11, 6, 8, 30, tzinfo=UTC),
        datetime(2016, 11, 6, 10, tzinfo=UTC),
        datetime(2016, 3, 13, 10, tzinfo=UTC),
        datetime(2016, 3, 13, 8, tzinfo=UTC),
    ]
    assert faulty(result) == {(0, "does not exist in America/Los_Angeles: the clocks went forward")}
    assert result.repairs == {"exists twice (clocks went back): the earlier": 1}


def test_a_day_whose_midnight_does_not_exist_begins_at_its_first_instant():
    result = convert(texts("2018-11-04"), DType.TIME, timezone="America/Sao_Paulo")
    assert result.values[0].as_py() == datetime(2018, 11, 4, 3, tzinfo=UTC)
    typed = pa.array([datetime(2018, 11, 4)], pa.timestamp("us"))
    assert convert(typed, DType.TIME, timezone="America/Sao_Paulo").values.equals(result.values)


@pytest.mark.parametrize(
    "name", ["UTC", "America/Los_Angeles", "Asia/Shanghai", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
@given(st.datetimes(datetime(1910, 1, 1), datetime(2090, 1, 1)))
def test_local_times_agree_with_zoneinfo(name, wall):
    from zoneinfo import ZoneInfo

    result = convert(pa.array([wall.replace(hour=wall.hour or 1)], pa.timestamp("us")), DType.TIME, timezone=name)
    local = wall.replace(hour=wall.hour or 1, tzinfo=ZoneInfo(name))
    exists = local.astimezone(UTC).astimezone(ZoneInfo(name)).replace(tzinfo=None) == local.replace(tzinfo=None)
    if result.faults:
        assert not exists
    else:
        assert result.values.cast(pa.int64())[0].as_py() == instant(local.astimezone(UTC))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (texts("1", "-2", None), DType.INT),
        (texts("1", "2.5"), DType.FLOAT),
        (texts("1", "N/A"), DType.INT),
        (texts("1,234", "5"), DType.INT),
        (texts("007", "12"), DType.CATEGORY),
        (texts("12345678901234567890"), DType.CATEGORY),
        (texts("yes", "no"), DType.BOOL),
        (texts("true", None), DType.BOOL),
        (texts("Y", "Y"), DType.CATEGORY),
        (texts("是", "否"), DType.BOOL),
        (texts("0", "1"), DType.INT),
        (texts("2014-02-03", "2014-02-04T10:00"), DType.TIME),
        (texts("20140203"), DType.INT),
        (texts("低", "高", "低"), DType.CATEGORY),
        (texts(*(f"名称 {n}" for n in range(100))), DType.TEXT),
        (texts(*(f"{n % 50}x" for n in range(200))), DType.CATEGORY),
        (texts(*(f"{n % 240}x" for n in range(4799))), DType.TEXT),
        (texts(*(f"{n % 240}x" for n in range(4800))), DType.CATEGORY),
        (pa.array([1.0, 2.0]), DType.FLOAT),
        (pa.array([True, None]), DType.BOOL),
        (pa.array([datetime(2014, 2, 3)], pa.timestamp("us")), DType.TIME),
    ],
)
def test_proposed_types(cells, expected):
    assert propose(cells).dtype is expected


def test_identifiers_stay_what_they_are():
    assert propose(pa.array([1.0, 2.0, None]), identifier=True).dtype is DType.INT
    assert propose(texts("1", "5.0"), identifier=True).dtype is DType.INT
    assert propose(texts("007", "12"), identifier=True).dtype is DType.CATEGORY
    assert propose(texts(*(f"A{n}" for n in range(1000))), identifier=True).dtype is DType.CATEGORY
    assert propose(pa.nulls(3)).provisional


def test_files_of_different_kinds_meet():
    assert unify([pa.array([1, 2]), pa.array([1.5])]).to_pylist() == [1.0, 2.0, 1.5]
    assert unify([pa.array([1]), pa.array(["x"])]).to_pylist() == ["1", "x"]
    assert unify([pa.nulls(1), pa.array([3])]).to_pylist() == [None, 3]
    assert unify([pa.array([2**60]), pa.array([0.5])]).to_pylist() == [str(2**60), "0.5"]
    assert time_format(texts(*["7/14/1999"] * 99, "oops")) == ("%m/%d/%Y", False)
