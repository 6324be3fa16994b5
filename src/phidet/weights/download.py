"""Fetches published files into one cache folder."""

from __future__ import annotations

from pathlib import Path

from phidet.weights.zoo import PublishedFile


def fetch(file: PublishedFile, offline: bool | None = None, progress: bool = True) -> Path:
    raise NotImplementedError
