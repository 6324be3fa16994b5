"""Assignments that look at more than one fixed overlap: ATSS at statistics of each object's anchors, task alignment at
what the network answers.

Both return, for every anchor of every image, the row of the object that it learns, or −1; see
:func:`phidet.architectures.efficientdet.targets.targets_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phidet.architectures.efficientdet.targets import Objects
from phidet.detections.boxes import pairwise_iou

ATSS_CELLS = 9
"""Cells of each level that are candidates for an object (arXiv 1912.02424, section 4.3)."""
CANDIDATES, CLASS_POWER, OVERLAP_POWER = 13, 1.0, 6.0
"""Of task alignment (arXiv 2108.07755, section 4.1): anchors of an object, and what ranks them, score · overlap⁶."""


class Aligned(NamedTuple):
    """An assignment by task alignment.

    Attributes:
        owner: (B, A) row of the object, −1 for background.
        quality: (B, A) float32: what the class of an anchor shall say, 0…1.
    """

    owner: Tensor
    quality: Tensor


def atss(anchors_xyxy: Tensor, anchors_of_level: Sequence[int], per_cell: int, objects: Objects) -> Tensor:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1).

    On each level the anchors of the nine cells nearest to an object's centre are its candidates. Those whose IoU
    reaches the mean plus the standard deviation of all its candidates' IoUs, and whose centre is inside it, learn it;
    an anchor of several objects learns the one that it overlaps most. Beyond the paper, an object that no anchor would
    learn is learned by the candidate that overlaps it most, if that learns nothing before it: small objects would
    otherwise never be learned.

    Args:
        anchors_xyxy: (A, 4) in pixels, level by level.
        anchors_of_level: how many belong to each.
        per_cell: anchors of a cell.
        objects: of the batch.

    Returns:
        (B, A) int64.
    """
    num_objects, num_anchors = len(objects.boxes_xyxy), len(anchors_xyxy)
    owner = torch.full((objects.images, num_anchors), -1, device=anchors_xyxy.device)
    if not num_objects:
        return owner
    anchors, boxes = anchors_xyxy.float(), objects.boxes_xyxy.float()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    best = anchors.new_full((objects.images, num_anchors), -1.0)  # overlap of the present owner
    # Object by object, as the threshold is of its own candidates; images have few objects.
    for row in range(num_objects):
        box, image = boxes[row], int(objects.image[row])
        candidates = _nearest(centres, (box[:2] + box[2:]) / 2, anchors_of_level, ATSS_CELLS * per_cell)
        ious = pairwise_iou(anchors[candidates], box[None])[:, 0]
        # High where some anchors fit well, low where none does.
        threshold = ious.mean() + ious.std() if len(ious) > 1 else ious.mean()
        at = centres[candidates]
        inside = ((at > box[:2]) & (at < box[2:])).all(1)
        learns = (ious >= threshold) & inside
        chosen, overlaps = candidates[learns], ious[learns]
        # Where no candidate passes, the best one learns the object, unless it has another one already.
        if not len(chosen):
            top = int(ious.argmax())
            if ious[top] <= 0 or owner[image, candidates[top]] >= 0:
                continue
            chosen, overlaps = candidates[top : top + 1], ious[top : top + 1]
        # An anchor that several objects want learns the one that it overlaps most.
        better = overlaps > best[image, chosen]
        owner[image, chosen[better]], best[image, chosen[better]] = row, overlaps[better]
    return owner


def task_aligned(anchors_xyxy: Tensor, answers_xyxy: Tensor, scores: Tensor, objects: Objects) -> Aligned:
    """Task-aligned assignment (arXiv 2108.07755, section 4.1).

    Of the anchors whose centre is inside an object, the thirteen learn it whose answers fit it best: score of its class
    times the sixth power of the IoU of the answered box. An anchor of several objects learns the one whose answer
    overlaps most. The class shall say the fit, scaled so that an object's best anchor says its largest IoU.

    Args:
        anchors_xyxy: (A, 4) in pixels.
        answers_xyxy: (B, A, 4), decoded boxes.
        scores: (B, A, C) probabilities.
        objects: of the batch.
    """
    num_anchors = len(anchors_xyxy)
    owner = torch.full((objects.images, num_anchors), -1, device=anchors_xyxy.device)
    quality = anchors_xyxy.new_zeros((objects.images, num_anchors), dtype=torch.float32)
    centres = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]).float() / 2
    for image in range(objects.images):
        rows = (objects.image == image).nonzero()[:, 0]
        if not len(rows):
            continue
        boxes = objects.boxes_xyxy[rows].float()
        overlaps = pairwise_iou(boxes, answers_xyxy[image].float())  # (g, A)
        # The score of each object's class at every anchor.
        own = scores[image].float().T[objects.class_ids[rows]]  # (g, A)
        inside = ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(2)
        fit = torch.where(inside, own**CLASS_POWER * overlaps**OVERLAP_POWER, -1.0)
        top = fit.topk(min(CANDIDATES, num_anchors), 1)
        learns = torch.zeros_like(inside).scatter_(1, top.indices, top.values >= 0)
        # An anchor that several objects chose stays with the one that it overlaps most.
        most, which = torch.where(learns, overlaps, -1.0).max(0)  # (A,)
        learns &= which == torch.arange(len(rows), device=rows.device)[:, None]
        fit = torch.where(learns, fit, 0.0)
        # Scaled so that an object's best anchor gets the largest overlap that the object reaches: qualities then
        # compare.
        largest = fit.amax(1, keepdim=True)
        reached = torch.where(learns, overlaps, 0.0).amax(1, keepdim=True)
        scaled = torch.where(largest > 0, fit / largest.clamp(min=torch.finfo(fit.dtype).tiny) * reached, 0.0)
        owner[image] = torch.where(most >= 0, rows[which], -1)
        quality[image] = scaled.amax(0)
    return Aligned(owner, quality)


def _nearest(centres: Tensor, centre: Tensor, anchors_of_level: Sequence[int], count: int) -> Tensor:
    """(K,) the anchors of each level whose centres are nearest; of equals, the first."""
    found, start = [], 0
    squares = (centres - centre).square().sum(1)
    for size in anchors_of_level:
        part = squares[start : start + size]
        found.append(start + part.argsort(stable=True)[: min(count, size)])
        start += size
    return torch.cat(found)
