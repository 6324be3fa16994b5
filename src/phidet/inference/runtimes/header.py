"""What an exported file says of itself, so that it needs nothing beside it.

An ONNX file keeps these keys in its metadata, an OpenVINO file in its runtime information: ``format`` = "phidet",
``version``, ``kind``, ``config`` (JSON: classes, anchors, preprocessing, input size) as in phidet's own model file;
``precision``; and, for readers other than phidet, ``phidet_version``, ``class_names`` (JSON) and ``preprocessing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from phidet.architectures.efficientdet.config import ModelConfig
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.structs import from_json, to_json

VERSION = 1
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]


class Header(NamedTuple):
    """The config, and in which numbers the weights are kept."""

    config: ModelConfig
    precision: Precision


def to_metadata(header: Header, phidet_version: str) -> dict[str, str]:
    """The keys and values to write into a file, by the phidet of that version."""
    config = header.config
    height, width = config.image_size_hw
    mean, std = (
        ", ".join(f"{v:g}" for v in values) for values in (config.preprocess.mean_rgb, config.preprocess.std_rgb)
    )
    return {
        "format": "phidet",
        "version": str(VERSION),
        "kind": "detector",
        "config": to_json(config),
        "precision": header.precision,
        "phidet_version": phidet_version,
        "class_names": msgspec.json.encode(config.class_names).decode(),
        "preprocessing": (
            f"RGB 0-255, resized bilinearly (half-pixel centres, no antialiasing) by one factor to fit "
            f"{height}x{width} (height x width), then (pixel - ({mean})) / ({std}), padded right and below with 0, NCHW"
        ),
    }


def from_metadata(metadata: Mapping[str, str], path: Path) -> Header:
    """What the metadata of the file at ``path`` says.

    Raises:
        CheckpointError: the file is not one of phidet's detectors, or is newer than this phidet, or is damaged.
    """
    if metadata.get("format") != "phidet" or metadata.get("kind") != "detector":
        raise CheckpointError(
            f"{path} is not a phidet detector: its metadata names neither classes nor preprocessing. "
            "Export one with 'phidet export MODEL'"
        )
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this phidet reads up to {VERSION}: pip install -U phidet"
        )
    try:
        precision = msgspec.convert(metadata.get("precision"), Precision)
        return Header(from_json(metadata.get("config", ""), ModelConfig), precision)
    except (ConfigError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} has a header that is not valid: {error}") from error
