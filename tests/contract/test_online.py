"""Every online store passes the port's suite; and what is each one's own."""

import os
import secrets
import sqlite3
import subprocess
import sys
import time

import pytest

from holdfast.backend.adapters.onlineredis import RedisOnline
from holdfast.backend.adapters.onlinesqlite import SqliteOnline
from holdfast.backend.records import OnlineRow
from holdfast.errors import IntegrityError, UnavailableError
from holdfast.testing.online import OnlineStoreContract


class TestSqliteOnline(OnlineStoreContract):
    @pytest.fixture
    def online(self, tmp_path):
        store = SqliteOnline(tmp_path / "深" / "online.db")
        yield store
        store.close()

    @pytest.fixture
    def reopened(self, tmp_path):
        store = SqliteOnline(tmp_path / "深" / "online.db")
        yield store
        store.close()

    def test_erased_bytes_leave_the_file(self, online, tmp_path):
        secret = "身份证" + secrets.token_hex(16)
        self.put(online, 1, secret, 1)
        self.put(online, 2, "other", 1)
        online.delete("g", [1])
        online.close()
        files = list((tmp_path / "深").iterdir())
        assert files
        assert [file for file in files if secret.encode() in file.read_bytes()] == []

    def test_a_damaged_file_is_said(self, online, tmp_path):
        self.put(online, 1, "x", 1)
        online.close()
        (tmp_path / "深" / "online.db").write_bytes(b"no database" * 1000)
        with pytest.raises(IntegrityError, match=r"online\.db"):
            online.read("g", [1], 0)

    def test_a_lost_layout_is_said(self, online, tmp_path):
        self.put(online, 1, "x", 1)
        online.close()
        with sqlite3.connect(tmp_path / "深" / "online.db") as database:
            database.execute("DELETE FROM layouts")
        database.close()
        with pytest.raises(IntegrityError, match="columns"):
            online.read("g", [1], 0)

    def test_killed_writer_leaves_whole_batches(self, online, tmp_path):
        path = tmp_path / "深" / "online.db"
        numbers = killed(f"SqliteOnline(Path({str(path)!r}))", 0.4)
        assert numbers == {max(numbers)}


class TestRedisOnline(OnlineStoreContract):
    @pytest.fixture
    def namespace(self):
        return f"测试{secrets.token_hex(6)}"

    @pytest.fixture
    def online(self, redis_url, namespace):
        store = RedisOnline(redis_url, namespace)
        yield store
        for key in store._client.scan_iter(f"holdfast:{{{namespace}:*".encode(), count=10_000):
            store._client.delete(key)
        store.close()

    @pytest.fixture
    def reopened(self, redis_url, namespace):
        store = RedisOnline(redis_url, namespace)
        yield store
        store.close()

    def test_redis_itself_forgets(self, online):
        now = time.time_ns() // 1000
        self.put(online, 1, "x", now, ttl=60_000)
        _, _, prefix = online._keys("g")
        (key,) = list(online._client.scan_iter(prefix.replace(b"[", b"\\[") + b"*"))
        assert 0 < online._client.pttl(key) <= 61
        time.sleep(0.1)
        assert online._client.get(key) is None

    def test_projects_are_apart(self, online, redis_url):
        self.put(online, 1, "x", 1)
        other = RedisOnline(redis_url, "other")
        assert other.read("g", [1], 0) == [None]
        other.close()

    def test_killed_writer_leaves_whole_batches(self, online, redis_url, namespace):
        numbers = killed(f"RedisOnline({redis_url!r}, {namespace!r})", 0.6)
        assert numbers == {max(numbers)}

    def test_a_lost_layout_is_said(self, online):
        self.put(online, 1, "x", 1)
        for key in online._client.scan_iter(b"holdfast:layout:*"):
            online._client.delete(key)
        with pytest.raises(IntegrityError, match="columns"):
            online.read("g", [1], 0)

    def test_no_server_is_said_without_the_password(self):
        store = RedisOnline("redis://jemand:geheim@127.0.0.1:1/3", "p")
        with pytest.raises(UnavailableError) as caught:
            store.read("g", [1], 0)
        assert caught.value.where == {"host": "127.0.0.1", "port": 1, "database": "3"}
        chain = [caught.value, caught.value.__cause__]
        assert all("geheim" not in f"{error!r} {error}" for error in chain)
        store.close()


_WRITER = """
import sys
from pathlib import Path
from holdfast.backend.adapters.onlineredis import RedisOnline
from holdfast.backend.adapters.onlinesqlite import SqliteOnline
from holdfast.backend.records import OnlineRow
store = {store}
for number in range(10 ** 9):
    store.write("k", ("f",), [OnlineRow(n, (number,), number) for n in range(3000)], made_at=number)
    print(number, flush=True)
"""


def killed(store, seconds):
    """The values that entities have after a writer of batches 0, 1, 2 ... was killed in the midst of one."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER.format(store=store)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert child.stdout.readline() == "0\n"
    time.sleep(seconds)
    child.kill()
    child.stdout.read()
    child.wait()
    child.stdout.close()
    door = eval(store, {"SqliteOnline": SqliteOnline, "RedisOnline": RedisOnline, "Path": __import__("pathlib").Path})
    time.sleep(0.3)
    found = door.read("k", range(3000), 0)
    door.close()
    assert None not in found
    return {vector.values["f"] for vector in found}


def test_a_thread_that_ended_leaves_no_connection(tmp_path):
    from threading import Thread

    store = SqliteOnline(tmp_path / "online.db")
    store.write("g", ("f",), [OnlineRow(1, (1,), 1)], made_at=1)
    for _ in range(20):
        thread = Thread(target=store.read, args=("g", [1], 0))
        thread.start()
        thread.join()
    assert len(store._all) == 1
    store.close()
    assert store.read("g", [1], 0)[0].values == {"f": 1}
    store.close()
