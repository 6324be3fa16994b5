"""Inference requests of the Open Inference Protocol: JSON, and behind it the binary tensors of Triton's clients."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.responses import Response

from phidet.core.structs import in_words
from phidet.images.decode import Decoded
from phidet.serve.inputs import ENCODED, TENSOR, Budget, check_batch, decode, from_lists
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import Tensors, output_shapes
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import ParsedRequest, Service
from phidet.serve.wire import from_b64, parse, show, writable, write, write_floats

HEADER_LENGTH = "Inference-Header-Content-Length"
Parameters = dict[str, str | int | float | bool | None]


class TensorMetadata(msgspec.Struct):
    """An input or output of a model; −1 is any size."""

    name: str
    datatype: str
    shape: list[int]


INPUTS = {
    TENSOR: TensorMetadata(TENSOR, "UINT8", [-1, -1, -1, 3]),
    ENCODED: TensorMetadata(ENCODED, "BYTES", [-1, 1]),
}
"""A request has one of them. Images may have shape (N,) too; perf_analyzer needs a dimension behind the batch."""


def _described(**schema: Any) -> msgspec.Meta:
    """Schema details for the API's description; requests are checked in code, with clearer messages."""
    return msgspec.Meta(extra_json_schema=schema)


class InputTensor(msgspec.Struct):
    """A tensor of a request; ``data`` is missing where it comes as bytes behind the JSON."""

    name: Annotated[str, _described(enum=list(INPUTS))]
    shape: list[int]
    datatype: Annotated[str, _described(enum=[tensor.datatype for tensor in INPUTS.values()])]
    parameters: Parameters | None = None
    data: Annotated[
        list[Any] | None,
        _described(description="Images in base64 (BYTES), or numbers 0…255 (UINT8), flat or in lists of lists."),
    ] = None


class RequestedOutput(msgspec.Struct):
    """An output that a request asks for."""

    name: Annotated[str, _described(enum=list(output_shapes(0, has_masks=True)))]
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """The JSON of an inference request; clients write null for what they leave out."""

    inputs: Annotated[list[InputTensor], _described(minItems=1, maxItems=1)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """A tensor of an answer; ``data`` are numbers, or missing where they come as bytes behind the JSON."""

    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    data: Annotated[msgspec.Raw | None, _described(type="array", items={"type": "number"})] = None
    parameters: dict[Literal["binary_data_size"], int] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


RAW_REQUEST = InferRequest([InputTensor(ENCODED, [1], "BYTES")], parameters={"binary_data_output": True})
"""The request that stands for one without JSON: all outputs, as bytes."""
_UNSUPPORTED = {
    "classification": "the answer is not sorted into classes; read detection_classes and detection_scores",
    "shared_memory_": "send tensors in the request, and read them in the answer",
    "sequence_": "no state is kept between requests",
}
"""First letters of Triton's parameters, and what to do instead."""


def read_infer(
    body: bytes, header_length: str | None, service: Service, loaded: LoadedVersion
) -> ParsedRequest[InferRequest]:
    """The request and its images.

    Args:
        body: JSON, followed by the binary data of its tensors where ``header_length`` says how long the JSON is; one
            encoded image and nothing else where that is 0 (Triton's raw binary request).
        header_length: the header of that name.
        service: for the limits.
        loaded: the model, which says how large it needs images.

    Raises:
        RefusedError: 400.
    """
    size = len(body)
    if header_length is not None:
        if not (
            header_length.isascii()
            and header_length.isdigit()
            and len(header_length) <= 20
            and int(header_length) <= size
        ):
            raise bad_request(f"{HEADER_LENGTH} must be a length of at most the body's {size} bytes")
        size = int(header_length)
        if size == 0:
            return ParsedRequest([_raw_image(body, service.budget(loaded))], RAW_REQUEST)
    elif body.lstrip()[:1] not in (b"", b"{"):
        raise bad_request(f"the body is no JSON object; to send one image as it is, add the header {HEADER_LENGTH}: 0")
    try:
        wanted = msgspec.convert(parse(body[:size]), InferRequest)
    except msgspec.ValidationError as error:
        raise bad_request(f"the request does not follow the protocol: {in_words(error, InferRequest)}") from error
    _check_names(wanted)
    _check_parameters(wanted)
    blobs = _split(wanted, body[size:])
    given = wanted.inputs[0]
    shape = given.shape
    # Checked before the product of the sides, which could overflow or be negative.
    if any(side < 0 for side in shape) or len(shape) > 8:
        raise bad_request(f"input {given.name}: shape {show(shape)} is not possible")
    # Before anything is decoded: the number of images is the cheapest thing to reject.
    service.check_count(shape[0] if shape else 0)
    budget = service.budget(loaded)
    if given.name == ENCODED:
        return ParsedRequest(_images(given, blobs.get(ENCODED), budget), wanted)
    return ParsedRequest(_tensor(given, blobs.get(TENSOR), budget), wanted)


def write_infer(loaded: LoadedVersion, wanted: InferRequest, tensors: Tensors) -> Response:
    """The answer: JSON, or JSON and bytes where the request asked for binary outputs."""
    names = {output.name: output.parameters or {} for output in wanted.outputs or []} or {name: {} for name in tensors}
    # The request's default holds unless an output says otherwise.
    default = (wanted.parameters or {}).get("binary_data_output") is True
    outputs: list[OutputTensor] = []
    blobs: list[bytes] = []
    for name, parameters in names.items():
        if name not in tensors:
            raise bad_request(f"{show(loaded.name)} has no output {name}: its answers are boxes only")
        array = tensors[name]
        output = OutputTensor(name, "FP32", list(array.shape))
        if parameters.get("binary_data", default) is True:
            # Little-endian, as the binary extension prescribes, whatever the machine's own order.
            blobs.append(array.astype("<f4").tobytes())
            output.parameters = {"binary_data_size": len(blobs[-1])}
        else:
            output.data = msgspec.Raw(write_floats(array.reshape(-1)).encode())
        outputs.append(output)
    answer = InferAnswer(loaded.name, str(loaded.version), outputs, writable(wanted.id) if wanted.id else None)
    head = write(answer)
    if not blobs:
        return Response(head, media_type="application/json")
    return Response(
        b"".join([head, *blobs]), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))}
    )


def _check_names(wanted: InferRequest) -> None:
    names = [tensor.name for tensor in wanted.inputs]
    if len(names) != 1 or names[0] not in INPUTS:
        raise bad_request(f"expected one input, {' or '.join(INPUTS)}, got {show(names)}")
    given = wanted.inputs[0]
    datatype = INPUTS[given.name].datatype
    if given.datatype != datatype:
        raise bad_request(f"input {given.name} must have datatype {datatype}, got {show(given.datatype)}")
    known = output_shapes(0, has_masks=True)
    for output in wanted.outputs or []:
        if output.name not in known:
            raise bad_request(f"unknown output {show(output.name)}: expected one of {', '.join(known)}")


def _check_parameters(wanted: InferRequest) -> None:
    """Rejects parameters that would change the answer and are not supported; undefined ones are ignored."""
    # Parameters may stand on the request, its inputs and its outputs; messages say where.
    for owner, parameters in (
        ("the request", wanted.parameters),
        *((f"input {tensor.name}", tensor.parameters) for tensor in wanted.inputs),
        *((f"output {output.name}", output.parameters) for output in wanted.outputs or ()),
    ):
        for name, value in (parameters or {}).items():
            reason = next((text for prefix, text in _UNSUPPORTED.items() if name.startswith(prefix)), None)
            if reason is not None and value:  # 0, false, "" and null ask for nothing
                raise bad_request(f"{owner}: the parameter {name} is not supported: {reason}")
            if name in ("binary_data", "binary_data_output") and not isinstance(value, bool | None):
                raise bad_request(f"{owner}: the parameter {name} must be true or false, got {show(value)}")


def _raw_image(body: bytes, budget: Budget) -> Decoded:
    try:
        return decode(body, budget)
    except RefusedError as refusal:
        raise bad_request(f"{HEADER_LENGTH}: 0 announces one encoded image without JSON: {refusal}") from refusal


def _split(wanted: InferRequest, rest: bytes) -> dict[str, bytes]:
    """Name → the binary data of the tensors that have no ``data``, in their order."""
    blobs: dict[str, bytes] = {}
    at = 0
    for tensor in wanted.inputs:
        if tensor.data is None:
            size = (tensor.parameters or {}).get("binary_data_size")
            if type(size) is not int or not 0 <= size <= len(rest) - at:
                raise bad_request(f"input {tensor.name} has neither data nor a binary_data_size that fits the body")
            blobs[tensor.name] = rest[at : at + size]
            at += size
    if at != len(rest):
        raise bad_request(f"{len(rest) - at} bytes behind the last tensor belong to none")
    return blobs


def _tensor(given: InputTensor, blob: bytes | None, budget: Budget) -> Sequence[Decoded]:
    array: npt.NDArray[np.uint8]
    # A view of the body; lists may be nested or flat, as the protocol allows both.
    array = np.frombuffer(blob, np.uint8) if blob is not None else from_lists(given.data or []).reshape(-1)
    if array.size != math.prod(given.shape):
        raise bad_request(f"input {given.name}: {array.size} values do not fill shape {show(given.shape)}")
    try:
        shaped = array.reshape(given.shape)
    except ValueError as error:  # without pixels, but with sides that no array has
        raise bad_request(f"input {given.name}: shape {show(given.shape)} is not possible") from error
    images = check_batch(shaped, given.name)
    for image in images:
        budget.take(image.shape[0], image.shape[1])
    return images


def _images(given: InputTensor, blob: bytes | None, budget: Budget) -> Sequence[Decoded]:
    encoded = _strings(blob) if blob is not None else [_from_text(item) for item in _flat(given.data or [])]
    if len(encoded) != math.prod(given.shape):
        raise bad_request(f"input {given.name}: {len(encoded)} values do not fill shape {show(given.shape)}")
    return [decode(data, budget) for data in encoded]


def _flat(data: list[Any]) -> list[Any]:
    """Unwraps lists of one element, as clients write shape (N, 1)."""
    return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]


def _from_text(item: object) -> bytes:
    if not isinstance(item, str):
        raise bad_request(f"input {ENCODED}: expected images as strings in base64, got {show(item)}")
    return from_b64(item)


def _strings(blob: bytes) -> list[bytes]:
    """Each string is its length in four bytes, little end first, and its bytes."""
    found: list[bytes] = []
    at = 0
    while at < len(blob):
        if at + 4 > len(blob):
            raise bad_request(f"input {ENCODED}: the binary data ends inside a length")
        (size,) = struct.unpack_from("<I", blob, at)
        if at + 4 + size > len(blob):
            raise bad_request(f"input {ENCODED}: a string of {size} bytes goes beyond the binary data")
        found.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    return found
