"""Evaluation by parts: only the rows that some entities need are in memory at a time.

The asked entities are parted; for each part DuckDB selects the rows that its features read (`reach.Need`), and the one
evaluator runs over a world of just these: the same rows in the same order, so the same bits. Aggregates of a parent
would pull in all that its other children need; so they are computed first, as a set of their own for the distinct
(parent, cutoff) pairs, parted by the parent's key, and come back as values of the question. Finished parts are files
under the hash of their inputs: a run that was killed goes on behind them.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.backend.features.reach import Need
from holdfast.backend.features.scratch import ScratchTables, columns_read, pruned
from holdfast.backend.store.files import write_whole
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.evaluate import REVISION, Evaluator, frozen
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.pieces import Column, assemble
from holdfast.core.features.plan import compile_plan, is_code
from holdfast.core.features.world import World
from holdfast.core.schema import Column as SchemaColumn
from holdfast.core.schema import DType, Schema
from holdfast.errors import InputError

__all__ = ["Parts", "Questions", "evaluate_in_parts", "world_bytes"]

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
_BYTES = {DType.BOOL: 9, DType.INT: 24, DType.FLOAT: 24, DType.TIME: 24, DType.CATEGORY: 40, DType.TEXT: 64}
"""What a value takes in a world at the most: as it came, as numbers, in the order of an index. Text: a guess."""
_ROW = 96
"""What a row takes besides: known times, orders and positions in indexes."""


@dataclass(frozen=True)
class Questions:
    """n asked rows; see `evaluate`."""

    entities: pa.Array
    cutoffs: Ints
    context: Mapping[str, pa.Array]

    def take(self, at: Ints) -> "Questions":
        """Some of them."""
        rows = pa.array(at)
        return Questions(self.entities.take(rows), self.cutoffs[at], {n: v.take(rows) for n, v in self.context.items()})

    def digest(self) -> bytes:
        """A hash of what is asked."""
        table = pa.table({"k": self.entities, "t": self.cutoffs, **{f"c{n}": v for n, v in self.context.items()}})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return hashlib.sha256(sink.getvalue()).digest()


@dataclass(frozen=True)
class Parts:
    """How to part: `memory` bytes a world may take (None: no limit), at least `least` parts, files in `folder`.

    `data` names the content of the tables, for the names of the files; without a folder nothing is kept.
    """

    memory: int | None = None
    least: int = 1
    folder: Path | None = None
    data: str = ""


def world_bytes(schema: Schema, columns: Mapping[str, Sequence[str]], rows: Mapping[str, int]) -> int:
    """What a world of so many rows per table takes at the most, roughly."""
    return sum(
        rows.get(name, 0) * (_ROW + sum(_BYTES[schema.table(name).column(c).dtype] for c in kept))
        for name, kept in columns.items()
    )


def evaluate_in_parts(
    feature_set: FeatureSet, tables: ScratchTables, asked: Questions, parts: Parts, progress: Progress | None = None
) -> FeatureFrame:
    """The values that `evaluate` gives, bit for bit; of categories only those that occur.

    InputError when what a single entity needs does not fit into the memory.
    """
    asked = replace(asked, cutoffs=frozen(feature_set, asked.cutoffs))
    lowered, above = _lowered(feature_set)
    context = dict(asked.context)
    for link_column, parent, names in above:
        pairs, inverse = _parents(tables, feature_set, link_column, asked)
        found = evaluate_in_parts(parent, tables, pairs, parts)
        for name, column in zip(names, found.columns.values(), strict=True):
            context[name] = _arrow(column).take(pa.array(inverse))
    run = _Run(lowered, tables, Questions(asked.entities, asked.cutoffs, context), parts)
    pieces = [(at, range(len(lowered.features)), columns) for at, columns in run.pieces(progress)]
    return assemble(feature_set, len(asked.cutoffs), pieces)


def _arrow(column: Column) -> pa.Array:
    if isinstance(column, Categories):
        codes = pa.array(column.codes, mask=column.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.values, pa.string())).cast(pa.string())
    return pa.array(column)


def _lowered(feature_set: FeatureSet) -> tuple[FeatureSet, list[tuple[str, FeatureSet, list[str]]]]:
    """The set with aggregates of parents taken out, as context; and per link what was: (column, set, names)."""
    taken: dict[str, dict[Feature, str]] = {}

    def lower(feature: Feature) -> Feature:
        if feature.kind is Kind.TRANSFORM:
            inputs = tuple(lower(one) for one in feature.inputs)
            return feature if inputs == feature.inputs else replace(feature, inputs=inputs)
        if feature.kind is not Kind.DIRECT or not any(one.kind is Kind.AGGREGATE for one in feature.walk()):
            return feature
        assert feature.link is not None
        of_link = taken.setdefault(feature.link.column, {})
        name = of_link.setdefault(feature.inputs[0], f"\0{feature.link.column}\0{len(of_link)}")
        return Feature(Kind.CONTEXT, feature_set.entity, feature.dtype, column=name)

    def named(feature: Feature) -> Feature:
        lowered = lower(feature)
        # Only a name that would be another is kept as an alias: to a plan, a feature of another alias is another one.
        return lowered if lowered is feature else replace(lowered, alias=feature.name)

    features = tuple(named(feature) for feature in feature_set.features)
    above = []
    extra: list[SchemaColumn] = []
    for column, found in taken.items():
        parent = feature_set.schema.table(feature_set.entity).links[column]
        inner = replace(feature_set, entity=parent, features=tuple(found), context=())
        above.append((column, inner, list(found.values())))
        extra += [
            SchemaColumn(name, DType.CATEGORY if is_code(feature) else DType.FLOAT) for feature, name in found.items()
        ]
    return replace(feature_set, features=features, context=(*feature_set.context, *extra)), above


def _parents(tables: ScratchTables, feature_set: FeatureSet, column: str, asked: Questions) -> tuple[Questions, Ints]:
    """The distinct (parent, cutoff) of the asked rows, as their link was known at the cutoff; and whose each one is."""
    entity = feature_set.entity
    kept = tables.put(pa.table({"i": np.arange(len(asked.cutoffs)), "k": asked.entities, "c": asked.cutoffs}))
    happened = tables.happened(entity)
    before = "<=" if feature_set.include_cutoff else "<"
    time = "" if tables.schema.table(entity).time is None else f"AND {happened} {before} a.c"
    found = tables.fetch(
        f"SELECT a.i, t.{tables.column(entity, column)} AS p, a.c FROM {kept} a LEFT JOIN {tables.table(entity)} t "  # noqa: S608
        f"ON t.{tables.key(entity)} = a.k AND coalesce(t.known_from, a.c) <= a.c "
        f"AND (t.known_to IS NULL OR a.c < t.known_to) {time} ORDER BY a.i"
    )
    tables.drop([kept])
    parents, cutoffs = found.column("p").combine_chunks(), found.column("c").to_numpy()
    codes = parents.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    order = np.lexsort((cutoffs, codes))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(codes[order]) != 0) | (np.diff(cutoffs[order]) != 0)
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(new) - 1
    firsts = order[new]
    return Questions(parents.take(pa.array(firsts)), cutoffs[firsts], {}), inverse


class _Run:
    """One feature set without aggregates of its parents, over all parts."""

    def __init__(self, feature_set: FeatureSet, tables: ScratchTables, asked: Questions, parts: Parts) -> None:
        self.feature_set, self.tables, self.asked, self.parts = feature_set, tables, asked, parts
        self.evaluator = Evaluator(feature_set)
        self.columns = columns_read(feature_set)
        self.schema = pruned(feature_set.schema, self.columns)
        self.identity = hashlib.sha256(f"{feature_set.hash}\0{parts.data}\0{REVISION}\0".encode())

    def pieces(self, progress: Progress | None) -> Iterator[tuple[Ints, list[Column]]]:
        """(positions, columns) of each part; one that does not fit is parted further."""
        keys = self.asked.entities.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        count = max(1, min(self._count(), int(keys.max(initial=0)) + 1))
        waiting = [np.flatnonzero(keys % count == part) for part in reversed(range(count))]
        done = 0
        while waiting:
            at = waiting.pop()
            if not len(at):
                continue
            columns = self._one(self.asked.take(at))
            if columns is None:
                waiting += self._split(at, keys)
                continue
            yield at, columns
            done += len(at)
            if progress:
                progress(done, len(keys))

    def _count(self) -> int:
        if self.parts.memory is None:
            return self.parts.least
        counted = {
            name: self.tables.fetch(f"SELECT count(*) AS n FROM {self.tables.table(name)}").column("n")[0].as_py()  # noqa: S608
            for name in self.columns
        }
        return max(self.parts.least, -(-world_bytes(self.schema, self.columns, counted) // self.parts.memory))

    def _split(self, at: Ints, keys: Ints) -> list[Ints]:
        distinct = np.unique(keys[at])
        if len(distinct) == 1:
            name = self.asked.entities[int(at[0])].as_py()
            raise InputError(
                f"the rows that one {self.feature_set.entity!r} needs are more than fit into the memory",
                where={"table": self.feature_set.entity, "key": name, "key in the project file": "features.memory"},
                hint="Give features.memory more, or leave out features that reach so many rows (features.exclude).",
            )
        upper = keys[at] >= distinct[len(distinct) // 2]
        return [at[upper], at[~upper]]

    def _one(self, asked: Questions) -> list[Column] | None:
        """The columns of a part, from its file where there is one; None when its rows take too much memory."""
        path = None
        if self.parts.folder:
            name = self.identity.copy()
            name.update(asked.digest())
            path = self.parts.folder / f"{name.hexdigest()}.parquet"
            if path.exists():
                return _read(path, self.feature_set)
        world = self._world(asked)
        if world is None:
            return None
        frame = self.evaluator.evaluate(world, asked.entities, asked.cutoffs, asked.context)
        columns = list(frame.columns.values())
        if path:
            arrays = [_arrow(column) for column in columns]
            table = pa.table(arrays, names=[f"v{place}" for place in range(len(arrays))])
            write_whole(path, lambda scratch: pq.write_table(table, scratch, compression="lz4"))
        return columns

    def _world(self, asked: Questions) -> World | None:
        """A world of the rows that the asked ones need; None when it would be too large."""
        tables = self.tables
        kept = tables.put(pa.table({"k": asked.entities.unique().drop_null()}))
        need = Need(tables, compile_plan(self.feature_set), kept)
        where = {name: need.where(name) for name in self.columns}
        if self.parts.memory is not None:
            counts = {
                name: tables.fetch(f"SELECT count(*) AS n FROM {tables.table(name)} t WHERE {term}").column("n")[0]  # noqa: S608
                for name, term in where.items()
            }
            size = world_bytes(self.schema, self.columns, {name: count.as_py() for name, count in counts.items()})
            if size > self.parts.memory:
                need.drop()
                tables.drop([kept])
                return None
        rows = {name: tables.rows(name, self.columns[name], term) for name, term in where.items()}
        need.drop()
        tables.drop([kept])
        return World.build(self.schema, rows)


def _read(path: Path, feature_set: FeatureSet) -> list[Column]:
    from holdfast.core.features.columns import categories_of

    table = pq.read_table(path)
    return [
        categories_of(table.column(place)) if is_code(feature) else table.column(place).to_numpy()
        for place, feature in enumerate(feature_set.features)
    ]
