"""Merging a branch into the current one: three-way, by key; conflicts are listed, never guessed."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.backend.datasets.parts import PERIOD_END, REMOVED
from holdfast.backend.datasets.repository import FACE_ROWS, Datasets, Draft
from holdfast.backend.datasets.tables import ADDS, WHOLE, Part
from holdfast.backend.records import DatasetVersion, RawFile
from holdfast.core.prepare import row_ids
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import KNOWN_FROM, SOURCE_FILE, SYSTEM_FIELDS, Schema, Table
from holdfast.core.timeline import Period
from holdfast.core.versions.merging import RowMerge, merge_keyed, merge_unkeyed
from holdfast.core.versions.rows import key_text
from holdfast.core.versions.schemas import Described, MergedSchema, merge_schemas
from holdfast.errors import ConflictError, InputError

__all__ = [
    "RULES",
    "Conflict",
    "MergeResult",
    "common_ancestor",
    "conflicts_csv",
    "decisions_from",
    "list_conflicts",
    "merge",
]

RULES = ("ours", "theirs", "newest")
_LISTED = 10
_OPEN, _OURS, _THEIRS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row that both sides changed differently: its key, and its columns on each side (None: it is gone there).

    `personal` names columns whose values are not for reports.
    """

    table: str
    key: dict[str, Any]
    ours: dict[str, Any] | None
    theirs: dict[str, Any] | None
    personal: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its key as one line of JSON, as decisions name it."""
        return _key_json(self.key)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The version that holds both. `created` is False when it was there (nothing to merge, or a move forward).

    `resolved` counts conflicts that were decided, by table; `changes` per table the rows added, changed and removed.
    """

    version: DatasetVersion
    created: bool
    ancestor: str
    resolved: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass
class _TableMerge:
    """One table: the states of both sides after the parts they share, and what becomes of them."""

    table: Table
    shared: list[Part]
    ours: pa.Table
    theirs: pa.Table
    rows: RowMerge
    ids: npt.NDArray[np.int64]
    choice: npt.NDArray[np.int8]

    def key(self, place: int) -> dict[str, Any]:
        """The key of a conflict."""
        return self._row(place, self.table.key) or {}

    def conflict(self, place: int, before: Mapping[str, dict[str, Any]]) -> Conflict:
        """One conflict, with the values of both sides.

        A side that took all of its states back is as it was `before`: rows of the shared parts, by their keys as JSON.
        """
        earlier = before.get(_key_json(self.key(place)))
        sides = [
            earlier if at < 0 else self._state(side, at)
            for side, at in (
                (self.ours, int(self.rows.conflicts.ours[place])),
                (self.theirs, int(self.rows.conflicts.theirs[place])),
            )
        ]
        personal = tuple(column.name for column in self.table.columns if column.personal)
        return Conflict(self.table.name, self.key(place), sides[0], sides[1], personal)

    def _row(self, place: int, columns: Sequence[str]) -> dict[str, Any] | None:
        here, there = int(self.rows.conflicts.ours[place]), int(self.rows.conflicts.theirs[place])
        side, at = (self.ours, here) if here >= 0 else (self.theirs, there)
        found: dict[str, Any] = side.select(columns).slice(at, 1).to_pylist()[0]
        return found

    def _state(self, side: pa.Table, at: int) -> dict[str, Any] | None:
        if at < 0 or side[REMOVED][at].as_py():
            return None
        found: dict[str, Any] = side.select(self.table.names).slice(at, 1).to_pylist()[0]
        return found


def common_ancestor(datasets: Datasets, ours: str, theirs: str) -> DatasetVersion | None:
    """The newest version that both came from; None when there is none."""
    mine = {version.id for version in datasets.ancestors(ours)}
    both = [version for version in datasets.ancestors(theirs) if version.id in mine]
    return both[-1] if both else None


def merge(
    datasets: Datasets,
    theirs: str,
    *,
    rule: str | None = None,
    decisions: Mapping[tuple[str, str], str] | None = None,
    note: str = "",
    author: str = "",
) -> MergeResult:
    """Merge a branch, tag or version into the current version, as a new version with both as parents.

    A row that both sides changed differently is a conflict: `decisions` ((table, key as JSON) → ours or theirs) say
    which side counts, else `rule` (ours, theirs, or newest: the state that was known later). ConflictError lists what
    is left undecided, by key, and nothing has changed. A state that was decided on is known from the later of both.
    """
    if rule is not None and rule not in RULES:
        raise InputError(f"{rule!r} is no rule for conflicts", hint=f"It is one of: {', '.join(RULES)}")
    with datasets.changing(f"merge {theirs}"):
        work = _Work(datasets, theirs, rule)
        if not work.apart:
            _refuse(decisions or {})
            done = work.forward(note)
        else:
            work.decide(decisions or {})
            done = work.commit(note, author)
        datasets.refresh_face(at_most=FACE_ROWS)
    return done


def list_conflicts(datasets: Datasets, theirs: str) -> list[Conflict]:
    """Every row that both the current version and `theirs` changed differently since they parted."""
    work = _Work(datasets, theirs, None)
    return [one for table in work.tables() for one in _conflicts(datasets, table)] if work.apart else []


def _refuse(left: Mapping[tuple[str, str], str]) -> None:
    """InputError for decisions that are left when all conflicts are decided."""
    if left:
        table, key = next(iter(left))
        raise InputError(
            f"{len(left)} of the decisions are about rows that are no conflict",
            where={"table": table, "key": key},
            hint="List the conflicts anew: --conflicts FILE.",
        )


def _conflicts(datasets: Datasets, merged: _TableMerge) -> Iterator[Conflict]:
    conflicts, table = merged.rows.conflicts, merged.table
    back = np.flatnonzero((conflicts.ours < 0) | (conflicts.theirs < 0)).tolist()
    before = {}
    if back:
        fields = [(name, table.column(name).dtype.arrow) for name in table.key]
        keys = pa.Table.from_pylist([merged.key(place) for place in back], pa.schema(fields))
        stored = datasets.parts.last(table, merged.shared, keys=keys)
        rows = stored.rows.filter(pa.array(~stored.removed)).to_pylist()
        before = {_key_json({name: row[name] for name in table.key}): row for row in rows}
    return (merged.conflict(place, before) for place in range(len(conflicts)))


def conflicts_csv(conflicts: Sequence[Conflict]) -> str:
    """Conflicts as a CSV file to decide on: table, key, ours, theirs, and an empty column `take`.

    Personal columns are masked, but in the key, which names the row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "key", "ours", "theirs", "take"])
    for one in conflicts:
        writer.writerow([one.table, one.name, *(_side(one, side) for side in (one.ours, one.theirs)), ""])
    return text.getvalue()


def _side(conflict: Conflict, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "removed"
    shown = {name: MASKED if name in conflict.personal else value for name, value in row.items()}
    return json.dumps(shown, ensure_ascii=False, default=_plain)


def decisions_from(text: str, file: str) -> dict[tuple[str, str], str]:
    """What a file of `conflicts_csv` decides: `take` says ours or theirs. InputError names the line."""
    found = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        where = {"file": file, "line": line}
        if not {"table", "key", "take"} <= row.keys():
            raise InputError("a file of decisions has the columns table, key and take", where=where)
        if row["take"] not in ("ours", "theirs"):
            raise InputError(f"`take` is {row['take']!r}", where=where, hint="Write ours or theirs on every line.")
        try:
            key = json.dumps(json.loads(row["key"]), ensure_ascii=False, sort_keys=True)
        except ValueError as error:
            raise InputError(f"the key is no JSON: {error}", where=where) from error
        found[row["table"], key] = row["take"]
    return found


def _key_json(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), ensure_ascii=False, sort_keys=True, default=_plain)


def _plain(value: Any) -> str:
    return str(value.isoformat())


class _Work:
    """One merge: ours is the current version, base the newest version both came from."""

    def __init__(self, datasets: Datasets, theirs: str, rule: str | None) -> None:
        self._datasets, self._rule = datasets, rule
        self.ours, self.theirs = datasets.get(), datasets.get(theirs)
        base = common_ancestor(datasets, self.ours.id, self.theirs.id)
        if base is None:
            raise ConflictError(f"{self.ours.version} and {self.theirs.version} have no common ancestor")
        self.base = base
        self._merged: MergedSchema | None = None
        self._tables: list[_TableMerge] | None = None

    @property
    def apart(self) -> bool:
        """Whether both sides have what the other has not."""
        return self.base.id not in (self.ours.id, self.theirs.id)

    def forward(self, note: str) -> MergeResult:
        """The result when one side holds the other: ours stays, or moves forward to theirs."""
        if self.base.id == self.theirs.id:
            return MergeResult(self.ours, False, self.base.version)
        moved = self._datasets.fast_forward(self.theirs.id, note or f"forward to {self.theirs.version}")
        return MergeResult(moved, False, self.base.version)

    @property
    def schema(self) -> MergedSchema:
        """The merged schema; ConflictError lists what both sides changed in it."""
        if self._merged is None:
            sides = [
                Described(Schema.from_dict(one.schema), self._datasets.contract(one.id))
                for one in (self.base, self.ours, self.theirs)
            ]
            prefer = self._rule if self._rule in ("ours", "theirs") else None
            merged = merge_schemas(sides[0], sides[1], sides[2], prefer)
            if merged.conflicts:
                raise ConflictError(
                    f"{self.ours.version} and {self.theirs.version} changed the schema or its rules differently",
                    where={"ours, theirs": "; ".join(merged.conflicts[:_LISTED])},
                    hint="Merge with --ours or --theirs, which hold for rules too; different keys cannot be merged.",
                )
            self._merged = merged
        return self._merged

    def tables(self) -> list[_TableMerge]:
        """The tables that theirs has changed since the ancestor."""
        if self._tables is None:
            manifests = [self._manifests(one) for one in (self.base, self.ours, self.theirs)]
            found = [self._table(table, manifests) for table in self.schema.schema.tables.values() if not table.source]
            self._tables = [one for one in found if one is not None]
        return self._tables

    def _manifests(self, version: DatasetVersion) -> dict[str, list[Part]]:
        parts: dict[str, list[Part]] = {}
        for _, added in self._datasets.steps(version.id):
            for part in added:
                parts.setdefault(part.table, []).append(part)
        return parts

    def _table(self, table: Table, manifests: Sequence[Mapping[str, list[Part]]]) -> _TableMerge | None:
        sides = [manifest.get(table.name, []) for manifest in manifests]
        names = [[part.digest for part in side] for side in sides]
        if names[2] == names[0] or names[2] == names[1]:
            return None
        shared = 0
        while all(shared < len(side) for side in names) and len({side[shared] for side in names}) == 1:
            shared += 1
        base, ours, theirs = (self._datasets.parts.raw_states(table, side[shared:]) for side in sides)
        if table.key:
            rows, ids = merge_keyed((base, ours, theirs), table.key, table.names, KNOWN_FROM, REMOVED)
        else:
            rows, ids = self._unkeyed(table, (base, ours, theirs)), np.zeros(len(ours), np.int64)
        choice = np.zeros(len(rows.conflicts), np.int8)
        return _TableMerge(table, sides[0][:shared], ours, theirs, rows, ids, choice)

    def _unkeyed(self, table: Table, sides: tuple[pa.Table, pa.Table, pa.Table]) -> RowMerge:
        """Rows without a time are told apart by the period they came in, too (decision 0011)."""
        columns = list(table.names)
        if table.time is None:
            periods = {
                file.path: file.period for one in (self.base, self.ours, self.theirs) for file in self._files(one)
            }
            sides = tuple(side.append_column("__period", _periods(side[SOURCE_FILE], periods)) for side in sides)
            columns.append("__period")
        return merge_unkeyed(sides, columns)

    def _files(self, version: DatasetVersion) -> list[RawFile]:
        return self._datasets.files(version.id)

    def decide(self, decisions: Mapping[tuple[str, str], str]) -> None:
        """Decide every conflict by decisions, else by the rule. ConflictError lists what is left."""
        left = dict(decisions)
        for merged in self.tables():
            if decisions:
                for place in range(len(merged.choice)):
                    said = left.pop((merged.table.name, _key_json(merged.key(place))), None)
                    merged.choice[place] = {"ours": _OURS, "theirs": _THEIRS, None: _OPEN}[said]
            open_ = merged.choice == _OPEN
            merged.choice[open_] = self._by_rule(merged)[open_]
        _refuse(left)
        self._check_decided()

    def _by_rule(self, merged: _TableMerge) -> npt.NDArray[np.int8]:
        conflicts = merged.rows.conflicts
        if self._rule in ("ours", "theirs"):
            return np.full(len(conflicts), _OURS if self._rule == "ours" else _THEIRS, np.int8)
        choice = np.zeros(len(conflicts), np.int8)
        if self._rule == "newest":
            present = (conflicts.ours >= 0) & (conflicts.theirs >= 0)
            known = [side[KNOWN_FROM].cast(pa.int64()).to_numpy() for side in (merged.ours, merged.theirs)]
            ours, theirs = known[0][conflicts.ours[present]], known[1][conflicts.theirs[present]]
            choice[present] = np.where(ours > theirs, _OURS, np.where(theirs > ours, _THEIRS, _OPEN))
        return choice

    def _check_decided(self) -> None:
        open_ = {merged.table.name: np.flatnonzero(merged.choice == _OPEN) for merged in self.tables()}
        count = sum(len(places) for places in open_.values())
        if not count:
            return
        first = [
            f"{merged.table.name}: {key_text(merged.table, merged.key(int(place)))}"
            for merged in self.tables()
            for place in open_[merged.table.name][:_LISTED]
        ]
        tie = " (known at the same time on both sides, or taken back on one)" if self._rule == "newest" else ""
        raise ConflictError(
            f"{count:,} rows were changed on both sides since {self.base.version}{tie}",
            where={"ours": self.ours.version, "theirs": self.theirs.version, "keys": first[:_LISTED]},
            hint="Nothing was changed. Decide by rule (--ours, --theirs, --newest), or row by row:"
            " write them with --conflicts FILE, fill in `take`, and give it as --decisions FILE.",
        )

    def commit(self, note: str, author: str) -> MergeResult:
        """Write what theirs has beyond ours, and the version of both."""
        ours, schema = self.ours, self.schema
        parts: dict[str, list[Part]] = {}
        rewritten = False
        report, resolved = {}, {}
        rows = {name: ours.rows[name] if name in ours.rows else self.theirs.rows[name] for name in schema.schema.tables}
        for merged in self.tables():
            name = merged.table.name
            before = self._datasets.manifest(ours.id, name)
            after, added, counts = self._written(merged, before)
            rewritten |= not added
            parts[name] = after
            rows[name] = ours.rows.get(name, 0) + counts["added"] - counts["removed"]
            report[name] = {**_NOTHING, **counts}
            resolved[name] = len(merged.choice)
        files = [self._files(one) for one in (self.base, ours, self.theirs)]
        held, whole = _merged_files(files[0], files[1], files[2])
        whole |= rewritten
        mine = {file.id for file in files[1]}
        new = {name: after[len(self._datasets.manifest(ours.id, name)) :] for name, after in parts.items()}
        if whole:
            everything = self._manifests(ours) | parts
            listed = [part for name in everything for part in everything[name]]
        else:
            listed = [part for after in new.values() for part in after]
        rows |= self._datasets.count_derived(schema.schema, None if whole else ours.id, listed)
        draft = Draft(
            ours, max(ours.period, self.theirs.period, key=lambda one: Period.parse(one, schema.schema.timezone).end),
            schema.schema, schema.contract, rows, listed,
            note or f"merge {self.theirs.version} into {ours.version}", author,
            report={"tables": report, "notes": [f"common ancestor {self.base.version}"],
                    "delivery": f"merge {self.theirs.version}", "resolved": resolved},
            manifest=WHOLE if whole else ADDS,
            taken=held if whole else [file for file in held if file.id not in mine],
            parents=(self.theirs.id,),
        )  # fmt: skip
        version = self._datasets.commit(draft)
        return MergeResult(version, True, self.base.version, {k: v for k, v in resolved.items() if v}, report)

    def _written(self, merged: _TableMerge, before: list[Part]) -> tuple[list[Part], bool, dict[str, int]]:
        """The parts of a table after the merge, whether they only add to those before, and what that changes."""
        table, rows = merged.table, merged.rows
        taken = merged.choice == _THEIRS
        # Asked only of conflicts that theirs took back: these have a state of ours.
        conflict_ids = merged.ids[rows.conflicts.ours] if len(merged.ids) else rows.conflicts.ours
        states = self._decided(merged, taken)
        resolved = rows.resolved(taken, merged.ids, conflict_ids)
        states = states.take(pa.array(resolved.take))
        if len(resolved.drop):
            keep = np.ones(len(merged.ours), bool)
            keep[resolved.drop] = False
            states = pa.concat_tables([merged.ours.filter(pa.array(keep)), states])
            after = [*merged.shared, *self._part(table, states, supersedes=bool(table.key))]
        else:
            supersedes = bool(table.key) and self._follows(table, before, states)
            after = [*before, *self._part(table, states, supersedes=supersedes)]
        touched = pa.concat_tables(
            [merged.theirs.take(pa.array(resolved.take)), merged.ours.take(pa.array(resolved.drop))]
        )
        if table.key:
            return after, not len(resolved.drop), self._counts(table, before, after, touched)
        counts = {"added": len(resolved.take), "removed": len(resolved.drop), "changed": 0}
        return after, not len(resolved.drop), counts

    def _decided(self, merged: _TableMerge, taken: npt.NDArray[np.bool_]) -> pa.Table:
        """Theirs' states; those that were decided on are known from the later of both sides."""
        ours, theirs = merged.rows.conflicts.ours[taken], merged.rows.conflicts.theirs[taken]
        both = (ours >= 0) & (theirs >= 0)
        if not both.any():
            return merged.theirs
        known = [side[KNOWN_FROM].cast(pa.int64()).to_numpy().copy() for side in (merged.ours, merged.theirs)]
        known[1][theirs[both]] = np.maximum(known[1][theirs[both]], known[0][ours[both]])
        place = merged.theirs.column_names.index(KNOWN_FROM)
        return merged.theirs.set_column(
            place, KNOWN_FROM, pa.array(known[1], pa.int64()).cast(SYSTEM_FIELDS[KNOWN_FROM])
        )

    def _follows(self, table: Table, before: list[Part], states: pa.Table) -> bool:
        """Whether any of the states follows another of its row."""
        if not len(states):
            return False
        ids = row_ids([states], table.key)[0]
        keys = states.select(table.key)
        return int(ids.max()) + 1 < len(ids) or bool(self._datasets.parts.standing(table, before, keys).seen.any())

    def _part(self, table: Table, states: pa.Table, *, supersedes: bool) -> list[Part]:
        if not len(states):
            return []
        end = int(states[PERIOD_END].to_numpy().max())
        return [self._datasets.parts.write(table, states, supersedes=supersedes, period_end=end)]

    def _counts(self, table: Table, before: list[Part], after: list[Part], touched: pa.Table) -> dict[str, int]:
        if not len(touched):
            return {"added": 0, "removed": 0, "changed": 0}
        keys = touched.select(table.key)
        first = np.unique(row_ids([keys], table.key)[0], return_index=True)[1]
        keys = keys.take(pa.array(first))
        was, now = (self._datasets.parts.standing(table, parts, keys).alive for parts in (before, after))
        counts = {"added": now & ~was, "removed": was & ~now, "changed": was & now}
        return {name: int(mask.sum()) for name, mask in counts.items()}


_NOTHING = {"read": 0, "unchanged": 0, "duplicates": 0, "quarantined": 0}


def _periods(files: pa.ChunkedArray, periods: Mapping[str, str]) -> pa.Array:
    encoded = files.combine_chunks().dictionary_encode()
    names = pa.array([periods.get(path, path) for path in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


def _merged_files(
    base: Sequence[RawFile], ours: Sequence[RawFile], theirs: Sequence[RawFile]
) -> tuple[list[RawFile], bool]:
    """The files of both sides without what either took back, and whether that is fewer than ours."""
    was, mine, other = ({file.id for file in side} for side in (base, ours, theirs))
    gone = was - other
    kept = [file for file in ours if file.id not in gone]
    fresh = [file for file in theirs if file.id not in mine and file.id not in was]
    return kept + fresh, len(kept) < len(ours)
