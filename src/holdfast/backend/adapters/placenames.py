"""Which names files of a `Place` may have: the same on every file system and in every bucket."""

import re

from holdfast.errors import InputError

__all__ = ["checked"]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def checked(name: str) -> str:
    """`name`, if it may be one; else InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a kept file", hint="Letters, digits, `.`, `_`, `-`, `/`.")
    return name
