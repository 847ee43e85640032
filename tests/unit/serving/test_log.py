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

import msgspec
import pytest

from holdfast.backend.serving.exchange import Exchange, Logged
from holdfast.backend.serving.log import PredictionLog, erase_predictions, read_prediction, read_predictions, recover
from holdfast.backend.serving.spool import Spool, framed, leftovers, unframed, waiting
from holdfast.errors import IntegrityError, LimitError, NotFoundError


def identity(number):
    return f"dep_0-{number:011x}{'0a0b0c0d'}{number:x}"


def exchange(number=0, *, count=1, **changes):
    """A request and its answers: `count` rows of features, asked in millisecond `number`."""
    answers = [
        {"id": identity(number) + "0" * place, "labels": {"高": {"probability": 0.1}}, "repairs": []}
        for place in range(count)
    ]
    made = Exchange(
        instant=number, at=number * 1000, deployment="dep_0", target="风险", kind="features", latency_us=12,
        predictions=count, data_version=None, caller="r-7",
        request=msgspec.json.encode({"features": [{"类型": "投诉", "x": 0.1}] * count}),
        response=msgspec.json.encode({"predictions": answers}),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def count(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT coalesce(sum(predictions), 0) FROM blocks").fetchone()[0]


def test_what_was_put_is_read_back_equal(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    rows = {"visits": [{"score": 1e-300, "结果": "差", "n": 2**62}]}
    answers = [
        {"id": identity(2) + end, "labels": {}, "repairs": [], "entity": 5, "cutoff": "2024-01-02T03:04:05.000006Z"}
        for end in "ab"
    ]
    asked = exchange(
        2, count=2, kind="rows", data_version="v1.0",
        request=msgspec.json.encode({"rows": rows, "questions": [{"entity": 5}, {"entity": 5, "context": {"a": 1}}]}),
        response=msgspec.json.encode({"predictions": answers}),
    )  # fmt: skip
    log.put([exchange(1), asked])
    log.put([exchange(3, target="other")])
    stats = log.close()
    assert (stats.written, stats.waiting, stats.dropped, stats.failing) == (4, 0, 0, "")
    assert read_prediction(path, identity(1)) == Logged(
        id=identity(1), at=1000, deployment="dep_0", target="风险", kind="features", latency_us=12, request="r-7",
        input={"类型": "投诉", "x": 0.1}, output={"labels": {"高": {"probability": 0.1}}, "repairs": []},
    )  # fmt: skip
    second = read_prediction(path, identity(2) + "b")
    assert second.raw_rows == rows
    assert second.input == {"entity": 5, "cutoff": None, "context": {"a": 1}}
    assert (second.entity, second.rows_id, second.data_version) == ("5", identity(2) + "a", "v1.0")
    assert second.cutoff == 1_704_164_645_000_006
    newest = [identity(3), identity(2) + "b", identity(2) + "a", identity(1)]
    assert [found.id for found in read_predictions(path)] == newest
    assert [found.id for found in read_predictions(path, "风险", limit=1)] == newest[1:2]


def test_a_prediction_is_found_among_many_blocks_of_many_lengths(tmp_path):
    path = tmp_path / "log.db"
    for batch in ([5, 900], [10], [20, 21], [890], [1000, 1001]):
        log = PredictionLog(path)
        log.put([exchange(number) for number in batch])
        log.close()
    for number in (5, 10, 20, 21, 890, 900, 1000, 1001):
        assert read_prediction(path, identity(number), patience=0).at == number * 1000
    for number in (4, 11, 500, 2000):
        with pytest.raises(NotFoundError):
            read_prediction(path, identity(number), patience=0)
    assert [found.at for found in read_predictions(path, limit=3)] == [1_001_000, 1_000_000, 900_000]


OLDER = """
CREATE TABLE raw_rows (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE predictions (
    id TEXT PRIMARY KEY, at INTEGER NOT NULL, deployment TEXT NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
    entity TEXT, cutoff INTEGER, input TEXT NOT NULL, output TEXT NOT NULL, data_version TEXT, rows_id TEXT,
    latency_us INTEGER NOT NULL
) WITHOUT ROWID;
"""


def test_a_log_of_before_there_were_blocks_is_taken_in(tmp_path):
    path = tmp_path / "log.db"
    output = '{"labels": {"高": {"probability": 0.25}}, "repairs": []}'
    question = '{"entity": "e7", "cutoff": null, "context": {"季": "春"}}'
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLDER)
        connection.execute("INSERT INTO raw_rows VALUES ('r1', '{\"t\": [{\"a\": 1}]}')")
        rows = [
            (identity(1), 1000, "dep_0", "风险", "features", None, None, '{"x": 1}', output, None, None, 5),
            (identity(2), 2000, "dep_0", "风险", "rows", "e7", 123_000_000, question, output, None, "r1", 6),
            (identity(3), 3000, "dep_0", "风险", "entity", "e7", 123_000_000, question, output, "v1.0", None, 7),
        ]
        connection.executemany(f"INSERT INTO predictions VALUES ({', '.join('?' * 12)})", rows)
        connection.commit()
    first, second, third = (read_prediction(path, identity(number), patience=0) for number in (1, 2, 3))
    assert (first.input, first.kind, first.latency_us, first.at) == ({"x": 1}, "features", 5, 1000)
    assert (second.input, second.raw_rows) == (
        {"entity": "e7", "cutoff": None, "context": {"季": "春"}}, {"t": [{"a": 1}]},
    )  # fmt: skip
    assert (third.entity, third.cutoff, third.data_version) == ("e7", 123_000_000, "v1.0")
    assert third.output == {"labels": {"高": {"probability": 0.25}}, "repairs": []}
    assert count(path) == 3


def test_an_older_log_becomes_blocks_of_a_bounded_size(tmp_path):
    path = tmp_path / "log.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLDER)
        for number in range(5):
            asked = msgspec.json.encode({"x": "投诉" * 400_000}).decode()
            row = (
                identity(number),
                number,
                "dep_0",
                "风险",
                "features",
                None,
                None,
                asked,
                '{"labels": {}, "repairs": []}',
            )
            connection.execute(f"INSERT INTO predictions VALUES ({', '.join('?' * 12)})", (*row, None, None, 5))
        connection.commit()
    assert read_prediction(path, identity(4), patience=0).latency_us == 5
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT predictions FROM blocks ORDER BY low").fetchall() == [(2,), (2,), (1,)]
    assert count(path) == 5


def test_threads_and_several_writers_lose_nothing(tmp_path):
    path = tmp_path / "log.db"
    logs = [PredictionLog(path) for _ in range(2)]

    def write(worker):
        for number in range(500):
            logs[worker % 2].put([exchange(worker * 500 + number)])

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
    log.put([exchange(7)])
    assert read_prediction(path, identity(7), patience=10).id == identity(7)
    with pytest.raises(NotFoundError):
        read_prediction(path, identity(9), patience=0)
    log.close()
    with pytest.raises(NotFoundError):
        read_prediction(tmp_path / "none.db", "dep_0-1", patience=0)


def test_a_failing_disk_blocks_nobody_and_is_told(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    path = blocked / "log.db"
    size = len(msgspec.msgpack.encode(exchange(0))) + 4
    with caplog.at_level(logging.WARNING, "holdfast.serving"):
        # A call is taken while there is room: ten of them fill this.
        log = PredictionLog(path, capacity=9 * size + size // 2)
        for number in range(25):
            log.put([exchange(number)])
        until = time.monotonic() + 10
        while "cannot be logged" not in caplog.text and time.monotonic() < until:
            time.sleep(0.02)
        assert log.stats.failing
        assert (log.stats.waiting, log.stats.dropped) == (10, 15)
        with pytest.raises(LimitError):
            log.flush(0.1)
        # The disk is back: what waited is written.
        blocked.unlink()
        log.flush(20)
        log.put([exchange(100)])
        stats = log.close()
    assert (stats.written, stats.dropped, stats.failing) == (11, 15, "")
    assert count(path) == 11
    told = " ".join(caplog.messages)
    assert "cannot be logged" in told
    assert "15 predictions" in told
    assert "logged again" in told


KILLED = """
import os, signal, sys, msgspec
from pathlib import Path
from holdfast.backend.serving.exchange import Exchange
from holdfast.backend.serving.log import PredictionLog
log = PredictionLog(Path(sys.argv[1]))
for number in range(3):
    answer = {"id": f"dep_0-{number:011x}0a0b0c0d{number}", "labels": {}, "repairs": [], "entity": "e", "cutoff": None}
    request = {"rows": {"t": [{"a": 1}]}, "questions": [{"entity": "投诉"}]}
    log.put([Exchange(instant=number, at=number, deployment="dep_0", target="风险", kind="rows", latency_us=1,
             predictions=1, data_version=None, caller=None, request=msgspec.json.encode(request),
             response=msgspec.json.encode({"predictions": [answer]}))])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def spooled(path):
    folder = path.with_suffix(".spool")
    return sorted(folder.iterdir()) if folder.exists() else []


def used(path):
    """The spool's file that holds something."""
    (found,) = [file for file in spooled(path) if any(file.read_bytes()[32:36])]
    return found


def large(number):
    """More than a file of the spool has room for without growing."""
    return exchange(number, request=msgspec.json.encode({"features": [{"x": "字" * (1 << 20)}]}))


def test_a_kill_right_after_an_answer_loses_nothing(tmp_path):
    path = tmp_path / "log.db"
    killed(path)
    assert not path.exists() or count(path) == 0
    found = read_prediction(path, identity(2), patience=0)
    assert (found.input["entity"], found.raw_rows) == ("投诉", {"t": [{"a": 1}]})
    assert [entry.id for entry in read_predictions(path)] == [identity(2), identity(1), identity(0)]
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
        log.put([exchange(id(log) % 1000)])
        log.close()
    assert count(path) == 5
    assert spooled(path) == []


@pytest.mark.parametrize(
    "more",
    [
        bytes(4) + b"a record whose length was not written yet" + bytes(9),
        (300).to_bytes(4, "little") + b"less than its length says",
        b"\1",
    ],
)
def test_a_torn_end_is_no_record_and_damage_is_kept_and_told(tmp_path, caplog, more):
    path = tmp_path / "log.db"
    killed(path)
    torn = used(path)
    whole = torn.read_bytes().rstrip(b"\0")
    torn.write_bytes(whole + more)
    (torn.parent / "1-bad").write_bytes((9).to_bytes(4, "little") + b"\xc1" * 9)
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
    log.put([exchange(1), exchange(2)])
    stats = log.close()
    assert (stats.written, stats.dropped) == (0, 0)
    path.rmdir()
    assert recover(path) == 2
    assert read_prediction(path, identity(2)).at == 2000
    assert spooled(path) == []


def test_what_began_before_there_was_a_spool_is_kept_at_the_stop_too(tmp_path):
    path = tmp_path / "log.db"
    path.mkdir()
    path.with_suffix(".spool").write_text("no folder")
    log = PredictionLog(path)
    log.put([exchange(1), exchange(2)])
    until = time.monotonic() + 10
    while log._writing is None and time.monotonic() < until:
        time.sleep(0.01)
    path.with_suffix(".spool").unlink()
    while log._spool is None and time.monotonic() < until:
        time.sleep(0.01)
    log.put([exchange(3)])
    assert log.close().dropped == 0
    path.rmdir()
    assert recover(path) == 3
    assert spooled(path) == []


def test_what_was_written_before_the_kill_is_not_written_again(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    log.put([exchange(1), exchange(2)])
    kept = used(path).read_bytes()
    log.close()
    (path.with_suffix(".spool") / "1-left").write_bytes(kept)
    assert recover(path) == 0
    assert count(path) == 2
    assert spooled(path) == []


def test_what_the_spool_could_not_take_and_the_disk_neither_is_kept_whole_at_the_stop(tmp_path):
    path = tmp_path / "log.db"
    path.mkdir()
    log = PredictionLog(path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log.put([exchange(1)])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        log.put([large(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.close().dropped == 0
    path.rmdir()
    assert recover(path) == 2


def test_a_full_disk_under_the_spool_is_told_and_memory_still_serves(tmp_path):
    path = tmp_path / "log.db"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = PredictionLog(path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        log.put([large(1)])
        assert "crash" in log.stats.failing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    log.put([exchange(2)])
    stats = log.close()
    assert (stats.written, stats.failing) == (2, "")


def test_the_spool_grows_and_forgets_each_generation(tmp_path):
    spool = Spool(tmp_path)
    sizes = 1, 700_000, 3, 900_000, 9_000_000
    given = [framed([bytes([number + 1]) * size]) for number, size in enumerate(sizes)]
    for turn in range(3):
        name = spool.generation
        for one in given[turn:]:
            spool.append(one)
        (file,) = [file for file in tmp_path.iterdir() if file.read_bytes().startswith(name.encode())]
        assert list(unframed(file.read_bytes()[32:])) == list(unframed(b"".join(given[turn:])))
        assert waiting(tmp_path) == {name}
        spool.swap()
        assert waiting(tmp_path) == {name}
        spool.clear()
        assert waiting(tmp_path) == set()
        assert spool.generation != name
    assert {file.stat().st_size for file in tmp_path.iterdir()} == {16 << 20}
    spool.append(framed([b"short"]))  # over what a longer one left
    spool.rewrite(spool.generation, framed([b"again"]))
    spool.close()
    with leftovers(tmp_path) as (found, damaged):
        assert [list(unframed(one.data)) for one in found] == [[b"again"]]
        assert not damaged
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_handed_over_is_counted(tmp_path, caplog):
    log = PredictionLog(tmp_path / "log.db")
    log.refuse(2, ValueError("surrogates not allowed"))
    log.put([exchange(2)])
    stats = log.close()
    assert (stats.written, stats.dropped) == (1, 2)
    assert "surrogates" in caplog.text


def test_what_is_handed_over_together_is_taken_together(tmp_path):
    log = PredictionLog(tmp_path / "log.db", capacity=3)
    log.put([exchange(number) for number in range(50)])
    assert log.close().written == 50


def test_erasing_takes_answers_out_of_requests_and_rows_out_of_what_came_with_them(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    rows = {"t": [{"who": "a", "x": 1}, {"who": "b", "x": 2}]}
    answers = [{"id": identity(1) + end, "labels": {}, "repairs": [], "entity": end, "cutoff": None} for end in "ab"]
    log.put([
        exchange(1, count=2, kind="rows", response=msgspec.json.encode({"predictions": answers}),
                 request=msgspec.json.encode({"rows": rows, "questions": [{"entity": "a"}, {"entity": "b"}]})),
        exchange(2),
    ])  # fmt: skip
    log.close()
    kept = {"t": [{"who": "b", "x": 2}]}
    assert erase_predictions(path, lambda entry: entry.entity == "a", lambda _rows: kept) == 1
    assert count(path) == 2
    left = read_prediction(path, identity(1) + "b", patience=0)
    assert (left.input["entity"], left.raw_rows) == ("b", kept)
    assert read_prediction(path, identity(2), patience=0).input == {"类型": "投诉", "x": 0.1}
    with pytest.raises(NotFoundError):
        read_prediction(path, identity(1) + "a", patience=0)
    assert erase_predictions(path, lambda _entry: True, lambda _rows: None) == 2
    assert read_predictions(path) == []


def test_erasing_reaches_what_a_running_server_has_not_written_yet(tmp_path):
    path = tmp_path / "log.db"
    log = PredictionLog(path)
    log.put([exchange(1)])
    log.flush()
    spooled(path)[0].with_name("1-bad.damaged").write_bytes(b"what nobody can read")
    log.put([exchange(2)])
    assert erase_predictions(path, lambda _entry: True, lambda _rows: None) == 2
    assert not [file for file in spooled(path) if file.suffix == ".damaged"]
    assert log.close().written == 2
    assert read_predictions(path) == []


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_prediction(path, identity(1), patience=0)
