"""The engine: each effect once, whatever dies; retries, caps, cancel, timeouts, takeover; on every database."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from holdfast.backend.jobs import Engine
from holdfast.backend.jobs.worker import work
from holdfast.backend.records import Job
from holdfast.backend.store import Audit, Pointers, Store
from holdfast.errors import ConflictError, InputError, LockedError, NotFoundError, UnavailableError

from . import chores


@pytest.fixture
def lease_seconds() -> int:
    """Longer than a loaded machine lets a living process wait; one second where a test is about leases that end."""
    return 20


@pytest.fixture
def engine(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease_seconds: int) -> Iterator[Engine]:
    url = store.engine.url.set(drivername=store.engine.dialect.name).render_as_string(hide_password=False)
    monkeypatch.setenv(chores.URL, url)
    monkeypatch.setenv(chores.FOLDER, str(tmp_path))
    monkeypatch.setenv(chores.LENGTH, str(lease_seconds))
    engine = chores.opened().engine
    yield engine
    engine.queue.store.close()


def send(engine: Engine, kind: str, **arguments: object) -> Job:
    with engine.queue.store.write("test") as connection:
        return engine.queue.send(connection, kind, arguments, attempts=3)


def pointer(engine: Engine, name: str) -> str | None:
    with engine.queue.store.read() as connection:
        return Pointers(connection).get(name)


def in_another_process(code: str) -> "subprocess.Popen[bytes]":
    head = "from tests.unit.jobs import chores\nengine = chores.opened().engine\n"
    return subprocess.Popen([sys.executable, "-c", head + code], cwd=Path(__file__).parents[3])


def test_a_job_runs_here_and_is_recorded(engine: Engine) -> None:
    assert engine.run("deposit", {"name": "一", "amount": 5}) == 5
    job = engine.queue.list()[0]
    assert (job.state, job.result, job.attempts, job.kind, job.message) == ("done", 5, 1, "deposit", "存好了")
    assert [step.name for step in engine.queue.steps(job.id)] == ["slow", "deposit"]
    assert engine.queue.get(job.id[-8:]) == job
    assert engine.leases.holders() == []
    with pytest.raises(NotFoundError, match="no job"):
        engine.queue.get("nope")


@pytest.mark.parametrize("die", ["in slow", "after slow", "in commit", "after commit"])
def test_a_killed_job_goes_on_where_it_stopped_and_each_effect_happens_once(engine: Engine, die: str) -> None:
    asked = {"name": "x", "die": die, "amount": 7}
    process = in_another_process(f"engine.run('deposit', {asked!r})")
    assert process.wait(60) == -signal.SIGKILL
    job = engine.queue.list()[0]
    assert job.state == "running"
    assert engine.run("deposit", asked) == 7
    assert pointer(engine, "balance") == "7"
    ended = engine.queue.get(job.id)
    assert (ended.state, ended.attempts, len(engine.queue.list())) == ("done", 2, 1)
    assert chores.count("slow x") == (2 if die == "in slow" else 1)


def test_the_same_command_while_one_runs_is_told_or_waits_for_its_result(engine: Engine) -> None:
    process = in_another_process("engine.run('sleep', {'name': 'x', 'seconds': 2})")
    while not chores.count("sleep x"):
        time.sleep(0.02)
    with pytest.raises(LockedError, match=f"held by process {process.pid} on"):
        engine.run("sleep", {"name": "x", "seconds": 2})
    assert engine.run("sleep", {"name": "x", "seconds": 2}, wait=30) == "woke"
    assert process.wait(30) == 0
    assert chores.count("sleep x") == 1


def test_what_a_repeat_cannot_mend_is_not_repeated(engine: Engine) -> None:
    with pytest.raises(InputError, match="第 3 行"):
        engine.run("fail", {"name": "a", "how": "input"})
    job = send(engine, "fail", name="b", how="input")
    engine.work()
    for one in (engine.queue.list()[1], engine.queue.get(job.id)):
        assert (one.state, one.attempts) == ("dead", 1)
        assert one.error == {"code": "input", "message": "第 3 行 is wrong", "where": {"row": 3}, "hint": "Correct it."}


def test_what_may_pass_is_tried_again_with_growing_pauses_up_to_the_cap(engine: Engine) -> None:
    job = send(engine, "fail", name="x", how="away")
    pauses = []
    while engine.queue.get(job.id).state in {"queued", "running"}:
        worked = engine.work()
        if worked is None:
            time.sleep(0.05)
        elif worked.state == "queued":
            pauses.append(worked.due_at - engine.queue.clock.now())
    dead = engine.queue.get(job.id)
    assert (dead.state, dead.attempts) == ("dead", 3)
    assert dead.error is not None
    assert dead.error["message"] == "the server is away"
    assert pauses[1] > 1.5 * pauses[0]
    assert engine.queue.retry(job.id).state == "queued"
    with pytest.raises(UnavailableError):
        engine.run("fail", {"name": "x", "how": "away"})


def test_a_message_sent_twice_is_one_job_and_goes_with_its_transaction(engine: Engine) -> None:
    queue = engine.queue
    with pytest.raises(ConflictError), queue.store.write("test") as connection:  # noqa: PT012 - both must be undone
        queue.send(connection, "deposit", {"name": "x"}, key="k")
        raise ConflictError("no")
    assert queue.list() == []
    for _ in range(2):
        with queue.store.write("test") as connection:
            queue.send(connection, "deposit", {"name": "x"}, key="k")
    assert engine.work() is not None
    assert engine.work() is None
    with queue.store.write("test") as connection:
        queue.send(connection, "deposit", {"name": "x"}, key="k")
    assert pointer(engine, "balance") == "1"


def test_many_that_run_for_long_do_not_hide_one_that_waits(engine: Engine) -> None:
    queue = engine.queue
    with queue.store.write("test") as connection:
        for number in range(120):
            job = queue.send(connection, "long", {"number": number})
            assert queue.claim_one(connection, job.id) is not None
        waits = queue.send(connection, "long", {"number": 120})
    claim = queue.claim(["long"])
    assert claim is not None
    assert claim.job.id == waits.id
    assert queue.claim(["long"]) is None


def test_a_waiting_job_can_be_cancelled_or_superseded(engine: Engine) -> None:
    first, second = send(engine, "deposit", name="x"), send(engine, "deposit", name="y")
    assert engine.queue.cancel(first.id, "not wanted").state == "cancelled"
    with engine.queue.store.write("test") as connection:
        engine.queue.supersede(connection, "deposit", {"name": "y"}, "newer data")
    assert (engine.queue.get(second.id).state, engine.queue.get(second.id).message) == ("cancelled", "newer data")
    assert engine.work() is None
    with pytest.raises(ConflictError, match="cancelled already"):
        engine.queue.cancel(first.id)
    with engine.queue.store.read() as connection:
        assert [e.action for e in Audit(connection).entries(object="job:")] == ["cancel"]


def test_a_worker_runs_what_is_due_on_several_processes(engine: Engine) -> None:
    for n in range(40):
        send(engine, "deposit", name=str(n))
    work(chores.opened, processes=2, drain=True)
    assert pointer(engine, "balance") == "40"
    assert {job.state for job in engine.queue.list()} == {"done"}
    assert all(chores.count(f"slow {n}") == 1 for n in range(40))


def test_a_worker_whose_children_die_under_their_jobs_finishes_them(engine: Engine) -> None:
    for n, die in enumerate(["in slow", "after slow", "in commit", "after commit"] * 2):
        send(engine, "deposit", name=str(n), die=die)
    work(chores.opened, processes=2, drain=True)
    assert pointer(engine, "balance") == "8"
    assert {(job.state, job.attempts) for job in engine.queue.list()} == {("done", 2)}


def test_cancel_and_timeout_kill_the_child(engine: Engine) -> None:
    long, short = send(engine, "hang", name="long"), send(engine, "nap", name="short")

    def cancel() -> None:
        while not chores.count("hang long"):
            time.sleep(0.05)
        engine.queue.cancel(long.id, "enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert work(chores.opened, processes=2, drain=True) == 4
    canceller.join()
    cancelled = engine.queue.get(long.id)
    assert (cancelled.state, cancelled.message, cancelled.error) == ("cancelled", "cancelled", None)
    dead = engine.queue.get(short.id)
    assert (dead.state, dead.attempts) == ("dead", 3)
    assert dead.error is not None
    assert "took longer than 0.5 s" in dead.error["message"]
    assert pointer(engine, "woke") is None


def test_a_job_that_is_cancelled_elsewhere_writes_nothing_more(engine: Engine) -> None:
    process = in_another_process("engine.run('sleep', {'name': 'x', 'seconds': 2})")
    while not chores.count("sleep x"):
        time.sleep(0.02)
    job = engine.queue.list()[0]
    engine.queue.cancel(job.id)
    assert process.wait(30) == 1
    assert engine.queue.get(job.id).state == "cancelled"
    assert pointer(engine, "woke") is None


@pytest.mark.parametrize("lease_seconds", [1])
def test_a_stopped_worker_is_taken_over_and_writes_nothing_when_it_wakes(engine: Engine) -> None:
    process = in_another_process("engine.run('sleep', {'name': 'x', 'seconds': 1})")
    while not chores.count("sleep x"):
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while (worked := engine.work()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 1
    assert (worked.state, worked.attempts) == ("done", 2)
    assert engine.queue.get(worked.id) == worked
    with engine.queue.store.read() as connection:
        assert len(Pointers(connection).history("woke")) == 1


def test_children_end_with_their_parent(engine: Engine) -> None:
    send(engine, "sleep", name="x", seconds=600)
    code = "from holdfast.backend.jobs.worker import work\nwork(chores.opened, processes=1)"
    parent = in_another_process(f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}")
    while not chores.count("sleep x"):
        time.sleep(0.05)
    child = int((Path(os.environ[chores.FOLDER]) / "sleep x").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_a_worker_that_cannot_open_its_project_says_so(engine: Engine) -> None:
    send(engine, "deposit", name="x")
    with pytest.raises(UnavailableError, match="5 times in a row"):
        work(chores.opened_by_parents_only, drain=True)


def test_a_process_of_the_same_number_elsewhere_costs_no_child(engine: Engine) -> None:
    """On a shared database the number of a process says nothing without its machine."""
    mine, theirs = send(engine, "sleep", name="mine", seconds=1), send(engine, "elsewhere", name="theirs")

    def pose() -> None:
        while not chores.count("sleep mine"):
            time.sleep(0.02)
        child = int((Path(os.environ[chores.FOLDER]) / "sleep mine").read_text())
        with engine.queue.store.write("test") as connection:
            engine.queue.claim_one(connection, theirs.id)
            values = {"pid": child, "process": "another machine/1", "host": "elsewhere"}
            of = sa.text("UPDATE leases SET pid = :pid, process = :process, host = :host WHERE name = :name")
            connection.execute(of, {**values, "name": f"job:{theirs.id}"})
            connection.execute(sa.text("UPDATE jobs SET cancelled = true WHERE id = :id"), {"id": theirs.id})
        while engine.queue.get(mine.id).state == "running":
            time.sleep(0.02)
        with engine.queue.store.write("test") as connection:
            connection.execute(sa.text("UPDATE jobs SET state = 'cancelled' WHERE id = :id"), {"id": theirs.id})

    poser = threading.Thread(target=pose)
    poser.start()
    assert work(chores.opened, drain=True) == 0
    poser.join()
    assert (engine.queue.get(mine.id).state, engine.queue.get(mine.id).attempts) == ("done", 1)


LISTENS = """
import multiprocessing, sys, threading, time
from holdfast.backend.jobs.worker import _listen
mine, theirs = multiprocessing.Pipe()
stopping = threading.Event()
listening = threading.Thread(target=_listen, args=(theirs, stopping), daemon=True)
listening.start()
for _ in range(sys.getrecursionlimit() + 100):
    mine.send("stop")
while theirs.poll():
    time.sleep(0.01)
assert listening.is_alive() and stopping.is_set()
mine.close()
listening.join(20)
"""


def test_a_child_that_is_told_to_stop_for_long_still_listens_and_ends_with_its_parent() -> None:
    # In a process of its own: what listens ends its process when nobody is at the other end any more.
    assert subprocess.run([sys.executable, "-c", LISTENS], check=False, timeout=60).returncode == 3


def test_a_job_that_was_sent_outlives_an_attempt_by_hand_that_fails(engine: Engine) -> None:
    sent = send(engine, "fail", name="x", how="away", times=1)
    with pytest.raises(UnavailableError):
        engine.run("fail", sent.arguments)
    assert engine.queue.get(sent.id).state == "queued"
    with pytest.raises(UnavailableError):
        engine.run("fail", {"name": "y", "how": "away", "times": 1})
    assert engine.queue.list(limit=1)[0].state == "dead"


def test_how_far_a_job_was_at_last_is_recorded_however_fast_it_was(engine: Engine) -> None:
    engine.run("count", {})
    job = engine.queue.list()[0]
    assert (job.state, job.done, job.total, job.message) == ("done", 3, 3, "三")
