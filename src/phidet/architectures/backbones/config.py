"""Configuration of a backbone."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from phidet.core.structs import require, require_one_of

BackboneArchitecture = Literal[
    "efficientnet",
    "efficientnet-lite",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet-v2",
]


class BackboneConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backbone: a published architecture, with its widths and depths multiplied.

    ``drop_path`` is the probability of skipping the last residual block in training (stochastic depth, growing
    linearly with depth; the papers' 1 − survival probability).
    """

    architecture: BackboneArchitecture
    width: float = 1.0
    depth: float = 1.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        require_one_of("architecture", self.architecture, BackboneArchitecture)
        for name in ("width", "depth"):
            value = getattr(self, name)
            require(math.isfinite(value) and 0 < value <= 16, f"backbone {name} must be in (0, 16], got {value!r}")
        require(0 <= self.drop_path < 1, f"drop_path must be in [0, 1), got {self.drop_path!r}")


def backbone_summary(config: BackboneConfig) -> str:
    """A one-line description of a backbone."""
    return f"{config.architecture}, width ×{config.width:g}, depth ×{config.depth:g}"
