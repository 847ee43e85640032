"""History at any instant equals a naive model, over random deliveries with corrections, removals, repeats and nulls."""

import contextlib
import csv
import io
import tempfile
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.core.schema import KNOWN_FROM, KNOWN_TO
from holdfast.core.timeline import NEVER, Period, instant
from holdfast.errors import ConflictError

PROJECT = """
project: model
tables:
  名单: {files: 名单.csv, key: [甲, 乙], delivery: full, columns: {甲: int, 乙: category, 值: category}}
  事件: {files: 事件.csv, key: 号, time: 时, known: event + 2d, columns: {号: int, 值: category}}
  行: {files: 行.csv, columns: {值: category, 数: float}}
"""
# Rows that never change keep the share of quarantined rows below the limit.
STILL = 400
VALUES = st.sampled_from(["", "", "甲乙", "é", "e\u0301", " x", "x"])
DAYS = st.integers(0, 120).map(lambda n: (datetime(2016, 1, 1) + timedelta(days=n)).strftime("%Y-%m-%d"))
LISTED = st.tuples(st.sampled_from(["", "1", "2", "3"]), st.sampled_from(["a", "b", ""]), VALUES)
EVENTS = st.tuples(st.sampled_from(["", "1", "2", "3", "4"]), st.one_of(st.just(""), DAYS), VALUES)
LINES = st.tuples(VALUES, st.sampled_from(["", "1", "1.5", "-0.0", "0"]))
DELIVERY = st.tuples(
    st.sampled_from(["2016-01", "2016-02", "2016-03", "2016-04"]),
    st.lists(LISTED, max_size=8),
    st.lists(EVENTS, max_size=8),
    st.lists(LINES, max_size=8),
)


def _cell(text):
    return text or None


def _micros(text):
    return instant(datetime.fromisoformat(text).replace(tzinfo=UTC))


class Model:
    """States per row as lists of (known_from, content or None when removed, period end)."""

    def __init__(self):
        self.keyed = {"名单": {}, "事件": {}}
        self.lines = {}
        self.brought = {}
        self.newest = 0

    def knows(self, period, texts):
        """Whether these were brought for the period before, together or as the newest of each."""
        before = self.brought.setdefault(period, [])
        newest = {name: text for one in before for name, text in one.items()}
        return texts in before or all(newest.get(name) == text for name, text in texts.items())

    def deliver(self, period, listed, events, lines):
        end = Period.parse(period).end
        if listed is not None:
            rows = {(int(one), other): _cell(value) for one, other, value in listed if one and other}
            self._apply("名单", rows, end, full=True, first=lambda key, content: end)
        happened = {}
        for number, day, value in events:
            if number and day:
                happened[int(number)] = (_micros(day), _cell(value))
        delay = 2 * 86_400_000_000
        self._apply("事件", happened, end, full=False, first=lambda key, content: content[0] + delay)
        count = {}
        for value, number in lines:
            row = (_cell(value), repr(float(number)) if number else None, end)
            count[row] = count.get(row, 0) + 1
            self.lines[row] = max(self.lines.get(row, 0), count[row])
        self.newest = max(self.newest, end)

    def _apply(self, table, rows, end, *, full, first):
        states = self.keyed[table]
        for key, content in rows.items():
            if key not in states:
                states[key] = [(first(key, content), content, end)]
                continue
            known, last, period = states[key][-1]
            gone = last == "gone"
            if last == content and not gone:
                continue
            if period > end:
                continue  # quarantined as late
            states[key].append((max(known, end), content, end))
        if full:
            for key, history in states.items():
                if key not in rows and history[-1][1] != "gone":
                    history.append((max(history[-1][0], end), "gone", end))

    def at(self, table, moment):
        seen = {}
        for key, history in self.keyed[table].items():
            visible = [
                content
                for n, (known, content, _) in enumerate(history)
                if known <= moment < (history[n + 1][0] if n + 1 < len(history) else NEVER)
            ]
            assert len(visible) <= 1
            if visible and visible[0] != "gone":
                seen[key] = visible[0]
        return seen

    def instants(self):
        moments = {known for states in self.keyed.values() for history in states.values() for known, *_ in history}
        return sorted({moment + shift for moment in moments for shift in (-1, 0, 1)})


def _csv(header, rows, still):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(still)
    writer.writerows(rows)
    return text.getvalue()


def _visible(rows, moment):
    return [
        row for row in rows
        if row[KNOWN_FROM] <= moment < (NEVER if row[KNOWN_TO] is None else row[KNOWN_TO])
    ]  # fmt: skip


def _plain(table):
    columns = {}
    for name in table.column_names:
        column = table[name]
        columns[name] = (column.cast("int64") if str(column.type).startswith("timestamp") else column).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _deliver(world, model, number, delivery):
    period, listed, events, lines = delivery
    trailing = next((n for n, line in enumerate(reversed(lines)) if any(line)), len(lines))
    lines = lines[: len(lines) - trailing]  # the reader drops blank lines at the end of a file
    texts = {
        "名单": _csv(["甲", "乙", "值"], listed, [(1000 + n, "s", "") for n in range(STILL)]),
        "事件": _csv(["号", "时", "值"], events, [(1000 + n, "2015-01-01", "") for n in range(STILL)]),
        "行": _csv(["值", "数"], lines, [("still", n + 1000) for n in range(STILL)]),
    }
    if Period.parse(period).end >= model.newest:
        _bring(world, model, (period, listed, events, lines), f"d{number}", texts)
        return
    # A later list is known: this one is refused unless it is the one delivered before, and the rest goes without it.
    with contextlib.suppress(ConflictError):
        _bring(world, model, (period, None, events, lines), f"d{number}", texts)
    rest = {name: text for name, text in texts.items() if name != "名单"}
    _bring(world, model, (period, None, events, lines), f"d{number} rest", rest)


def _bring(world, model, delivery, folder, texts):
    known = model.knows(delivery[0], texts)
    assert world.deliver(delivery[0], folder, **texts).created != known
    if not known:
        model.brought[delivery[0]].append(texts)
        model.deliver(*delivery)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries=st.lists(DELIVERY, min_size=1, max_size=6))
def test_history_equals_the_model(make_world, deliveries):
    with tempfile.TemporaryDirectory() as root:
        world, model = make_world(PROJECT, root=root), Model()
        for number, delivery in enumerate(deliveries):
            _deliver(world, model, number, delivery)
        tables = {name: _plain(table) for name, table in world.datasets.read().items()}
        for moment in model.instants():
            listed = {(row["甲"], row["乙"]): row["值"] for row in _visible(tables["名单"], moment) if row["甲"] < 1000}
            assert listed == model.at("名单", moment)
            events = {row["号"]: (row["时"], row["值"]) for row in _visible(tables["事件"], moment) if row["号"] < 1000}
            assert events == model.at("事件", moment)
        found = {}
        for row in tables["行"]:
            if row["值"] != "still":
                line = (row["值"], None if row["数"] is None else repr(row["数"]), row[KNOWN_FROM])
                found[line] = found.get(line, 0) + 1
        assert found == model.lines
        version = world.datasets.get()
        assert version.rows == {name: table.num_rows for name, table in world.datasets.read(current_only=True).items()}
        assert len(world.datasets.list()) <= len(deliveries)
        world.close()
