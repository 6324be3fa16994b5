"""Inference requests of the Open Inference Protocol as JSON, and behind it the binary tensors of Triton's clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from phidet.core.structs import in_words
from phidet.images.decode import Decoded
from phidet.serve.inputs import ENCODED, TENSOR, Budget, decode, encoded_images, from_lists, images_of_numbers
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import Tensors
from phidet.serve.protocols.inference_tensors import (
    InferRequest,
    InputTensor,
    check_request,
    described,
    images_in_bytes,
    least_score,
    outputs_of,
)
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import ParsedRequest, Service
from phidet.serve.wire import from_b64, parse, show, writable, write, write_floats

HEADER_LENGTH = "Inference-Header-Content-Length"


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """A tensor of an answer; ``data`` are numbers, or missing where they come as bytes behind the JSON."""

    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    data: Annotated[msgspec.Raw | None, described(type="array", items={"type": "number"})] = None
    parameters: dict[Literal["binary_data_size"], int] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


RAW_REQUEST = InferRequest([InputTensor(ENCODED, [1], "BYTES")], parameters={"binary_data_output": True})
"""The request that stands for one without JSON: all outputs, as bytes."""


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
    given, score = check_request(wanted, service), least_score(wanted, loaded)
    blobs = _split(wanted, body[size:])
    budget = service.budget(loaded)
    if given.name in blobs:
        return ParsedRequest(images_in_bytes(given, blobs[given.name], budget), wanted, score)
    data = given.data or []
    # Lists may be nested or flat, as the protocol allows both.
    if given.name == ENCODED:
        encoded = [_from_text(item) for item in _flat(data)]
        return ParsedRequest(encoded_images(ENCODED, given.shape, encoded, budget), wanted, score)
    return ParsedRequest(images_of_numbers(TENSOR, given.shape, from_lists(data).reshape(-1), budget), wanted, score)


def write_infer(loaded: LoadedVersion, wanted: InferRequest, tensors: Tensors) -> Response:
    """The answer: JSON, or JSON and bytes where the request asked for binary outputs."""
    asked = {output.name: output.parameters or {} for output in wanted.outputs or []}
    # The request's default holds unless an output says otherwise.
    default = (wanted.parameters or {}).get("binary_data_output") is True
    outputs: list[OutputTensor] = []
    blobs: list[bytes] = []
    for name, array in outputs_of(loaded, wanted, tensors).items():
        output = OutputTensor(name, "FP32", list(array.shape))
        if asked.get(name, {}).get("binary_data", default) is True:
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


def _flat(data: list[Any]) -> list[Any]:
    """Unwraps lists of one element, as clients write shape (N, 1)."""
    return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]


def _from_text(item: object) -> bytes:
    if not isinstance(item, str):
        raise bad_request(f"input {ENCODED}: expected images as strings in base64, got {show(item)}")
    return from_b64(item)
