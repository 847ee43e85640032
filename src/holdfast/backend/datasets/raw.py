"""Raw files: copied as they came into `data/raw/<delivery>/`, all or nothing, and never rewritten."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from holdfast.backend.datasets import tables as rows_of
from holdfast.backend.layout import Layout
from holdfast.backend.store import Store
from holdfast.backend.store.files import place, sha256_of_file, write_whole
from holdfast.errors import ConflictError, FileError, HoldfastError, InputError

__all__ = ["INCOMING", "INTENTS", "Kept", "RawFiles", "Staged", "delivery_begun", "delivery_parts"]

_CHUNK = 1 << 20
INCOMING = ".incoming-"
"""How the names of folders under `data/raw` begin that hold copies on their way."""
INTENTS = "delivery*.intent"
"""Notes of what is about to be published, in `.holdfast`."""
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
    """The folder of raw files, for one block that holds the lease of the data (`Datasets.changing`).

    A block may have lost the lease without knowing it (its process was stopped) and go on beside its successor. So the
    copies and the note of each block bear a token of its own, who lost the lease takes away only what is its own, and a
    published folder is emptied as the folder that was looked at while the lease was held, not by its name.
    """

    def __init__(self, layout: Layout, store: Store) -> None:
        self._layout = layout
        self._store = store
        self._token = secrets.token_hex(6)
        self._intent = layout.private / f"delivery-{self._token}.intent"

    def stage(self, files: Sequence[Path], period: str) -> Staged:
        """Copy the files next to their later place; files that lie in `data/raw/<period>/` already stay there."""
        if not files:
            raise InputError("no files were given", where={"period": period}, hint="Give the files of the delivery.")
        _distinct(files)
        in_place = self._in_place(files, period)
        if in_place:
            return Staged(tuple(_hashed(file) for file in files), None, in_place)
        folder = self._layout.raw / f"{INCOMING}{self._token}-{secrets.token_hex(4)}"
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
        """Put the copies into their place. Until `settle`, a crash takes them away again (`recover`).

        LockedError when the lease was lost; ConflictError when other files came into that place meanwhile.
        """
        target = self._layout.raw / delivery
        if staged.folder is None:
            return
        with self._store.write("publish raw files"):
            pass  # refuses who has lost the lease
        if not target.exists() and self._placed(staged.folder, target):
            return
        if not _same(target, staged):
            raise ConflictError(
                "other files came into the place of the delivery",
                where={"delivery": delivery, "folder": str(target)},
                hint="Nothing was changed; repeat it.",
            )
        self.discard(staged)

    def settle(self) -> None:
        """The delivery is committed: its files stay."""
        self._intent.unlink(missing_ok=True)

    def recover(self) -> None:
        """Remove what interrupted imports left: copies, and published folders that no version names.

        LockedError when the lease was lost.
        """
        raw = self._layout.raw
        self._clear(list(raw.glob(f"{INCOMING}*")) if raw.is_dir() else [], list(self._layout.private.glob(INTENTS)))

    def abandon(self) -> None:
        """At the end of the block, remove what was not committed: of its own, and of late ones while the lease is held.

        Where that cannot be done (the lease or the database is lost), the next change does it.
        """
        for folder in self._layout.raw.glob(f"{INCOMING}{self._token}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(HoldfastError, sa.exc.DBAPIError):
            self.recover()

    def _placed(self, folder: Path, target: Path) -> bool:
        """Put a folder into its place, with a note that it is not committed; False where the place was taken now."""
        intent = json.dumps({"delivery": target.name}, ensure_ascii=False)
        write_whole(self._intent, lambda path: path.write_text(intent, encoding="utf-8"), "delivery.intent")
        try:
            place(folder, target, "raw files")
        except OSError:
            if not target.is_dir():
                raise
            return False
        return True

    def _clear(self, copies: Sequence[Path], intents: Sequence[Path]) -> None:
        if not copies and not intents:
            return
        with ExitStack() as opened:
            published = {}
            for intent in intents:
                if name := delivery_begun(intent):
                    with suppress(FileNotFoundError):
                        published[name] = os.open(self._layout.raw / name, os.O_RDONLY | os.O_DIRECTORY)
                        opened.callback(os.close, published[name])
            # Whoever holds the lease here, after the looking, has looked at what others before it left.
            with self._store.write("clear raw files") as connection:
                committed = {file.delivery for file in rows_of.files_of(connection, None)} if published else set()
            for folder in copies:
                shutil.rmtree(folder, ignore_errors=True)
            for name, handle in published.items():
                if name not in committed:
                    _remove(self._layout.raw / name, handle)
            for intent in intents:
                intent.unlink(missing_ok=True)

    def _in_place(self, files: Sequence[Path], period: str) -> str | None:
        raw = self._layout.raw.resolve()
        folders = {file.resolve().parent for file in files}
        if len(folders) != 1:
            return None
        folder = folders.pop()
        return folder.name if folder.parent == raw and delivery_parts(folder.name)[0] == period else None


def delivery_begun(intent: Path) -> str | None:
    """The delivery that a note tells was about to be published; None where the note is gone or cannot be read."""
    try:
        return str(json.loads(intent.read_text(encoding="utf-8"))["delivery"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged from outside: it is written whole before anything is published


def _remove(folder: Path, handle: int) -> None:
    """Remove the files of the open folder, and the folder where its name is still its own."""
    for name in os.listdir(handle):
        with suppress(OSError):
            os.unlink(name, dir_fd=handle)
    with suppress(OSError):  # not empty: the name is another's now
        folder.rmdir()


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
