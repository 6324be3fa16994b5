"""Errors that a request is answered with: a message, and its HTTP status."""

from __future__ import annotations

import math

from phidet.core.errors import PhidetError


class RefusedError(PhidetError):
    """A request that is not answered with a prediction.

    Args:
        status: of HTTP, 400…599.
        message: becomes ``{"error": message}``.
        retry_after: seconds after which it may be tried again, 0 where that is no use.
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
    """Full for now; the client should come again in so many seconds."""
    return RefusedError(503, message, retry_after=max(1, math.ceil(seconds)))


def deadline_exceeded(seconds: float) -> RefusedError:
    """The time that a request may take is over."""
    return RefusedError(504, f"the request was not answered within {seconds:g} s")
