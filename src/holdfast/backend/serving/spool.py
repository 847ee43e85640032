"""What a killed process leaves behind: records that were handed over and not yet written where they belong.

A `Spool` is two files of one process, mapped into its memory: what `append` took survives the process, however it
ends, though not a power cut. While one file fills, the records of the other are being written elsewhere; then it is
emptied. What a file holds between two emptyings is a *generation* with a name of its own, so that whoever takes over
can tell whether it was written already. The process holds a lock on its files, so that others take over
(`leftovers`) only those of a dead one.

A file is the name, then records, each behind its length; a length of zero, or the file's end, ends them. The length of
the first record of an `append` is written last, so that all of its records are there or none.
"""

import fcntl
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Generation", "Spool", "framed", "leftovers", "unframed", "waiting"]

_HEAD = 4
_NAME = 32
_END = bytes(_HEAD)
_ROOM, _KEPT = 1 << 20, 16 << 20
"""Bytes of a file at first, and what it keeps when it is emptied: to grow costs a page fault for every page."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a file held: its name ("" when it has none that could be read) and the records, framed."""

    name: str
    data: bytes
    path: Path


def framed(records: Iterable[bytes]) -> bytes:
    """Records put together, each behind its length."""
    parts: list[bytes] = []
    for record in records:
        parts += (len(record).to_bytes(_HEAD, "little"), record)
    return b"".join(parts)


def unframed(data: bytes) -> Iterator[bytes]:
    """The records in framed ones put together; ends before one that is cut short, or has no length."""
    place = 0
    while data[place : place + _HEAD] > _END:
        end = place + _HEAD + int.from_bytes(data[place : place + _HEAD], "little")
        if end > len(data):
            return
        yield data[place + _HEAD : end]
        place = end


class Spool:
    """The writing end, in the folder `folder`. Not for several threads at once: the caller holds a lock.

    OSError from the constructor, `append`, `swap` and `rewrite` when the disk refuses; then nothing of the call was
    taken.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._files = [_File(folder / f"{token}-{number}") for number in range(2)]
        self._active = self._files[0]

    @property
    def generation(self) -> str:
        """The name of what is being appended to."""
        return self._active.name

    def append(self, data: bytes) -> None:
        """Take framed records, all or none."""
        self._active.append(data)

    def records(self, name: str) -> memoryview:
        """The framed records of generation `name`; to be released before its file is appended to or emptied."""
        return self._file(name).records()

    def swap(self) -> None:
        """From now on append to the other file, which must be empty, as a new generation."""
        self._active = self._other

    def clear(self) -> None:
        """Empty the file that is not appended to: its records are where they belong."""
        self._other.empty()

    def rewrite(self, name: str, data: bytes) -> None:
        """Let the file of generation `name` hold just these framed records."""
        file = self._file(name)
        file.empty(name)
        file.append(data)

    def close(self) -> None:
        """Give the files back. What is in them is found by `leftovers`; empty ones are removed."""
        for file in self._files:
            file.close()

    def _file(self, name: str) -> "_File":
        (file,) = (file for file in self._files if file.name == name)
        return file

    @property
    def _other(self) -> "_File":
        return self._files[self._active is self._files[0]]


class _File:
    """One of the two. `name` is its generation's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _owned(path)
        # Blocks of its own, no hole: to write into a hole of a mapping kills the process when the disk is full.
        os.posix_fallocate(self._file, 0, _ROOM)
        self._map = mmap.mmap(self._file, _ROOM)
        self._end = _NAME
        self.name = ""
        self.empty()

    def append(self, data: bytes) -> None:
        if not data:
            return
        start, end = self._end, self._end + len(data)
        if end + _HEAD > len(self._map):
            room = 2 * (end + _HEAD)
            os.posix_fallocate(self._file, 0, room)
            self._map.resize(room)
        self._map[start + _HEAD : end + _HEAD] = data[_HEAD:] + _END
        self._map[start : start + _HEAD] = data[:_HEAD]
        self._end = end

    def records(self) -> memoryview:
        return memoryview(self._map)[_NAME : self._end]

    def empty(self, name: str | None = None) -> None:
        """Hold nothing any more, as the generation `name`; a new one by default."""
        self._map[_NAME : _NAME + _HEAD] = _END
        if len(self._map) > _KEPT:
            self._map.resize(_KEPT)
        self.name = name or secrets.token_hex(_NAME // 2)
        self._map[:_NAME] = self.name.encode()
        self._end = _NAME

    def close(self) -> None:
        self._map.close()
        if self._end == _NAME:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


@contextmanager
def leftovers(folder: Path) -> Iterator[tuple[list[Generation], set[Path]]]:
    """What is in the files of dead processes, and a set for the paths of those that turn out to be damaged.

    At the end of the block, unless it raises, the files are removed; damaged ones are kept as `<name>.damaged`. A
    record that its process had not finished appending was never promised to anybody and is left out. OSError when the
    disk refuses.
    """
    held: list[int] = []
    try:
        found: list[Generation] = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            file = None if path.suffix == ".damaged" else _abandoned(path)
            if file is not None:
                held.append(file)
                found.append(_generation(path))
        damaged = {one.path for one in found if not one.name and one.data}
        yield found, damaged
        for one in found:
            if one.path in damaged:
                one.path.rename(one.path.with_name(one.path.name + ".damaged"))
            else:
                one.path.unlink()
    finally:
        for file in held:
            os.close(file)


def waiting(folder: Path) -> set[str]:
    """The names of the generations that are in files now, of living processes and of dead ones."""
    found = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix != ".damaged":
            with suppress(FileNotFoundError), path.open("rb") as file:
                name, first = file.read(_NAME), file.read(_HEAD)
                if first > _END:
                    found.add(name.decode("ascii", "replace"))
    return found


def _generation(path: Path) -> Generation:
    data = path.read_bytes()
    name, rest = data[:_NAME], data[_NAME:]
    if not set(name) <= set(b"0123456789abcdef"):
        return Generation("", data.rstrip(b"\0"), path)
    whole = sum(_HEAD + len(record) for record in unframed(rest))
    return Generation(name.decode() if whole else "", rest[:whole], path)


def _owned(path: Path) -> int:
    """A new file, open and locked. Whoever looks for leftovers may have removed it before it was locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def _abandoned(path: Path) -> int | None:
    """The file, open and locked, if no living process holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    if not os.fstat(file).st_nlink:
        os.close(file)
        return None
    return file
