"""A method of a service over gRPC, as a protocol describes it: messages in, messages out, nothing of the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from google.protobuf import json_format

from phidet.serve.calls import Call
from phidet.serve.messages import message

T = TypeVar("T")
Answer = Callable[[Any, Call], Awaitable[Any]]


class Method(NamedTuple):
    """One method.

    Attributes:
        request: full name of the message that it takes; "" where the body is not read.
        answer: makes the answer to a message; may raise RefusedError.
        failed: of a stream, which answers each message of the client in turn: what answers one for which ``answer``
            raised RefusedError, from its text.
        watch: instead of ``answer``, all answers to one message, as long as the client listens.
        is_open: it needs no token.
    """

    request: str
    answer: Answer | None = None
    failed: Callable[[str], Any] | None = None
    watch: Callable[[Any], AsyncIterator[Any]] | None = None
    is_open: bool = False


Methods = dict[str, Method]
"""Path (``/package.Service/Method``) → the method."""


def filled(name: str, value: object) -> Any:
    """The message of that name from what the protocol's JSON says; what the message does not know is left out."""
    return json_format.Parse(msgspec.json.encode(value), message(name)(), ignore_unknown_fields=True)


def now(answer: Callable[[Any], T]) -> Answer:
    """A method whose answer needs no waiting."""

    async def method(request: Any, _: Call) -> T:
        return answer(request)

    return method
