"""Settings of the training loss of EfficientDet"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec

from phidet.core.structs import require, require_one_of
from phidet.detections.boxes import IouKind

Assignment: TypeAlias = Literal["iou", "atss", "task"]


class LossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss to minimise: ``class + box_weight · box + iou_weight · iou``.

    ``alpha`` weighs the true class against the other classes, ``gamma`` down-weights easy examples (arXiv 1708.02002
    section 3), ``label_smoothing`` moves the targets 1 and 0 towards ½; ``delta`` is the error, in units of the box
    code, above which the box loss is linear. ``iou_kind`` adds a loss on decoded boxes. ``mask_weight``
    is that of masks, ``semantic_weight`` that of the classes of pixels, where the network learns some.
    ``assignment`` says which anchors learn an object: "iou", the paper's fixed overlap; "atss", by the statistics of
    each object's anchors (arXiv 1912.02424); or "task", by what the network answers (arXiv 2108.07755), always with
    ``quality``. With ``quality`` a class learns the IoU of the answered box instead of 1 (quality focal loss, arXiv
    2006.04388), and boxes weigh by it.
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
    assignment: Assignment = "iou"
    quality: bool = False

    def __post_init__(self) -> None:
        require_one_of("loss assignment", self.assignment, Assignment)
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
            require(fine, f"loss {name} must be {expected}, got {getattr(self, name)!r}")
