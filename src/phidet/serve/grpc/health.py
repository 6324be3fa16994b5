"""gRPC's health checking and server reflection, for orchestrators, load balancers and tools such as grpcurl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from phidet.serve.messages import message, pool
from phidet.serve.protocols.rpc import Method, Methods, now
from phidet.serve.refusals import RefusedError
from phidet.serve.service import Service

_HEALTH, _REFLECTION = "grpc.health.v1", "grpc.reflection.v1"
_WATCHED_S = 0.2  # between two looks for a change of health
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_NOT_FOUND, _UNIMPLEMENTED = 5, 12


def health(service: Service, names: Sequence[str]) -> Methods:
    """``Check`` and ``Watch``: the server ("") and its services, by ``names``, serve when all models are ready."""
    response = message(f"{_HEALTH}.HealthCheckResponse")

    def check(request: Any) -> Any:
        if request.service not in ("", *names):
            raise RefusedError(404, f"there is no service {request.service[:200]}")
        return response(status=_SERVING if service.ready else _NOT_SERVING)

    async def watch(request: Any) -> AsyncIterator[Any]:
        last = None
        # Whoever watches is told when the server begins to drain, and let go when it stops.
        while not (service.stopping.is_set() and last == _NOT_SERVING):
            status = _SERVING if service.ready else _NOT_SERVING
            status = status if request.service in ("", *names) else _UNKNOWN
            if status != last:
                yield response(status=status)
            last = status
            await asyncio.sleep(_WATCHED_S)

    return {
        f"/{_HEALTH}.Health/Check": Method(f"{_HEALTH}.HealthCheckRequest", now(check), is_open=True),
        f"/{_HEALTH}.Health/Watch": Method(f"{_HEALTH}.HealthCheckRequest", watch=watch, is_open=True),
    }


def reflection(names: Sequence[str]) -> Methods:
    """``ServerReflectionInfo``: the services by ``names``, and the files of their messages."""
    response = message(f"{_REFLECTION}.ServerReflectionResponse")

    def answer(request: Any) -> Any:
        kind = request.WhichOneof("message_request")
        found = response(original_request=request, valid_host=request.host)
        try:
            if kind == "list_services":
                for name in names:
                    found.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                _add_file(found, pool().FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                _add_file(found, pool().FindFileContainingSymbol(request.file_containing_symbol))
            else:
                found.error_response.error_code = _UNIMPLEMENTED
                found.error_response.error_message = "no message has extensions"
        except KeyError:
            found.error_response.error_code = _NOT_FOUND
            found.error_response.error_message = "there is no such file or symbol"
        return found

    # Both versions are the same on the wire; many tools ask for the older one first.
    return {
        f"/{package}.ServerReflection/ServerReflectionInfo": Method(
            f"{_REFLECTION}.ServerReflectionRequest", now(answer), failed=_failed
        )
        for package in (_REFLECTION, f"{_REFLECTION}alpha")
    }


def _failed(text: str) -> Any:
    error = {"error_code": _UNIMPLEMENTED, "error_message": text}
    return message(f"{_REFLECTION}.ServerReflectionResponse")(error_response=error)


def _add_file(found: Any, file: Any) -> None:
    """Adds a file, and before it those that it imports."""
    for needed in file.dependencies:
        _add_file(found, needed)
    if file.serialized_pb not in found.file_descriptor_response.file_descriptor_proto:
        found.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
