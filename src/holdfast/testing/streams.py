"""The contract suite of topics."""

import time
from collections.abc import Callable, Iterator

import pytest

from holdfast.backend.ports import Stream
from holdfast.backend.records import Message

__all__ = ["StreamContract"]

_PATIENCE = 60.0


class StreamContract:
    """What every Stream must do. Subclass it and give the fixture `door`: `door(group, start=0)` opens the same topic,
    empty at first, with a `patience` of a few seconds. The suite closes what it opened.

    `leaves_out_repeats`: whether the server knows the ids of the last minutes.
    """

    leaves_out_repeats = True

    @pytest.fixture
    def door(self) -> Iterator[Callable[..., Stream]]:
        """Opens the topic under test."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, door: Callable[..., Stream]) -> Iterator[Callable[..., Stream]]:
        """As `door`, closed at the end."""
        made: list[Stream] = []

        def open_(group: str | None = None, start: int = 0) -> Stream:
            made.append(door(group, start=start))
            return made[-1]

        yield open_
        for one in made:
            one.close()

    def drained(self, stream: Stream, count: int, *, acknowledge: bool = True) -> list[Message]:
        """Read until there are so many messages, for a minute at most, and once more; acknowledge each batch."""
        found: list[Message] = []
        until = time.monotonic() + _PATIENCE
        while len(found) < count and time.monotonic() < until:
            batch = stream.read(100, 0.5)
            found += batch
            if acknowledge:
                stream.acknowledge(batch)
        found += stream.read(100, 0.2)
        return found

    def _lag(self, stream: Stream, wanted: int) -> int:
        """The lag, a little later if need be: what was acknowledged is under way to the broker."""
        until = time.monotonic() + _PATIENCE
        while (found := stream.lag()) != wanted and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def test_what_is_appended_is_read_in_order_and_whole(self, opened: Callable[..., Stream]) -> None:
        """Bytes, ids and keys come back exactly."""
        reader = opened("组 one")
        values = ['{"名": 1}'.encode(), b"", b"\x00\xff\r\n", "🜁".encode() * 10_000]
        sent = [Message(f"id-{n} é", value, "键 k:/%\n") for n, value in enumerate(values)]
        opened().append(sent)
        opened().append([Message("none", b"1", None)])
        opened().append([])
        found = self.drained(reader, 5)
        same = {message.id: message for message in found}
        assert len(found) == 5
        assert [one._replace(position="") for one in found if one.key is not None] == sent
        assert same["none"].key is None
        assert len({message.position for message in found}) == 5
        assert reader.lag() == 0

    def test_an_empty_topic_gives_nothing(self, opened: Callable[..., Stream]) -> None:
        """Reading from a topic that nobody made yet makes it."""
        reader = opened("g")
        assert reader.read(10, 0.1) == []
        assert reader.lag() == 0
        reader.acknowledge([])
        opened().append([Message("1", b"x")])
        assert [one.id for one in self.drained(reader, 1)] == ["1"]

    def test_each_group_reads_everything_from_the_oldest_on(self, opened: Callable[..., Stream]) -> None:
        """Also what was appended before the group came."""
        opened().append([Message(str(n), b"v", "k") for n in range(250)])
        for group in ("a", "b"):
            reader = opened(group)
            assert reader.lag() == 250
            assert [one.id for one in self.drained(reader, 250)] == [str(n) for n in range(250)]
            assert reader.lag() == 0

    def test_no_more_than_asked(self, opened: Callable[..., Stream]) -> None:
        """`count` bounds a read."""
        opened().append([Message(str(n), b"v", "k") for n in range(20)])
        reader = opened("g")
        sizes: list[int] = []
        until = time.monotonic() + _PATIENCE
        while sum(sizes) < 20 and time.monotonic() < until:
            batch = reader.read(7, 0.5)
            reader.acknowledge(batch)
            sizes.append(len(batch))
        assert sum(sizes) == 20
        assert max(sizes) <= 7

    def test_what_was_not_acknowledged_is_read_again(self, opened: Callable[..., Stream]) -> None:
        """By the next reader of the group; what was acknowledged is not."""
        opened().append([Message(str(n), b"v", "k") for n in range(10)])
        first = opened("g")
        found = self.drained(first, 10, acknowledge=False)
        assert len(found) == 10
        first.acknowledge(found[:6])
        assert self._lag(first, 4) == 4
        first.close()
        second = opened("g")
        assert [one.id for one in self.drained(second, 4)] == ["6", "7", "8", "9"]
        assert self._lag(second, 0) == 0

    def test_readers_of_a_group_share(self, opened: Callable[..., Stream]) -> None:
        """Each message goes to one of them."""
        readers = opened("g"), opened("g")
        # A broker may move partitions while a reader joins, and then gives again what was not acknowledged yet.
        settled: set[int] = set()
        until, number = time.monotonic() + _PATIENCE, 0
        while len(settled) < len(readers) and time.monotonic() < until:
            number += 1
            opened().append([Message(f"before {number} {n}", b"v", str(n)) for n in range(20)])
            settled |= {place for place, reader in enumerate(readers) if self._taken(reader, 3)}
        opened().append([Message(str(n), b"v", str(n)) for n in range(60)])
        found: list[str] = []
        while len(set(found)) < 60 and time.monotonic() < until:
            for reader in readers:
                found += [one for one in self._taken(reader, 5) if not one.startswith("before")]
        assert sorted(found, key=int) == [str(n) for n in range(60)]

    def _taken(self, reader: Stream, limit: int) -> list[str]:
        batch = reader.read(limit, 0.3)
        reader.acknowledge(batch)
        return [message.id for message in batch]

    def test_a_group_may_begin_at_a_moment(self, opened: Callable[..., Stream]) -> None:
        """What was appended before it is not read by that group."""
        opened().append([Message("old", b"v", "k")])
        time.sleep(0.05)
        moment = time.time_ns() // 1000
        time.sleep(0.05)
        opened().append([Message("new", b"v", "k")])
        assert [one.id for one in self.drained(opened("late", moment), 1)] == ["new"]
        assert [one.id for one in self.drained(opened("all"), 2)] == ["old", "new"]

    def test_an_id_that_is_appended_again(self, opened: Callable[..., Stream]) -> None:
        """Is left out, or has the same id."""
        writer = opened()
        writer.append([Message("1", b"v", "k"), Message("2", b"v", "k")])
        writer.append([Message("2", b"v", "k"), Message("3", b"v", "k")])
        found = [one.id for one in self.drained(opened("g"), 3 if self.leaves_out_repeats else 4)]
        assert found == (["1", "2", "3"] if self.leaves_out_repeats else ["1", "2", "2", "3"])

    def test_the_url_is_told(self, opened: Callable[..., Stream]) -> None:
        """For people."""
        assert "://" in opened().url
