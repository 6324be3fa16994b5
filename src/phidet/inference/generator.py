"""Images from a trained generator, on any runtime: samples, mixtures, paths, and how far they are truncated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phidet.architectures.adversarial_config import GeneratorConfig
from phidet.core.errors import CheckpointError, ConfigError, MissingExtraError, UnknownNameError
from phidet.core.structs import require
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.open_model import find_model

Images = npt.NDArray[np.uint8]
_BATCH = 64  # images at a time


class GeneratorNetwork(Protocol):
    """A generator that a runtime has loaded."""

    @property
    def config(self) -> GeneratorConfig: ...

    @property
    def style_average(self) -> FloatArray:
        """The mean of w in training, (style_size,)."""

    def styles(self, latents: FloatArray, labels: FloatArray | None) -> FloatArray:
        """Latents (N, latent_size) and one-hot labels (N, classes), both fp32 → w (N, num_layers, style_size)."""

    def render(self, styles: FloatArray, noise: list[FloatArray] | None) -> FloatArray:
        """w, and noise for each layer (N, 1, H, W), or the stored one → images (N, 3, R, R), about −1 to 1."""


class ImageGenerator:
    """A trained generator.

    Args:
        network: as a runtime has loaded it; :func:`open_generator` finds it by name.
    """

    def __init__(self, network: GeneratorNetwork) -> None:
        self.network, self.config = network, network.config

    def latents(self, count: int, seed: int) -> FloatArray:
        """Normal latents (count, latent_size) fp32, the same for a seed everywhere.

        Raises:
            ConfigError: a negative seed.
        """
        require(seed >= 0, f"seed must be a whole number ≥ 0, got {seed}")
        # Not the stream of random numbers that noise takes: latents do not depend on its size, nor it on their number.
        return np.random.default_rng((seed, 0)).standard_normal((count, self.config.latent_size), np.float32)

    def styles(self, latents: FloatArray, class_ids: npt.ArrayLike | None = None, psi: float = 1.0) -> FloatArray:
        """w for each layer, (N, num_layers, style_size).

        Args:
            latents: z (N, latent_size).
            class_ids: (N,) or one for all; needed where the generator was trained with classes.
            psi: truncation: w moves towards its average, fully at 0; 1 for none.

        Raises:
            ConfigError: classes are missing, or there are none of that number; psi is not finite.
        """
        require(math.isfinite(psi), f"psi must be a number, got {psi}")
        styles = self.network.styles(latents.astype(np.float32), self._labels(len(latents), class_ids))
        average = self.network.style_average
        truncated: FloatArray = (average + np.float32(psi) * (styles - average)).astype(np.float32)
        # No truncation leaves the styles as they are, to the last bit.
        return styles if psi == 1.0 else truncated

    def images(self, styles: FloatArray, noise_seed: int | None = None) -> Images:
        """Images (N, R, R, 3) uint8 RGB.

        Args:
            styles: w for each layer.
            noise_seed: of noise for each image; ``None`` takes the one that is stored with the weights for all.
        """
        side = self.config.image_size_hw[0]
        parts = list(self.batches(styles, noise_seed))
        return np.concatenate(parts) if parts else np.zeros((0, side, side, 3), np.uint8)

    def batches(self, styles: FloatArray, noise_seed: int | None = None) -> Iterator[Images]:
        """:meth:`images`, some at a time: many large ones would not fit in memory."""
        rng = np.random.default_rng((noise_seed or 0, 1))
        for start in range(0, len(styles), _BATCH):
            part = styles[start : start + _BATCH]
            noise = None
            if noise_seed is not None:
                shapes = [(len(part), 1, side, side) for side in self.config.noise_sides]
                noise = [rng.standard_normal(shape, np.float32) for shape in shapes]
            yield _as_pixels(self.network.render(part, noise))

    def pixels(self, styles: FloatArray, noise_seed: int) -> FloatArray:
        """Images (N, 3, R, R) fp32 from about 0 to 255, neither rounded nor clamped, all with the same noise."""
        rng = np.random.default_rng((noise_seed, 1))
        noise = [rng.standard_normal((1, 1, side, side), np.float32) for side in self.config.noise_sides]
        return (self.network.render(styles, noise) + 1) * np.float32(127.5)

    def sample(self, count: int, seed: int = 0, class_ids: npt.ArrayLike | None = None, psi: float = 1.0) -> Images:
        """``count`` images (N, R, R, 3) uint8 RGB; the same for the same seed."""
        return self.images(self.styles(self.latents(count, seed), class_ids, psi), seed)

    def class_id(self, name: str | None) -> int | None:
        """The number of a class by its name; ``None`` where the generator takes none.

        Raises:
            UnknownNameError: it has no such class.
            ConfigError: it takes classes, and none was given.
        """
        names = self.config.class_names
        if name is None:
            if not self.config.labelled:
                return None
            raise ConfigError(f"{self.config.name} makes {', '.join(names)}: say which one with --class")
        by_name = {known.casefold(): i for i, known in enumerate(names)}
        if name.casefold() not in by_name:
            raise UnknownNameError(f"class of {self.config.name}", name, names)
        return by_name[name.casefold()]

    def _labels(self, count: int, class_ids: npt.ArrayLike | None) -> FloatArray | None:
        if not self.config.labelled:
            return None
        if class_ids is None:
            raise ConfigError(f"{self.config.name} makes {', '.join(self.config.class_names)}: choose a class")
        ids = np.broadcast_to(np.asarray(class_ids, np.int64), (count,))
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.config.num_classes:
            raise ConfigError(f"class ids must be 0…{self.config.num_classes - 1}, got {ids.min()}…{ids.max()}")
        return np.eye(self.config.num_classes, dtype=np.float32)[ids]


def mix(coarse: FloatArray, fine: FloatArray, layer: int) -> FloatArray:
    """Styles whose layers from ``layer`` on are those of ``fine``; both (N, num_layers, style_size)."""
    return np.concatenate([coarse[:, :layer], fine[:, layer:]], 1)


def open_generator(model: str | Path) -> ImageGenerator:
    """The generator in a file (.safetensors, or an export's .onnx) or a run's folder.

    Raises:
        CheckpointError: there is none, or the file holds another kind of model.
        MissingExtraError: a .safetensors file needs PyTorch, which is not installed.
    """
    path = find_model(model, ".safetensors")
    if path.suffix == ".onnx":
        runtime = import_module("phidet.inference.runtimes.onnx_generator")
        return ImageGenerator(runtime.OnnxGenerator(path))
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no generator: expected .safetensors, or .onnx as 'phidet export' writes it")
    if find_spec("torch") is None:
        raise MissingExtraError(f"running {path.name}", "train")
    return ImageGenerator(import_module("phidet.inference.runtimes.torch_generator").open_torch_generator(path))


def image_grid(images: Sequence[Images] | Images, columns: int, gap: int = 2) -> Images:
    """Images (N, H, W, 3) of one size as one, row by row, on white."""
    count, height, width = len(images), *np.asarray(images[0]).shape[:2]
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _as_pixels(images: FloatArray) -> Images:
    """(N, 3, H, W) from −1 to 1 → (N, H, W, 3) uint8, rounded as the official networks do."""
    return (images * 127.5 + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
