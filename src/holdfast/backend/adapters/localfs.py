"""Blobs in a folder: `ab/cdef...` by SHA-256."""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from holdfast.backend.records import Stat
from holdfast.backend.store.files import place, sha256_of
from holdfast.errors import IntegrityError, NotFoundError

__all__ = ["LocalBlobs"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
_TEMPORARY = "tmp"


class LocalBlobs:
    """`Blobs` under one folder: temp -> fsync -> rename -> fsync of the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY
        self._temporary.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store bytes; returns their address."""
        digest = sha256_of(data)
        if not self._renewed(digest):
            with self._scratch() as (file, scratch):
                file.write(data)
                self._publish(file, scratch, digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a copy of a file; returns its address."""
        hasher = hashlib.sha256()
        with path.open("rb") as source, self._scratch() as (file, scratch):
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                file.write(chunk)
            self._publish(file, scratch, hasher.hexdigest())
        return hasher.hexdigest()

    def path(self, digest: str) -> Path:
        """The read-only file of the content."""
        path = self._place(digest)
        if not path.is_file():
            raise NotFoundError("there is no such blob", where={"blob": digest}, hint="Restore it from a backup.")
        return path

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._place(digest).is_file()

    def about(self, digest: str) -> Stat:
        """Its size and when it was put."""
        stat = self.path(digest).stat()
        return Stat(stat.st_size, stat.st_mtime_ns // 1000)

    def delete(self, digest: str, *, unless_put_since: int | None = None) -> bool:
        """Remove the blob, if it is there and was not put since."""
        path = self._place(digest)
        with self._turn(fcntl.LOCK_EX):
            try:
                if unless_put_since is not None and path.stat().st_mtime_ns // 1000 >= unless_put_since:
                    return False
            except FileNotFoundError:
                return True
            path.unlink(missing_ok=True)
        return True

    def __iter__(self) -> Iterator[str]:
        for folder in sorted(self._root.iterdir()):
            if len(folder.name) == 2 and folder.is_dir():
                for file in sorted(folder.iterdir()):
                    if _DIGEST.fullmatch(folder.name + file.name):
                        yield folder.name + file.name

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise IntegrityError(f"{digest!r} is no address of a blob")
        return self._root / digest[:2] / digest[2:]

    def _renewed(self, digest: str) -> bool:
        """Whether the blob is there; its time is now, then."""
        with self._turn(fcntl.LOCK_SH):
            try:
                os.utime(self._place(digest))
            except OSError:  # absent, or somebody else's: it is written anew
                return False
        return True

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        """Between looking at a blob's time and removing it nobody renews it."""
        handle = os.open(self._temporary / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _scratch(self) -> Iterator[tuple[IO[bytes], Path]]:
        """A temporary file that is gone when the block ends, unless it was published."""
        handle, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _publish(self, file: IO[bytes], scratch: Path, digest: str) -> None:
        file.flush()
        target = self._place(digest)
        target.parent.mkdir(exist_ok=True)
        scratch.chmod(0o444)
        with self._turn(fcntl.LOCK_SH):
            place(scratch, target, "blob")
