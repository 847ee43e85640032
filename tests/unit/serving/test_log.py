"""The prediction log: nothing lost by a stop, nothing blocked by a bad disk, everything counted."""

import logging
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from holdfast.backend.serving.log import Logged, PredictionLog, read_prediction, read_predictions, recover
from holdfast.errors import IntegrityError, LimitError, NotFoundError


def entry(number=0, **changes):
    made = Logged(
        id=f"dep_0-{number:05}", at=number, deployment="dep_0", target="风险", kind="features", latency_us=12,
        input={"类型": "投诉", "x": 0.1}, output={"labels": {"高": {"probability": 0.1}}, "repairs": []},
    )  # fmt: skip
    return replace(made, **changes)


def count(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM predictions").fetchone()[0]


def test_what_was_put_is_read_back_equal(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    rows = {"visits": [{"score": 1e-300, "结果": "差", "n": 10**30}]}
    given = [
        entry(1, entity="5", cutoff=-(2**62), data_version="v1.0", kind="rows", rows_id="r1", raw_rows=rows),
        entry(2, kind="rows", rows_id="r1"),
        entry(3, target="other"),
    ]
    log.put(given)
    stats = log.close()
    assert (stats.written, stats.waiting, stats.dropped, stats.failing) == (3, 0, 0, "")
    assert read_prediction(path, given[0].id) == given[0]
    assert read_prediction(path, given[1].id).raw_rows == rows
    assert [found.id for found in read_predictions(path)] == [e.id for e in reversed(given)]
    assert [found.id for found in read_predictions(path, "风险", limit=1)] == [given[1].id]


def test_threads_and_several_writers_lose_nothing(tmp_path):
    path = tmp_path / "log.db"
    logs = [PredictionLog(path) for _ in range(2)]

    def write(worker):
        for number in range(500):
            logs[worker % 2].put([entry(worker * 500 + number)])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [log.close().dropped for log in logs] == [0, 0]
    assert count(path) == 2000


def test_a_reader_waits_a_little_for_the_writer(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    log.put([entry(7)])
    assert read_prediction(path, entry(7).id, patience=10).id == entry(7).id
    with pytest.raises(NotFoundError):
        read_prediction(path, "dep_0-99999", patience=0)
    log.close()
    with pytest.raises(NotFoundError):
        read_prediction(tmp_path / "none.db", "dep_0-1", patience=0)


def test_a_failing_disk_blocks_nobody_and_is_told(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    path = blocked / "log.db"
    with caplog.at_level(logging.WARNING, "holdfast.serving"):
        log = PredictionLog(path, capacity=10)
        for number in range(25):
            log.put([entry(number)])
        until = time.monotonic() + 10
        while not log.stats.failing and time.monotonic() < until:
            time.sleep(0.02)
        assert log.stats.failing
        assert (log.stats.waiting, log.stats.dropped) == (10, 15)
        with pytest.raises(LimitError):
            log.flush(0.1)
        # The disk is back: what waited is written.
        blocked.unlink()
        log.flush(20)
        log.put([entry(100)])
        stats = log.close()
    assert (stats.written, stats.dropped, stats.failing) == (11, 15, "")
    assert count(path) == 11
    told = " ".join(caplog.messages)
    assert "cannot be logged" in told
    assert "15 predictions" in told
    assert "logged again" in told


KILLED = """
import os, signal, sys
from pathlib import Path
from holdfast.backend.serving.log import Logged, PredictionLog
log = PredictionLog(Path(sys.argv[1]))
for number in range(3):
    log.put([Logged(id=f"dep_0-{number}", at=number, deployment="dep_0", target="风险", kind="rows", latency_us=1,
             input={"类型": "投诉"}, output={"labels": {}}, rows_id="r1",
             raw_rows=None if number else {"t": [{"a": 1}]})])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def spooled(path):
    folder = path.with_suffix(".spool")
    return sorted(folder.iterdir()) if folder.exists() else []


def test_a_kill_right_after_an_answer_loses_nothing(tmp_path):
    path = tmp_path / "log.db"
    killed(path)
    assert not path.exists() or count(path) == 0
    found = read_prediction(path, "dep_0-2", patience=0)
    assert (found.input, found.raw_rows) == ({"类型": "投诉"}, {"t": [{"a": 1}]})
    assert [entry.id for entry in read_predictions(path)] == ["dep_0-2", "dep_0-1", "dep_0-0"]
    assert spooled(path) == []


def test_the_next_writer_takes_over_what_the_dead_left_and_only_that(tmp_path, caplog):
    path = tmp_path / "log.db"
    killed(path)
    living = PredictionLog(path)
    until = time.monotonic() + 10
    while living.stats.written < 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert count(path) == 3
    # Two living writers leave each other's files alone.
    other = PredictionLog(path)
    assert len(spooled(path)) == 4
    for log in (living, other):
        log.put([entry(id(log) % 1000)])
        log.close()
    assert count(path) == 5
    assert spooled(path) == []


def test_a_torn_end_is_no_record_and_damage_is_kept_and_told(tmp_path, caplog):
    path = tmp_path / "log.db"
    killed(path)
    (used,) = [file for file in spooled(path) if file.stat().st_size]
    whole = used.read_bytes()
    used.write_bytes(whole + whole[: len(whole) // 5])
    (used.parent / "1-bad").write_bytes((9).to_bytes(4, "little") + b"\xc1" * 9)
    with caplog.at_level(logging.WARNING, "holdfast.serving"):
        assert recover(path) == 3
    assert count(path) == 3
    assert [file.name for file in spooled(path)] == ["1-bad.damaged"]
    assert "1-bad.damaged" in " ".join(caplog.messages)
    assert recover(path) == 0


def test_what_a_stop_cannot_write_the_next_start_does(tmp_path):
    path = tmp_path / "log.db"
    path.mkdir()  # no database can be there
    log = PredictionLog(path)
    log.put([entry(1), entry(2)])
    stats = log.close()
    assert (stats.written, stats.dropped) == (0, 0)
    path.rmdir()
    assert recover(path) == 2
    assert read_prediction(path, entry(2).id) == entry(2)


def test_a_full_disk_under_the_spool_is_told_and_memory_still_serves(tmp_path):
    path = tmp_path / "log.db"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = PredictionLog(path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        log.put([entry(1)])
        assert "crash" in log.stats.failing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    log.put([entry(2)])
    stats = log.close()
    assert (stats.written, stats.failing) == (2, "")


def test_what_is_no_json_is_counted(tmp_path):
    log = PredictionLog(tmp_path / "log.db")
    log.put([entry(1, input={"a": "\ud800"})])
    log.put([entry(2)])
    stats = log.close()
    assert (stats.written, stats.dropped) == (1, 1)


def test_entries_of_one_request_are_taken_together(tmp_path):
    log = PredictionLog(tmp_path / "log.db", capacity=3)
    log.put([entry(number) for number in range(50)])
    assert log.close().written == 50


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_prediction(path, "dep_0-1", patience=0)
