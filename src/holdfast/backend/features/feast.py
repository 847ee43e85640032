"""Feature groups as Feast knows them: a repository to `feast apply`, and answers in the words of its feature server."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from holdfast.backend.features.groups import Groups
from holdfast.backend.features.vectors import OnlineFeatures
from holdfast.backend.records import FeatureGroup, Vector
from holdfast.backend.store.files import write_whole
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.names import escape
from holdfast.core.schema import DType
from holdfast.errors import InputError, NotFoundError, RequestError, nearest

__all__ = ["CREATED", "EVENT", "online_answer", "write_repository"]

EVENT, CREATED = "event_timestamp", "created_timestamp"

_NEVER = "1970-01-01T00:00:00Z"
_HEAD = '''"""Feature groups of the Holdfast project {project}. Written by `holdfast features export-feast`."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String
'''
_ENTITY = """
entity_{number} = Entity(name={name!r}, join_keys=[{key!r}], value_type=ValueType.{type})
"""
_GROUP = """
source_{number} = FileSource(
    name={source!r},
    path={path!r},
    timestamp_field={event!r},
    created_timestamp_column={created!r},
)
view_{number} = FeatureView(
    name={name!r},
    entities=[entity_{entity}],
    ttl=timedelta(microseconds={ttl}),
    schema=[
{fields}
    ],
    source=source_{number},
    online=True,
    owner={owner!r},
    description={description!r},
    tags={tags!r},
)
service_{number} = FeatureService(name={name!r}, features=[view_{number}], owner={owner!r})
"""


def write_repository(
    folder: Path, project: str, url: str, groups: Sequence[FeatureGroup], stored: Mapping[str, pa.Table]
) -> list[Path]:
    """Write a Feast repository that reads its online features from `url`; returns the files.

    `stored` has each group's materialised rows: the key's column, EVENT, CREATED and the features. Offline they are
    Parquet files. InputError when a feature is called like one of the three.
    """
    config = {
        "project": "".join(sign if sign.isalnum() or sign == "_" else "_" for sign in project).lstrip("_")
        or "holdfast",
        "provider": "local",
        "registry": "data/registry.db",
        "offline_store": {"type": "file"},
        "online_store": {"type": "remote", "path": url},
        "entity_key_serialization_version": 3,
    }
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    code = [_HEAD.format(project=project)]
    entities: dict[str, int] = {}
    files = []
    for number, group in enumerate(groups, 1):
        key = Groups.key(group)
        if group.entity not in entities:
            entities[group.entity] = len(entities) + 1
            kind = {DType.INT: "INT64", DType.FLOAT: "DOUBLE", DType.BOOL: "BOOL"}.get(key.dtype, "STRING")
            code.append(_ENTITY.format(number=entities[group.entity], name=group.entity, key=key.name, type=kind))
        path = folder / "data" / f"{escape(group.name)}.parquet"
        code.append(_group_code(group, number, entities[group.entity], f"data/{path.name}", stored[group.name]))
        write_whole(path, lambda scratch, table=stored[group.name]: pq.write_table(table, scratch))  # type: ignore[misc]
        files.append(path)
    for name, content in (("feature_store.yaml", text), ("definitions.py", "".join(code))):
        write_whole(folder / name, lambda scratch, said=content: scratch.write_text(said, encoding="utf-8"))  # type: ignore[misc]
        files.append(folder / name)
    return files


def _group_code(group: FeatureGroup, number: int, entity: int, path: str, stored: pa.Table) -> str:
    key = Groups.key(group).name
    names = FeatureSet.from_dict(group.definitions).names
    for name in names:
        if name in (key, EVENT, CREATED):
            raise InputError(
                f"Feast cannot have a feature called {name!r}", where={"feature group": group.name, "feature": name},
                hint="Rename the column in the data, or leave the feature out of the group.",
            )  # fmt: skip
    types = {field.name: _arrow_type(field.type) for field in stored.schema}
    described = {f.name: f.describe() for f in FeatureSet.from_dict(group.definitions).features}
    fields = [f"        Field(name={n!r}, dtype={types[n]}, description={described[n]!r})," for n in names]
    return _GROUP.format(
        number=number, source=f"{group.name} (materialised)", path=path, event=EVENT, created=CREATED, name=group.name,
        entity=entity, ttl=group.ttl or 0, fields="\n".join(fields), owner=group.owner, description=group.description,
        tags={**group.tags, "holdfast.version": group.id},
    )  # fmt: skip


def _arrow_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "Bool"
    if pa.types.is_integer(kind):
        return "Int64"
    return "Float64" if pa.types.is_floating(kind) else "String"


def online_answer(online: OnlineFeatures, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of Feast's `POST /get-online-features` to its request.

    `request` has `entities` (key column or entity table → values), `features` (`group:feature`) or `feature_service`
    (a group: all its features), and `full_feature_names`. Columns come back in the order of the request, the entities
    first. RequestError says what is wrong with it; NotFoundError names a group or feature that is none.
    """
    entities: Mapping[str, Sequence[Any]] = request["entities"]
    lengths = {len(values) for values in entities.values()}
    if len(lengths) != 1:
        raise RequestError("`entities` needs the same number of values for each key", where={"key": "entities"})
    (count,) = lengths
    full = bool(request.get("full_feature_names"))
    names, results = [], []
    for name, values in entities.items():
        names.append(name)
        results.append(_column(list(values), ["PRESENT"] * count, [_NEVER] * count))
    for group, wanted in _wanted(online, request).items():
        found = online.vectors(group, _keys(online, group, entities))
        stamps = [_NEVER if vector is None else _stamp(vector) for vector in found]
        for feature in wanted:
            shown = f"{group}__{feature}" if full else feature
            if shown in names:
                raise RequestError(
                    f"two columns would be called {shown!r}", where={"feature group": group, "feature": feature},
                    hint="Ask with full_feature_names.",
                )  # fmt: skip
            names.append(shown)
            values = [None if vector is None else vector.values.get(feature) for vector in found]
            results.append(_column(values, [_status(*pair) for pair in zip(found, values, strict=True)], stamps))
    return {"metadata": {"feature_names": names}, "results": results}


def _wanted(online: OnlineFeatures, request: Mapping[str, Any]) -> dict[str, list[str]]:
    service = request.get("feature_service")
    references = [service] if service else list(request.get("features") or ())
    if not references:
        raise RequestError("no features were asked for", hint="Give `features` as group:feature, or `feature_service`.")
    wanted: dict[str, list[str]] = {}
    for reference in references:
        name, _, feature = str(reference).partition(":")
        # Feast may name a version of the view, as in view@v2:feature: there is only the current one here.
        name = name.partition("@")[0]
        group, _ = online.known(name)
        known = FeatureSet.from_dict(group.definitions).names
        if not service and feature not in known:
            # It may have been registered by another process since.
            known = FeatureSet.from_dict(online.known(name, refresh=True)[0].definitions).names
        if not service and feature not in known:
            raise NotFoundError(
                f"group {name!r} has no feature {feature!r}", where={"feature group": name, "feature": feature},
                hint=nearest(feature, known),
            )  # fmt: skip
        wanted.setdefault(name, []).extend(known if service else [feature])
    return {name: list(dict.fromkeys(features)) for name, features in wanted.items()}


def _keys(online: OnlineFeatures, name: str, entities: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    group, key = online.known(name)
    for column in (group.entity, key.name):
        if column in entities:
            return entities[column]
    raise RequestError(
        f"group {name!r} needs values of {key.name!r}", where={"key": "entities", "feature group": name},
        hint=f"Given are: {', '.join(entities)}",
    )  # fmt: skip


def _column(values: list[Any], statuses: list[str], stamps: list[str]) -> dict[str, Any]:
    return {"values": values, "statuses": statuses, "event_timestamps": stamps}


def _status(vector: Vector | None, value: Any) -> str:
    return "NOT_FOUND" if vector is None else "NULL_VALUE" if value is None else "PRESENT"


def _stamp(vector: Vector) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=vector.event_at)
    return moment.isoformat().replace("+00:00", "Z")
