"""Random crops of whole images for training a classifier; evaluation uses their centre."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phidet.architectures.classifier.middle import cut
from phidet.training.augmentation.detection import Example, finish
from phidet.training.augmentation.operations import Sample
from phidet.training.loading import TrainImages

_MOST_ASPECT = 4 / 3


def random_window(
    image: npt.NDArray[np.uint8], size_hw: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """(H, W, 3) → (3, h, w) uint8: a random window, ``zoom`` times smaller than the largest, slightly distorted."""
    height, width = image.shape[:2]
    side = min(height / size_hw[0], width / size_hw[1]) / rng.uniform(*zoom)
    # Uniform in the logarithm, so that wide and tall windows are equally likely.
    aspect = math.exp(rng.uniform(-1, 1) * math.log(_MOST_ASPECT) / 2)
    window = (
        min(max(1, round(side * size_hw[0] * aspect)), height),
        min(max(1, round(side * size_hw[1] / aspect)), width),
    )
    corner = int(rng.integers(height - window[0] + 1)), int(rng.integers(width - window[1] + 1))
    return cut(image, corner, window, size_hw)


class TrainWholeImages(TrainImages):
    """Augmented images, each with one object that fills it; ``scale_jitter`` is the range of the zoom."""

    def _needed_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        return image_hw  # the window may be a small part of it

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        image, annotations = self._read(index, warn=epoch == 0)
        pixels = random_window(image, self.size_hw, self.settings.scale_jitter, rng)
        if rng.random() < self.settings.flip:
            pixels = pixels.flip(2)
        sample = Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))  # nothing in it can get lost
        if self.own is not None:
            sample = self.own(sample, self.size_hw, len(self.dataset.class_names), rng)
        example = finish(sample, self.size_hw, self.settings, rng)
        height, width = self.size_hw
        # The batch format is that of detection: the class is carried by one box that covers the input.
        whole = torch.tensor([[0.0, 0.0, width, height]])
        return example._replace(boxes_xyxy=whole, class_ids=torch.from_numpy(annotations.class_ids[:1].copy()))
