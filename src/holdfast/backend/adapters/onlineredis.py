"""Online vectors in Redis (extra `redis`).

A vector is one string under `holdfast:{NAMESPACE:GROUP}:v:KEY`: event time, making, expiry and layout in 32 bytes, then
the payload. Two sorted sets a group (`events`, `expiries`) count and age it without reading it. The braces put a group
into one slot of a cluster, so that a batch is one MULTI ... EXEC: all of it or nothing, and one script compares event
times where the data is. A batch therefore occupies Redis while it is executed.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from holdfast.backend.adapters.onlinecodec import (
    decode_columns,
    decode_payload,
    encode_columns,
    encode_key,
    encode_rows,
    layout_of,
)
from holdfast.backend.records import Freshness, Key, OnlineRow, Value, Vector
from holdfast.core.timeline import NEVER
from holdfast.errors import IntegrityError, MissingExtraError, UnavailableError

__all__ = ["RedisOnline"]

_HEAD = struct.Struct(">QQqq")  # event and making (shifted: unsigned bytes order as the instants do), expiry, layout
_SHIFT = 1 << 63
_CHUNK = 250
# KEYS: events, expiries, then a vector each. ARGV, four each: bytes, key, event time, expiry ("" = never).
# Lua's numbers are doubles: instants are compared as pairs of 32 bits, exactly.
_WRITE = """
local taken = 0
for i = 3, #KEYS do
  local a = (i - 3) * 4
  local blob, member, event, expires = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local held = redis.call('GETRANGE', KEYS[i], 0, 15)
  local newer = true
  if #held == 16 then
    local n = {struct.unpack('>I4I4I4I4', blob)}
    local h = {struct.unpack('>I4I4I4I4', held)}
    for p = 1, 4 do
      if n[p] ~= h[p] then newer = n[p] > h[p]; break end
    end
  end
  if newer then
    taken = taken + 1
    redis.call('SET', KEYS[i], blob)
    redis.call('ZADD', KEYS[1], event, member)
    if expires == '' then
      redis.call('ZREM', KEYS[2], member)
    else
      redis.call('ZADD', KEYS[2], expires, member)
      -- Rounded up: Redis may keep a vector a moment too long, and a reader looks at the exact time.
      local ms = math.ceil(tonumber(expires) / 1000)
      if ms < 1e15 then redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', ms)) end
    end
  end
end
return taken
"""
# KEYS: events, expiries. ARGV: the prefix of vectors.
_DROP = """
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('UNLINK', ARGV[1] .. member) end
return redis.call('DEL', KEYS[1], KEYS[2])
"""


class RedisOnline:
    """`OnlineStore` in one Redis database. `namespace` (the project) keeps stores on one server apart."""

    def __init__(self, url: str, namespace: str) -> None:
        try:
            import redis
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "an online store in Redis needs the Redis client", hint='Run: pip install "holdfast[redis]"'
            ) from error
        self._errors = redis.RedisError
        self._where = _shown(url)
        self._namespace = namespace
        self._client = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=5)
        self._layouts: dict[int, tuple[str, ...]] = {}

    def write(
        self,
        group: str,
        columns: Sequence[str],
        rows: Iterable[OnlineRow],
        *,
        made_at: int,
        ttl: int | None = None,
        origin: str = "",
        replace: bool = False,
    ) -> int:
        """Write a batch in one transaction; returns how many vectors were not older than what was there."""
        described = encode_columns(group, columns)
        layout = layout_of(described)
        events, expiries, prefix = self._keys(group)
        with self._guard(), self._client.pipeline(transaction=True) as pipe:
            if replace:
                pipe.eval(_DROP, 2, events, expiries, prefix)
            keys: list[bytes] = []
            values: list[Any] = []
            for key, event_at, payload in encode_rows(group, columns, rows, origin):
                expires = NEVER if ttl is None else min(event_at + ttl, NEVER)
                head = _HEAD.pack(event_at + _SHIFT, made_at + _SHIFT, expires, layout)
                keys.append(prefix + key)
                values += (head + payload, key, event_at, "" if expires == NEVER else expires)
                if len(keys) == _CHUNK:
                    pipe.eval(_WRITE, 2 + len(keys), events, expiries, *keys, *values)
                    keys, values = [], []
            if keys:
                pipe.eval(_WRITE, 2 + len(keys), events, expiries, *keys, *values)
            # Before the vectors that need it; alone it does no harm.
            self._client.set(self._layout_key(layout), described, nx=True)
            taken = pipe.execute()
            return sum(taken[1 if replace else 0 :])

    def read(self, group: str, entities: Sequence[Key], now: int) -> list[Vector | None]:
        """The vector of each entity, in one request; None where there is none or it has expired."""
        if not entities:
            return []
        _, _, prefix = self._keys(group)
        with self._guard():
            stored = self._client.mget([prefix + encode_key(group, entity) for entity in entities])
            return [
                None if data is None else self._vector(group, entity, data, now)
                for entity, data in zip(entities, cast("list[bytes | None]", stored), strict=True)
            ]

    def _vector(self, group: str, entity: Key, data: bytes, now: int) -> Vector | None:
        event_at, made_at, expires, layout = _HEAD.unpack_from(data)
        if expires <= now:
            return None
        origin, values = decode_payload(group, data[_HEAD.size :])
        columns = self._layouts.get(layout) or self._layout(group, layout)
        named = cast("dict[str, Value]", dict(zip(columns, values, strict=True)))
        until = None if expires == NEVER else expires
        return Vector(entity, named, event_at - _SHIFT, made_at - _SHIFT, until, origin)

    def delete(self, group: str, entities: Sequence[Key]) -> int:
        """Erase entities in one transaction; returns how many were there."""
        events, expiries, prefix = self._keys(group)
        keys = [encode_key(group, entity) for entity in entities]
        if not keys:
            return 0
        with self._guard(), self._client.pipeline(transaction=True) as pipe:
            pipe.delete(*(prefix + key for key in keys))
            pipe.zrem(events, *keys)
            pipe.zrem(expiries, *keys)
            return int(pipe.execute()[1])

    def drop(self, group: str) -> None:
        """Erase a whole group."""
        events, expiries, prefix = self._keys(group)
        with self._guard():
            self._client.eval(_DROP, 2, events, expiries, prefix)

    def freshness(self, group: str, now: int) -> Freshness:
        """Counts and ages of a group, from its sorted sets."""
        events, expiries, _ = self._keys(group)
        with self._guard(), self._client.pipeline(transaction=True) as pipe:
            pipe.zcard(events)
            pipe.zcount(expiries, "-inf", now)
            pipe.zrange(events, 0, 0, withscores=True)
            pipe.zrange(events, -1, -1, withscores=True)
            stored, expired, oldest, newest = pipe.execute()
        ends = [int(float(ends[0][1])) if ends else None for ends in (newest, oldest)]
        return Freshness(stored - expired, expired, *ends)

    def close(self) -> None:
        """Close the pool's connections."""
        self._client.close()

    def _keys(self, group: str) -> tuple[bytes, bytes, bytes]:
        root = f"holdfast:{{{self._namespace}:{group}}}:"
        return f"{root}events".encode(), f"{root}expiries".encode(), f"{root}v:".encode()

    def _layout_key(self, layout: int) -> str:
        return f"holdfast:layout:{layout:x}"

    def _layout(self, group: str, layout: int) -> tuple[str, ...]:
        data = cast("bytes | None", self._client.get(self._layout_key(layout)))
        if data is None:
            raise IntegrityError(
                "the columns of a stored vector are lost", where={"group": group},
                hint="Redis may have evicted them (set maxmemory-policy noeviction). Materialise the group again.",
            )  # fmt: skip
        self._layouts[layout] = decode_columns(data)
        return self._layouts[layout]

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """The client's errors as ours; neither names the URL, which may hold a password."""
        try:
            yield
        except self._errors as error:
            raise UnavailableError(
                f"Redis does not answer: {type(error).__name__}: {error}", where=self._where,
                hint="Start it, or correct `online.store` in holdfast.yaml.",
            ) from error  # fmt: skip


def _shown(url: str) -> dict[str, object]:
    """Where a Redis is, without user and password."""
    parts = urlsplit(url)
    return {"host": parts.hostname or "localhost", "port": parts.port or 6379, "database": parts.path.strip("/") or "0"}
