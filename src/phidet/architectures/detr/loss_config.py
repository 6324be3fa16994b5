"""Settings of the training loss of DETR."""

from __future__ import annotations

import math

import msgspec

from phidet.core.structs import require


class DetrLossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The loss to minimise: ``class_weight · class + box_weight · L1 + giou_weight · GIoU``, of every decoder layer.

    Networks with masks add ``mask_weight · focal + dice_weight · DICE`` of the last one.

    ``no_object_weight`` is the weight of a query without an object in the class loss. ``*_cost`` are the weights in the
    matching. ``auxiliary`` adds the losses of all decoder layers but the last.
    """

    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    mask_weight: float = 1.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1
    class_cost: float = 1.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    auxiliary: bool = True

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            require(name == "auxiliary" or 0 <= value < math.inf, f"loss {name} must be ≥ 0, got {value!r}")
        why = "queries without an object would learn nothing"
        require(self.no_object_weight > 0, f"loss no_object_weight must be > 0: {why}")
        costs = self.class_cost, self.box_cost, self.giou_cost
        require(any(costs), "class_cost, box_cost and giou_cost are all 0: there is nothing to match by")
