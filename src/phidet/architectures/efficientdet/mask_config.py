"""Configuration of EfficientDet's masks."""

from __future__ import annotations

import msgspec

from phidet.core.structs import require

STRIDE = 4
"""Pixels of the input along a side of one of the prototypes."""


class MaskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A head for masks.

    Attributes:
        prototypes: maps that masks are sums of.
        channels: width of the layers that make them.
        layers: convolutions before the coefficients' predictor.
    """

    prototypes: int = 32
    channels: int = 48
    layers: int = 2

    def __post_init__(self) -> None:
        for name, least in (("prototypes", 1), ("channels", 1), ("layers", 0)):
            value = getattr(self, name)
            require(value >= least, f"masks: {name} must be ≥ {least}, got {value}")
