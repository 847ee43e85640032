"""Fixtures that all tests share."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says something of the machine, nothing of the code.
hypothesis.settings.register_profile("holdfast", deadline=None)
hypothesis.settings.load_profile("holdfast")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: $HOLDFAST_TEST_DATA, by default ../shared/data from the project's root."""
    folder = Path(os.environ.get("HOLDFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} is no folder; set HOLDFAST_TEST_DATA")
    return folder


@contextmanager
def _listening(command: list[str]) -> Iterator[str]:
    """A server on a free port of this machine, which is the last word of its command; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen([*command, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        time.sleep(0.05)
    yield port
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis: $HOLDFAST_TEST_REDIS, by default a server of the tests' own on a free port."""
    given = os.environ.get("HOLDFAST_TEST_REDIS")
    if given:
        yield given
        return
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server; install Redis, or set HOLDFAST_TEST_REDIS to the URL of one")
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--port"]
    with _listening(command) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a NATS with JetStream: $HOLDFAST_TEST_NATS, by default a server of the tests' own on a free port."""
    given = os.environ.get("HOLDFAST_TEST_NATS")
    if given:
        yield given
        return
    if shutil.which("nats-server") is None:
        pytest.skip("there is no nats-server; install NATS, or set HOLDFAST_TEST_NATS to the URL of one")
    folder = tmp_path_factory.mktemp("nats")
    with _listening(["nats-server", "-js", "-a", "127.0.0.1", "-sd", str(folder), "-p"]) as port:
        yield f"nats://127.0.0.1:{port}"


_KAFKA = """
import sys
from confluent_kafka import Producer
broker = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
(one,) = broker.list_topics(timeout=20).brokers.values()
print(f"{one.host}:{one.port}", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def kafka_server() -> Iterator[str]:
    """The host:port of a Kafka: $HOLDFAST_TEST_KAFKA, by default the broker that is built into librdkafka.

    That one speaks the protocol over TCP, with consumer groups, and keeps everything in memory; it is no Kafka. Each
    test has its own: a group that one topic's readers have left does not always begin again for another topic's.
    """
    given = os.environ.get("HOLDFAST_TEST_KAFKA")
    if given:
        yield given
        return
    command = [sys.executable, "-c", _KAFKA]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.communicate("")


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The URL of a PostgreSQL, without a database: $HOLDFAST_TEST_POSTGRES, by default postgres@127.0.0.1:5432."""
    import psycopg

    given = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432").rstrip("/")
    try:
        psycopg.connect(f"{given}/postgres", connect_timeout=5).close()
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL answers at {given}: {error}; start one, or set HOLDFAST_TEST_POSTGRES to its URL")
    return given


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of the test's own, gone with it."""
    import secrets

    import psycopg

    name = f"holdfast_{secrets.token_hex(6)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    yield f"{postgres_server}/{name}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an S3 server: $HOLDFAST_TEST_S3, by default a server of the tests' own on a free port."""
    given = os.environ.get("HOLDFAST_TEST_S3")
    if given:
        yield given
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("wb")
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert server.poll() is None, f"the S3 server did not start: {log.name}"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(20)
    log.close()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket of the test's own; its credentials are in the environment."""
    import secrets

    import boto3

    for name, value in (("AWS_ACCESS_KEY_ID", "holdfast"), ("AWS_SECRET_ACCESS_KEY", "holdfast"),
                        ("AWS_REGION", "us-east-1")):  # fmt: skip
        if not os.environ.get("HOLDFAST_TEST_S3"):
            monkeypatch.setenv(name, value)
    bucket = f"holdfast-{secrets.token_hex(6)}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/一/project?endpoint={s3_endpoint}"
