"""Losses over matched pairs, and the class loss with "no object" (arXiv 2005.12872, equation 2 and A.2).

All are in at least float32, whatever the network runs in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.layers import wide
from phidet.architectures.processes import Processes
from phidet.architectures.sets.matching import Matched
from phidet.architectures.sets.targets import SetTargets
from phidet.detections.boxes import cxcywh_to_xyxy, elementwise_iou


class BoxLosses(NamedTuple):
    """Scalars, without weights."""

    l1: Tensor
    giou: Tensor


def box_losses(boxes_cxcywh: Tensor, targets: SetTargets, matched: Matched, normaliser: Tensor) -> BoxLosses:
    """L1 distance and 1 − GIoU of the matched pairs, summed and divided by ``normaliser``.

    Args:
        boxes_cxcywh: (B, Q, 4), predicted.
        targets: of the B images.
        matched: the pairs.
        normaliser: scalar, of :func:`phidet.architectures.sets.targets.num_objects`.
    """
    answers = wide(boxes_cxcywh[matched.images, matched.queries])  # (P, 4)
    wanted = targets.boxes_cxcywh[matched.images, matched.objects].to(answers.dtype)
    giou: Tensor = elementwise_iou(cxcywh_to_xyxy(answers), cxcywh_to_xyxy(wanted), "giou")
    return BoxLosses((answers - wanted).abs().sum() / normaliser, (1 - giou).sum() / normaliser)


def matched_classes(shape: tuple[int, int], targets: SetTargets, matched: Matched, unmatched: int) -> Tensor:
    """The class that each of (B, Q) predictions should have: that of its object, or ``unmatched``; int64."""
    classes = torch.full(shape, unmatched, dtype=torch.int64, device=targets.class_ids.device)
    classes[matched.images, matched.queries] = targets.class_ids[matched.images, matched.objects]
    return classes


def softmax_class_loss(logits: Tensor, classes: Tensor, no_object_weight: float, processes: Processes) -> Tensor:
    """Weighted mean cross entropy over all predictions, in which "no object" counts less.

    The mean is over the weights of the predictions of all processes, so that several give the gradient of one.

    Args:
        logits: (B, Q, C + 1), the last one "no object".
        classes: (B, Q) int64, 0…C.
        no_object_weight: of a prediction whose class is C; 1 for the others.
    """
    values = wide(logits)
    weights = torch.where(classes == values.shape[-1] - 1, no_object_weight, 1.0).to(values.dtype)
    entropy = F.cross_entropy(values.flatten(0, 1), classes.flatten(), reduction="none")
    # Divided by the weights of all processes, and times their number, as their gradients are averaged.
    return (entropy * weights.flatten()).sum() * processes.size / processes.total(weights.sum())
