"""From raw outputs to detections, in PyTorch, for evaluation during training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision.ops import batched_nms

from phidet.boxes import clip, decode
from phidet.nn.detector import RawOutputs
from phidet.results import Detections


class DecodeSettings(NamedTuple):
    """The official evaluation: the best 5,000 (anchor, class) pairs, NMS per class, at most 100 boxes."""

    candidates: int = 5000
    min_score: float = 0.001
    nms_iou: float = 0.5
    max_detections: int = 100


def decode_batch(
    outputs: RawOutputs, anchors_xyxy: Tensor, scales: Tensor, sizes_hw: list[tuple[int, int]], settings: DecodeSettings
) -> list[Detections]:
    """Detections of a batch in pixels of the original images.

    Args:
        outputs: of the network.
        anchors_xyxy: (A, 4) in pixels of the input.
        scales: (B,), pixels of the input per pixel of the image.
        sizes_hw: of the original images; boxes are clipped to them.
        settings: how many, and how they suppress each other.
    """
    boxes = decode(outputs.box_deltas, anchors_xyxy)
    found = []
    for logits, image_boxes, scale, size_hw in zip(outputs.class_logits, boxes, scales.tolist(), sizes_hw, strict=True):
        scores, anchors, class_ids = _best_pairs(logits.float(), settings)
        in_image = clip(image_boxes[anchors] / scale, size_hw)
        kept = batched_nms(in_image, scores, class_ids, settings.nms_iou)[: settings.max_detections]
        found.append(
            Detections(
                in_image[kept].cpu().numpy(),
                scores[kept].cpu().numpy(),
                class_ids[kept].cpu().numpy().astype(np.int64),
            )
        )
    return found


def _best_pairs(logits: Tensor, settings: DecodeSettings) -> tuple[Tensor, Tensor, Tensor]:
    """(A, C) → scores, anchors and classes of the best pairs. Their anchors are among the best by best class."""
    num_classes = logits.shape[1]
    anchors = logits.amax(1).topk(min(settings.candidates, len(logits))).indices
    best = logits[anchors].flatten().topk(min(settings.candidates, len(anchors) * num_classes))
    scores = best.values.sigmoid()
    good = scores >= settings.min_score
    pairs = best.indices[good]
    return scores[good], anchors[pairs // num_classes], pairs % num_classes
