"""Where a person is: the rows in parts and raw files that belong to one row of an entity table."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa

from holdfast.backend.datasets.tables import Part
from holdfast.backend.pipelines.delivery import Reader
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import RawTable
from holdfast.backend.store import metadata
from holdfast.core.prepare.persons import Frame, belonging, key_text, raw_key_text
from holdfast.core.schema import DType, Schema
from holdfast.errors import InputError, NotFoundError

__all__ = ["Belongings", "RawAccess", "RawRead", "Shape", "find_belongings", "keys_in", "spelled"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RawAccess:
    """How raw files are read, and how rows of one are emptied (`adapters.files.emptying`; None: cannot be)."""

    read: Reader
    empty: Callable[[Path, RawTable, Sequence[int]], bytes | None]


@dataclass(frozen=True)
class Shape:
    """What tables look like over all versions: key column (of tables with one) with its type, links, source."""

    keys: Mapping[str, tuple[str, DType]]
    links: Mapping[str, frozenset[tuple[str, str]]]
    sources: Mapping[str, str]
    timezone: str

    @staticmethod
    def of(rooms: Rooms) -> "Shape":
        """Of all versions of a project, the newest of which decides where they differ."""
        keys: dict[str, tuple[str, DType]] = {}
        links: dict[str, set[tuple[str, str]]] = {}
        sources: dict[str, str] = {}
        for version in rooms.datasets.list():
            for table in Schema.from_dict(version.schema).tables.values():
                if len(table.key) == 1:
                    keys[table.name] = (table.key[0], table.column(table.key[0]).dtype)
                links.setdefault(table.name, set()).update(table.links.items())
                if table.source:
                    sources[table.name] = table.source
        frozen = {name: frozenset(found) for name, found in links.items()}
        return Shape(keys, frozen, sources, rooms.settings.timezone)

    def derived_of(self, table: str) -> list[str]:
        """Tables that derive from `table`, directly or not."""
        direct = [name for name, source in self.sources.items() if source == table]
        return [*direct, *(more for one in direct for more in self.derived_of(one))]


@dataclass(frozen=True)
class RawRead:
    """A raw file as it was read for one table, and which of its rows belong (`rows`, numbers as the reader gives)."""

    path: str
    table: str
    raw: RawTable
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Belongings:
    """Everything of a person in data: `keys` of all rows by table, masks of parts by digest, rows of raw files.

    `unread` are raw files that no table claims and that mention the key.
    """

    shape: Shape
    keys: Mapping[str, frozenset[str]]
    parts: Mapping[str, tuple[Part, Mask]]
    raw: Sequence[RawRead] = ()
    unread: Sequence[str] = field(default=())


def spelled(shape: Shape, table: str, key: str) -> str:
    """The key as it is compared. NotFoundError for an unknown table; InputError for one without a key of one column."""
    if table not in shape.keys:
        known = ", ".join(shape.keys)
        if table in shape.links:
            raise InputError(
                f"rows of {table!r} have no key of one column", where={"table": table}, hint=f"Those of {known} have."
            )
        raise NotFoundError(f"there is no table {table!r}", where={"table": table}, hint=f"The tables are: {known}")
    text = raw_key_text(pa.array([key]), shape.keys[table][1], shape.timezone)[0].as_py()
    return str(text)


def find_belongings(rooms: Rooms, read: Reader, table: str, key: str) -> Belongings:
    """Look through every part of every version, and every raw file. `key` as `spelled`."""
    shape = Shape.of(rooms)
    parts, part_frames = _part_frames(rooms, shape)
    raws, raw_frames, unclaimed = _raw_frames(rooms, shape, read)
    keys = belonging([*part_frames, *raw_frames], table, key)
    masks: dict[str, Mask] = {}
    for frame in part_frames:
        masks[frame.place] = masks.get(frame.place, np.zeros(frame.rows, bool)) | frame.mask
    found = [
        RawRead(path, frame.table, raw, tuple(raw.rows.filter(pa.array(frame.mask)).to_pylist()))
        for (path, raw), frame in zip(raws, raw_frames, strict=True)
    ]
    needle = key.encode()
    return Belongings(
        shape=shape,
        keys=keys,
        parts={digest: (parts[digest], mask) for digest, mask in masks.items() if digest and mask.any()},
        raw=[one for one in found if one.rows],
        unread=[path for path in unclaimed if needle in (rooms.layout.root / path).read_bytes()],
    )


def keys_in(rooms: Rooms, read: Reader, table: str) -> set[str]:
    """All keys of a table, as they are compared, in every version and raw file."""
    shape = Shape.of(rooms)
    _, part_frames = _part_frames(rooms, shape)
    _, raw_frames, _ = _raw_frames(rooms, shape, read)
    found: set[str] = set()
    for frame in (*part_frames, *raw_frames):
        columns = [frame.key] if frame.table == table and frame.key is not None else []
        for column in (*columns, *(link for name, link in frame.links if name == table)):
            found.update(column.drop_null().to_pylist())
    return found


def _part_frames(rooms: Rooms, shape: Shape) -> tuple[dict[str, Part], list[Frame]]:
    """Every part of every version, with a frame; and frames (of no place) of what derives from them."""
    parts: dict[str, Part] = {}
    frames: list[Frame] = []
    seen: set[tuple[str, str]] = set()
    for part in _all_parts(rooms):
        # Parts that were collected are named by their version still. Equal parts of two tables are one blob.
        if (part.table, part.digest) in seen or not rooms.blobs.has(part.digest):
            continue
        seen.add((part.table, part.digest))
        rows = rooms.datasets.parts.read_plain(part.digest)
        parts[part.digest] = part
        frames.append(_frame(shape, part.table, part.digest, rows))
        frames += [_frame(shape, name, "", rows) for name in shape.derived_of(part.table)]
    return parts, frames


def _all_parts(rooms: Rooms) -> list[Part]:
    table = metadata.tables["dataset_parts"]
    with rooms.store.read() as connection:
        return [
            Part(row.table, row.digest, row.rows, row.bytes, row.supersedes, row.period_end, json.loads(row.ranges))
            for row in connection.execute(sa.select(table))
        ]


def _frame(shape: Shape, table: str, place: str, rows: pa.Table) -> Frame:
    names = set(rows.column_names)
    key = shape.keys.get(table, ("", None))[0]
    links = [(parent, key_text(rows[c])) for c, parent in sorted(shape.links.get(table, ())) if c in names]
    return Frame(table, place, rows.num_rows, key_text(rows[key]) if key in names else None, links)


def _raw_frames(rooms: Rooms, shape: Shape, read: Reader) -> tuple[list[tuple[str, RawTable]], list[Frame], list[str]]:
    """Every raw file that a table claimed, as read now, with a frame; and the paths of those that none claimed."""
    table = metadata.tables["dataset_files"]
    with rooms.store.read() as connection:
        files = dict.fromkeys((row.path, row.table) for row in connection.execute(sa.select(table)) if row.bytes)
    raws, frames = [], []
    for path, name in files:
        if name:
            said = rooms.settings.tables.get(name)
            raw = read(rooms.layout.root / path, sheet=said.sheet if said else None)
            raws.append((path, raw))
            frames.append(_raw_frame(rooms, shape, name, path, raw.table))
    return raws, frames, [path for path, name in files if not name]


def _raw_frame(rooms: Rooms, shape: Shape, table: str, path: str, rows: pa.Table) -> Frame:
    said = rooms.settings.tables.get(table)
    names = set(rows.column_names)

    def cells(column: str, dtype: DType) -> pa.Array | None:
        aliases = said.columns[column].aliases if said and column in said.columns else ()
        found = next((name for name in (column, *aliases) if name in names), None)
        return None if found is None else raw_key_text(rows[found], dtype, shape.timezone)

    key = cells(*shape.keys[table]) if table in shape.keys else None
    links = []
    for column, parent in sorted(shape.links.get(table, ())):
        text = cells(column, shape.keys[parent][1]) if parent in shape.keys else None
        if text is not None:
            links.append((parent, text))
    return Frame(table, path, rows.num_rows, key, links)
