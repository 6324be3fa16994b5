"""EfficientDet's compound scaling (arXiv 1911.09070, section 4.2)."""

from __future__ import annotations

import math

import msgspec

from phidet.architectures.backbones.scaling import round_half_up, round_to_multiple
from phidet.core.structs import require


class DetectorLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EfficientDet's law for everything behind the backbone (arXiv 1911.09070, eq. 1–3).

    ``width_base · width_factor^φ`` channels, ``depth_base + φ`` cells, ``head_base + ⌊φ/3⌋`` head layers,
    ``size_base + size_step · φ`` pixels of input side.
    """

    width_base: float = 64
    width_factor: float = 1.35
    depth_base: float = 3
    head_base: int = 3
    size_base: float = 512
    size_step: float = 128

    def __post_init__(self) -> None:
        factor = self.width_factor
        require(1 <= factor < math.inf, f"width_factor must be a number ≥ 1 (the paper uses 1.35), got {factor!r}")

    def channels(self, phi: float) -> int:
        """Channels of the feature network and the heads."""
        return round_to_multiple(self.width_base * self.width_factor**phi, 8)

    def cells(self, phi: float) -> int:
        """Repetitions of the feature network."""
        return max(1, round_half_up(self.depth_base + phi))

    def head_layers(self, phi: float) -> int:
        """Convolutions of each head before its predictor."""
        return max(1, self.head_base + math.floor(phi / 3))

    def image_size(self, phi: float) -> int:
        """Side of the square input in pixels."""
        return round_to_multiple(self.size_base + self.size_step * phi, 32)
