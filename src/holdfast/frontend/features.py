"""The client's verbs of features, their definitions and the feature store: a part of `Project`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.wiring import Services
from holdfast.core.timeline import instant, parse_instant
from holdfast.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.backend.datasets import Datasets
    from holdfast.backend.features import Features
    from holdfast.backend.features.groups import Groups
    from holdfast.backend.features.vectors import GroupFreshness
    from holdfast.backend.pipelines.definitions import Exchange
    from holdfast.backend.records import Materialisation, Value, Vector
    from holdfast.backend.settings import Settings
    from holdfast.core.explore.discovery import Discovery

__all__ = ["FeatureVerbs", "Progress"]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, message)."""


class FeatureVerbs:
    """What features say of the labels, definitions as data, and groups: materialised, looked up, joined to the past."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]
    _run: Callable[..., Any]

    @property
    def settings(self) -> "Settings":
        """The project file, as it was when the project was opened."""
        return self._services.settings

    @property
    def data(self) -> "Datasets":
        """Versions of the data: list, show, read, compare, go back, confirm the contract."""
        return self._services.datasets

    @property
    def features(self) -> "Features":
        """Feature sets and matrices that were made."""
        return self._services.features

    def definitions(self, name: str) -> list[dict[str, str]]:
        """The features of a set, given by its target or the beginning of its id: name, type, formula, description."""
        from holdfast.core.features.definitions import FeatureSet

        found = FeatureSet.from_dict(self.features.get(name).definitions, self._services.own)
        return [
            {"name": f.name, "type": f.dtype.value, "formula": f.formula, "description": f.describe()}
            for f in found.features
        ]

    @property
    def exchange(self) -> "Exchange":
        """Feature definitions as data: compared in words, written to a file, read from Featuretools' JSON."""
        from holdfast.backend.pipelines.definitions import Exchange

        return Exchange(self.data, self.features, self.settings, self._services.own)

    def discover(
        self,
        target: str | None = None,
        *,
        label: str | None = None,
        top: int = 10,
        picture: str | Path | None = None,
        progress: Progress | None = None,
    ) -> "list[Discovery]":
        """Which features and pairs separate the labels of a target, by its training rows; at most `top` of each.

        `picture` is drawn as .svg, or written as a Vega-Lite document (.json). FileError for another ending.
        """
        from holdfast.backend.pipelines.discover import check_picture, discover_labels, draw
        from holdfast.backend.pipelines.features import find_target

        name = find_target(self.settings, target)
        with self._verb("features", f"discover {name}"):
            file = None if picture is None else check_picture(Path(picture))
            found = discover_labels(
                self.data, self.features, self.settings, name, label=label, top=top, progress=progress,
                own=self._services.own,
            )  # fmt: skip
            if file is not None:
                draw(found, file)
        return found

    @property
    def feature_groups(self) -> "Groups":
        """The feature groups of the project file: list, get, search, versions, materialisations."""
        return self._services.groups

    def materialise(
        self,
        groups: str | Sequence[str] = (),
        *,
        at: str | datetime | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> "list[Materialisation]":
        """Compute groups (all by default) of every entity at a cutoff (default now) and put them online.

        Each group is online whole, or as it was before; a vector that is newer than the cutoff stays.
        """
        names = [groups] if isinstance(groups, str) else list(groups)
        what = f"materialise {', '.join(names) or 'all groups'}"
        arguments = {"groups": names, "at": self._instant(at)}
        made: list[Materialisation] = self._run("materialise", arguments, what, progress=progress)
        return made

    def get_feature_vector(self, entity: Any, group: str) -> "dict[str, Value]":
        """The online features of an entity, by name. NotFoundError when there are none, or they have expired."""
        return self._services.online.vector(group, entity).values

    def get_feature_vectors(self, entities: Sequence[Any], group: str) -> "list[Vector | None]":
        """Online vectors with their times and origin, in the order of the entities; None where there is none."""
        return self._services.online.vectors(group, entities)

    def get_historical_features(
        self,
        entity_df: Any,
        features: str | Sequence[str],
        *,
        version: str | None = None,
        full_feature_names: bool = False,
        stored: bool = False,
    ) -> "pa.Table":
        """`entity_df` with the features of groups (or `group:feature`) as they were at each row's `event_timestamp`.

        See `holdfast.backend.pipelines.historical.historical_features`; `.to_pandas()` of the answer is a DataFrame.
        """
        from holdfast.backend.pipelines.historical import historical_features

        wanted = [features] if isinstance(features, str) else list(features)
        return historical_features(
            self._services.feature_rooms, entity_df, wanted,
            version=version, full_feature_names=full_feature_names, stored=stored,
        )  # fmt: skip

    def feature_freshness(self) -> "list[GroupFreshness]":
        """How current each group is online."""
        from holdfast.backend.pipelines.materialise import freshness

        return freshness(self._services.feature_rooms)

    def export_feast(self, folder: str | Path) -> list[Path]:
        """Write a Feast repository of all groups, with what was materialised; returns the files.

        NotFoundError when a group was never materialised.
        """
        from holdfast.backend.pipelines.feast_export import export_feast

        with self._verb("features", f"export-feast {folder}"):
            return export_feast(self._services.feature_rooms, self._services.settings, Path(folder))

    def _instant(self, at: str | datetime | None) -> int | None:
        if at is None:
            return None
        if isinstance(at, datetime):
            if at.tzinfo is None:
                return parse_instant(at.isoformat(), self._services.settings.timezone)
            return instant(at)
        if not isinstance(at, str):
            raise InputError(f"{at!r} is no time", hint="Give a datetime, or a text such as 2024-06-30T12:00.")
        return parse_instant(at, self._services.settings.timezone)
