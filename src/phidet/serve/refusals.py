"""Errors that become HTTP answers: a message and a status."""

from __future__ import annotations

import math

from phidet.core.errors import PhidetError


class RefusedError(PhidetError):
    """A request that is not answered with a prediction.

    Args:
        status: of HTTP, 400…599.
        message: becomes ``{"error": message}``.
        retry_after: seconds after which to retry, 0 where retrying is pointless.
        allow: the methods that the path has, where the request had another.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0, allow: str = "") -> None:
        super().__init__(message)
        self.http_status = status
        self.retry_after = retry_after
        self.allow = allow


def bad_request(message: str) -> RefusedError:
    """The client's mistake: gRPC's INVALID_ARGUMENT."""
    return RefusedError(400, message)


def too_large(message: str) -> RefusedError:
    """A body over the limits."""
    return RefusedError(413, message)


def overloaded(message: str, seconds: float = 1) -> RefusedError:
    """Overloaded for now; the client should retry after ``seconds``."""
    return RefusedError(503, message, retry_after=max(1, math.ceil(seconds)))


def deadline_exceeded(seconds: float) -> RefusedError:
    """The time that a request may take is over."""
    return RefusedError(504, f"the request was not answered within {seconds:g} s")
