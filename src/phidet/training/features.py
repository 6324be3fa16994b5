"""Features of images by EfficientNet-Lite0, which a package index has: what made images are measured with offline."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.core.errors import CheckpointError, DownloadError
from phidet.weights.create import create_classifier

log = logging.getLogger("phidet")

_SIDE = 128  # pixels; crops are small, and a larger input would show nothing more of them
_BATCH = 64


class Lite0Features:
    """Features and differences of images by an EfficientNet-Lite0 that was trained on ImageNet.

    Its distances are not those of Inception or VGG, so their measures have names of their own.

    Args:
        device: where it runs.

    Raises:
        DownloadError: the weights are neither installed nor to be fetched.
    """

    name = "Lite0"

    def __init__(self, device: torch.device) -> None:
        model: Any = create_classifier("efficientnet-lite0", pretrained="imagenet").eval().to(device)
        self.backbone, self.device = model.backbone, device
        preprocess = model.config.preprocess
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (preprocess.mean_rgb, preprocess.std_rgb)
        )

    @torch.inference_mode()
    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB → (N, 320): the last maps of the backbone, averaged over the image."""
        planes = images.transpose(0, 3, 1, 2)
        # In parts: maps of all images together would not fit in memory.
        parts = [self._levels(planes[i : i + _BATCH])[-1].mean((2, 3)) for i in range(0, len(images), _BATCH)]
        return np.asarray(torch.cat(parts).cpu().numpy(), np.float32)

    @torch.inference_mode()
    def differences(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """(N,) squared differences of normalised maps at all levels, averaged over each map and summed over levels.

        After the learned similarity of arXiv 1801.03924, with equal weights. Images are (N, 3, H, W), from 0 to 255.
        """
        parts = []
        for i in range(0, len(a), _BATCH):
            pairs = zip(self._levels(a[i : i + _BATCH]), self._levels(b[i : i + _BATCH]), strict=True)
            levels = [(F.normalize(x) - F.normalize(y)).double().square().sum(1).mean((1, 2)) for x, y in pairs]
            parts.append(torch.stack(levels).sum(0))
        return np.asarray(torch.cat(parts).cpu().numpy(), np.float64)

    def _levels(self, images: npt.NDArray[Any]) -> list[Tensor]:
        """Maps of (N, 3, H, W), the finest first."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float()
        pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        maps: dict[int, Tensor] = self.backbone((pixels - self.mean) / self.std)
        return [maps[level] for level in sorted(maps)]


def open_features(consequence: str) -> Lite0Features | None:
    """Features on the usual device; ``None`` where their weights cannot be had, with a warning of the consequence."""
    try:
        return Lite0Features(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except (CheckpointError, DownloadError) as error:
        log.warning("%s: %s", consequence, error)
        return None
