"""Whole pictures for a classifier: cut and resized at random in training, the middle of them in evaluation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.training.augmentation.detection import Example, finish
from phidet.training.augmentation.operations import Sample
from phidet.training.loading import EvalItem, TrainImages

_BORDER = 32  # pixels that ImageNet's evaluation leaves out of an input's side (1905.11946, official code)
_MOST_ASPECT = 4 / 3


def middle(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> Tensor:
    """(H, W, 3) → (3, h, w) uint8: the largest window of the input's shape in the middle, without a border."""
    height, width = image.shape[:2]
    side = min(height / (size_hw[0] + _BORDER), width / (size_hw[1] + _BORDER))
    window = max(1, round(side * size_hw[0])), max(1, round(side * size_hw[1]))
    return _cut(image, ((height - window[0]) // 2, (width - window[1]) // 2), window, size_hw)


def random_window(
    image: npt.NDArray[np.uint8], size_hw: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """(H, W, 3) → (3, h, w) uint8: a window anywhere, ``zoom`` times smaller than the largest, a little distorted."""
    height, width = image.shape[:2]
    side = min(height / size_hw[0], width / size_hw[1]) / rng.uniform(*zoom)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(_MOST_ASPECT) / 2)
    window = (
        min(max(1, round(side * size_hw[0] * aspect)), height),
        min(max(1, round(side * size_hw[1] / aspect)), width),
    )
    corner = int(rng.integers(height - window[0] + 1)), int(rng.integers(width - window[1] + 1))
    return _cut(image, corner, window, size_hw)


def _cut(
    image: npt.NDArray[np.uint8], corner: tuple[int, int], window: tuple[int, int], size_hw: tuple[int, int]
) -> Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    bicubic = InterpolationMode.BICUBIC
    cut: Tensor = F.resized_crop(pixels, *corner, *window, list(size_hw), interpolation=bicubic, antialias=True)
    return cut


class TrainPictures(TrainImages):
    """Augmented pictures, each with one object that fills it; ``scale_jitter`` is how far they are zoomed in."""

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        image, annotations = self._read(index, warn=epoch == 0)
        pixels = random_window(image, self.size_hw, self.settings.scale_jitter, rng)
        if rng.random() < self.settings.flip:
            pixels = pixels.flip(2)
        sample = Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))  # nothing in it can get lost
        example = finish(sample, self.size_hw, self.settings, rng)
        height, width = self.size_hw
        whole = torch.tensor([[0.0, 0.0, width, height]])
        return example._replace(boxes_xyxy=whole, class_ids=torch.from_numpy(annotations.class_ids[:1].copy()))


class EvalPictures(TorchDataset[EvalItem]):
    """The middle of pictures, normalised."""

    def __init__(self, dataset: Dataset, config: ClassifierConfig) -> None:
        self.dataset, self.config = dataset, config

    def __getitem__(self, index: int) -> EvalItem:
        try:
            image = self.dataset.image(index)
        except InputError as error:
            return index, str(error)
        return index, classifier_input(image, self.config), 1.0


def classifier_input(image: npt.NDArray[np.uint8], config: ClassifierConfig) -> Tensor:
    """(H, W, 3) RGB → (3, h, w) float32, what a classifier of ``config`` is evaluated on."""
    pixels = middle(image, config.image_size_hw).float()
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (config.preprocess.mean_rgb, config.preprocess.std_rgb)
    )
    return (pixels - mean) / std
