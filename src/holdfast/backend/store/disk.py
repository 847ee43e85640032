"""What a disk says, in words: no room left, no right to write, not readable."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import FileError, LimitError

__all__ = ["disk_errors"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
