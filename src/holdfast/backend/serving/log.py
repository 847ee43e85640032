"""The prediction log: every answer with its input, written beside the requests, in a database file of its own.

A worker puts entries into a bounded queue; one thread writes what is waiting, at the latest every 100 ms, in one
transaction. A prediction never waits for the log: when the queue is full (the disk is slow, full or gone) the entry is
dropped, counted, shown in `/v1/health` and warned of. A failed write is repeated as long as the queue has room.
A normal stop writes everything; a killed worker loses what it has not written yet.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast.errors import IntegrityError, LimitError, NotFoundError

__all__ = ["LogStats", "Logged", "PredictionLog", "read_prediction", "read_predictions"]

_log = logging.getLogger("holdfast.serving")
_INTERVAL = 0.1
_BATCH = 2_000
_RETRY = 1.0
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
    """What became of the entries of this process; `failing` is the error of the latest write, else empty."""

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
        self._queue: deque[Logged] = deque()
        self._written = self._dropped = self._warned = self._weight = 0
        self._failing = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, entries: Iterable[Logged]) -> None:
        """Hand over the entries of one request; never blocks and never raises."""
        given = list(entries)
        with self._lock:
            if self._weight >= self._capacity:
                self._dropped += len(given)
                return
            self._weight += sum(map(_weight, given))
        self._queue.extend(given)

    @property
    def stats(self) -> LogStats:
        """Counts of this process."""
        return LogStats(self._written, len(self._queue), self._dropped, self._failing)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until what was handed over is written (batch jobs do, requests never). LimitError after `timeout` s."""
        until = time.monotonic() + timeout
        while self._queue:
            if time.monotonic() > until:
                raise LimitError(
                    f"predictions could not be logged within {timeout:g} s: {self._failing or 'the disk is slow'}",
                    where={"file": str(self._path)},
                )
            time.sleep(0.01)

    def close(self, timeout: float = 10.0) -> LogStats:
        """Write what is waiting, for at most `timeout` seconds, and stop; what is left counts as dropped."""
        self._stop.set()
        self._thread.join(timeout)
        left = len(self._queue)
        if left:
            self._dropped += left
            _log.error("%d predictions could not be logged before the stop: %s", left, self._failing or "no time left")
        return self.stats

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            stopping = self._stop.wait(_RETRY if self._failing else _INTERVAL)
            try:
                while self._queue:
                    connection = connection or _connect(self._path)
                    self._write(connection)
                self._recovered()
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                if connection is not None:
                    connection.close()
                connection = None
            self._warn_of_drops()
            if stopping:
                break
        if connection is not None:
            connection.close()

    def _write(self, connection: sqlite3.Connection) -> None:
        batch = [self._queue[index] for index in range(min(_BATCH, len(self._queue)))]
        _insert(connection, batch)
        # Only now: until it is written an entry stays in the queue, so that a failed write is repeated.
        for _ in batch:
            self._queue.popleft()
        with self._lock:
            self._weight -= sum(map(_weight, batch))
        self._written += len(batch)

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
        if time.monotonic() >= until:
            raise NotFoundError(
                f"there is no prediction {prediction!r} in the log",
                where={"prediction": prediction},
                hint="Ids are in the answers of the server, under `id`.",
            )
        time.sleep(0.05)


def read_predictions(path: Path, target: str | None = None, *, limit: int = 50) -> list[Logged]:
    """The latest answers, newest first, without raw rows."""
    where, values = ("WHERE p.target = ? ", (target,)) if target is not None else ("", ())
    return list(_select(path, where + "ORDER BY p.at DESC, p.id DESC LIMIT ?", (*values, limit), rows=False))


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    # NORMAL: a power cut may lose the latest answers, never the file; an fsync for each batch would starve the disk.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(_SCHEMA)
    return connection


def _insert(connection: sqlite3.Connection, batch: list[Logged]) -> None:
    raw = {e.rows_id: e.raw_rows for e in batch if e.rows_id is not None and e.raw_rows is not None}
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT OR IGNORE INTO raw_rows VALUES (?, ?)", [(key, _json(body)) for key, body in raw.items()]
        )
        connection.executemany(
            "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.id, e.at, e.deployment, e.target, e.kind, e.entity, e.cutoff, _json(e.input),
                 _json(e.output), e.data_version, e.rows_id, e.latency_us)
                for e in batch
            ],
        )  # fmt: skip
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


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
