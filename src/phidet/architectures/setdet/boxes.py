"""Boxes as the network predicts them, (centre x, centre y, width, height) in 0…1 of its input, and their logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_EPSILON = 1e-5
_FIRST_SIDE = 0.05
"""Side of a cell's starting box at level 3; twice that at every further level (arXiv 2203.03605, as its predecessors)."""


def to_logits(boxes: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite also for boxes at or beyond 0 and 1."""
    x = boxes.clamp(0, 1)
    return x.clamp(min=_EPSILON).log() - (1 - x).clamp(min=_EPSILON).log()


def cell_boxes(sizes_hw: list[tuple[int, int]], like: Tensor) -> Tensor:
    """The box that each cell of maps of these sizes starts from, finest map first.

    Returns:
        (Σ H · W, 4) cxcywh, row by row, on the device of ``like``.
    """
    found = []
    for level, (height, width) in enumerate(sizes_hw):
        y, x = ((torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) / side for side in (height, width))
        side = torch.full((height, width), _FIRST_SIDE * 2.0**level, device=like.device)
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
