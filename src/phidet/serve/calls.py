"""What both transports do with every request: the token, and a line in the metrics, the access log and the traces."""

from __future__ import annotations

import hmac
import json
import logging
import time
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from phidet.serve.configuration import ServerSettings
from phidet.serve.metrics import Metrics
from phidet.serve.models.statistics import RequestSeconds
from phidet.serve.models.versions import Repository
from phidet.serve.refusals import RefusedError

LONGEST_PATH = 300
access_log = logging.getLogger("phidet.access")


class Call(msgspec.Struct, eq=False):
    """One request, from its first byte to its last, and what is learnt of it on the way.

    Attributes:
        api: ``v1``, ``v2`` or ``other``, over gRPC with ``grpc_`` before it; ``grpc_stream`` for a stream as a whole.
        method: of HTTP.
        path: as the client asked.
        client: its address.
        begun, deadline: on the monotonic clock.
        traceparent: the client's trace (W3C Trace Context), "" where it has none.
        model, version: what answers.
        answering: when the answer was begun, on the monotonic clock.
        seconds: where the time of the answer went.
        is_late: it ended because its client was too slow, which nobody is there to be told.
        quiet: leaves it out of the access log.
    """

    api: str
    method: str
    path: str
    client: str
    begun: float
    deadline: float
    traceparent: str = ""
    model: str = ""
    version: int | None = None
    answering: float = 0.0
    seconds: RequestSeconds | None = None
    is_late: bool = False
    quiet: bool = False


class Notes(Protocol):
    """What is told of every request when it has ended: traces, where there are any."""

    def note(self, call: Call, status: int | str) -> None:
        """A request that was answered with ``status``."""

    def close(self) -> None:
        """The server ends."""


class Calls:
    """The requests of one server.

    Args:
        settings: token and limits.
        metrics: where requests are counted.
        repository: which names of models are known.
        traces: where requests are noted, too.
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, repository: Repository, traces: Notes | None = None
    ) -> None:
        self.traces = traces
        self._settings = settings
        self._metrics = metrics
        self._repository = repository

    def begin(self, api: str, method: str, path: str, client: str, traceparent: str = "") -> Call:
        """A request that arrives now; ``end`` must follow."""
        now = time.monotonic()
        self._metrics.in_flight.inc()
        return Call(api, method, path, client, now, now + self._settings.limits.request_seconds, traceparent)

    def check_token(self, authorization: bytes) -> None:
        """Rejects a request whose ``Authorization`` does not have the server's token.

        Raises:
            RefusedError: 401.
        """
        token = self._settings.token
        if token is None:
            return
        scheme, _, credentials = authorization.partition(b" ")
        # Compared in constant time, so that the token cannot be guessed byte by byte from response times.
        if scheme.lower() != b"bearer" or not hmac.compare_digest(credentials.strip(), token.encode()):
            raise RefusedError(401, "this server requires its token: Authorization: Bearer TOKEN")

    def end(self, call: Call, status: int | str) -> None:
        """Counts and logs a request that was answered with ``status``, HTTP's number or gRPC's word."""
        seconds = time.monotonic() - call.begun
        # A label from a request would let clients create metrics without limit.
        known = call.model if call.model in self._repository.models else ""
        # Whatever came of it: each request is counted once, and its place is free again.
        self._metrics.in_flight.dec()
        self._metrics.requests.labels(call.api, known, str(status)).inc()
        self._metrics.request_seconds.labels(call.api).observe(seconds)
        if self.traces is not None:
            self.traces.note(call, status)
        if call.quiet or not access_log.isEnabledFor(logging.INFO):
            return
        entry: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": call.client,
            "method": call.method,
            "path": call.path[:LONGEST_PATH],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        if known:
            entry |= {"model": known, "version": call.version}
        access_log.info(json.dumps(entry))
