"""Matching of predictions and objects, one to one, at the least total cost (arXiv 2005.12872, equation 1 and A.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from phidet.architectures.sets.targets import SetTargets
from phidet.detections.boxes import cxcywh_to_xyxy, elementwise_iou

_UNUSABLE = 1e9
"""Cost of a pair that has none because a prediction is NaN or infinite."""


class CostWeights(NamedTuple):
    """Weights of the three costs of a pair; defaults of the paper."""

    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0


class Matched(NamedTuple):
    """P pairs of a prediction and an object of the same image, in order of images, then of queries.

    Attributes:
        images, queries, objects: (P,) int64, positions in the batch, among the predictions of the image, and among its
            objects.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor


def softmax_class_cost(logits: Tensor, class_ids: Tensor) -> Tensor:
    """Minus the probability of each object's class (arXiv 2005.12872, section 3.1).

    Args:
        logits: (…, B, Q, C), the last of them may be "no object".
        class_ids: (B, N) int64; padding costs what class 0 would.

    Returns:
        (…, B, Q, N).
    """
    return -_columns(logits.softmax(-1), class_ids)


def focal_class_cost(logits: Tensor, class_ids: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The focal loss of each object's class being there, less that of its not being there (arXiv 2010.04159, A.4).

    Args:
        logits: (…, B, Q, C) of independent binary decisions.
        class_ids: (B, N) int64; padding costs what class 0 would.
        alpha, gamma: of the focal loss (arXiv 1708.02002, equation 5).

    Returns:
        (…, B, Q, N).
    """
    p = logits.sigmoid()
    present = alpha * (1 - p) ** gamma * F.softplus(-logits)
    absent = (1 - alpha) * p**gamma * F.softplus(logits)
    return _columns(present - absent, class_ids)


@torch.no_grad()
def matching_cost(class_cost: Tensor, boxes_cxcywh: Tensor, targets: SetTargets, weights: CostWeights) -> Tensor:
    """The cost of every pair of a prediction and an object: weighted sum of class cost, L1 distance and −GIoU.

    Args:
        class_cost: (…, B, Q, N), from one of the functions above.
        boxes_cxcywh: (…, B, Q, 4), predicted.
        targets: of the B images, at most N objects each.
        weights: of the three.

    Returns:
        (…, B, Q, N) in at least float32, without gradient.
    """
    predicted = boxes_cxcywh.unsqueeze(-2)  # (…, B, Q, 1, 4)
    wanted = targets.boxes_cxcywh.to(boxes_cxcywh.dtype).unsqueeze(-3)  # (B, 1, N, 4)
    distance = (predicted - wanted).abs().sum(-1)
    giou: Tensor = elementwise_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted), "giou")
    return weights.box_weight * distance + weights.class_weight * class_cost - weights.giou_weight * giou


def match(costs: Tensor, targets: SetTargets) -> list[Matched]:
    """The assignment of least total cost for every image of every decoder layer.

    An image with more objects than there are predictions gets as many pairs as there are predictions.

    Args:
        costs: (L, B, Q, N) for L layers.
        targets: of the B images.

    Returns:
        The pairs of each layer, on the device of ``costs``.
    """
    # NaN has no order, so the assignment would fail; with any pair the loss becomes NaN, which training reports.
    costs = costs.nan_to_num(_UNUSABLE, _UNUSABLE, -_UNUSABLE)
    # One transfer for all layers: each would wait for the device.
    numbers, counts = costs.cpu().numpy(), targets.counts.tolist()
    layers: list[Matched] = []
    for of_layer in numbers:
        rows: list[tuple[int, int, int]] = []
        for image, (cost, count) in enumerate(zip(of_layer, counts, strict=True)):
            queries, objects = linear_sum_assignment(cost[:, :count])
            rows += [(image, int(query), int(one)) for query, one in zip(queries, objects, strict=True)]
        # Reshaped, as a batch without objects has no pairs.
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).to(costs.device)
        layers.append(Matched(*columns.unbind(1)))
    return layers


def _columns(values: Tensor, class_ids: Tensor) -> Tensor:
    """(…, B, Q, C) values at the classes (B, N): (…, B, Q, N)."""
    index = class_ids.clamp(min=0).unsqueeze(-2).expand(*values.shape[:-1], -1)
    return values.gather(-1, index)
