"""Who may change what: leases in the metadata database, with a fence that a late holder cannot pass.

A lease is held by one process for as long as it beats. It is taken over when its process is gone (seen at once on the
same machine), when its time is over by the clock, or when somebody who waits saw no beat for that long (which no step
of a clock can deceive). Whoever lost a lease may not know it yet: every write transaction of the block checks the
fence, a number that grows with each holder, before it writes (`store.fenced`).

Deadlock: the leases of one `hold` are taken together or not at all, and a `hold` within another must ask for what comes
later in ORDER.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from holdfast.backend.ports import Clock
from holdfast.backend.store.database import Store, fenced, metadata
from holdfast.core.timeline import isoformat
from holdfast.errors import ConflictError, HoldfastError, LockedError

__all__ = ["LENGTH", "ORDER", "Holder", "Lease", "Leases", "locked", "patient", "this_process"]

LENGTH = 30.0
"""Seconds without a beat after which a lease may be taken over."""
ORDER = ("job", "backup", "remote", "checkpoint", "data", "deployment", "model", "group")
"""Kinds of leases (what is before the first colon) in the order in which they may be taken within each other."""

_SECOND = 1_000_000
_POLL = 0.05

_leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, index=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("doing", sa.Text, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
_held: ContextVar[tuple[str, ...]] = ContextVar("held", default=())
_ended: set[str] = set()
"""Leases of this process whose blocks have ended."""
_patience: ContextVar[float] = ContextVar("patience", default=0.0)


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """How long this thread waits for leases that others hold, within the block."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: process `pid` on `host`, since when (instant), doing what. `beat` counts its signs of life."""

    name: str
    holder: str
    process: str
    host: str
    pid: int
    doing: str
    since: int
    until: int
    fence: int
    beat: int

    def here(self) -> bool:
        """Whether its process is, or was, one of this machine, where numbers of processes can be compared."""
        return self.process.partition("/")[0] == _machine()

    def gone(self) -> bool:
        """Whether its process is known to have ended: only processes of this machine can be looked at."""
        return self.here() and _started(self.pid) != self.process.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Lease:
    """Leases that were taken together: names and the fence of each. Checks itself in every write of its block."""

    token: str
    fences: dict[str, int]

    def check(self, connection: sa.Connection) -> None:
        """LockedError when any of them was taken over meanwhile."""
        query = sa.select(_leases.c.name, _leases.c.fence).where(_leases.c.holder == self.token)
        mine = {row.name: row.fence for row in connection.execute(query)}
        for name, fence in self.fences.items():
            if mine.get(name) != fence:
                raise LockedError(
                    f"the lease on {name} was lost: this process gave no sign of life for too long",
                    where={"lease": name},
                    hint="Nothing was written by this attempt. Somebody else goes on with it, or repeat the command.",
                )


class Leases:
    """Leases of one metadata database. `length` is the time without a beat after which one may be taken over."""

    def __init__(self, store: Store, clock: Clock, length: float | None = None) -> None:
        self._store = store
        self._clock = clock
        self.length = LENGTH if length is None else length
        self._seen: dict[str, tuple[str, int, float]] = {}

    @contextmanager
    def hold(self, names: Sequence[str], *, doing: str, wait: float | None = None) -> Iterator[Lease]:
        """Hold all of `names` (such as `data`, `model:risk/High`) for the block, waiting up to `wait` seconds.

        By default it waits as long as `patient` says, which is not at all.

        LockedError says who holds which since when. Every write of the block, in this thread, fails with LockedError
        if the lease was lost. What this thread holds already is held on.
        """
        wanted = sorted({name for name in names if name not in _held.get()})
        if not wanted:
            yield Lease("", {})
            return
        _in_order(wanted)
        lease = self._acquired(wanted, doing, _patience.get() if wait is None else wait)
        with self.kept(lease):
            token = _held.set((*_held.get(), *wanted))
            try:
                yield lease
            except LockedError:
                raise
            except Exception as error:
                self._blame(lease, error)
                raise
            finally:
                _held.reset(token)

    @contextmanager
    def kept(self, lease: Lease) -> Iterator[None]:
        """Keep a lease alive for the block, check it in every write of it, and give it back at the end."""
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(lease, ended), name="holdfast-lease", daemon=True)
        beating.start()
        try:
            with fenced(lease):
                yield
        finally:
            ended.set()
            beating.join()
            _ended.add(lease.token)
            self._release(lease)

    def take(self, connection: sa.Connection, names: Sequence[str], doing: str) -> Lease | Holder:
        """Take all of `names` in somebody's write transaction; or say who holds the first that is not free."""
        token, now = secrets.token_hex(8), self._clock.now()
        found = self._holders(connection, names)
        for name in names:
            if name in found and not self._free(found[name], now):
                return found[name]
        fences = {}
        for name in names:
            last = connection.execute(sa.select(_leases.c.fence).where(_leases.c.name == name)).scalar()
            values = {
                "fence": (last or 0) + 1, "holder": token, "process": this_process(), "host": socket.gethostname(),
                "pid": os.getpid(), "doing": doing, "since": now, "until": now + self._length(), "beat": 0,
            }  # fmt: skip
            if last is None:
                connection.execute(_leases.insert().values(name=name, **values))
            else:
                connection.execute(_leases.update().where(_leases.c.name == name).values(**values))
            fences[name] = (last or 0) + 1
        return Lease(token, fences)

    def give_back(self, connection: sa.Connection, lease: Lease) -> None:
        """Free what is still this lease's, in somebody's write transaction."""
        connection.execute(_leases.update().where(_leases.c.holder == lease.token).values(holder=None))

    def holders(self, prefix: str = "") -> list[Holder]:
        """Who holds what now, by name; those that could be taken over are not among them."""
        with self._store.read() as connection:
            query = sa.select(_leases.c.name).where(
                _leases.c.holder.is_not(None), _leases.c.name.startswith(prefix, autoescape=True)
            )
            found = self._holders(connection, list(connection.scalars(query)))
        now = self._clock.now()
        return [holder for _, holder in sorted(found.items()) if not self._free(holder, now)]

    def alive(self, connection: sa.Connection, names: Iterable[str]) -> frozenset[str]:
        """Those of `names` that are held and could not be taken over now."""
        now = self._clock.now()
        found = self._holders(connection, list(names))
        return frozenset(name for name, holder in found.items() if not self._free(holder, now))

    def _holders(self, connection: sa.Connection, names: Sequence[str]) -> dict[str, Holder]:
        query = sa.select(_leases).where(_leases.c.name.in_(list(names)), _leases.c.holder.is_not(None))
        return {
            row.name: Holder(**{name: getattr(row, name) for name in Holder.__slots__})
            for row in connection.execute(query)
        }  # fmt: skip

    def _free(self, holder: Holder, now: int) -> bool:
        """Whether a lease may be taken over; remembers when which beat was first seen."""
        if holder.gone() or now > holder.until or holder.holder in _ended:
            return True
        seen = self._seen.get(holder.name)
        if seen is None or seen[:2] != (holder.holder, holder.beat):
            self._seen[holder.name] = (holder.holder, holder.beat, time.monotonic())
            return False
        return time.monotonic() - seen[2] > self.length

    def _acquired(self, names: list[str], doing: str, wait: float) -> Lease:
        deadline = time.monotonic() + wait
        while True:
            with self._store.write("take leases") as connection:
                taken = self.take(connection, names, doing)
            if isinstance(taken, Lease):
                return taken
            if time.monotonic() >= deadline:
                raise locked(taken)
            time.sleep(min(_POLL, max(deadline - time.monotonic(), 0.0)))

    def _beat(self, lease: Lease, ended: threading.Event) -> None:
        while not ended.wait(self.length / 3):
            # A beat that fails (the database is away) is a beat not given; the fence tells the rest.
            with suppress(HoldfastError, sa.exc.DBAPIError), self._store.write("beat") as connection:
                self.beat(connection, lease)

    def beat(self, connection: sa.Connection, lease: Lease) -> None:
        """Give a sign of life, in somebody's write transaction."""
        values = {"until": self._clock.now() + self._length(), "beat": _leases.c.beat + 1}
        connection.execute(_leases.update().where(_leases.c.holder == lease.token).values(**values))

    def _blame(self, lease: Lease, error: Exception) -> None:
        """LockedError in the place of an error met by who had lost the lease: whoever took over clears away what lies
        half done, and what is missed then (a copy of a file) is no fault of what was asked for.
        """
        with suppress(sa.exc.DBAPIError), self._store.read() as connection:
            try:
                lease.check(connection)
            except LockedError as lost:
                raise lost from error

    def _release(self, lease: Lease) -> None:
        with self._store.read() as connection:  # ended within the last write of the block, mostly
            if connection.execute(sa.select(_leases.c.name).where(_leases.c.holder == lease.token)).first() is None:
                return
        # What cannot be given back now (no room on the disk) runs out; this process knows that it is free.
        with suppress(HoldfastError, sa.exc.DBAPIError), self._store.write("give back leases") as connection:
            self.give_back(connection, lease)

    def _length(self) -> int:
        return int(self.length * _SECOND)


def locked(holder: Holder) -> LockedError:
    """The error that says who holds a lease."""
    kind, _, name = holder.name.partition(":")
    what = {
        "data": "the data",
        "backup": "the backup",
        "job": f"job {name}, which does the same,",
        "model": f"the training of {name}",
        "group": f"feature group {name}",
    }.get(kind, holder.name)
    return LockedError(
        f"{what} is held by process {holder.pid} on {holder.host} since {isoformat(holder.since)} ({holder.doing})",
        where={"lease": holder.name, "pid": holder.pid, "host": holder.host, "since": isoformat(holder.since)},
        hint="Wait until it ends (ingest, train: --wait SECONDS), or stop that process: the lease then frees itself.",
    )


def _in_order(wanted: Sequence[str]) -> None:
    """Refuse to wait for something that others may hold while they wait for what is held here."""
    rank = {kind: place for place, kind in enumerate(ORDER)}
    held = [rank[name.partition(":")[0]] for name in _held.get()]
    if held and min(rank[name.partition(":")[0]] for name in wanted) <= max(held):
        raise ConflictError(
            f"{wanted[0]} cannot be taken while {_held.get()[-1]} is held:"
            f" leases are taken in the order {', '.join(ORDER)}"
        )


@cache
def _machine() -> str:
    """What processes that can see each other's numbers share: boot and process namespace, else the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - a name such as pid:[4026531836], no path
    except OSError:
        return socket.gethostname()


def this_process() -> str:
    """This process among all that ever were: machine, and when it started (numbers of processes are used again)."""
    return f"{_machine()}/{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When a process of this machine started, in a unit of the machine; "" for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        return _alive_elsewhere(pid)
    except OSError:
        return ""
    # A zombie has ended: nobody has asked for its exit code yet.
    return "" if fields[0] in "ZX" else fields[19]


def _alive_elsewhere(pid: int) -> str:
    """Without /proc it can only be asked whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"
