"""A small centre-point detector (after arXiv 1904.07850), as another package would add one to phidet.

One map at a stride of 8 says where the centres of objects are, how large they are, and nothing else: no anchors and no
suppression. It is here to show, and to test, that an architecture needs no line of phidet changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.base import Architecture, Placement, Processes
from phidet.architectures.batch import Batch
from phidet.architectures.model import Model
from phidet.core.errors import UnknownNameError
from phidet.detections.boxes import FloatArray, clip
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.images.prepare import IMAGENET, Preprocess

STRIDE = 8


class CentrePointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network is."""

    name: str
    class_names: tuple[str, ...]
    image_size_hw: tuple[int, int] = (96, 96)
    channels: int = 16
    preprocess: Preprocess = IMAGENET

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


class Maps(NamedTuple):
    """Raw outputs: centre logits (B, C, h, w), and log of (width, height) in strides (B, 2, h, w)."""

    centres: Tensor
    sizes: Tensor


class CentrePoint(Model):
    """Five convolutions, then one for centres and one for sizes."""

    def __init__(self, config: CentrePointConfig) -> None:
        super().__init__()
        self.config: CentrePointConfig = config
        c = config.channels
        layers: list[nn.Module] = []
        for before, after, stride in (
            (3, c, 2),
            (c, 2 * c, 2),
            (2 * c, 4 * c, 2),
            (4 * c, 4 * c, 1),
            (4 * c, 4 * c, 1),
        ):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.centres = nn.Conv2d(4 * c, config.num_classes, 1)
        self.sizes = nn.Conv2d(4 * c, 2, 1)
        nn.init.constant_(self.centres.bias, -2.2)  # ten percent at the start, as focal losses want it

    def forward(self, images: Tensor) -> Maps:
        """Normalised images (B, 3, H, W) → maps."""
        x = self.trunk(images)
        return Maps(self.centres(x), self.sizes(x))


class CentreLoss:
    """Cross entropy of cells that hold a centre or not, and L1 of the sizes where one is."""

    def __init__(self, config: CentrePointConfig, size_weight: float = 1.0) -> None:
        self.config, self.size_weight = config, size_weight

    def to(self, device: torch.device) -> None:
        """Nothing to move."""

    def __call__(self, outputs: Maps, batch: Batch, processes: Processes) -> dict[str, Tensor]:
        centres = outputs.centres.float()
        wanted, size_loss = torch.zeros_like(centres), centres.new_zeros(())
        for i, (boxes, classes) in enumerate(zip(batch.boxes_xyxy, batch.class_ids, strict=True)):
            boxes, classes = boxes[classes >= 0], classes[classes >= 0]
            if not len(boxes):
                continue
            column, row = (((boxes[:, :2] + boxes[:, 2:]) / 2) / STRIDE).long().T
            row, column = row.clamp(max=centres.shape[2] - 1), column.clamp(max=centres.shape[3] - 1)
            wanted[i, classes, row, column] = 1
            sizes = ((boxes[:, 2:] - boxes[:, :2]) / STRIDE).clamp(min=0.1).log()
            size_loss = size_loss + F.l1_loss(outputs.sizes[i, :, row, column].T.float(), sizes, reduction="sum")
        objects = processes.total(wanted.sum()).clamp(min=1) / processes.size
        centre_loss = F.binary_cross_entropy_with_logits(centres, wanted, reduction="sum") / objects
        size_loss = size_loss / objects
        return {"loss": centre_loss + self.size_weight * size_loss, "centres": centre_loss, "sizes": size_loss}


class CentreDecoder:
    """Cells that score higher than their eight neighbours are objects."""

    def __init__(self, config: CentrePointConfig) -> None:
        self.config = config

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        scores = 1 / (1 + np.exp(-outputs["centres"].astype(np.float64)))  # (C, h, w)
        height, width = scores.shape[1:]
        padded = np.pad(scores, ((0, 0), (1, 1), (1, 1)))
        around = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        peaks = (scores >= np.max(around, axis=0)) & (scores >= settings.score)
        class_ids, rows, columns = np.nonzero(peaks)
        best = np.argsort(-scores[peaks], kind="stable")[: settings.max_detections]
        class_ids, rows, columns = class_ids[best], rows[best], columns[best]
        centres = (np.stack([columns, rows], 1) + 0.5) * STRIDE
        halves = np.exp(outputs["sizes"][:, rows, columns].T) * STRIDE / 2
        boxes = np.concatenate([centres - halves, centres + halves], 1).astype(np.float32) / np.float32(placement.scale)
        found = scores[class_ids, rows, columns].astype(np.float32)
        boxes = clip(boxes, placement.image_hw)
        return Detections(boxes, found, class_ids.astype(np.int64), self.config.class_names, placement.image_hw)


class CentrePointArchitecture(Architecture[CentrePointConfig]):
    """The centre-point detector behind phidet's interface."""

    name = "centre-point"
    config_type = CentrePointConfig
    published_names = ("centre-point-small",)
    loss_settings = {"size_weight": 1.0}  # noqa: RUF012 - read only
    predictors = ("centres.",)

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> CentrePointConfig:
        if name not in self.published_names:
            raise UnknownNameError("model", name, self.published_names)
        return CentrePointConfig(name=name, class_names=class_names or ("object",))

    def output_shapes(self, config: CentrePointConfig) -> dict[str, tuple[int, ...]]:
        height, width = (-(-side // STRIDE) for side in config.image_size_hw)
        return {"centres": (config.num_classes, height, width), "sizes": (2, height, width)}

    def decoder(self, config: CentrePointConfig) -> CentreDecoder:
        return CentreDecoder(config)

    def build(self, config: CentrePointConfig) -> CentrePoint:
        return CentrePoint(config)

    def loss(self, config: CentrePointConfig, settings: Mapping[str, Any]) -> CentreLoss:
        return CentreLoss(config, **settings)


CENTRE_POINT = CentrePointArchitecture()
