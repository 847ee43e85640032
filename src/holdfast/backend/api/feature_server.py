"""The feature store over HTTP: our own routes, and the one that Feast's client reads online features from."""

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel

from holdfast.backend.access import Role
from holdfast.backend.api.guard import needs
from holdfast.backend.features.feast import online_answer
from holdfast.backend.features.vectors import OnlineFeatures
from holdfast.backend.records import FeatureGroup, Vector
from holdfast.core.timeline import isoformat

__all__ = ["add_feature_store", "group_document", "vector_document"]

Plain = dict[str, Any]


class OnlineFeaturesRequest(BaseModel):
    """What Feast's client sends; fields of its later versions are ignored."""

    entities: dict[str, list[Any]]
    features: list[str] = []
    feature_service: str | None = None
    full_feature_names: bool = False


def add_feature_store(app: FastAPI, online: OnlineFeatures) -> None:
    """Add the routes to the control plane."""

    @app.get("/v1/feature-groups", summary="Feature groups; `search` looks in names, owners, tags, words and features")
    @needs(Role.VIEWER)
    def groups(search: str = "") -> list[Plain]:
        return [group_document(group) for group in online.groups.search(search)]

    @app.get("/v1/feature-groups/{group}", summary="A feature group with its features")
    @needs(Role.VIEWER)
    def group(group: str) -> Plain:
        found = online.groups.get(group)
        return group_document(found) | {"features": online.groups.definitions(found)}

    @app.get("/v1/feature-groups/{group}/vector/{entity:path}", summary="The online vector of an entity")
    @needs(Role.VIEWER)
    def vector(group: str, entity: str) -> Plain:
        return vector_document(group, online.vector(group, entity))

    @app.post("/get-online-features", summary="Online features as Feast's remote online store reads them")
    @needs(Role.VIEWER)
    def get_online_features(request: OnlineFeaturesRequest) -> Response:
        return Response(_json(online_answer(online, request.model_dump())), media_type="application/json")

    @app.get("/health", include_in_schema=False)
    @needs(Role.ANYONE)
    def health() -> Plain:
        return {"status": "ok"}


def group_document(group: FeatureGroup) -> Plain:
    """A group as plain data, its features counted."""
    data = {name: value for name, value in asdict(group).items() if name != "definitions"}
    return data | {"made_at": isoformat(group.made_at), "features": len(group.definitions["features"])}


def vector_document(group: str, vector: Vector) -> Plain:
    """A vector as plain data with times in words; numbers that JSON does not know are null."""
    until = None if vector.expires_at is None else isoformat(vector.expires_at)
    return {
        "group": group,
        "entity": vector.entity,
        "event_at": isoformat(vector.event_at),
        "made_at": isoformat(vector.made_at),
        "expires_at": until,
        "origin": vector.origin,
        "values": {name: _known(value) for name, value in vector.values.items()},
    }


def _known(value: Any) -> Any:
    # inf and NaN: x - x is 0 for every other number.
    return None if isinstance(value, float) and value - value != 0 else value


def _json(document: Any) -> bytes:
    """JSON in which a float stays one (5.0, not 5): Feast's client takes the type from the text."""
    import json

    return json.dumps(document, ensure_ascii=False).encode()
