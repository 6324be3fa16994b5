"""Position encodings of feature cells (arXiv 2005.12872, A.4), sine and learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from phidet.architectures.detr.config import LEARNED_CELLS, TEMPERATURE
from phidet.core.errors import InputError


def padding_of_cells(valid_hw: Tensor, size_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Tensor:
    """Which feature cells are padding: those whose nearest pixel is.

    Args:
        valid_hw: (B, 2) int64, height and width of each image without padding.
        size_hw: of the input in pixels.
        cells_hw: rows and columns of feature cells.

    Returns:
        (B, rows, columns) bool, true for padding.
    """
    rows, columns = (
        _nearest_pixels(cells, side, valid_hw.device) < valid_hw[:, i : i + 1]
        for i, (cells, side) in enumerate(zip(cells_hw, size_hw, strict=True))
    )
    return ~(rows[:, :, None] & columns[:, None, :])


def _nearest_pixels(cells: int, side: int, device: torch.device) -> Tensor:
    """The pixel that nearest-neighbour interpolation takes for each cell, in float32 as PyTorch computes it."""
    return (torch.arange(cells, device=device, dtype=torch.float32) * (side / cells)).floor()


def sine_positions(
    padding: Tensor, features: int, temperature: float = TEMPERATURE, scale: float = 2 * math.pi, normalise: bool = True
) -> Tensor:
    """Sines and cosines of each cell's row and column, counted over the cells that are image.

    Args:
        padding: (B, h, w) bool.
        features: channels for each of the two axes.
        temperature: ratio of the longest to the shortest wavelength.
        scale: of a coordinate at the far border, if normalised.
        normalise: divide coordinates by those of the last row and column.

    Returns:
        (B, 2 · features, h, w) float32, whatever the network runs in: rows, then columns; sine and cosine of a
        frequency alternate.
    """
    inside = ~padding
    y, x = inside.cumsum(1, dtype=torch.float32), inside.cumsum(2, dtype=torch.float32)
    if normalise:
        # A column of padding alone is 0 throughout, so its count is 0 too, and 0 / 10⁻⁶ stays 0.
        y = y / (y[:, -1:, :] + 1e-6) * scale
        x = x / (x[:, :, -1:] + 1e-6) * scale
    # Channels come in pairs of one wavelength, for its sine and its cosine.
    index = torch.arange(features, dtype=torch.float32, device=padding.device)
    wavelengths = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
    return torch.cat([_waves(axis[..., None] / wavelengths) for axis in (y, x)], 3).permute(0, 3, 1, 2)


def _waves(angles: Tensor) -> Tensor:
    """(…, F) angles → sines of the even ones, cosines of the odd ones, in turn."""
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


class LearnedPositions(nn.Module):
    """A vector for each of 50 columns and each of 50 rows; a cell has both, the column's first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(LEARNED_CELLS, features))
        self.columns = nn.Parameter(torch.empty(LEARNED_CELLS, features))
        nn.init.uniform_(self.rows)
        nn.init.uniform_(self.columns)

    def forward(self, cells_hw: tuple[int, int]) -> Tensor:
        """Positions of (h, w) cells: (1, 2 · features, h, w).

        Raises:
            InputError: more than 50 rows or columns.
        """
        height, width = cells_hw
        if not torch.compiler.is_compiling() and max(cells_hw) > LEARNED_CELLS:
            raise InputError(
                f"the network's features have {height}×{width} cells, and its learned positions end at "
                f"{LEARNED_CELLS}×{LEARNED_CELLS}: use smaller images, or sine positions"
            )
        columns = self.columns[:width].unsqueeze(0).expand(height, -1, -1)
        rows = self.rows[:height].unsqueeze(1).expand(-1, width, -1)
        return torch.cat([columns, rows], -1).permute(2, 0, 1).unsqueeze(0)
