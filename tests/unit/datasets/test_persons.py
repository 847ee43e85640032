"""Which rows belong to a person."""

import pyarrow as pa

from holdfast.core.prepare.persons import Frame, belonging, key_text, raw_key_text
from holdfast.core.schema import DType


def frame(table, key, **links):
    made = [(parent, pa.array(values, pa.string())) for parent, values in links.items()]
    rows = len(key if key is not None else made[0][1])
    return Frame(table, "", rows, None if key is None else pa.array(key, pa.string()), made)


def test_keys_have_one_spelling():
    moment = pa.array([1_700_000_000_000_000], pa.timestamp("us", tz="UTC"))
    for values, spelled in (
        (pa.array([7, None, -3]), ["7", None, "-3"]),
        (pa.array([7.0, 2.5, None]), ["7", "2.5", None]),
        (pa.array(["007", "中"]), ["007", "中"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (moment, ["1700000000000000"]),
        (pa.array([True, False]), ["true", "false"]),
    ):
        assert key_text(values).to_pylist() == spelled
    raw = pa.array([" 7 ", "7.0", "７", "x", None])
    assert raw_key_text(raw, DType.INT, "UTC").to_pylist() == ["7", "7", "7", "x", None]
    assert raw_key_text(pa.array(["007", None]), DType.CATEGORY, "UTC").to_pylist() == ["007", None]


def test_links_are_followed_to_children_only_through_tables_without_keys_too():
    houses = frame("houses", ["h1", "h2"])
    persons = frame("persons", ["p1", "p2"], houses=["h1", "h1"])
    visits = frame("visits", ["v1", "v2", "v3"], persons=["p1", "p2", None])
    notes = frame("notes", None, visits=["v1", "v1", "v2"])
    keys = belonging([notes, visits, persons, houses], "persons", "p1")
    assert keys == {"persons": frozenset({"p1"}), "visits": frozenset({"v1"})}
    assert [list(one.mask) for one in (houses, persons, visits, notes)] == [
        [False, False], [True, False], [True, False, False], [True, True, False],
    ]  # fmt: skip


def test_a_removal_that_names_only_the_key_belongs():
    visits = frame("visits", ["v1", "v1", "v2"], persons=["p1", None, "p2"])
    belonging([visits, frame("persons", ["p1", "p2"])], "persons", "p1")
    assert list(visits.mask) == [True, True, False]


def test_a_row_that_links_elsewhere_in_another_state_keeps_its_children():
    first, later = frame("visits", ["v1"], persons=["p1"]), frame("visits", ["v1"], persons=["p2"])
    notes = frame("notes", ["n1"], visits=["v1"])
    keys = belonging([first, later, notes, frame("persons", ["p1"])], "persons", "p1")
    assert (list(first.mask), list(later.mask), list(notes.mask)) == ([True], [False], [False])
    assert "visits" not in keys


def test_rows_of_the_same_table_that_link_to_the_person_belong():
    persons = frame("persons", ["boss", "clerk", "trainee", "other"], persons=[None, "boss", "clerk", None])
    belonging([persons], "persons", "boss")
    assert list(persons.mask) == [True, True, True, False]
