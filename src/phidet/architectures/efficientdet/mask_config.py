"""Configuration of what EfficientDet says of pixels."""

from __future__ import annotations

import msgspec

from phidet.core.structs import require

STRIDE = 4
"""Pixels of the input along a side of one of the prototypes."""
ADDED = ("mask_head", "prototypes", "semantic")
"""Parts of a network that say something of pixels: a detector's file lacks them, and files of others have none."""


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


class SemanticConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A head for the class of every pixel.

    ``stuff`` are the names of the classes that are not counted (sky, grass): they have pixels, but no boxes, and with
    masks of things they make a segment for every pixel. Without any, what belongs to no object is background.
    """

    stuff: tuple[str, ...] = ()
