"""Frozen records: what the registry is made of. Each has an id, the time it was made, and the ids of its parents."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FOREIGN",
    "DatasetVersion",
    "Deployment",
    "FeatureGroup",
    "FeatureSetRecord",
    "Freshness",
    "Job",
    "JobStep",
    "Key",
    "Materialisation",
    "MatrixRecord",
    "Message",
    "ModelVersion",
    "OnlineRow",
    "RawFile",
    "RawTable",
    "Rollout",
    "RolloutEvent",
    "Run",
    "Stat",
    "Value",
    "Vector",
    "new_id",
]


FOREIGN = "foreign:"
"""What ids begin with that another project gave: nothing here can be found by them."""


def new_id(kind: str, now: int) -> str:
    """A fresh id `<kind>_<time><random>`: ids of one kind sort by the time (instant `now`) they were made."""
    return f"{kind}_{now // 1000:011x}{secrets.token_hex(5)}"


@dataclass(frozen=True, slots=True)
class RawTable:
    """What a file says, before any contract: nothing repaired, nothing dropped but wholly empty rows at the end.

    `table` has one column per header cell, in order, names unique and non-empty. From text formats (csv, tsv) every
    column is string, empty cells are null, text is exact (no trimming); from typed formats (Excel, parquet, json lines)
    columns are bool, int64, float64, string, or timestamp[us] (naive, unless the file says UTC), and a column of mixed
    cells is string. `rows` (int64) are the 1-based line or sheet row each row came from. `format`, `encoding` and
    `notes` (what had to be found out or assumed, for people) say how it was read.
    """

    table: "pa.Table"
    rows: "pa.Array"
    format: str
    encoding: str = ""
    sheet: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RawFile:
    """A file as it was delivered. `path` is where it is kept, relative to the project root."""

    id: str
    delivery: str
    period: str
    table: str
    path: str
    name: str
    sha256: str
    bytes: int
    rows: int
    made_at: int


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A version of all tables together.

    `version` is `vMAJOR.MINOR` (major: schema or rules changed; minor: new data). `schema` is `core.Schema.to_dict()`.
    `rows` counts current rows per table. `report` holds per table what the import counted (read, added, changed,
    removed, unchanged, duplicates dropped, quarantined by reason, unknown parents, warnings ...).
    `state` is pending, trained or retrain_needed. `period` is the newest delivered, also after a correction of an older
    one (the delivery is in `report`): its end is what "now" means to the version.
    """

    id: str
    version: str
    made_at: int
    parents: tuple[str, ...]
    period: str
    schema: dict[str, Any]
    rows: dict[str, int]
    bytes: int
    note: str
    author: str
    state: str
    sources: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureSetRecord:
    """A feature set: definitions by content hash. `definitions` is `core.features.FeatureSet.to_dict()`."""

    id: str
    name: str
    made_at: int
    dataset: str
    definitions: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """A computed matrix: rows asked of one target, features of one set, over one dataset version.

    `path`, relative to the project root, is the Parquet file under its hash; the newest is shown below `features/` too.
    """

    id: str
    made_at: int
    target: str
    dataset: str
    feature_set: str
    period: str
    rows: int
    path: str
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one target: parameters, metrics per label and part. `state`: running, done, failed.

    `fingerprint` is equal for runs that would train the same models: same matrix, split, labels and parameters.
    A run without a matrix took over packages; its parameters are the folder and the SHA-256 of each.
    """

    id: str
    target: str
    made_at: int
    ended_at: int | None
    state: str
    dataset: str
    feature_set: str
    matrix: str
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, str]
    note: str
    error: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one model.

    `model` is `<target>/<label>`, or `<target>` for tasks with one label. `version` is `vMAJOR.MINOR` (major: another
    algorithm; minor: other parameters or data). `serving` is the blob of the serving bundle, `files` the blobs of what
    lies in data/model: package (joblib), weights (YAML), definitions (of its features, JSON), onnx and shap where they
    could be made. What was imported has `foreign:` dataset and parents.
    """

    id: str
    model: str
    target: str
    label: str
    task: str
    version: str
    made_at: int
    run: str
    dataset: str
    feature_set: str
    parents: tuple[str, ...]
    algorithm: str
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    serving: str
    files: dict[str, str]
    note: str

    @property
    def package(self) -> str:
        """The blob of the joblib package."""
        return self.files["package"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which model version answers for each label of a target. `models` maps label to ModelVersion id."""

    id: str
    target: str
    made_at: int
    models: dict[str, str]
    parents: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A candidate on trial beside the stable deployment of a target, both by id; `policy` is as it was at the start.

    `mode`: canary, shadow, ab, or green (of blue/green).
    """

    id: str
    target: str
    made_at: int
    mode: str
    stable: str
    candidate: str
    policy: dict[str, Any]
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """What was decided of a rollout, on what evidence. `step` counts from 0; `share` is the candidate's from then on.

    `action`: start, hold, next step, promote, roll back, stop. `state`: running, promoted, rolled back, stopped.
    """

    id: int
    rollout: str
    at: int
    who: str
    action: str
    state: str
    step: int
    share: float
    reason: str
    evidence: dict[str, Any]


Key = int | str | float | bool
"""A key of an entity online (a time is its microseconds). Equal only when type and value are: 1 and "1" are two."""
Value = float | int | bool | str | None
"""A feature's value online: exactly what was written; null is None, and NaN is a number that is not null."""


class OnlineRow(NamedTuple):
    """A vector to be written: `values` in the order of the batch's columns, `event_at` the instant they hold of."""

    entity: Key
    values: Sequence[Value]
    event_at: int


class Message(NamedTuple):
    """A message of a topic: its id, its bytes, its key (what has one key stays in order), and where it is in the topic.

    `position` is the adapter's; one that is to be appended has none.
    """

    id: str
    value: bytes
    key: str | None = None
    position: str = ""


class Vector(NamedTuple):
    """A vector as it was read: feature → value, the instant it holds of, when it was made, and what of (`origin`)."""

    entity: Key
    values: dict[str, Value]
    event_at: int
    made_at: int
    expires_at: int | None
    origin: str


class Stat(NamedTuple):
    """Of something kept: its size, and the instant when it was last put."""

    bytes: int
    put_at: int


class Freshness(NamedTuple):
    """What an online store holds of a group: vectors that count, expired ones, the newest and oldest `event_at`."""

    vectors: int
    expired: int
    newest_at: int | None
    oldest_at: int | None


@dataclass(frozen=True, slots=True)
class FeatureGroup:
    """A version of a feature group; `id` is the SHA-256 of everything else but when and over which data it was made.

    `entity` is the entity's table, `definitions` is `core.features.FeatureSet.to_dict()`, `feature_set` its hash. `ttl`
    is in microseconds; None keeps vectors for ever. `left_out` names features of the target that need its question.
    """

    id: str
    name: str
    made_at: int
    dataset: str
    entity: str
    feature_set: str
    definitions: dict[str, Any]
    ttl: int | None
    owner: str
    description: str
    tags: dict[str, str]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Materialisation:
    """Vectors of one group at one cutoff. `version` is the group's id, `dataset` the version of the data's.

    `rows` entities were computed; `written` of them were not older than what was online. `sha256` is the blob of
    the rows, an Arrow file sorted by entity.
    """

    id: str
    made_at: int
    group: str
    version: str
    feature_set: str
    dataset: str
    cutoff: int
    rows: int
    written: int
    seconds: float
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job. Instants are microseconds since 1970 UTC; `timeout` is in microseconds a try.

    `key`: what may happen once only; `cause`: the job or record that it follows from; `program`: the version of
    Holdfast that made it. `done` of `total` and `message` are its progress; `error` is `HoldfastError.to_dict()`.
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    key: str | None
    state: str
    made_at: int
    who: str
    due_at: int
    started_at: int | None
    ended_at: int | None
    attempts: int
    max_attempts: int
    timeout: int | None
    cancelled: bool
    cause: str | None
    program: str
    done: int
    total: int
    message: str
    result: Any
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class JobStep:
    """A step that is done: its `version` in the program that did it, the attempt, when, its result as plain data."""

    job: str
    name: str
    version: int
    attempt: int
    began_at: int
    ended_at: int
    result: Any
