"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["place", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write(scratch)
        place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def place(scratch: Path, path: Path) -> None:
    """Rename `scratch` to `path` such that a power cut leaves the one or the other, whole."""
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
