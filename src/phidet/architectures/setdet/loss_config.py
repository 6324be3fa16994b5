"""Settings of the training loss of a set predictor."""

from __future__ import annotations

import math

import msgspec

from phidet.core.errors import ConfigError


class LossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss to minimise: ``class_weight · class + l1_weight · L1 + giou_weight · (1 − GIoU)`` of every layer, of the
    chosen cells and of denoising, and ``dense_weight`` times the dense head's.

    ``l1_weight`` and ``giou_weight`` are costs of matching as well, beside ``class_cost``. ``quality_power`` is γ of
    the class loss. ``denoising`` is about how many denoising queries there are for each image, ``label_noise`` the
    share of them with another label, ``box_noise`` how far off they are, in halves of a box.
    """

    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    class_cost: float = 2.0
    quality_power: float = 1.5
    dense_weight: float = 1.0
    denoising: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in (
            "class_weight",
            "l1_weight",
            "giou_weight",
            "class_cost",
            "dense_weight",
            "denoising",
            "box_noise",
        ):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"loss {name} must be ≥ 0, got {value!r}")
        if not 0 < self.quality_power < math.inf:
            raise ConfigError(f"loss quality_power must be > 0, got {self.quality_power!r}")
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"loss label_noise must be in [0, 1], got {self.label_noise!r}")
