"""Blobs in a bucket, with a local cache: `storage/ab/cdef...` by SHA-256.

Everything is written to the cache first, so that its hash is known and it can be read at once, and then uploaded; the
blob is there when it is in the bucket. What is read is downloaded once, and its hash checked. The cache may be deleted
at any time while no command runs.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.ports import Place
from holdfast.backend.records import Stat
from holdfast.backend.store.files import sha256_of_file
from holdfast.errors import IntegrityError, NotFoundError

__all__ = ["S3Blobs"]

_FOLDER = "storage"
"""Backups and remotes in the same place have folders of their own."""


class S3Blobs:
    """`Blobs` in a place that many computers share; `cache` is a folder of this one."""

    def __init__(self, place: Place, cache: Path) -> None:
        self._place = place
        self._scratch = cache
        self._cache = LocalBlobs(cache)

    def put(self, data: bytes) -> str:
        """Store bytes; returns their address."""
        return self._uploaded(self._cache.put(data))

    def put_file(self, path: Path) -> str:
        """Store a copy of a file; returns its address."""
        return self._uploaded(self._cache.put_file(path))

    def path(self, digest: str) -> Path:
        """The read-only file of the content in the cache."""
        if not self._cache.has(digest):
            self._download(digest)
        return self._cache.path(digest)

    def has(self, digest: str) -> bool:
        """Whether the blob is in the bucket."""
        return self._place.about(self._name(digest)) is not None

    def about(self, digest: str) -> Stat:
        """Its size and when it was put into the bucket."""
        found = self._place.about(self._name(digest))
        if found is None:
            raise NotFoundError("there is no such blob", where={"blob": digest, "place": self._place.url})
        return found

    def delete(self, digest: str, *, unless_put_since: int | None = None) -> bool:
        """Remove the blob, from the cache as well.

        A bucket cannot compare and remove in one step: who puts the blob again between the two requests finds it there
        and then loses it. That is why collecting leaves what was put within the last hour alone, and why `put` looks
        again after it has put what was there.
        """
        found = self._place.about(self._name(digest))
        if found is not None and unless_put_since is not None and found.put_at >= unless_put_since:
            return False
        self._place.delete(self._name(digest))
        self._cache.delete(digest)
        return True

    def __iter__(self) -> Iterator[str]:
        for name in self._place.names(_FOLDER):
            yield name.removeprefix(f"{_FOLDER}/").replace("/", "")

    def _name(self, digest: str) -> str:
        self._cache.has(digest)  # refuses what is no address
        return f"{_FOLDER}/{digest[:2]}/{digest[2:]}"

    def _uploaded(self, digest: str) -> str:
        # What is there is put again: its time is now, then, and collecting leaves it. Seen afterwards, it was not
        # removed in between.
        while True:
            self._place.put(self._name(digest), self._cache.path(digest))
            if self.has(digest):
                return digest

    def _download(self, digest: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="download-") as folder:
            file = Path(folder) / "blob"
            try:
                self._place.fetch(self._name(digest), file)
            except NotFoundError as error:
                raise NotFoundError(
                    "there is no such blob", where={"blob": digest, "place": self._place.url},
                    hint="Restore it from a backup.",
                ) from error  # fmt: skip
            found = sha256_of_file(file)
            if found != digest:
                raise IntegrityError(
                    "a stored blob is not what was written", where={"blob": digest, "place": self._place.url},
                    hint="Restore it from a backup: holdfast backup list",
                )  # fmt: skip
            self._cache.put_file(file)
