"""``label_map.pbtxt``: the class names of TFRecord files, as TensorFlow's detection tools write them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from phidet.core.errors import InputError
from phidet.data.text import read_text


def label_map(class_names: Sequence[str]) -> str:
    """The content of the file for classes with the labels 1, 2, …"""
    content = _label_map_class()()
    for label, name in enumerate(class_names, start=1):
        content.item.add(name=name, id=label)
    text: str = text_format.MessageToString(content, as_utf8=True)
    return text


def read_label_map(path: Path) -> list[str]:
    """The classes by label, from 1; gaps are ``class-N``.

    ``display_name`` is the name where every class has its own, as TensorFlow shows them: ``name`` may be a code.

    Raises:
        InputError: the file cannot be read, or names no class or one label twice.
    """
    content = _label_map_class()()
    try:
        text_format.Parse(read_text(path), content, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    items = {item.id: item for item in content.item if item.id >= 1}  # some have the background at 0
    # A huge label would otherwise make a list of as many made-up names.
    if not items or len(items) != sum(item.id >= 1 for item in content.item) or max(items) > len(items) + 10_000:
        raise InputError(f"{path} should name each label 1, 2, … once: item {{ id: 1 name: 'cat' }}")
    names = {label: item.name or f"class-{label - 1}" for label, item in items.items()}
    shown = {label: item.display_name or names[label] for label, item in items.items()}
    if len(set(shown.values())) == len(shown):
        names = shown
    return [names.get(label, f"class-{label - 1}") for label in range(1, max(names) + 1)]


@cache
def _label_map_class() -> Any:
    """The protobuf message, described in code, so that no generated module is needed."""
    file = descriptor_pb2.FileDescriptorProto(name="phidet_label_map.proto", package="phidet", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    item = file.message_type.add(name="LabelMapItem")
    item.field.add(name="name", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    item.field.add(name="id", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_INT32)
    item.field.add(name="display_name", number=3, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    items = file.message_type.add(name="LabelMap").field
    items.add(
        name="item", number=1, label=field.LABEL_REPEATED, type=field.TYPE_MESSAGE, type_name=".phidet.LabelMapItem"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("phidet.LabelMap"))
