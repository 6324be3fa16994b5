"""The Open Inference Protocol (KServe v2) over gRPC, with Triton's stream, configuration, statistics and index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phidet.serve.calls import Call
from phidet.serve.inputs import ENCODED, TENSOR, encoded_images, from_numbers, images_of_numbers
from phidet.serve.messages import message
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import Tensors
from phidet.serve.protocols import inference
from phidet.serve.protocols.inference_tensors import (
    InferRequest,
    InputTensor,
    Parameters,
    RequestedOutput,
    check_request,
    images_in_bytes,
    least_score,
    outputs_of,
)
from phidet.serve.protocols.rpc import Answer, Method, Methods, filled, now
from phidet.serve.refusals import bad_request
from phidet.serve.service import ParsedRequest, RequestCodec, Service

_PACKAGE = "inference"
_WANTS_FINAL, _IS_FINAL = "triton_enable_empty_final_response", "triton_final_response"


def methods(service: Service) -> Methods:
    """The methods of GRPCInferenceService."""

    async def infer(request: Any, call: Call) -> Any:
        return await _infer(request, call, service)

    async def infer_in_stream(request: Any, call: Call) -> Any:
        answer = await _infer(request, call, service)
        # Triton's clients that ask for it learn by this parameter that no other answer to the request follows.
        if _WANTS_FINAL in request.parameters and request.parameters[_WANTS_FINAL].bool_param:
            answer.parameters[_IS_FINAL].bool_param = True
        return message(f"{_PACKAGE}.ModelStreamInferResponse")(infer_response=answer)

    def failed(text: str) -> Any:
        return message(f"{_PACKAGE}.ModelStreamInferResponse")(error_message=text, infer_response={})

    said: dict[str, Callable[[Any], object]] = {
        "ServerLive": lambda _: {"live": True},
        "ServerReady": lambda _: {"ready": service.ready},
        "ServerMetadata": lambda _: inference.server_metadata(),
        "ModelReady": lambda request: {"ready": inference.is_ready(service, *_which(request))},
        "ModelMetadata": lambda request: inference.metadata(service, *_which(request)),
        "ModelConfig": lambda request: {"config": inference.configuration(service, *_which(request))},
        "ModelStatistics": lambda request: inference.statistics(service, *_which(request)),
        "RepositoryIndex": lambda request: {"models": inference.index(service, request.ready)},
    }
    found = {
        name: Method(f"{_PACKAGE}.{name}Request", _said(name, answer), is_open=name in ("ServerLive", "ServerReady"))
        for name, answer in said.items()
    }
    found["ModelInfer"] = Method(f"{_PACKAGE}.ModelInferRequest", infer)
    found["ModelStreamInfer"] = Method(f"{_PACKAGE}.ModelInferRequest", infer_in_stream, failed)
    return {f"/{_PACKAGE}.GRPCInferenceService/{name}": method for name, method in found.items()}


def _said(name: str, answer: Callable[[Any], object]) -> Answer:
    """What the protocol's JSON says, as the message of that name."""
    return now(lambda request: filled(f"{_PACKAGE}.{name}Response", answer(request)))


async def _infer(request: Any, call: Call, service: Service) -> Any:
    call.model = request.model_name
    loaded = service.repository.find(request.model_name, inference.parse_version(request.model_version or None))
    with loaded.used():
        call.version = loaded.version
        codec = RequestCodec(
            lambda: _read(request, service, loaded), lambda wanted, tensors: _write(loaded, wanted, tensors)
        )
        return await service.answer(call, loaded, codec, request.ByteSize())


def _read(request: Any, service: Service, loaded: LoadedVersion) -> ParsedRequest[InferRequest]:
    """The request, as it would have come in JSON, and its images."""
    wanted = InferRequest(
        inputs=[InputTensor(i.name, list(i.shape), i.datatype, _parameters(i.parameters)) for i in request.inputs],
        id=request.id or None,
        parameters=_parameters(request.parameters),
        outputs=[RequestedOutput(o.name, _parameters(o.parameters)) for o in request.outputs] or None,
    )
    given, score = check_request(wanted, service), least_score(wanted, loaded)
    contents, budget = request.inputs[0].contents, service.budget(loaded)
    # Triton's clients send the tensors of a request apart from their descriptions; KServe's may have them there.
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or contents.ByteSize():
            raise bad_request(f"input {given.name}: expected its data once, as raw_input_contents or as contents")
        return ParsedRequest(images_in_bytes(given, request.raw_input_contents[0], budget), wanted, score)
    if given.name == ENCODED:
        return ParsedRequest(encoded_images(ENCODED, given.shape, contents.bytes_contents, budget), wanted, score)
    values = from_numbers(contents.uint_contents)
    return ParsedRequest(images_of_numbers(TENSOR, given.shape, values, budget), wanted, score)


def _write(loaded: LoadedVersion, wanted: InferRequest, tensors: Tensors) -> Any:
    answer = message(f"{_PACKAGE}.ModelInferResponse")(
        model_name=loaded.name, model_version=str(loaded.version), id=wanted.id or ""
    )
    for name, array in outputs_of(loaded, wanted, tensors).items():
        answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
        answer.raw_output_contents.append(array.astype("<f4").tobytes())  # little-endian, as the protocol prescribes
    return answer


def _parameters(given: Any) -> Parameters | None:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in given.items()}


def _which(request: Any) -> tuple[str, int | None]:
    return request.name, inference.parse_version(request.version or None)
