"""Protobuf messages from a description in protobuf's own text format, so that no generated module is needed."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format


def message_class(file: str, name: str) -> Any:
    """The class of the message ``name`` of the file that ``file``, a ``FileDescriptorProto``, describes."""
    # A pool of its own: in the common one, a program that also imports TensorFlow could have a file of that name.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(file, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
