"""Turns a weight file of any known dialect into phidet's own, or one of ours into a dialect."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.classifier.published import CLASSIFIER_NAMES, classifier_config
from phidet.architectures.dialects import DIALECTS, Config
from phidet.architectures.efficientdet.config import ASPECTS_2020, ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.efficientdet.published import DETECTOR_NAMES, detector_config
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.weights.load import Source, adapt_classifier_config, adapt_config, load_into, open_source
from phidet.weights.mapping import check_shapes, to_ours, to_theirs, weights_of
from phidet.weights.native import save_model, write_atomically

TARGETS = ("phidet", "effdet", "zylo117", "timm", "lukemelas", "torchvision")


class ConvertReport(NamedTuple):
    """What a conversion read and wrote; ``note`` is what the reader of the new file should know, or empty."""

    source: Path
    kind: str
    model: str
    target: Path
    to: str
    tensors: int
    note: str


def convert(source: str | Path, target: str | Path, model: str | None = None, to: str = "phidet") -> ConvertReport:
    """Reads ``source``, whatever its dialect, and writes ``target``, atomically.

    Args:
        source: a weight file of phidet or of a known dialect.
        target: the file to write: ``.safetensors`` for phidet, ``.pth`` for the others.
        model: the published name, where the tensors fit several (d6 and d7) or should be checked.
        to: "phidet" or a PyTorch dialect.

    Raises:
        UnknownNameError: no such model or dialect.
        ConfigError: the target has another suffix, or is the source itself.
        CheckpointError: the file cannot be read, fits no published model, fits several, or cannot be written.
    """
    source, target = Path(source), Path(target)
    if to not in TARGETS:
        raise UnknownNameError("dialect to write", to, TARGETS)
    suffix = ".safetensors" if to == "phidet" else ".pth"
    if target.suffix != suffix:
        raise ConfigError(f"a {to} file is written as {suffix}, got {target.name!r}: name it {target.stem}{suffix}")
    opened = open_source(source)
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the file to read: the source stays as it is, so name another file to write")
    config = identify(opened, model)
    if model is not None and config.name != model:
        raise CheckpointError(f"{source} holds {config.name}, not {model}")
    network = EfficientDet(config) if isinstance(config, ModelConfig) else Classifier(config)
    load_into(network, opened)
    tensors = weights_of(network)
    if to == "phidet":
        save_model(network, target)
    else:
        buffer = io.BytesIO()
        torch.save(to_theirs(tensors, DIALECTS[to], config), buffer)
        write_atomically(target, buffer.getvalue())
    return ConvertReport(source, opened.kind, config.name, target, to, len(tensors), _note(config, to))


def _note(config: Config, to: str) -> str:
    if to == "phidet" or not DIALECTS[to].anchors_2020 or not isinstance(config, ModelConfig):
        return ""
    if config.anchors.aspects_wh == ASPECTS_2020:
        return ""
    return (
        f"{to} files do not carry anchors, and {to} assumes aspects (1.4, 0.7); this model was made for "
        f"{config.anchors.aspects_wh[1:]}: set them there"
    )


def identify(source: Source, model: str | None = None) -> Config:
    """The config inside the file, or of the one published model that its tensors fit.

    Raises:
        CheckpointError: none fits, or several do.
    """
    if source.config is not None:
        return source.config
    names = DETECTOR_NAMES if source.is_detector else CLASSIFIER_NAMES
    build: Callable[[Source, str], Config] = _detector_like if source.is_detector else _classifier_like
    if model is not None:
        if model not in names:
            raise UnknownNameError("model", model, names)
        return build(source, model)
    fitting = [config for name in names if _fits(source, config := build(source, name))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise CheckpointError(
            f"{source.path} ({source.kind}) fits no published model: build its config and load it with "
            "create_model(config, pretrained=...), or name the nearest model to see what differs"
        )
    found = " and ".join(config.name for config in fitting)
    raise CheckpointError(f"{source.path} ({source.kind}) fits {found} alike: say which one it is (--model NAME)")


def _detector_like(source: Source, name: str) -> ModelConfig:
    return adapt_config(detector_config(name), source)


def _classifier_like(source: Source, name: str) -> ClassifierConfig:
    return adapt_classifier_config(classifier_config(name), source)


def _fits(source: Source, config: Config) -> bool:
    if source.dialect is None:
        return False
    with torch.device("meta"):
        network = EfficientDet(config) if isinstance(config, ModelConfig) else Classifier(config)
    like = weights_of(network)
    mapped = to_ours(source.tensors, source.dialect, config, like)
    complete = not mapped.missing and len(mapped.tensors) == len(like)
    return complete and not mapped.unexpected and not check_shapes(mapped.tensors, like)
