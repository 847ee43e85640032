"""Files of matrices: HDF5 written block by block, and one reader for all formats.

Layout of `feature_matrix_<period>.h5`, readable with h5py alone (`pandas.DataFrame(f["matrix"][:],
columns=f["features"].asstr()[:])`):

matrix        float64 [rows, features], chunked and compressed; null is NaN, truth values 0/1, categories their code
features      names of the features, in order                     types   of each: bool, int, float, category
categories/N  of the category feature at place N: its values; a code counts from 0
entity        key of each row (int64 or text)                      cutoff  int64, microseconds since 1970-01-01 UTC
labels        float64 [rows, labels]; NaN where there is none       label_names, label_known (int64), classes
definitions   JSON: feature_definitions.json
attributes    format, target, task, feature_set, data_version, period, matrix
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from holdfast.backend.features.matrix import Matrix
from holdfast.backend.records import MatrixRecord
from holdfast.core.features.frame import Categories
from holdfast.errors import FileError, MissingExtraError, UntrustedError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LABELS_KEY", "REVISION_KEY", "StoredMatrix", "check_hdf5", "read_matrix", "write_hdf5"]

LABELS_KEY = b"holdfast.labels"
"""Key of the Parquet file's metadata: JSON list of the columns that are labels."""
REVISION_KEY = b"holdfast.revision"
"""Key of the Parquet file's metadata: `REVISION` of the evaluator that computed the values."""
FORMAT = "holdfast matrix 1"
_BLOCK_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix file: features and labels with the same index (entity, cutoff), and the definitions.

    `labels` and `definitions` are None where the format does not hold them: a pickle has the features alone (its labels
    are in feature_database.pkl), Parquet has no definitions (they are in feature_definitions.json).
    """

    features: "pd.DataFrame"
    labels: "pd.DataFrame | None"
    definitions: Mapping[str, Any] | None


def check_hdf5() -> None:
    """MissingExtraError when h5py is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "matrices in HDF5 need h5py",
            where={"key": "features.formats"},
            hint='Install it: pip install "holdfast[hdf5]"',
        ) from error


def write_hdf5(matrix: Matrix, definitions: Mapping[str, Any], path: Path, *, record: MatrixRecord) -> None:
    """Write the file. Beside the matrix it takes about 16 MB of memory: rows are converted block by block."""
    import h5py

    with h5py.File(path, "w", track_order=True) as file:
        about = {
            "format": FORMAT, "target": record.target, "task": matrix.task, "period": record.period,
            "feature_set": matrix.feature_set.hash, "data_version": record.dataset, "matrix": record.id,
        }  # fmt: skip
        for name, value in about.items():
            file.attrs[name] = value
        columns, dtypes = matrix.frame.columns, matrix.frame.dtypes
        _texts(file, "features", list(columns))
        _texts(file, "types", [dtypes[name].value for name in columns])
        for place, column in enumerate(columns.values()):
            if isinstance(column, Categories):
                _texts(file, f"categories/{place}", list(column.values))
        entities = matrix.entities
        if pa.types.is_integer(entities.type) and entities.null_count == 0:
            file.create_dataset("entity", data=np.asarray(entities.cast(pa.int64())))
        else:
            _texts(file, "entity", [str(key) for key in entities.to_pylist()])
        file.create_dataset("cutoff", data=matrix.cutoffs)
        file.create_dataset("label_known", data=matrix.label_known)
        _texts(file, "label_names", list(matrix.labels))
        _texts(file, "classes", list(matrix.classes))
        _blocks(file, "labels", list(matrix.labels.values()), len(matrix.frame))
        _blocks(file, "matrix", list(columns.values()), len(matrix.frame))
        file.create_dataset("definitions", data=json.dumps(definitions, ensure_ascii=False), dtype=h5py.string_dtype())


def _texts(file: Any, name: str, values: list[str]) -> None:
    import h5py

    file.create_dataset(name, data=np.array(values, dtype=object), shape=(len(values),), dtype=h5py.string_dtype())


def _blocks(file: Any, name: str, columns: list[Any], rows: int) -> None:
    """A dataset [rows, columns] of columns, some thousand rows at a time."""
    width = max(1, len(columns))
    chunk = (max(1, min(rows, _CHUNK_BYTES // (8 * width))), width)
    shape = (rows, len(columns))
    whole = rows and len(columns)
    options = {"chunks": chunk, "compression": "gzip", "compression_opts": 1, "shuffle": True} if whole else {}
    target = file.create_dataset(name, shape=shape, dtype="f8", **options)
    step = max(chunk[0], _BLOCK_BYTES // (8 * width) // chunk[0] * chunk[0])
    for start in range(0, rows if len(columns) else 0, step):
        stop = min(rows, start + step)
        block = np.empty((stop - start, len(columns)))
        for place, column in enumerate(columns):
            if isinstance(column, Categories):
                codes = column.codes[start:stop]
                block[:, place] = np.where(codes < 0, np.nan, codes)
            else:
                block[:, place] = column[start:stop]
        target[start:stop] = block


def read_matrix(path: Path, *, trust: bool = False) -> StoredMatrix:
    """The matrix of a .parquet, .h5 or .pkl file.

    UntrustedError for a pickle unless `trust`: opening one runs its code. FileError when the file cannot be read, or is
    no matrix; MissingExtraError where h5py is needed and not installed.
    """
    kind = path.suffix.lower()
    where = {"file": str(path)}
    try:
        if kind == ".parquet":
            return _read_parquet(path)
        if kind == ".h5":
            check_hdf5()
            return _read_hdf5(path)
        if kind == ".pkl":
            return _read_pickle(path, trust=trust)
    except (OSError, ValueError, KeyError, TypeError, EOFError, pa.ArrowException) as error:
        raise FileError(f"this is no matrix, or it is damaged: {error}", where=where) from error
    raise FileError("a matrix is a .parquet, .h5 or .pkl file", where=where)


def _read_parquet(path: Path) -> StoredMatrix:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = json.loads((table.schema.metadata or {}).get(LABELS_KEY, b"[]"))
    frame = table.to_pandas()
    features = frame.drop(columns=names)
    # A label that is called as a feature was told apart by this ending.
    own = {name: name.removesuffix(" (label)") for name in names if name.removesuffix(" (label)") in features.columns}
    return StoredMatrix(features, frame[names].rename(columns=own), None)


def _read_pickle(path: Path, *, trust: bool) -> StoredMatrix:
    if not trust:
        raise UntrustedError(
            "opening a pickle runs the code in it", where={"file": str(path)},
            hint="Read the .parquet file, or repeat with trust=True if you trust where it came from.",
        )  # fmt: skip
    import pandas as pd

    return StoredMatrix(pd.read_pickle(path), None, None)  # noqa: S301 - on the caller's word


def _read_hdf5(path: Path) -> StoredMatrix:
    import h5py
    import pandas as pd

    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise FileError(f"this HDF5 file is not a {FORMAT}", where={"file": str(path)})
        keys = file["entity"]
        entities = keys.asstr()[:] if h5py.check_string_dtype(keys.dtype) else keys[:]
        moments = pd.to_datetime(file["cutoff"][:], unit="us", utc=True)
        index = pd.MultiIndex.from_arrays([entities, moments], names=["entity", "cutoff"])
        columns: dict[str, Any] = {}
        data = file["matrix"][:]
        for place, name in enumerate(file["features"].asstr()[:]):
            values = data[:, place]
            if f"categories/{place}" in file:
                codes = np.where(np.isnan(values), -1, values).astype(np.int64)
                values = pd.Categorical.from_codes(codes, categories=file[f"categories/{place}"].asstr()[:])
            columns[name] = values
        truths = file["labels"][:]
        classes = [*file["classes"].asstr()[:], None]
        labels = {
            name: np.array(classes, dtype=object)[np.nan_to_num(truths[:, place], nan=-1).astype(int)]
            if len(classes) > 1
            else truths[:, place]
            for place, name in enumerate(file["label_names"].asstr()[:])
        }
        definitions = json.loads(file["definitions"].asstr()[()])
    return StoredMatrix(pd.DataFrame(columns, index=index), pd.DataFrame(labels, index=index), definitions)
