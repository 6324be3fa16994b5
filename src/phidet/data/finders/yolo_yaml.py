"""``data.yaml``: the splits and classes of YOLO data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from phidet.core.errors import InputError
from phidet.data.data_folder import is_split_name
from phidet.data.finders.class_lists import read_class_list
from phidet.data.readers.yolo import KeyPoints
from phidet.data.text import read_text

YAML_SUFFIXES = (".yaml", ".yml")
_NOTHING = ("", "null", "~", "none")
_USUAL_STEMS = ("data", "dataset")
_KEYS = (re.compile(r"^names\s*:", re.MULTILINE), re.compile(r"^(train|val)\s*:", re.MULTILINE))


class YoloYaml(NamedTuple):
    """The content of a ``data.yaml``.

    Attributes:
        file: its path.
        names: the classes by id; ``None`` where it only says how many there are.
        splits: folders of images and lists of images, as they are written, by split.
        bases: the folders that these are relative to, the likeliest first.
        key_points: what follows each box in the labels, where declared.
    """

    file: Path
    names: list[str] | None
    splits: dict[str, list[str]]
    bases: list[Path]
    key_points: KeyPoints | None


def read_yolo_yaml(file: Path) -> YoloYaml | None:
    """Reads the file; ``None`` where it is a YAML file about something else.

    Raises:
        InputError: it is about YOLO data by its name or its keys, but is damaged or names classes wrongly.
    """
    # A YAML file of that name or with those keys is meant as YOLO's: its mistakes are reported. Others are passed over.
    meant = file.stem.casefold() in _USUAL_STEMS
    try:
        text = read_text(file)
        meant = meant or all(key.search(text) for key in _KEYS)
        content = yaml.load(text, _TextLoader)  # it makes text, lists and dictionaries only
    except (InputError, yaml.YAMLError, RecursionError) as error:
        if meant:
            raise InputError(f"cannot read {file}: {_in_one_line(error)}") from error
        return None
    if not meant and not (isinstance(content, dict) and isinstance(content.get("names"), list | dict)):
        return None
    if not isinstance(content, dict) or not {"names", "nc"} & content.keys():
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else "no keys"
        raise InputError(f"{file} should have the key names (the classes) beside train and val, got {found}")
    # Ultralytics resolves ``path`` against its own settings; here both it and the file's folder are tried.
    base = os.path.expanduser(str(content.get("path") or "").replace("\\", "/"))
    return YoloYaml(
        file,
        _class_names(content, file) if "names" in content else None,
        {key: entries for key, value in content.items() if _is_split(key, value) and (entries := _entries(value))},
        list(dict.fromkeys([file.parent / base, file.parent])),
        _key_points(content, file),
    )


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


class _TextLoader(yaml.BaseLoader):
    """Keeps scalars as text, so that classes may be called on, no, null, 007 or 1e3."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # PyYAML silently keeps the last of two equal keys, which would drop a class or a split.
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None) if len(keys) > len(mapping) else None
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} occurs twice", node.start_mark)
        return mapping


def _class_names(content: dict[str, Any], file: Path) -> list[str]:
    """The classes by id.

    Raises:
        InputError: there are none, their ids have gaps, or they are not text.
    """
    names = content["names"]
    if isinstance(names, dict):
        names = _by_id(names, file)
    elif isinstance(names, str) and (listed := file.parent / names).is_file():  # as in Darknet's files
        return read_class_list(listed)
    if not isinstance(names, list) or not names:
        raise InputError(f"{file} has no names: expected the classes as a list, or as 0: first, 1: second, …")
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"{file}: the name of class {i} should be text, got {name!r}")
    return names


def _by_id(names: dict[Any, Any], file: Path) -> list[Any]:
    """Names in the order of their ids; some write ``0: cat``, others ``cat: 0``."""
    # Of ids that are names, too (0: 0), the first reading is right in either case.
    for pairs in (names.items(), [(value, key) for key, value in names.items()]):
        if all(isinstance(i, str) and i.strip().isdecimal() for i, _ in pairs):
            by_id = {int(i): name for i, name in pairs}
            if sorted(by_id) == list(range(len(names))):
                return [by_id[i] for i in range(len(names))]
    found = ", ".join(map(str, list(names)[:10]))
    raise InputError(f"{file}: names should be numbered 0…{len(names) - 1}, got {found}")


def _is_split(key: Any, value: Any) -> bool:
    """Whether a key names a split: by its name, or as phidet writes splits of any name."""
    return isinstance(key, str) and (is_split_name(key) or value == f"images/{key}")


def _entries(value: Any) -> list[str]:
    """The folders and lists of a split, none where the key is left empty."""
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, str) and entry.strip().casefold() not in _NOTHING]


def _key_points(content: dict[str, Any], file: Path) -> KeyPoints | None:
    shape = content.get("kpt_shape")
    if shape is None or shape in _NOTHING:
        return None
    try:
        found = KeyPoints(*map(int, shape))
    except (TypeError, ValueError):
        found = KeyPoints(0, 0)
    if found.points < 1 or found.numbers not in (2, 3):
        raise InputError(f"{file}: kpt_shape should be [points, 2 or 3], as in [17, 3], got {shape!r}")
    return found
