"""Middleware around all requests over HTTP: token, deadline, errors in one form, CORS, metrics and the access log."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phidet.serve.calls import LONGEST_PATH, Call
from phidet.serve.protocols.body import CALL
from phidet.serve.refusals import RefusedError, deadline_exceeded
from phidet.serve.service import Service
from phidet.serve.wire import error_body

OPEN_PATHS = frozenset({"/", "/docs", "/watch", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: pages without data of the models, and the health checks of orchestrators."""
GONE = 499  # the client left; nginx's number, for the log alone
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
        # What a client needs to go on: when to come again, which method the path takes, how to show a token.
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
        call = self._call(scope)
        # In the scope, so that the protocols behind can say which model and version answered.
        scope[CALL] = call
        answer = _Answer(send, self._headers)
        try:
            await self._answer(scope, receive, answer)
        finally:
            # A viewer of the live page asks for each frame.
            call.quiet = answer.status == 200 and call.path.startswith("/watch/")
            self.service.calls.end(call, answer.status or GONE)

    def _call(self, scope: Scope) -> Call:
        path = scope["path"]
        api = next((name for name in ("v1", "v2") if path[:4].lower() in (f"/{name}", f"/{name}/")), "other")
        client, parent = (scope.get("client") or ("",))[0], _header(scope, b"traceparent").decode("latin-1")
        return self.service.calls.begin(api, scope["method"], path, client, parent)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        seconds = self.service.settings.limits.request_seconds
        try:
            # The timeout covers reading the body, waiting in the queue, and writing the answer.
            async with asyncio.timeout(seconds):
                if self.service.settings.cors and scope["method"] == "OPTIONS":
                    await answer.send({"type": "http.response.start", "status": 200, "headers": []})
                    await answer.send({"type": "http.response.body", "body": b""})
                    return
                if scope["path"] not in OPEN_PATHS:
                    self.service.calls.check_token(_header(scope, b"authorization"))
                await self.app(scope, receive, answer.send)
            return
        except RefusedError as error:
            refusal = error
        except TimeoutError:
            refusal = deadline_exceeded(seconds)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:LONGEST_PATH])
            refusal = RefusedError(500, "internal error")
        # An answer that has begun cannot become an error any more. After these statuses the body was not read to its
        # end, so the connection cannot carry another request.
        if not answer.status:
            await answer.refuse(refusal, close=refusal.http_status in (408, 413, 504))


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
