"""What of an older matrix still holds: values of asked rows that no changed state can have touched.

A state matters to cutoffs from the moment it had happened and was known, or, where it was superseded, from that
moment. `reach.touched` carries these moments to the asked entities; a row whose cutoff lies before keeps its values.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.backend.features.files import REVISION_KEY
from holdfast.backend.features.partitions import Questions
from holdfast.backend.features.reach import touched
from holdfast.backend.features.scratch import ScratchTables, columns_read
from holdfast.core.features.columns import categories_of
from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.evaluate import REVISION, frozen
from holdfast.core.features.pieces import Column
from holdfast.core.features.plan import compile_plan, is_code
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, DType, Schema
from holdfast.core.timeline import NEVER

__all__ = ["computed_alike", "earlier_values", "reusable", "unaffected"]

Ints = npt.NDArray[np.int64]


def reusable(old: FeatureSet, new: FeatureSet) -> tuple[int, ...]:
    """Places in `new` of the features that `old` has too, meaning the same: definition, and all that they read.

    A feature of the question's own columns counts only where these are features of both: they tell questions apart.
    """
    if (
        any(getattr(old, name) != getattr(new, name) for name in ("entity", "include_cutoff", "frozen_at"))
        or old.schema.timezone != new.schema.timezone
    ):
        return ()
    told = _contexts(old) & _contexts(new)
    before = {feature.name: feature for feature in old.features}
    places = []
    for place, feature in enumerate(new.features):
        same = before.get(feature.name)
        asks = {one.column for one in feature.walk() if one.kind is Kind.CONTEXT}
        if (
            same is not None
            and asks <= told
            and same.to_dict() == feature.to_dict()
            and _reads(old, same) == _reads(new, feature)
        ):
            places.append(place)
    return tuple(places)


def _contexts(feature_set: FeatureSet) -> set[str]:
    return {f.column for f in feature_set.features if f.kind is Kind.CONTEXT}


def _reads(feature_set: FeatureSet, feature: Feature) -> dict[str, object]:
    """The part of the schema that a feature's values depend on."""
    found: dict[str, object] = {}
    for name, columns in columns_read(replace(feature_set, features=(feature,))).items():
        table = feature_set.schema.table(name)
        found[name] = (table.key, table.time, [(c, table.column(c).dtype) for c in columns])
    return found


def unaffected(
    feature_set: FeatureSet, old: Mapping[str, pa.Table], new: Mapping[str, pa.Table], asked: Questions
) -> npt.NDArray[np.bool_]:
    """Which asked rows have the same values over the tables `old` and `new` (all states of both), bool [n].

    False where they may differ: never wrong, only careful.
    """
    plan, columns = compile_plan(feature_set), columns_read(feature_set)
    old, new, whole = _differing(columns, old, new)
    cutoffs = frozen(feature_set, asked.cutoffs)
    with ScratchTables(feature_set.schema) as tables:
        tables.register(old, "old_")
        tables.register(new)
        tables.register(whole, "all_")
        changed, rows = {}, {}
        for name, kept in columns.items():
            changed[name] = _changed(tables, name, kept)
            read = ", ".join(f"c{feature_set.schema.table(name).names.index(c)}" for c in kept)
            rows[name] = f"(SELECT {read} FROM all_{tables.table(name)} UNION ALL SELECT {read} FROM {changed[name]})"  # noqa: S608
        moments = touched(tables, plan, changed, rows)
        kept_asked = tables.put(pa.table({"i": np.arange(len(asked.cutoffs)), "k": asked.entities, "c": cutoffs}))
        found = tables.fetch(
            f"SELECT a.i FROM {kept_asked} a JOIN {moments} e ON a.k = e.k WHERE a.c >= e.m"  # noqa: S608
        )
    same = np.ones(len(asked.cutoffs), np.bool_)
    same[found.column("i").to_numpy()] = False
    return same


def _differing(
    columns: Mapping[str, tuple[str, ...]], old: Mapping[str, pa.Table], new: Mapping[str, pa.Table]
) -> tuple[dict[str, pa.Table], dict[str, pa.Table], dict[str, pa.Table]]:
    """Both sides without the rows that begin both alike (a version mostly adds to another), and all of `new`."""
    one, other, whole = {}, {}, {}
    for name, kept in columns.items():
        before, after = old.get(name), new.get(name)
        if after is not None:
            whole[name] = other[name] = after
        if before is not None:
            one[name] = before
        names = [*kept, KNOWN_FROM, KNOWN_TO]
        if before is None or after is None or any(c not in t.column_names for c in names for t in (before, after)):
            continue
        head = after.slice(0, len(before))
        if all(head[c].equals(before[c]) for c in names[:-1]):
            ends = [t[KNOWN_TO].cast(pa.int64()).fill_null(NEVER).to_numpy() for t in (before, head)]
            moved = pa.array(np.flatnonzero(ends[0] != ends[1]))
            one[name] = before.take(moved)
            other[name] = pa.concat_tables([head.take(moved), after.slice(len(before))])
    return one, other, whole


def _changed(tables: ScratchTables, name: str, columns: tuple[str, ...]) -> str:
    """States that one side lacks, or holds with another end; `m`: the earliest cutoff at which that can matter."""
    read = ", ".join(tables.column(name, column) for column in columns)
    one, other = tables.table(name), f"old_{tables.table(name)}"
    happened = tables.happened(name)
    # A state without a time never happens. Both are null-safe: a null known_from is always.
    begins = "coalesce(t.known_from, -9223372036854775807)"
    begins = begins if tables.schema.table(name).time is None else f"greatest({begins}, {happened})"
    there = "true" if tables.schema.table(name).time is None else f"{happened} IS NOT NULL"
    queries = []
    for left, right in ((one, other), (other, one)):
        queries.append(
            f"SELECT t.*, {begins} AS m FROM (SELECT {read}, known_from FROM {left} "  # noqa: S608
            f"EXCEPT ALL SELECT {read}, known_from FROM {right}) t WHERE {there}"
        )
        queries.append(
            f"SELECT t.* EXCLUDE known_to, t.known_to AS m FROM (SELECT {read}, known_from, known_to FROM {left} "  # noqa: S608
            f"EXCEPT ALL SELECT {read}, known_from, known_to FROM {right}) t WHERE t.known_to IS NOT NULL AND {there}"
        )
    return tables.make(" UNION ALL ".join(f"({query})" for query in queries))


def computed_alike(path: Path) -> bool:
    """Whether an older matrix file's values are what this evaluator would compute: its REVISION did."""
    return (pq.read_schema(path).metadata or {}).get(REVISION_KEY) == str(REVISION).encode()


def earlier_values(
    path: Path, old: FeatureSet, new: FeatureSet, places: tuple[int, ...], asked: Questions
) -> tuple[Ints, Ints, list[Column]]:
    """Which asked rows an older matrix file answers: their positions, its rows for them, and its columns at `places`.

    The columns are of all its rows. A question is the same when entity, cutoff and the context that features read are.
    """
    schema = pq.read_schema(path)
    index = schema.pandas_metadata["index_columns"]
    contexts = sorted(_contexts(old) & _contexts(new))
    by_context = {f.column: f for f in new.features if f.kind is Kind.CONTEXT}
    names = {by_context[c].name for c in contexts} | {new.features[place].name for place in places}
    table = pq.read_table(path, columns=[*index, *sorted(names)])
    entities, cutoffs = table.column(index[0]), table.column(index[1]).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    if entities.type != asked.entities.type:
        entities = entities.cast(asked.entities.type)
    held = {"k": entities, "c": cutoffs}
    wanted = {"k": asked.entities, "c": pa.array(asked.cutoffs)}
    for place, name in enumerate(contexts):
        feature = by_context[name]
        kind = pa.string() if is_code(feature) else pa.float64()
        held[f"x{place}"] = _floats(_plain(table.column(feature.name)).cast(kind))
        given = asked.context.get(name)
        given = pa.nulls(len(asked.cutoffs), kind) if given is None else given
        wanted[f"x{place}"] = _floats(pa.chunked_array([given]).cast(kind, safe=False))
    at, rows = _matched(wanted, held)
    columns = [_column(table.column(new.features[place].name), new.features[place]) for place in places]
    return at, rows, columns


def _matched(wanted: Mapping[str, pa.Array], held: Mapping[str, pa.Array]) -> tuple[Ints, Ints]:
    """Positions of wanted rows that are held, and where; null equals null."""
    with ScratchTables(Schema({})) as tables:
        one = tables.put(pa.table({"i": np.arange(len(wanted["k"])), **wanted}))
        other = tables.put(pa.table({"j": np.arange(len(held["k"])), **held}))
        same = " AND ".join(f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in wanted)
        query = f"SELECT a.i, min(b.j) AS j FROM {one} a JOIN {other} b ON {same} GROUP BY a.i ORDER BY a.i"  # noqa: S608
        found = tables.fetch(query)
    return found.column("i").to_numpy(), found.column("j").to_numpy()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Null where a number is NaN, one zero: so that equal questions are equal."""
    if not pa.types.is_floating(column.type):
        return column
    values = np.asarray(column.to_numpy(), np.float64) + 0.0
    return pa.chunked_array([pa.array(values, mask=np.isnan(values))])


def _column(column: pa.ChunkedArray, feature: Feature) -> Column:
    if is_code(feature):
        return categories_of(_plain(column).cast(DType.CATEGORY.arrow))
    values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    return np.where(np.isnan(values), np.nan, values)
