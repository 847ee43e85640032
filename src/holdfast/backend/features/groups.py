"""Feature groups: what the project file says of them, resolved over the data's schema and recorded by content.

The project file is the source. `Groups.sync` compares it with what was recorded: a group that says something new gets a
new version; the pointer `group/<name>` names its current one. Earlier versions stay.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa

from holdfast.backend.datasets import Datasets
from holdfast.backend.features.resolving import resolve
from holdfast.backend.features.tables import feature_groups, materialisations
from holdfast.backend.ports import Clock
from holdfast.backend.records import FeatureGroup, Materialisation
from holdfast.backend.settings import Settings
from holdfast.backend.store import Pointers, Store
from holdfast.backend.store.files import sha256_of
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.primitives import Primitive
from holdfast.core.schema import Column, Schema
from holdfast.core.timeline import parse_duration
from holdfast.errors import NotFoundError, nearest

__all__ = ["Groups"]

_POINTER = "group/"
FoundGroups = list[FeatureGroup]  # `Groups.list` hides the builtin inside the class
Made = list[Materialisation]
Definitions = list[dict[str, str]]


class Groups:
    """The feature groups of one project. `set_of` gives the feature set of a target by its name, `own` the
    primitives of the user's own."""

    def __init__(
        self,
        store: Store,
        datasets: Datasets,
        settings: Settings,
        clock: Clock,
        set_of: Callable[[str], FeatureSet],
        *,
        own: Callable[[], Sequence[Primitive]] = tuple,
    ) -> None:
        self.store = store
        self._datasets = datasets
        self._settings = settings
        self._clock = clock
        self._set_of = set_of
        self._own = own

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that the project file names, in its order."""
        return tuple(self._settings.feature_groups)

    def sync(self) -> FoundGroups:
        """Register what the project file says of each group now, all or none; the current version of each.

        ConfigError names the group's key that is wrong; NotFoundError when there is no data yet.
        """
        if not self.names:
            return []
        dataset = self._datasets.get()
        schema = Schema.from_dict(dataset.schema)
        now = self._clock.now()
        made = []
        for name, given in self._settings.feature_groups.items():
            feature_set, left_out = resolve(name, given, self._settings, schema, self._set_of, own=self._own())
            draft = FeatureGroup(
                id="", name=name, made_at=now, dataset=dataset.id, entity=feature_set.entity,
                feature_set=feature_set.hash, definitions=feature_set.to_dict(),
                ttl=None if given.ttl is None else parse_duration(given.ttl),
                owner=given.owner, description=given.description, tags=dict(given.tags), left_out=left_out,
            )  # fmt: skip
            made.append(replace(draft, id=_identity(draft)))
        with self.store.read() as connection:
            known = _current(connection, self.names)
        if [group.id for group in made] == [known[name].id for name in self.names if name in known]:
            return [known[name] for name in self.names]
        with self.store.write("register group") as connection:
            return [self._register(connection, group) for group in made]

    def list(self) -> FoundGroups:
        """The current version of each group of the project file, in its order; `sync` comes first."""
        return self.sync()

    def get(self, name: str) -> FeatureGroup:
        """One group as it is now. NotFoundError names the nearest one."""
        self.check(name)
        return next(group for group in self.sync() if group.name == name)

    def check(self, name: str) -> None:
        """NotFoundError when the project file names no such group."""
        if name not in self._settings.feature_groups:
            hint = nearest(name, self.names) if self.names else "Add it to `feature_groups` in holdfast.yaml."
            raise NotFoundError(f"there is no feature group {name!r}", where={"feature group": name}, hint=hint)

    def search(self, text: str) -> FoundGroups:
        """Groups with every word of `text` in name, entity, owner, description, tags, or a feature's name or words."""
        words = text.casefold().split()
        return [group for group in self.sync() if all(word in _searched(group) for word in words)]

    def versions(self, name: str) -> FoundGroups:
        """All recorded versions of a group, newest first."""
        table = feature_groups
        with self.store.read() as connection:
            query = sa.select(table).where(table.c.name == name).order_by(table.c.made_at.desc())
            return [_group(row) for row in connection.execute(query)]

    def recorded(self, name: str) -> FeatureGroup | None:
        """The version that was registered last, without a look at the project file: what readers need is one query."""
        with self.store.read() as connection:
            return _current(connection, [name]).get(name)

    def abandoned(self) -> tuple[str, ...]:
        """Groups that were materialised and that the project file names no more."""
        with self.store.read() as connection:
            made = connection.scalars(sa.select(materialisations.c.group).distinct())
            return tuple(sorted(set(made) - set(self.names)))

    def record(self, made: Materialisation) -> None:
        """Remember a materialisation."""
        with self.store.write("record materialisation") as connection:
            connection.execute(materialisations.insert().values(**asdict(made)))

    def materialisations(self, name: str) -> Made:
        """What was materialised of a group, newest first."""
        table = materialisations
        with self.store.read() as connection:
            query = sa.select(table).where(table.c.group == name).order_by(table.c.made_at.desc(), table.c.id.desc())
            return [Materialisation(**row._mapping) for row in connection.execute(query)]

    @staticmethod
    def definitions(group: FeatureGroup) -> Definitions:
        """The features of a group: name, type, formula, description."""
        return [
            {"name": f.name, "type": f.dtype.value, "formula": f.formula, "description": f.describe()}
            for f in FeatureSet.from_dict(group.definitions).features
        ]

    @staticmethod
    def key(group: FeatureGroup) -> Column:
        """The key column of the group's entity."""
        table = FeatureSet.from_dict(group.definitions).schema.table(group.entity)
        return table.column(table.key[0])

    def _register(self, connection: sa.Connection, group: FeatureGroup) -> FeatureGroup:
        row = connection.execute(sa.select(feature_groups).where(feature_groups.c.id == group.id)).first()
        if row is None:
            connection.execute(feature_groups.insert().values(**_plain(group)))
        pointers, pointer = Pointers(connection), _POINTER + group.name
        if pointers.get(pointer) != group.id:
            pointers.move(pointer, group.id, at=group.made_at, why="the project file")
        return group if row is None else _group(row)


def _plain(group: FeatureGroup) -> dict[str, Any]:
    return {**asdict(group), "left_out": [*group.left_out]}


def _identity(group: FeatureGroup) -> str:
    # Not `asdict`: it copies every definition, and this is done for each group at each look at the project file.
    said = {f.name: getattr(group, f.name) for f in fields(group) if f.name not in {"id", "made_at", "dataset"}}
    return sha256_of(json.dumps(said, ensure_ascii=False, sort_keys=True).encode())


def _group(row: Any) -> FeatureGroup:
    values: Mapping[str, Any] = row._mapping
    return FeatureGroup(**{**values, "left_out": tuple(values["left_out"])})


def _current(connection: sa.Connection, names: Iterable[str]) -> dict[str, FeatureGroup]:
    pointers = Pointers(connection).all(_POINTER)
    wanted = [pointers[_POINTER + name] for name in names if _POINTER + name in pointers]
    rows = connection.execute(sa.select(feature_groups).where(feature_groups.c.id.in_(wanted)))
    return {row.name: _group(row) for row in rows}


def _searched(group: FeatureGroup) -> str:
    features = FeatureSet.from_dict(group.definitions).features
    words = [group.name, group.entity, group.owner, group.description, *group.tags, *group.tags.values()]
    return "\n".join([*words, *(f"{feature.name} {feature.describe()}" for feature in features)]).casefold()
