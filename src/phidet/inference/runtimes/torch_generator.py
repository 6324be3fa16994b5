"""Generators on PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from phidet.architectures.adversarial import GeneratorModel
from phidet.architectures.registry import architecture_of
from phidet.core.errors import CheckpointError
from phidet.detections.boxes import FloatArray
from phidet.weights.native import load_model


class TorchGenerator:
    """A generator's model; see :class:`phidet.inference.generator.GeneratorNetwork`."""

    def __init__(self, model: Any) -> None:
        self.model = cast("GeneratorModel", model)
        self.config = model.config
        self.device = model.style_average.device
        self.style_average: FloatArray = model.style_average.detach().cpu().numpy()

    @torch.inference_mode()
    def styles(self, latents: FloatArray, labels: FloatArray | None) -> FloatArray:
        """Latents (N, latent_size) and one-hot labels (N, classes) → w (N, num_layers, style_size)."""
        given = None if labels is None else torch.from_numpy(labels).to(self.device)
        styles = self.model.styles(torch.from_numpy(latents).to(self.device), given)
        return np.asarray(styles.cpu().numpy(), np.float32)

    @torch.inference_mode()
    def render(self, styles: FloatArray, noise: list[FloatArray] | None) -> FloatArray:
        """w and noise → images (N, 3, R, R), about −1 to 1."""
        # The stored noise lies on the device already.
        tensors = self.model.stored_noise() if noise is None else [torch.from_numpy(n).to(self.device) for n in noise]
        images = self.model.render(torch.from_numpy(np.ascontiguousarray(styles)).to(self.device), tensors)
        return np.asarray(images.cpu().numpy(), np.float32)


def open_torch_generator(path: Path) -> TorchGenerator:
    """The generator in a model file.

    Raises:
        CheckpointError: the file is damaged, or holds no generator.
    """
    model = load_model(path)
    if "samples" not in architecture_of(model.config).says:
        raise CheckpointError(f"{path} holds {model.config.name}, which makes no images: expected a generator")
    return TorchGenerator(model)
