"""Every adapter passes its port's suite."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.testing.blobs import BlobsContract
from holdfast.testing.clock import ClockContract, FakeClock


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
