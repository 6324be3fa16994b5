"""The path that a proxy has put before the server's own."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """ASGI middleware that answers below ``prefix``, and without it: some proxies remove it, and probes come directly.

    Args:
        app: what is behind it.
        prefix: such as ``/detect``.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.prefix:
            if scope["path"] == self.prefix:
                # Links of the page are relative, so it must be asked for with a slash.
                await RedirectResponse(f"{self.prefix}/", 308)(scope, receive, send)
                return
            if scope["path"].startswith(f"{self.prefix}/"):
                raw = scope["raw_path"].removeprefix(self.prefix.encode())
                scope = {**scope, "path": scope["path"].removeprefix(self.prefix), "raw_path": raw}
        await self.app(scope, receive, send)
