"""The protobuf messages of ``protos/``: TensorFlow Serving's, the Open Inference Protocol's, gRPC's own.

Their names are those on the wire, so that reflection and ``Any`` work. They live in a pool of their own, so that
TensorFlow, or another client, can live in the same process (docs/decisions/0029). ``make protos`` compiles them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

COMPILED = "messages.binpb"


@cache
def pool() -> Any:
    """The descriptors of all messages and services."""
    compiled = descriptor_pb2.FileDescriptorSet.FromString(
        files("phidet.serve").joinpath("protos", COMPILED).read_bytes()
    )
    found = descriptor_pool.DescriptorPool()
    for file in compiled.file:  # each after those that it imports
        found.Add(file)
    return found


@cache
def message(name: str) -> Any:
    """The class of a message by its full name."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
