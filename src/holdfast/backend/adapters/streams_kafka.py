"""Topics of Kafka (extra `kafka`).

The id is the header `id`, the key the message's key (what has one key stays in one partition, in order). Kafka knows no
ids: a message that is appended again after a crash is there twice, and readers tell by the id. Offsets are committed
as far as everything before them is acknowledged. After a reader dies its partitions go to others when the session ends.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.backend.records import Message
from holdfast.errors import MissingExtraError, UnavailableError

__all__ = ["KafkaStream"]

_TIMEOUT = 30.0
_SHORTEST_SESSION = 6.0
"""Seconds; what brokers allow by default."""


class KafkaStream:
    """`Stream` of `topic` at `server` (host:port, several with commas). `group` None: for appending only.

    A group that is new begins with what was appended at the instant `start` (microseconds) or later.
    """

    def __init__(
        self, server: str, topic: str, group: str | None = None, *, start: int = 0, patience: float = 30.0
    ) -> None:
        try:
            import confluent_kafka
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "topics in Kafka need its client", hint='Run: pip install "holdfast[kafka]"'
            ) from error
        self._kafka: Any = confluent_kafka
        codes = confluent_kafka.KafkaError
        # The group went on without this reader, which was silent for too long; it joins again when it reads.
        self._lost = (codes.ILLEGAL_GENERATION, codes.UNKNOWN_MEMBER_ID, codes.REBALANCE_IN_PROGRESS)
        self.url = f"kafka://{server}/{topic}"
        self._topic, self._start = topic, start
        self._common = {"bootstrap.servers": server, "log_level": 0, "socket.connection.setup.timeout.ms": 5000}
        self._group, self._session = group, max(patience, _SHORTEST_SESSION)
        self._producer: Any = None
        self._consumer: Any = None
        self._closing = False
        self._unacknowledged: dict[int, set[int]] = {}
        self._read_to: dict[int, int] = {}
        self._refused: Any = None

    def append(self, messages: Sequence[Message]) -> None:
        """Produce, and wait until all in-sync replicas have all of them."""
        if self._producer is None:
            options = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": round(_TIMEOUT * 1000)}
            self._producer = self._kafka.Producer({**self._common, **options, "linger.ms": 5})
        failed: list[Any] = []

        def told(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        with self._guard():
            for message in messages:
                self._produce(message, told)
            left = self._producer.flush(_TIMEOUT)
        if failed or left:
            raise self._unavailable(failed[0] if failed else f"{left} messages were not taken")

    def _produce(self, message: Message, told: Any) -> None:
        key = None if message.key is None else message.key.encode()
        while True:
            try:
                self._producer.produce(
                    self._topic, message.value, key, headers=[("id", message.id.encode())], on_delivery=told
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def read(self, count: int, wait: float) -> list[Message]:
        """What is new in the partitions that this reader has."""
        found: list[Any] = []
        with self._guard():
            consumer = self._joined()
            # What came with an error is behind the reader's position now: it is given first, the error then.
            refused, self._refused = self._refused, None
            if refused is None:
                first = consumer.poll(wait)
                found = [] if first is None else [first]
                if first is not None and first.error() is None and count > 1:
                    try:
                        found += consumer.consume(count - 1, 0.02)
                    except self._kafka.KafkaException as error:
                        self._refused = error
        messages = []
        for one in found:
            if one.error() is None:
                messages.append(self._message(one))
            elif one.error().code() != self._kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                refused = one.error()
        if refused is not None and not messages:
            raise self._unavailable(refused)
        self._refused = self._refused or refused
        return messages

    def _message(self, given: Any) -> Message:
        partition, offset = given.partition(), given.offset()
        self._unacknowledged.setdefault(partition, set()).add(offset)
        self._read_to[partition] = offset + 1
        identity = dict(given.headers() or ()).get("id")
        key = given.key()
        return Message(
            id=f"{self._topic}:{partition}:{offset}" if identity is None else identity.decode("utf-8", "replace"),
            value=given.value() or b"",
            key=None if key is None else key.decode("utf-8", "replace"),
            position=f"{partition}:{offset}",
        )

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Commit how far everything is acknowledged.

        Not in partitions that went to another reader of the group: that one reads and acknowledges them itself.
        """
        touched = set()
        for message in messages:
            partition, _, offset = message.position.partition(":")
            if int(partition) in self._unacknowledged:
                self._unacknowledged[int(partition)].discard(int(offset))
                touched.add(int(partition))
        done = [
            self._kafka.TopicPartition(
                self._topic, number, min(self._unacknowledged[number], default=self._read_to[number])
            )
            for number in touched
        ]
        if done:
            with self._guard():
                try:
                    self._joined().commit(offsets=done, asynchronous=False)
                except self._kafka.KafkaException as error:
                    if error.args[0].code() not in self._lost:
                        raise

    def lag(self) -> int:
        """From the committed offset of each partition to its end."""
        with self._guard():
            consumer = self._joined()
            told = consumer.list_topics(self._topic, timeout=_TIMEOUT).topics[self._topic]
            parts = [self._kafka.TopicPartition(self._topic, number) for number in told.partitions]
            total = 0
            for part in self._begun(consumer, parts):
                low, high = consumer.get_watermark_offsets(part, timeout=_TIMEOUT)
                total += max(0, high - max(low, part.offset))
            return total

    def _begun(self, consumer: Any, parts: list[Any]) -> list[Any]:
        """Each partition with the offset where the group goes on."""
        committed = consumer.committed(parts, timeout=_TIMEOUT)
        fresh = [part for part in committed if part.offset < 0]
        if self._start and fresh:
            asked = [self._kafka.TopicPartition(p.topic, p.partition, self._start // 1000) for p in fresh]
            for part, found in zip(fresh, consumer.offsets_for_times(asked, timeout=_TIMEOUT), strict=True):
                _, high = consumer.get_watermark_offsets(part, timeout=_TIMEOUT)
                part.offset = found.offset if found.offset >= 0 else high
        for part in committed:
            if part.offset < 0:
                part.offset = self._kafka.OFFSET_BEGINNING
        return list(committed)

    def close(self) -> None:
        """Leave the group at once."""
        if self._consumer is not None:
            self._closing = True
            self._consumer.close()
            self._consumer = None
        self._producer = None

    def _joined(self) -> Any:
        if self._consumer is None:
            options = {
                "group.id": self._group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "session.timeout.ms": round(self._session * 1000), "allow.auto.create.topics": True,
                "max.poll.interval.ms": round(max(self._session * 1000, 300_000)),
                "heartbeat.interval.ms": round(self._session * 300), "topic.metadata.refresh.interval.ms": 5000,
            }  # fmt: skip
            self._consumer = self._kafka.Consumer({**self._common, **options})
            self._consumer.list_topics(self._topic, timeout=_TIMEOUT)
            self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked)
        return self._consumer

    def _assigned(self, consumer: Any, parts: list[Any]) -> None:
        # Closing serves what is waiting, this too; then nothing can be asked any more.
        if self._start and not self._closing:
            consumer.assign(self._begun(consumer, parts))

    def _revoked(self, _consumer: Any, parts: list[Any]) -> None:
        for part in parts:
            self._unacknowledged.pop(part.partition, None)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except self._kafka.KafkaException as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: object) -> UnavailableError:
        return UnavailableError(
            f"Kafka does not answer: {error}", where={"topic": self.url},
            hint="Start it, or correct the URL; it repeats until then.",
        )  # fmt: skip
