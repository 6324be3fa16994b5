"""The application: both protocols, the pages and the metrics behind one gate."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from phidet.serve.http.gate import Gate
from phidet.serve.http.openapi import describe
from phidet.serve.http.prefix import Prefix
from phidet.serve.http.watch import watch_routes
from phidet.serve.metrics import CONTENT_TYPE
from phidet.serve.protocols import inference_v2 as v2
from phidet.serve.protocols import tfserving_rest as tfserving
from phidet.serve.refusals import RefusedError
from phidet.serve.service import Service
from phidet.serve.wire import write

METRICS_PATH = "/monitoring/prometheus/metrics"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def build_app(service: Service) -> Starlette:
    """The ASGI application. Models are loaded while its lifespan lasts."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    async def openapi(_: Request) -> Response:
        return Response(write(describe(service.settings, service.repository.sources)), media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def v1(scope: Scope, receive: Receive, send: Send) -> None:
        response = await tfserving.handle(Request(scope, receive), service)
        await response(scope, receive, send)

    async def no_route(request: Request, error: Exception) -> Response:
        """Starlette found no route (404), or none with this method (405)."""
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if f"{path}/".lower().startswith("/v1/"):  # "/V1/…", or with a line break, neither of which the Mount matches
            return await tfserving.handle(request, service)
        if error.status_code == 405:
            allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            raise RefusedError(405, f"{path[:300]} takes {allow}, not {request.method}", allow=allow)
        raise RefusedError(404, f"there is nothing at {path[:300]}; the API is described at /docs")

    routes: list[BaseRoute] = [
        Mount("/v1", app=v1),  # found first
        _page("/", "index.html"),
        _page("/docs", "docs.html"),
        _page("/watch", "watch.html"),
        *watch_routes(service),
        Route("/openapi.json", openapi),
        Route(METRICS_PATH, metrics),
        *v2.routes(service),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Prefix, prefix=service.settings.prefix), Middleware(Gate, service=service)],
        exception_handlers={404: no_route, 405: no_route},
        lifespan=lifespan,
    )
    # An error that names the path helps more than a redirect, which many clients do not follow for a POST.
    app.router.redirect_slashes = False
    return app


def _page(path: str, name: str) -> Route:
    """A page whose policy allows only its own inline scripts and styles, and requests to this server."""
    text = files("phidet.serve.http").joinpath("page", name).read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        # Hashes instead of 'unsafe-inline': injected scripts do not run.
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "permissions-policy": "camera=(self)",
        "cache-control": "no-cache",
    }

    async def page(_: Request) -> Response:
        return Response(text, media_type="text/html", headers=headers)

    return Route(path, page)
