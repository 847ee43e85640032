"""A personal value that is planted is shown nowhere: not by a command, not in a log, not in an error."""

import json
import logging
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.frontend.cli import main

from .seek import seek
from .world import name_of, person, write_period

PLANTED = "Zebra-geheim-4711"


def run(capsys, *arguments):
    """All that a command writes, whatever its status."""
    with suppress(SystemExit):
        main(arguments)
    said = capsys.readouterr()
    return said.out + said.err


COMMANDS = [
    ["data", "read", "persons", "--limit", "100"],
    ["data", "read", "visits", "--history", "--limit", "1000"],
    ["data", "read", "notes", "--limit", "1000"],
    ["data", "quarantine"],
    ["data", "compare", "v1.0", "v1.2"],
    ["data", "show"],
    ["data", "show", "v1.2"],
    ["contract", "show"],
    ["features", "show", "风险"],
    ["models", "list"],
    ["status"],
    ["at", "v1.1"],
    ["audit", "list"],
    ["checkpoint", "list"],
    ["check"],
]


@pytest.fixture
def planted(sqlite_project, tmp_path):
    """The project after a delivery with the value in every personal column, as good rows, faults and strangers."""
    folder = write_period(tmp_path / "2024-03", 3)
    for name, rows in {
        "persons": [f"{PLANTED},{PLANTED},Ost,30", f"{PLANTED}-twice,x,Ost,1", f"{PLANTED}-twice,y,Ost,2"],
        "visits": [f"99001,{PLANTED}-unknown,2024-03-03,Routine,1,优", f"99002,{PLANTED},never,Routine,1,优"],
        "notes": [f"99001,99001,{PLANTED}"],
    }.items():
        with (folder / f"{name}.csv").open("a", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")
    sqlite_project.ingest("2024-03", [folder])
    return sqlite_project


def test_no_command_shows_it(planted, capsys):
    root = str(planted.root)
    for command in COMMANDS:
        for more in ([], ["--json"]):
            said = run(capsys, *command, "-C", root, *more)
            assert said
            for value in (PLANTED, person(2), name_of(2)):
                assert value not in said, command
    rows = json.loads(run(capsys, "data", "read", "persons", "-C", root, "--json"))["data"]
    assert {row["身份证"] for row in rows} == {row["name"] for row in rows} == {"***"}


def test_a_trace_does_not_show_whom_was_asked_for(planted, capsys):
    name, question = planted.question(None, PLANTED, None, {"kind": "Routine"})
    reply = planted.service.entities(name, [question])
    stranger = planted.service.entities(name, [planted.question(None, f"{PLANTED}-no", None, {"kind": "Routine"})[1]])
    rows = {
        "visits": [
            {"visit_id": 1, "身份证": PLANTED, "date": "2024-03-03", "kind": "Routine", "score": 3.0, "结果": "优"}
        ]
    }
    sent = planted.service.rows(name, rows, [question])
    planted.service.log.flush()
    for answer in (reply, stranger, sent):
        identity = answer["predictions"][0]["id"]
        said = run(capsys, "trace", identity, "-C", str(planted.root), "--json")
        assert identity in said
        assert PLANTED not in said
    assert "***" in stranger["predictions"][0]["repairs"][-1]["detail"]


def test_no_error_and_no_log_file_holds_it(planted, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    failures = []

    def fails(what, *arguments, **more):
        with pytest.raises(HoldfastError) as caught:
            what(*arguments, **more)
        failures.append(str(caught.value))

    name, question = planted.question(None, PLANTED, None, {"kind": "Routine"})
    twice = {"visit_id": 1, "date": "2024-03-03", "身份证": PLANTED}
    persons = {"身份证": PLANTED, "name": PLANTED, "ward": "Ost"}
    service = planted.service
    fails(service.rows, name, {"visits": [{**twice, "身份证": [PLANTED]}]}, [question])
    fails(service.rows, name, {"persons": [persons, persons]}, [question])
    fails(planted.get_feature_vector, f"{PLANTED}-no", "person")
    fails(planted.erase, "persons", f"{PLANTED}-no", "r")
    # Half of the rows of a delivery cannot be used: the first is told of.
    folder = tmp_path / "2024-04"
    folder.mkdir()
    (folder / "wards.csv").write_text("ward,beds\nOst,10\nWest,20\n")
    (folder / "persons.csv").write_text(f"身份证,name,ward,age\n{PLANTED},a,Ost,1\n{PLANTED},b,Ost,2\n")
    (folder / "visits.csv").write_text("visit_id,身份证,date,kind,score,结果\n")
    (folder / "notes.csv").write_text("note_id,visit_id,text\n")
    fails(planted.ingest, "2024-04", [folder])
    assert len(failures) == 5
    assert [text for text in failures if PLANTED in text] == []
    planted.close()
    assert PLANTED not in caplog.text
    assert seek(planted.root / "logs", [PLANTED, person(2), name_of(2)]) == []
    assert seek(Path(planted.root), [PLANTED])  # it is there, in the data


def test_a_column_that_is_marked_later_is_masked_at_once(sqlite_project, capsys):
    path = sqlite_project.root / "holdfast.yaml"
    path.write_text(path.read_text().replace("kind: category", "kind: {type: category, personal: true}"))
    said = run(capsys, "data", "read", "visits", "-C", str(sqlite_project.root), "--json")
    assert {row["kind"] for row in json.loads(said)["data"]} == {"***"}


def test_reads_are_audited(sqlite_project, capsys):
    root = str(sqlite_project.root)
    for command in (["data", "read", "persons"], ["data", "quarantine"]):
        run(capsys, *command, "-C", root)
    read = [(entry.object, entry.details) for entry in sqlite_project.audit() if entry.action == "read"]
    assert [object_ for object_, _ in read] == ["table:persons", "quarantine"]
    assert read[0][1]["rows"] == 60
