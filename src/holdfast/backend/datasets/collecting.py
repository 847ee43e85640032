"""Retention by reachability: what nothing refers to goes, and only that.

A blob is referred to when a version that is there lists it, or when its hash stands in any row of any table of the
metadata database: models, matrices, materialisations, checkpoints, jobs that are not done, and whatever comes later. A
version is referred to likewise, by its id. The histories of pointers and the audit log tell of the past and hold
nothing.

A writer may at any time use a blob again that nothing refers to *yet*. So nothing goes that was put within the last
`grace`, or since the oldest work under way took its lease: putting renews a blob's time, and a blob is only deleted if
its time is still the old one. Data versions are safe beyond that: they are written under the lease that collecting
holds.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast.backend.datasets import tables as rows_of
from holdfast.backend.datasets.refs import tips
from holdfast.backend.datasets.repository import Datasets
from holdfast.backend.datasets.tables import COMPACT, WHOLE
from holdfast.backend.ports import Blobs
from holdfast.backend.store import Audit, Leases, Store, crash_point
from holdfast.core.timeline import SECOND
from holdfast.errors import InputError, NotFoundError

__all__ = ["GRACE", "Collected", "Gone", "GoneVersion", "collect"]

GRACE = 3600 * SECOND
"""How long a blob stays that nothing refers to (yet), in microseconds."""
_OWN = {"datasets", "dataset_parts", "dataset_files", "dataset_taken_files"}
_PAST = {"audit", "pointer_moves", "alembic_version", "leases"}
_TOKEN = re.compile(r"data_[0-9a-f]+|[0-9a-f]{64}")
_NUMBER = re.compile(r"\bv\d+\.\d+\b")
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Gone:
    """A blob that goes, and why."""

    blob: str
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class GoneVersion:
    """A version that goes, and why. Its record stays, as the parent of others."""

    version: str
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What went (with `dry_run`: would go). `young` blobs, that nothing refers to, were put too lately to tell."""

    dry_run: bool
    versions: tuple[GoneVersion, ...]
    blobs: tuple[Gone, ...]
    young: int
    kept: int

    @property
    def bytes(self) -> int:
        """How much is freed."""
        return sum(blob.bytes for blob in self.blobs)


def collect(
    datasets: Datasets,
    store: Store,
    blobs: Blobs,
    *,
    keep: int | None = None,
    grace: int = GRACE,
    dry_run: bool = False,
) -> Collected:
    """Delete blobs that nothing refers to; with `keep`, first give up versions that nothing refers to.

    `keep` is how many of the newest versions of each branch stay in any case; without it every version stays. `grace`
    is in microseconds. What a crash leaves undone, the next run does.
    """
    if keep is not None and keep < 1:
        raise InputError("at least the newest version of each branch is kept", hint="Give --keep 1 or more.")
    with datasets.changing("collect"):
        with store.read() as connection:
            world = _World(connection)
            versions = world.unwanted(keep) if keep is not None else []
            needed = world.needed({one.id for one in versions})
        if versions and not dry_run:
            versions, needed = _give_up(datasets, store, keep)
        since = _since(datasets, store, grace)
        there = list(blobs)
        unwanted = [digest for digest in there if digest not in needed]
        found = list(_look(blobs, unwanted, world.parts))
        old = [one for one, put_at in found if put_at < since]
        if not dry_run:
            old = list(_delete(datasets, store, blobs, old, grace))
            datasets.parts.forget({one.blob for one in old})
    return Collected(dry_run, tuple(versions), tuple(old), len(found) - len(old), len(there) - len(unwanted))


def _give_up(datasets: Datasets, store: Store, keep: int | None) -> tuple[list[GoneVersion], set[str]]:
    """Mark versions as collected, by what refers to them in this very transaction."""
    with store.write("collect versions") as connection:
        world = _World(connection)
        versions = world.unwanted(keep or 1)
        ids, now = {one.id for one in versions}, datasets.now()
        table = rows_of.datasets
        connection.execute(table.update().where(table.c.id.in_(ids)).values(collected_at=now))
        details = {"versions": [one.version for one in versions], "keep": keep}
        Audit(connection).append("collect", "dataset versions", at=now, details=details)
        return versions, world.needed(ids)


def _look(blobs: Blobs, digests: Iterable[str], parts: dict[str, str]) -> Iterator[tuple[Gone, int]]:
    for digest in digests:
        try:
            size, put_at = blobs.about(digest)
        except (NotFoundError, FileNotFoundError):
            continue
        what = parts.get(digest)
        why = f"{what}; every version that lists it was collected" if what else "nothing refers to it"
        yield Gone(digest, size, why), put_at


def _delete(datasets: Datasets, store: Store, blobs: Blobs, going: list[Gone], grace: int) -> Iterator[Gone]:
    """Delete in write transactions, in which nobody else can begin to refer to anything; looked at again in each."""
    for start in range(0, len(going), _BATCH):
        with store.write("collect blobs") as connection:
            needed, since = _World(connection).needed(set()), _since(datasets, store, grace)
            gone = []
            for one in going[start : start + _BATCH]:
                crash_point("delete blob: before")
                if one.blob not in needed and blobs.delete(one.blob, unless_put_since=since):
                    gone.append(one)
                crash_point("delete blob: after")
            details = {"blobs": [one.blob for one in gone], "bytes": sum(one.bytes for one in gone)}
            Audit(connection).append("collect", "blobs", at=datasets.now(), details=details)
        yield from gone


def _since(datasets: Datasets, store: Store, grace: int) -> int:
    """What was put at this instant or later may be about to be referred to."""
    # Stamps of files lag a little behind the clock; those of object stores are whole seconds.
    # The job that collects puts nothing itself.
    others = [
        holder
        for holder in Leases(store, datasets.clock).holders()
        if holder.name != "data" and not (holder.name.startswith("job:") and holder.doing.startswith("collect "))
    ]
    under_way = [holder.since - SECOND for holder in others]
    return min([datasets.now() - grace, *under_way])


class _World:
    """What refers to what, in one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        table = rows_of.datasets
        self._connection = connection
        self._rows = {row.id: row for row in connection.execute(sa.select(table))}
        self._tokens, self._numbers = _referred(connection)
        self._tips = tips(connection)
        listed = connection.execute(rows_of.every_part())
        self._added: dict[str, set[str]] = {}
        self.parts: dict[str, str] = {}
        for row in listed:
            self._added.setdefault(row.dataset, set()).add(row.digest)
            self.parts[row.digest] = f"a part of table {row.table}"
        self.parts |= {row.quarantine: "rows in quarantine" for row in self._rows.values() if row.quarantine}

    def needed(self, going: set[str]) -> set[str]:
        """The blobs that must stay when the versions `going` are given up, too."""
        live = {one for one, row in self._rows.items() if row.collected_at is None and one not in going}
        found = {token for token in self._tokens if not token.startswith("data_")}
        seen: set[str] = set()
        for one in live:
            step: str | None = one
            while step is not None and step not in seen:
                seen.add(step)
                found |= self._added.get(step, set())
                step = self._rows[step].base if self._rows[step].manifest not in (WHOLE, COMPACT) else None
        for one in self._ancestors(live):
            if self._rows[one].quarantine:
                found.add(self._rows[one].quarantine)
        return found

    def unwanted(self, keep: int) -> list[GoneVersion]:
        """Versions that nothing refers to, but the newest `keep` of each branch."""
        stay = {token for token in self._tokens if token in self._rows}
        stay |= {one for one, row in self._rows.items() if row.version in self._numbers}
        lines = {name: self._line(tip) for name, tip in self._tips.items()}
        for line in lines.values():
            stay |= set(line[:keep])
        # A merge of two branches needs the version that they parted at.
        places = {row.id: place for place, row in enumerate(rows_of.in_order(self._rows.values()))}
        for one in self._tips.values():
            for other in self._tips.values():
                common = self._ancestors([one]) & self._ancestors([other])
                stay |= {max(common, key=places.__getitem__)} if common else set()
        why = f"not among the newest {keep} of a branch, and nothing refers to it"
        rows = [row for one, row in self._rows.items() if row.collected_at is None and one not in stay]
        return [GoneVersion(row.version, row.id, why) for row in sorted(rows, key=lambda row: self._number(row.id))]

    def _line(self, tip: str) -> list[str]:
        """A branch's versions, newest first."""
        found = []
        step: str | None = tip
        while step is not None and step in self._rows:
            found.append(step)
            step = self._rows[step].base
        return found

    def _number(self, one: str) -> tuple[int, int]:
        return self._rows[one].major, self._rows[one].minor

    def _ancestors(self, versions: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(versions)
        while waiting:
            one = waiting.pop()
            if one in self._rows and one not in found:
                found.add(one)
                waiting += json.loads(self._rows[one].parents)
        return found


def _referred(connection: sa.Connection) -> tuple[set[str], set[str]]:
    """Every id of a version and every hash in any table of the database, and numbers of versions that jobs name."""
    everything = sa.MetaData()
    everything.reflect(connection)
    tokens: set[str] = set()
    numbers: set[str] = set()
    for table in everything.tables.values():
        if table.name in _OWN | _PAST:
            continue
        for text in _texts(connection, table, everything):
            tokens |= set(_TOKEN.findall(text))
            if table.name == "jobs":
                numbers |= set(_NUMBER.findall(text))
    return tokens, numbers


def _texts(connection: sa.Connection, table: sa.Table, everything: sa.MetaData) -> Iterator[str]:
    columns = [sa.cast(c, sa.Text) for c in table.columns if isinstance(c.type, sa.String | sa.JSON)]
    if not columns:
        return
    query: Any = sa.select(*columns)
    if table.name == "jobs":
        query = query.where(table.c.ended_at.is_(None))
    elif table.name == "job_steps":
        jobs = everything.tables["jobs"]
        query = query.join(jobs, jobs.c.id == table.c.job).where(jobs.c.ended_at.is_(None))
    for row in connection.execute(query):
        yield " ".join(value for value in row if value)
