"""The Open Inference Protocol (KServe v2) over HTTP, with the binary tensors that Triton's client sends by default."""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phidet.core.extras import __version__
from phidet.serve.inputs import ENCODED, TENSOR, Budget, Pixels, check_batch, decode, from_lists
from phidet.serve.models.versions import LoadedVersion, version_number
from phidet.serve.outputs import Tensors, output_shapes
from phidet.serve.protocols.body import read_body, while_connected
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import ParsedRequest, RequestCodec, Service
from phidet.serve.wire import from_b64, parse, show, writable, write, write_floats

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUTS = {
    TENSOR: {"name": TENSOR, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
    ENCODED: {"name": ENCODED, "datatype": "BYTES", "shape": [-1]},
}
"""What a request gives one of."""

Parameters = dict[str, str | int | float | bool | None]


class InputTensor(msgspec.Struct):
    """A tensor of a request; ``data`` is missing where it comes as bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = None


class RequestedOutput(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """The JSON of an inference request; clients write null for what they leave out."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


def routes(service: Service) -> list[Route]:
    """The protocol's paths, and Triton's list of models."""

    async def server(_: Request) -> Response:
        return _json({"name": "phidet", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        is_ready = service.repository.ready
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def index(request: Request) -> Response:
        async with read_body(request, service) as body:
            wanted = await service.in_thread(lambda: parse(body)) if body else {}
        only_ready = isinstance(wanted, dict) and wanted.get("ready") is True
        return _json(
            [
                {"name": name, "version": str(s.version), "state": _READY[s.state], "reason": s.error}
                for name, served in sorted(service.repository.models.items())
                for s in sorted(served.states.values())
                if s.state == "AVAILABLE" or not only_ready
            ]
        )

    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        *_model_routes(service),
    ]


def _model_routes(service: Service) -> list[Route]:
    async def ready(request: Request) -> Response:
        name, version = _which(request)
        if name not in service.repository.models:
            raise RefusedError(404, f"unknown model {show(name)}")
        if version:
            service.repository.status(name, version)  # 404 where there has never been such a version
        try:
            service.repository.find(name, version)
        except RefusedError:
            return _json({"name": name, "ready": False}, 503)
        return _json({"name": name, "ready": True})

    async def model(request: Request) -> Response:
        name, version = _which(request)
        loaded = service.repository.find(name, version)
        return _json(metadata(loaded, sorted(service.repository.models[name].available)))

    async def infer(request: Request) -> Response:
        return await _infer(request, service)

    return [
        route
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route(path, model),
            Route(path + "/ready", ready),
            Route(path + "/infer", infer, methods=["POST"]),
        )
    ]


_READY: dict[str, Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]] = {
    "START": "LOADING",
    "LOADING": "LOADING",
    "AVAILABLE": "READY",
    "UNLOADING": "UNLOADING",
    "END": "UNAVAILABLE",
}


def metadata(loaded: LoadedVersion, versions: list[int]) -> dict[str, Any]:
    """Inputs, of which a request gives one, and outputs. The ``parameters`` are phidet's own: names of the classes."""
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [-1, *shape]}
        for name, shape in output_shapes(loaded.model.max_detections).items()
    ]
    return {
        "name": loaded.name,
        "versions": [str(version) for version in versions],
        "platform": f"phidet_{loaded.model.runtime_name}",
        "inputs": list(INPUTS.values()),
        "outputs": outputs,
        "parameters": {
            "class_names": list(loaded.model.class_names),
            "image_size_hw": list(loaded.model.image_size_hw),
        },
    }


async def _infer(request: Request, service: Service) -> Response:
    deadline = service.deadline()
    name, version = _which(request)
    request.scope["phidet.model"] = name
    loaded = service.repository.find(name, version)
    service.check_room(loaded, deadline)
    length = request.headers.get(HEADER_LENGTH)
    with loaded.used():
        request.scope["phidet.version"] = loaded.version
        async with read_body(request, service) as body:
            codec = RequestCodec(
                lambda: read_infer(body, length, service), lambda wanted, tensors: write_infer(loaded, wanted, tensors)
            )
            return await while_connected(request, service.answer(loaded, codec, deadline))


def read_infer(body: bytes, header_length: str | None, service: Service) -> ParsedRequest[InferRequest]:
    """The request and its pictures.

    Args:
        body: JSON, followed by the binary data of its tensors where ``header_length`` says how long the JSON is.
        header_length: the header of that name.
        service: for the limits.

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
    try:
        wanted = msgspec.convert(parse(body[:size]), InferRequest)
    except msgspec.ValidationError as error:
        raise bad_request(f"the request does not follow the protocol: {error}") from error
    _check_names(wanted)
    blobs = _split(wanted, body[size:])
    given = wanted.inputs[0]
    shape = given.shape
    if any(side < 0 for side in shape) or len(shape) > 8:
        raise bad_request(f"input {given.name}: shape {show(shape)} is not possible")
    service.check_count(shape[0] if shape else 0)
    budget = service.budget()
    if given.name == ENCODED:
        return ParsedRequest(_pictures(given, blobs.get(ENCODED), budget), wanted)
    return ParsedRequest(_tensor(given, blobs.get(TENSOR), budget), wanted)


def write_infer(loaded: LoadedVersion, wanted: InferRequest, tensors: Tensors) -> Response:
    """The answer: JSON, or JSON and bytes where the request asked for binary outputs."""
    names = {output.name: output.parameters or {} for output in wanted.outputs or []} or {name: {} for name in tensors}
    default = (wanted.parameters or {}).get("binary_data_output") is True
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, parameters in names.items():
        array = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if parameters.get("binary_data", default) is True:
            blobs.append(array.astype("<f4").tobytes())
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = msgspec.Raw(write_floats(array.reshape(-1)).encode())
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": loaded.name, "model_version": str(loaded.version), "outputs": outputs}
    if wanted.id:
        answer["id"] = writable(wanted.id)
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
    datatype = INPUTS[given.name]["datatype"]
    if given.datatype != datatype:
        raise bad_request(f"input {given.name} must have datatype {datatype}, got {show(given.datatype)}")
    known = output_shapes(0)
    for output in wanted.outputs or []:
        if output.name not in known:
            raise bad_request(f"unknown output {show(output.name)}: expected one of {', '.join(known)}")


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


def _tensor(given: InputTensor, blob: bytes | None, budget: Budget) -> list[Pixels]:
    array: npt.NDArray[np.uint8]
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


def _pictures(given: InputTensor, blob: bytes | None, budget: Budget) -> list[Pixels]:
    encoded = _strings(blob) if blob is not None else [_from_text(item) for item in _flat(given.data or [])]
    if len(encoded) != math.prod(given.shape):
        raise bad_request(f"input {given.name}: {len(encoded)} values do not fill shape {show(given.shape)}")
    return [decode(data, budget) for data in encoded]


def _flat(data: list[Any]) -> list[Any]:
    """Lists of one element each, as clients write shape (N, 1), are their element."""
    return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]


def _from_text(item: object) -> bytes:
    if not isinstance(item, str):
        raise bad_request(f"input {ENCODED}: expected pictures as strings in base64, got {show(item)}")
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


def _which(request: Request) -> tuple[str, int | None]:
    version = request.path_params.get("version")
    if version is None:
        return request.path_params["model"], None
    number = version_number(version)
    if number is None:
        raise bad_request(f"a version is a number below 2⁶³, got {show(version)}")
    return request.path_params["model"], number


def _json(value: Any, status: int = 200) -> Response:
    return Response(write(value), status, media_type="application/json")
