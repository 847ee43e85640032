"""Files that are there whole or not at all, and their hashes."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from holdfast.backend.store.crashpoints import crash_point

__all__ = ["place", "sha256_of", "sha256_of_file", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], object], what: str = "") -> None:
    """Let `write` make a file beside `path`, then put it in its place: readers see the old file or the new one.

    `what` names the crash point, by default after the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        write(scratch)
        place(scratch, path, what)
    finally:
        scratch.unlink(missing_ok=True)


def place(scratch: Path, path: Path, what: str = "") -> None:
    """Rename a file or folder to `path` such that a power cut leaves the one or the other, whole.

    `what` names the crash point, by default after the file.
    """
    _sync(scratch)
    crash_point(f"rename {what or path.name}: before")
    scratch.replace(path)
    crash_point(f"rename {what or path.name}: after")
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(data: bytes) -> str:
    """The lower-case hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The lower-case hex SHA-256 of a file's content, read in pieces. OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
