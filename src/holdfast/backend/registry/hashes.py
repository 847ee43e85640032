"""SHA-256 in hex, the address of everything stored."""

import hashlib

__all__ = ["sha256_of"]


def sha256_of(data: bytes) -> str:
    """The lower-case hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()
