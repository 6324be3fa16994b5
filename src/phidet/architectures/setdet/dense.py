"""A head for training only: every cell of every map learns classes and a box, several cells for each object.

One query per object teaches the maps little; many cells per object teach them much (arXiv 2211.12860). The cells are
those whose prediction is already best for the object (arXiv 2108.07755, section 3.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.layers import SeparableConv, activation, batch_norm, wide
from phidet.architectures.setdet.boxes import cell_boxes
from phidet.architectures.sets.targets import SetTargets
from phidet.detections.boxes import cxcywh_to_xyxy, elementwise_iou

CANDIDATES = 10
"""Cells that learn an object."""
CLASS_POWER, OVERLAP_POWER = 1.0, 6.0
"""How good a cell is for an object: score to the one power times overlap to the other."""


class DenseOutputs(NamedTuple):
    """Answers of N cells.

    Attributes:
        class_logits: (B, N, C).
        boxes_xyxy: (B, N, 4), in 0…1 of the input.
        centres_xy: (N, 2) of the cells.
    """

    class_logits: Tensor
    boxes_xyxy: Tensor
    centres_xy: Tensor


class DenseHead(nn.Module):
    """One separable convolution for all levels, with norms for each, then classes, and distances to the four sides."""

    def __init__(self, channels: int, levels: int, num_classes: int, act: Activation) -> None:
        super().__init__()
        self.conv = SeparableConv(channels, channels)
        self.norms = nn.ModuleList(batch_norm(channels) for _ in range(levels))
        self.act = activation(act)
        self.classes = nn.Conv2d(channels, num_classes, 1)
        self.sides = nn.Conv2d(channels, 4, 1)
        nn.init.constant_(self.classes.bias, -math.log(99))  # type: ignore[arg-type]
        nn.init.zeros_(self.sides.weight)
        nn.init.zeros_(self.sides.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> DenseOutputs:
        """Maps (B, channels, H_l, W_l), finest first → the answers of all cells."""
        logits, sides = [], []
        for x, norm in zip(maps, self.norms, strict=True):
            x = self.act(norm(self.conv(x)))
            logits.append(self.classes(x).flatten(2).transpose(1, 2))
            sides.append(self.sides(x).flatten(2).transpose(1, 2))
        start = cell_boxes([(x.shape[2], x.shape[3]) for x in maps], maps[0])
        # Distances are the starting box's half side times a power of e.
        reach = wide(torch.cat(sides, 1)).clamp(-8, 8).exp() * start[:, 2:].repeat(1, 2) / 2
        centres = start[:, :2]
        boxes = torch.cat((centres - reach[..., :2], centres + reach[..., 2:]), -1)
        return DenseOutputs(torch.cat(logits, 1), boxes, centres)


class DenseLosses(NamedTuple):
    """Scalars, without weights."""

    classes: Tensor
    giou: Tensor


def dense_losses(outputs: DenseOutputs, targets: SetTargets, normaliser: Tensor) -> DenseLosses:
    """Cross entropy with the quality of each cell's box as its class's target, and 1 − GIoU of those that learn one.

    Args:
        outputs: of the head.
        targets: boxes in 0…1 of the input.
        normaliser: number of objects, at least 1.
    """
    logits = wide(outputs.class_logits)
    if not targets.class_ids.shape[1]:
        return DenseLosses(
            F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum") / normaliser,
            outputs.boxes_xyxy.sum() * 0,
        )
    objects = cxcywh_to_xyxy(targets.boxes_cxcywh)  # (B, G, 4)
    owner, quality = assign_cells(outputs._replace(class_logits=logits), objects, targets.class_ids)
    learns = owner >= 0
    which = owner.clamp(min=0)
    ids = targets.class_ids.clamp(min=0).gather(1, which)
    wanted = torch.zeros_like(logits).scatter_(2, ids[..., None], quality[..., None])
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focus = torch.where(wanted > 0, 1.0, 0.75 * logits.detach().sigmoid() ** 2)  # easy background counts little
    boxes = objects.gather(1, which[..., None].expand(-1, -1, 4))
    giou: Tensor = elementwise_iou(outputs.boxes_xyxy, boxes, "giou")
    share = torch.where(learns, quality, 0.0)
    scale = share.sum().clamp(min=1) / normaliser  # boxes of better cells count more; together each object counts once
    return DenseLosses((entropy * focus).sum() / normaliser, ((1 - giou) * share).sum() / (normaliser * scale))


@torch.no_grad()
def assign_cells(outputs: DenseOutputs, objects_xyxy: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The object that each cell learns, and how well its box fits.

    An object is learned by the :data:`CANDIDATES` best cells within it; a cell learns the one that it overlaps most.

    Args:
        outputs: of the head.
        objects_xyxy: (B, G, 4), G ≥ 1.
        class_ids: (B, G), −1 for padding.

    Returns:
        (B, N) index of the object, −1 for none; (B, N) quality, 0…1: of an object's best cell its overlap, of the
        others less as they are worse.
    """
    overlaps: Tensor = elementwise_iou(outputs.boxes_xyxy[:, None], objects_xyxy[:, :, None], "iou")  # (B, G, N)
    scores = outputs.class_logits.sigmoid().transpose(1, 2)
    scores = scores.gather(1, class_ids.clamp(min=0)[..., None].expand(-1, -1, scores.shape[2]))  # (B, G, N)
    fit = scores**CLASS_POWER * overlaps**OVERLAP_POWER
    # Only cells whose centre is within the box may learn it: others would have to guess at what they do not see.
    x, y = outputs.centres_xy.unbind(-1)
    x1, y1, x2, y2 = objects_xyxy[..., None].unbind(2)  # (B, G, 1) each
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2) & (class_ids >= 0)[..., None]
    fit = torch.where(inside, fit + 1e-9, 0)  # cells inside that overlap nothing yet still come before those outside
    best = fit.topk(min(CANDIDATES, fit.shape[2]), 2)
    learns = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 0)
    # A cell that several objects want learns the one that it overlaps most.
    overlap, owner = torch.where(learns, overlaps, -1).max(1)  # (B, N)
    learns &= owner[:, None] == torch.arange(learns.shape[1], device=owner.device)[:, None]
    fit = torch.where(learns, fit, 0)
    top = torch.where(learns, overlaps, 0).amax(2, keepdim=True)
    # Scaled so that an object's best cell has its overlap as target, which makes scores comparable with overlaps.
    quality = fit / fit.amax(2, keepdim=True).clamp(min=1e-12) * top
    return torch.where(overlap >= 0, owner, -1), quality.amax(1)
