"""The Open Inference Protocol (KServe v2) over HTTP, with the binary tensors that Triton's client sends by default."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phidet.serve.protocols import inference
from phidet.serve.protocols.body import call_of, read_body, while_connected
from phidet.serve.protocols.inference_json import HEADER_LENGTH, read_infer, write_infer
from phidet.serve.service import RequestCodec, Service
from phidet.serve.wire import parse, write

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(service: Service) -> list[Route]:
    """The protocol's paths, and Triton's list of models."""

    async def ready(_: Request) -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    async def index(request: Request) -> Response:
        async with read_body(request, service) as body:
            wanted = await service.in_thread(lambda: parse(body)) if body else {}
        # The body is optional in Triton's protocol.
        only_ready = isinstance(wanted, dict) and wanted.get("ready") is True
        return _json(inference.index(service, only_ready))

    return [
        Route("/v2", _saying(lambda _: inference.server_metadata())),
        Route("/v2/health/live", _saying(lambda _: {"live": True})),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/models/stats", _saying(lambda _: inference.statistics(service))),
        *_model_routes(service),
    ]


def _model_routes(service: Service) -> list[Route]:
    async def ready(request: Request) -> Response:
        name, version = _which(request)
        is_ready = inference.is_ready(service, name, version)
        return _json({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(request: Request) -> Response:
        return await _infer(request, service)

    return [
        route
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route(path, _saying(lambda request: inference.metadata(service, *_which(request)))),
            Route(path + "/ready", ready),
            Route(path + "/config", _saying(lambda request: inference.configuration(service, *_which(request)))),
            Route(path + "/stats", _saying(lambda request: inference.statistics(service, *_which(request)))),
            Route(path + "/infer", infer, methods=["POST"]),
        )
    ]


def _saying(answer: Callable[[Request], Any]) -> Endpoint:
    """A path whose answer needs no waiting."""

    async def endpoint(request: Request) -> Response:
        return _json(answer(request))

    return endpoint


async def _infer(request: Request, service: Service) -> Response:
    call = call_of(request)
    name, version = _which(request)
    call.model = name
    loaded = service.repository.find(name, version)
    # Before the body is read: a full server should not spend its bandwidth on requests that it will reject.
    service.check_room(loaded, call.deadline)
    length = request.headers.get(HEADER_LENGTH)
    # The version is fixed here, so that a reload while the body arrives does not take it away.
    with loaded.used():
        call.version = loaded.version
        async with read_body(request, service) as body:
            codec = RequestCodec(
                lambda: read_infer(body, length, service, loaded),
                lambda wanted, tensors: write_infer(loaded, wanted, tensors),
            )
            return await while_connected(request, service.answer(call, loaded, codec, len(body)))


def _which(request: Request) -> tuple[str, int | None]:
    return request.path_params["model"], inference.parse_version(request.path_params.get("version"))


def _json(value: Any, status: int = 200) -> Response:
    return Response(write(value), status, media_type="application/json")
