"""Boxes as the network predicts them, (centre x, centre y, width, height) in 0…1 of its input, and their logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phidet.architectures.layers import wide

LARGEST_LOGIT = 11.5
"""Of a box's coordinate: 1e-5 of the input from a border, beyond which a sigmoid has no slope to learn by."""
_FIRST_SIDE = 0.05
"""Side of a cell's starting box on the finest map; twice that on every further one (as in arXiv 2010.04159, A.4)."""


def to_logits(boxes: Tensor) -> Tensor:
    """The inverse of the sigmoid, within ±:data:`LARGEST_LOGIT` also for boxes at or beyond 0 and 1."""
    return boxes.logit(eps=1e-6).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def moved(logits: Tensor, change: Tensor) -> Tensor:
    """Box logits after a change, in at least float32."""
    return (logits + wide(change)).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def cell_boxes(sizes_hw: list[tuple[int, int]], like: Tensor) -> Tensor:
    """The box that each cell of maps of these sizes starts from, finest map first.

    Returns:
        (Σ H · W, 4) cxcywh, row by row, on the device of ``like``, in at least float32.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    found = []
    for level, (height, width) in enumerate(sizes_hw):
        y, x = ((torch.arange(side, device=like.device, dtype=dtype) + 0.5) / side for side in (height, width))
        side = torch.full((height, width), _FIRST_SIDE * 2.0**level, device=like.device, dtype=dtype)
        found.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width), side, side), -1).flatten(0, 1))
    return torch.cat(found)


class BoxHead(nn.Sequential):
    """Three linear layers that predict changes of box logits; at first none."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width), nn.ReLU(inplace=True),
            nn.Linear(width, width), nn.ReLU(inplace=True),
            nn.Linear(width, 4),
        )  # fmt: skip
        last = self[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
