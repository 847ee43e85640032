"""Every adapter passes its port's suite."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.adapters.placefolder import FolderPlace
from holdfast.backend.adapters.places3 import S3Place
from holdfast.backend.adapters.s3blobs import S3Blobs
from holdfast.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError
from holdfast.testing.blobs import BlobsContract
from holdfast.testing.clock import ClockContract, FakeClock
from holdfast.testing.places import PlaceContract


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self):
        return SystemClock()


class TestFakeClock(ClockContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    def test_advances(self):
        clock = FakeClock("2024-02-29")
        before = clock.now()
        clock.advance(5)
        assert clock.now() == before + 5
        with pytest.raises(ValueError, match="back"):
            clock.advance(-1)


_WRITER = """
import sys
from pathlib import Path
from holdfast.backend.adapters.localfs import LocalBlobs
blobs = LocalBlobs(Path(sys.argv[1]))
print("ready", flush=True)
n = 0
while True:
    n += 1
    print(blobs.put(n.to_bytes(4, "big") * 50_000), flush=True)
"""


class TestLocalBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return LocalBlobs(tmp_path / "blobs")

    def test_blobs_are_read_only(self, blobs):
        assert not blobs.path(blobs.put(b"x")).stat().st_mode & 0o222

    def test_killed_writer_leaves_only_whole_blobs(self, tmp_path):
        import hashlib

        root = tmp_path / "blobs"
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(root)], stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        child.kill()
        told = child.stdout.read().split("\n")[:-1]
        child.wait()
        child.stdout.close()
        blobs = LocalBlobs(root)
        found = set(blobs)
        assert told
        assert set(told) <= found
        for digest in found:
            assert hashlib.sha256(blobs.path(digest).read_bytes()).hexdigest() == digest
        assert not list(Path(root).glob("??/tmp*"))


class TestFolderPlace(PlaceContract):
    @pytest.fixture
    def place(self, tmp_path):
        return FolderPlace(tmp_path / "地方")


class TestS3Place(PlaceContract):
    @pytest.fixture
    def place(self, s3_url):
        return S3Place(s3_url)

    def test_what_the_server_says_is_told_in_words(self, s3_url, s3_endpoint):
        with pytest.raises(ConfigError, match="there is no bucket"):
            S3Place(f"s3://nobody-made-this?endpoint={s3_endpoint}").put("a", b"")
        with pytest.raises(ConfigError, match="nothing that the URL"):
            S3Place(f"{s3_url}&secret=x")
        with pytest.raises(ConfigError, match="names no bucket"):
            S3Place("s3://")
        with pytest.raises(ConfigError, match="holds credentials") as told:
            S3Place("s3://key:hush@bucket/folder")
        assert "hush" not in str(told.value.to_dict())

    def test_a_server_that_is_away_is_unavailable(self, s3_url, monkeypatch):
        import holdfast.backend.adapters.places3 as module

        monkeypatch.setattr(module, "_PATIENCE", module.timedelta(seconds=1))
        bucket = S3Place("s3://bucket?endpoint=http://127.0.0.1:9")
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
            bucket.get("a")


class TestS3Blobs(BlobsContract):
    @pytest.fixture
    def blobs(self, s3_url, tmp_path):
        return S3Blobs(S3Place(s3_url), tmp_path / "cache")

    def test_another_computer_reads_what_one_wrote(self, blobs, s3_url, tmp_path):
        digest = blobs.put("内容".encode() * 1000)
        other = S3Blobs(S3Place(s3_url), tmp_path / "elsewhere")
        assert other.path(digest).read_bytes() == "内容".encode() * 1000
        assert not other.path(digest).stat().st_mode & 0o222
        # What lies in the cache is not asked for again.
        S3Place(s3_url).delete(f"storage/{digest[:2]}/{digest[2:]}")
        assert other.path(digest).is_file()
        assert not other.has(digest)

    def test_what_the_bucket_damaged_is_never_handed_out(self, blobs, s3_url, tmp_path):
        digest = blobs.put(b"right")
        S3Place(s3_url).put(f"storage/{digest[:2]}/{digest[2:]}", b"wrong")
        other = S3Blobs(S3Place(s3_url), tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(IntegrityError, match=digest):
                other.path(digest)

    def test_a_failed_upload_is_repeated(self, s3_endpoint, s3_url, tmp_path):
        absent = S3Blobs(S3Place(f"s3://nobody-made-this?endpoint={s3_endpoint}"), tmp_path / "cache")
        with pytest.raises(ConfigError):
            absent.put(b"data")
        blobs = S3Blobs(S3Place(s3_url), tmp_path / "cache")
        digest = blobs.put(b"data")
        assert blobs.has(digest)
        with pytest.raises(NotFoundError):
            S3Blobs(S3Place(s3_url), tmp_path / "cache").path("0" * 64)
