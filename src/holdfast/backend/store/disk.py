"""What a disk says, in words: no room left, no right to write, not readable."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from holdfast.errors import ConflictError, FileError, HoldfastError, LimitError, LockedError

__all__ = ["disk_errors", "explained"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_SAID = {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
}


@contextmanager
def disk_errors(path: Path, hint: str = "Check path and rights, then repeat.") -> Iterator[None]:
    """Turn an OSError of the block into LimitError (no room left) or FileError, naming the file it is about."""
    try:
        yield
    except OSError as error:
        where = {"file": str(error.filename or path)}
        if error.errno in _FULL:
            raise LimitError(
                "there is no room left on the disk", where=where,
                hint="Make room, or choose another disk, and repeat: what is whole already is not copied again.",
            ) from error  # fmt: skip
        raise FileError(f"the file cannot be used: {error.strerror or error}", where=where, hint=hint) from error


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raise LimitError where the disk is full, ConflictError where it may not be written, LockedError where somebody
    keeps the database from being written for too long; name the file.

    `where` is named when the system names no file. Other errors leave as they are.
    """
    try:
        yield
    except OSError as error:
        said = _explanation(error.errno, str(error.filename or where))
        if said is None:
            raise
        raise said from error
    except sa.exc.OperationalError as error:
        if "database is locked" in str(error.orig):
            raise LockedError(
                "another program holds the metadata database, and did not let go of it", where={"file": where},
                hint="Nothing was changed. Look which one has the file open (a database browser?), then repeat.",
            ) from error  # fmt: skip
        number = next((number for text, number in _SAID.items() if text in str(error.orig)), None)
        said = _explanation(number, where)
        if said is None:
            raise
        raise said from error


def _explanation(number: int | None, file: str) -> HoldfastError | None:
    if number in _FULL:
        return LimitError(
            "there is no room left on the disk",
            where={"file": file},
            hint="Nothing was changed. Make room (holdfast gc), then repeat the command.",
        )
    if number in _FORBIDDEN:
        return ConflictError(
            f"{file} may not be written",
            where={"file": file},
            hint="Nothing was changed. Let this user write there, then repeat the command.",
        )
    return None
