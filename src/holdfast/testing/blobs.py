"""The contract suite of blob stores."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.backend.ports import Blobs
from holdfast.errors import IntegrityError, NotFoundError

__all__ = ["BlobsContract"]


class BlobsContract:
    """What every Blobs must do. Subclass it and give the fixture `blobs`, empty at first."""

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Blobs:
        """The store under test."""
        raise NotImplementedError

    def test_address_is_the_hash(self, blobs: Blobs) -> None:
        """The address is the lower-case SHA-256 in hex."""
        assert blobs.put("内容".encode()) == hashlib.sha256("内容".encode()).hexdigest()

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 9000])
    def test_reads_back(self, blobs: Blobs, data: bytes) -> None:
        """Any bytes, the empty ones too."""
        digest = blobs.put(data)
        assert blobs.has(digest)
        assert blobs.path(digest).read_bytes() == data

    def test_put_file_is_put_and_leaves_the_file(self, blobs: Blobs, tmp_path: Path) -> None:
        """The same address as its bytes; the file stays."""
        file = tmp_path / "数据.bin"
        file.write_bytes(b"abc" * 1_000_000)
        digest = blobs.put_file(file)
        assert digest == blobs.put(b"abc" * 1_000_000)
        assert blobs.path(digest).read_bytes() == file.read_bytes()

    def test_twice_is_once(self, blobs: Blobs) -> None:
        """Putting what is there does nothing."""
        assert blobs.put(b"same") == blobs.put(b"same")
        assert list(blobs) == [hashlib.sha256(b"same").hexdigest()]

    def test_lists_and_deletes(self, blobs: Blobs) -> None:
        """All addresses; deleting what is absent succeeds."""
        digests = {blobs.put(bytes([n])) for n in range(20)}
        assert set(blobs) == digests
        gone = digests.pop()
        blobs.delete(gone)
        blobs.delete(gone)
        assert not blobs.has(gone)
        assert set(blobs) == digests

    def test_what_was_put_since_stays(self, blobs: Blobs) -> None:
        """Putting again renews the time, and a removal that looks for an older one leaves it."""
        digest = blobs.put(b"again")
        first = blobs.about(digest).put_at
        assert not blobs.delete(digest, unless_put_since=first)
        assert blobs.has(digest)
        time.sleep(1.1)  # object stores count seconds
        blobs.put(b"again")
        assert blobs.about(digest).put_at > first
        assert not blobs.delete(digest, unless_put_since=first + 1)
        assert blobs.delete(digest, unless_put_since=blobs.about(digest).put_at + 1)
        assert not blobs.has(digest)
        assert blobs.delete(digest, unless_put_since=0)
        with pytest.raises(NotFoundError):
            blobs.about(digest)

    def test_absent_is_not_found(self, blobs: Blobs) -> None:
        """NotFoundError names the blob."""
        with pytest.raises(NotFoundError, match="0000"):
            blobs.path("0" * 64)

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 62 + "/x"])
    def test_what_is_no_address_is_refused(self, blobs: Blobs, name: str) -> None:
        """No name ever leads out of the store."""
        with pytest.raises(IntegrityError):
            blobs.path(name)

    def test_at_once(self, blobs: Blobs) -> None:
        """Writers of the same and of other contents do not disturb each other."""
        contents = [bytes([n % 7]) * 100_000 for n in range(60)]
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(blobs.put, contents))
        assert digests == [hashlib.sha256(data).hexdigest() for data in contents]
        assert set(blobs) == set(digests)
        assert all(blobs.path(d).read_bytes() == data for d, data in zip(digests, contents, strict=True))
