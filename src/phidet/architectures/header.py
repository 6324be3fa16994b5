"""The header of model files, which makes them self-contained; the same in every file format.

A ``.safetensors`` and an ONNX file keep these keys in their metadata, an OpenVINO file in its runtime information, a
TFLite file in an associated file: ``format`` = "phidet", ``version``, ``architecture``, ``config`` (JSON: classes,
preprocessing, input size, …), ``thresholds`` (JSON, where they were measured); an export's ``precision``; and, for
readers other than phidet, ``phidet_version``, ``class_names`` (JSON) and ``preprocessing``. Files of version 1 have
``kind`` ("detector" or "classifier") instead of ``architecture``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from phidet.architectures.base import Architecture, NetworkConfig
from phidet.architectures.registry import architecture_named, architecture_of
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.core.structs import from_json, require, to_json
from phidet.detections.thresholds import Thresholds

VERSION = 2
THRESHOLDS = "thresholds"
"""The key of the stored thresholds."""
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
KEYS = frozenset({"format", "version", "kind", "architecture", "config", "thresholds"})
"""Of a model file; exported files have more."""
_OF_KIND = {"detector": "efficientdet", "classifier": "classifier"}
"""Architecture of each ``kind`` of version 1."""


class Header(NamedTuple):
    """The config, the number format of the weights, and the best threshold of each class where that was measured."""

    config: Any
    precision: Precision = "fp32"
    thresholds: Thresholds | None = None

    @property
    def architecture(self) -> Architecture[Any]:
        """The architecture that the config belongs to."""
        return architecture_of(self.config)


def to_metadata(config: Any, thresholds: Thresholds | None = None) -> dict[str, str]:
    """The keys and values of every model file."""
    measured = {} if thresholds is None else {THRESHOLDS: to_json(thresholds)}
    return {
        "format": "phidet",
        "version": str(VERSION),
        "architecture": architecture_of(config).name,
        "config": msgspec.json.encode(config).decode(),
        **measured,
    }


def to_export_metadata(header: Header, phidet_version: str) -> dict[str, str]:
    """The keys and values of an exported file, written by the phidet of that version."""
    config: NetworkConfig = header.config
    mean, std = (
        ", ".join(f"{v:g}" for v in values) for values in (config.preprocess.mean_rgb, config.preprocess.std_rgb)
    )
    metadata = {
        **to_metadata(config, header.thresholds),
        "precision": header.precision,
        "phidet_version": phidet_version,
        "class_names": msgspec.json.encode(config.class_names).decode(),
    }
    if min(config.image_size_hw) > 0:  # a network on detections has no image
        metadata["preprocessing"] = (
            f"RGB 0-255, {header.architecture.resizing(config)}, then (pixel - ({mean})) / ({std}), padded right and "
            "below with 0, NCHW"
        )
    return metadata


def from_metadata(metadata: Mapping[str, str], path: Path) -> Header | None:
    """The header in the metadata of the file at ``path``; ``None`` if the file is not phidet's.

    Raises:
        CheckpointError: the file is newer than this phidet, of an architecture that is not installed, or damaged.
    """
    if metadata.get("format") != "phidet":
        return None
    # A newer file may mean other things by the same keys: refused, not guessed at.
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this phidet reads up to {VERSION}: pip install -U phidet"
        )
    try:
        # Version 1 knew two kinds of network only, by another key.
        name = metadata["architecture"] if int(version) > 1 else _OF_KIND[metadata["kind"]]
        text = metadata["config"]
        architecture = architecture_named(name)
    except KeyError as error:
        raise CheckpointError(f"{path} has a header that is not valid: no known {error.args[0]!r}") from error
    except UnknownNameError as error:
        raise CheckpointError(f"{path}: {error}. Is the package that has it installed?") from error
    try:
        # The config is checked as strictly as one made in Python: the file may come from anywhere.
        config = from_json(text, architecture.config_type)
        precision = msgspec.convert(metadata.get("precision", "fp32"), Precision)
        return Header(config, precision, _thresholds(metadata, config))
    except (ConfigError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} has a header that is not valid: {error}") from error


def exported_header(metadata: Mapping[str, str], path: Path) -> Header:
    """:func:`from_metadata` of an exported file.

    Raises:
        CheckpointError: also if the file is not phidet's.
    """
    header = from_metadata(metadata, path)
    if header is None:
        raise CheckpointError(
            f"{path} is not a phidet detector: its metadata names neither classes nor preprocessing. "
            "Export one with 'phidet export MODEL'"
        )
    return header


def _thresholds(metadata: Mapping[str, str], config: NetworkConfig) -> Thresholds | None:
    """Those in a header, which older files do not have."""
    if THRESHOLDS not in metadata:
        return None
    thresholds = from_json(metadata[THRESHOLDS], Thresholds)
    require(
        len(thresholds.scores) == config.num_classes,
        f"{len(thresholds.scores)} thresholds for {config.num_classes} classes",
    )
    return thresholds
