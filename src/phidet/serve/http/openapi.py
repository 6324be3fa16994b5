"""The API in OpenAPI's words: what ``/docs`` shows, and what generators of clients and tests read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from phidet.core.extras import __version__
from phidet.images.formats import FORMATS
from phidet.serve.configuration import ServerSettings, Source
from phidet.serve.outputs import EVERYTHING, output_shapes
from phidet.serve.protocols.inference import IndexEntry, ModelMetadata, ServerMetadata
from phidet.serve.protocols.inference_json import InferAnswer
from phidet.serve.protocols.inference_tensors import InferRequest
from phidet.serve.protocols.tfserving import ModelStatus

Schema = dict[str, Any]


def _list_of(items: Schema, at_least: int | None = None, at_most: int | None = None) -> Schema:
    limits = {"minItems": at_least, "maxItems": at_most}
    return {"type": "array", "items": items} | {key: count for key, count in limits.items() if count is not None}


def _object(properties: Schema, required: Sequence[str] = ()) -> Schema:
    schema = {"type": "object", "properties": properties}
    return schema | {"required": list(required)} if required else schema


_TEXT: Schema = {"type": "string"}
_B64: Schema = _object({"b64": {"type": "string", "contentEncoding": "base64"}}, ["b64"]) | {
    "description": f"Bytes in base64; an image: {FORMATS}.",
    "additionalProperties": False,
}
_PIXEL: Schema = _list_of({"type": "integer", "minimum": 0, "maximum": 255}, 3, 3)
_RGB: Schema = _list_of(_list_of(_PIXEL)) | {"description": "An image as numbers: rows of pixels of red, green, blue."}
_STATISTICS: Schema = {"type": "object", "required": ["model_stats"]}
_JSON = "application/json"
_FAILURES = {
    400: "The request cannot be answered as it is.",
    401: "The server requires its token.",
    404: "There is no such model or version.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "Content-Encoding is neither gzip nor deflate.",
    500: "The model failed.",
    503: "The server is full, or the model is not ready. Retry-After says when to come again.",
    504: "The answer took too long.",
}


def describe(settings: ServerSettings, sources: Sequence[Source]) -> Schema:
    """The OpenAPI 3.1 description of a server with these settings that serves ``sources``.

    It needs no token, so where there is one it does not reveal the names of models and labels.
    """
    model = _parameter("model", _one_of([source.name for source in sources], settings), "Name of a model.")
    version = _parameter("version", {"type": "integer", "minimum": 0}, "A version; 0 is the latest.")
    paths: dict[str, Schema] = {}
    # Paths with labels are described only where the configuration has labels: an enum without values is not valid.
    labels = sorted({name for source in sources for name in source.labels})
    label = _parameter("label", _one_of(labels, settings), "A name that the configuration gave to a version.")
    ways = [("", [model]), ("/versions/{version}", [model, version]), ("/labels/{label}", [model, label])]
    for suffix, parameters in ways if labels else ways[:2]:
        path = "/v1/models/{model}" + suffix
        paths[path + ":predict"] = _post("Find objects", _PREDICT, _PREDICTED, parameters)
        paths[path] = _get("Versions and where they are", _schema(ModelStatus), parameters)
        paths[path + "/metadata"] = _get("Inputs and outputs", {"type": "object"}, parameters)
    paths |= {
        "/v2": _get("The server", _schema(ServerMetadata)),
        "/v2/health/live": _get("Is it running?", {"type": "object", "required": ["live"]}),
        "/v2/health/ready": _get("Has every model a version that answers?", {"type": "object", "required": ["ready"]}),
        "/v2/models/stats": _get("Statistics of all models", _STATISTICS),
        "/v2/repository/index": _post("All models and versions", None, _schema(list[IndexEntry])),
    }
    for suffix, parameters in (("", [model]), ("/versions/{version}", [model, version])):
        path = "/v2/models/{model}" + suffix
        paths[path] = _get("Inputs, outputs, class names", _schema(ModelMetadata), parameters)
        paths[path + "/config"] = _get("Triton's configuration of it", {"type": "object"}, parameters)
        paths[path + "/stats"] = _get("Statistics", _STATISTICS, parameters)
        paths[path + "/ready"] = _get("Does it answer?", {"type": "object", "required": ["ready"]}, parameters)
        paths[path + "/infer"] = _post("Find objects", _schema(InferRequest), _schema(InferAnswer), parameters)
    # Kept at TensorFlow Serving's path, so that its scrape configurations work.
    paths["/monitoring/prometheus/metrics"] = _get("Counters for Prometheus", None)
    description: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "phidet",
            "version": __version__,
            "description": "TensorFlow Serving's REST API (/v1) and the Open Inference Protocol (/v2). Boxes are ymin, "
            "xmin, ymax, xmax as parts of the image's height and width; classes count from 1.",
        },
        "servers": [{"url": settings.prefix or "/"}],
        "paths": paths,
    }
    if settings.token:
        description["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        description["security"] = [{"token": []}]
    return description


def _schema(kind: object) -> Schema:
    """The JSON schema of a struct, with those inside it in their places."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            return inlined(parts[node["$ref"]]) if "$ref" in node else {k: inlined(v) for k, v in node.items()}
        return [inlined(item) for item in node] if isinstance(node, list | tuple) else node

    # Inlined instead of referenced, so that each operation can be read by itself.
    found: Schema = inlined(schema)
    return found


def _one_of(names: list[str], settings: ServerSettings) -> Schema:
    return dict(_TEXT) if settings.token else {"type": "string", "enum": names}


def _parameter(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": text}


def _get(summary: str, answer: Schema | None, parameters: Sequence[Schema] = ()) -> Schema:
    return {"get": _operation(summary, answer, parameters, (400, 503))}


def _post(summary: str, body: Schema | None, answer: Schema, parameters: Sequence[Schema] = ()) -> Schema:
    operation = _operation(summary, answer, parameters, (400, 408, 413, 415, 500, 503, 504))
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return {"post": operation}


def _operation(summary: str, answer: Schema | None, parameters: Sequence[Schema], failures: tuple[int, ...]) -> Schema:
    kind, schema = (_JSON, answer) if answer is not None else ("text/plain", _TEXT)
    responses: dict[str, Schema] = {"200": {"description": "The answer.", "content": {kind: {"schema": schema}}}}
    error = _object({"error": _TEXT}, ["error"])
    # A path with parameters may name what is not there; 401 everywhere, as a token may be required for any path.
    for status in (*failures, *((404,) if parameters else ()), 401):
        # A server that is not ready answers 503 with the same document as when it is, and not with an error.
        schema = {} if status == 503 and answer is not None and "ready" in answer.get("required", ()) else error
        responses[str(status)] = {"description": _FAILURES[status], "content": {_JSON: {"schema": schema}}}
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _tensors(batched: bool) -> Schema:
    # Column form has the batch as one more dimension than row form.
    depth = {name: len(shape) + batched for name, shape in output_shapes(1, finds=EVERYTHING).items()}
    properties = {}
    for name, lists in depth.items():
        schema: Schema = {"type": "number"}
        for _ in range(lists):
            schema = _list_of(schema)
        properties[name] = schema
    return _object(properties, list(output_shapes(1)))


_SIGNATURE: Schema = {"type": "string", "enum": ["serving_default", "image_bytes", "input_tensor"]}
_NAMED_ROW: Schema = {
    "anyOf": [
        _object({name: schema}, [name]) | {"additionalProperties": False}
        for name, schema in (("image_bytes", _B64), ("input_tensor", _RGB))
    ]
}
_ROWS = _object(
    {"instances": _list_of({"anyOf": [_B64, _RGB, _NAMED_ROW]}, 1), "signature_name": _SIGNATURE}, ["instances"]
)
_NAMED_COLUMN = _object({"image_bytes": {"anyOf": [_B64, _list_of(_B64)]}})
_COLUMNS = _object(
    {"inputs": {"anyOf": [_B64, _list_of(_B64, 1), _list_of(_RGB, 1), _NAMED_COLUMN]}, "signature_name": _SIGNATURE},
    ["inputs"],
)
_PREDICT: Schema = {"anyOf": [_ROWS | {"title": "row form"}, _COLUMNS | {"title": "column form"}]}
_PREDICTED: Schema = _object({"predictions": _list_of(_tensors(False)), "outputs": _tensors(True)})
