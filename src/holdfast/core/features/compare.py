"""What changed between two feature sets, in words a person can read.

Definitions are compared as plain data (`FeatureSet.to_dict`). A feature keeps its name while its definition changes
when it has an alias; without one its name is its formula, so a feature whose window became another is gone and a new
one has come. Such pairs are joined again: a removed and an added feature that differ in one aspect only are one change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.core.features.definitions import Feature, FeatureSet
from holdfast.core.timeline import format_duration, isoformat
from holdfast.core.words import exactly

__all__ = ["Change", "diff_sets"]

Data = Mapping[str, Any]
_ASPECTS = ("alias", "window", "condition", "parameters", "primitive", "inputs", "link", "column", "dtype")
"""In the order in which a removed and an added feature are joined: a new window is likelier than a new input."""
_WORDS = {"alias": "name", "inputs": "input", "dtype": "type"}
_FACTS = {
    "time": "time column", "known": "rule of when a row is known", "dtype": "type",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `kind` is added, removed, changed, renamed, reordered, schema, context or rule.

    `feature` is the name in the old set (in the new one for what was added; empty for what concerns the whole set).
    """

    kind: str
    words: str
    feature: str = ""


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    data: dict[str, Any]
    place: int


def diff_sets(old: FeatureSet, new: FeatureSet) -> tuple[Change, ...]:
    """The changes that make `new` out of `old`, features first; empty exactly when both have the same hash."""
    if old.hash == new.hash:
        return ()
    before, after = _items(old), _items(new)
    found, pairs = _features(before, after)
    found += _order(before, after, pairs)
    found += _context(old.to_dict(), new.to_dict())
    found += _schema(old.to_dict()["schema"], new.to_dict()["schema"])
    found += _rules(old.to_dict(), new.to_dict())
    return tuple(found)


def _items(feature_set: FeatureSet) -> dict[str, _Item]:
    return {f.name: _Item(f.name, _data(f), place) for place, f in enumerate(feature_set.features)}


def _data(feature: Feature) -> dict[str, Any]:
    """The definition, each input with its name: what a user's primitive is called cannot be asked of the data alone."""
    named = {"inputs": [(one.name, one.to_dict()) for one in feature.inputs]} if feature.inputs else {}
    return {**feature.to_dict(), **named}


def _features(before: Mapping[str, _Item], after: Mapping[str, _Item]) -> tuple[list[Change], dict[str, str]]:
    """Changes of features, and which old name is which new one."""
    pairs = {name: name for name in before if name in after}
    gone = [item for name, item in before.items() if name not in after]
    come = [item for name, item in after.items() if name not in before]
    found = []
    for name in pairs:
        if differing := _differing(before[name].data, after[name].data):
            words = "; ".join(_aspect(aspect, before[name].data, after[name].data) for aspect in differing)
            found.append(Change("changed", f"{name}: {words}", name))
    for aspect in _ASPECTS:
        for one in list(gone):
            other = next((item for item in come if _differing(one.data, item.data) == [aspect]), None)
            if other is None:
                continue
            gone.remove(one)
            come.remove(other)
            pairs[one.name] = other.name
            if aspect == "alias":
                found.append(Change("renamed", f"{one.name} is now called {other.name}", one.name))
            else:
                words = _aspect(aspect, one.data, other.data)
                found.append(Change("changed", f"{one.name} became {other.name}: {words}", one.name))
    found += [Change("removed", f"{item.name} was removed", item.name) for item in gone]
    found += [Change("added", f"{item.name} was added", item.name) for item in come]
    return found, pairs


def _differing(one: Data, other: Data) -> list[str]:
    """Names of the fields in which two definitions differ; types that follow from another difference are left out."""
    names = [name for name in sorted({*one, *other}, key=_rank) if one.get(name) != other.get(name)]
    return [name for name in names if name != "dtype"] or names


def _rank(name: str) -> tuple[int, str]:
    return (_ASPECTS.index(name) if name in _ASPECTS else len(_ASPECTS), name)


def _aspect(aspect: str, one: Data, other: Data) -> str:
    before, after = (_said(aspect, data.get(aspect)) for data in (one, other))
    return f"{_WORDS.get(aspect, aspect)} {before} → {after}"


def _said(aspect: str, value: Any) -> str:
    if value in (None, "", [], ()):
        return "all" if aspect == "window" else "none"
    match aspect:
        case "window":
            return format_duration(value)
        case "condition" if isinstance(value, dict) and {"column", "value"} <= set(value):
            return " ".join([value["column"], str(value.get("operator", "=")), str(value["value"])])
        case "inputs":
            return ", ".join(name for name, _ in value)
        case "parameters":
            return ", ".join(f"{name} = {exactly(setting)}" for name, setting in value.items())
        case "link":
            return f"{value['child']}[{value['column']}] → {value['parent']}"
        case _:
            return str(value)


def _order(before: Mapping[str, _Item], after: Mapping[str, _Item], pairs: Mapping[str, str]) -> Iterator[Change]:
    """One change for the whole order, naming the features that must move for the rest to stay in order."""
    kept = sorted(pairs, key=lambda name: before[name].place)
    places = [after[pairs[name]].place for name in kept]
    if places == sorted(places):
        return
    staying = _longest_rise(places)
    moved = [pairs[name] for index, name in enumerate(kept) if index not in staying]
    listed = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
    yield Change("reordered", f"the order of features changed: {listed} moved")


def _longest_rise(values: Sequence[int]) -> set[int]:
    """Positions of a longest increasing subsequence (patience sorting, n log n)."""
    import bisect

    tops: list[int] = []
    ends: list[int] = []
    back: list[int] = []
    for index, value in enumerate(values):
        pile = bisect.bisect_left(tops, value)
        tops[pile:] = [value] if pile == len(tops) else [value, *tops[pile + 1 :]]
        ends[pile:] = [index] if pile == len(ends) else [index, *ends[pile + 1 :]]
        back.append(ends[pile - 1] if pile else -1)
    found, place = set(), ends[-1] if ends else -1
    while place >= 0:
        found.add(place)
        place = back[place]
    return found


def _context(old: Data, new: Data) -> Iterator[Change]:
    yield from _columns("context", "context", old["context"], new["context"])


def _rules(old: Data, new: Data) -> Iterator[Change]:
    """Everything of the set that is neither features, schema nor context."""
    for name in sorted({*old, *new} - {"features", "schema", "context"}):
        if old.get(name) == new.get(name):
            continue
        match name:
            case "entity":
                words = f"features are of {new['entity']} instead of {old['entity']}"
            case "include_cutoff" if new[name]:
                words = "rows that happened at the cutoff itself are seen now"
            case "include_cutoff":
                words = "rows that happened at the cutoff itself are no longer seen"
            case "frozen_at":
                before, after = (isoformat(one[name]) if name in one else "never" for one in (old, new))
                words = f"history is frozen at: {before} → {after}"
            case _:
                words = f"{name} {old.get(name)} → {new.get(name)}"
        yield Change("rule", words)


def _schema(old: Data, new: Data) -> Iterator[Change]:
    if old["timezone"] != new["timezone"]:
        yield Change("schema", f"the time zone is {new['timezone']} instead of {old['timezone']}")
    tables = [{table["name"]: table for table in schema["tables"]} for schema in (old, new)]
    yield from (Change("schema", f"table {name} is no longer read") for name in tables[0] if name not in tables[1])
    yield from (Change("schema", f"table {name} is read now") for name in tables[1] if name not in tables[0])
    for name in tables[0]:
        if name in tables[1]:
            yield from _table(name, tables[0][name], tables[1][name])
    if list(tables[0]) != list(tables[1]) and set(tables[0]) == set(tables[1]):
        yield Change("schema", "the tables come in another order")


def _table(name: str, old: Data, new: Data) -> Iterator[Change]:
    yield from _columns("schema", f"table {name}", old["columns"], new["columns"])
    yield from (Change("schema", f"table {name}: {words}") for words in _facts(old, new, {"name", "columns", "links"}))
    for column in sorted({*old["links"], *new["links"]}):
        before, after = old["links"].get(column, "nothing"), new["links"].get(column, "nothing")
        if before != after:
            yield Change("schema", f"table {name}: {column} links to {after} instead of {before}")


def _columns(kind: str, where: str, old: Sequence[Data], new: Sequence[Data]) -> Iterator[Change]:
    before, after = ({column["name"]: column for column in columns} for columns in (old, new))
    yield from (Change(kind, f"{where}: column {name} is gone") for name in before if name not in after)
    yield from (Change(kind, f"{where}: column {name} is new") for name in after if name not in before)
    for name in before:
        if name in after:
            for words in _facts(before[name], after[name], {"name"}):
                yield Change(kind, f"{where}: column {name}: {words}")
    if set(before) == set(after) and list(before) != list(after):
        yield Change(kind, f"{where}: the columns come in another order")


def _facts(old: Data, new: Data, but: set[str]) -> Iterator[str]:
    show: Callable[[Any], str] = lambda value: ", ".join(value) if isinstance(value, list) else str(value)  # noqa: E731
    for name in sorted({*old, *new} - but):
        before, after = old.get(name), new.get(name)
        if before != after:
            yield f"{_FACTS.get(name, name)} {show(before) or 'none'} → {show(after) or 'none'}"
