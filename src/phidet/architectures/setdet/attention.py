"""Attention: within a map, among queries, and sampled from maps around each query's box."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_positions(size_hw: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """Sine position code of a map's cells (arXiv 2005.12872, section 4, in each direction half of ``width``).

    Returns:
        (H · W, width), row by row, on the device and of the type of ``like``.
    """
    quarter = width // 4
    frequencies = 1e-4 ** (torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter)
    rows, columns = (torch.arange(side, device=like.device, dtype=torch.float32)[:, None] for side in size_hw)
    y, x = (torch.cat(((side * frequencies).sin(), (side * frequencies).cos()), 1) for side in (rows, columns))
    # Rows are in the first half of the channels, columns in the second.
    grid = torch.cat((y[:, None].expand(-1, size_hw[1], -1), x[None].expand(size_hw[0], -1, -1)), 2)  # (H, W, width)
    return grid.flatten(0, 1).to(like.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention whose keys and queries know positions and whose values do not."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.query_key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, N, width), positions that broadcast to it, and (N, N) bool, whether a row may read a column."""
        q, k = self.split(self.query_key(x + positions), 2 * self.heads).chunk(2, 1)
        read = F.scaled_dot_product_attention(q, k, self.split(self.value(x), self.heads), allowed)
        out: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return out

    @staticmethod
    def split(x: Tensor, heads: int) -> Tensor:
        """(B, N, C) → (B, heads, N, C / heads)."""
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers, four times as wide between."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, width))


class EncoderLayer(nn.Module):
    """Attention among all cells of one map, and a feed-forward network; normalised after each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, N, width) and positions (N, width) → (B, N, width)."""
        x = self.attention_norm(x + self.attention(x, positions))
        out: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return out


def encode(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Encoder layers within a map: (B, width, H, W) → the same shape."""
    size_hw = x.shape[2], x.shape[3]
    cells = x.flatten(2).transpose(1, 2)  # (B, H · W, width)
    positions = sine_positions(size_hw, cells.shape[2], cells)
    for layer in layers:
        cells = layer(cells, positions)
    return cells.transpose(1, 2).reshape(x.shape)


class SampledAttention(nn.Module):
    """Each query reads a few points of every level, at offsets from its box that it predicts (arXiv 2010.04159, eq. 3).

    Offsets are in halves of the box's sides, so that a query reads in and around its own object whatever its size.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.out = nn.Linear(width, width)
        self._init_weights()

    def forward(self, queries: Tensor, boxes_cxcywh: Tensor, maps: list[Tensor]) -> Tensor:
        """Queries (B, Q, width), boxes (B, Q, 4) in 0…1 of the maps, maps (B, width, H_l, W_l) → (B, Q, width)."""
        out: Tensor = self.out(sample_maps(maps, *sampling_points(self, queries, boxes_cxcywh)))
        return out

    def _init_weights(self) -> None:
        heads, levels, points = self.shape
        # At first every head looks in a direction of its own, point by point further out, up to the border of the box.
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, points + 1) / points
        start = (directions[:, None, None] * reach[:, None]).expand(heads, levels, points, 2)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)


def sampling_points(attention: SampledAttention, queries: Tensor, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """Where queries (B, Q, width) with these boxes read, in 0…1 of the maps, and how much each point counts.

    Returns:
        (B, Q, heads, levels, points, 2) and (B, Q, heads, levels, points).
    """
    rows, shape = queries.shape[:2], attention.shape
    offsets = attention.offsets(queries).view(*rows, *shape, 2)
    weights = attention.weights(queries).view(*rows, shape[0], -1).softmax(-1).view(*rows, *shape)
    boxes = boxes_cxcywh[:, :, None, None, None]
    return boxes[..., :2] + offsets * (boxes[..., 2:] / 2), weights


def sample_maps(maps: list[Tensor], points_xy: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values read at points of several maps, bilinearly, with zeros outside.

    Args:
        maps: L of (B, heads · D, H_l, W_l).
        points_xy: (B, Q, heads, L, P, 2), 0…1 from the left and upper border of a map to the others.
        weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads · D).
    """
    batch, queries, heads = weights.shape[:3]
    # Heads go into the batch, so that each reads its own channels; grid_sample counts from −1 to 1.
    grids = (points_xy * 2 - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B · heads, Q, P, 2)
    read = [
        F.grid_sample(x.reshape(batch * heads, -1, *x.shape[2:]), grid.to(x.dtype), align_corners=False)
        for x, grid in zip(maps, grids, strict=True)
    ]  # L of (B · heads, D, Q, P)
    # Weights of a query sum to one over all levels, so one product over the points of all of them.
    shares = weights.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(2)  # (B · heads, Q, L · P)
    total = (torch.cat(read, 3) * shares[:, None]).sum(3)  # (B · heads, D, Q)
    return total.reshape(batch, -1, queries).transpose(1, 2)
