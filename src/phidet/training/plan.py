"""Resolves a request to train, once: what the model starts from, which recipe, which data."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from phidet.architectures.base import Architecture, resolved_loss
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of, published_config
from phidet.core.bundled import BUNDLED, bundled_file
from phidet.core.errors import ConfigError, DownloadError, InputError, UnknownNameError
from phidet.core.words import count
from phidet.data.dataset import Dataset
from phidet.data.run_images import read_run_images
from phidet.inference.described import open_detector
from phidet.inference.runtimes.open_model import model_file
from phidet.training.about import Origin, Request
from phidet.training.augmentation.own import OwnAugmentation, imported
from phidet.training.fit import RunSettings
from phidet.training.heads import KINDS as HEADS
from phidet.training.heads import check_masks, with_heads
from phidet.training.kinds import Kind, kind_of
from phidet.training.recipe import Recipe, frozen_for, replace
from phidet.training.run_data import RunData, record_images
from phidet.training.run_folder import RunFolder
from phidet.weights.create import build_from, fit_to_source, open_weights, parse_image_size, weights_path
from phidet.weights.load import Source, open_source
from phidet.weights.native import load_model, read_header

log = logging.getLogger("phidet")


class Plan(NamedTuple):
    """Everything that :func:`phidet.training.fit.fit` needs, and where it came from."""

    model: Model
    data: RunData
    recipe: Recipe
    settings: RunSettings
    origin: Origin
    own: OwnAugmentation | None = None


class Start(NamedTuple):
    """What a model starts from.

    Attributes:
        config: of the model, before the data's classes are put in.
        source: a model file that was opened, ``None`` for a published model.
        published: the published model's name.
    """

    config: Any
    source: Source | None
    published: str | None

    @property
    def architecture(self) -> Architecture[Any]:
        """Whose model it is."""
        return architecture_of(self.config)

    @property
    def kind(self) -> Kind:
        """How such models are trained."""
        return kind_of(self.architecture)


def open_start(model: str) -> Start:
    """Resolves ``model``: a published name, a model file or the folder of a run.

    Raises:
        UnknownNameError: a name that is not published.
        CheckpointError: a file that is none of phidet's, or damaged.
    """
    path = model_file(model)
    if path is None:
        return Start(published_config(model), None, model)
    source = open_source(path)
    if source.config is None:
        load_model(path)  # raises, and says how to convert it
    return Start(source.config, source, None)


def plan_run(
    request: Request, settings: RunSettings, start: Start | None = None, own: OwnAugmentation | None = None
) -> Plan:
    """Resolves ``request``: reads the data, chooses the recipe, builds the model.

    Args:
        request: what to train, on what.
        settings: where the run goes, seed, devices.
        start: of the request's model, where it was opened before.
        own: an augmentation; where the recipe names one, it need not be given.

    Raises:
        InputError: the data cannot be used.
        UnknownNameError, ConfigError: invalid settings.
        CheckpointError, DownloadError: weights that do not fit, or could not be fetched.
    """
    start = start or open_start(request.model)
    if request.teacher is not None and not start.architecture.learns_soft:
        raise ConfigError(
            f"{start.architecture.name} networks cannot learn a teacher's uncertain objects: leave out the teacher"
        )
    if request.detector and "relations" not in start.architecture.says:
        raise ConfigError(f"a detector is for networks that relate its detections, not for {request.model}")
    if request.appearance and "relations" not in start.architecture.says:
        raise ConfigError(f"an appearance is for networks that relate detections, not for {request.model}")
    if request.unlabelled is not None and request.teacher is None:
        raise ConfigError("images without labels would be learned as empty: name a teacher that labels them")
    # What can be wrong without the data is said before these are read, which may take minutes.
    if request.image_size is not None:
        start.architecture.resized(start.config, parse_image_size(request.image_size))
    if request.teacher is not None:
        open_detector(request.teacher, threads=1)
    # Data before the model: the number of images chooses the recipe, and the classes decide the head.
    data = start.kind.read(request, settings.seed if request.split_seed is None else request.split_seed, None)
    start = start._replace(config=start.kind.adapt(start.config, data, request))
    recipe, own = with_own(_recipe(request, start, len(data.train)), own)
    request = choose_start(request, start)
    model = _build(request, start, data.train, recipe, settings.seed)
    if model.config.preprocess.antialias:  # the recipe's, or that of the weights: training resizes as the network will
        recipe = replace(recipe, {"augmentation": {"antialias": True}})
    # Hashing all images takes a while; only the process that writes the run folder needs the record.
    images = record_images(data, request.model) if _leads() else None
    return Plan(model, data, recipe, settings, Origin(request.with_absolute_paths(), images), own)


def with_own(recipe: Recipe, own: OwnAugmentation | None) -> tuple[Recipe, OwnAugmentation | None]:
    """The recipe of a new run and its augmentation by the user's own function; whatever names it was given by the user.

    Raises:
        ConfigError: the function cannot be imported.
    """
    if own is None:
        name = recipe.augmentation.function
        return recipe, None if name is None else imported(name)
    return replace(recipe, {"augmentation": {"function": own.name}}), own


def plan_resume(
    folder: Path, settings: RunSettings, data: str | Path | None = None, own: OwnAugmentation | None = None
) -> Plan:
    """Resolves how the run in ``folder`` goes on: by its own request, recipe and seed.

    Raises:
        CheckpointError: there is no run, or it is damaged.
        ConfigError: it was begun with a task of one's own.
        InputError: the data are other than they were, or no longer there.
    """
    kept = RunFolder(folder)
    about = kept.read_about()
    if about.request is None:
        raise ConfigError(f"the run in {folder} was begun in Python: call phidet.training.fit.fit with resume=True")
    _check_own(about.recipe.augmentation.function, own, folder)
    request = _moved(about.request, folder, data)
    begun_with: dict[str, Any] = {"out": folder, "seed": about.seed, "resume": True}
    # What either the run began with or this call asks for.
    begun_with |= {key: getattr(settings, key) or getattr(about, key) for key in ("save_memory", "compile")}
    settings = msgspec.structs.replace(settings, **begun_with)
    # Only the architecture and config matter: the weights are replaced by those of the saved state.
    begun = load_model(folder / "last.safetensors").train() if kept.has_begun else None
    start = open_start(request.model) if begun is None else Start(begun.config, None, None)
    recipe = _known_loss(about.recipe, start.architecture)
    images = read_run_images(folder)
    datasets = start.kind.read(request, about.seed, images)
    start = start._replace(config=start.kind.adapt(start.config, datasets, request))
    model = begun or _build(request, start, datasets.train, recipe, about.seed)
    # Class ids are positions: other names or another count would silently relabel every object.
    here = len(datasets.train), tuple(datasets.train.class_names)
    if here != (about.num_images, tuple(model.config.class_names)):
        raise InputError(
            f"{request.data} has {here[0]} images of {len(here[1])} classes to train on, the run began with "
            f"{about.num_images} of {len(model.config.class_names)}, or of other names: put the data back as they "
            f"were, or begin another run with --model {folder}"
        )
    # The data were moved: the run folder keeps the new place, so that the next resume finds it.
    if request != about.request and _leads():
        kept.save_about(msgspec.structs.replace(about, request=request))
    return Plan(model, datasets, recipe, settings, Origin(request, images), own)


def _check_own(name: str | None, own: OwnAugmentation | None, folder: Path) -> None:
    """A name in a run's folder is never imported by itself: the folder may come from anywhere, and importing runs code.

    Raises:
        ConfigError: the run was begun with another augmentation than is given.
    """
    given = None if own is None else own.name
    if given == name:
        return
    if name is None:
        raise ConfigError(f"the run in {folder} has no augmentation of its own: leave {given} out")
    raise ConfigError(
        f"the run in {folder} was begun with the augmentation {name}: name it again, --augment {name}, or pass the "
        f"function as augment" + ("" if given is None else f"; got {given}")
    )


def _moved(request: Request, folder: Path, data: str | Path | None) -> Request:
    """The request of the run in ``folder``, with its data where they are now."""
    if data is not None:
        return request.moved_to(data)
    if not Path(request.data).exists():
        raise InputError(
            f"the data of the run in {folder} are no longer at {request.data}: bring them back, or name their new "
            f"place: phidet train NEW_PLACE --resume {folder}"
        )
    return request


def _known_loss(recipe: Recipe, architecture: Architecture[Any]) -> Recipe:
    """``recipe`` without settings of another architecture's loss: version 0.1 kept EfficientDet's in every run."""
    loss = {key: value for key, value in recipe.loss.items() if key in architecture.loss_settings}
    return msgspec.structs.replace(recipe, loss=loss)


def _recipe(request: Request, start: Start, num_images: int) -> Recipe:
    recipe = replace(start.kind.recipe(request.recipe, num_images, start.architecture), request.changes)
    if recipe.freeze == "auto":
        pretrained = start.source is not None or request.pretrained != "none"
        frozen = frozen_for(num_images, pretrained)
        why = count(num_images, "image") if pretrained else "a network that starts from nothing"
        log.info("freeze=auto: %s, for %s", frozen, why)
        recipe = replace(recipe, {"freeze": frozen})
    return replace(recipe, {"loss": resolved_loss(start.architecture, recipe.loss)})  # kept with the run, defaults too


def _build(request: Request, start: Start, data: Dataset, recipe: Recipe, seed: int) -> Model:
    """The model for the classes of ``data``, with the weights that it starts from."""
    torch.manual_seed(seed)  # of fresh weights, in every process the same
    architecture, config, source = start.architecture, start.config, start.source
    pretrained = _pretrained(request.pretrained, architecture)
    if source is None and pretrained is not None:
        source = open_weights(pretrained, config, start.published)
        # Weights of a whole detector fix anchors and preprocessing; a backbone alone has no say in them.
        if source.architecture is architecture:
            size = config.image_size_hw
            config = fit_to_source(config, source)  # its anchors and preprocessing
            if pretrained in BUNDLED:  # a network for somebody's own objects keeps its own size
                config = architecture.resized(config, size)
    # Those of the weights: classes of the same name keep their rows of the head.
    held_names = config.class_names
    config = architecture.for_classes(config, data.class_names)
    stuff = [data.class_names[i] for i in sorted(data.stuff)]
    heads = [head for head in HEADS if getattr(request, head)]
    config = with_heads(config, heads, stuff)
    check_masks(config, bool(heads), data, request.data)
    if request.image_size is not None:
        config = architecture.resized(config, parse_image_size(request.image_size))
    if recipe.drop_path is not None:
        config = architecture.with_drop_path(config, recipe.drop_path)
    if recipe.augmentation.antialias is not None:
        config = with_antialias(architecture, config, recipe.augmentation.antialias)
    return build_from(config, source, replace_head=True, held_names=held_names)


def with_antialias(architecture: Architecture[Any], config: Any, antialias: bool) -> Any:
    """``config`` of a network whose images are antialiased when they are made smaller, or are not.

    Raises:
        ConfigError: the architecture prepares images in a way of its own.
    """
    if "boxes" not in architecture.says or type(architecture).prepare is not Architecture.prepare:
        raise ConfigError(f"{config.name} prepares images in one way only: leave augmentation.antialias out")
    return msgspec.structs.replace(config, preprocess=msgspec.structs.replace(config.preprocess, antialias=antialias))


def choose_start(request: Request, start: Start) -> Request:
    """``request`` with a word for where its model starts, in place of "auto"; the choice is logged.

    Detection weights are the better start, so they come first: COCO's, else those of a bundled detector of the same
    network, and the backbone's where there are none.
    """
    if request.pretrained != "auto":
        return request
    architecture, why = start.architecture, ""
    if start.source is None and "coco" in architecture.pretrained_words:
        try:
            path = weights_path("coco", architecture, start.config, start.published)
        except (DownloadError, UnknownNameError, ConfigError) as error:
            why = f", because detection weights of COCO cannot be had: {str(error).partition('. Or bring')[0]}"
        else:
            log.info("%s starts from detection weights of COCO, %s (pretrained: coco)", request.model, path)
            return msgspec.structs.replace(request, pretrained="coco")
        bundled = _bundled_start(architecture, start.config)
        if bundled is not None:
            log.info("%s starts from the %s detector (pretrained: %s)%s", request.model, bundled, bundled, why)
            return msgspec.structs.replace(request, pretrained=bundled)
    if start.source is None and architecture.pretrained_words:
        log.info("%s starts from ImageNet weights of its backbone (pretrained: backbone)%s", request.model, why)
    return msgspec.structs.replace(request, pretrained="backbone")


def _bundled_start(architecture: Architecture[Any], config: Any) -> str | None:
    """The bundled detector that is the same network, but for its input's size and its classes."""
    for name in BUNDLED:
        header = read_header(bundled_file(name, ".safetensors"))
        assert header is not None
        alike = header.architecture is architecture
        if alike and architecture.weights_key(header.config) == architecture.weights_key(config):
            return name
    return None


def _pretrained(word: str, architecture: Architecture[Any]) -> str | None:
    """Where the weights of a published model start; the usual word is understood by every architecture."""
    if word == "none":
        return None
    if word == "backbone" and word not in architecture.pretrained_words:
        return "imagenet" if "imagenet" in architecture.pretrained_words else None
    return word


def _leads() -> bool:
    """Whether this process is the first one, known before the engine starts: ``torchrun`` and Fabric set variables."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
