"""A sheet of training images before and after augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from phidet.architectures.base import NetworkConfig
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import convert
from phidet.core.words import count
from phidet.data.dataset import Dataset
from phidet.data.doctor.sheets import choose_samples, sample_tile
from phidet.detections.sheet import Tile, class_legend, draw_sheet, write_sheet
from phidet.training.augmentation.detection import Example
from phidet.training.augmentation.own import imported
from phidet.training.loading import TrainImages
from phidet.training.recipe import Augmentation

IMAGES, EPOCHS = 5, 3


def change_augmentation(settings: Augmentation, changes: Sequence[str]) -> Augmentation:
    """``settings`` with changes as the command line gives them: "policy=v1", "scale_jitter=0.5,2".

    Raises:
        UnknownNameError: no such field.
        ConfigError: not KEY=VALUE, or an invalid value.
    """
    fields: dict[str, object] = msgspec.to_builtins(settings)
    for change in changes:
        # A bare MODULE:FUNCTION is a function of one's own, as for phidet train --augment.
        named = change if "=" in change or ":" not in change else f"function={change}"
        key, equals, value = named.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, as in policy=v1, or MODULE:FUNCTION, got {change!r}")
        if key not in fields:
            raise UnknownNameError("augmentation key", key, fields)
        # Values stay text: the lenient conversion below parses numbers by the field's type.
        fields[key] = value.split(",") if "," in value else value
    return convert(fields, Augmentation, "augmentation", strict=False)


def augmented_sheet(dataset: Dataset, config: NetworkConfig, settings: Augmentation, seed: int) -> Image.Image:
    """A row for each of some images: the original, and its augmentations in three epochs of a run of ``seed``."""
    varying = architecture_of(config).has_varying_size(config)
    images = TrainImages(dataset, config.image_size_hw, settings, seed, varying=varying)
    images.own = None if settings.function is None else imported(settings.function)
    tiles = []
    # The examples come from the loader's own class, so the sheet shows exactly what training gets.
    for index in choose_samples(dataset, set(), seed, IMAGES):
        tiles.append(sample_tile(dataset, index))
        tiles += [
            _tile(images[epoch, index], dataset.class_names, config, f"epoch {epoch + 1}") for epoch in range(EPOCHS)
        ]
    heading = f"{dataset.name}, as the network sees it"
    return draw_sheet(heading, tiles, columns=1 + EPOCHS, legend=class_legend(dataset.class_names))


def write_augmented(dataset: Dataset, config: NetworkConfig, settings: Augmentation, out: Path, seed: int) -> Path:
    """Writes ``augmented.png`` into the folder ``out``; returns its path."""
    return write_sheet(augmented_sheet(dataset, config, settings, seed), out / "augmented.png")


def _tile(example: Example, class_names: Sequence[str], config: NetworkConfig, title: str) -> Tile:
    pixels = example.pixels.permute(1, 2, 0).numpy().copy()
    height, width = example.valid_hw
    padding = np.array(config.preprocess.mean_rgb).round().astype(np.uint8)  # normalised, it is 0
    pixels[height:], pixels[:, width:] = padding, padding
    ids = example.class_ids.tolist()
    names = ["" if class_legend(class_names) else class_names[i] for i in ids]
    return Tile(
        title, f"{count(len(ids), 'object')}, image {width}×{height}", pixels, example.boxes_xyxy.numpy(), names, ids
    )


def describe(settings: Augmentation) -> str:
    """What may happen, in a line."""
    low, high = settings.scale_jitter
    jitters = settings.sizes == "jitter"
    said = (
        [f"size ×{low:g}–{high:g}"]
        if jitters
        else ["size ×0.6–1", *([f"crop {settings.crop:g}"] * (settings.crop > 0))]
    )
    keys = ("flip", "colour", "hue", "mosaic", "copy_paste", "mixup", "rotate", "shear", "grid_mask")
    values = [(key, getattr(settings, key)) for key in keys]
    said += [f"{key.replace('_', ' ')} {value:g}" for key, value in values if value]
    if settings.policy == "randaugment":
        said.append(f"RandAugment {settings.layers} × {settings.magnitude:g}")
    elif settings.policy != "none":
        said.append(f"AutoAugment {settings.policy}")
    if settings.function is not None:
        said.append(settings.function)
    if settings.plain_epochs:
        said.append(f"in a run's last {count(settings.plain_epochs, 'epoch')} one image at a time")
    return ", ".join(said)
