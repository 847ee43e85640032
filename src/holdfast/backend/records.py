"""Frozen records: what the registry is made of. Each has an id, the time it was made, and the ids of its parents."""

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "DatasetVersion",
    "Deployment",
    "FeatureSetRecord",
    "MatrixRecord",
    "ModelVersion",
    "RawFile",
    "RawTable",
    "Run",
    "new_id",
]


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
    `state` is pending, trained or retrain_needed.
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
    lies in data/model: package (joblib), weights (YAML), onnx and shap where they could be made.
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
