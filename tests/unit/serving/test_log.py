"""The prediction log: nothing lost by a stop, nothing blocked by a bad disk, everything counted."""

import logging
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from holdfast.backend.serving.log import Logged, PredictionLog, read_prediction, read_predictions
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


def test_entries_of_one_request_are_taken_together(tmp_path):
    log = PredictionLog(tmp_path / "log.db", capacity=3)
    log.put([entry(number) for number in range(50)])
    assert log.close().written == 50


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_prediction(path, "dep_0-1", patience=0)
