"""The Open Inference Protocol (KServe v2) over HTTP, with the binary tensors that Triton's client sends by default."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phidet.core.extras import __version__
from phidet.serve.models.folders import version_number
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import output_shapes
from phidet.serve.protocols.body import read_body, while_connected
from phidet.serve.protocols.inference_tensors import HEADER_LENGTH, INPUTS, TensorMetadata, read_infer, write_infer
from phidet.serve.protocols.triton import EXTENSIONS, model_config, model_statistics
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import RequestCodec, Service
from phidet.serve.wire import parse, show, write

ReadyState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class ServerMetadata(msgspec.Struct):
    """The answer of ``/v2``."""

    name: str
    version: str
    extensions: tuple[str, ...]


class IndexEntry(msgspec.Struct):
    """A version in Triton's list of models."""

    name: str
    version: str
    state: ReadyState
    reason: str


class ModelParameters(msgspec.Struct):
    """What phidet adds to a model's metadata beyond the protocol."""

    class_names: list[str]
    image_size_hw: list[int]


class ModelMetadata(msgspec.Struct):
    """A model; of its inputs a request gives one."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


def routes(service: Service) -> list[Route]:
    """The protocol's paths, and Triton's list of models."""

    async def server(_: Request) -> Response:
        return _json(ServerMetadata("phidet", __version__, EXTENSIONS))

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        is_ready = service.repository.ready
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def index(request: Request) -> Response:
        async with read_body(request, service) as body:
            wanted = await service.in_thread(lambda: parse(body)) if body else {}
        # The body is optional in Triton's protocol.
        only_ready = isinstance(wanted, dict) and wanted.get("ready") is True
        return _json(
            [
                IndexEntry(name, str(s.version), _READY[s.state], s.error)
                for name, served in sorted(service.repository.models.items())
                for s in sorted(served.states.values())
                if s.state == "AVAILABLE" or not only_ready
            ]
        )

    async def statistics(_: Request) -> Response:
        served = service.repository.models.values()
        return _statistics([version for model in served for version in model.available.values()])

    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/models/stats", statistics),
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

    async def config(request: Request) -> Response:
        loaded = service.repository.find(*_which(request))
        return _json(model_config(loaded, service.repository.models[loaded.name].source, service.settings))

    async def statistics(request: Request) -> Response:
        name, version = _which(request)
        loaded = service.repository.find(name, version)
        return _statistics([loaded] if version else list(service.repository.models[name].available.values()))

    async def infer(request: Request) -> Response:
        return await _infer(request, service)

    return [
        route
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route(path, model),
            Route(path + "/ready", ready),
            Route(path + "/config", config),
            Route(path + "/stats", statistics),
            Route(path + "/infer", infer, methods=["POST"]),
        )
    ]


_READY: dict[str, ReadyState] = {
    "START": "LOADING",
    "LOADING": "LOADING",
    "AVAILABLE": "READY",
    "UNLOADING": "UNLOADING",
    "END": "UNAVAILABLE",
}


def metadata(loaded: LoadedVersion, versions: list[int]) -> ModelMetadata:
    """A model's inputs, outputs and classes, and which of its ``versions`` answer."""
    model = loaded.model
    shapes = output_shapes(model.max_detections, model.has_masks)
    return ModelMetadata(
        name=loaded.name,
        versions=[str(version) for version in versions],
        platform=f"phidet_{model.runtime_name}",
        inputs=list(INPUTS.values()),
        outputs=[TensorMetadata(name, "FP32", [-1, *shape]) for name, shape in shapes.items()],
        parameters=ModelParameters(list(model.class_names), list(model.image_size_hw)),
    )


async def _infer(request: Request, service: Service) -> Response:
    deadline = service.deadline()
    name, version = _which(request)
    request.scope["phidet.model"] = name
    loaded = service.repository.find(name, version)
    # Before the body is read: a full server should not spend its bandwidth on requests that it will reject.
    service.check_room(loaded, deadline)
    length = request.headers.get(HEADER_LENGTH)
    # The version is fixed here, so that a reload while the body arrives does not take it away.
    with loaded.used():
        request.scope["phidet.version"] = loaded.version
        async with read_body(request, service) as body:
            codec = RequestCodec(
                lambda: read_infer(body, length, service, loaded),
                lambda wanted, tensors: write_infer(loaded, wanted, tensors),
            )
            return await while_connected(request, service.answer(loaded, codec, len(body), deadline))


def _which(request: Request) -> tuple[str, int | None]:
    version = request.path_params.get("version")
    if version is None:
        return request.path_params["model"], None
    # Out-of-range versions are the client's mistake (400); a version that does not exist is 404.
    number = version_number(version)
    if number is None:
        raise bad_request(f"a version is a number below 2⁶³, got {show(version)}")
    return request.path_params["model"], number


def _statistics(versions: list[LoadedVersion]) -> Response:
    ordered = sorted(versions, key=lambda loaded: (loaded.name, loaded.version))
    return _json({"model_stats": [model_statistics(loaded) for loaded in ordered]})


def _json(value: Any, status: int = 200) -> Response:
    return Response(write(value), status, media_type="application/json")
