"""Requests from topic to topic, through real servers."""

import base64
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.api.streaming import Streaming
from holdfast.backend.records import Message
from holdfast.backend.serving.log import PredictionLog, read_prediction
from holdfast.backend.serving.service import Service
from holdfast.backend.wiring import open_stream
from holdfast.errors import ConfigError, NotFoundError, UnavailableError

from .serving_project import copy_project
from .test_serve_answers import features_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["redis", "nats", "kafka"])
def base(request):
    """The URLs of topics of the test's own, up to their last word."""
    fixture, scheme = {"redis": ("redis_url", ""), "nats": ("nats_url", ""), "kafka": ("kafka_server", "kafka://")}[
        request.param
    ]
    return f"{scheme}{request.getfixturevalue(fixture)}/{secrets.token_hex(4)}."


@pytest.fixture
def opened(rooms, serving_root):
    with holdfast.open(serving_root) as made:
        yield made


def send(url, messages):
    stream = open_stream(url)
    stream.append(messages)
    stream.close()


def received(url, count, group="test"):
    """That many messages of a topic, and what else comes right after."""
    stream, found = open_stream(f"{url}?patience=6", group), []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        batch = stream.read(100, 0.5)
        stream.acknowledge(batch)
        found += batch
    found += stream.read(100, 0.2)
    stream.close()
    return found


def asked(number, **body):
    return Message(f"ask-{number}", json.dumps(body, ensure_ascii=False).encode(), f"店 {number}")


def test_requests_of_every_kind_are_answered_and_poison_is_set_aside(opened, rooms, base):
    row, _ = features_of(rooms)
    number = next(name for name, value in row.items() if isinstance(value, float))
    entity = {"id": 5, "cutoff": "2024-03-15", "context": {"type": "投诉"}}
    shop = {"rows": {"shops": [{"shop_id": 5, "区域": "东"}], "visits": []}, "questions": {
        "entity": 5, "cutoff": "2024-03-15", "context": {"type": "投诉"}}}  # fmt: skip
    good = [asked(1, features=row), asked(2, features=[row, row | {number: 1.0}]), asked(3, entities=entity),
            asked(4, features=row, explain=True), asked(5, **shop)]  # fmt: skip
    bad = [asked(6, features={**row, number: "很多"}), asked(7, nothing=1), Message("ask-8", b"\xff\x00", None),
           asked(9, features=[]), asked(10, entities={"id": "abc", "context": {}})]  # fmt: skip
    mixed = [one for pair in zip(good, bad, strict=True) for one in pair]
    send(f"{base}in", mixed)
    report = opened.stream("风险", f"{base}in", f"{base}out", drain=True)
    assert (report.read, report.answered, report.dead) == (10, 5, 5)
    answers = {one.id: one for one in received(f"{base}out", 5)}
    assert set(answers) == {one.id for one in good}
    service = opened.service
    for message in good:
        answer = json.loads(answers[message.id].value)
        assert (answer["request"], answers[message.id].key) == (message.id, message.key)
        body = json.loads(message.value)
        if "features" in body:
            rows = body["features"] if isinstance(body["features"], list) else [body["features"]]
            expected = service.features("风险", rows)["predictions"]
            assert [one["labels"] for one in answer["predictions"]] == [one["labels"] for one in expected]
            assert ("explanation" in answer["predictions"][0]) == ("explain" in body)
        service.log.flush()
        assert read_prediction(rooms.log, answer["predictions"][0]["id"]).target == "风险"
    dead = {one.id: one for one in received(f"{base}out.dead", 5)}
    told = {name: json.loads(one.value) for name, one in dead.items()}
    assert {name: one["error"]["code"] for name, one in told.items()} == {
        "ask-6": "alignment", "ask-7": "request", "ask-8": "request", "ask-9": "request", "ask-10": "input",
    }  # fmt: skip
    assert told["ask-6"]["error"]["where"]["feature"] == number
    assert json.loads(told["ask-6"]["request"]["value"])["features"][number] == "很多"
    assert base64.b64decode(told["ask-8"]["request"]["value_base64"]) == b"\xff\x00"
    assert dead["ask-6"].key == "店 6"
    assert opened.stream("风险", f"{base}in", f"{base}out", drain=True).read == 0


_KILLED = """
import os, signal, sys
import holdfast
from holdfast.backend.api import streaming
from holdfast.backend.api.streaming import Streaming
streaming._BATCH = 20
where, after = sys.argv[4], int(sys.argv[5])
done = []
def die_at(name, kind):
    original = getattr(kind, name)
    def wrapped(self, *given):
        if self._group is not None or name == "append":
            done.append(name)
        if done.count(name) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *given)
    setattr(kind, name, wrapped)
from holdfast.backend.adapters.streams_redis import RedisStream
from holdfast.backend.adapters.streams_nats import NatsStream
from holdfast.backend.adapters.streams_kafka import KafkaStream
for kind in (RedisStream, NatsStream, KafkaStream):
    die_at(where, kind)
with holdfast.open(sys.argv[1]) as project:
    project.stream("风险", sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize(("where", "after"), [("acknowledge", 2), ("append", 3)])
def test_killed_no_request_is_lost_and_the_answers_are_there_once(rooms, serving_root, base, tmp_path, where, after):
    row, _ = features_of(rooms)
    send(f"{base}in", [asked(number, features=row) for number in range(100)])
    source, answers = f"{base}in?patience=1", f"{base}out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", _KILLED, str(serving_root), source, answers, where, str(after)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with holdfast.open(serving_root) as project:
        report = project.stream("风险", source, answers, drain=True)
    # A broker that moves partitions (its reader was slow) refuses what is acknowledged meanwhile, and gives it again.
    assert 0 < report.read < 100 or (base.startswith("kafka") and report.read == 100)
    found = received(answers, 100)
    ids = [one.id for one in found]
    assert set(ids) == {f"ask-{number}" for number in range(100)}
    if not base.startswith("kafka"):
        assert len(ids) == 100


def test_a_signal_lets_the_batch_end_and_a_new_deployment_answers_without_a_restart(
    rooms, serving_root, redis_url, tmp_path
):
    root = tmp_path / "copy"
    copy_project(serving_root, root)
    base = f"{redis_url}/{secrets.token_hex(4)}."
    row, _ = features_of(rooms)
    command = [sys.executable, "-m", "holdfast", "stream", "风险", "--from", f"{base}in", "--to", f"{base}out",
               "--json", "-C", str(root)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        send(f"{base}in", [asked(0, features=row)])
        (first,) = received(f"{base}out", 1)
        with holdfast.open(root) as project:
            made = project.deploy("风险", note="meanwhile").id
        assert json.loads(first.value)["deployment"] != made
        until, number, seen = time.monotonic() + 60, 1, ""
        while seen != made and time.monotonic() < until:
            send(f"{base}in", [asked(number, features=row)])
            seen = json.loads(received(f"{base}out", 1)[0].value)["deployment"]
            number += 1
        assert seen == made
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == {"read": number, "answered": number, "dead": 0}


def test_what_was_read_when_the_answers_were_refused_is_answered_when_they_no_longer_are(
    opened, rooms, base, redis_url
):
    import redis

    row, _ = features_of(rooms)
    name = secrets.token_hex(4)
    client = redis.Redis.from_url(redis_url)
    client.set(name, "no topic")
    send(f"{base}in", [asked(number, features=row) for number in range(3)])
    source = open_stream(f"{base}in?patience=600", "mine")
    answers, dead = open_stream(f"{redis_url}/{name}"), open_stream(f"{base}dead")
    streaming = Streaming(opened.service, "风险", source, answers, dead)
    opened.service.log.flush()
    before = opened.service.log.stats.written
    until = time.monotonic() + 60
    for _ in range(3):
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            streaming.run(lambda: time.monotonic() > until, drain=True)
    send(f"{base}in", [asked(3, features=row)])
    client.delete(name)
    client.close()
    until = time.monotonic() + 60
    while streaming.report.answered < 4 and time.monotonic() < until:
        streaming.step()
    assert source.lag() == 0
    for one in (source, answers, dead):
        one.close()
    assert sorted(one.id for one in received(f"{redis_url}/{name}", 4)) == [f"ask-{number}" for number in range(4)]
    # What was answered already was not asked, and logged, again.
    opened.service.log.flush()
    assert opened.service.log.stats.written - before == 4


def test_what_the_log_dropped_is_asked_again_and_acknowledged_when_it_is_logged(opened, rooms, redis_url):
    row, _ = features_of(rooms)
    base = f"{redis_url}/{secrets.token_hex(4)}."
    send(f"{base}in", [asked(number, features=row, explain=bool(number)) for number in range(2)])
    path = rooms.log.with_name("small.db")
    log = PredictionLog(path, capacity=1)
    streams = [open_stream(f"{base}in", "mine"), open_stream(f"{base}out"), open_stream(f"{base}dead")]
    service = Service(opened.service.live, log, rooms.clock, strict=False)
    streaming = Streaming(service, "风险", *streams)
    locked = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locked.execute("PRAGMA journal_mode=WAL")
    locked.execute("BEGIN EXCLUSIVE")
    threading.Timer(2.0, locked.execute, ["ROLLBACK"]).start()
    assert streaming.step() == 2
    assert streams[0].lag() == 0
    log.flush()
    dropped = log.stats.dropped
    for one in received(f"{base}out", 2):
        (answer,) = json.loads(one.value)["predictions"]
        assert read_prediction(path, answer["id"]).target == "风险"
    assert dropped == 1
    # Nothing can be written: nothing is published or acknowledged.
    locked.execute("BEGIN EXCLUSIVE")
    flush, log.flush = log.flush, lambda: flush(0.5)
    send(f"{base}in", [asked(number, features=row, explain=number == 3) for number in range(2, 4)])
    with pytest.raises(UnavailableError, match="logged within"):
        streaming.step()
    assert streams[0].lag() == 2
    locked.execute("ROLLBACK")
    locked.close()
    assert streaming.step() == 2
    assert [streaming.report.answered, streams[0].lag()] == [4, 0]
    log.close()
    for one in streams:
        one.close()
    for one in received(f"{base}out", 2):
        (answer,) = json.loads(one.value)["predictions"]
        assert read_prediction(path, answer["id"]).target == "风险"


def test_what_is_no_topic_and_what_is_away(opened):
    for url in (
        "redis://h/0",
        "http://h/t",
        "t",
        "nats://h/",
        "kafka:///t",
        "redis://:geheim@h/0/t?patience=x",
        "nats://h/t?x=1",
    ):
        with pytest.raises(ConfigError, match="names no topic") as caught:
            opened.stream("风险", url, "redis://h/0/t")
        assert "geheim" not in str(caught.value)
    with pytest.raises(UnavailableError, match="Redis does not answer"):
        opened.stream("风险", "redis://127.0.0.1:1/0/a", "redis://127.0.0.1:1/0/b", drain=True)
    with pytest.raises(NotFoundError, match="风"):
        opened.stream("风", "redis://127.0.0.1:1/0/a", "redis://127.0.0.1:1/0/b", drain=True)
