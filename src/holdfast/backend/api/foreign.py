"""What the prediction server says of the protocols of others in its OpenAPI document, and what each route needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.backend.access import Role

__all__ = ["ROUTES", "foreign_paths", "foreign_schemas"]

Plain = dict[str, Any]
ROUTES: Mapping[str, Role] = {
    "/v2": Role.PREDICTOR,
    "/v2/health/live": Role.ANYONE,
    "/v2/health/ready": Role.ANYONE,
    "/v2/models/{model}": Role.PREDICTOR,
    "/v2/models/{model}/ready": Role.ANYONE,
    "/v2/models/{model}/infer": Role.PREDICTOR,
    "/v2/models/{model}/versions/{version}": Role.PREDICTOR,
    "/v2/models/{model}/versions/{version}/ready": Role.ANYONE,
    "/v2/models/{model}/versions/{version}/infer": Role.PREDICTOR,
    "/v2/repository/index": Role.VIEWER,
    "/v2/repository/models/{model}/load": Role.OPERATOR,
    "/v2/repository/models/{model}/unload": Role.OPERATOR,
    "/invocations": Role.PREDICTOR,
    "/v1/targets/{target}/invocations": Role.PREDICTOR,
    "/ping": Role.ANYONE,
    "/health": Role.ANYONE,
    "/version": Role.ANYONE,
}
"""Every route, and who may use it."""
_POSTS = ("infer", "index", "load", "unload", "invocations")
_SUMMARIES = {
    "v2": "The server, as the Open Inference Protocol tells it",
    "live": "Alive",
    "ready": "Ready to answer",
    "infer": "Predict with tensors",
    "index": "Models that are, or were, deployed",
    "load": "Let what was unloaded answer again",
    "unload": "Let nothing answer for a target",
    "invocations": "Predict as MLflow's scoring server does",
    "ping": "Ready, for MLflow",
    "health": "Ready, for MLflow",
    "version": "The version of this server",
}


def foreign_paths(targets: Sequence[str], versions: Sequence[str]) -> Plain:
    """The paths; names are of the targets and deployments that answer now."""
    return {path: {"post" if path.endswith(_POSTS) else "get": _operation(path, targets, versions)} for path in ROUTES}


def foreign_schemas() -> Plain:
    """The schemas that `foreign_paths` refers to."""
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    parameters = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
    tensor = {
        "type": "object",
        "properties": {
            "name": text,
            "datatype": {"enum": ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
                                  "FP16", "FP32", "FP64", "BF16", "BYTES"]},
            "shape": {"type": "array", "items": number, "minItems": 1, "maxItems": 2},
            "parameters": {"type": "object", "properties": {"binary_data_size": number}},
            "data": {"type": "array", "description": "Flat, or nested as the shape says; null is a missing value."},
        },
        "required": ["name", "datatype", "shape"],
    }  # fmt: skip
    flags = {name: {"type": "boolean"} for name in ("explain", "strict", "binary_data_output")}
    output = {"name": text, "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}}}
    scalar = {"type": ["boolean", "number", "string", "null"]}
    row = {"type": "object", "additionalProperties": scalar}
    listed = {"type": "array", "items": {"oneOf": [row, {"type": "array", "items": scalar}]}}
    split = {"columns": {"type": "array", "items": text}, "data": {"type": "array", "items": {"type": "array"}}}
    params = {"target": text, "explain": {"type": "boolean"}, "strict": {"type": "boolean"}}
    return {
        "InferRequest": {
            "type": "object",
            "properties": {
                "id": text,
                "inputs": {"type": "array", "items": tensor},
                "outputs": {"type": "array", "items": {"type": "object", "properties": output, "required": ["name"]}},
                "parameters": {"type": "object", "properties": flags},
            },
            "required": ["inputs"],
        },
        "RepositoryIndex": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "RepositoryChange": {"type": "object", "properties": {"parameters": parameters}},
        "Invocation": {
            "type": "object",
            "description": "Exactly one of the four forms.",
            "properties": {
                "dataframe_split": {"type": "object", "properties": split, "required": ["columns", "data"]},
                "dataframe_records": {"type": "array", "items": row},
                "instances": listed,
                "inputs": {"oneOf": [{"type": "object", "additionalProperties": {"type": "array"}}, listed]},
                "params": {"type": "object", "properties": params},
            },
        },
    }


def _operation(path: str, targets: Sequence[str], versions: Sequence[str]) -> Plain:
    last = path.rstrip("/").rpartition("/")[2]
    known = {"model": targets, "target": targets, "version": versions}
    operation: Plain = {
        "summary": _SUMMARIES.get(last, "Inputs and outputs of a target"),
        "parameters": [_parameter(name, names) for name, names in known.items() if f"{{{name}}}" in path],
        "responses": {
            "200": {"description": "The answer"},
            **{str(status): _error(path) for status in (400, 404, 409, 413, 422, 503)},
        },
    }
    if path.endswith(_POSTS):
        schema = {"infer": "InferRequest", "index": "RepositoryIndex", "invocations": "Invocation"}
        content: Plain = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{schema.get(last, 'RepositoryChange')}"}}
        }
        if last == "invocations":
            content["text/csv"] = {"schema": {"type": "string"}}
        if last == "infer":
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": last in ("infer", "invocations"), "content": content}
    return operation


def _parameter(name: str, names: Sequence[str]) -> Plain:
    schema: Plain = {"type": "string"} | ({"enum": list(names)} if names else {})
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _error(path: str) -> Plain:
    field = "error" if path.startswith("/v2") else "message"
    schema = {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]}
    return {"description": "What is wrong", "content": {"application/json": {"schema": schema}}}
