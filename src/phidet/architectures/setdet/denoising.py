"""Denoising queries: objects of the image with noise on them, which training asks to be put right (arXiv 2203.01305).

As in DINO (arXiv 2203.03605, section 3.3) half of them are too far off to be put right and should say so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phidet.architectures.sets.targets import SetTargets


class Noise(NamedTuple):
    """How much.

    Attributes:
        queries: about how many there are for each image; 0 for none.
        label: share of labels that are replaced by random ones.
        box: the largest shift of a side of a box that should be put right, in halves of the box; up to twice that
            far off are those that should not.
    """

    queries: int = 100
    label: float = 0.5
    box: float = 1.0


class DenoisingQueries(NamedTuple):
    """G groups of 2 · N queries: the N objects of an image slightly off, and the same far off.

    Attributes:
        class_ids: (B, G · 2 · N) int64 as the network is told; ``num_classes`` for padding.
        boxes_cxcywh: (B, G · 2 · N, 4).
        groups: G.
        objects: N.
    """

    class_ids: Tensor
    boxes_cxcywh: Tensor
    groups: int
    objects: int


def noisy_queries(targets: SetTargets, num_classes: int, noise: Noise) -> DenoisingQueries | None:
    """Denoising queries for the objects of a batch, at random; ``None`` if there are no objects or none are wanted."""
    objects = targets.class_ids.shape[1]
    if not objects or not noise.queries:
        return None
    # Crowded images get fewer groups, so that their number of queries, and the memory, stay about the same.
    groups = max(1, noise.queries // objects)
    ids = targets.class_ids.repeat(1, 2 * groups)  # (B, G · 2 · N)
    padding = ids < 0
    boxes = targets.boxes_cxcywh.repeat(1, 2 * groups, 1)
    other = torch.rand(ids.shape, device=ids.device) < noise.label
    ids = torch.where(other, torch.randint(num_classes, ids.shape, device=ids.device), ids)
    # Each side moves by less than ``box`` halves of the box, or by one to two times that where it is too far off.
    far = torch.arange(2 * groups, device=ids.device).repeat_interleave(objects) % 2 == 1
    shift = torch.rand((*boxes.shape[:2], 4), device=ids.device) + far[:, None]
    sign = torch.randint(2, shift.shape, device=ids.device) * 2 - 1
    halves = boxes[..., 2:].repeat(1, 1, 2) / 2
    # Corners move one by one, and may pass each other where the shift is large: then they are put in order again.
    corners = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)
    corners = (corners + sign * shift * halves * noise.box).clamp(0, 1)
    low, high = torch.minimum(corners[..., :2], corners[..., 2:]), torch.maximum(corners[..., :2], corners[..., 2:])
    noisy = torch.cat(((low + high) / 2, high - low), -1)
    return DenoisingQueries(ids.masked_fill(padding, num_classes), noisy, groups, objects)


def isolation(denoising: DenoisingQueries, queries: int) -> Tensor:
    """Which query may read which: (T, T) bool, T = G · 2 · N denoising queries and then ``queries`` others.

    Groups do not see each other, and what finds objects sees none of them, as they give the answer away.
    """
    noisy = denoising.class_ids.shape[1]
    size = 2 * denoising.objects
    device = denoising.class_ids.device
    # −1 stands for the queries that find objects: they read each other, and all groups read them.
    group = torch.arange(noisy + queries, device=device) // size
    group = torch.where(torch.arange(noisy + queries, device=device) < noisy, group, -1)
    return (group[:, None] == group[None, :]) | (group[None, :] < 0)
