"""The prediction log: every answer with its input, written beside the requests, in a database file of its own.

Before it is given, an answer is appended to a file of the worker (`spool`: some microseconds, no fsync) and put into a
bounded queue; one thread writes what is waiting, at the latest every 100 ms, in one transaction. So a killed worker
loses nothing: the next writer, or reader, finds what it left. A prediction never waits for the database: when the queue
is full (the disk is slow, full or gone) the entry is dropped, counted, shown in `/v1/health` and warned of. A failed
write is repeated as long as the queue has room. A normal stop writes everything.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast.backend.serving.spool import Record, Spool, leftovers
from holdfast.errors import IntegrityError, LimitError, NotFoundError

__all__ = [
    "LogStats",
    "Logged",
    "PredictionLog",
    "erase_predictions",
    "read_prediction",
    "read_predictions",
    "recover",
]

_log = logging.getLogger("holdfast.serving")
_INTERVAL = 0.1
_BATCH = 2_000
_RETRY = 1.0
_LOOK_FOR_LEFTOVERS = 1.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS raw_rows (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS predictions (
    id TEXT PRIMARY KEY, at INTEGER NOT NULL, deployment TEXT NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
    entity TEXT, cutoff INTEGER, input TEXT NOT NULL, output TEXT NOT NULL, data_version TEXT, rows_id TEXT,
    latency_us INTEGER NOT NULL
) WITHOUT ROWID;
"""


_COLUMNS = ("id", "at", "deployment", "target", "kind", "entity", "cutoff", "input", "output", "data_version",
            "rows_id", "latency_us")  # fmt: skip
_ROWS_ID = _COLUMNS.index("rows_id")


@dataclass(frozen=True, slots=True)
class Logged:
    """One logged answer.

    `at` and `cutoff` are instants (int64 microseconds UTC). `kind` is features, rows, rows+stored or entity. `input` is
    what was asked; `raw_rows`, the rows of tables that came with the request, is shared by all answers of that request
    and stored once, under `rows_id`. `data_version` names the dataset version whose rows were seen.
    """

    id: str
    at: int
    deployment: str
    target: str
    kind: str
    input: Any
    output: Any
    latency_us: int
    entity: str | None = None
    cutoff: int | None = None
    data_version: str | None = None
    rows_id: str | None = None
    raw_rows: Any = None


@dataclass(frozen=True, slots=True)
class LogStats:
    """What became of the entries of this process; `failing` is the error of the latest write, else empty.

    `written` counts also what a killed process had left. What waits at the end is kept beside the log, if the disk
    takes it, and written by the next process.
    """

    written: int
    waiting: int
    dropped: int
    failing: str


class PredictionLog:
    """The writing end. `put` may be called from any thread.

    `capacity` bounds what may wait: an entry counts 1 and each raw row that comes with it 1 more. Entries handed over
    together are taken or dropped together, so that the bound is exceeded by one request at most.
    """

    def __init__(self, path: Path, *, capacity: int = 20_000) -> None:
        self._path = path
        self._capacity = capacity
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        self._written = self._dropped = self._warned = self._weight = 0
        self._failing = self._unsafe = self._left = ""
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._open_spool()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, entries: Iterable[Logged]) -> None:
        """Hand over the entries of one request; never waits for the database and never raises."""
        given = list(entries)
        weights = [_weight(entry) for entry in given]
        with self._lock:
            if self._weight >= self._capacity:
                self._dropped += len(given)
                return
            self._weight += sum(weights)
        try:
            records = [_record(entry) for entry in given]
        except (ValueError, TypeError, RecursionError) as error:
            _log.error("%d predictions cannot be written as JSON: %s", len(given), error)
            with self._lock:
                self._weight -= sum(weights)
                self._dropped += len(given)
            return
        with self._lock:
            self._queue.extend(map(_Waiting, records, weights))
            self._keep(records)

    def _keep(self, records: list[Record]) -> None:
        if self._spool is None:
            return
        try:
            self._spool.append(records)
        except OSError as error:
            self._unsafe = f"a crash would lose predictions: {error}"
        else:
            self._unsafe = ""

    @property
    def stats(self) -> LogStats:
        """Counts of this process."""
        return LogStats(self._written, self._waiting, self._dropped, self._failing or self._unsafe)

    @property
    def _waiting(self) -> int:
        return len(self._batch) + len(self._queue)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until what was handed over is written (batch jobs do, requests never). LimitError after `timeout` s."""
        until = time.monotonic() + timeout
        while self._waiting:
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
            left = [one.record for one in (*self._batch, *self._queue)]
            if self._spool and not self._thread.is_alive():
                self._spool.close()
                self._spool = None
        if left:
            self._leave(left)
        return self.stats

    def _leave(self, records: list[Record]) -> None:
        """Keep what could not be written for the next process: all of it, whatever the spool took before."""
        why = self._failing or "no time left"
        try:
            spool = Spool(_spool_folder(self._path))
            spool.append(records)
            spool.close()
        except OSError as error:
            self._dropped += len(records)
            _log.error("%d predictions could not be logged before the stop and are lost: %s", len(records), error)
        else:
            _log.error("%d predictions are not logged before the next start: %s", len(records), why)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        look_at = 0.0
        while True:
            stopping = self._stop.wait(_RETRY if self._failing else _INTERVAL)
            self._open_spool()
            try:
                while self._waiting:
                    connection = connection or _connect(self._path)
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
            self._keep([one.record for one in (*self._batch, *self._queue)])
            # What is being written was kept with the rest: it must not be kept by the file that is emptied next.
            self._queue.extendleft(reversed(self._batch))
            self._batch = []

    def _write(self, connection: sqlite3.Connection) -> None:
        """Write a batch. Until it is in the database it stays in memory and in the spool, to be repeated."""
        if not self._batch:
            with self._lock:
                self._batch, self._queue = list(self._queue), deque()
                if self._spool:
                    self._spool.swap()
        for start in range(0, len(self._batch), _BATCH):
            _insert(connection, [one.record for one in self._batch[start : start + _BATCH]])
        written = self._batch
        with self._lock:
            self._batch = []
            self._weight -= sum(one.weight for one in written)
            if self._spool:
                self._spool.clear()
        self._written += len(written)

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


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: Record
    weight: int


def recover(path: Path) -> int:
    """Write what killed processes left beside the log at `path` into it; returns how many predictions that were.

    sqlite3.Error or OSError when that cannot be done now; then they are left where they are.
    """
    new = 0
    with leftovers(_spool_folder(path)) as (records, damaged):
        if records:
            with closing(_connect(path)) as connection:
                new = _insert(connection, records)
        for file in damaged:
            _log.error("not all of %s can be read; it is kept as %s.damaged", file, file.name)
    if new:
        _log.warning("%d predictions that a stopped process had left are logged", new)
    return new


def _spool_folder(path: Path) -> Path:
    return path.with_suffix(".spool")


def _weight(entry: Logged) -> int:
    return 1 + (sum(map(len, entry.raw_rows.values())) if entry.raw_rows else 0)


def read_prediction(path: Path, prediction: str, *, patience: float = 2.0) -> Logged:
    """The logged answer of that id, with its raw rows.

    An answer reaches the file shortly after it was given, so a missing one is waited for, `patience` seconds.
    NotFoundError when it is not there then.
    """
    until = time.monotonic() + patience
    while True:
        for entry in _select(path, "WHERE p.id = ?", (prediction,)):
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
    where, values = ("WHERE p.target = ? ", (target,)) if target is not None else ("", ())
    return list(_select(path, where + "ORDER BY p.at DESC, p.id DESC LIMIT ?", (*values, limit), rows=False))


def _recovered(path: Path) -> tuple[int, str]:
    """How many predictions `recover` found, and what kept it from looking."""
    try:
        return recover(path), ""
    except (sqlite3.Error, OSError) as error:
        return 0, f"; what a stopped process left cannot be logged now: {error}"


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    # NORMAL: a power cut may lose the latest answers, never the file; an fsync for each batch would starve the disk.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(_SCHEMA)
    return connection


def _record(entry: Logged) -> Record:
    """A row of `predictions`, and the body of its `raw_rows` at the end."""
    return (
        entry.id, entry.at, entry.deployment, entry.target, entry.kind, entry.entity, entry.cutoff,
        _json(entry.input), _json(entry.output), entry.data_version, entry.rows_id, entry.latency_us,
        None if entry.raw_rows is None else _json(entry.raw_rows),
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, batch: list[Record]) -> int:
    """Write the batch in one transaction; returns how many of its predictions were not there yet."""
    bodies = [(record[_ROWS_ID], record[-1]) for record in batch if record[-1] is not None]
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("INSERT OR IGNORE INTO raw_rows VALUES (?, ?)", bodies)
        new = connection.executemany(
            "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [record[:-1] for record in batch],
        ).rowcount
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return new


def _json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _select(path: Path, clause: str, values: tuple[object, ...], *, rows: bool = True) -> list[Logged]:
    if not path.exists():
        return []
    body = "r.body" if rows else "NULL"
    wanted = ", ".join(f"p.{column}" for column in _COLUMNS)
    # Only texts of this module are put together here; values are bound.
    query = f"SELECT {wanted}, {body} FROM predictions p LEFT JOIN raw_rows r ON r.id = p.rows_id {clause}"  # noqa: S608
    try:
        with _reading(path) as connection:
            found = connection.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # the writer has made the file, but not its tables yet
            return []
        raise
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"the prediction log cannot be read: {error}", where={"file": str(path)}) from error
    return [_logged(row) for row in found]


def _logged(row: tuple[Any, ...]) -> Logged:
    decode = msgspec.json.decode
    *columns, body = row
    entry = dict(zip(_COLUMNS, columns, strict=True))
    entry |= {name: decode(entry[name]) for name in ("input", "output")}
    return Logged(**entry, raw_rows=None if body is None else decode(body))


def erase_predictions(path: Path, belongs: Callable[[Logged], bool], cleaned: Callable[[Any], Any]) -> int:
    """Erase the logged answers that `belongs` says, and of raw rows what `cleaned` leaves out; returns how many.

    `cleaned` takes the raw rows of a request and returns those that stay. The file's free pages and its write-ahead
    log are overwritten. Nothing to do where there is no log.
    """
    if not path.exists():
        return 0
    recover(path)
    with closing(_connect(path)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        gone = [entry.id for entry in _select(path, "", (), rows=False) if belongs(entry)]
        bodies = connection.execute("SELECT id, body FROM raw_rows").fetchall()
        changed = []
        for identity, body in bodies:
            before = msgspec.json.decode(body)
            after = cleaned(before)
            if after != before:
                changed.append((_json(after), identity))
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany("DELETE FROM predictions WHERE id = ?", [(one,) for one in gone])
            connection.executemany("UPDATE raw_rows SET body = ? WHERE id = ?", changed)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(gone)
