"""Random histories of changes, branches, merges, reverts and compactions equal a model in plain Python."""

import tempfile
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.backend.datasets.collecting import collect
from holdfast.backend.datasets.merging import common_ancestor, merge
from holdfast.backend.datasets.rewriting import compact, revert
from holdfast.backend.store import Store
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO
from holdfast.errors import ConflictError, NotFoundError
from tests.integration.versions.world import World

TABLES = ("户", "账", "记")
GONE = None
KEYS = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
CHANGE = st.tuples(
    st.just("change"), st.sampled_from(["append", "upsert", "upsert", "delete"]), st.sampled_from(TABLES), KEYS,
    st.sampled_from(["a", "é", "", None]),
)  # fmt: skip
BRANCH = st.sampled_from(["main", "甲", "乙"])
OTHER = st.one_of(
    st.tuples(st.just("branch"), st.sampled_from(["甲", "乙"])),
    st.tuples(st.just("checkout"), st.sampled_from(["main", "甲", "乙"])),
    st.tuples(st.just("merge"), BRANCH, st.sampled_from([None, "ours", "theirs", "newest"])),
    st.tuples(st.just("revert"), st.integers(0, 30)),
    st.tuples(st.just("compact")),
    st.tuples(st.just("collect")),
)  # fmt: skip
HISTORY = st.lists(st.one_of(CHANGE, CHANGE, OTHER), min_size=1, max_size=25)


@dataclass
class Delta:
    """What one version added to one table: (key, known, content) in order; content GONE: removed."""

    name: str
    entries: list[tuple[Any, int, Any]]


@dataclass
class Line:
    """A version: the deltas of each table, oldest first."""

    tables: dict[str, list[Delta]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def states(self, table: str, skip: int = 0) -> dict[Any, list[tuple[int, Any]]]:
        found: dict[Any, list[tuple[int, Any]]] = {}
        for delta in self.tables[table][skip:]:
            for key, known, content in delta.entries:
                found.setdefault(key, []).append((known, content))
        return found

    def current(self, table: str) -> dict[Any, Any]:
        return {key: states[-1][1] for key, states in self.states(table).items() if states[-1][1] is not GONE}

    def shown(self, table: str) -> Counter[Any]:
        """(key, known from, known to, content) of every state that a reader sees."""
        found: Counter[Any] = Counter()
        for key, states in self.states(table).items():
            for n, (known, content) in enumerate(states):
                until = states[n + 1][0] if table != "记" and n + 1 < len(states) else None
                if content is not GONE:
                    found[key, known, until, content] += 1
        return found


class ConflictFoundError(Exception):
    pass


def shared_deltas(sides: list[list[Delta]]) -> int:
    count = 0
    while all(count < len(side) for side in sides) and len({side[count].name for side in sides}) == 1:
        count += 1
    return count


def merged_keyed(name: str, sides: list[Line], table: str, rule: str | None) -> list[Delta]:
    lists = [side.tables[table] for side in sides]
    skip = shared_deltas(lists)
    base, ours, theirs = (side.states(table, skip) for side in sides)
    fresh: list[tuple[Any, int, Any]] = []
    drop = set()
    for key in {**base, **ours, **theirs}:
        a, o, t = (side.get(key, []) for side in (base, ours, theirs))
        if t in (a, o):
            continue
        if o == a:
            if t[: len(a)] == a:
                fresh += [(key, *state) for state in t[len(a) :]]
            else:
                drop.add(key)
                fresh += [(key, *state) for state in t]
        elif not (o and t and o[-1][1] == t[-1][1]):
            takes = {"ours": False, "theirs": True, None: None}.get(rule)
            if rule == "newest" and o and t and o[-1][0] != t[-1][0]:
                takes = t[-1][0] > o[-1][0]
            if takes is None:
                raise ConflictFoundError
            if takes and t:
                fresh.append((key, max(t[-1][0], o[-1][0] if o else 0), t[-1][1]))
            elif takes:
                drop.add(key)
    return rebuilt(name, lists[1], skip, fresh, lambda entry, _: entry[0] in drop, bool(drop))


def merged_rows(name: str, sides: list[Line], table: str) -> list[Delta]:
    lists = [side.tables[table] for side in sides]
    skip = shared_deltas(lists)
    rows = [[entry for delta in side[skip:] for entry in delta.entries] for side in lists]
    counts = [Counter(content for _, _, content in side) for side in rows]
    fresh, drop = [], set()
    for content in {**counts[0], **counts[1], **counts[2]}:
        a, o, t = (count[content] for count in counts)
        wanted = min(a, o, t) + max(o, t, a) - a
        if wanted > o:
            fresh += [entry for entry in rows[2] if entry[2] == content][-(wanted - o) :]
        elif wanted < o:
            places = [n for n, entry in enumerate(rows[1]) if entry[2] == content]
            drop |= set(places[wanted - o :])
    return rebuilt(name, lists[1], skip, fresh, lambda _, place: place in drop, bool(drop))


def rebuilt(name, ours, skip, fresh, dropped, any_dropped):
    if any_dropped:
        entries = [entry for delta in ours[skip:] for entry in delta.entries]
        kept = [entry for place, entry in enumerate(entries) if not dropped(entry, place)]
        return [*ours[:skip], *([Delta(f"{name} anew", kept + fresh)] if kept + fresh else [])]
    return [*ours, *([Delta(name, fresh)] if fresh else [])]


class Run:
    def __init__(self, world: World) -> None:
        self.world, self.datasets = world, world.datasets
        self.lines = {world.first.id: Line()}
        self.order = [world.first.id]
        self.branches = {"main"}
        self.here = "main"

    @property
    def line(self) -> Line:
        current = self.datasets.current()
        assert current is not None
        return self.lines[current.id]

    def new(self, line: Line) -> None:
        current = self.datasets.current()
        assert current is not None
        assert current.id not in self.lines
        self.lines[current.id] = line
        self.order.append(current.id)

    def change(self, mode: str, table: str, keys: list[int], value: str | None) -> None:
        now = self.world.tick()
        line, there = deepcopy(self.line), self.line.current(table)
        if table == "记":
            if mode != "append":
                with pytest.raises(ConflictError, match="no key"):
                    self.world.change(table, [{"时": 1, "事": value}], "upsert")
                return
            rows = [{"时": key, "事": value} for key in keys]
            entries = [((key, value), now, (key, value)) for key in keys]
        else:
            full = {"户": lambda k: {"号": k, "值": value}, "账": lambda k: {"名": f"名{k % 2}", "次": k, "额": k / 2}}[
                table
            ]
            named = {key: (key,) if table == "户" else (f"名{key % 2}", key) for key in keys}
            rows = [full(key) for key in keys]
            wrong = [key for key in keys if (named[key] in there) == (mode == "append")]
            if wrong and mode != "upsert":
                with pytest.raises(ConflictError if mode == "append" else NotFoundError):
                    self.world.change(table, self._rows(table, rows, mode), mode)
                return
            content = {
                key: GONE if mode == "delete" else tuple(row.values()) for key, row in zip(keys, rows, strict=True)
            }
            entries = [(named[key], now, content[key]) for key in keys]
            rows = self._rows(table, rows, mode)
        self.world.change(table, rows, mode)
        line.tables[table].append(Delta(f"d{now}", entries))
        self.new(line)

    def _rows(self, table: str, rows: list[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
        keys = {"户": ["号"], "账": ["名", "次"]}[table]
        return [{name: row[name] for name in keys} for row in rows] if mode == "delete" else rows

    def branch(self, name: str) -> None:
        if name not in self.branches:
            self.datasets.refs.branch(name)
            self.branches.add(name)

    def checkout(self, name: str) -> None:
        if name in self.branches:
            self.datasets.checkout(name, "test")
            self.here = name

    def merge(self, name: str, rule: str | None) -> None:
        if name not in self.branches:
            return
        self.world.tick()
        mine, theirs = self.datasets.get().id, self.datasets.get(name).id
        base = common_ancestor(self.datasets, mine, theirs)
        assert base is not None
        if base.id in (mine, theirs):
            assert not merge(self.datasets, name, rule=rule).created
            assert self.datasets.get().id == (mine if base.id == theirs else theirs)
            return
        sides = [self.lines[one] for one in (base.id, mine, theirs)]
        made = Line()
        try:
            for table in TABLES:
                lists = [[delta.name for delta in side.tables[table]] for side in sides]
                if lists[2] in (lists[0], lists[1]):
                    made.tables[table] = sides[1].tables[table]
                elif table == "记":
                    made.tables[table] = merged_rows(f"m{self.world.clock.now()}", sides, table)
                else:
                    made.tables[table] = merged_keyed(f"m{self.world.clock.now()}", sides, table, rule)
        except ConflictFoundError:
            with pytest.raises(ConflictError, match="both sides"):
                merge(self.datasets, name, rule=rule)
            assert self.datasets.get().id == mine
            return
        merge(self.datasets, name, rule=rule)
        self.new(made)

    def revert(self, number: int) -> None:
        self.world.tick()
        target = self.order[number % len(self.order)]
        line = self.line
        mine = self.own(target)
        possible = bool(mine) and all(any(delta.name == name for delta in line.tables[table]) for table, name in mine)
        made = Line()
        for table in TABLES:
            deltas = line.tables[table]
            names = [name for one, name in mine if one == table]
            made.tables[table] = [delta for delta in deltas if delta.name not in names]
            places = [n for n, delta in enumerate(deltas) if delta.name in names]
            if places:
                taken = {entry[0] for n in places for entry in deltas[n].entries}
                later = {
                    entry[0]
                    for n, delta in enumerate(deltas)
                    if n > places[0] and n not in places
                    for entry in delta.entries
                }
                possible = possible and not taken & later
        before = self.datasets.get().id
        if not possible:
            with pytest.raises(ConflictError):
                revert(self.datasets, target)
            assert self.datasets.get().id == before
            return
        revert(self.datasets, target)
        self.new(made)

    def own(self, version: str) -> list[tuple[str, str]]:
        """The deltas that a version added: none of one that lists its parts anew."""
        parents = self.datasets.get(version).parents
        if not parents or self.datasets.steps(version)[0][0].id == version:
            return []
        before = self.lines[parents[0]]
        return [
            (table, delta.name)
            for table, deltas in self.lines[version].tables.items()
            for delta in deltas[len(before.tables[table]) :]
        ]

    def compact(self) -> None:
        self.world.tick()
        if compact(self.datasets).created:
            current = self.datasets.get()
            self.new(self.lines[current.parents[0]])

    def collect(self) -> None:
        report = collect(self.datasets, self.world.store, self.world.blobs, grace=0)
        assert report.blobs == ()

    def check(self, version: str) -> None:
        line, found = self.lines[version], self.datasets.read(version)
        counts = self.datasets.get(version).rows
        for table in TABLES:
            names = self.datasets.schema(version).table(table).names
            seen: Counter[Any] = Counter()
            columns = found[table].to_pydict()
            for n in range(found[table].num_rows):
                row = tuple(micros(columns[name][n]) for name in names)
                key = row if table == "记" else (row[:1] if table == "户" else row[:2])
                seen[key, micros(columns[KNOWN_FROM][n]), micros(columns[KNOWN_TO][n]), row] += 1
            assert seen == line.shown(table)
            wanted = sum(line.shown("记").values()) if table == "记" else len(line.current(table))
            assert counts[table] == wanted


def micros(value: Any) -> Any:
    return round(value.timestamp() * 1_000_000) if hasattr(value, "timestamp") else value


def play(store: Store, root: Path, history: list[tuple[Any, ...]]) -> None:
    run = Run(World(store, root))
    for verb, *given_ in history:
        getattr(run, verb)(*given_)
        run.check(run.datasets.get().id)
    for version in run.order:
        run.check(version)
    numbers = [version.version for version in run.datasets.list()]
    assert len(set(numbers)) == len(numbers) == len(run.order)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORY)
def test_histories_equal_the_model(history: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/holdfast.db")
        store.upgrade()
        play(store, Path(folder) / "项目", history)
        store.close()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=HISTORY)
def test_histories_equal_the_model_on_postgresql(postgres_url: str, history: list[tuple[Any, ...]]) -> None:
    import sqlalchemy as sa

    store = Store(postgres_url)
    with store.engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    store.upgrade()
    with tempfile.TemporaryDirectory() as folder:
        play(store, Path(folder) / "项目", history)
    store.close()
