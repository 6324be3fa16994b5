"""Settings of the training loss of EfficientDet"""

from __future__ import annotations

import math

import msgspec

from phidet.core.errors import ConfigError
from phidet.detections.boxes import IouKind


class LossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss to minimise: ``class + box_weight · box + iou_weight · iou``.

    ``alpha`` weighs the true class against the other classes, ``gamma`` down-weights easy examples (arXiv 1708.02002
    section 3), ``label_smoothing`` moves the targets 1 and 0 towards ½; ``delta`` is the error, in units of the box
    code, above which the box loss is linear. ``iou_kind`` adds a loss on decoded boxes. ``mask_weight``
    is that of masks, ``semantic_weight`` that of the classes of pixels, where the network learns some.
    """

    alpha: float = 0.25
    gamma: float = 1.5
    label_smoothing: float = 0.0
    delta: float = 0.1
    box_weight: float = 50.0
    iou_kind: IouKind | None = None
    iou_weight: float = 1.0
    mask_weight: float = 1.0
    semantic_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("alpha", 0 <= self.alpha <= 1, "in [0, 1]"),
            ("gamma", 0 <= self.gamma < math.inf, "≥ 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("delta", 0 < self.delta < math.inf, "> 0"),
            ("box_weight", 0 <= self.box_weight < math.inf, "≥ 0"),
            ("iou_weight", 0 <= self.iou_weight < math.inf, "≥ 0"),
            ("mask_weight", 0 <= self.mask_weight < math.inf, "≥ 0"),
            ("semantic_weight", 0 <= self.semantic_weight < math.inf, "≥ 0"),
        ):
            if not fine:
                raise ConfigError(f"loss {name} must be {expected}, got {getattr(self, name)!r}")
