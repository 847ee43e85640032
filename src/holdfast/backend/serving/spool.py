"""What a killed process leaves behind: records that were handed over and not yet written where they belong.

A `Spool` is two files of one process, appended to without fsync: what `append` took survives the process, however it
ends, though not a power cut. While one file fills, the records of the other are being written elsewhere; then it is
emptied. The process holds a lock on its files, so that others take over (`leftovers`) only those of a dead one.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

__all__ = ["Record", "Spool", "leftovers"]

Record = tuple[str | int | None, ...]
"""Plain values: what goes into a row of a database."""
_HEAD = 4
_decode = msgspec.msgpack.Decoder(tuple[str | int | None, ...]).decode
_encode = msgspec.msgpack.Encoder().encode


class Spool:
    """The writing end, in the folder `folder`. Not for several threads at once: the caller holds a lock.

    OSError from the constructor and from `append` when the disk refuses; then nothing of the call was taken.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._paths = [folder / f"{token}-{number}" for number in range(2)]
        self._files = [_owned(path) for path in self._paths]
        self._sizes = [0, 0]
        self._active = 0

    def append(self, records: list[Record]) -> None:
        """Take the records, all or none."""
        parts: list[bytes] = []
        for record in records:
            body = _encode(record)
            parts += (len(body).to_bytes(_HEAD, "little"), body)
        data, file, size = b"".join(parts), self._files[self._active], self._sizes[self._active]
        try:
            written = os.write(file, data)
        except OSError:
            os.ftruncate(file, size)
            raise
        if written < len(data):
            os.ftruncate(file, size)
            raise OSError(f"only {written} of {len(data)} bytes could be written")
        self._sizes[self._active] = size + written

    def swap(self) -> None:
        """From now on append to the other file, which must be empty."""
        self._active = 1 - self._active

    def clear(self) -> None:
        """Empty the file that is not appended to: its records are where they belong."""
        self._empty(1 - self._active)

    def _empty(self, index: int) -> None:
        os.ftruncate(self._files[index], 0)
        self._sizes[index] = 0

    def close(self) -> None:
        """Give the files back. What is in them is found by `leftovers`; empty ones are removed."""
        for path, file, size in zip(self._paths, self._files, self._sizes, strict=True):
            if not size:
                path.unlink(missing_ok=True)
            os.close(file)


@contextmanager
def leftovers(folder: Path) -> Iterator[tuple[list[Record], list[Path]]]:
    """The records in the files of dead processes, and the files that hold what is no record.

    At the end of the block, unless it raises, the files are removed; damaged ones are kept as `<name>.damaged`. A
    record that its process had not finished appending was never promised to anybody and is left out. OSError when the
    disk refuses.
    """
    held: list[tuple[Path, int]] = []
    try:
        records: list[Record] = []
        damaged: list[Path] = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            file = None if path.suffix == ".damaged" else _abandoned(path)
            if file is None:
                continue
            held.append((path, file))
            found, whole = _records(path.read_bytes())
            records += found
            if not whole:
                damaged.append(path)
        yield records, damaged
        for path, _ in held:
            if path in damaged:
                path.rename(path.with_name(path.name + ".damaged"))
            else:
                path.unlink()
    finally:
        for _, file in held:
            os.close(file)


def _records(data: bytes) -> tuple[list[Record], bool]:
    """All records, and whether there is nothing else but the beginning of one more."""
    found: list[Record] = []
    place = 0
    while place + _HEAD <= len(data):
        end = place + _HEAD + int.from_bytes(data[place : place + _HEAD], "little")
        if end > len(data):
            break
        try:
            found.append(_decode(data[place + _HEAD : end]))
        except msgspec.DecodeError:
            return found, False
        place = end
    return found, True


def _owned(path: Path) -> int:
    """A new file, open and locked. Whoever looks for leftovers may have removed it before it was locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
