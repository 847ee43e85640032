"""Proposes a project file from files: tables, keys, times, links and what might be predicted.

A proposal is a start for a person, not a contract: it is made from the first and the last deliveries only, and says in
comments what it saw. `look` reads a folder; `propose` is pure.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.records import RawTable
from holdfast.core.timeline import Period
from holdfast.errors import FileError, InputError, NotFoundError

__all__ = ["ColumnSeen", "Delivered", "Proposal", "TableProposal", "look", "propose"]

_SAMPLED = 3
"""Deliveries of each table that are read: the first, the second and the last."""
_UNIQUE = 0.99
"""Share of distinct values from which a column that is named like an identity is proposed as key."""
_CONTAINED = 0.90
"""Share of values found in a parent's key from which a column is proposed as link."""
_REPEATED = 0.5
"""Share of keys that come again in the next delivery from which deliveries are taken for full lists."""
_FEW = 12
"""Up to so many different values a column is taken for classes."""

_IDENTITY = re.compile(r"(^|_|\b)(id|ids|no|nr|code|key|uuid|number)$|id$|编号|编码|代码|号$", re.IGNORECASE)
_MOMENT = re.compile(r"date|time|day|when|timestamp|_at$|日期|时间|日$", re.IGNORECASE)
_DATES = re.compile(r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?([T ]\d{1,2}:\d{2}.*)?|\d{1,2}/\d{1,2}/\d{4}.*")
_COMPACT = re.compile(r"(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_STAMP = re.compile(r"[-_ .]?(19|20)\d{2}([-_.]?(\d{2}|Q[1-4]|W\d{2}))?([-_.]?\d{2})?$")
_SUFFIXES = re.compile(r"(\.(csv|tsv|txt|xlsx|xlsm|xls|xlsb|ods|parquet|jsonl|ndjson|json))(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A file of one table in one delivery (`period` is empty for files that lie in no period's folder)."""

    period: str
    name: str
    raw: RawTable


@dataclass(frozen=True, slots=True)
class ColumnSeen:
    """What was seen of a column. `kind`: bool, int, float, time, category or text; shares are of the sampled rows."""

    name: str
    kind: str
    distinct: int
    empty: float


@dataclass(slots=True)
class TableProposal:
    """A proposed table; `notes` are for the person who reads the file."""

    name: str
    files: str
    columns: list[ColumnSeen]
    key: tuple[str, ...] = ()
    time: str | None = None
    delivery: str = "increment"
    links: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each column."""
        return {column.name: column.kind for column in self.columns}


@dataclass(frozen=True, slots=True)
class Proposal:
    """Proposed tables; `target` is the (table, column) that looks most like something to predict, if any."""

    tables: dict[str, TableProposal]
    target: tuple[str, str] | None


def look(folder: Path, read: Callable[[Path], RawTable]) -> dict[str, list[Delivered]]:
    """Read a sample of the files in `folder`, or in its folders named as periods, by table name.

    Raises NotFoundError when there is no folder or nothing to read in it, and FileError (the reader's) for a file that
    cannot be read.
    """
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="Give a folder of files, or of folders named 2024-01.")
    periods = sorted(child for child in folder.iterdir() if child.is_dir() and _is_period(child.name))
    found: dict[str, list[tuple[str, Path]]] = {}
    for place in periods or [folder]:
        for path in sorted(place.iterdir()):
            if path.is_file() and not path.name.startswith(".") and _SUFFIXES.search(path.name):
                found.setdefault(_table_name(path.name), []).append((place.name if periods else "", path))
    if not found:
        raise NotFoundError(
            f"{folder} holds no table", hint="Tables are csv, tsv, Excel, ods, parquet or json lines, also gzipped."
        )
    return {
        table: [Delivered(period, path.name, read(path)) for period, path in _sample(files)]
        for table, files in found.items()
    }


def _sample(files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    return files if len(files) <= _SAMPLED else [*files[: _SAMPLED - 1], files[-1]]


def _is_period(name: str) -> bool:
    try:
        Period.parse(name)
    except InputError:
        return False
    return True


def _table_name(file: str) -> str:
    stem = _SUFFIXES.sub("", file)
    return (_STAMP.sub("", stem) or stem).strip()


def propose(delivered: Mapping[str, Sequence[Delivered]]) -> Proposal:
    """Tables with their keys, times and links. Raises FileError when a file has no columns."""
    tables = {name: _table(name, files) for name, files in delivered.items()}
    for name, table in tables.items():
        _set_delivery(table, delivered[name])
    for table in tables.values():
        _set_links(table, tables, delivered)
    return Proposal(tables, _target(tables))


def _table(name: str, files: Sequence[Delivered]) -> TableProposal:
    samples = [_cleaned(item.raw.table) for item in files]
    if not samples[0].column_names:
        raise FileError("the file has no columns", where={"file": files[0].name}, hint="Its first row names columns.")
    together = pa.concat_tables([sample.cast(_as_text(sample.schema)) for sample in samples], promote_options="default")
    typed = pa.concat_tables(samples, promote_options="permissive") if _same_types(samples) else together
    columns = [_column(name_, typed[name_]) for name_ in together.column_names]
    names = {item.name for item in files}
    suffix = _SUFFIXES.search(files[0].name)
    pattern = files[0].name if len(names) == 1 else f"{name}*{suffix[0] if suffix else ''}"
    table = TableProposal(name, pattern, columns)
    table.time = _time(columns)
    table.key = _key(table, samples)
    if not table.key:
        table.notes.append("no column, nor columns together, tell its rows apart: a row's whole content is its key")
    if any(set(sample.column_names) != set(samples[0].column_names) for sample in samples):
        table.notes.append("its deliveries differ in columns")
    return table


def _cleaned(table: pa.Table) -> pa.Table:
    """Without the spaces around texts, and with empty texts as nulls."""
    for index, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            trimmed = pc.utf8_trim_whitespace(column)
            empty = pc.fill_null(pc.equal(trimmed, ""), fill_value=True)
            table = table.set_column(
                index, table.column_names[index], pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)
            )
    return table


def _as_text(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in schema.names])


def _same_types(samples: Sequence[pa.Table]) -> bool:
    seen: dict[str, pa.DataType] = {}
    return all(seen.setdefault(item.name, item.type) == item.type for sample in samples for item in sample.schema)


def _column(name: str, values: pa.ChunkedArray) -> ColumnSeen:
    present = values.drop_null()
    distinct = pc.count_distinct(present).as_py() if len(present) else 0
    empty = 1 - len(present) / len(values) if len(values) else 0.0
    return ColumnSeen(name, _kind(name, present, distinct), distinct, empty)


def _kind(name: str, values: pa.ChunkedArray, distinct: int) -> str:
    if pa.types.is_temporal(values.type):
        return "time"
    if pa.types.is_boolean(values.type):
        return "bool"
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return "int" if pa.types.is_integer(values.type) else "float"
    if not len(values):
        return "text"
    different = [str(value) for value in pc.unique(values).to_pylist()]
    if _most(different, lambda text: bool(_DATES.fullmatch(text))):
        return "time"
    if _MOMENT.search(name) and _most(different, lambda text: bool(_COMPACT.fullmatch(text))):
        return "time"
    if _most(different, lambda text: bool(re.fullmatch(r"[+-]?(0|[1-9]\d{0,17})", text))):
        return "int"
    if _most(different, lambda text: bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text))):
        # A number never begins with needless zeros; a code does.
        return "category" if any(re.match(r"0\d", text) for text in different) else "float"
    return "category" if distinct <= max(_FEW, len(values) // 20) else "text"


def _most(values: list[str], fits: Callable[[str], bool]) -> bool:
    return sum(map(fits, values)) >= 0.95 * len(values)


def _time(columns: Sequence[ColumnSeen]) -> str | None:
    times = [column for column in columns if column.kind == "time" and column.empty < 0.05]
    named = [column for column in times if _MOMENT.search(column.name)]
    return (named or times)[0].name if times else None


def _key(table: TableProposal, samples: Sequence[pa.Table]) -> tuple[str, ...]:
    usable = [c for c in table.columns if c.kind not in {"float", "bool"} and c.empty <= 1 - _UNIQUE]
    identities = [c.name for c in usable if _IDENTITY.search(c.name) and c.kind != "time"]
    for name in identities:
        share = _distinct_share([name], samples)
        if share >= _UNIQUE:
            if share < 1:
                table.notes.append(f"{name} repeats in {1 - share:.2%} of the rows")
            return (name,)
    if not identities:
        first = [c.name for c in usable[:1] if c.kind != "time" and sum(map(len, samples)) >= 20]
        return tuple(name for name in first if _distinct_share([name], samples) == 1)
    classes = [c.name for c in usable if c.kind in {"category", "int"} and c.name not in identities]
    others = [*([table.time] if table.time else []), *identities[1:], *classes[:6]]
    for width in (1, 2):
        for rest in itertools.combinations(others, width):
            names = (identities[0], *rest)
            if _distinct_share(list(names), samples) == 1:
                return names
    return ()


def _distinct_share(names: list[str], samples: Sequence[pa.Table]) -> float:
    """The smallest share of rows that differ in `names` within one delivery."""
    shares = []
    for sample in samples:
        if len(sample):
            if not set(names) <= set(sample.column_names):
                return 0.0
            shares.append(len(sample.select(names).group_by(names).aggregate([])) / len(sample))
    return min(shares, default=0.0)


def _set_delivery(table: TableProposal, files: Sequence[Delivered]) -> None:
    """Deliveries that repeat most keys are full lists; the time in them is a property, not a moment."""
    if len(files) < 2 or len(table.key) != 1 or not files[0].period:
        return
    first, second = (set(_texts(item.raw.table, table.key[0])) for item in files[:2])
    common = len(first & second) / max(len(first), 1)
    if common > _REPEATED:
        table.delivery, table.time = "full", None
        table.notes.append(f"{common:.0%} of its keys come again in the next delivery: taken for full lists")


def _texts(table: pa.Table, column: str) -> list[str]:
    if column not in table.column_names:
        return []
    values = _cleaned(table.select([column]))[column].drop_null()
    return [str(value) for value in pc.unique(values).to_pylist()]


def _set_links(
    table: TableProposal, tables: Mapping[str, TableProposal], delivered: Mapping[str, Sequence[Delivered]]
) -> None:
    for column in table.columns:
        if column.kind in {"float", "bool", "time"} or (column.name,) == table.key or not column.distinct:
            continue
        for parent in tables.values():
            if parent is table or len(parent.key) != 1 or not _names_agree(column.name, parent):
                continue
            known = {text for item in delivered[parent.name] for text in _texts(item.raw.table, parent.key[0])}
            values = {text for item in delivered[table.name] for text in _texts(item.raw.table, column.name)}
            found = len(values & known) / len(values)
            if found >= _CONTAINED:
                table.links[column.name] = parent.name
                if found < 1:
                    table.notes.append(f"{1 - found:.1%} of {column.name} are not in {parent.name}")
                break


def _names_agree(column: str, parent: TableProposal) -> bool:
    column, key, name = column.lower(), parent.key[0].lower(), parent.name.lower()
    stems = {name, name.removesuffix("s"), name.removesuffix("es"), re.sub(r"ies$", "y", name)}
    return column == key or (len(key) > 2 and column.endswith(f"_{key}")) or any(stem in column for stem in stems)


def _target(tables: Mapping[str, TableProposal]) -> tuple[str, str] | None:
    """A column of classes, or else a number, in a table of events that has a parent."""
    events = [table for table in tables.values() if table.time and table.links] or list(tables.values())
    for kinds in ({"category", "bool"}, {"int", "float"}):
        for table in events:
            for column in reversed(table.columns):
                is_plain = column.name not in {*table.key, *table.links, table.time}
                few = column.distinct <= _FEW or "category" not in kinds
                if column.kind in kinds and is_plain and few and column.distinct > 1:
                    return table.name, column.name
    return None
