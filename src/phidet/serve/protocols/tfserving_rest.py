"""TensorFlow Serving's REST API: paths, bodies, answers and error messages as its clients expect them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phidet.images.decode import Decoded, Reduced
from phidet.serve.inputs import ENCODED, TENSOR, Pixels, check_batch, decode, from_lists
from phidet.serve.models.folders import version_number
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import Tensors
from phidet.serve.protocols.body import call_of, read_body, while_connected
from phidet.serve.protocols.tfserving import Target, inputs_of, metadata, model_status
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import ParsedRequest, RequestCodec, Service
from phidet.serve.wire import SHOWN, from_b64, is_b64, kind_of, parse, show, write, write_floats

_WHICH = r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PREDICT = re.compile(_WHICH + r":(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(_WHICH.replace("/([^/:]+)", "(?:/([^/:]+))?", 1) + r"(?:/(metadata))?", re.IGNORECASE)

Form = Literal["predictions", "outputs"]
"""The key under which a request wants its answer: row form or column form."""


async def handle(request: Request, service: Service) -> Response:
    """Answers any request below ``/v1``.

    Raises:
        RefusedError: with TensorFlow Serving's status and text.
    """
    # The raw path: an encoded "/" or ":" in a model's name must not be taken for a separator.
    path = request.scope["raw_path"].decode("ascii", "replace")
    predict = _PREDICT.fullmatch(path) if request.method == "POST" else None
    if predict is not None:
        return _json(await _predict(request, service, _target(predict), predict[4].lower()))
    status = _STATUS.fullmatch(path) if request.method == "GET" else None
    if status is None:
        raise bad_request(f"Malformed request: {request.method} {path[:SHOWN]}")
    if status[1] is None:
        raise bad_request("Missing model name in request.")
    # Method and path decide everything before the body is read.
    target = _target(status)
    if status[4] is not None:
        loaded = service.repository.find(*target)
        return _json(write(metadata(loaded)))
    return _json(write(model_status(service.repository, target)))


async def _predict(request: Request, service: Service, target: Target, method: str) -> bytes:
    call = call_of(request)
    call.model = target.name
    missing: RefusedError | None = None
    loaded: LoadedVersion | None = None
    try:
        loaded = service.repository.find(*target)
        service.check_room(loaded, call.deadline)
    except RefusedError as refusal:
        if refusal.http_status == 503:
            raise
        missing = refusal  # a body that is not JSON is the first thing to say
    # TensorFlow Serving parses the body before it looks for the model, so its error for bad JSON comes first.
    if loaded is None or method != "predict":
        async with read_body(request, service) as body:
            await service.in_thread(lambda: _check_json(body))
        raise missing or bad_request(f"a detector has no signature for {method}: use :predict")
    with loaded.used():  # from here on, however long the body takes
        call.version = loaded.version
        async with read_body(request, service) as body:
            codec = RequestCodec(lambda: read_images(body, service, loaded), write_answer)
            return await while_connected(request, service.answer(call, loaded, codec, len(body)))


def read_images(body: bytes, service: Service, loaded: LoadedVersion) -> ParsedRequest[Form]:
    """The images in the body of a predict request, row form or column form.

    Raises:
        RefusedError: 400.
    """
    document = _check_json(body)
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise bad_request(
            f"JSON Value: {show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    reader = _Reader(inputs_of(signature), service, loaded)
    # Messages are copied from TensorFlow Serving, mistakes included: clients match on them.
    if "instances" in document and "inputs" in document:
        raise bad_request(
            f"JSON Value: {show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise bad_request(f"JSON Value: {show(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise bad_request(f"JSON Value: {show(document)} No values in 'instances' array")
        service.check_count(len(instances))
        return ParsedRequest(reader.rows(instances), "predictions")
    if "inputs" in document:
        return ParsedRequest(reader.column(document["inputs"]), "outputs")
    raise bad_request("Missing 'inputs' or 'instances' key")


def write_answer(form: Form, tensors: Tensors) -> bytes:
    """Column form has each tensor whole, row form one object for each image."""
    # Numbers are written by write_floats and embedded as raw text, to keep them short and exact.
    if form == "outputs":
        return write({form: {name: _raw(write_floats(array)) for name, array in tensors.items()}})
    count = len(next(iter(tensors.values())))
    rows = [{name: _raw(write_floats(array[i])) for name, array in tensors.items()} for i in range(count)]
    return write({form: rows})


class _Reader:
    """Converts JSON values to pixels, with TensorFlow Serving's error messages."""

    def __init__(self, names: tuple[str, ...], service: Service, loaded: LoadedVersion) -> None:
        self.names = names
        self.service = service
        self.budget = service.budget(loaded)

    def rows(self, instances: list[Any]) -> Sequence[Decoded]:
        # The first row decides for all, as in TensorFlow Serving: objects with names, or bare values.
        named = isinstance(instances[0], dict) and not is_b64(instances[0])
        images: list[Decoded] = []
        shape: tuple[int, ...] | None = None
        for i, instance in enumerate(instances):
            if (isinstance(instance, dict) and not is_b64(instance)) != named:
                raise bad_request(
                    f"Expecting object but got list at item {i} of input list"
                    if named
                    else f"Expecting value/list but got object at item {i} of input list"
                )
            name = self.name_in(instance, i) if named else self.name_for(instance)
            value = instance[name] if named else instance
            try:
                image = self.row_image(name, value)
                if not isinstance(image, Reduced) and isinstance(value, list):  # encoded images may differ in size
                    # Rows of numbers must have one shape, as TensorFlow Serving stacks them into a single tensor.
                    shape = shape or image.shape
                    _check_shape(shape, image.shape)
            except RefusedError as refusal:
                raise _row_fault(i, f" key: {name}" if named else "", str(refusal)) from refusal
            images.append(image)
        return images

    def name_in(self, instance: dict[str, Any], i: int) -> str:
        """The only key of a row, which must be an input."""
        for name in instance:
            if name not in self.names:
                shown = name[:200]
                raise _row_fault(i, f" key: {shown}", f"JSON object: does not have named input: {shown}")
        if len(instance) != 1:
            raise bad_request(
                f"Failed to process element: {i} of 'instances' list. JSON object: {show(instance)} "
                f"keys must be equal to: {' or '.join(self.names)}"
            )
        return next(iter(instance))

    def row_image(self, name: str, value: Any) -> Decoded:
        """One image: an encoded one, or lists (H, W, 3)."""
        if is_b64(value):
            return decode(from_b64(value["b64"]), self.budget)
        array = self.numbers(name, value)
        return self.batch(array[None], name)[0]

    def column(self, value: Any) -> Sequence[Decoded]:
        if isinstance(value, dict) and not is_b64(value):
            name = next((name for name in self.names if name in value), None)
            if name is None:
                raise bad_request(f"Missing named input: {self.names[0]} in 'inputs' object.")
            value = value[name]
        else:
            name = self.name_for(value)
        if is_b64(value):
            value = [value]
        if isinstance(value, list) and value and all(map(is_b64, value)):
            self.service.check_count(len(value))
            return [decode(from_b64(item["b64"]), self.budget) for item in value]
        return self.batch(self.numbers(name, value), name)

    def name_for(self, value: Any) -> str:
        """The input that a value without a name is for."""
        wanted = ENCODED if is_b64(value) or isinstance(value, str) or _starts_with_b64(value) else TENSOR
        return wanted if wanted in self.names else self.names[0]

    def numbers(self, name: str, value: Any) -> Pixels:
        if name == ENCODED:
            raise bad_request(
                f"JSON Value: {show(value)} not formatted correctly for base64 data: "
                'expected an image as {"b64": "…"}'
            )
        if not isinstance(value, list):
            raise bad_request(f"JSON Value: {show(value)} Type: {kind_of(value)} is not of expected type: uint8")
        return from_lists(value)

    def batch(self, array: Pixels, name: str) -> list[Pixels]:
        images = check_batch(array, name)
        self.service.check_count(len(images))
        for image in images:
            self.budget.take(image.shape[0], image.shape[1])
        return images


def _check_json(body: bytes) -> dict[str, Any]:
    document = parse(body)
    if not isinstance(document, dict):
        raise bad_request(f"JSON Value: {show(document)} Is not object")
    return document


def _starts_with_b64(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_b64(value[0])


def _row_fault(i: int, key: str, message: str) -> RefusedError:
    return bad_request(f"Failed to process element: {i}{key} of 'instances' list. Error: INVALID_ARGUMENT: {message}")


def _check_shape(first: tuple[int, ...], other: tuple[int, ...]) -> None:
    if math.prod(first) != math.prod(other):
        raise bad_request(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(other)}")
    if first != other:
        raise bad_request(f"Expecting shape {_shape(first)} but got: {_shape(other)}")


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _target(match: re.Match[str]) -> Target:
    version = None if match[2] is None else version_number(match[2])
    if version is None and match[2] is not None:
        raise bad_request(f"Failed to convert version: {match[2][:200]} to numeric.")
    return Target(_unquoted(match[1]), version, None if match[3] is None else _unquoted(match[3]))


def _unquoted(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
