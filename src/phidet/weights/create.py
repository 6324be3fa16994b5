"""Building models: by published name, by φ, from a config, with or without weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from phidet.architectures.base import Architecture
from phidet.architectures.classifier.architecture import CLASSIFIER
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.config import check_class_names, default_class_names
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.published import Family, family_of
from phidet.architectures.model import Model
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.registry import architecture_of, family_owner, published_config, published_names, publisher_of
from phidet.core.bundled import BUNDLED, bundled_file
from phidet.core.errors import CheckpointError, ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.weights.download import fetch
from phidet.weights.load import Source, load_into, open_source

log = logging.getLogger("phidet")


def create_model(
    model: Any | None = None,
    *,
    phi: float | None = None,
    family: str | Family | None = None,
    num_classes: int | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    image_size: int | tuple[int, int] | None = None,
    pretrained: str | Path | None = None,
    replace_head: bool = False,
) -> Model:
    """A detector, ready to train or to run.

    Args:
        model: a published name ("efficientdet-d0" … "-d7x", "efficientdet-lite0" … "-lite4", "-lite3x"), or a config
            of any architecture, which is built as it is: ``pretrained`` brings weights to it, and nothing else but the
            anchor aspects of a foreign file where the config has the default ones.
        phi: instead of a name, the compound coefficient, −2 to 10, whole or not; 0 is D0, −1 is half as expensive.
        family: what ``phi`` scales: a name from ``phidet.architectures.efficientdet.published.FAMILIES``
            ("efficientdet" unless given), "setdet" or "setdet-lite", or a ``Family`` of your own.
        num_classes: real classes, without background. Left out: those of ``pretrained``, else COCO's 90 slots.
        class_names: their names, in the order of their ids; implies ``num_classes``.
        image_size: input side, or (height, width), in pixels, stored in the config. Any size works in ``forward``.
        pretrained: a weight file of any known dialect, "person" for the bundled detector, "backbone" for a published
            ImageNet backbone, or "coco" for the published detector. Only the last two may download, into
            ``phidet.core.files.cache_dir()``.
        replace_head: keep the rows of the class predictor for classes that the file has under the same name, and start
            the others fresh.

    Raises:
        UnknownNameError: no such name; the nearest ones are in the message.
        ConfigError: invalid settings.
        CheckpointError: weights that do not fit.
        DownloadError: published weights that could not be fetched.
    """
    _check_one_of(model, phi, family, "efficientdet-d0")
    if phi is not None:
        base = (family_owner(family) if isinstance(family, str) else EFFICIENTDET).scaled_config(phi, family)
    else:
        base = _config(model, EFFICIENTDET)
    if "classes" in architecture_of(base).says:
        _check_type(model, EFFICIENTDET)
        raise ConfigError(f"{base.name!r} is a classifier: use create_classifier({base.name!r}), or a detector's name")
    wanted = _Wanted(_class_names(num_classes, class_names), class_names is None, image_size, pretrained, replace_head)
    return _create(base, model, wanted)


def create_classifier(
    model: str | ClassifierConfig | None = None,
    *,
    phi: float | None = None,
    family: str | Family | None = None,
    num_classes: int | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    image_size: int | tuple[int, int] | None = None,
    pretrained: str | Path | None = None,
    replace_head: bool = False,
) -> Model:
    """An image classifier: EfficientNet B0–B8 and Lite0–4, ResNet, MobileNetV2, or any φ of them.

    Args:
        model: a published name ("efficientnet-b0", "efficientnet-lite0", "resnet50", …) or a config.
        phi: instead of a name, the compound coefficient of EfficientNet's eq. 3.
        family: whose architecture and α, β, γ ``phi`` scales; see :func:`create_model`.
        num_classes: number of classes. Left out: those of ``pretrained``, else 1,000.
        class_names: their names; implies ``num_classes``.
        image_size: input side, or (height, width), in pixels; the model's own unless given.
        pretrained: a weight file of any known dialect, or "imagenet" for the published weights.
        replace_head: as for :func:`create_model`, of the last layer.

    Raises:
        UnknownNameError, ConfigError, CheckpointError, DownloadError: as :func:`create_model`.
    """
    _check_one_of(model, phi, family, "efficientnet-b0")
    if phi is not None:
        scaled = family_of(family)
        base: Any = CLASSIFIER.scaled_config(phi, (scaled.architecture, scaled.compound))
    else:
        base = _config(model, CLASSIFIER)
    if "classes" not in architecture_of(base).says:
        _check_type(model, CLASSIFIER)
        raise ConfigError(f"{base.name!r} is a detector: use create_model({base.name!r}), or a classifier's name")
    wanted = _Wanted(_class_names(num_classes, class_names), class_names is None, image_size, pretrained, replace_head)
    return _create(base, model, wanted)


class _Wanted(NamedTuple):
    """The caller's choices.

    Attributes:
        names: of the classes, ``None`` for those of the file or the published model.
        only_counted: the names stand for a bare number of classes.
        image_size, pretrained, replace_head: see :func:`create_model`.
    """

    names: tuple[str, ...] | None
    only_counted: bool
    image_size: int | tuple[int, int] | None
    pretrained: str | Path | None
    replace_head: bool


def _create(base: Any, model: object, wanted: _Wanted) -> Model:
    """A model of ``base``, adapted to its weights and to what was asked for."""
    architecture, published = architecture_of(base), model if isinstance(model, str) else None
    source = None if wanted.pretrained is None else open_weights(wanted.pretrained, base, published)
    config, names, held = base, wanted.names, None
    # Weights of another architecture are its backbone: they say nothing about classes or anchors.
    if source is not None and source.architecture is architecture:
        fitted = fit_to_source(base, source)
        held = fitted.class_names
        if model is None or published is not None:
            config = fitted
        elif source.config is None:  # the caller's config, except for settings that the weights were trained with
            config = replace(fitted, {"class_names": base.class_names})
        if wanted.only_counted and names is not None and len(names) == config.num_classes:
            names = config.class_names  # the count agrees with the file, which also has names
    if names is not None:
        config = replace(config, {"class_names": names})
    if wanted.image_size is not None:
        config = architecture.resized(config, parse_image_size(wanted.image_size))
    return build_from(config, source, wanted.replace_head, held)


def build_from(
    config: Any, source: Source | None, replace_head: bool = False, held_names: Sequence[str] | None = None
) -> Model:
    """A network of ``config`` as it is, with the weights of ``source``, or fresh ones; see :func:`load_into`.

    Raises:
        CheckpointError: weights that do not fit.
    """
    network = architecture_of(config).build(config)
    if source is not None:
        report = load_into(network, source, replace_head, held_names)
        fresh = report.fresh or (report.carried is not None and report.carried.fresh)
        # A warning is shown by default: a predictor that starts fresh finds nothing before it is trained.
        log.log(logging.WARNING if fresh else logging.INFO, "%s: %s", config.name, report)
    return network


def open_weights(pretrained: object, config: Any, published: str | None = None) -> Source:
    """The weights that ``pretrained``, a path or a word of the architecture, means; see :func:`weights_path`."""
    return open_source(weights_path(pretrained, architecture_of(config), config, published))


def weights_path(
    pretrained: object, architecture: Architecture[Any], config: Any, published: str | None = None
) -> Path:
    """The weight file that ``pretrained`` means, downloaded if need be.

    Args:
        pretrained: a path, the name of a bundled detector, or one of the architecture's words.
        architecture, config: of the model that starts from it.
        published: the model's published name, where it was chosen by it.

    Raises:
        ConfigError: something else, or a word of another architecture.
        DownloadError: published weights that could not be fetched.
    """
    # A word goes before a file of that name; ./coco still means the file.
    words = architecture.pretrained_words
    if isinstance(pretrained, str) and pretrained in words:
        file = architecture.pretrained_file(config, pretrained, published)
        assert file is not None
        return local_or_fetched(file)
    if isinstance(pretrained, str) and pretrained in BUNDLED:
        return bundled_file(pretrained, ".safetensors")
    # A text that looks like no file and is none was meant as a word.
    no_file = isinstance(pretrained, str) and pretrained == Path(pretrained).stem and not Path(pretrained).exists()
    foreign = isinstance(pretrained, str) and pretrained in ("backbone", "coco", "imagenet")
    if foreign or no_file or not isinstance(pretrained, str | Path):
        choices = " or ".join(f'"{word}"' for word in (*words, *BUNDLED) if words) or "None"
        raise ConfigError(f"pretrained must be the path of a weight file, or {choices}, got {pretrained!r}")
    return Path(pretrained)


def local_or_fetched(file: PublishedFile) -> Path:
    """A published file: from an installed package that carries it, else the cache or a download."""
    spec = find_spec(file.package) if file.package else None  # finds the package without importing it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder, "models").glob("*.pth")):
            return path
    return fetch(file)


def parse_image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """An input size as (height, width) in pixels.

    Raises:
        ConfigError: not one or two whole numbers ≥ 1.
    """
    # A bool is an int for Python, and True would be a size of 1.
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
        raise ConfigError(f"image_size must be a whole number or (height, width) in pixels, got {size!r}")
    return sides[0], sides[1]


def _config(model: object, usual: Architecture[Any]) -> Any:
    """The config that ``model``, a published name or a config, means; unknown names are compared with ``usual``'s."""
    if not isinstance(model, str):
        try:
            architecture_of(model)
        except ConfigError:  # says that no architecture knows this type; here it is said what was expected
            _check_type(model, usual)
        return model
    if publisher_of(model) is None:
        raise UnknownNameError("model", model, published_names("classes" if "classes" in usual.says else "boxes"))
    return published_config(model)


def _check_type(model: object, usual: Architecture[Any]) -> None:
    """Raises ConfigError where ``model`` is no name: it is a config of another kind, or none at all."""
    if not isinstance(model, str):
        kind = usual.config_type.__name__
        raise ConfigError(f"model must be a published name or a {kind}, got a {type(model).__name__}")


def _check_one_of(model: object, phi: float | None, of: object, example: str) -> None:
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


def fit_to_source(config: Any, source: Source) -> Any:
    """``config`` with the classes and other settings stored in a file of the same architecture.

    Raises:
        CheckpointError: the file is one of ours and holds another network.
    """
    if source.config is None:
        return source.adapt(config)
    if source.architecture.weights_key(source.config) != source.architecture.weights_key(config):
        raise CheckpointError(
            f"{source.path} holds {source.config.name}, which is another network than {config.name}: "
            f"load it as it is with phidet.load_model({str(source.path)!r})"
        )
    return source.architecture.start_config(config, source.config)
