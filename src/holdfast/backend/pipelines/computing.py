"""The values of a matrix: what an older one still answers is taken over, the rest computed, by parts if need be."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets import Datasets
from holdfast.backend.features import Features
from holdfast.backend.features.incremental import computed_alike, earlier_values, reusable, unaffected
from holdfast.backend.features.partitions import Parts, Questions, evaluate_in_parts, world_bytes
from holdfast.backend.features.scratch import ScratchTables, columns_read
from holdfast.backend.store.files import sha256_of_file
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.pieces import Column, assemble, compact
from holdfast.core.features.primitives import Primitive
from holdfast.core.features.world import World
from holdfast.core.words import parse_size
from holdfast.errors import ConfigError, IntegrityError, NotFoundError

__all__ = ["Job", "compute_values"]

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
_LARGE = 1_000_000
"""Rows of tables below which a world of all of them costs nothing that matters."""
_SHARE = 10


@dataclass(frozen=True)
class Job:
    """What is to be computed: `tables` hold all states of dataset version `dataset`; `target` names older matrices.

    `memory` is `features.memory`; `folder` is for scratch files; `progress` hears (rows done, rows in all).
    `own` are the user's primitives.
    """

    target: str
    dataset: str
    feature_set: FeatureSet
    tables: Mapping[str, pa.Table]
    asked: Questions
    memory: str | None
    folder: Path
    progress: Progress | None = None
    own: Sequence[Primitive] = ()


def compute_values(job: Job, datasets: Datasets, features: Features, *, full: bool = False) -> tuple[FeatureFrame, int]:
    """The values, and how many rows were taken from an older matrix (none with `full`): the same bits either way."""
    pieces, reused = ([], 0) if full else _taken_over(job, datasets, features)
    if not pieces:
        return _evaluated(job, job.feature_set, job.asked), 0
    rows, places = len(job.asked.cutoffs), range(len(job.feature_set.features))
    at, held, _ = pieces[0]
    rest = np.setdiff1d(np.arange(rows), at)
    if len(rest):
        frame = _evaluated(job, job.feature_set, job.asked.take(rest))
        pieces.append((rest, tuple(places), list(frame.columns.values())))
    fresh = tuple(place for place in places if place not in set(held))
    if fresh:
        some = replace(job.feature_set, features=tuple(job.feature_set.features[place] for place in fresh))
        frame = _evaluated(job, some, job.asked.take(at))
        pieces.append((at, fresh, list(frame.columns.values())))
    return assemble(job.feature_set, rows, pieces), reused


def _taken_over(
    job: Job, datasets: Datasets, features: Features
) -> tuple[list[tuple[Ints, tuple[int, ...], list[Column]]], int]:
    """Of the newest older matrix that has features of this set, the values that still hold."""
    erased_at = features.erased_at()
    for record in features.matrices(job.target):
        if record.made_at <= erased_at:
            break
        try:
            old = FeatureSet.from_dict(features.get(record.feature_set).definitions, job.own)
        except ConfigError:  # of a primitive that has changed since
            continue
        places = reusable(old, job.feature_set)
        if not places:
            continue
        # What is gone or is not what was written answers nothing.
        try:
            path = features.path(record)
        except (NotFoundError, IntegrityError):
            continue
        if sha256_of_file(path) != record.sha256 or not computed_alike(path):
            continue
        at, rows, columns = earlier_values(path, old, job.feature_set, places, job.asked)
        some = replace(job.feature_set, features=tuple(job.feature_set.features[place] for place in places))
        if record.dataset != job.dataset:
            tables = datasets.read(
                record.dataset, [n for n in columns_read(some) if n in _tables_of(datasets, record.dataset)]
            )
            same = unaffected(some, tables, job.tables, job.asked.take(at))
            at, rows = at[same], rows[same]
        if not len(at):
            return [], 0
        return [(at, places, [_taken(column, rows) for column in columns])], len(at)
    return [], 0


def _tables_of(datasets: Datasets, version: str) -> set[str]:
    return set(datasets.schema(version).tables)


def _taken(column: Column, rows: Ints) -> Column:
    return Categories(column.codes[rows], column.values) if isinstance(column, Categories) else column[rows]


def _few(some: Questions, asked: Questions) -> bool:
    """Whether so few of the asked entities are left that selecting their rows costs less than sorting all."""
    return int(pc.count_distinct(some.entities).as_py()) * _SHARE < int(pc.count_distinct(asked.entities).as_py())


def _evaluated(job: Job, feature_set: FeatureSet, asked: Questions) -> FeatureFrame:
    """Evaluate in one piece where the tables fit into the memory and most rows are needed, else by parts."""
    memory = parse_size(job.memory) if job.memory else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    counts = {name: len(rows) for name, rows in job.tables.items()}
    # A quarter each for what selects the rows and for what a chunk of asked rows makes.
    room = memory // 2
    fits = world_bytes(feature_set.schema, columns_read(feature_set), counts) <= room
    if fits and not (sum(counts.values()) > _LARGE and _few(asked, job.asked)):
        world = World.build(feature_set.schema, job.tables)
        return compact(feature_set, evaluate(feature_set, world, asked.entities, asked.cutoffs, asked.context))
    parts = Parts(memory=room, folder=job.folder, data=job.dataset)
    with ScratchTables(feature_set.schema, memory=max(memory // 4, 64 * 10**6), folder=job.folder) as tables:
        tables.register(job.tables)
        return evaluate_in_parts(feature_set, tables, asked, parts, job.progress)
