"""Three-way merge of schemas and contracts: what one side changed is taken, what both changed differently is said."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from holdfast.core.prepare import ColumnContract, TableContract
from holdfast.core.prepare.contract import RULES
from holdfast.core.schema import Column, DType, Schema, Table

__all__ = ["Described", "MergedSchema", "merge_schemas"]

T = TypeVar("T")
Contracts = Mapping[str, TableContract]


@dataclass(frozen=True, slots=True)
class Described:
    """The schema and the contract of one side."""

    schema: Schema
    contract: Contracts


@dataclass
class MergedSchema:
    """What comes of a merge. `conflicts` say in words what both sides changed differently."""

    schema: Schema
    contract: dict[str, TableContract]
    conflicts: list[str] = field(default_factory=list)


def merge_schemas(base: Described, ours: Described, theirs: Described, prefer: str | None = None) -> MergedSchema:
    """Merge tables, columns, types and rules; with `prefer` (`ours` or `theirs`) conflicts go to that side.

    A type that one side widened is wide; whole numbers on one side and fractions on the other meet in fractions. A key
    cannot differ: that is a conflict whatever is preferred.
    """
    work = _Work(prefer)
    tables: dict[str, Table] = {}
    contract: dict[str, TableContract] = {}
    for name in dict.fromkeys((*ours.schema.tables, *theirs.schema.tables)):
        three = tuple(side.schema.tables.get(name) for side in (base, ours, theirs))
        rules = tuple(side.contract.get(name) for side in (base, ours, theirs))
        if three[1] is None or three[2] is None:
            there = three[1] or three[2]
            rule = rules[1] or rules[2]
            assert there is not None
            assert rule is not None
            if three[0] is None or work.kept(name, three[0] == there, there is three[1]):
                tables[name], contract[name] = there, rule
            continue
        tables[name], contract[name] = work.table(name, three, rules)  # type: ignore[arg-type]
    if ours.schema.timezone != theirs.schema.timezone:
        work.conflicts.append(f"time zone: ours {ours.schema.timezone}, theirs {theirs.schema.timezone}")
    return MergedSchema(Schema(tables, ours.schema.timezone), contract, work.conflicts)


class _Work:
    def __init__(self, prefer: str | None) -> None:
        self._prefer = prefer
        self.conflicts: list[str] = []

    def pick(self, what: str, base: T | None, ours: T, theirs: T) -> T:
        """The side that changed; where both did, the preferred one, else a conflict."""
        if theirs in (ours, base):
            return ours
        if ours == base:
            return theirs
        if self._prefer is None:
            self.conflicts.append(f"{what}: ours {ours}, theirs {theirs}")
        return theirs if self._prefer == "theirs" else ours

    def kept(self, name: str, unchanged: bool, ours: bool) -> bool:
        """Whether a table that one side no longer has stays."""
        if unchanged:
            return False
        if self._prefer is None:
            self.conflicts.append(
                f"table {name}: changed by {'us' if ours else 'them'}, no longer there on the other side"
            )
        return (self._prefer == "ours") == ours

    def table(
        self,
        name: str,
        three: tuple[Table | None, Table, Table],
        rules: tuple[TableContract | None, TableContract, TableContract],
    ) -> tuple[Table, TableContract]:
        """One table that both sides have."""
        base, ours, theirs = three
        if ours.key != theirs.key:
            self.conflicts.append(f"{name}: key: ours {list(ours.key)}, theirs {list(theirs.key)}")
        columns, contracts = [], {}
        for column in dict.fromkeys((*ours.names, *theirs.names)):
            before = _column(base, column)
            here, there = _column(ours, column), _column(theirs, column)
            held = tuple(one.columns.get(column) if one else None for one in rules)
            if here is None or there is None:
                one, rule = (here or there), (held[1] or held[2])
                assert one is not None
                # Columns are never taken away: one that a side lacks was added by the other.
                columns.append(replace(one, nullable=True))
            else:
                columns.append(self._column(f"{name}.{column}", before, here, there, held))
                rule = self._rule(f"{name}.{column}", held[0], held[1], held[2])
            if rule is not None:
                contracts[column] = rule
        picked = {
            word: self.pick(f"{name}: {word}", getattr(base, word, None), getattr(ours, word), getattr(theirs, word))
            for word in ("time", "known", "source")
        }
        links = self.pick(
            f"{name}: links", None if base is None else dict(base.links), dict(ours.links), dict(theirs.links)
        )
        old = rules[0]
        known = self.pick(f"{name}: known", old.known if old else None, rules[1].known, rules[2].known)
        delivery = self.pick(f"{name}: delivery", old.delivery if old else None, rules[1].delivery, rules[2].delivery)
        merged = Table(name, tuple(columns), ours.key, picked["time"], links, picked["known"], picked["source"])
        return merged, TableContract(known, delivery, contracts)

    def _column(
        self, what: str, base: Column | None, ours: Column, theirs: Column, held: tuple[ColumnContract | None, ...]
    ) -> Column:
        if held[1] and held[2] and held[1].provisional != held[2].provisional:
            dtype = theirs.dtype if held[1].provisional else ours.dtype
        elif {ours.dtype, theirs.dtype} == {DType.INT, DType.FLOAT}:
            dtype = DType.FLOAT
        else:
            dtype = self.pick(f"{what}: type", base.dtype if base else None, ours.dtype, theirs.dtype)
        unit = self.pick(f"{what}: unit", base.unit if base else None, ours.unit, theirs.unit)
        told = self.pick(
            f"{what}: description", base.description if base else None, ours.description, theirs.description
        )
        return Column(
            ours.name, dtype, ours.nullable or theirs.nullable, ours.personal or theirs.personal, unit, told
        )  # fmt: skip

    def _rule(
        self, what: str, base: ColumnContract | None, ours: ColumnContract | None, theirs: ColumnContract | None
    ) -> ColumnContract | None:
        if ours is None or theirs is None or ours == theirs:
            return ours or theirs
        base = base or ColumnContract()
        values: dict[str, object] = {}
        for rule in RULES:
            one, other = getattr(ours, rule), getattr(theirs, rule)
            if rule in ours.binding or rule in theirs.binding:
                values[rule] = self.pick(f"{what}: {rule}", getattr(base, rule), one, other)
            else:
                values[rule] = _wider(rule, one, other)
        values["format"] = self.pick(f"{what}: format", base.format, ours.format, theirs.format)
        values["declared"] = tuple(dict.fromkeys((*ours.declared, *theirs.declared)))
        values["confirmed"] = tuple(dict.fromkeys((*ours.confirmed, *theirs.confirmed)))
        values["provisional"] = ours.provisional and theirs.provisional
        return replace(ours, **values)  # type: ignore[arg-type]


def _column(table: Table | None, name: str) -> Column | None:
    return next((column for column in table.columns if column.name == name), None) if table else None


def _wider(rule: str, one: object, other: object) -> object:
    """What was observed on both sides."""
    if rule == "nullable":
        return bool(one) or bool(other)
    if one is None or other is None:
        # Of values and patterns nothing observed means any; of a range, that no number was seen.
        return (other if one is None else one) if rule in ("min", "max") else None
    if rule == "min":
        return min(one, other)  # type: ignore[call-overload]
    if rule == "max":
        return max(one, other)  # type: ignore[call-overload]
    if rule == "values":
        return tuple(sorted({*one, *other}))  # type: ignore[misc]
    return one if one == other else None
