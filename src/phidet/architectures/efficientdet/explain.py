"""Activation maps of detections: gradient times activation of the feature network's inputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.decode import find_candidates
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.evidence import ActivationMap, heat_map
from phidet.detections.boxes import clip, decode
from phidet.detections.nms import Floats, suppress
from phidet.detections.settings import PostprocessSettings
from phidet.images.prepare import prepare, scaled_size


def detection_maps(
    model: EfficientDet, image: npt.NDArray[np.uint8], wanted: int | None, limit: int
) -> list[ActivationMap]:
    config, image_hw = model.config, (image.shape[0], image.shape[1])
    prepared, scale = prepare(image, config.image_size_hw, config.preprocess)
    levels = config.feature_network.levels
    with torch.no_grad():
        maps = model.backbone(torch.from_numpy(prepared)[None])
    # Gradients are needed only from here on, so the backbone ran without a graph.
    maps = {level: features.requires_grad_() for level, features in maps.items() if level >= levels.start}
    features = model.feature_network(maps)
    logits, deltas = model.class_head(features)[0], model.box_head(features)[0].detach().numpy()
    anchors_xyxy = generate_anchors(config.image_size_hw, levels, config.anchors)
    height, width = scaled_size(image_hw, scale)
    found = []
    for anchor, class_id in _best(logits.detach().numpy(), decode(deltas, anchors_xyxy), wanted, limit):
        evidence = gradient_evidence(logits[anchor, class_id], list(maps.values()), config.image_size_hw)
        box = clip(decode(deltas[anchor], anchors_xyxy[anchor]) / np.float32(scale), image_hw)
        x1, y1, x2, y2 = box.tolist()
        score = float(logits[anchor, class_id].detach().sigmoid())
        heat = heat_map(evidence[:height, :width], image_hw)
        found.append(ActivationMap(heat, config.class_names[class_id], score, (x1, y1, x2, y2)))
    return found


def _best(logits: Floats, boxes_xyxy: Floats, wanted: int | None, limit: int) -> list[tuple[int, int]]:
    """Anchors and classes of the best detections after suppression, best first."""
    settings = PostprocessSettings(score=0.0, max_detections=limit)
    if wanted is not None:
        # Other classes must not suppress boxes of the one that is asked for.
        logits = logits[:, [wanted]]
    anchors, class_ids, scores = find_candidates(logits.max(1), logits, settings)
    kept, _ = suppress(boxes_xyxy[anchors], scores, class_ids, settings)
    return [(int(anchors[i]), int(class_ids[i]) if wanted is None else wanted) for i in kept]


def gradient_evidence(logit: Tensor, maps: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
    """(H, W), the first-order contribution of each input pixel to the logit, summed over all maps."""
    total = torch.zeros(size_hw)
    for features, slope in zip(
        maps, torch.autograd.grad(logit, maps, retain_graph=True, allow_unused=True), strict=True
    ):
        if slope is None:
            continue
        # What each cell adds to the logit, to first order.
        evidence = (slope * features).sum(1, keepdim=True).detach()
        cells = evidence.shape[2] * evidence.shape[3]  # makes sums independent of resolution
        total += F.interpolate(evidence, size_hw, mode="bilinear")[0, 0] * cells
    return total
