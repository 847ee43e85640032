"""A bucket of S3, or of what speaks it, as a `Place` (extra `s3`).

`s3://bucket/folder?endpoint=http://host:9000&region=eu-west-1`; what the URL does not say is read from AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN ..., or from the role of the machine. A put is atomic by
S3's own promise; `put_new` is a conditional write (If-None-Match).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from holdfast.backend.adapters.placenames import checked
from holdfast.backend.records import Stat
from holdfast.backend.store.crashpoints import crash_point
from holdfast.backend.store.disk import disk_errors
from holdfast.errors import ConfigError, MissingExtraError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["S3Place"]

_PIECE = 8 << 20
_KEYS = {"endpoint", "region"}
_PATIENCE = timedelta(seconds=30)
"""A server that restarts is waited for; one that is gone is told of before people give up."""


class S3Place:
    """`Place` in a bucket, below a folder of it. ConfigError when the URL says what is not known."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._bucket, self._folder = parts.netloc, parts.path.strip("/")
        self._options = dict(parse_qsl(parts.query))
        if not self._bucket or "@" in self._bucket:  # never repeated: it may hold a secret
            raise ConfigError(
                "the URL of a bucket names no bucket" if not self._bucket else "the URL of a bucket holds credentials",
                hint="It is s3://bucket/folder. Credentials: AWS_ACCESS_KEY_ID and the like.",
            )
        if unknown := sorted(set(self._options) - _KEYS):
            raise ConfigError(
                f"{unknown[0]!r} is nothing that the URL of a bucket can say", where={"url": self.url},
                hint=f"It can say: {', '.join(sorted(_KEYS))}. Credentials: AWS_ACCESS_KEY_ID and the like.",
            )  # fmt: skip

    @property
    def url(self) -> str:
        """Bucket and folder, endpoint and region."""
        query = f"?{urlencode(self._options, safe=':/')}" if self._options else ""
        return f"s3://{self._bucket}/{self._folder}".rstrip("/") + query

    @cached_property
    def _store(self) -> "S3Store":
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "S3 needs a library that is not installed", hint='Install it with: pip install "holdfast[s3]"'
            ) from error
        given: dict[str, Any] = dict(self._options)
        plain = self._options.get("endpoint", "").startswith("http://")
        return S3Store(
            self._bucket,
            prefix=self._folder or None,
            client_options={"allow_http": plain, "connect_timeout": timedelta(seconds=10), "timeout": "120s"},
            retry_config={"max_retries": 5, "retry_timeout": _PATIENCE},
            **given,
        )

    def get(self, name: str) -> bytes:
        """The content of a file."""
        import obstore

        with self._told(name):
            return bytes(obstore.get(self._store, checked(name)).bytes())

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path, piece by piece."""
        import obstore

        with self._told(name):
            answer = obstore.get(self._store, checked(name))
        with disk_errors(path), path.open("xb") as file, self._told(name):
            for piece in answer.stream(_PIECE):
                file.write(piece)

    def put(self, name: str, source: bytes | Path) -> None:
        """Keep bytes, or a copy of a local file; a large one goes in pieces."""
        import obstore

        with self._told(name):
            crash_point("upload: before")
            obstore.put(self._store, checked(name), source, chunk_size=_PIECE, max_concurrency=2)
            crash_point("upload: after")

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep bytes under a new name."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._told(name):
            crash_point("upload new: before")
            try:
                obstore.put(self._store, checked(name), data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            crash_point("upload new: after")
        return True

    def about(self, name: str) -> Stat | None:
        """A file's size, and when it was put, in whole seconds."""
        import obstore

        try:
            with self._told(name):
                said = obstore.head(self._store, checked(name))
        except NotFoundError:
            return None
        return Stat(said["size"], round(said["last_modified"].timestamp() * 1_000_000))

    def names(self, folder: str) -> Iterator[str]:
        """Names of all files below `folder`."""
        import obstore

        with self._told(folder):
            for page in obstore.list(self._store, prefix=f"{checked(folder)}/"):
                for item in page:
                    yield item["path"]

    def delete(self, name: str) -> None:
        """Remove a file."""
        import obstore

        try:
            with self._told(name):
                crash_point("delete upload: before")
                obstore.delete(self._store, checked(name))
                crash_point("delete upload: after")
        except NotFoundError:
            return

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Say what the bucket said in our words."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
        from obstore.exceptions import NotFoundError as Absent

        where = {"place": self.url, "file": name}
        try:
            yield
        except (Absent, FileNotFoundError) as error:  # obstore raises the one or the other
            if "NoSuchBucket" in str(error):
                raise ConfigError(f"there is no bucket {self._bucket}", where=where, hint="Make it first.") from error
            raise NotFoundError("there is no such file", where=where) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise ConfigError(
                f"the bucket {self._bucket} does not let us: {_first_line(error)}", where=where,
                hint="Look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the rights of that key.",
            ) from error  # fmt: skip
        except BaseError as error:
            raise UnavailableError(
                f"the bucket {self._bucket} cannot be used: {_first_line(error)}", where=where,
                hint="Is the endpoint right, and the server up? Then repeat: what is whole already stays.",
            ) from error  # fmt: skip


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
