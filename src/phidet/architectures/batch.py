"""A batch of labelled images, the input of every architecture's loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phidet.core.errors import InputError


def check_class_ids(class_ids: Tensor, num_classes: int) -> None:
    """Raises InputError unless all ids are below ``num_classes``; not on accelerators, where looking would wait."""
    if class_ids.device.type == "cpu" and not torch.compiler.is_compiling() and (class_ids >= num_classes).any():
        raise InputError(
            f"class id {int(class_ids.max())} among the targets of a network with {num_classes} classes: "
            f"ids run from 0 to {num_classes - 1}"
        )


class Batch(NamedTuple):
    """Images for training.

    Attributes:
        pixels: (B, 3, H, W) uint8.
        valid_hw: (B, 2) int64, height and width of each image without padding.
        boxes_xyxy: (B, N, 4) float32 in pixels of the input, padded with 0.
        class_ids: (B, N) int64, padded with −1.
        soft: (B, N, C) float32 in 0…1, the probability of each class for each object, where a teacher gave them;
            ``None`` for labels, which are certain. The class id of an object is its most probable class.
        masks: (B, N, h, w) uint8 at the fraction of the input that :meth:`Architecture.mask_stride` names: 1 where the
            object is, 0 where it is not, 255 all over for an object that has a box only; ``None`` where the network
            learns no masks.
    """

    pixels: Tensor
    valid_hw: Tensor
    boxes_xyxy: Tensor
    class_ids: Tensor
    soft: Tensor | None = None
    masks: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(*(None if part is None else part.to(device, non_blocking=True) for part in self))  # type: ignore[arg-type]
