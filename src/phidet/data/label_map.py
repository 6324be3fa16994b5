"""``label_map.pbtxt``: the class names of TFRecord files, as TensorFlow's detection tools write them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from phidet.core.errors import InputError
from phidet.data.protobuf import message_class
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
    # Open Images has codes such as /m/01g317 as names.
    shown = {label: item.display_name or names[label] for label, item in items.items()}
    if len(set(shown.values())) == len(shown):
        names = shown
    return [names.get(label, f"class-{label - 1}") for label in range(1, max(names) + 1)]


@cache
def _label_map_class() -> Any:
    return message_class(_LABEL_MAP, "phidet.LabelMap")


# The part of object_detection/protos/string_int_label_map.proto that matters here.
_LABEL_MAP = """
name: "phidet_label_map.proto" package: "phidet" syntax: "proto2"
message_type { name: "LabelMapItem"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "id" number: 2 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "display_name" number: 3 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "LabelMap"
  field { name: "item" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".phidet.LabelMapItem" } }
"""
