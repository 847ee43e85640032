"""The prediction log: every request with its answer, written beside the requests, in a database file of its own.

Before it is given, an answer is appended to a file of the worker (`spool`: some microseconds, no fsync) and put into a
bounded queue; one thread writes what is waiting, at the latest every 100 ms, as one compressed block. So a killed
worker loses nothing: the next writer, or reader, finds what it left. A prediction never waits for the database: when
the queue is full (the disk is slow, full or gone) the entry is dropped, counted, shown in `/v1/health` and warned of.
A failed write is repeated as long as the queue has room. A normal stop writes everything.

A prediction is found by its id, which names the millisecond: a block knows the first and the last of its answers.
"""

import logging
import sqlite3
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from holdfast.backend.serving.exchange import Exchange, Logged, instant_of
from holdfast.backend.serving.spool import Spool, framed, leftovers, unframed, waiting
from holdfast.errors import IntegrityError, LimitError, NotFoundError, UnavailableError

__all__ = [
    "LogStats",
    "PredictionLog",
    "erase_predictions",
    "read_found",
    "read_prediction",
    "read_predictions",
    "recover",
]

_log = logging.getLogger("holdfast.serving")
_INTERVAL = 0.1
_RETRY = 1.0
_LOOK_FOR_LEFTOVERS = 1.0
_LEVEL = 1
_BLOCK = 4 << 20
"""Bytes of a block that is made of an older log."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
    generation TEXT PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL, predictions INTEGER NOT NULL,
    targets TEXT NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS blocks_by_time ON blocks (high, low);
"""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Exchange).decode


class _Told(msgspec.Struct, array_like=True, gc=False):
    """What a block tells of its exchanges: the beginning of each, in its order."""

    instant: int
    at: int
    deployment: str
    target: str
    kind: str
    latency_us: int
    predictions: int


_look = msgspec.msgpack.Decoder(_Told).decode


@dataclass(frozen=True, slots=True)
class LogStats:
    """What became of the predictions of this process; `failing` is the error of the latest write, else empty.

    `written` counts also what a killed process had left. What waits at the end is kept beside the log, if the disk
    takes it, and written by the next process.
    """

    written: int
    waiting: int
    dropped: int
    failing: str


@dataclass(slots=True)
class _Tally:
    """What a block tells of its exchanges: number of answers, first and last millisecond that ids name, targets."""

    predictions: int = 0
    low: int = sys.maxsize
    high: int = 0
    targets: set[str] = field(default_factory=set)

    def add(self, exchanges: Iterable[Exchange | _Told]) -> None:
        for one in exchanges:
            instant = one.instant
            self.predictions += one.predictions
            self.low = min(self.low, instant)
            self.high = max(self.high, instant)
            self.targets.add(one.target)


@dataclass(slots=True)
class _Pending:
    """What waits to become a block: `whole` in the spool, under the name `generation`, or as `data` in memory."""

    generation: str
    data: list[bytes] = field(default_factory=list)
    size: int = 0
    tally: _Tally = field(default_factory=_Tally)
    whole: bool = False


class PredictionLog:
    """The writing end. `put` may be called from any thread.

    `capacity` bounds the bytes that may wait. What is handed over together is taken or dropped together, so that the
    bound is exceeded by one call at most.
    """

    def __init__(self, path: Path, *, capacity: int = 64 << 20) -> None:
        self._path = path
        self._capacity = capacity
        self._filling = _Pending("")
        self._writing: _Pending | None = None
        self._written = self._dropped = self._warned = 0
        self._failing = self._unsafe = self._left = ""
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._open_spool()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, exchanges: Collection[Exchange]) -> None:
        """Hand over requests with their answers; never waits for the database and never raises."""
        if not exchanges:
            return
        data = framed(map(_encode, exchanges))
        with self._lock:
            filling = self._filling
            if self._waiting_bytes >= self._capacity:
                self._dropped += sum(one.predictions for one in exchanges)
                return
            filling.size += len(data)
            filling.tally.add(exchanges)
            if not filling.whole:
                filling.data.append(data)
            if self._spool is None:
                return
            try:
                self._spool.append(data)
            except OSError as error:
                if filling.whole:
                    filling.data = [bytes(self._spool.records(filling.generation)), data]
                    filling.whole = False
                self._unsafe = f"a crash would lose predictions: {error}"
            else:
                self._unsafe = ""

    def _pending(self) -> _Pending:
        return _Pending(self._spool.generation, whole=True) if self._spool else _Pending("")

    def refuse(self, count: int, why: Exception) -> None:
        """Tell of predictions that could not even be handed over, such as values that JSON does not have."""
        _log.error("%d predictions cannot be logged: %s", count, why)
        with self._lock:
            self._dropped += count

    @property
    def stats(self) -> LogStats:
        """Counts of this process."""
        writing = self._writing
        waiting = self._filling.tally.predictions + (writing.tally.predictions if writing else 0)
        return LogStats(self._written, waiting, self._dropped, self._failing or self._unsafe)

    @property
    def _waiting_bytes(self) -> int:
        writing = self._writing  # the writing thread may be done with it at any time
        return self._filling.size + (writing.size if writing else 0)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until what was handed over is written (batch jobs do, requests never). LimitError after `timeout` s."""
        until = time.monotonic() + timeout
        while self._waiting_bytes:
            if time.monotonic() > until:
                raise LimitError(
                    f"predictions could not be logged within {timeout:g} s: {self._failing or 'the disk is slow'}",
                    where={"file": str(self._path)},
                )
            time.sleep(0.01)

    def close(self, timeout: float = 10.0) -> LogStats:
        """Write what is waiting, for at most `timeout` seconds, and stop."""
        self._stop.set()
        self._thread.join(timeout)
        with self._lock:
            left = [one for one in (self._writing, self._filling) if one is not None and one.size]
            for one in left:
                self._leave(one)
            if self._spool and not self._thread.is_alive():
                self._spool.close()
                self._spool = None
        return self.stats

    def _leave(self, left: _Pending) -> None:
        """Keep what could not be written for the next process: all of it, whatever the spool took before."""
        why = self._failing or "no time left"
        try:
            if not left.whole:
                spool = self._spool
                if spool is None or not left.generation:  # it began before there was a spool
                    spool = Spool(_spool_folder(self._path))
                    spool.append(b"".join(left.data))
                    spool.close()
                else:
                    spool.rewrite(left.generation, b"".join(left.data))
        except OSError as error:
            self._dropped += left.tally.predictions
            _log.error("%d predictions could not be logged before the stop: %s", left.tally.predictions, error)
        else:
            _log.error("%d predictions are not logged before the next start: %s", left.tally.predictions, why)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        look_at = 0.0
        while True:
            stopping = self._stop.wait(_RETRY if self._failing else _INTERVAL)
            self._open_spool()
            try:
                if self._waiting_bytes:
                    connection = connection or _connect(self._path)
                    self._write(connection)
                    # More came meanwhile; under load there always is more, and a block of its own for it costs a turn.
                    while stopping and self._waiting_bytes:
                        self._write(connection)
                self._recovered()
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                if connection is not None:
                    connection.close()
                connection = None
            if time.monotonic() >= look_at and not self._failing:
                self._take_over()
                look_at = time.monotonic() + _LOOK_FOR_LEFTOVERS
            self._warn_of_drops()
            if stopping:
                break
        if connection is not None:
            connection.close()

    def _open_spool(self) -> None:
        if self._spool is not None:
            return
        try:
            spool = Spool(_spool_folder(self._path))
        except OSError as error:
            self._unsafe = f"a crash would lose predictions: {error}"
            return
        with self._lock:
            self._spool = spool
            filling = self._filling
            filling.generation = spool.generation
            try:
                spool.append(b"".join(filling.data))
            except OSError as error:
                self._unsafe = f"a crash would lose predictions: {error}"
            else:
                filling.data, filling.whole = [], True

    def _write(self, connection: sqlite3.Connection) -> None:
        """Write a block. Until it is in the database it stays in the spool or in memory, to be repeated."""
        with self._lock:
            if self._writing is None:
                # A generation that began without a spool keeps its name: blocks need one, whatever it is.
                if self._spool:
                    self._spool.swap()
                self._writing, self._filling = self._filling, self._pending()
        writing = self._writing
        name = writing.generation or f"memory-{time.time_ns()}"
        if writing.whole:
            assert self._spool
            with self._spool.records(name) as records:
                _insert(connection, name, records, writing.tally)
        else:
            _insert(connection, name, b"".join(writing.data), writing.tally)
        with self._lock:
            self._writing = None
        if self._spool:
            # Outside the lock: only this thread swaps, and what is handed over meanwhile waits for no disk.
            self._spool.clear()
        self._written += writing.tally.predictions

    def _take_over(self) -> None:
        try:
            self._written += recover(self._path)
        except (sqlite3.Error, OSError) as error:
            if str(error) != self._left:
                _log.error("what a stopped process left cannot be logged: %s", error)
            self._left = str(error)
        else:
            self._left = ""

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            _log.error("predictions cannot be logged to %s: %s; they wait in memory", self._path, error)
        self._failing = str(error) or type(error).__name__

    def _recovered(self) -> None:
        if self._failing:
            _log.warning("predictions are logged again")
        self._failing = ""

    def _warn_of_drops(self) -> None:
        if self._dropped > self._warned:
            _log.warning("%d predictions were answered but not logged: the queue is full", self._dropped - self._warned)
            self._warned = self._dropped


def recover(path: Path) -> int:
    """Write what killed processes left beside the log at `path` into it; returns how many predictions that were.

    sqlite3.Error or OSError when that cannot be done now; then they are left where they are.
    """
    new = 0
    with leftovers(_spool_folder(path)) as (generations, damaged):
        for one in generations:
            good = framed(_readable(one.data)) if one.name else b""
            if len(good) < len(one.data):
                damaged.add(one.path)
            if good:
                with closing(_connect(path)) as connection:
                    new += _insert(connection, one.name, good)
        for file in damaged:
            _log.error("not all of %s can be read; it is kept as %s.damaged", file, file.name)
    if new:
        _log.warning("%d predictions that a stopped process had left are logged", new)
    return new


def _readable(data: bytes) -> Iterator[bytes]:
    for record in unframed(data):
        try:
            _decode(record)
        except msgspec.DecodeError:
            return
        yield record


def _spool_folder(path: Path) -> Path:
    return path.with_suffix(".spool")


def read_prediction(path: Path, prediction: str, *, patience: float = 2.0) -> Logged:
    """The logged answer of that id, with its raw rows.

    An answer reaches the file shortly after it was given, so a missing one is waited for, `patience` seconds.
    NotFoundError when it is not there then.
    """
    until = time.monotonic() + patience
    instant = instant_of(prediction)
    while True:
        for exchange in _around(path, instant) if instant is not None else ():
            if prediction.encode() in exchange.response:
                for entry in exchange.expand():
                    if entry.id == prediction:
                        return entry
        ended = time.monotonic() >= until
        recovered, fault = _recovered(path)
        if ended and not recovered:
            raise NotFoundError(
                f"there is no prediction {prediction!r} in the log{fault}",
                where={"prediction": prediction},
                hint="Ids are in the answers of the server, under `id`.",
            )
        time.sleep(0 if recovered else 0.05)


def read_predictions(path: Path, target: str | None = None, *, limit: int = 50) -> list[Logged]:
    """The latest answers, newest first, without raw rows."""
    _, fault = _recovered(path)
    if fault:
        _log.warning("there may be more predictions%s", fault)
    found: list[Logged] = []
    query, values = "SELECT high, targets, size, body FROM blocks ORDER BY high DESC", ()
    with _reading(path) as connection:
        for high, targets, size, body in connection.execute(query, values) if connection else ():
            found.sort(key=_newest, reverse=True)
            if len(found) >= limit and instant_of(found[limit - 1].id) > high:
                break
            if target is None or target in targets.split("\n"):
                inside = chain.from_iterable(one.expand(rows=False) for one in _exchanges(size, body))
                found += (entry for entry in inside if target in (None, entry.target))
    return sorted(found, key=_newest, reverse=True)[:limit]


def read_found(path: Path, predictions: Collection[str]) -> dict[str, Logged]:
    """Those of the predictions that are in the log, by id, without raw rows."""
    instants = sorted({instant for one in predictions if (instant := instant_of(one)) is not None})
    _recovered(path)
    found: dict[str, Logged] = {}
    with _reading(path) as connection:
        if connection is None or not instants:
            return found
        query = "SELECT generation, low, high FROM blocks WHERE high >= ? AND low <= ?"
        for name, low, high in connection.execute(query, (instants[0], instants[-1])).fetchall():
            place = bisect_left(instants, low)
            if place == len(instants) or instants[place] > high:
                continue
            block = connection.execute("SELECT size, body FROM blocks WHERE generation = ?", (name,)).fetchone()
            for exchange in _exchanges(*block) if block else ():
                if instants[min(bisect_left(instants, exchange.instant), len(instants) - 1)] == exchange.instant:
                    found |= {one.id: one for one in exchange.expand(rows=False) if one.id in predictions}
    return found


def _newest(entry: Logged) -> tuple[int, str]:
    return entry.at, entry.id


def _recovered(path: Path) -> tuple[int, str]:
    """How many predictions `recover` found, and what kept it from looking."""
    try:
        return recover(path), ""
    except (sqlite3.Error, OSError) as error:
        return 0, f"; what a stopped process left cannot be logged now: {error}"


def _around(path: Path, instant: int) -> Iterator[Exchange]:
    """The exchanges of all blocks that have answers of before and after a millisecond."""
    with _reading(path) as connection:
        if connection is None:
            return
        (longest,) = connection.execute("SELECT coalesce(max(high - low), 0) FROM blocks").fetchone()
        query = "SELECT size, body FROM blocks WHERE high BETWEEN ? AND ? AND low <= ?"
        for size, body in connection.execute(query, (instant, instant + longest, instant)):
            yield from _exchanges(size, body)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    # NORMAL: a power cut may lose the latest answers, never the file; an fsync for each batch would starve the disk.
    # Large pages (of a new file): a block is some hundred kB in one place.
    for pragma in ("page_size=32768", "journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(_SCHEMA)
    _take_in_older(connection)
    return connection


def _insert(
    connection: sqlite3.Connection, generation: str, data: bytes | memoryview, told: _Tally | None = None
) -> int:
    """Write a block in one statement, of which `told` tells; returns its number of predictions, 0 when it was there
    already.
    """
    if told is None:
        told = _Tally()
        told.add(map(_look, unframed(bytes(data))))
    body, targets = _codec().compress(data, asbytes=True), "\n".join(sorted(told.targets))
    values = (generation, told.low, told.high, told.predictions, targets, len(data), body)
    new = connection.execute("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)", values).rowcount
    return told.predictions if new else 0


def _exchanges(size: int, body: bytes) -> Iterator[Exchange]:
    return map(_decode, unframed(_codec().decompress(body, size, asbytes=True)))


def _codec() -> Any:
    import pyarrow as pa

    return pa.Codec("zstd", compression_level=_LEVEL)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection; None while there is no log. IntegrityError when the file is none."""
    if not path.exists():
        yield None
        return
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "predictions" in names:
            connection.close()
            connection = _connect(path)
        # The writer may have made the file, but not its tables yet.
        yield connection if "predictions" in names or "blocks" in names else None
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"the prediction log cannot be read: {error}", where={"file": str(path)}) from error
    finally:
        connection.close()


def _take_in_older(connection: sqlite3.Connection) -> None:
    """A log of before there were blocks had a row for each prediction: make blocks of them."""
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'predictions'"
    if not connection.execute(query).fetchone()[0]:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute(query).fetchone()[0]:
            columns = ("id, at, deployment, target, kind, entity, cutoff, input, output, data_version, latency_us,"
                       " rows_id")  # fmt: skip
            bodies = dict(connection.execute("SELECT id, body FROM raw_rows"))
            records: list[bytes] = []
            number = size = 0
            for *values, rows_id in connection.execute(f"SELECT {columns} FROM predictions"):  # noqa: S608 - own text
                records.append(framed([_encode(Exchange.of_older(*values, rows=bodies.get(rows_id)))]))
                size += len(records[-1])
                if size >= _BLOCK:
                    _insert(connection, f"older-{number}", b"".join(records))
                    records, size, number = [], 0, number + 1
            if records:
                _insert(connection, f"older-{number}", b"".join(records))
            connection.execute("DROP TABLE predictions")
            connection.execute("DROP TABLE raw_rows")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def erase_predictions(path: Path, belongs: Callable[[Logged], bool], cleaned: Callable[[Any], Any]) -> int:
    """Erase the logged answers that `belongs` says, and of raw rows what `cleaned` leaves out; returns how many.

    `cleaned` takes the raw rows of a request and returns those that stay. The file's free pages and its write-ahead
    log are overwritten; what could not be read of a killed process is removed whole. Nothing to do where there is no
    log. UnavailableError when a running process does not write what it has answered already.
    """
    if not path.exists():
        return 0
    recover(path)
    _await_written(_spool_folder(path))
    gone = 0
    with closing(_connect(path)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        blocks = [one for (one,) in connection.execute("SELECT generation FROM blocks").fetchall()]
        for generation in blocks:
            connection.execute("BEGIN IMMEDIATE")
            try:
                gone += _erase_block(connection, generation, belongs, cleaned)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return gone


def _await_written(folder: Path, patience: float = 30.0) -> None:
    """Wait until what running processes have answered by now is in the log; remove what nobody can read."""
    until, now = time.monotonic() + patience, waiting(folder)
    while now := now & waiting(folder):
        if time.monotonic() > until:
            raise UnavailableError(
                f"a running server does not write what it answered to the log ({len(now)} files wait)",
                where={"folder": str(folder)}, hint="See /v1/health of the server, or stop it; then erase again.",
            )  # fmt: skip
        time.sleep(0.05)
    for file in folder.glob("*.damaged"):
        _log.warning("%s, which nobody can read, is removed with what is erased", file)
        file.unlink()


def _erase_block(
    connection: sqlite3.Connection, generation: str, belongs: Callable[[Logged], bool], cleaned: Callable[[Any], Any]
) -> int:
    size, body = connection.execute("SELECT size, body FROM blocks WHERE generation = ?", (generation,)).fetchone()
    before = list(_exchanges(size, body))
    after = [kept for one in before if (kept := one.without(belongs, cleaned)) is not None]
    if after == before:
        return 0
    connection.execute("DELETE FROM blocks WHERE generation = ?", (generation,))
    if after:
        _insert(connection, generation, framed(map(_encode, after)))
    return sum(one.predictions for one in before) - sum(one.predictions for one in after)
