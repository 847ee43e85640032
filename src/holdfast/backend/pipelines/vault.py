"""Content-addressed files of a place: what backups and remotes are made of.

`<folder>/ab/cdef...` holds a file under its SHA-256, so what is there is never sent again, whatever it is called. What
belongs together (a backup, a remote's state) is listed last, under a name of its own. Backups and remotes have folders
of their own, so that a place may hold both: what one of them forgets, the other keeps.
"""

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.backend.ports import Place
from holdfast.backend.store.disk import disk_errors
from holdfast.backend.store.files import sha256_of, sha256_of_file
from holdfast.errors import FileError, IntegrityError, NotFoundError

__all__ = ["BACKUPS", "PIECE", "REMOTE", "Stored", "Vault", "all_at_once", "scratch_folder"]

BACKUPS = "blobs"
REMOTE = "objects"
"""Folders of the blobs of backups, and of remotes."""
PIECE = 1 << 20
"""Bytes of the pieces that databases are kept in: what did not change since the last backup is not sent again."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in a vault: its hash and size, and the blobs that make it up, in order."""

    sha256: str
    bytes: int
    pieces: tuple[str, ...]

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Stored":
        """Read what `dataclasses.asdict` gave. KeyError or TypeError when it is something else."""
        return Stored(str(data["sha256"]), int(data["bytes"]), tuple(map(str, data["pieces"])))


class Vault:
    """The blobs in one folder of a place. Counts what it sends and what it receives, in bytes."""

    def __init__(self, place: Place, folder: str) -> None:
        self.place = place
        self._folder = folder
        self.sent = self.received = 0
        self._counting = threading.Lock()

    @cached_property
    def known(self) -> set[str]:
        """Digests of all blobs that are there; listed once."""
        return {name.removeprefix(f"{self._folder}/").replace("/", "") for name in self.place.names(self._folder)}

    def keep(self, digest: str, path: Path, what: str) -> None:
        """Keep a file under its recorded digest. FileError or IntegrityError, naming file and `what` it is, when it is
        missing or is not what was recorded.
        """  # fmt: skip
        if digest in self.known:
            return
        with self._readable(path, what):
            found, size = sha256_of_file(path), path.stat().st_size
        if found != digest:
            raise IntegrityError(
                f"{what} is not what was recorded", where={"file": str(path), "recorded": digest, "found": found},
                hint=f"If an earlier backup has it, copy {BACKUPS}/{digest[:2]}/{digest[2:]} of that place over the"
                " file. Else deliver, or train, again what it is of.",
            )  # fmt: skip
        self._send(digest, path, size)

    def keep_bytes(self, data: bytes) -> str:
        """Keep bytes; returns their digest."""
        digest = sha256_of(data)
        if digest not in self.known:
            self._send(digest, data, len(data))
        return digest

    def keep_file(self, path: Path, what: str) -> Stored:
        """Keep a file as it is now, in one piece."""
        with self._readable(path, what):
            digest, size = sha256_of_file(path), path.stat().st_size
        if digest not in self.known:
            self._send(digest, path, size)
        return Stored(digest, size, (digest,))

    def keep_pieces(self, path: Path) -> Stored:
        """Keep a file in pieces."""
        pieces = []
        with disk_errors(path), path.open("rb") as file:
            while piece := file.read(PIECE):
                pieces.append(self.keep_bytes(piece))
        return Stored(sha256_of_file(path), path.stat().st_size, tuple(pieces))

    def read(self, digest: str, what: str) -> bytes:
        """The content of a blob. IntegrityError when it is damaged, NotFoundError when it is gone."""
        try:
            data = self.place.get(self._name(digest))
        except NotFoundError as error:
            raise self._gone(digest, what) from error
        self._received(len(data))
        if sha256_of(data) != digest:
            raise self._damaged(digest, what)
        return data

    def fetch(self, digest: str, path: Path, what: str) -> None:
        """Copy a blob to a local path; errors as of `read`, and then nothing is left there."""
        try:
            self.place.fetch(self._name(digest), path)
            found = sha256_of_file(path)
        except NotFoundError as error:
            raise self._gone(digest, what) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._received(path.stat().st_size)
        if found != digest:
            path.unlink()
            raise self._damaged(digest, what)

    def fetch_file(self, stored: Stored, path: Path, what: str) -> None:
        """Put a file together at a local path, whose folders are made; errors as of `read`."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(stored.pieces) == 1:
                self.fetch(stored.pieces[0], path, what)
            else:
                with path.open("xb") as file:
                    for piece in stored.pieces:
                        file.write(self.read(piece, what))
            if sha256_of_file(path) != stored.sha256:
                raise self._damaged(stored.sha256, what)

    def forget(self, digests: Iterable[str]) -> None:
        """Delete blobs."""
        for digest in digests:
            self.place.delete(self._name(digest))
            self.known.discard(digest)

    def _send(self, digest: str, source: bytes | Path, size: int) -> None:
        self.place.put(self._name(digest), source)
        self.known.add(digest)
        with self._counting:
            self.sent += size

    def _received(self, size: int) -> None:
        with self._counting:
            self.received += size

    @contextmanager
    def _readable(self, path: Path, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileError(
                f"{what} is missing", where={"file": str(path)},
                hint="Put the file back as it was (an earlier backup may have it: holdfast backup list), then repeat.",
            ) from error  # fmt: skip
        except OSError as error:
            raise FileError(
                f"{what} cannot be read: {error.strerror or error}", where={"file": str(path)},
                hint="Check path and rights, then repeat.",
            ) from error  # fmt: skip

    def _name(self, digest: str) -> str:
        return f"{self._folder}/{digest[:2]}/{digest[2:]}"

    def _gone(self, digest: str, what: str) -> NotFoundError:
        return NotFoundError(
            f"{what} is missing there", where={"place": self.place.url, "file": self._name(digest)},
            hint="Somebody deleted it. Use another backup or remote, or make a new one from a project that has it.",
        )  # fmt: skip

    def _damaged(self, digest: str, what: str) -> IntegrityError:
        return IntegrityError(
            f"{what} is damaged there", where={"place": self.place.url, "file": self._name(digest)},
            hint="Delete that file and back up or push again from a project that has it; else use another backup.",
        )  # fmt: skip


def all_at_once(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do the work on all items, some at a time; the first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(work, item) for item in items]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, gone with the block; what a killed process left of it goes first. One at a time may use it."""
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
