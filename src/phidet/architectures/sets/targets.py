"""The objects of a batch as sets of boxes relative to their images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phidet.architectures.batch import Batch
from phidet.architectures.processes import Processes
from phidet.detections.boxes import xyxy_to_cxcywh


class SetTargets(NamedTuple):
    """The objects of B images.

    Attributes:
        class_ids: (B, N) int64; −1 is padding, which follows the objects of an image.
        boxes_cxcywh: (B, N, 4) in 0…1 of the image without its padding.
    """

    class_ids: Tensor
    boxes_cxcywh: Tensor

    @property
    def counts(self) -> Tensor:
        """(B,) int64, the number of objects of each image."""
        return (self.class_ids >= 0).sum(1)


def set_targets(batch: Batch) -> SetTargets:
    """The objects of ``batch``, relative to the part of the input that is image: so a box says the same however much
    padding the other images of the batch cause."""
    sizes_hw = batch.valid_hw.to(batch.boxes_xyxy.dtype)
    scale = sizes_hw[:, [1, 0, 1, 0]].unsqueeze(1)  # (B, 1, 4): width, height, width, height
    return SetTargets(batch.class_ids, xyxy_to_cxcywh(batch.boxes_xyxy / scale))


def num_objects(targets: SetTargets, processes: Processes) -> Tensor:
    """The normaliser of losses over pairs: the mean number of objects per process, in a batch of at least one object.

    A sum over one process's pairs divided by it has gradients whose mean over the processes is the gradient of the
    whole batch.
    """
    total = processes.total(targets.counts.sum().to(torch.get_default_dtype()))
    return total.clamp(min=1) / processes.size
