"""Reading online vectors: by group and entity, as people, programs and Feast's client name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from holdfast.backend.features.groups import Groups
from holdfast.backend.ports import Clock, OnlineStore
from holdfast.backend.records import FeatureGroup, Freshness, Key, Vector
from holdfast.core.schema import Column, DType
from holdfast.core.timeline import instant, parse_instant
from holdfast.errors import InputError, NotFoundError

__all__ = ["GroupFreshness", "OnlineFeatures"]

_PYTHON: Mapping[DType, type] = {
    DType.INT: int, DType.FLOAT: float, DType.BOOL: bool, DType.CATEGORY: str, DType.TEXT: str, DType.TIME: int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupFreshness:
    """How current a group is online.

    `age` is the time since the newest vector's event time (microseconds). `data_version` is what the newest
    materialisation read; `behind` says that there is newer data or another definition.
    """

    group: str
    version: str
    vectors: int
    expired: int
    newest_at: int | None
    oldest_at: int | None
    age: int | None
    ttl: int | None
    materialised_at: int | None
    data_version: str | None
    current_version: str
    behind: bool


class OnlineFeatures:
    """The online side of a project's feature groups."""

    def __init__(self, groups: Groups, store: OnlineStore, clock: Clock, timezone: str) -> None:
        self.groups = groups
        self.store = store
        self._clock = clock
        self._timezone = timezone
        self._known: dict[str, tuple[FeatureGroup, Column]] = {}

    def vector(self, group: str, entity: Any) -> Vector:
        """The vector of one entity. NotFoundError when there is none, or it has expired."""
        (found,) = self.vectors(group, [entity])
        if found is None:
            shown = "***" if self.known(group)[1].personal else entity
            raise NotFoundError(
                f"group {group!r} has no vector of {shown!r}", where={"feature group": group, "entity": shown},
                hint=f"It was never materialised, or has expired. See: holdfast features freshness; then: "
                f"holdfast features materialise {group}",
            )  # fmt: skip
        return found

    def vectors(self, group: str, entities: Sequence[Any]) -> list[Vector | None]:
        """The vectors of several entities, in their order; None where there is none.

        A text is read as the type of the key. InputError for what cannot be a key; NotFoundError for no such group.
        """
        _, column = self.known(group)
        plain = _PYTHON[column.dtype]
        keys = [cast("Key", e) if type(e) is plain else self._key(group, column, e) for e in entities]
        return self.store.read(group, keys, self._clock.now())

    def erase(self, group: str, entities: Sequence[Any]) -> int:
        """Erase the vectors of some entities; returns how many there were."""
        _, column = self.known(group)
        return self.store.delete(group, [self._key(group, column, entity) for entity in entities])

    def freshness(self, group: str) -> Freshness:
        """What the store holds of a group now."""
        return self.store.freshness(group, self._clock.now())

    def known(self, group: str, *, refresh: bool = False) -> tuple[FeatureGroup, Column]:
        """The group as it was registered last, and its key; remembered, so that a read asks no database."""
        if refresh or group not in self._known:
            self.groups.check(group)
            found = self.groups.recorded(group) or self.groups.get(group)
            self._known[group] = (found, self.groups.key(found))
        return self._known[group]

    def _key(self, group: str, column: Column, entity: Any) -> Key:
        value: Any = entity.item() if hasattr(entity, "item") else entity
        plain = _PYTHON[column.dtype]
        if isinstance(value, plain) and isinstance(value, bool) == (plain is bool):
            return cast("Key", value)
        try:
            if column.dtype is DType.TIME:
                return instant(value) if isinstance(value, datetime) else parse_instant(str(value), self._timezone)
            if column.dtype is DType.BOOL and isinstance(value, str) and value.lower() in {"true", "false"}:
                return value.lower() == "true"
            if column.dtype is DType.INT and (
                isinstance(value, str) or (isinstance(value, float) and value == int(value))
            ):
                return int(value)
            if column.dtype is DType.FLOAT and isinstance(value, str | int) and not isinstance(value, bool):
                return float(value)
        except (ValueError, OverflowError):
            pass
        raise InputError(
            f"{'***' if column.personal else repr(value)} is no key: {column.name!r} is {column.dtype}",
            where={"feature group": group, "column": column.name},
        )
