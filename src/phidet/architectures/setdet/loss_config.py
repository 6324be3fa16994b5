"""Settings of the training loss of a set predictor."""

from __future__ import annotations

import math

import msgspec

from phidet.core.structs import require


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
        power, noise = self.quality_power, self.label_noise
        for name in self.__struct_fields__:
            value = getattr(self, name)
            # These two have limits of their own.
            if name not in ("quality_power", "label_noise"):
                require(0 <= value < math.inf, f"loss {name} must be ≥ 0, got {value!r}")
        require(0 < power < math.inf, f"loss quality_power must be > 0, got {power!r}")
        require(0 <= noise <= 1, f"loss label_noise must be in [0, 1], got {noise!r}")
