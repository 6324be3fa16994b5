"""How to train: every choice by name, in one place, saved with the run."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from phidet.architectures.base import Architecture
from phidet.core.errors import UnknownNameError
from phidet.core.structs import convert, require, require_one_of

Optimizer = Literal["sgd", "adamw"]
AugmentationPolicy = Literal["none", "v0", "v1", "v2", "v3", "randaugment"]
Schedule = Literal["cosine", "step"]
Sizes = Literal["jitter", "multi-scale"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random changes of the training images.

    ``sizes`` is how an image is resized. "jitter" draws a factor from the range ``scale_jitter``, beyond fitting into
    the input, and then cuts a window of the input's size (EfficientDet: 0.1–2). "multi-scale" draws from eleven sizes
    between 0.6 and 1 of the input, and with probability ``crop`` takes a random crop of the image first (DETR).
    ``antialias`` is whether "jitter" antialiases images that it makes smaller, and so does the trained network; by
    default as the model that training starts from.
    ``flip`` is the probability of a horizontal flip.
    ``colour`` is the strength of random brightness, contrast and saturation, 0 for none; ``hue`` that of its shift, in
    turns of the colour circle. ``policy`` is AutoAugment's for detection ("v0" to "v3", arXiv 1906.11172), or
    "randaugment" (arXiv 1909.13719): ``layers`` operations, one after the other, each of ``magnitude`` (0–10).
    ``mosaic`` is the probability that three other images share the input, ``grid_mask`` that of a grid of grey squares
    over it (arXiv 2001.04086). ``copy_paste`` is the probability that one to three objects of another image are put in,
    ``mixup`` that another image is laid over it; ``rotate`` is the largest angle in degrees and ``shear`` the largest
    slope by which all is turned and slanted. In the last ``plain_epochs`` epochs there are no mosaics, mixups and
    pasted objects. ``function`` names an augmentation of one's own, "module:function", see
    :mod:`phidet.training.augmentation.own`.
    Of relations: ``faults`` is the probability that one object of a right whole is taken away, moved, made another
    class's or doubled elsewhere, which makes the whole wrong.
    Of generators: ``adaptive`` augments what the discriminator sees (arXiv 2006.06676) so that the mean sign of its
    scores of real images stays there, 0 for not at all; ``adaptive_span`` is the number of images in which the
    probability may rise from 0 to 1.
    """

    sizes: Sizes = "jitter"
    scale_jitter: tuple[float, float] = (0.1, 2.0)
    antialias: bool | None = None
    crop: float = 0.0
    flip: float = 0.5
    colour: float = 0.0
    hue: float = 0.0
    policy: AugmentationPolicy = "none"
    layers: int = 1
    magnitude: float = 5.0
    mosaic: float = 0.0
    grid_mask: float = 0.0
    copy_paste: float = 0.0
    mixup: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    plain_epochs: int = 0
    function: str | None = None
    faults: float = 0.0
    adaptive: float = 0.0
    adaptive_span: float = 500_000

    def __post_init__(self) -> None:
        low, high = self.scale_jitter
        require(0 < low <= high <= 8, f"scale_jitter must be 0 < low ≤ high ≤ 8, got {self.scale_jitter}")
        require_one_of("sizes", self.sizes, Sizes)
        for key in ("flip", "crop", "mosaic", "grid_mask", "copy_paste", "mixup", "faults"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"{key} must be a probability, got {value}")
        require(0 <= self.colour <= 1, f"colour must be in 0…1, got {self.colour}")
        require(0 <= self.rotate <= 180, f"rotate must be in 0…180 degrees, got {self.rotate}")
        require(0 <= self.shear <= 1, f"shear must be a slope in 0…1, got {self.shear}")
        require(self.plain_epochs >= 0, f"plain_epochs must be a whole number ≥ 0, got {self.plain_epochs}")
        require(0 <= self.hue <= 0.5, f"hue must be in 0…0.5, got {self.hue}")
        require_one_of("augmentation policy", self.policy, AugmentationPolicy)
        require(self.layers >= 1, f"layers must be a whole number ≥ 1, got {self.layers}")
        require(0 <= self.adaptive < 1, f"adaptive must be in [0, 1), got {self.adaptive}")
        require(self.adaptive_span > 0, f"adaptive_span must be > 0, got {self.adaptive_span}")
        require(0 <= self.magnitude <= 10, f"magnitude must be in 0…10, got {self.magnitude}")


class Teaching(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a teacher's answers are used, if there is one.

    ``score`` is the lowest probability of its objects that are used. An object and a label that overlap by ``overlap``
    (IoU) are the same; ``weight`` is then the teacher's share in the target, the rest is the label's.
    """

    weight: float = 0.5
    score: float = 0.1
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for key in ("weight", "score", "overlap"):
            require(0 <= getattr(self, key) <= 1, f"teaching {key} must be in 0…1, got {getattr(self, key)}")


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to train.

    Attributes:
        name: what it is called in messages.
        epochs: passes over the data.
        batch_size: images per step, over all devices.
        optimizer: "sgd" with momentum 0.9, or "adamw".
        learning_rate: for 64 images; scaled linearly with the batch for SGD, with its square root for AdamW.
        weight_decay: on convolution kernels and matrices, on biases and norms only with ``decay_all``.
        warmup_epochs: over which the rate grows from a hundredth.
        schedule: "cosine" lets the rate fall to 0 along a cosine, "step" divides it by ten after the share ``step_at``
            of all epochs.
        ema_decay: of the running average of weights and statistics, which is what is evaluated and saved.
        clip_norm: largest norm of the gradient.
        accumulate: steps whose gradients are summed before an update.
        precision: of the arithmetic; weights and losses stay in 32 bits.
        drop_path: stochastic depth of the backbone; ``None`` leaves the model's own.
        freeze: "none"; "early" for the backbone up to level 2, which few images could improve; "backbone" to train
            only what comes after it; "detector" to train only what finds masks; or "auto", see :func:`frozen_for`.
            Statistics of frozen parts stay as they are.
        backbone_rate: factor of the learning rate for the backbone, which is pretrained already.
        layer_decay: rates by depth: factor of the learning rate of each of the backbone's blocks relative to the next
            one's; 1 for the same everywhere.
        sync_batch_norm: several processes normalise over their images together.
        batch_norm_momentum: how much of each batch goes into the running statistics, at least; more in a short run.
        augmentation: random changes of the training images.
        loss: settings of the architecture's own loss that differ from its defaults.
        class_balance: classes on a smaller share of the images than this come more often, see
            :func:`phidet.training.balance.repeat_factors`; 0 for none.
        teaching: the weight of a teacher, where there is one.
        patience: evaluations without a better AP after which training stops; ``None`` for never.
        evaluate_every: epochs between evaluations.
    """

    name: str
    epochs: int
    batch_size: int = 8
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2.4e-3
    weight_decay: float = 0.01
    decay_all: bool = False
    warmup_epochs: float = 1.0
    schedule: Schedule = "cosine"
    step_at: float = 2 / 3
    ema_decay: float = 0.9998
    clip_norm: float = 10.0
    accumulate: int = 1
    precision: Precision = "32-true"
    drop_path: float | None = None
    freeze: Literal["none", "early", "backbone", "detector", "auto"] = "none"
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    sync_batch_norm: bool = True
    batch_norm_momentum: float = 0.01
    augmentation: Augmentation = Augmentation()
    loss: dict[str, Any] = {}
    class_balance: float = 0.0
    teaching: Teaching = Teaching()
    patience: int | None = None
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "accumulate", "evaluate_every"):
            require(getattr(self, key) >= 1, f"{key} must be a whole number ≥ 1, got {getattr(self, key)}")
        require(self.patience is None or self.patience >= 1, f"patience must be ≥ 1 or null, got {self.patience}")
        for key in ("learning_rate", "clip_norm", "backbone_rate"):
            value = getattr(self, key)
            require(math.isfinite(value) and value > 0, f"{key} must be a number > 0, got {value}")
        require(0 < self.layer_decay <= 1, f"layer_decay must be in (0, 1], got {self.layer_decay}")
        momentum = self.batch_norm_momentum
        require(0 <= self.class_balance <= 1, f"class_balance must be in 0…1, got {self.class_balance}")
        require(0 < momentum <= 1, f"batch_norm_momentum must be in (0, 1], got {momentum}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        require_one_of("schedule", self.schedule, Schedule)
        require(0 < self.step_at <= 1, f"step_at must be in (0, 1], got {self.step_at}")
        require(self.weight_decay >= 0, f"weight_decay must be ≥ 0, got {self.weight_decay}")
        require(self.warmup_epochs >= 0, f"warmup_epochs must be ≥ 0, got {self.warmup_epochs}")


PAPER = Recipe(
    name="paper",
    epochs=300,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.08,
    weight_decay=4e-5,
    augmentation=Augmentation(scale_jitter=(0.1, 2.0)),
)
"""EfficientDet on COCO (1911.09070, section 5.1): 300 epochs, batch 128 on 32 devices."""

SMALL = Recipe(
    name="small",
    epochs=68,
    learning_rate=0.005,
    backbone_rate=0.5,
    weight_decay=0.05,
    augmentation=Augmentation(scale_jitter=(0.5, 1.5), colour=0.2, mosaic=0.25),
)
"""Hundreds to thousands of images, from an ImageNet backbone, on one device."""

CLASSIFY = Recipe(
    name="classify",
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    ema_decay=0.999,
    weight_decay=0.02,
    batch_norm_momentum=0.1,  # with EfficientNet's 0.01, statistics are still ImageNet's after a short run
    augmentation=Augmentation(scale_jitter=(1.0, 1.7), colour=0.2),
    loss={"label_smoothing": 0.1},
)
"""A classifier of hundreds to thousands of images, from ImageNet weights, on one device."""

RECIPES = {recipe.name: recipe for recipe in (PAPER, SMALL)}


def choose_recipe(num_images: int) -> Recipe:
    """The recipe for a data set of this size: about 20,000 images in total, between 30 and 100 epochs."""
    return replace(SMALL, {"epochs": min(max(round(20_000 / num_images), 30), 100)})


def frozen_for(num_images: int, pretrained: bool) -> Literal["none", "early", "backbone"]:
    """What ``freeze=auto`` means: the fewer images, the less can be learned anew without forgetting what was known.

    Nothing of a backbone that knows nothing yet; else all of it below 100 images, what comes before level 3 below 500.
    """
    if not pretrained or num_images >= 500:
        return "none"
    return "backbone" if num_images < 100 else "early"


def choose_classify_recipe(num_images: int) -> Recipe:
    """The recipe for a data set of this size: about 20,000 images in total, between 5 and 50 epochs."""
    # A tiny data set still needs several updates per epoch, and a batch norm more than a few images.
    batch_size = min(CLASSIFY.batch_size, max(4, num_images // 8))
    epochs = min(max(round(20_000 / num_images), 5), 50)
    return replace(CLASSIFY, {"epochs": epochs, "batch_size": batch_size})


def recipe_named(name: str, num_images: int, architecture: Architecture[Any] | None = None) -> Recipe:
    """``auto`` for :func:`choose_recipe`, one of :data:`RECIPES`, or one of the architecture's own.

    Where the architecture sets fields of a general recipe otherwise, those are in it.

    Raises:
        UnknownNameError: there is none.
    """
    known = ["auto", *RECIPES, *(architecture.recipe_names if architecture else ())]
    if name not in known:
        raise UnknownNameError("recipe", name, known)
    fields = dict(architecture.recipe_fields(name, num_images)) if architecture else {}
    general = choose_recipe(num_images) if name == "auto" else RECIPES.get(name)
    if general is None:
        # A recipe of the architecture's own changes no general one: its fields are all there is.
        general = Recipe(name=name, epochs=fields["epochs"])
    return replace(general, fields) if fields else general


def replace(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """``recipe`` with some fields changed, checked again.

    Args:
        recipe: is not changed.
        changes: new values by field; of ``augmentation`` and ``loss`` a dict of the fields that change, or a whole one.

    Raises:
        ConfigError: an invalid value.
        UnknownNameError: no such field.
    """
    # Through plain values: the conversion checks the types of the changes and runs __post_init__ again.
    return convert(_merged(recipe, msgspec.to_builtins(changes)), Recipe, "recipe")


def _merged(settings: msgspec.Struct, changes: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(settings)
    for key, value in changes.items():
        if key not in values:
            raise UnknownNameError("recipe key", key, values)
        # Nested settings are merged by key, so that a change of one field keeps the others.
        part = getattr(settings, key)
        if isinstance(part, msgspec.Struct) and isinstance(value, dict):
            value = _merged(part, value)
        elif isinstance(part, dict) and isinstance(value, dict):
            value = {**part, **value}  # the architecture knows its keys
        values[key] = value
    return values
