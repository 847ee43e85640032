"""Versions that list their parts anew: without one import (revert), or with small parts put together (compact)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets.parts import REMOVED
from holdfast.backend.datasets.repository import FACE_ROWS, Datasets, Draft
from holdfast.backend.datasets.tables import COMPACT, WHOLE, Part
from holdfast.backend.records import DatasetVersion
from holdfast.core.prepare import row_ids
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import SOURCE_FILE, Schema, Table
from holdfast.core.timeline import Period
from holdfast.core.versions.rows import key_text
from holdfast.errors import ConflictError

__all__ = ["LARGE", "Compacted", "compact", "revert"]

LARGE = 64 << 20
"""Parts of so many bytes are left alone by compaction: putting them together again would cost more than it saves."""
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Compacted:
    """The version with fewer parts; `created` is False when there was nothing to put together."""

    version: DatasetVersion
    created: bool
    parts_before: int
    parts_after: int


def revert(datasets: Datasets, version: str, *, note: str = "", author: str = "") -> DatasetVersion:
    """Take one import, change or merge out of the current version's history: a new version as if it never was.

    What it added, changed and removed is as it was before it; its files count as never delivered. ConflictError lists
    the keys that later versions changed again: they cannot be as if it never was without taking those back, too. Rows
    that later deliveries brought again unchanged added nothing then, and go with it.
    """
    with datasets.changing(f"revert {version}"):
        base, wanted = datasets.get(), datasets.get(version)
        steps = datasets.steps(base.id)
        added = next((parts for step, parts in datasets.steps(wanted.id) if step.id == wanted.id), [])
        gone = {part.digest for part in added}
        listed = [part for _, parts in steps for part in parts]
        _check(datasets, base, wanted, gone, {part.digest for part in listed})
        schema = Schema.from_dict(base.schema)
        rows, report = dict(base.rows), {}
        for name in dict.fromkeys(part.table for part in added):
            of_table = [part for part in listed if part.table == name]
            after = [part for part in of_table if part.digest not in gone]
            table = schema.table(name)
            _check_later(datasets, (base, wanted), table, of_table, gone)
            counts = _counts(datasets, table, of_table, after, [part for part in of_table if part.digest in gone])
            rows[name] += counts["added"] - counts["removed"]
            report[name] = counts
        kept = [part for part in listed if part.digest not in gone]
        rows |= datasets.count_derived(schema, None, kept)
        theirs = {file.id for file in datasets.files(wanted.id)} - _files_before(datasets, wanted)
        files = [file for file in datasets.files(base.id) if file.id not in theirs]
        periods = [Period.parse(file.period, schema.timezone) for file in files]
        draft = Draft(
            base, max(periods, key=lambda one: one.end).name if periods else base.period, schema,
            datasets.contract(base.id), rows, kept, note or f"without {wanted.version}", author,
            report={"tables": report, "notes": [f"{wanted.version} ({wanted.note}) taken out"],
                    "delivery": f"revert {wanted.version}"},
            manifest=WHOLE, taken=files,
        )  # fmt: skip
        made = datasets.commit(draft)
        datasets.refresh_face(at_most=FACE_ROWS)
    return made


def _files_before(datasets: Datasets, version: DatasetVersion) -> set[str]:
    return {file.id for file in datasets.files(version.parents[0])} if version.parents else set()


def _check(datasets: Datasets, base: DatasetVersion, wanted: DatasetVersion, gone: set[str], listed: set[str]) -> None:
    if wanted.id not in {one.id for one in datasets.ancestors(base.id)}:
        raise ConflictError(
            f"{wanted.version} is no part of the history of {base.version}", where={"version": wanted.version},
            hint="Only what the current version came from can be taken out of it.",
        )  # fmt: skip
    if not gone:
        raise ConflictError(
            f"{wanted.version} added no rows of its own", where={"version": wanted.version},
            hint="To go back to another version as a whole: holdfast data checkout VERSION.",
        )  # fmt: skip
    first = datasets.steps(wanted.id)[0][0]
    if first.id == wanted.id and wanted.parents:
        raise ConflictError(
            f"{wanted.version} lists its parts anew (it was made by revert, compaction or a merge that took rows back)",
            where={"version": wanted.version},
            hint="Go back with: holdfast data checkout VERSION, or deliver the files again.",
        )
    if not gone <= listed:
        merged = next((one for one, _ in datasets.steps(base.id) if _brought(datasets, one, wanted)), None)
        if merged is not None:
            raise ConflictError(
                f"{wanted.version} came into {base.version} by the merge {merged.version}",
                where={"version": wanted.version},
                hint=f"Take the merge out as a whole: holdfast data revert {merged.version}",
            )
        raise ConflictError(
            f"the parts of {wanted.version} are not in {base.version} any more", where={"version": wanted.version},
            hint="It was reverted before, or compacted and what it was made from was collected.",
        )  # fmt: skip


def _brought(datasets: Datasets, merge: DatasetVersion, wanted: DatasetVersion) -> bool:
    """Whether a merge brought a version, from the side that was merged."""
    return any(
        wanted.id in {one.id for one in datasets.ancestors(parent)} for parent in merge.parents[1:]
    ) and wanted.id not in {one.id for one in datasets.ancestors(merge.parents[0])}


def _check_later(
    datasets: Datasets,
    versions: tuple[DatasetVersion, DatasetVersion],
    table: Table,
    parts: list[Part],
    gone: set[str],
) -> None:
    """ConflictError when parts after those to take out (of the second of `versions`) hold states of the same rows."""
    base, wanted = versions
    first = min(place for place, part in enumerate(parts) if part.digest in gone)
    taken = datasets.parts.raw_states(table, [part for part in parts if part.digest in gone])
    later = [part for part in parts[first:] if part.digest not in gone]
    if not later:
        return
    if table.key:
        keys = _distinct(taken.select(table.key), table.key)
        again = keys.filter(pa.array(datasets.parts.standing(table, later, keys).seen))
        shown = [key_text(table, row) for row in again.slice(0, _LISTED).to_pylist()]
    else:
        rows = datasets.parts.raw_states(table, later)
        columns = [*table.names, *((SOURCE_FILE,) if table.time is None else ())]
        taken, rows = _by_period(datasets, base, taken), _by_period(datasets, base, rows)
        ids = row_ids([taken, rows], columns)
        again = taken.filter(pa.array(np.isin(ids[0], ids[1])))
        personal = any(column.personal for column in table.columns)
        shown = [MASKED if personal else str(row) for row in again.select(table.names).slice(0, _LISTED).to_pylist()]
    if again.num_rows:
        raise ConflictError(
            f"{again.num_rows:,} rows of {table.name!r} that {wanted.version} brought or changed"
            " were changed again later",
            where={"version": wanted.version, "table": table.name, "keys": shown},
            hint="Take the later versions out first, or correct the rows with a new delivery. Nothing was changed.",
        )


def _by_period(datasets: Datasets, base: DatasetVersion, rows: pa.Table) -> pa.Table:
    """The file column holds the period: equal rows of one period may be one row (decision 0011)."""
    periods = {file.path: file.period for file in datasets.files(base.id)}
    names = pa.array([periods.get(path, path) for path in rows[SOURCE_FILE].to_pylist()], pa.string())
    return rows.set_column(rows.column_names.index(SOURCE_FILE), SOURCE_FILE, names)


def _distinct(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    return rows.take(pa.array(np.unique(row_ids([rows], key)[0], return_index=True)[1]))


def _counts(
    datasets: Datasets, table: Table, before: list[Part], after: list[Part], gone: list[Part]
) -> dict[str, int]:
    """How many current rows come and go when `gone` is taken out."""
    nothing = {"read": 0, "unchanged": 0, "duplicates": 0, "quarantined": 0, "changed": 0}
    if not table.key:
        return {**nothing, "added": 0, "removed": sum(part.rows for part in gone)}
    keys = _distinct(datasets.parts.raw_states(table, gone).select(table.key), table.key)
    was, now = (datasets.parts.standing(table, parts, keys).alive for parts in (before, after))
    counts = {"added": now & ~was, "removed": was & ~now, "changed": was & now}
    return {**nothing, **{name: int(mask.sum()) for name, mask in counts.items()}}


def compact(datasets: Datasets, *, note: str = "", author: str = "") -> Compacted:
    """Put neighbouring small parts of each table together, as a new version of the same data.

    No state changes, nor their order: when each was known, its file and row, and the period it came in. Parts of LARGE
    bytes and more stay. Older versions keep their parts for as long as they are there.
    """
    with datasets.changing("compact"):
        base = datasets.get()
        schema = Schema.from_dict(base.schema)
        before = [part for name in schema.tables for part in datasets.manifest(base.id, name)]
        after: list[Part] = []
        for table in schema.tables.values():
            for run in _runs([part for part in before if part.table == table.name]):
                after += run if len(run) == 1 else [_together(datasets, table, run)]
        if len(after) == len(before):
            return Compacted(base, False, len(before), len(before))
        report = {"tables": {}, "notes": [f"{len(before)} parts became {len(after)}"], "delivery": "compact"}
        draft = Draft(
            base, base.period, schema, datasets.contract(base.id), base.rows, after, note or "compacted", author,
            report=report, manifest=COMPACT,
        )  # fmt: skip
        version = datasets.commit(draft, state=base.state)
        datasets.refresh_face(at_most=FACE_ROWS)
    return Compacted(version, True, len(before), len(after))


def _runs(parts: Sequence[Part]) -> list[list[Part]]:
    """Neighbours to put together: small ones, until they are large."""
    runs: list[list[Part]] = []
    for part in parts:
        fits = runs and sum(one.bytes for one in runs[-1]) < LARGE and part.bytes < LARGE
        if fits:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _together(datasets: Datasets, table: Table, parts: Sequence[Part]) -> Part:
    states = datasets.parts.raw_states(table, parts)
    supersedes = any(part.supersedes for part in parts) or bool(pc.any(states[REMOVED]).as_py())
    return datasets.parts.write(table, states, supersedes=supersedes, period_end=max(part.period_end for part in parts))
