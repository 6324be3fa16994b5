"""Inference requests of the Open Inference Protocol, over HTTP or gRPC: what they may ask for, and their images."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from phidet.detections.thresholds import Thresholds
from phidet.images.decode import Decoded
from phidet.serve.inputs import ENCODED, TENSOR, Budget, check_shape, encoded_images, images_of_numbers
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import EVERYTHING, Tensors, output_shapes
from phidet.serve.refusals import bad_request
from phidet.serve.service import Service
from phidet.serve.wire import show

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


def described(**schema: Any) -> msgspec.Meta:
    """Schema details for the API's description; requests are checked in code, with clearer messages."""
    return msgspec.Meta(extra_json_schema=schema)


class InputTensor(msgspec.Struct):
    """A tensor of a request; ``data`` is missing where it comes as bytes behind the JSON."""

    name: Annotated[str, described(enum=list(INPUTS))]
    shape: list[int]
    datatype: Annotated[str, described(enum=[tensor.datatype for tensor in INPUTS.values()])]
    parameters: Parameters | None = None
    data: Annotated[
        list[Any] | None,
        described(description="Images in base64 (BYTES), or numbers 0…255 (UINT8), flat or in lists of lists."),
    ] = None


class RequestedOutput(msgspec.Struct):
    """An output that a request asks for."""

    name: Annotated[str, described(enum=list(output_shapes(0, finds=EVERYTHING)))]
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """The JSON of an inference request; clients write null for what they leave out."""

    inputs: Annotated[list[InputTensor], described(minItems=1, maxItems=1)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


_UNSUPPORTED = {
    "classification": "the answer is not sorted into classes; read detection_classes and detection_scores",
    "shared_memory_": "send tensors in the request, and read them in the answer",
    "sequence_": "no state is kept between requests",
}
"""First letters of Triton's parameters, and what to do instead."""


def check_request(wanted: InferRequest, service: Service) -> InputTensor:
    """The one input of a request, once its names, parameters, shape and number of images are as they must be.

    Raises:
        RefusedError: 400.
    """
    _check_names(wanted)
    _check_parameters(wanted)
    given = wanted.inputs[0]
    check_shape(given.name, given.shape)
    # Before anything is decoded: the number of images is the cheapest thing to reject.
    service.check_count(given.shape[0] if given.shape else 0)
    return given


def images_in_bytes(given: InputTensor, blob: bytes, budget: Budget) -> Sequence[Decoded]:
    """The images of an input whose data are bytes: Triton's binary tensors, over HTTP and over gRPC.

    Raises:
        RefusedError: 400.
    """
    if given.name == ENCODED:
        return encoded_images(ENCODED, given.shape, _strings(blob), budget)
    return images_of_numbers(TENSOR, given.shape, np.frombuffer(blob, np.uint8), budget)  # a view


def outputs_of(loaded: LoadedVersion, wanted: InferRequest, tensors: Tensors) -> Tensors:
    """The outputs that a request asks for, in its order; all where it names none.

    Raises:
        RefusedError: 400: the model has no such output.
    """
    names = [output.name for output in wanted.outputs or []] or list(tensors)
    for name in names:
        if name not in tensors:
            raise bad_request(f"{show(loaded.name)} has no output {name}: its answers are boxes only")
    return {name: tensors[name] for name in names}


def _check_names(wanted: InferRequest) -> None:
    names = [tensor.name for tensor in wanted.inputs]
    if len(names) != 1 or names[0] not in INPUTS:
        raise bad_request(f"expected one input, {' or '.join(INPUTS)}, got {show(names)}")
    given = wanted.inputs[0]
    datatype = INPUTS[given.name].datatype
    if given.datatype != datatype:
        raise bad_request(f"input {given.name} must have datatype {datatype}, got {show(given.datatype)}")
    known = output_shapes(0, finds=EVERYTHING)
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


def least_score(wanted: InferRequest, loaded: LoadedVersion) -> float | Thresholds | None:
    """The parameter "score" of a request: the least score of an object, or "auto" for those that the model stores.

    Raises:
        RefusedError: 400.
    """
    score = (wanted.parameters or {}).get("score")
    if score is None:
        return None
    if score == "auto":
        if loaded.model.thresholds is None:
            raise bad_request(f"the parameter score: model {loaded.name} stores no thresholds, expected a number")
        return loaded.model.thresholds
    if isinstance(score, bool | str) or not 0 <= score <= 1:
        raise bad_request(f'the parameter score must be in 0…1, or "auto", got {show(score)}')
    return float(score)


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
