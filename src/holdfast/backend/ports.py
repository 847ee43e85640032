"""Protocols for systems outside the process. A docstring is the contract; `holdfast.testing` has a suite for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

__all__ = ["Blobs", "Clock"]


class Clock(Protocol):
    """Tells the time. Everything that needs "now" asks a clock, so that tests can set it."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC; never smaller than an earlier answer of the same clock."""
        ...


class Blobs(Protocol):
    """Content-addressed, immutable bytes. The address is the lower-case SHA-256 in hex of the content.

    A blob is there whole or not at all, also after `kill -9` and a power cut: an address that was returned can be read.
    Putting what is already there does nothing and succeeds. All methods are safe in any number of processes at once.
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

    def delete(self, digest: str) -> None:
        """Remove the blob; removing what is absent succeeds."""
        ...

    def __iter__(self) -> Iterator[str]:
        """All addresses, in any order; unfinished puts never show."""
        ...
