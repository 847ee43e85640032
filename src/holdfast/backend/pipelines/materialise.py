"""From a dataset version to online vectors: each group's features of every entity at one cutoff."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets import Datasets
from holdfast.backend.features.columns import arrow_columns, plain_rows
from holdfast.backend.features.vectors import GroupFreshness, OnlineFeatures
from holdfast.backend.jobs import Running
from holdfast.backend.layout import Layout
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import DatasetVersion, FeatureGroup, Materialisation, OnlineRow, new_id
from holdfast.backend.store import Leases
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.world import World
from holdfast.core.schema import Table
from holdfast.core.timeline import isoformat
from holdfast.errors import InputError

__all__ = ["ENTITY", "EVENT_AT", "MADE_AT", "FeatureRooms", "freshness", "known_entities", "materialise", "world_of"]

Progress = Callable[[int, int, str], None]
ENTITY, EVENT_AT, MADE_AT = "__entity", "__event_at", "__made_at"
"""Columns that a file of materialised rows has beside the features: the key, the cutoff, and when it was computed."""
_CHUNK = 50_000
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class FeatureRooms:
    """What the feature store works with."""

    datasets: Datasets
    online: OnlineFeatures
    blobs: Blobs
    clock: Clock
    layout: Layout


def materialise(
    rooms: FeatureRooms,
    names: Sequence[str] = (),
    *,
    at: int | None = None,
    progress: Progress | None = None,
    running: Running | None = None,
) -> list[Materialisation]:
    """Compute groups (all by default) for every entity known at the cutoff `at` (default now), and put them online.

    Over the current dataset version. A group is online whole or, when it fails, as it was before; vectors that are
    newer than the cutoff stay, unless the group's features changed: then everything of the old definition goes in the
    same step. Groups that the project file names no more go with a run over all. A group that the job `running` did in
    an earlier attempt is not done again. NotFoundError, ConfigError, InputError when nobody is known at the cutoff;
    LockedError while another process materialises the same group.
    """
    report = progress or (lambda _done, _total, _message: None)
    groups = rooms.online.groups
    for name in names:
        groups.check(name)
    chosen = [group for group in groups.sync() if not names or group.name in names]
    cutoff = rooms.clock.now() if at is None else at
    dataset = rooms.datasets.get()
    world = world_of(rooms.datasets, dataset, chosen)
    made = []
    for number, group in enumerate(chosen):

        def step(share: float, message: str, number: int = number) -> None:
            report(round(100 * (number + share)), 100 * len(chosen), message)

        done = running.result(group.name) if running else None
        made.append(
            Materialisation(**done)
            if done
            else _one(rooms, group, dataset, world, cutoff=cutoff, step=step, running=running)
        )
    if not names:
        for name in groups.abandoned():
            rooms.online.store.drop(name)
    report(100 * len(chosen), 100 * len(chosen), "online: " + (", ".join(one.group for one in made) or "nothing"))
    return made


def world_of(datasets: Datasets, dataset: DatasetVersion, groups: Sequence[FeatureGroup]) -> World:
    """The tables of a dataset version that the groups' features read."""
    schema = datasets.schema(dataset.id)
    needed = {table for group in groups for table in FeatureSet.from_dict(group.definitions).schema.tables}
    wanted = [name for name in schema.tables if name in needed]
    return World.build(schema, datasets.read(dataset.id, wanted))


def _one(
    rooms: FeatureRooms,
    group: FeatureGroup,
    dataset: DatasetVersion,
    world: World,
    *,
    cutoff: int,
    step: Callable[[float, str], None],
    running: Running | None,
) -> Materialisation:
    groups, now, started = rooms.online.groups, rooms.clock.now(), perf_counter()
    with (
        Leases(groups.store, rooms.clock).hold([f"group:{group.name}"], doing="materialise"),
        tempfile.TemporaryDirectory(dir=rooms.layout.private) as folder,
    ):
        entities = known_entities(world, group.entity, cutoff)
        file = Path(folder) / "rows.arrow"
        _compute(group, world, entities, (cutoff, now), file=file, step=step)
        digest = rooms.blobs.put_file(file)
        before = groups.materialisations(group.name)
        step(0.9, f"writing {group.name}")
        # What is slow is done; the batch itself only moves bytes.
        written = rooms.online.store.write(
            group.name, FeatureSet.from_dict(group.definitions).names, _rows(file), made_at=now, ttl=group.ttl,
            origin=f"{group.id[:12]} {dataset.id}", replace=not before or before[0].feature_set != group.feature_set,
        )  # fmt: skip
        made = Materialisation(
            id=new_id("mat", now), made_at=now, group=group.name, version=group.id, feature_set=group.feature_set,
            dataset=dataset.id, cutoff=cutoff, rows=len(entities), written=written,
            seconds=perf_counter() - started, sha256=digest,
        )  # fmt: skip
        # Last: if the process dies before, the group counts as behind and is materialised again, to the same end.
        with groups.store.write("materialisation"):
            groups.record(made)
            if running is not None:
                running.commit(group.name, lambda _: asdict(made))
    step(1.0, f"{group.name}: {len(entities):,} vectors")
    return made


def known_entities(world: World, entity: str, cutoff: int) -> pa.Array:
    """Keys of the rows of table `entity` as known at the cutoff, ascending. InputError when there are none."""
    rows = world.tables[entity]
    table: Table = rows.table
    seen = (rows.known_from <= cutoff) & (cutoff < rows.known_to)
    if table.time is not None:
        seen &= rows.times < cutoff
    keys = pc.unique(rows.raw(table.key[0]).filter(pa.array(seen))).drop_null()
    if not len(keys):
        raise InputError(
            f"no row of {entity!r} was known at {isoformat(cutoff)}",
            where={"table": entity},
            hint="Give a later time, or import the data first.",
        )
    return keys.take(pc.array_sort_indices(keys))


def _compute(
    group: FeatureGroup,
    world: World,
    entities: pa.Array,
    times: tuple[int, int],
    *,
    file: Path,
    step: Callable[[float, str], None],
) -> None:
    """Write the features of the entities at the cutoff to a file; memory does not grow with their number.

    Arrow's own format, not compressed: a join maps the file and touches the rows it needs, no others.
    """
    feature_set = FeatureSet.from_dict(group.definitions)
    cutoff, now = times
    writer: pa.ipc.RecordBatchFileWriter | None = None
    schema: pa.Schema | None = None
    try:
        for begin in range(0, len(entities), _CHUNK):
            step(0.9 * begin / len(entities), f"computing {group.name}: {begin:,} of {len(entities):,}")
            part = entities.slice(begin, _CHUNK)
            frame = evaluate(feature_set, world, part, np.full(len(part), cutoff, np.int64))
            columns = {
                ENTITY: part,
                EVENT_AT: pa.array(np.full(len(part), cutoff), pa.int64()).cast(_TIME),
                MADE_AT: pa.array(np.full(len(part), now), pa.int64()).cast(_TIME),
                **arrow_columns(frame),
            }
            table = pa.table(columns)
            schema = schema or table.schema
            writer = writer or pa.ipc.new_file(str(file), schema)
            writer.write_table(table.cast(schema))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"a feature does not fit its type: {error}", where={"feature group": group.name},
            hint="A sum of whole numbers may have more than 64 bits; convert the column to float.",
        ) from error  # fmt: skip
    finally:
        if writer is not None:
            writer.close()


def _rows(file: Path) -> Iterator[OnlineRow]:
    with pa.memory_map(str(file)) as mapped:
        reader = pa.ipc.open_file(mapped)
        for number in range(reader.num_record_batches):
            table = pa.Table.from_batches([reader.get_batch(number)])
            keys = table.column(ENTITY)
            plain = keys.cast(pa.int64()) if pa.types.is_timestamp(keys.type) else keys
            moments = table.column(EVENT_AT).cast(pa.int64()).to_pylist()
            values = plain_rows(table.drop_columns([ENTITY, EVENT_AT, MADE_AT]))
            yield from map(OnlineRow, plain.to_pylist(), values, moments)


def freshness(rooms: FeatureRooms) -> list[GroupFreshness]:
    """How current every group of the project file is online."""
    online, now, dataset = rooms.online, rooms.clock.now(), rooms.datasets.get()
    found = []
    for group in online.groups.sync():
        held = online.freshness(group.name)
        made = online.groups.materialisations(group.name)
        # The newest cutoff is what is online; of equal ones the newest made.
        current = [one for one in made if one.feature_set == group.feature_set] or made
        last = max(current, key=lambda one: (one.cutoff, one.made_at)) if made else None
        found.append(
            GroupFreshness(
                group=group.name,
                version=group.id,
                vectors=held.vectors,
                expired=held.expired,
                newest_at=held.newest_at,
                oldest_at=held.oldest_at,
                age=None if held.newest_at is None else now - held.newest_at,
                ttl=group.ttl,
                materialised_at=last.made_at if last else None,
                data_version=rooms.datasets.get(last.dataset).version if last else None,
                current_version=dataset.version,
                behind=last is None or last.dataset != dataset.id or last.feature_set != group.feature_set,
            )
        )
    return found
