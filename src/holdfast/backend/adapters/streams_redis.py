"""Topics as Redis Streams (extra `redis`).

An entry has the fields `id`, `key` (absent where there is none) and `value`. Ids of the last minutes are kept in a
sorted set beside the stream; one script looks there and appends, so that a repeat is left out also when two append at
once. An id is kept after its entry: when the server refuses in between (a script is not taken back), a repeat is there
twice instead of never. What a dead reader had is claimed (XAUTOCLAIM) after `patience`.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.backend.records import Message
from holdfast.errors import MissingExtraError, UnavailableError

__all__ = ["RedisStream"]

_WINDOW = 600
"""Seconds for which a repeated id is left out."""
_CHUNK = 500
# KEYS: the stream, its ids. ARGV: seconds of the window, then id, key ("" or "k" + key) and value of each message.
_APPEND = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[1]))
for i = 2, #ARGV, 3 do
  if not redis.call('ZSCORE', KEYS[2], ARGV[i]) then
    if ARGV[i + 1] == '' then
      redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'value', ARGV[i + 2])
    else
      redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'key', string.sub(ARGV[i + 1], 2), 'value', ARGV[i + 2])
    end
    redis.call('ZADD', KEYS[2], now, ARGV[i])
  end
end
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[1]))
"""


class RedisStream:
    """`Stream` in a Redis database at `server` (redis://host:port/0). `group` None: for appending only.

    A group that is new begins with what was appended at the instant `start` (microseconds) or later.
    """

    def __init__(
        self, server: str, topic: str, group: str | None = None, *, start: int = 0, patience: float = 30.0
    ) -> None:
        try:
            import redis
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "topics in Redis need the Redis client", hint='Run: pip install "holdfast[redis]"'
            ) from error
        self._errors, self._refused = redis.RedisError, redis.ResponseError
        self._client: Any = redis.Redis.from_url(server, socket_timeout=60, socket_connect_timeout=5)
        options = self._client.connection_pool.connection_kwargs
        place = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
        self.url = f"redis://{place}/{topic}"
        self._topic, self._ids = topic, f"{{{topic}}}:ids"
        self._group, self._start, self._patience = group, start, patience
        self._consumer = f"reader-{secrets.token_hex(6)}"
        self._joined = False
        self._claim_at = 0.0

    def append(self, messages: Sequence[Message]) -> None:
        """Append those whose ids were not appended in the last ten minutes."""
        with self._guard():
            for start in range(0, len(messages), _CHUNK):
                values: list[Any] = [_WINDOW]
                for message in messages[start : start + _CHUNK]:
                    values += [message.id, "" if message.key is None else f"k{message.key}", message.value]
                self._client.eval(_APPEND, 2, self._topic, self._ids, *values)

    def read(self, count: int, wait: float) -> list[Message]:
        """What dead readers left, else what is new."""
        with self._guard():
            self._join()
            try:
                return self._claimed(count) or self._new(count, wait)
            except self._refused as error:
                if "NOGROUP" not in str(error):
                    raise
                self._joined = False  # the topic was deleted: it begins anew
                return []

    def _new(self, count: int, wait: float) -> list[Message]:
        # 0 would be for ever.
        block = max(1, round(wait * 1000))
        told = self._client.xreadgroup(self._group, self._consumer, {self._topic: ">"}, count=count, block=block)
        listed = told.values() if isinstance(told, dict) else [entries for _, entries in told or ()]
        return [self._message(*entry) for entries in listed for entry in _flat(entries)]

    def _claimed(self, count: int) -> list[Message]:
        if time.monotonic() < self._claim_at:
            return []
        told = self._client.xautoclaim(
            self._topic, self._group, self._consumer, round(self._patience * 1000), "0-0", count=count
        )
        found = [self._message(*entry) for entry in told[1] if entry[1]]
        if not found:
            self._claim_at = time.monotonic() + self._patience / 4
        return found

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Take them from the group's list of what is pending."""
        if messages:
            with self._guard():
                self._client.xack(self._topic, self._group, *(message.position for message in messages))

    def lag(self) -> int:
        """Pending ones, and those behind the last that was read."""
        with self._guard():
            self._join()
            groups = self._client.xinfo_groups(self._topic)
            (mine,) = [one for one in groups if one["name"] in (self._group, str(self._group).encode())]
            unread = mine.get("lag")
            if unread is None:  # the server lost count, as after entries were deleted
                unread = self._count_after(mine["last-delivered-id"])
            return int(unread) + int(mine["pending"])

    def _count_after(self, last: Any) -> int:
        total, place = 0, f"({last.decode() if isinstance(last, bytes) else last}"
        while entries := self._client.xrange(self._topic, place, "+", count=1000):
            total += len(entries)
            place = f"({entries[-1][0].decode()}"
        return total

    def close(self) -> None:
        """Leave the group, unless something is pending; that is claimed by others."""
        try:
            if self._joined and not self._client.xpending_range(
                self._topic, self._group, "-", "+", 1, consumername=self._consumer
            ):
                self._client.xgroup_delconsumer(self._topic, self._group, self._consumer)
        except self._errors:
            pass  # it is away: nothing to leave
        self._client.close()

    def _join(self) -> None:
        if self._joined:
            return
        # Reading begins behind the given id.
        after = f"{self._start // 1000 - 1}-18446744073709551615" if self._start >= 1000 else "0"
        try:
            self._client.xgroup_create(self._topic, self._group, id=after, mkstream=True)
        except self._refused as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._joined = True

    def _message(self, entry: bytes, fields: dict[bytes, bytes]) -> Message:
        position = entry.decode()
        identity, key = fields.get(b"id"), fields.get(b"key")
        return Message(
            id=f"{self._topic}:{position}" if identity is None else identity.decode("utf-8", "replace"),
            value=fields.get(b"value", b""),
            key=None if key is None else key.decode("utf-8", "replace"),
            position=position,
        )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise UnavailableError(
                f"Redis does not answer: {type(error).__name__}: {error}", where={"topic": self.url},
                hint="Start it, or correct the URL; it repeats until then.",
            ) from error  # fmt: skip


def _flat(listed: Any) -> Any:
    """Entries, which newer protocols put into one more list."""
    return listed[0] if listed and isinstance(listed[0], list) else listed
