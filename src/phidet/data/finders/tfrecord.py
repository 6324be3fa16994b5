"""TFRecord shards: ``*.tfrecord``, or ``train-00000-of-00010`` where the content is a record's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.data_folder import Found
from phidet.data.dataset import Dataset
from phidet.data.listing import files_below, followed
from phidet.data.readers import tfrecord
from phidet.data.tfrecord_file import scan

_SHARD = re.compile(r"(.+?)(?:\.(?:tf)?records?)?-\d{5}-of-\d{5}(?:\.(?:tf)?records?)?$", re.IGNORECASE)
_SUFFIXES = (".tfrecord", ".tfrecords", ".record", ".records", ".tfrec")
_SAMPLED = 3  # files whose content is checked


def find_tfrecord(path: Path) -> Found | None:
    """The shards in a folder and in the folders in it, or the one at ``path``."""
    base = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [followed(file) for file in files_below(path, _is_shard, levels=1)]
    shards: dict[str, list[Path]] = {}
    for file in files:
        # Shards in a folder of their own are of the split that the folder is called.
        own = _split_of(file.name)
        if own is not None:
            shards.setdefault(own if file.parent == base else file.parent.name, []).append(file)
    every = [file for group in shards.values() for file in group]
    if not every:
        return None

    def read(split: str, names: Sequence[str] | None) -> Dataset:
        own = tfrecord.own_class_names(shards[split], every, base)
        return tfrecord.read_tfrecord(shards[split], path, split, class_names=names or own, own_names=own)

    certain = any(map(_holds_record, every[:_SAMPLED]))
    return Found(str(every[0].relative_to(base)), {split: partial(read, split) for split in shards}, certain)


def _split_of(name: str) -> str | None:
    """The split that a file is of by its name; ``None`` where it is not named like a file of records."""
    stem, suffix = os.path.splitext(name.removesuffix(".gz"))  # which the reader rejects with a message
    match = _SHARD.match(stem + suffix)
    if match is not None:
        return match[1]
    return stem if suffix.lower() in _SUFFIXES else None


def _is_shard(name: str) -> bool:
    return _split_of(name) is not None


def _holds_record(file: Path) -> bool:
    """Whether the first record of a file is whole."""
    try:
        return next(scan(file), None) is not None
    except InputError:
        return False
