"""Paths of the live page: which cameras there are, and the newest frame of each."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import Service

_WAIT_S = 5.0  # for a new frame; a server that ends waits for its answers


def watch_routes(service: Service) -> list[Route]:
    """``/watch/cameras`` and ``/watch/NAME/latest?after=N``, which waits for a frame after number N."""

    async def cameras(_: Request) -> Response:
        return _json(msgspec.json.encode(list(service.watchers)))

    async def latest(request: Request) -> Response:
        watcher = service.watchers.get(request.path_params["name"])
        if watcher is None:
            known = ", ".join(service.watchers) or "none"
            raise RefusedError(404, f"there is no camera of that name; watched: {known}")
        after = request.query_params.get("after", "0")
        # Bounded, as Python refuses to read numbers of thousands of digits.
        if not (after.isascii() and after.isdigit() and len(after) < 16):
            raise bad_request("after must be the number of a frame, 0 or more")
        return _json(await watcher.latest(int(after), min(_WAIT_S, service.settings.limits.request_seconds / 2)))

    return [Route("/watch/cameras", cameras), Route("/watch/{name}/latest", latest)]


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})
