"""What a detector's feature maps hold at its detections: an appearance for each, as a node of a graph may have one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import roi_align

from phidet.architectures.registry import architecture_of
from phidet.detections.boxes import area
from phidet.detections.detections import Detections

APPEARANCE = "appearance"
"""Field of detections: (N, C) float32."""
_CANONICAL_LEVEL, _CANONICAL_SIDE = 4, 224.0
_BINS = 7


@torch.inference_mode()
def with_appearance(model: Any, image: npt.NDArray[np.uint8], detections: Detections) -> Detections:
    """``detections`` with the field ``appearance``: the mean of a feature map in each box.

    A box of side s pixels of the network's input is looked up on level ⌊4 + log2(s / 224)⌋, or the nearest that there
    is (feature pyramids, arXiv 1612.03144, equation 1), and averaged over 7 × 7 bilinear samples (arXiv 1703.06870,
    section 3).

    Args:
        model: a detector in PyTorch; its mode is kept.
        image: (H, W, 3) uint8 RGB, which was detected on.
        detections: in its pixels, for instance of the model's export.

    Raises:
        ConfigError: the architecture has no such maps.
    """
    config, architecture = model.config, architecture_of(model.config)
    prepared = architecture.prepare(config, image)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    maps = architecture.feature_maps(model, torch.from_numpy(prepared.image)[None].to(device))
    model.train(training)
    boxes = detections.boxes_xyxy * np.float32(prepared.placement.scale)
    # As in feature pyramids (arXiv 1612.03144, equation 1): an object of 224 pixels is read at level 4, one of half
    # that side at the next finer level.
    sides = np.sqrt(np.maximum(area(boxes), 1e-6))
    wanted = np.floor(_CANONICAL_LEVEL + np.log2(sides / _CANONICAL_SIDE))
    levels = np.clip(wanted, min(maps), max(maps)).astype(np.int64)
    channels = next(iter(maps.values())).shape[1]
    found = np.zeros((len(detections), channels), np.float32)
    # Level by level: each map is read for all of its boxes at once.
    for level in np.unique(levels).tolist():
        of_level = levels == level
        rois = [torch.from_numpy(boxes[of_level]).to(device)]
        pooled = roi_align(maps[level], rois, _BINS, 2.0**-level, sampling_ratio=1, aligned=True)
        found[of_level] = pooled.mean((2, 3)).float().cpu().numpy()
    return detections.with_fields({APPEARANCE: found})
