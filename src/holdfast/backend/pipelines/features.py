"""From a dataset version to a feature set and a matrix."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.datasets import Datasets
from holdfast.backend.features import Asked, Features, Matrix, ask, context_columns, hidden_columns, only_asks
from holdfast.backend.features.partitions import Questions
from holdfast.backend.features.resolving import declared_conditions
from holdfast.backend.pipelines.computing import Job, compute_values
from holdfast.backend.pipelines.encoding import fit_encoding
from holdfast.backend.pipelines.splitting import split_rows
from holdfast.backend.records import DatasetVersion, FeatureSetRecord, MatrixRecord
from holdfast.backend.settings import Settings, TargetSettings
from holdfast.core.features.definitions import FeatureSet, Kind
from holdfast.core.features.primitives import Primitive
from holdfast.core.features.synthesis import Options, Synthesis, synthesise
from holdfast.core.learn.split import TRAIN
from holdfast.core.names import escape
from holdfast.core.schema import KNOWN_FROM, DType, Schema
from holdfast.core.timeline import Period, parse_instant
from holdfast.errors import ConfigError, ConflictError, NotFoundError

__all__ = ["BuiltMatrix", "SynthesisResult", "build_matrix", "find_target", "frozen_settings", "synthesise_set"]

Progress = Callable[[int, int, str], None]
_MAX_VALUES = 8
"""A category column with more values than this makes no conditions by itself."""
_TOP_VALUES = 5


@dataclass(frozen=True)
class SynthesisResult:
    """A feature set as it was recorded, and how many `features.max` cut off: all of them `counted`, or more."""

    record: FeatureSetRecord
    feature_set: FeatureSet
    cut: int
    counted: bool = True


@dataclass(frozen=True)
class BuiltMatrix:
    """A matrix, the part of each row (int8 [n]), and how many labels were known too late to be used.

    `reused` counts the rows whose values were taken from an older matrix.
    """

    matrix: Matrix
    parts: npt.NDArray[np.int8]
    late: int
    reused: int = 0


@dataclass(frozen=True)
class _Question:
    """Everything that a target asks of one dataset version."""

    name: str
    target: TargetSettings
    dataset: DatasetVersion
    schema: Schema
    tables: dict[str, pa.Table]
    asked: Asked
    parts: npt.NDArray[np.int8]
    late: int


def find_target(settings: Settings, name: str | None) -> str:
    """The target of that name, or the only one when `name` is None. NotFoundError lists what there is."""
    if name is None and len(settings.targets) == 1:
        return next(iter(settings.targets))
    if name is None or name not in settings.targets:
        raise NotFoundError(
            f"there is no target {name!r}" if name else "which target?" if settings.targets else "there is no target",
            where={"key": "targets"},
            hint=f"Targets are: {', '.join(settings.targets)}" if settings.targets else "Add one to holdfast.yaml.",
        )
    return name


def synthesise_set(
    datasets: Datasets,
    features: Features,
    settings: Settings,
    name: str,
    version: str | None = None,
    *,
    own: Sequence[Primitive] = (),
) -> SynthesisResult:
    """Synthesise the features of a target over a dataset version (default: the current one) and record the set."""
    return _synthesise(_ask(datasets, settings, name, version), features, settings, own)


def build_matrix(
    datasets: Datasets,
    features: Features,
    settings: Settings,
    name: str,
    *,
    version: str | None = None,
    full: bool = False,
    progress: Progress | None = None,
    own: Sequence[Primitive] = (),
) -> BuiltMatrix:
    """Ask a target's rows, synthesise its features, compute the matrix, and write its files.

    The same project, dataset version and target give the same matrix, byte for byte, whether values of an older matrix
    are taken over or all are computed (`full`), in one piece or in parts.
    """
    report = progress or (lambda _done, _total, _message: None)
    report(0, 4, f"asking {name}")
    question = _ask(datasets, settings, name, version)
    report(1, 4, f"synthesising features for {len(question.asked):,} rows")
    result = _synthesise(question, features, settings, own)
    report(2, 4, f"computing {len(result.feature_set.features):,} features")
    started = perf_counter()
    asked, folder_of_parts = question.asked, features.partial(name)
    job = Job(
        target=name, dataset=question.dataset.id, feature_set=result.feature_set, tables=question.tables,
        asked=Questions(asked.entities, asked.cutoffs, asked.context), memory=settings.features.memory,
        folder=folder_of_parts, own=own,
        progress=lambda done, total: report(2, 4, f"computing features: {done:,} of {total:,} rows"),
    )  # fmt: skip
    frame, reused = compute_values(job, datasets, features, full=full)
    seconds = perf_counter() - started
    draft = MatrixRecord(
        id="", made_at=0, target=name, dataset=question.dataset.id, feature_set=result.record.id,
        period=question.dataset.period, rows=len(asked), path="", sha256="", seconds=seconds,
    )  # fmt: skip
    matrix = Matrix(
        record=draft, task=asked.task, feature_set=result.feature_set, frame=frame, entities=asked.entities,
        cutoffs=asked.cutoffs, labels=asked.labels, label_known=asked.label_known, classes=asked.classes,
        dropped=asked.dropped,
    )  # fmt: skip
    report(3, 4, "writing the matrix")
    # The first target of the project has the folder itself, so that the usual project has the usual paths.
    folder: str | None = "" if name == next(iter(settings.targets)) else escape(name)
    if question.dataset.id != datasets.get().id:
        folder = None
    encoding = fit_encoding(settings, result.feature_set, frame, question.parts == TRAIN)
    record = features.save_matrix(matrix, encoding, folder, settings.features.formats)
    shutil.rmtree(folder_of_parts, ignore_errors=True)
    report(4, 4, f"matrix of {len(asked):,} rows and {len(result.feature_set.features):,} features")
    return BuiltMatrix(Matrix(**{**matrix.__dict__, "record": record}), question.parts, question.late, reused)


def frozen_settings(settings: Settings, moment: str | None) -> Settings:
    """The settings with history frozen at another moment; InputError when it is none."""
    if moment is None:
        return settings
    parse_instant(moment, settings.timezone)
    return settings.model_copy(update={"features": settings.features.model_copy(update={"frozen": moment})})


def _ask(datasets: Datasets, settings: Settings, name: str, version: str | None) -> _Question:
    target = settings.targets[find_target(settings, name)]
    dataset = datasets.get(version)
    schema = datasets.schema(dataset.id)
    if schema.timezone != settings.timezone:
        raise ConflictError(
            f"the data was read in the time zone {schema.timezone}, the project file says {settings.timezone}",
            where={"key": "timezone"},
            hint="Change the project file back, or start a new project.",
        )
    for table in (target.entity_table, target.from_):
        if table not in schema.tables:
            raise NotFoundError(
                f"the data {dataset.version} have no table {table!r}",
                where={"key": f"targets.{name}"},
                hint="A table that was added to the project file comes with the next import: repeat the last one.",
            )
    tables = datasets.read(dataset.id)
    end = Period.parse(dataset.period, settings.timezone).end
    asked = ask(schema, tables, name, target, end)
    parts, late = split_rows(settings, asked.entities, asked.cutoffs, asked.labels, asked.label_known)
    return _Question(name, target, dataset, schema, tables, asked, parts, int(late.sum()))


def _synthesise(
    question: _Question, features: Features, settings: Settings, own: Sequence[Primitive]
) -> SynthesisResult:
    target, rule = question.target, settings.features
    frozen_at = parse_instant(rule.frozen, settings.timezone) if rule.frozen else None
    horizon = int(question.asked.cutoffs[question.parts == TRAIN].max())
    if frozen_at is not None:  # training rows see nothing of what came later
        horizon = min(horizon, frozen_at)
    options = Options(
        depth=rule.depth,
        windows=rule.windows,
        primitives=rule.primitives,
        conditions=_conditions(question, settings, horizon),
        conditional=rule.conditional,
        windowed=rule.windowed,
        seeds=rule.seeds,
        own=own,
        limit=rule.max,
        include=rule.include,
        exclude=(*rule.exclude, *((target.from_,) if only_asks(question.schema, target) else ())),
        hidden=hidden_columns(question.schema, target),
        calendar=target.cutoff is not None or target.every is not None,
        include_cutoff=rule.include_cutoff,
    )
    made: Synthesis = synthesise(
        question.schema, target.entity_table, context_columns(question.schema, target), options
    )
    feature_set = replace(made.feature_set, frozen_at=frozen_at)
    _check_own_rows(question, feature_set)
    record = features.save_set(question.name, feature_set, question.dataset.id)
    return SynthesisResult(record, feature_set, made.cut, made.counted)


def _check_own_rows(question: _Question, feature_set: FeatureSet) -> None:
    """ConfigError when the asking row itself could be among the rows that a feature looks at."""
    target, table = question.target, question.schema.table(question.target.from_)
    if target.entity_table == table.name or (table.time is not None and target.cutoff == table.time):
        return
    seen = {
        f.link.child for feature in feature_set.features for f in feature.walk() if f.kind is Kind.AGGREGATE and f.link
    }
    if table.name in seen:
        raise ConfigError(
            f"target {question.name!r}: rows of {table.name!r} would see themselves, because they have happened "
            f"before their cutoff {target.cutoff!r}",
            where={"key": f"targets.{question.name}.cutoff"},
            hint=f"Make `cutoff` the `time` of {table.name!r}, or add {table.name} to `features.exclude`.",
        )


Values = Mapping[tuple[str, str], Sequence[str | float | bool]]
"""(table, column) → values that become conditions."""


def _conditions(question: _Question, settings: Settings, horizon: int) -> Values:
    """The values that become conditions: as declared, or the commonest ones that were known to the training rows."""
    declared = settings.features.conditions
    if declared == "none":
        return {}
    if declared != "auto":
        return declared_conditions(question.schema, declared)
    found: dict[tuple[str, str], Sequence[str | float | bool]] = {}
    for table in question.schema.tables.values():
        if not table.links:
            continue
        known = question.tables[table.name]
        known = known.filter(pc.less_equal(known.column(KNOWN_FROM).cast(pa.int64()), horizon))
        if table.time:  # what happens at the horizon itself is seen by no training row
            known = known.filter(pc.less(known.column(table.time).cast(pa.int64()), horizon))
        for column in table.columns:
            plain = column.dtype in (DType.CATEGORY, DType.BOOL) and column.name not in table.links
            if plain and not column.personal and (values := _common_values(known.column(column.name))):
                # The share of true and the number of rows say how many are false.
                found[table.name, column.name] = (True,) if column.dtype is DType.BOOL else values
    return found


def _common_values(column: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pc.value_counts(column.drop_null()).to_pylist()
    if not 2 <= len(counts) <= _MAX_VALUES:
        return ()
    counts.sort(key=lambda item: (-item["counts"], item["values"]))
    return tuple(item["values"] for item in counts[:_TOP_VALUES])
