"""A folder as a `Place`: a disk, a stick, a network share."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from holdfast.backend.adapters.placenames import checked
from holdfast.backend.records import Stat
from holdfast.backend.store.crashpoints import crash_point
from holdfast.backend.store.disk import disk_errors
from holdfast.backend.store.files import place
from holdfast.errors import NotFoundError

__all__ = ["FolderPlace"]

_SCRATCH = ".new-"
"""Begins the name of a file that is not whole yet; no name of a place begins with a dot."""


class FolderPlace:
    """`Place` in a folder, which is made at the first put: temp -> fsync -> rename -> fsync of the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._root)

    def get(self, name: str) -> bytes:
        """The content of a file."""
        path = self._path(name)
        with disk_errors(path):
            return self._existing(path).read_bytes()

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path."""
        source = self._path(name)
        with disk_errors(path), self._existing(source).open("rb") as file, path.open("xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)

    def put(self, name: str, source: bytes | Path) -> None:
        """Keep bytes, or a copy of a local file."""
        target = self._path(name)
        with disk_errors(target):
            scratch = self._scratch(target, source)
            try:
                place(scratch, target, "kept file")
            finally:
                scratch.unlink(missing_ok=True)

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep bytes under a new name: a hard link is made by one only."""
        target = self._path(name)
        with disk_errors(target, "The folder must be on a file system that knows hard links."):
            scratch = self._scratch(target, data)
            try:
                with scratch.open("rb") as file:
                    os.fsync(file.fileno())
                crash_point("link new file: before")
                target.hardlink_to(scratch)
                crash_point("link new file: after")
            except FileExistsError:
                return False
            finally:
                scratch.unlink(missing_ok=True)
            return True

    def about(self, name: str) -> Stat | None:
        """A file's size, and when it was put."""
        path = self._path(name)
        if not path.is_file():
            return None
        stat = path.stat()
        return Stat(stat.st_size, stat.st_mtime_ns // 1000)

    def names(self, folder: str) -> Iterator[str]:
        """Names of all files below `folder`."""
        start = self._path(folder)
        with disk_errors(start):
            for path in sorted(start.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(self._root).as_posix()

    def delete(self, name: str) -> None:
        """Remove a file."""
        path = self._path(name)
        with disk_errors(path):
            crash_point("delete kept file: before")
            path.unlink(missing_ok=True)
            crash_point("delete kept file: after")

    def _path(self, name: str) -> Path:
        return self._root / checked(name)

    def _existing(self, path: Path) -> Path:
        if not path.is_file():
            raise NotFoundError("there is no such file", where={"file": str(path)})
        return path

    def _scratch(self, target: Path, source: bytes | Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{_SCRATCH}{secrets.token_hex(8)}")
        try:
            if isinstance(source, bytes):
                scratch.write_bytes(source)
            else:
                shutil.copyfile(source, scratch)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        return scratch
