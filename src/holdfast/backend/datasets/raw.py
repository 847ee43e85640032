"""Raw files: copied as they came into `data/raw/<delivery>/`, all or nothing, and never rewritten."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.backend.layout import Layout
from holdfast.backend.store.files import place, sha256_of_file, write_whole
from holdfast.errors import ConflictError, FileError, InputError

__all__ = ["Kept", "RawFiles", "Staged", "delivery_parts"]

_CHUNK = 1 << 20
_INCOMING = ".incoming-"
_DELIVERY = re.compile(r"(?P<period>[^~]+?)(?:~(?P<number>[1-9]\d*))?")


def delivery_parts(name: str) -> tuple[str, int]:
    """`2016-01~2` as its period and number: ("2016-01", 2); a first delivery has number 1."""
    match = _DELIVERY.fullmatch(name)
    return (match["period"], int(match["number"] or 1)) if match else (name, 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """A delivered file: where it can be read now, where it came from, and its content's hash."""

    path: Path
    given: Path
    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Staged:
    """Files of one delivery before it is published. `folder` is their copy's, or None when they lie in place."""

    files: tuple[Kept, ...]
    folder: Path | None
    delivery: str | None = None


class RawFiles:
    """The folder of raw files. Use it only while the lock of the data is held."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._intent = layout.private / "delivery.intent"

    def stage(self, files: Sequence[Path], period: str) -> Staged:
        """Copy the files next to their later place; files that lie in `data/raw/<period>/` already stay there."""
        if not files:
            raise InputError("no files were given", where={"period": period}, hint="Give the files of the delivery.")
        _distinct(files)
        in_place = self._in_place(files, period)
        if in_place:
            return Staged(tuple(_hashed(file) for file in files), None, in_place)
        folder = self._layout.raw / f"{_INCOMING}{os.getpid()}-{os.urandom(4).hex()}"
        folder.mkdir(parents=True)
        try:
            return Staged(tuple(_copied(file, folder) for file in files), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def discard(self, staged: Staged) -> None:
        """Forget copies that were not published."""
        if staged.folder:
            shutil.rmtree(staged.folder, ignore_errors=True)

    def name(self, staged: Staged, period: str) -> str:
        """The delivery's name: the period, or `<period>~2` ... when other files were delivered under it before."""
        if staged.delivery:
            return staged.delivery
        number = 1
        while True:
            name = period if number == 1 else f"{period}~{number}"
            folder = self._layout.raw / name
            if not folder.exists() or _same(folder, staged):
                return name
            number += 1

    def publish(self, staged: Staged, delivery: str) -> None:
        """Put the copies into their place. Until `settle`, a crash takes them away again (`recover`)."""
        target = self._layout.raw / delivery
        if staged.folder is None or target.exists():
            self.discard(staged)
            return
        intent = json.dumps({"delivery": delivery}, ensure_ascii=False)
        write_whole(self._intent, lambda path: path.write_text(intent, encoding="utf-8"))
        place(staged.folder, target, "raw files")

    def settle(self) -> None:
        """The delivery is committed: its files stay."""
        self._intent.unlink(missing_ok=True)

    def recover(self, deliveries: Callable[[], set[str]]) -> None:
        """Remove what an interrupted import left: copies, and a published folder that none of `deliveries` names.

        They are asked for only where something is left.
        """
        if self._intent.exists():
            try:
                name = json.loads(self._intent.read_text(encoding="utf-8"))["delivery"]
            except (ValueError, KeyError):
                name = None  # damaged from outside: it is written whole before anything is published
            if name and name not in deliveries():
                shutil.rmtree(self._layout.raw / name, ignore_errors=True)
            self._intent.unlink()
        if self._layout.raw.is_dir():
            for folder in self._layout.raw.glob(f"{_INCOMING}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _in_place(self, files: Sequence[Path], period: str) -> str | None:
        raw = self._layout.raw.resolve()
        folders = {file.resolve().parent for file in files}
        if len(folders) != 1:
            return None
        folder = folders.pop()
        return folder.name if folder.parent == raw and delivery_parts(folder.name)[0] == period else None


def _distinct(files: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.name, file)
        if other is not file:
            raise ConflictError(
                f"two files of the delivery are named {file.name!r}",
                where={"file": str(file), "other": str(other)},
                hint="Give each its own name; names are kept.",
            )


def _same(folder: Path, staged: Staged) -> bool:
    there = {path.name: path for path in folder.iterdir()}
    if there.keys() != {file.name for file in staged.files}:
        return False
    return all(there[file.name].is_file() and sha256_of_file(there[file.name]) == file.sha256 for file in staged.files)


def _hashed(path: Path) -> Kept:
    try:
        return Kept(path, path, path.name, sha256_of_file(path), path.stat().st_size)
    except OSError as error:
        raise _unreadable(path, error) from error


def _copied(path: Path, folder: Path) -> Kept:
    hasher, size = hashlib.sha256(), 0
    target = folder / path.name
    try:
        with path.open("rb") as source, target.open("xb") as copy:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                copy.write(chunk)
                size += len(chunk)
            copy.flush()
            os.fsync(copy.fileno())
    except OSError as error:
        raise _unreadable(path, error) from error
    return Kept(target, path, path.name, hasher.hexdigest(), size)


def _unreadable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"the file cannot be read: {error.strerror or error}", where={"file": str(path)}, hint="Check path and rights."
    )
