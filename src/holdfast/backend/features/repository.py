"""What the features room remembers: feature sets by content hash, matrices, and their files under `features/`."""

import io
import json
import pickle
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from holdfast.backend.features.files import LABELS_KEY, REVISION_KEY, check_hdf5, write_hdf5
from holdfast.backend.features.matrix import Matrix
from holdfast.backend.features.tables import feature_sets, matrices
from holdfast.backend.layout import Layout
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import FeatureSetRecord, MatrixRecord
from holdfast.backend.store.database import Store
from holdfast.backend.store.erasures import Erasures
from holdfast.backend.store.files import sha256_of, sha256_of_file, write_whole
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.encoding import UNKNOWN, Encoding, FeatureSpec
from holdfast.core.features.evaluate import REVISION
from holdfast.core.features.frame import Categories
from holdfast.core.names import escape
from holdfast.errors import NotFoundError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Features"]


class Features:
    """Feature sets and matrices of one project."""

    def __init__(self, store: Store, blobs: Blobs, clock: Clock, layout: Layout) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._layout = layout

    def sets(self) -> list[FeatureSetRecord]:
        """All feature sets, newest first."""
        with self._store.read() as connection:
            rows = connection.execute(sa.select(feature_sets).order_by(feature_sets.c.made_at.desc()))
            return [FeatureSetRecord(**row._mapping) for row in rows]

    def get(self, name: str) -> FeatureSetRecord:
        """The newest set of a target, or the one whose id begins with `name`. NotFoundError lists what there is."""
        found = self.sets()
        for record in found:
            if record.name == name or (len(name) >= 6 and record.id.startswith(name)):
                return record
        names = ", ".join(sorted({record.name for record in found})) or "none yet"
        raise NotFoundError(
            f"there is no feature set {name!r}", where={"feature set": name},
            hint=f"There are: {names}. Make one with: holdfast features synthesise TARGET",
        )  # fmt: skip

    def save_set(self, name: str, feature_set: FeatureSet, dataset: str) -> FeatureSetRecord:
        """Remember a set; the same definitions under the same name are one record."""
        identity = sha256_of(f"{name}\0{feature_set.hash}".encode())
        record = FeatureSetRecord(identity, name, self._clock.now(), dataset, feature_set.to_dict())
        with self._store.write("register feature set") as connection:
            row = connection.execute(sa.select(feature_sets).where(feature_sets.c.id == identity)).first()
            if row is not None:
                return FeatureSetRecord(**row._mapping)
            connection.execute(feature_sets.insert().values(**_fields(record)))
        return record

    def matrices(self, target: str | None = None) -> list[MatrixRecord]:
        """All matrices (of a target), newest first."""
        query = sa.select(matrices).order_by(matrices.c.made_at.desc())
        with self._store.read() as connection:
            rows = connection.execute(query if target is None else query.where(matrices.c.target == target))
            return [MatrixRecord(**row._mapping) for row in rows]

    def matrix(self, identity: str) -> MatrixRecord:
        """The matrix of that id, or NotFoundError."""
        for record in self.matrices():
            if record.id == identity:
                return record
        raise NotFoundError(f"there is no matrix {identity!r}", where={"matrix": identity})

    def erased_at(self) -> int:
        """When somebody was last erased: values of older matrices may come from rows that are no more. 0 for never."""
        with self._store.read() as connection:
            return Erasures(connection).last()

    def path(self, record: MatrixRecord) -> Path:
        """The Parquet file of a matrix. NotFoundError when it is gone."""
        return self._blobs.path(record.sha256)

    def partial(self, target: str) -> Path:
        """Where finished parts of a target's matrix wait until the whole is saved."""
        return self._layout.private / "partial" / escape(target)

    def save_matrix(
        self, matrix: Matrix, encoding: Encoding, folder: str | None, formats: Collection[str] = ("pkl", "parquet")
    ) -> MatrixRecord:
        """Keep a matrix (as Parquet, under its hash), then remember it, then show it below `features/`.

        `folder` is relative to `features/`; None shows nothing, for a matrix of data that is not current. `formats` are
        those of the shown matrix: pkl, parquet, h5 (MissingExtraError where h5py is not installed). The record's id,
        path and hash are filled in here; an equal matrix (same bytes) of the same target is one record.
        """
        if "h5" in formats:
            check_hdf5()
        frame, labels = _tables(matrix)
        unlike = labels.rename(columns=lambda name: f"{name} (label)" if name in frame.columns else name)
        sink = io.BytesIO()
        table = pa.Table.from_pandas(frame.join(unlike), preserve_index=True)
        about = {
            LABELS_KEY: json.dumps(list(unlike.columns), ensure_ascii=False).encode(),
            REVISION_KEY: str(REVISION).encode(),
        }
        pq.write_table(
            table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), sink, compression="zstd"
        )
        digest = self._blobs.put(sink.getvalue())
        record = self._remember(matrix.record, digest)
        if folder is not None:
            self._show(self._layout.features / folder, matrix, record, encoding, (frame, labels), formats=formats)
        return record

    def _show(
        self,
        folder: Path,
        matrix: Matrix,
        record: MatrixRecord,
        encoding: Encoding,
        tables: "tuple[pd.DataFrame, pd.DataFrame]",
        *,
        formats: Collection[str],
    ) -> None:
        """Write the files that docs/design/features.md names; the manifest of their hashes last."""
        frame, labels = tables
        stem = f"feature_matrix_{escape(record.period)}"
        definitions = _definitions(matrix.feature_set, encoding)
        database = {
            "matrix": frame,
            "labels": labels,
            "object_ids": matrix.entities.to_pylist(),
            "cutoffs": frame.index.get_level_values("cutoff"),
            "statistics": {spec["name"]: _statistics(spec) for spec in encoding.to_dict()},
            "feature_set": record.feature_set,
            "data_version": record.dataset,
            "target": record.target,
        }
        parquet = self._blobs.path(record.sha256)
        writers: dict[str, Callable[[Path], object]] = {
            "parquet": lambda path: shutil.copyfile(parquet, path),
            "pkl": partial(_pickle, frame),
            "h5": partial(write_hdf5, matrix, definitions, record=record),
        }
        # A matrix in a format that is not asked for any more would be of other data.
        for name in writers.keys() - set(formats):
            (folder / f"{stem}.{name}").unlink(missing_ok=True)
        files: dict[str, Callable[[Path], object]] = {
            **{f"{stem}.{name}": write for name, write in writers.items() if name in formats},
            "feature_definitions.pkl": partial(_pickle, definitions),
            "feature_definitions.json": partial(_json, definitions),
            "feature_database.pkl": partial(_pickle, database),
        }
        for name, write in files.items():
            write_whole(folder / name, write)
        write_whole(folder / "manifest.json", partial(_json, {"matrix": record.id, "files": _hashes(folder, files)}))

    def _remember(self, draft: MatrixRecord, digest: str) -> MatrixRecord:
        identity = sha256_of(f"{draft.target}\0{draft.dataset}\0{draft.feature_set}\0{digest}".encode())
        path = self._blobs.path(digest).relative_to(self._layout.root).as_posix()  # of the cache where blobs are afar
        values = {**_fields(draft), "id": identity, "path": path, "sha256": digest, "made_at": self._clock.now()}
        with self._store.write("register matrix") as connection:
            row = connection.execute(sa.select(matrices).where(matrices.c.id == identity)).first()
            if row is None:
                connection.execute(matrices.insert().values(**values))
                return MatrixRecord(**values)
            return MatrixRecord(**row._mapping)


def _fields(record: FeatureSetRecord | MatrixRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _tables(matrix: Matrix) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Features and labels as frames with the same index (entity, cutoff); the context is among the features."""
    import pandas as pd

    cutoffs = pd.to_datetime(matrix.cutoffs, unit="us", utc=True)
    index = pd.MultiIndex.from_arrays([matrix.entities.to_pandas(), cutoffs], names=["entity", "cutoff"])
    columns = {
        name: pd.Categorical(column.decode(), categories=list(column.values))
        if isinstance(column, Categories)
        else column
        for name, column in matrix.frame.columns.items()
    }
    labels = {
        name: np.array([*matrix.classes, None], dtype=object)[np.nan_to_num(values, nan=-1).astype(int)]
        if matrix.classes
        else values
        for name, values in matrix.labels.items()
    }
    return pd.DataFrame(columns, index=index), pd.DataFrame(labels, index=index)


def _definitions(feature_set: FeatureSet, encoding: Encoding) -> dict[str, Any]:
    """`feature_definitions`: what all models share."""
    features = []
    for position, (feature, spec) in enumerate(zip(feature_set.features, encoding.specs, strict=True)):
        features.append(
            {
                "name": feature.name,
                "position": position,
                "type": feature.dtype.value,
                "unit": feature.unit,
                "description": feature.describe(),
                "formula": feature.formula,
                "missing": spec.missing,
                "fill": _fill(spec),
                "aliases": list(spec.aliases),
                "definition": feature.to_dict(),
            }
        )
    return {
        "hash": feature_set.hash,
        "entity": feature_set.entity,
        "context": [column.name for column in feature_set.context],
        "context_columns": [column.to_dict() for column in feature_set.context],
        "timezone": feature_set.schema.timezone,
        "include_cutoff": feature_set.include_cutoff,
        **({} if feature_set.frozen_at is None else {"frozen_at": feature_set.frozen_at}),
        "features": features,
        "categorical_categories": encoding.categorical_categories,
        "schema": feature_set.schema.to_dict(),
    }


def _fill(spec: FeatureSpec) -> float | str | None:
    if not spec.is_category:
        return spec.fill
    return UNKNOWN if spec.fill is None else spec.categories[int(spec.fill) - 1]


def _statistics(spec: Mapping[str, Any]) -> dict[str, Any]:
    names = {"minimum": "min", "maximum": "max", "mean": "mean", "std": "std", "nulls": "nulls"}
    return {short: spec[name] for name, short in names.items()} | {"categories": len(spec["categories"])}


def _pickle(data: object, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)


def _json(data: object, path: Path) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of_file(folder / name) for name in names}
