"""Files that are there whole or not at all, their hashes, and names that every file system takes."""

import hashlib
import os
import secrets
import urllib.parse
from collections.abc import Callable
from pathlib import Path

__all__ = ["place", "safe_name", "sha256_of", "sha256_of_file", "write_whole"]

_UNSAFE = set('/\\:*?"<>|%')


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        write(scratch)
        place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def place(scratch: Path, path: Path) -> None:
    """Rename a file or folder to `path` such that a power cut leaves the one or the other, whole."""
    _sync(scratch)
    scratch.replace(path)
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


def safe_name(name: str) -> str:
    """A name as a file name: what some system forbids is percent-encoded (`urllib.parse.unquote` undoes it)."""
    safe = "".join(urllib.parse.quote(c, safe="") if c in _UNSAFE or ord(c) < 32 else c for c in name)
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe
