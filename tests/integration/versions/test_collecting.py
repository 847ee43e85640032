"""What nothing refers to goes; what anything refers to, or is about to, stays."""

import os
import threading
import time

import pytest
import sqlalchemy as sa

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.datasets import Datasets
from holdfast.backend.datasets.collecting import collect
from holdfast.backend.datasets.rewriting import compact
from holdfast.backend.jobs.tables import jobs
from holdfast.backend.store import Audit, Leases, Pointers
from holdfast.errors import ConflictError, InputError, NotFoundError
from tests.integration.versions.world import World

HOUR = 3_600_000_000


@pytest.fixture
def timed(world: World) -> World:
    """By the system's clock, which stamps files."""
    world.clock = SystemClock()  # type: ignore[assignment]
    world.datasets = Datasets(world.store, world.blobs, world.clock, world.layout)
    return world


def grown(world: World, count: int = 6) -> list[str]:
    """Versions whose early ones only the compaction at the end makes superfluous."""
    for n in range(count):
        world.change("户", [{"号": 1, "值": str(n)}, {"号": n + 2, "值": "x"}], "upsert")
    compact(world.datasets)
    return [version.version for version in world.datasets.list()]


def run(world: World, **more: object) -> object:
    return collect(world.datasets, world.store, world.blobs, **{"grace": 0, **more})  # type: ignore[arg-type]


def test_orphans_go_when_they_are_old_enough_and_dry_runs_do_nothing(timed: World) -> None:
    grown(timed)
    orphan = timed.blobs.put(b"half an import")
    assert run(timed, grace=HOUR).young == 1
    assert [one.blob for one in run(timed, dry_run=True).blobs] == [orphan]
    assert timed.blobs.has(orphan)
    done = run(timed)
    assert [(one.blob, one.bytes) for one in done.blobs] == [(orphan, 14)]
    assert "nothing refers" in done.blobs[0].why
    assert not timed.blobs.has(orphan)
    assert run(timed).blobs == ()
    for version in timed.datasets.list():
        timed.datasets.read(version.id)


def test_keep_gives_up_old_versions_and_their_parts_only(timed: World) -> None:
    versions = grown(timed)
    timed.datasets.refs.tag("wichtig", versions[2])
    with timed.store.write("job") as connection:
        values = {column.name: 0 for column in jobs.c if isinstance(column.type, sa.Integer | sa.BigInteger)}
        values |= {"id": "j", "kind": "train", "arguments": f'{{"version": "{versions[3]}"}}', "state": "running",
                   "who": "", "program": "", "message": "", "cancelled": False, "ended_at": None}  # fmt: skip
        connection.execute(jobs.insert().values(values))
    parts = {
        part.digest
        for version in (None, "wichtig", versions[3])
        for part in timed.datasets.manifest(timed.datasets.get(version).id, "户")
    }
    before, rows = len(list(timed.blobs)), timed.rows("户", versions[2])
    plan = run(timed, keep=1, dry_run=True)
    assert len(list(timed.blobs)) == before
    done = run(timed, keep=1)
    assert done.versions == plan.versions
    assert done.blobs == plan.blobs
    assert [one.version for one in done.versions] == [v for v in versions[:-1] if v not in versions[2:4]]
    assert set(timed.blobs) == parts
    assert timed.rows("户", "wichtig") == rows
    with pytest.raises(NotFoundError, match="collected"):
        timed.datasets.get(versions[0])
    assert [version.version for version in timed.datasets.list()] == [versions[2], versions[3], versions[-1]]
    with timed.store.read() as connection:
        told = [entry for entry in Audit(connection).entries() if entry.action == "collect"]
    assert {entry.object for entry in told} == {"dataset versions", "blobs"}
    # The history before a compaction is not to be had any more, and everything goes on.
    timed.change("户", [{"号": 1, "值": "neu"}], "upsert")
    assert timed.datasets.get().rows["户"] == len(timed.rows("户"))
    with pytest.raises(InputError):
        run(timed, keep=0)


def test_whatever_names_a_version_or_a_blob_in_any_table_holds_it(timed: World) -> None:
    """Also tables of rooms that this one knows nothing of, as checkpoints may be."""
    versions = grown(timed)
    held, blob = timed.datasets.get(versions[1]).id, timed.blobs.put(b"of somebody else")
    with timed.store.write("elsewhere") as connection:
        connection.execute(sa.text("CREATE TABLE elsewhere (id TEXT, held TEXT)"))
        connection.execute(
            sa.text("INSERT INTO elsewhere VALUES ('x', :held)"), {"held": f'{{"a": ["{held}", "{blob}"]}}'}
        )
    done = run(timed, keep=1)
    assert versions[1] not in [one.version for one in done.versions]
    timed.datasets.read(held)
    assert timed.blobs.has(blob)


def test_what_work_under_way_may_be_about_to_use_stays(timed: World) -> None:
    """A training holds a lease: what it puts, or finds there already, is not collected before it says what it made."""
    old = timed.blobs.put(b"an old model, collected soon")
    os.utime(timed.blobs.path(old), (time.time() - 7200,) * 2)
    with Leases(timed.store, timed.clock).hold(["model:risk"], doing="train"):
        reused = timed.blobs.put(b"an old model, collected soon")
        fresh = timed.blobs.put(b"a new model")
        assert reused == old
        seen = threading.Thread(target=lambda: results.append(run(timed)))
        results: list[object] = []
        seen.start()
        seen.join()
        assert results[0].blobs == ()  # type: ignore[attr-defined]
        assert timed.blobs.has(fresh)
        assert timed.blobs.has(old)
    assert {one.blob for one in run(timed).blobs} == {old, fresh}


def test_a_version_never_refers_to_a_part_that_is_gone(timed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever deletes a part between its writing and the commit: the commit looks, in its transaction."""
    write = timed.datasets.parts.write

    def then_gone(*given: object, **more: object) -> object:
        part = write(*given, **more)  # type: ignore[arg-type]
        timed.blobs.delete(part.digest)
        return part

    before = timed.datasets.get().id
    monkeypatch.setattr(timed.datasets.parts, "write", then_gone)
    with pytest.raises(ConflictError, match="deleted before"):
        timed.change("户", [{"号": 1, "值": "a"}], "append")
    monkeypatch.undo()
    assert timed.datasets.get().id == before
    timed.change("户", [{"号": 1, "值": "a"}], "append")
    assert timed.rows("户") == [{"号": 1, "值": "a"}]


def test_writers_and_collectors_at_once(timed: World) -> None:
    """Changes of the same rows, over and over, while another process's collector runs: every version reads."""
    stop, faults = threading.Event(), []

    def collecting() -> None:
        other = Datasets(timed.store, timed.blobs, timed.clock, timed.layout)
        while not stop.is_set():
            try:
                collect(other, timed.store, timed.blobs, grace=0)
            except ConflictError:  # the lease is the writer's now
                time.sleep(0.001)
            except Exception as error:
                faults.append(error)

    thread = threading.Thread(target=collecting)
    thread.start()
    made = 0
    until = time.monotonic() + 4
    while made < 12 and time.monotonic() < until:
        try:
            timed.change("户", [{"号": 1, "值": str(made % 2)}], "upsert")
            made += 1
        except ConflictError:
            time.sleep(0.001)
    stop.set()
    thread.join()
    assert faults == []
    assert made
    for version in timed.datasets.list():
        timed.datasets.read(version.id)
    with timed.store.read() as connection:
        assert Pointers(connection).get("dataset") == timed.datasets.get().id
