"""Middleware around all requests: token, deadline, errors in one form, CORS, metrics and the access log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phidet.serve.refusals import RefusedError, deadline_exceeded
from phidet.serve.service import Service
from phidet.serve.wire import error_body

OPEN_PATHS = frozenset({"/", "/docs", "/watch", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: pages without data of the models, and the health checks of orchestrators."""
GONE = 499  # the client left; nginx's number, for the log alone
_LONGEST_PATH = 300
access_log = logging.getLogger("phidet.access")
log = logging.getLogger("phidet.serve")


class _Answer:
    """Records the status of an application's answer, and adds headers to it."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = 0
        self._send = send
        self._headers = headers

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *self._headers]
        await self._send(message)

    async def refuse(self, refusal: RefusedError, close: bool) -> None:
        body = error_body(str(refusal))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_after:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        if refusal.allow:
            headers.append((b"allow", refusal.allow.encode()))
        if refusal.http_status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if close:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refusal.http_status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: what is behind the gate.
        service: settings and metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self._headers = [(b"x-content-type-options", b"nosniff")]
        if service.settings.cors:
            allowed = b"Content-Type, Authorization" if service.settings.token else b"Content-Type"
            self._headers += [
                (b"access-control-allow-origin", b"*"),
                (b"access-control-allow-methods", b"POST, GET"),
                (b"access-control-allow-headers", allowed),
            ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        answer = _Answer(send, self._headers)
        self.service.metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, answer)
        finally:
            self.service.metrics.in_flight.dec()
            self._note(scope, answer.status or GONE, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        seconds = self.service.settings.limits.request_seconds
        try:
            # The timeout covers reading the body, waiting in the queue, and writing the answer.
            async with asyncio.timeout(seconds):
                if self.service.settings.cors and scope["method"] == "OPTIONS":
                    await answer.send({"type": "http.response.start", "status": 200, "headers": []})
                    await answer.send({"type": "http.response.body", "body": b""})
                    return
                self._authorize(scope)
                await self.app(scope, receive, answer.send)
            return
        except RefusedError as error:
            refusal = error
        except TimeoutError:
            refusal = deadline_exceeded(seconds)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:_LONGEST_PATH])
            refusal = RefusedError(500, "internal error")
        # An answer that has begun cannot become an error any more. After these statuses the body was not read to its
        # end, so the connection cannot carry another request.
        if not answer.status:
            await answer.refuse(refusal, close=refusal.http_status in (408, 413, 504))

    def _authorize(self, scope: Scope) -> None:
        token = self.service.settings.token
        if token is None or scope["path"] in OPEN_PATHS:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, credentials = given.partition(b" ")
        # Compared in constant time, so that the token cannot be guessed byte by byte from response times.
        if scheme.lower() != b"bearer" or not hmac.compare_digest(credentials.strip(), token.encode()):
            raise RefusedError(401, "this server requires its token: Authorization: Bearer TOKEN")

    def _note(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        path = scope["path"]
        api = next((name for name in ("v1", "v2") if path[:4].lower() in (f"/{name}", f"/{name}/")), "other")
        model = scope.get("phidet.model", "")
        # A label from a request would let clients create metrics without limit.
        known = model if model in self.service.repository.models else ""
        self.service.metrics.requests.labels(api, known, str(status)).inc()
        self.service.metrics.request_seconds.labels(api).observe(seconds)
        # A viewer of the live page asks for each frame.
        if not access_log.isEnabledFor(logging.INFO) or (path.startswith("/watch/") and status == 200):
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": path[:_LONGEST_PATH],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        if known:
            entry |= {"model": known, "version": scope.get("phidet.version")}
        access_log.info(json.dumps(entry))
