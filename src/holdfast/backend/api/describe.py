"""What the prediction server says of itself: targets with their features and an example, and its OpenAPI document."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from holdfast import __version__
from holdfast.backend.access import Role
from holdfast.backend.api.foreign import foreign_paths, foreign_schemas
from holdfast.backend.api.guard import PREDICT_ROLES, secured
from holdfast.backend.serving.predictor import Predictor, feature_values
from holdfast.backend.serving.questions import entity_column
from holdfast.core.features.encoding import FeatureSpec

__all__ = ["openapi", "summary", "target_details"]

_TYPES = {"number": "number", "truth": "boolean", "category": "string"}


def summary(predictor: Predictor) -> dict[str, Any]:
    """A target in a list."""
    return {
        "target": predictor.target,
        "task": predictor.task,
        "deployment": predictor.deployment,
        "labels": {label: model.version for label, model in predictor.models.items()},
        "features": len(predictor.encoding.names),
    }


def target_details(predictor: Predictor) -> dict[str, Any]:
    """A target with labels, features (name, type, training range), context, tables, and an example that works."""
    feature_set, key = predictor.feature_set, entity_column(predictor.feature_set)
    return {
        "target": predictor.target,
        "task": predictor.task,
        "deployment": predictor.deployment,
        "labels": {
            label: {"version": model.version, "threshold": model.threshold, "classes": list(model.classes)}
            for label, model in predictor.models.items()
        },
        "features": [_feature(spec) for spec in predictor.encoding.specs],
        "entity": {"table": feature_set.entity, "key": key.name, "type": key.dtype.value},
        "context": [{"name": column.name, "type": column.dtype.value} for column in feature_set.context],
        "tables": {
            table.name: {column.name: column.dtype.value for column in table.columns}
            for table in feature_set.schema.tables.values()
        },
        "example": _example(predictor),
    }


def _feature(spec: FeatureSpec) -> dict[str, Any]:
    """Name, type and what training saw; fields that do not apply are left out."""
    known = {
        "unit": spec.unit,
        "description": spec.description,
        "minimum": spec.minimum,
        "maximum": spec.maximum,
        "mean": spec.mean,
        "categories": list(spec.categories) or None,
    }
    return {"name": spec.name, "type": _TYPES[spec.kind]} | {n: v for n, v in known.items() if v not in (None, "")}


def _example(predictor: Predictor) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for model in predictor.models.values():
        rows = model.golden_rows
        fullest = rows[int(np.isnan(rows).sum(axis=1).argmin())]
        values = {**feature_values(model.encoding, fullest), **values}
    return {"features": [{name: values[name] for name in predictor.encoding.names}]}


def openapi(predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """The OpenAPI 3.1 document; the examples are of the targets deployed now."""
    target = {"name": "target", "in": "path", "required": True, "schema": {"type": "string"}}
    examples = {name: {"value": _example(predictor)} for name, predictor in predictors.items()}
    if predictors:
        target["schema"]["enum"] = list(predictors)  # type: ignore[index]
    body = {"required": True, "content": {"application/json": {"schema": _ref("Request"), "examples": examples}}}
    ask = {
        "summary": "Predict by features, by raw rows, or by entity id",
        "parameters": [target],
        "requestBody": body,
        "responses": {**_answer("Predictions", "Reply"), **_problems(400, 404, 413, 422, 503)},
    }
    about = {
        "summary": "Labels, features, tables and a working example of a target",
        "parameters": [target],
        "responses": {**_answer("The target"), **_problems(404, 503)},
    }
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast predictions", "version": __version__},
        "paths": {
            "/v1/targets": {"get": {"summary": "Deployed targets", "responses": _answer("The targets")}},
            "/v1/targets/{target}": {"get": about},
            "/v1/targets/{target}/predict": {"post": ask},
            "/v1/health": {"get": {"summary": "Alive, and what is wrong", "responses": _answer("The state")}},
            "/v1/ready": {
                "get": {"summary": "Whether every deployed target is answered",
                        "responses": {**_answer("Ready"), **_problems(503)}},
            },
            "/metrics": {
                "get": {"summary": "Counts of all workers, for Prometheus",
                        "responses": {"200": {"description": "Text", "content": {"text/plain": {}}}}},
            },
            **foreign_paths(list(predictors), [predictor.deployment for predictor in predictors.values()]),
        },
        "components": {"schemas": {**_schemas(), **foreign_schemas()}},
    }  # fmt: skip
    return secured(document, [path for path, role in PREDICT_ROLES.items() if role is Role.ANYONE])


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: str | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema) if schema else {"type": "object"}}}
    return {"200": {"description": description, "content": content}}


def _problems(*statuses: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {str(status): {"description": "A problem", "content": content} for status in statuses}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _schemas() -> dict[str, Any]:
    text, values = {"type": "string"}, {"type": "object", "additionalProperties": True}
    cutoff = {
        "type": ["string", "null"],
        "description": "ISO 8601, default now; features see what was known before it",
    }
    context = {**values, "description": "Columns of the question that are known beforehand."}
    key = {"type": ["string", "integer"]}
    strict = {"type": "boolean", "description": "Repair nothing: refuse and say what; by default features.strict."}
    flags = {"explain": {"type": "boolean", "default": False}, "strict": strict}

    def many(item: Any) -> dict[str, Any]:
        return {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]}

    by_features = _object({"features": many(values), **flags}, "features")
    rows = {"type": "object", "additionalProperties": {"type": "array", "items": values}}
    question = _object({"entity": key, "cutoff": cutoff, "context": context}, "entity")
    merge = {"type": "boolean", "default": False, "description": "Add the rows to the stored ones."}
    by_rows = _object({"rows": rows, "questions": many(question), "merge": merge, **flags}, "rows", "questions")
    entity = _object({"id": key, "cutoff": cutoff, "context": context}, "id")
    by_entity = _object({"entities": many(entity), **flags}, "entities")
    repair = _object({"feature": text, "kind": text, "detail": text}, "feature", "kind", "detail")
    prediction = _object(
        {"id": text, "labels": {"type": "object"}, "repairs": {"type": "array", "items": repair},
         "entity": key, "cutoff": text, "explanation": {"type": "object"}},
        "id", "labels", "repairs",
    )  # fmt: skip
    predictions = {"type": "array", "items": prediction}
    reply = _object(
        {"target": text, "deployment": text, "data_version": text, "predictions": predictions},
        "target", "deployment", "predictions",
    )  # fmt: skip
    number = {"type": "integer"}
    fault = _object(
        {"type": text, "title": text, "status": number, "code": text, "detail": text, "where": values, "hint": text},
        "type", "title", "status", "code", "detail",
    )  # fmt: skip
    return {"Request": {"oneOf": [by_features, by_rows, by_entity]}, "Reply": reply, "Problem": fault}
