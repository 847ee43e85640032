"""Feature definitions in and out of the project: compared, written to a file, read from Featuretools' JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.backend.datasets import Datasets
from holdfast.backend.features import Features
from holdfast.backend.pipelines.features import find_target
from holdfast.backend.records import FeatureSetRecord
from holdfast.backend.settings import Settings
from holdfast.backend.store.files import write_whole
from holdfast.core.features.compare import Change, diff_sets
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.exchange import Translated, from_featuretools, to_featuretools
from holdfast.core.features.primitives import Primitive
from holdfast.errors import ConfigError, FileError

__all__ = ["FORMATS", "Exchange", "ImportedSet"]

FORMATS = ("holdfast", "featuretools")
"""`holdfast`: the JSON of the set itself; `featuretools`: what `featuretools.load_features` reads."""


@dataclass(frozen=True)
class ImportedSet:
    """A set as it was recorded, and what of the file could not be translated and why."""

    record: FeatureSetRecord
    translated: Translated


class Exchange:
    """Feature definitions of one project, compared and exchanged."""

    def __init__(
        self, datasets: Datasets, features: Features, settings: Settings, own: Sequence[Primitive] = ()
    ) -> None:
        self._datasets = datasets
        self._features = features
        self._settings = settings
        self._own = own

    def diff(self, old: str, new: str) -> tuple[Change, ...]:
        """What changed from one set to another: each a target, the beginning of an id, or a JSON file."""
        return diff_sets(self._set(old), self._set(new))

    def export(self, path: str | Path, name: str | None = None, *, form: str = "holdfast") -> Translated:
        """Write a set (by default the only target's) as JSON; what `form` cannot say is in `left_out`.

        ConfigError for a format that is none, and when nothing of the set can be said in it.
        """
        feature_set = self._set(name or find_target(self._settings, None))
        if form not in FORMATS:
            hint = f"There are: {', '.join(FORMATS)}."
            raise ConfigError(f"there is no format {form!r}", where={"format": form}, hint=hint)
        if form == "holdfast":
            found = Translated(document=feature_set.to_dict(), feature_set=feature_set)
        else:
            found = to_featuretools(feature_set)
            if not found.document["feature_list"]:
                reasons = "; ".join(f"{feature}: {reason}" for feature, reason in list(found.left_out.items())[:3])
                raise ConfigError(f"no feature can be said in Featuretools' JSON: {reasons}")
        text = json.dumps(found.document, ensure_ascii=False, indent=1) + "\n"
        try:
            write_whole(Path(path), lambda scratch: scratch.write_bytes(text.encode()))
        except OSError as error:
            raise FileError(f"cannot be written: {error.strerror or error}", where={"file": str(path)}) from error
        return found

    def read(self, path: str | Path) -> ImportedSet:
        """Record what `featuretools.save_features` wrote as a set over the current data, named as the file."""
        dataset = self._datasets.get()
        try:
            found = from_featuretools(_bytes(Path(path)), self._datasets.schema(dataset.id))
        except FileError as error:
            where = {"file": str(path), **error.where}
            raise FileError(error.message, where=where, hint=error.hint) from error
        assert found.feature_set is not None
        return ImportedSet(self._features.save_set(Path(path).stem, found.feature_set, dataset.id), found)

    def _set(self, name: str) -> FeatureSet:
        """The set of that target or id; of the JSON file where it is the name of one."""
        if Path(name).suffix != ".json":
            return FeatureSet.from_dict(self._features.get(name).definitions, self._own)
        try:
            return FeatureSet.from_dict(_bare(json.loads(_bytes(Path(name)))), self._own)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"it holds no feature definitions: {type(error).__name__} {error}", where={"file": name},
                hint="Write one with: holdfast features export FILE",
            ) from error  # fmt: skip


def _bare(data: dict[str, Any]) -> dict[str, Any]:
    """The set alone, where the file is a matrix's `feature_definitions.json`, which tells more of each feature."""
    if not any("definition" in feature for feature in data["features"]):
        return data
    kept = ("entity", "schema", "include_cutoff", "frozen_at")
    bare = {name: data[name] for name in kept if name in data}
    return {**bare, "features": [f["definition"] for f in data["features"]], "context": data["context_columns"]}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot be read: {error.strerror or error}", where={"file": str(path)},
            hint="What ends in .json is a file; the name of a target or the beginning of a set's id is none.",
        ) from error  # fmt: skip
