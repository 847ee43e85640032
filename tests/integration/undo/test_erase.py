"""An erased person is nowhere, and everything else is what it was."""

import os
import re
import shutil
import subprocess
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from holdfast.backend.deployment import Outcomes
from holdfast.backend.pipelines.belongings import RawAccess
from holdfast.backend.pipelines.erase import apply_erasures, erasures
from holdfast.backend.pipelines.integrity import check
from holdfast.backend.pipelines.outcomes import add_outcomes
from holdfast.backend.store.erasures import sealed
from holdfast.backend.wiring import empty_rows, file_reader
from holdfast.errors import FileError, InputError, NotFoundError
from holdfast.frontend.client import Project

from .conftest import fill
from .seek import seek, seek_blobs, seek_database
from .world import name_of, person, write_period, write_project

THEM = [person(1), name_of(1)]


def everything(project, without):
    """All rows of all versions that are not theirs, as plain data."""
    found = {}
    for version in project.data.list():
        visits = project.data.read(version.id, ["visits"])["visits"]
        theirs = set(visits.filter(pc.equal(visits["身份证"], without))["visit_id"].to_pylist())
        for name, rows in project.data.read(version.id).items():
            found[version.version, name] = [
                row for row in rows.to_pylist()
                if row.get("身份证") != without and not (name in ("visits", "notes") and row["visit_id"] in theirs)
            ]  # fmt: skip
    return found


def test_a_person_is_erased_from_everything(project):
    rooms = project._services
    assert seek(rooms.layout.root, THEM)
    before = everything(project, person(1))
    planned = project.erase("persons", person(1), "request of 3 May", dry_run=True)
    assert everything(project, person(1)) == before
    assert seek(rooms.layout.root, THEM)
    done = project.erase("persons", person(1), "request of 3 May")
    assert (planned.rows, planned.files, planned.person) == (done.rows, done.files, done.person)
    assert set(done.rows) == {"persons", "visits", "notes"}
    assert done.vectors == 1
    assert done.predictions == 1
    assert done.matrices >= 1
    assert "风险/高 v1.1" in done.models
    project.close()
    assert seek(rooms.layout.root, THEM) == []
    assert seek_database(rooms.store, THEM) == []
    assert everything(project, person(1)) == before
    assert check(rooms, deep=True) == []
    assert project.data.get("v1.1").state == "retrain_needed"
    assert {version.rows["persons"] for version in project.data.list()} == {59}


def test_from_a_bucket_also_when_killed(tmp_path, postgres_url, s3_url):
    root = tmp_path / "远"
    write_project(root, postgres_url, s3_url)
    with Project(root) as project:
        fill(project, tmp_path / "delivered")
        before = everything(project, person(1))
        assert seek_blobs(project._services.blobs, THEM)
    # Before anything is gone, then in the midst of going; the next change finishes it.
    for point in ("commit erase: before#1", "erase blob: before#2"):
        assert erase_and_die(root, point) == -9
    with Project(root) as project:
        rooms = project._services
        assert not project.ingest("2024-02", [root / "data" / "raw" / "2024-02"]).created
        assert [record.state for record in erasures(rooms)] == ["done"]
        assert seek_blobs(rooms.blobs, THEM) == []
        assert seek_database(rooms.store, THEM) == []
        assert everything(project, person(1)) == before
        assert check(rooms, deep=True) == []
    assert seek(root, THEM) == []


def test_the_record_proves_it_without_saying_who(sqlite_project):
    rooms = sqlite_project._services
    done = sqlite_project.erase("persons", person(1), "request of 3 May")
    [entry] = [entry for entry in sqlite_project.audit("erasure:") if entry.action == "erase"]
    assert entry.object == f"erasure:{done.id}"
    assert entry.details["reason"] == "request of 3 May"
    secret = (rooms.layout.private / "erasure.key").read_bytes()
    assert entry.details["person"] == sealed(secret, "persons", person(1)) == done.person
    assert sealed(secret, "persons", person(2)) != done.person
    assert (rooms.layout.private / "erasure.key").stat().st_mode & 0o077 == 0
    for proof in entry.details["parts"]:
        assert not rooms.blobs.has(proof["before"])
        assert len(rooms.datasets.parts.read_plain(proof["after"])) == proof["stayed"]
    [record] = erasures(rooms)
    assert (record.state, record.person) == ("done", done.person)
    sqlite_project.verify_audit()


def test_raw_files_keep_all_other_bytes_and_numbers(sqlite_project):
    raw = sqlite_project._services.layout.raw
    before = {path: path.read_bytes() for path in sorted(raw.rglob("*.csv"))}
    done = sqlite_project.erase("persons", person(1), "r")
    for path, old in before.items():
        lines, new = old.split(b"\n"), path.read_bytes().split(b"\n")
        assert len(lines) == len(new)
        changed = [number for number, line in enumerate(lines) if line != new[number]]
        assert all(new[number] == b"\r" for number in changed)
        name = path.relative_to(sqlite_project.root).as_posix()
        assert len(changed) == done.files.get(name, 0)
    assert "data/raw/2024-01/wards.csv" not in done.files


def test_trained_again_the_model_does_not_know_them(sqlite_project):
    sqlite_project.erase("persons", person(1), "r")
    again = sqlite_project.matrix()
    assert again.reused == 0
    assert person(1) not in again.matrix.entities.to_pylist()
    assert not sqlite_project.train().repeated
    assert sqlite_project.data.get().state == "trained"
    sqlite_project.materialise()
    assert check(sqlite_project._services, deep=True) == []


def test_other_persons_of_the_same_tables_stay(sqlite_project):
    rooms = sqlite_project._services
    vectors = sqlite_project.get_feature_vectors([person(n) for n in range(2, 61)], "person")
    sqlite_project.erase("persons", person(1), "r")
    assert sqlite_project.get_feature_vectors([person(n) for n in range(2, 61)], "person") == vectors
    assert sqlite_project.get_feature_vectors([person(1)], "person") == [None]
    assert rooms.online.freshness("person").vectors == 59


def test_outcomes_of_their_predictions_go_too(sqlite_project):
    rooms, outcomes = sqlite_project._services, {}
    for number in (1, 2):
        name, question = sqlite_project.question("风险", person(number), "2024-02-20", {"kind": "投诉"})
        reply = sqlite_project.service.entities(name, [question])
        outcomes[number] = {"prediction": reply["predictions"][0]["id"], "label": "高", "value": 1}
    sqlite_project.service.log.flush()
    assert add_outcomes(rooms, list(outcomes.values())).added == 2
    sqlite_project.erase("persons", person(1), "r")
    left = Outcomes(rooms.store, rooms.clock).of(reply["deployment"])
    assert [one.prediction for one in left] == [outcomes[2]["prediction"]]


def test_what_cannot_be_erased(sqlite_project):
    with pytest.raises(NotFoundError) as caught:
        sqlite_project.erase("persons", "nobody at all", "r")
    assert "nobody at all" not in str(caught.value)
    with pytest.raises(NotFoundError, match="table"):
        sqlite_project.erase("strangers", person(1), "r")
    with pytest.raises(InputError, match="reason"):
        sqlite_project.erase("persons", person(1), " ")
    assert seek(sqlite_project.root, THEM)


def test_a_person_who_comes_again_can_be_erased_again(sqlite_project, tmp_path):
    sqlite_project.erase("persons", person(1), "r")
    sqlite_project.ingest("2024-03", [write_period(tmp_path / "2024-03", 3)])
    assert seek(sqlite_project.root, [person(1)])
    sqlite_project.erase("persons", person(1), "r2")
    assert seek(sqlite_project.root, THEM) == []
    assert check(sqlite_project._services, deep=True) == []


def rewritten(folder, kind):
    """Visits of a delivery in another format."""
    import pandas as pd

    frame = pd.read_csv(folder / "visits.csv")
    (folder / "visits.csv").unlink()
    if kind == "parquet":
        frame.to_parquet(folder / "visits.parquet", index=False)
    elif kind == "xlsx":
        frame.to_excel(folder / "visits.xlsx", index=False)
    elif kind == "array":
        frame.to_json(folder / "visits.jsonl", orient="records", force_ascii=False)
    else:
        frame.to_json(folder / "visits.jsonl", orient="records", lines=True, force_ascii=False)


@pytest.mark.parametrize("kind", ["parquet", "xlsx", "jsonl"])
def test_other_formats_of_raw_files(sqlite_project, tmp_path, kind):
    folder = write_period(tmp_path / "2024-03", 3)
    rewritten(folder, kind)
    sqlite_project.ingest("2024-03", [folder])
    before = everything(sqlite_project, person(1))
    done = sqlite_project.erase("persons", person(1), "r")
    assert done.files[f"data/raw/2024-03/visits.{kind}"] > 0
    assert seek(sqlite_project.root, THEM) == []
    assert everything(sqlite_project, person(1)) == before
    assert check(sqlite_project._services, deep=True) == []


def test_a_file_whose_rows_cannot_be_emptied_is_named_or_dropped(sqlite_project, tmp_path):
    folder = write_period(tmp_path / "2024-03", 3)
    rewritten(folder, "array")
    sqlite_project.ingest("2024-03", [folder])
    blobs = set(sqlite_project._services.blobs)
    with pytest.raises(FileError, match="cannot be emptied") as caught:
        sqlite_project.erase("persons", person(1), "r")
    assert caught.value.where["file"] == "data/raw/2024-03/visits.jsonl"
    assert set(sqlite_project._services.blobs) == blobs
    before = everything(sqlite_project, person(1))
    done = sqlite_project.erase("persons", person(1), "r", drop_raw=True)
    assert done.dropped == ("data/raw/2024-03/visits.jsonl",)
    assert everything(sqlite_project, person(1)) == before
    assert seek(sqlite_project.root, THEM) == []
    assert check(sqlite_project._services, deep=True) == []


def test_rows_in_quarantine_and_files_of_no_table(sqlite_project, tmp_path):
    folder = write_period(tmp_path / "2024-03", 3)
    visits = folder / "visits.csv"
    visits.write_text(visits.read_text() + f"99999,{person(1)},not a day,Routine,1,优\n")
    (folder / "letter.txt").write_text(f"Dear {person(1)}")
    sqlite_project.ingest("2024-03", [folder])
    assert "***" in sqlite_project.faults()["value"].to_pylist() or len(sqlite_project.faults()) == 1
    done = sqlite_project.erase("persons", person(1), "r")
    assert len(sqlite_project.faults()) == 0
    assert done.unread == ("data/raw/2024-03/letter.txt",)
    assert [file for file, _ in seek(sqlite_project.root, THEM)] == ["data/raw/2024-03/letter.txt"]


def test_a_visit_that_was_moved_to_another_person_stays_theirs(sqlite_project, tmp_path):
    folder = write_period(tmp_path / "2024-02", 2)
    visits = folder / "visits.csv"
    lines = visits.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if person(1) in line)
    moved = int(lines[at].split(",")[0])
    lines[at] = lines[at].replace(person(1), person(2))
    visits.write_text("\n".join(lines) + "\n")
    sqlite_project.ingest("2024-02", [folder])
    sqlite_project.erase("persons", person(1), "r")
    rows = sqlite_project.data.read(None, ["visits"])["visits"]
    states = rows.filter(pc.equal(rows["visit_id"], moved))
    assert states["身份证"].to_pylist() == [person(2)]
    assert seek(sqlite_project.root, [person(1)]) == []


def test_a_restored_copy_is_erased_again(sqlite_project, tmp_path):
    """What a backup does: data from before, the list of erasures and the secret from after."""
    root = sqlite_project.root
    sqlite_project.close()
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    with Project(root) as project:
        project.erase("persons", person(1), "r")
        project.erase("persons", person(2), "r")
        wanted = erasures(project._services)
    shutil.copy(root / ".holdfast" / "erasure.key", copy / ".holdfast" / "erasure.key")
    with Project(copy) as restored, file_reader() as read:
        done = apply_erasures(restored._services, RawAccess(read, empty_rows), wanted)
        assert {one.person for one in done} == {one.person for one in wanted}
        assert apply_erasures(restored._services, RawAccess(read, empty_rows), wanted) == []
        assert check(restored._services, deep=True) == []
    assert seek(copy, [*THEM, person(2), name_of(2)]) == []


def test_an_entity_that_derives(tmp_path):
    root = tmp_path / "derived"
    root.mkdir()
    (root / "holdfast.yaml").write_text(
        "project: d\ntimezone: UTC\ntables:\n"
        "  orders: {files: orders.csv, key: id, time: day, columns: {buyer: {type: category, personal: true}}}\n"
        "  buyers: {from: orders, key: buyer, columns: [city]}\n"
    )
    delivered = tmp_path / "2024-01"
    delivered.mkdir()
    rows = [f"{n},2024-01-0{n % 9 + 1},buyer-{n % 4}-x,Bern" for n in range(40)]
    (delivered / "orders.csv").write_text("\n".join(["id,day,buyer,city", *rows]) + "\n")
    with Project(root) as project:
        project.ingest("2024-01", [delivered])
        assert project.data.get().rows == {"orders": 40, "buyers": 4}
        project.erase("buyers", "buyer-2-x", "r")
        assert project.data.get().rows == {"orders": 30, "buyers": 3}
        assert check(project._services, deep=True) == []
    assert seek(root, ["buyer-2-x"]) == []


CHILD = """
import sys
from holdfast.frontend.client import Project
with Project(sys.argv[1]) as project:
    project.erase("persons", sys.argv[2], "r")
"""


def erase_and_die(root, point):
    environment = {**os.environ, "HOLDFAST_CRASH": point}
    return subprocess.run([sys.executable, "-c", CHILD, str(root), person(1)], env=environment, check=False).returncode


def test_killed_at_every_point_it_is_done_or_not_and_then_finished(filled, tmp_path):
    probe = tmp_path / "probe"
    shutil.copytree(filled, probe)
    told = tmp_path / "points"
    assert erase_and_die(probe, f"@{told}") == 0
    points = list(dict.fromkeys(line for line in told.read_text().splitlines() if "leases" not in line))
    assert any("commit erase" in point for point in points)
    # Each kind of point from the intent on, once: of the many files and blobs the first.
    first = next(n for n, point in enumerate(points) if "erasing.json" in point)
    kinds = {re.sub(r"\S+\.csv|#\d+", "", point): point for point in reversed(points[first:])}
    chosen = [points[0], *kinds.values()]
    assert len(chosen) > 10
    for number, point in enumerate(chosen):
        root = tmp_path / str(number)
        shutil.copytree(filled, root)
        assert erase_and_die(root, point) == -9, point
        with Project(root) as project:
            assert not [one for one in check(project._services) if one.level == "broken"], point
            # Any change finishes it; this one finds that the delivery is known.
            assert not project.ingest("2024-02", [root / "data" / "raw" / "2024-02"]).created
            if not erasures(project._services):
                assert seek(root, THEM), point
                project.erase("persons", person(1), "r")
            assert check(project._services, deep=True) == [], point
        assert seek(root, THEM) == [], point
        shutil.rmtree(root)


def test_label_rows_that_only_their_rows_asked_go_from_matrices_of_others(tmp_path):
    """A target about shops, asked by orders: questions of a buyer's orders go, those that others asked too stay."""
    root = tmp_path / "shops"
    root.mkdir()
    (root / "holdfast.yaml").write_text(
        "project: s\ntimezone: UTC\ntables:\n"
        "  shops: {files: shops.csv, key: shop, columns: {shop: int}}\n"
        "  buyers: {files: buyers.csv, key: buyer, columns: {buyer: {type: int, personal: true}}}\n"
        "  orders: {files: orders.csv, key: id, time: day, links: {shop: shops, buyer: buyers},"
        " columns: {id: int, shop: int, buyer: int, price: float}}\n"
        "targets:\n  price: {entity: shops, from: orders, cutoff: day, task: regression, label: price}\n"
        "split: {by: random, parts: [0.7, 0.15, 0.15]}\n"
    )
    delivered = tmp_path / "2024-01"
    delivered.mkdir()
    orders = [(n, n % 3, 100 + n % 5, f"2024-01-{n % 27 + 1:02}") for n in range(40)]
    (delivered / "shops.csv").write_text("shop,size\n0,1\n1,2\n2,3\n")
    (delivered / "buyers.csv").write_text("buyer,age\n" + "".join(f"{100 + n},{20 + n}\n" for n in range(5)))
    lines = [f"{n},{shop},{buyer},{day},{n % 7 + 0.5}" for n, shop, buyer, day in orders]
    (delivered / "orders.csv").write_text("\n".join(["id,shop,buyer,day,price", *lines]) + "\n")

    def asked(project):
        record = project.features.matrices("price")[0]
        table = pq.read_table(project.features.path(record))
        pairs = zip(table["entity"].to_pylist(), table["cutoff"].to_pylist(), strict=True)
        return {(shop, str(day)[:10]) for shop, day in pairs}

    with Project(root) as project:
        project.ingest("2024-01", [delivered])
        project.matrix("price")
        before = asked(project)
        assert before == {(shop, day) for _, shop, _, day in orders}
        project.erase("buyers", "102", "r")
        assert asked(project) == {(shop, day) for _, shop, buyer, day in orders if buyer != 102} < before
        assert check(project._services, deep=True) == []
        assert project.data.get().rows == {"shops": 3, "buyers": 4, "orders": 32}
