"""A Feast repository of what was materialised."""

from pathlib import Path

import pyarrow as pa

from holdfast.backend.features.feast import CREATED, EVENT, write_repository
from holdfast.backend.features.groups import Groups
from holdfast.backend.pipelines.historical import stored_rows
from holdfast.backend.pipelines.materialise import ENTITY, EVENT_AT, MADE_AT, FeatureRooms
from holdfast.backend.records import FeatureGroup
from holdfast.backend.settings import Settings
from holdfast.errors import NotFoundError

__all__ = ["export_feast"]


def export_feast(rooms: FeatureRooms, settings: Settings, folder: Path) -> list[Path]:
    """Write definitions, configuration and Parquet files of all groups into `folder`; returns the files.

    Online features are read from this project's control plane. NotFoundError when there is no group, or one was never
    materialised.
    """
    groups = rooms.online.groups.sync()
    if not groups:
        raise NotFoundError("there is no feature group", hint="Add one to `feature_groups` in holdfast.yaml.")
    stored = {group.name: _named(rooms, group) for group in groups}
    host = settings.serving.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.serving.port + 1}"
    return write_repository(folder, settings.project, url, groups, stored)


def _named(rooms: FeatureRooms, group: FeatureGroup) -> pa.Table:
    """All stored rows of a group, under Feast's names."""
    rows = pa.concat_tables([one.rows for one in stored_rows(rooms, group)], promote_options="permissive")
    names = {ENTITY: Groups.key(group).name, EVENT_AT: EVENT, MADE_AT: CREATED}
    return rows.rename_columns([names.get(name, name) for name in rows.column_names])
