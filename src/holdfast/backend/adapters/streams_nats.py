"""Topics as subjects of NATS JetStream (extra `nats`).

The id is the header `Nats-Msg-Id`, by which the server leaves out repeats; the key is `Holdfast-Key`, percent-encoded.
A stream that covers the subject is used where there is one, else made. The client is asynchronous: it has a thread.
"""

import asyncio
import hashlib
import re
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from holdfast.backend.records import Message
from holdfast.errors import ConfigError, MissingExtraError, UnavailableError

__all__ = ["NatsStream"]

_ID, _KEY = "Nats-Msg-Id", "Holdfast-Key"
_WINDOW = 600
"""Seconds for which a stream that is made here leaves out a repeated id."""
_TIMEOUT = 10.0


class NatsStream:
    """`Stream` of the subject `topic` at `server` (nats://host:port). `group` None: for appending only.

    A group that is new begins with what was appended at the instant `start` (microseconds) or later.
    """

    def __init__(
        self, server: str, topic: str, group: str | None = None, *, start: int = 0, patience: float = 30.0
    ) -> None:
        try:
            import nats
            import nats.errors
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "topics in NATS need the NATS client", hint='Run: pip install "holdfast[nats]"'
            ) from error
        if re.search(r"[\s*>]", topic) or not all(topic.split(".")):
            raise ConfigError(
                f"{topic!r} is no subject of NATS", where={"topic": topic},
                hint="Words with dots between them, without spaces, * and >.",
            )  # fmt: skip
        self._nats: Any = nats
        parts = urlsplit(server)
        self.url = f"nats://{parts.hostname or 'localhost'}:{parts.port or 4222}/{topic}"
        self._server, self._topic, self._group = server, topic, group
        self._start, self._patience = start, patience
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        self._connection: Any = None
        self._jetstream: Any = None
        self._stream = ""
        self._subscription: Any = None
        self._pending: dict[str, Any] = {}

    def append(self, messages: Sequence[Message]) -> None:
        """Publish, and wait until the server has all of them."""
        self._do(self._append(messages))

    async def _append(self, messages: Sequence[Message]) -> None:
        await self._connected()
        kept = []
        for message in messages:
            headers = {_ID: quote(message.id, safe=":/")}
            if message.key is not None:
                headers[_KEY] = "k" + quote(message.key)
            kept.append(await self._jetstream.publish_async(self._topic, message.value, headers=headers))
        await asyncio.wait_for(asyncio.gather(*kept), _TIMEOUT)

    def read(self, count: int, wait: float) -> list[Message]:
        """What is new, and what was not acknowledged for `patience`."""
        return self._do(self._read(count, wait), wait)  # type: ignore[no-any-return]

    async def _read(self, count: int, wait: float) -> list[Message]:
        await self._connected()
        await self._subscribed()
        try:
            found = await self._subscription.fetch(count, timeout=max(wait, 0.05))
        except (TimeoutError, self._nats.errors.TimeoutError):
            return []
        return [self._message(one) for one in found]

    def _message(self, given: Any) -> Message:
        headers = given.headers or {}
        position = str(given.metadata.sequence.stream)
        self._pending[position] = given
        key = headers.get(_KEY)
        return Message(
            id=unquote(headers[_ID]) if _ID in headers else f"{self._topic}:{position}",
            value=given.data,
            key=None if key is None else unquote(key.removeprefix("k")),
            position=position,
        )

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the server; it forgets them for the group."""
        self._do(self._acknowledge(messages))

    async def _acknowledge(self, messages: Sequence[Message]) -> None:
        await self._connected()
        for message in messages:
            given = self._pending.pop(message.position, None)
            if given is not None:
                await given.ack()
        await self._connection.flush(_TIMEOUT)

    def lag(self) -> int:
        """Those that were not delivered, and those that were and are not acknowledged."""
        return self._do(self._lag())  # type: ignore[no-any-return]

    async def _lag(self) -> int:
        await self._connected()
        await self._subscribed()
        told = await self._jetstream.consumer_info(self._stream, _named(str(self._group)))
        return int(told.num_pending or 0) + int(told.num_ack_pending or 0)

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._loop.is_closed():
            return
        if self._connection is not None:
            with suppress(UnavailableError):  # it is away: nothing to close
                self._do(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT)
        self._loop.close()

    async def _connected(self) -> None:
        if self._connection is None or self._connection.is_closed:
            self._subscription = None
            # Few attempts: then the connection is closed, whoever asks is told, and the next call begins anew.
            self._connection = await self._nats.connect(
                self._server, connect_timeout=5, max_reconnect_attempts=3, reconnect_time_wait=0.5, error_cb=_ignore
            )
            self._jetstream = self._connection.jetstream(timeout=_TIMEOUT)
        if not self._stream:
            from nats.js.errors import NotFoundError

            try:
                self._stream = await self._jetstream.find_stream_name_by_subject(self._topic)
            except NotFoundError:
                name = _named(self._topic)
                await self._jetstream.add_stream(name=name, subjects=[self._topic], duplicate_window=_WINDOW)
                self._stream = name

    async def _subscribed(self) -> None:
        if self._subscription is not None:
            return
        from nats.js import api
        from nats.js.errors import NotFoundError

        name = _named(str(self._group))
        try:
            await self._jetstream.consumer_info(self._stream, name)
        except NotFoundError:
            begin: dict[str, Any] = {"deliver_policy": api.DeliverPolicy.ALL}
            if self._start:
                moment = datetime.fromtimestamp(self._start / 1e6, UTC)
                begin = {"deliver_policy": api.DeliverPolicy.BY_START_TIME, "opt_start_time": moment}
            config = api.ConsumerConfig(
                durable_name=name, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=self._patience,
                filter_subject=self._topic, max_ack_pending=100_000, **begin,
            )  # fmt: skip
            await self._jetstream.add_consumer(self._stream, config)
        self._subscription = await self._jetstream.pull_subscribe_bind(consumer=name, stream=self._stream)

    def _do(self, work: Coroutine[Any, Any, Any], wait: float = 0.0) -> Any:
        with self._guard():
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(wait + 3 * _TIMEOUT)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (self._nats.errors.Error, OSError, TimeoutError) as error:
            raise UnavailableError(
                f"NATS does not answer: {type(error).__name__}: {error}", where={"topic": self.url},
                hint="Start it with JetStream (nats-server -js), or correct the URL; it repeats until then.",
            ) from error  # fmt: skip


async def _ignore(_error: Exception) -> None:
    """The client tells of lost connections here; whoever asks gets an error anyway."""


def _named(text: str) -> str:
    """A text as a name that streams and consumers may have; another text has another name."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
