"""The published weight files, by model name."""

from __future__ import annotations

from typing import NamedTuple


class PublishedFile(NamedTuple):
    url: str
    sha256_prefix: str
    licence: str


def detector_file(name: str) -> PublishedFile:
    raise NotImplementedError


def backbone_file(name: str) -> PublishedFile:
    raise NotImplementedError
