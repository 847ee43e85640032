"""The contract suite of online stores."""

import math
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.backend.ports import OnlineStore
from holdfast.backend.records import Freshness, Key, OnlineRow, Vector
from holdfast.errors import InputError

__all__ = ["OnlineStoreContract"]

_HOUR = 3_600_000_000
_COLUMNS = ("COUNT(访问)", "b")


def _now() -> int:
    return time.time_ns() // 1000


class OnlineStoreContract:
    """What every OnlineStore must do. Subclass it and give the fixture `online`, empty at first.

    `reopened` is another door to the same store, as another process has it.
    """

    @pytest.fixture
    def online(self) -> Iterator[OnlineStore]:
        """The store under test."""
        raise NotImplementedError

    @pytest.fixture
    def reopened(self) -> Iterator[OnlineStore]:
        """The same store, opened once more."""
        raise NotImplementedError

    def put(self, online: OnlineStore, entity: int, value: float | str | None, at: int, **options: object) -> int:
        """Write one vector of one value."""
        row = OnlineRow(entity, (value,), at)
        return online.write("g", ("f",), [row], **{"made_at": at, **options})  # type: ignore[arg-type]

    def get(self, online: OnlineStore, entity: int, now: int | None = None) -> object:
        """The value that `put` wrote; "absent" where there is none."""
        (found,) = online.read("g", [entity], _now() if now is None else now)
        return "absent" if found is None else found.values["f"]

    def test_empty(self, online: OnlineStore) -> None:
        """Before the first write there is nothing, and nothing fails."""
        assert online.read("g", [1, "甲"], _now()) == [None, None]
        assert online.read("g", [], _now()) == []
        assert online.freshness("g", _now()) == Freshness(0, 0, None, None)
        assert online.delete("g", [1]) == 0
        online.drop("g")

    def test_reads_what_was_written(self, online: OnlineStore, reopened: OnlineStore) -> None:
        """Everything of a vector comes back, through any door, in the order of the question."""
        now = _now()
        rows = [OnlineRow(7, (1.5, "差"), now - 5), OnlineRow(8, (2.5, None), now - 6)]
        assert online.write("餐厅 统计", _COLUMNS, rows, made_at=now, ttl=_HOUR, origin="v1.0") == 2
        wanted = Vector(7, {"COUNT(访问)": 1.5, "b": "差"}, now - 5, now, now - 5 + _HOUR, "v1.0")
        for door in (online, reopened):
            found = door.read("餐厅 统计", [9, 8, 7, 7], now)
            assert found[0] is None
            assert found[1] is not None
            assert found[1].values == {"COUNT(访问)": 2.5, "b": None}
            assert found[2:] == [wanted, wanted]
        assert list(wanted.values) == list(_COLUMNS)

    @pytest.mark.parametrize(
        "value",
        [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, True, False, None, 0.1, -0.0, 5e-324, math.inf, -math.inf, "", "未知",
         "a\x00b\n", "🜁é", "null", "NaN"],
    )  # fmt: skip
    def test_values_come_back_exactly(self, online: OnlineStore, value: float | str | None) -> None:
        """Type and value, the sign of zero too."""
        self.put(online, 1, value, _now())
        found = self.get(online, 1)
        assert type(found) is type(value)
        assert found == value
        if isinstance(value, float) and isinstance(found, float):
            assert struct.pack("d", found) == struct.pack("d", value)

    def test_nan_is_not_null(self, online: OnlineStore) -> None:
        """NaN stays a number."""
        self.put(online, 1, math.nan, _now())
        found = self.get(online, 1)
        assert isinstance(found, float)
        assert math.isnan(found)

    def test_keys_are_told_apart_by_type(self, online: OnlineStore) -> None:
        """1, "1", 1.0 and true are four; a key may be any text."""
        keys: list[Key] = [1, "1", 1.0, True, "甲:}乙", "", -(2**63), 2**63 - 1]
        now = _now()
        online.write("g", ("f",), [OnlineRow(key, (repr(key),), now) for key in keys], made_at=now)
        found = online.read("g", keys, now)
        assert [vector and vector.values["f"] for vector in found] == [repr(key) for key in keys]

    def test_groups_are_apart(self, online: OnlineStore) -> None:
        """The same entity in two groups; names may be any text."""
        now, names = _now(), ["a", "a}", "a:v", "{a}", "甲"]
        for name in names:
            online.write(name, ("f",), [OnlineRow(1, (name,), now)], made_at=now)
        online.drop("a")
        found = {name: online.read(name, [1], now)[0] for name in names}
        assert {name: vector and vector.values["f"] for name, vector in found.items()} == {
            name: None if name == "a" else name for name in names
        }

    def test_newest_event_wins(self, online: OnlineStore) -> None:
        """Whatever the order of writes; what is older is counted out."""
        now = _now()
        assert self.put(online, 1, "new", now) == 1
        assert self.put(online, 1, "old", now - 1, made_at=now + 9) == 0
        assert self.get(online, 1) == "new"
        assert self.put(online, 1, "newer", now + 1) == 1
        assert self.get(online, 1) == "newer"

    def test_of_equal_events_the_last_made_wins(self, online: OnlineStore) -> None:
        """And of those made together the last write, also within a batch."""
        now = _now()
        self.put(online, 1, "second", now, made_at=now + 2)
        assert self.put(online, 1, "first", now, made_at=now + 1) == 0
        assert self.get(online, 1) == "second"
        self.put(online, 1, "third", now, made_at=now + 2)
        assert self.get(online, 1) == "third"
        rows = [OnlineRow(2, ("a",), now), OnlineRow(2, ("z",), now + 1), OnlineRow(2, ("b",), now)]
        online.write("g", ("f",), rows, made_at=now)
        assert self.get(online, 2) == "z"

    def test_event_times_are_exact(self, online: OnlineStore) -> None:
        """A microsecond decides, before 1970 and in far years too."""
        for entity, at in enumerate((-(2**62), -1, 0, 2**53, 2**62)):
            self.put(online, entity, "new", at)
            assert self.put(online, entity, "old", at - 1) == 0
            assert self.get(online, entity) == "new"
            assert self.put(online, entity, "newer", at + 1) == 1

    def test_expired_is_absent(self, online: OnlineStore) -> None:
        """From event time + ttl on, which may be over before it is written."""
        now = _now()
        self.put(online, 1, "soon gone", now, ttl=_HOUR)
        self.put(online, 2, "never here", now - 2 * _HOUR, ttl=_HOUR)
        self.put(online, 3, "stays", now)
        assert [self.get(online, n, now) for n in (1, 2, 3)] == ["soon gone", "absent", "stays"]
        assert self.get(online, 1, now + _HOUR - 1) == "soon gone"
        assert [self.get(online, n, now + _HOUR) for n in (1, 2, 3)] == ["absent", "absent", "stays"]

    def test_a_newer_write_sets_the_expiry(self, online: OnlineStore) -> None:
        """It can take the end away, or bring one."""
        now = _now()
        self.put(online, 1, "a", now, ttl=_HOUR)
        self.put(online, 1, "b", now + 1)
        assert self.get(online, 1, now + 9 * _HOUR) == "b"
        assert online.freshness("g", now + 9 * _HOUR).expired == 0
        self.put(online, 1, "c", now + 2, ttl=_HOUR)
        assert self.get(online, 1, now + 9 * _HOUR) == "absent"

    def test_freshness(self, online: OnlineStore) -> None:
        """What counts, what has expired, newest and oldest."""
        now = _now()
        for entity in range(5):
            self.put(online, entity, "x", now + entity * 1000, ttl=_HOUR)
        assert online.freshness("g", now + 10_000) == Freshness(5, 0, now + 4000, now)
        assert online.freshness("g", now + 2000 + _HOUR) == Freshness(2, 3, now + 4000, now)

    def test_delete_erases(self, online: OnlineStore, reopened: OnlineStore) -> None:
        """An entity is gone for every door; it can come back, older too."""
        now = _now()
        online.write("g", ("f",), [OnlineRow(n, ("x",), now) for n in range(4)], made_at=now)
        assert online.delete("g", [1, 2, 77]) == 2
        assert [vector is None for vector in reopened.read("g", range(4), now)] == [False, True, True, False]
        assert online.freshness("g", now).vectors == 2
        assert self.put(online, 1, "back", now - 5) == 1

    def test_drop(self, online: OnlineStore) -> None:
        """Nothing stays."""
        self.put(online, 1, "x", _now(), ttl=_HOUR)
        online.drop("g")
        assert self.get(online, 1) == "absent"
        assert online.freshness("g", _now()) == Freshness(0, 0, None, None)

    def test_replace(self, online: OnlineStore) -> None:
        """What was there goes, newer vectors too, with the write."""
        now = _now()
        online.write("g", ("f",), [OnlineRow(n, ("old",), now) for n in range(3)], made_at=now)
        row = OnlineRow(0, (1, 2), now - 5)
        assert online.write("g", ("x", "y"), [row], made_at=now, replace=True) == 1
        found = online.read("g", [0, 1, 2], now)
        assert found[0] is not None
        assert found[0].values == {"x": 1, "y": 2}
        assert found[1:] == [None, None]
        assert online.freshness("g", now) == Freshness(1, 0, now - 5, now - 5)

    def test_columns_may_change(self, online: OnlineStore) -> None:
        """Each vector keeps the columns it was written with."""
        now = _now()
        online.write("g", ("a", "b"), [OnlineRow(n, (1, 2), now) for n in (1, 2)], made_at=now)
        online.write("g", ("b", "c", "d"), [OnlineRow(1, (3, 4, 5), now)], made_at=now)
        found = online.read("g", [1, 2], now)
        assert [vector and vector.values for vector in found] == [{"b": 3, "c": 4, "d": 5}, {"a": 1, "b": 2}]

    @pytest.mark.parametrize("bad", [[1], b"x", 2**64, "\ud800", object()])
    def test_a_bad_value_leaves_the_batch_out(self, online: OnlineStore, bad: object) -> None:
        """InputError names the entity; nothing was written."""
        now = _now()
        self.put(online, 0, "before", now - 1)
        rows = [*(OnlineRow(n, ("after",), now) for n in range(2000)), OnlineRow(2000, (bad,), now)]  # type: ignore[arg-type]
        with pytest.raises(InputError) as caught:
            online.write("g", ("f",), rows, made_at=now, replace=True)
        assert caught.value.where["entity"] == 2000
        assert self.get(online, 0) == "before"
        assert online.freshness("g", now).vectors == 1

    def test_shapes_and_keys_are_checked(self, online: OnlineStore) -> None:
        """A row of another length, a column twice, a key that is none."""
        now = _now()
        with pytest.raises(InputError, match="3 values for 2 columns"):
            online.write("g", ("a", "b"), [OnlineRow(1, (1, 2, 3), now)], made_at=now)
        with pytest.raises(InputError, match="twice"):
            online.write("g", ("a", "a"), [OnlineRow(1, (1, 2), now)], made_at=now)
        for key in (None, [1], b"x", 2**64, "\ud800"):
            with pytest.raises(InputError):
                online.write("g", ("a",), [OnlineRow(key, (1,), now)], made_at=now)  # type: ignore[arg-type]
            with pytest.raises(InputError):
                online.read("g", [key], now)  # type: ignore[list-item]
        assert online.freshness("g", now).vectors == 0

    def test_a_batch_that_breaks_off_is_not_there(self, online: OnlineStore) -> None:
        """Rows come from a generator that fails."""

        def rows() -> Iterator[OnlineRow]:
            for n in range(3000):
                yield OnlineRow(n, ("x",), _now())
            raise KeyError("broken")

        with pytest.raises(KeyError, match="broken"):
            online.write("g", ("f",), rows(), made_at=_now())
        assert online.freshness("g", _now()).vectors == 0
        assert self.put(online, 1, "fine", _now()) == 1

    def test_readers_see_whole_batches(self, online: OnlineStore, reopened: OnlineStore) -> None:
        """Each batch writes its number to all entities; a read of all never sees two numbers."""
        start, entities = _now(), list(range(1200))

        def batch(number: int) -> int:
            rows = [OnlineRow(n, (number,), start + number) for n in entities]
            return online.write("g", ("f",), rows, made_at=start)

        def look(_: int) -> set[object]:
            (first, last) = reopened.read("g", [0, 1199], start)
            return {first and first.values["f"], last and last.values["f"]}

        batch(0)
        with ThreadPoolExecutor(3) as pool:
            writing = [pool.submit(batch, number) for number in range(1, 12)]
            # Two statements may straddle a commit in a store without snapshots: then the later is newer by one batch.
            seen = [look(n) for n in range(300)]
            written = [future.result() for future in writing]
        assert all(len(numbers) <= 2 and None not in numbers for numbers in seen)
        assert self.get(online, 5) == 11
        assert set(written) <= {0, 1200}

    def test_at_once(self, online: OnlineStore, reopened: OnlineStore) -> None:
        """Writers through two doors in many threads: the newest of each entity is there at the end."""
        start = _now()

        def batch(number: int) -> None:
            at = start + (number * 7919) % 64
            rows = [OnlineRow(n, (at,), at) for n in range(number % 5, 300, 5)]
            (online if number % 2 else reopened).write("g", ("f",), rows, made_at=start, ttl=_HOUR)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(batch, range(64)))
        newest = {rest: max(start + (n * 7919) % 64 for n in range(64) if n % 5 == rest) for rest in range(5)}
        found = online.read("g", range(300), start)
        assert [vector and vector.values["f"] for vector in found] == [newest[n % 5] for n in range(300)]
        assert online.freshness("g", start) == Freshness(300, 0, max(newest.values()), min(newest.values()))
