"""Protocols for systems outside the process. A docstring is the contract; `holdfast.testing` has a suite for each."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from holdfast.backend.records import Freshness, Key, Message, OnlineRow, Stat, Vector

__all__ = ["Blobs", "Clock", "OnlineStore", "Place", "Stream"]


class Clock(Protocol):
    """Tells the time. Everything that needs "now" asks a clock, so that tests can set it."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC; never smaller than an earlier answer of the same clock."""
        ...


class Blobs(Protocol):
    """Content-addressed, immutable bytes. The address is the lower-case SHA-256 in hex of the content.

    A blob is there whole or not at all, also after `kill -9` and a power cut: an address that was returned can be read.
    Putting what is already there only renews `put_at`. All methods are safe in any number of processes at once.
    """

    def put(self, data: bytes) -> str:
        """Store bytes; returns their address."""
        ...

    def put_file(self, path: Path) -> str:
        """Store a copy of a file (which is left alone); returns its address. Memory use does not grow with its size."""
        ...

    def path(self, digest: str) -> Path:
        """A local, read-only file of the content. NotFoundError if absent; IntegrityError when it is no digest."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        ...

    def about(self, digest: str) -> Stat:
        """The blob's size, and when it was last put, also if it was there already. NotFoundError if absent."""
        ...

    def delete(self, digest: str, *, unless_put_since: int | None = None) -> bool:
        """Remove the blob; removing what is absent succeeds. Whether it is gone.

        It stays when it was put at the instant `unless_put_since` or later: whoever puts it while it is being removed
        finds it there afterwards.
        """
        ...

    def __iter__(self) -> Iterator[str]:
        """All addresses, in any order; unfinished puts never show."""
        ...


class Place(Protocol):
    """Somewhere to keep files by name: a folder, or a bucket. Backups and remotes live there.

    A name is one or several words of `a-z A-Z 0-9 . _ -` with `/` between them, none of them beginning with a dot;
    InputError for any other. A file is there whole or not at all, also after `kill -9`. All methods are safe in any
    number of threads and processes at once. UnavailableError when the place cannot be reached, LimitError when it is
    full, FileError when it cannot be written.
    """

    @property
    def url(self) -> str:
        """Where it is, for people, without secrets."""
        ...

    def get(self, name: str) -> bytes:
        """The content of a file; NotFoundError if absent."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path, which must not exist; NotFoundError if absent. Memory does not grow with it."""
        ...

    def put(self, name: str, source: bytes | Path) -> None:
        """Keep bytes, or a copy of a local file, replacing what has the name. Memory does not grow with a file."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep bytes under a name that nobody has: of all who try at once exactly one gets True."""
        ...

    def about(self, name: str) -> Stat | None:
        """A file's size, and when it was put; None if absent."""
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Names (whole) of all files below `folder`, in any order; unfinished ones never show."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; removing what is absent succeeds."""
        ...


class OnlineStore(Protocol):
    """The newest vector of each entity, by feature group, for reading in well under a millisecond.

    A write is all or nothing: also after `kill -9` in its midst a reader sees every vector of the batch or none. The
    newest event time wins, whatever the order of writes; of equal ones the newest `made_at`, of equal ones the last. A
    vector whose time to live is over counts as absent; the store may forget it at any time. Values come back exactly
    as they were given: type (bool, int, float, str), 64-bit integers, NaN, infinities, -0.0, null, any Unicode.
    Groups and keys are any text and any `Key`. All methods are safe in any number of threads and processes at once;
    readers never wait for a writer's batch. Instants are microseconds since 1970 UTC. UnavailableError when the store
    cannot be reached.
    """

    def write(
        self,
        group: str,
        columns: Sequence[str],
        rows: Iterable[OnlineRow],
        *,
        made_at: int,
        ttl: int | None = None,
        origin: str = "",
        replace: bool = False,
    ) -> int:
        """Write a batch of vectors; returns how many of them were not older than what was there.

        A vector expires at its event time + `ttl` (microseconds). `origin` is a short text kept with each. With
        `replace` everything the group held goes away in the same step. InputError names group, entity and column of a
        value that is none of `Value`, or a row of another length than `columns`; then nothing was written.
        """
        ...

    def read(self, group: str, entities: Sequence[Key], now: int) -> list[Vector | None]:
        """The vector of each entity, in their order, as of instant `now`; None where there is none (any more)."""
        ...

    def delete(self, group: str, entities: Sequence[Key]) -> int:
        """Erase entities from a group, all or none; returns how many were there. Nothing of them stays readable."""
        ...

    def drop(self, group: str) -> None:
        """Erase a whole group; dropping what is absent succeeds."""
        ...

    def freshness(self, group: str, now: int) -> Freshness:
        """How much of a group there is and how old it is, as of instant `now`; takes far less than reading it all."""
        ...

    def close(self) -> None:
        """Give back connections; the store can be used again after it."""
        ...


class Stream(Protocol):
    """One topic of messages, and a reader of it as one of a consumer group.

    Messages stay in the order in which they were appended, at least those of one key. Each has an id that no other of
    the topic has, the appender's or, where none was given, one made of its position. A topic is made when it is first
    used, unless its server forbids that. Every message is read at least once by each group: what was read and not
    acknowledged by a reader that was closed, or whose process died, is read again by another reader of the group, at
    the latest after the reader's `patience` (seconds). While a reader lives and acknowledges within that time, no other
    of its group reads the same message. Not for several threads at once. UnavailableError when the server cannot be
    reached, or refuses; then nothing is known of what was under way: repeat it.
    """

    @property
    def url(self) -> str:
        """Where it is, for people, without secrets."""
        ...

    def append(self, messages: Sequence[Message]) -> None:
        """Append messages in this order; they are kept when the call returns. Ids must be given, positions are ignored.

        An id that was appended some minutes ago is left out by servers that can (`testing.streams` says which); by
        others it is appended again, and readers tell by the id.
        """
        ...

    def read(self, count: int, wait: float) -> list[Message]:
        """The next messages, at most `count`; none when none came within `wait` seconds."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """The group is done with these messages, which this reader read."""
        ...

    def lag(self) -> int:
        """How many messages the group has not acknowledged yet, read or not."""
        ...

    def close(self) -> None:
        """Give back connections; what is not acknowledged is left to others of the group."""
        ...
