"""Every kind of topic passes the port's suite; and what is each one's own."""

import os
import secrets

import pytest

from holdfast.backend.adapters.streams_kafka import KafkaStream
from holdfast.backend.adapters.streams_nats import NatsStream
from holdfast.backend.adapters.streams_redis import RedisStream
from holdfast.backend.records import Message
from holdfast.errors import ConfigError, UnavailableError
from holdfast.testing.streams import StreamContract


class TestRedisStream(StreamContract):
    @pytest.fixture
    def topic(self):
        return f"主题 {secrets.token_hex(4)}"

    @pytest.fixture
    def door(self, redis_url, topic):
        return lambda group, start=0: RedisStream(redis_url, topic, group, start=start, patience=1)

    def test_what_others_append_has_an_id_too(self, opened, redis_url, topic):
        import redis

        client = redis.Redis.from_url(redis_url)
        entries = [client.xadd(topic, {"value": "{}"}).decode(), client.xadd(topic, {"other": "1"}).decode()]
        reader = opened("g")
        found = self.drained(reader, 2)
        assert [(one.id, one.value, one.key) for one in found] == [
            (f"{topic}:{entries[0]}", b"{}", None), (f"{topic}:{entries[1]}", b"", None),
        ]  # fmt: skip
        client.delete(topic)
        opened().append([Message("again", b"")])
        assert [one.id for one in self.drained(reader, 1)] == ["again"]
        client.close()

    def test_a_lag_that_the_server_lost_is_counted(self, opened, redis_url, topic):
        import redis

        opened().append([Message(str(n), b"") for n in range(5)])
        client = redis.Redis.from_url(redis_url)
        client.xdel(topic, client.xrange(topic)[2][0])
        assert opened("g").lag() == 4
        client.close()

    def test_a_reader_that_is_gone_leaves_no_name(self, opened, redis_url, topic):
        import redis

        reader = opened("g")
        reader.read(1, 0.01)
        reader.close()
        client = redis.Redis.from_url(redis_url)
        assert client.xinfo_consumers(topic, "g") == []
        client.close()

    def test_what_was_refused_is_appended_when_it_is_repeated(self, opened, redis_url, topic):
        import redis

        client = redis.Redis.from_url(redis_url)
        client.set(topic, "another's")
        writer, messages = opened(), [Message("1", b"x"), Message("2", b"y")]
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            writer.append(messages)
        client.delete(topic)
        writer.append(messages)
        writer.append(messages)
        assert [one.id for one in self.drained(opened("g"), 2)] == ["1", "2"]
        client.close()

    def test_one_that_is_away_is_told_without_its_password(self):
        stream = RedisStream("redis://:geheim@127.0.0.1:1/0", "t", "g")
        with pytest.raises(UnavailableError) as caught:
            stream.read(1, 0.01)
        assert "geheim" not in str(caught.value)
        assert caught.value.where == {"topic": "redis://127.0.0.1:1/0/t"}
        stream.close()


class TestNatsStream(StreamContract):
    @pytest.fixture
    def topic(self):
        return f"主题.{secrets.token_hex(4)}"

    @pytest.fixture
    def door(self, nats_url, topic):
        return lambda group, start=0: NatsStream(nats_url, topic, group, start=start, patience=1)

    @pytest.mark.parametrize("topic", ["a b", "a.*", ">", "", "a..b"])
    def test_what_is_no_subject(self, topic):
        with pytest.raises(ConfigError, match="no subject"):
            NatsStream("nats://127.0.0.1", topic)

    def test_one_that_is_away_is_told(self):
        stream = NatsStream("nats://u:geheim@127.0.0.1:1", "t", "g")
        with pytest.raises(UnavailableError) as caught:
            stream.read(1, 0.01)
        assert "geheim" not in str(caught.value)
        stream.close()


class TestKafkaStream(StreamContract):
    leaves_out_repeats = False
    if "HOLDFAST_TEST_KAFKA" not in os.environ:
        # The broker that is built into librdkafka does not look for offsets by time.
        test_a_group_may_begin_at_a_moment = None

    @pytest.fixture
    def door(self, kafka_server):
        topic = f"topic-{secrets.token_hex(4)}"
        return lambda group, start=0: KafkaStream(kafka_server, topic, group, start=start, patience=6)

    def test_a_reader_that_lost_its_partitions_goes_on(self, opened):
        opened().append([Message(str(n), b"v", str(n)) for n in range(20)])
        first = opened("g")
        mine = self.drained(first, 20, acknowledge=False)
        assert len(mine) == 20
        others = self.drained(opened("g"), 20)
        assert sorted(one.id for one in others) == sorted(one.id for one in mine)
        first.acknowledge(mine)
        assert first.read(10, 0.5) == []
        assert first.lag() == 0
