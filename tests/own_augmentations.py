"""Augmentations as users write them, for the tests; importable, so that other processes find them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from phidet.training.augmentation.own import LabelledImage


def turned_over(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    """Upside down, and brighter by chance."""
    height = labelled.image.shape[0]
    x1, y1, x2, y2 = labelled.boxes_xyxy.T
    image = np.clip(labelled.image[::-1].astype(np.float32) + rng.uniform(0, 9), 0, 255).astype(np.uint8)
    masks = None if labelled.masks is None else labelled.masks[:, ::-1]
    return LabelledImage(image, np.stack([x1, height - y2, x2, height - y1], 1), labelled.class_ids, masks)


def same(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    return labelled


class Shifted:
    """One with settings, as a class; by whole pixels to the right."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
        width = labelled.image.shape[1]
        boxes = np.clip(labelled.boxes_xyxy + np.float32([self.pixels, 0, self.pixels, 0]), 0, width)
        return labelled._replace(image=np.roll(labelled.image, self.pixels, 1), boxes_xyxy=boxes)


shifted = Shifted(5)


def fails_elsewhere(labelled: LabelledImage, rng: np.random.Generator) -> Any:
    """Only in processes that load images."""
    if os.getpid() != PARENT:
        raise RuntimeError("no lamp")
    return labelled


PARENT = os.getpid()
not_a_function = 3
