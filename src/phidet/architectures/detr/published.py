"""The published models by name, and DETR on every other backbone of the house."""

from __future__ import annotations

from typing import NamedTuple

from phidet.architectures.backbones.published import BACKBONE_NAMES, backbone_config
from phidet.architectures.detr.config import DetrConfig, MaskConfig
from phidet.core.errors import UnknownNameError
from phidet.data.coco_classes import COCO_CLASS_NAMES, COCO_STUFF_NAMES
from phidet.images.prepare import IMAGENET, LITE

COCO_91 = ("unused-0", *COCO_CLASS_NAMES)
"""Classes of the published detectors: index i is COCO's category id i, and there is no id 0."""


COCO_PANOPTIC = (*COCO_91, *(COCO_STUFF_NAMES.get(i, f"unused-{i}") for i in range(91, 250)))
"""Classes of the published panoptic networks, likewise by category id: things up to 90, stuff from 92 to 200."""


class DetrRow(NamedTuple):
    """A published detector."""

    backbone: str
    dilation: bool = False
    demo: bool = False
    masks: bool = False


PUBLISHED: dict[str, DetrRow] = {
    "detr-r50": DetrRow("resnet50"),
    "detr-r101": DetrRow("resnet101"),
    "detr-r50-dc5": DetrRow("resnet50", dilation=True),
    "detr-r101-dc5": DetrRow("resnet101", dilation=True),
    "detr-r50-panoptic": DetrRow("resnet50", masks=True),
    "detr-r101-panoptic": DetrRow("resnet101", masks=True),
    "detr-r50-dc5-panoptic": DetrRow("resnet50", dilation=True, masks=True),
    "detr-demo": DetrRow("resnet50", demo=True),
}
"""Those whose weights are published."""

DETRS: dict[str, DetrRow] = {
    **PUBLISHED,
    **{f"detr-{name}": DetrRow(name) for name in BACKBONE_NAMES if name not in ("resnet50", "resnet101")},
}
"""Those, and DETR on the other backbones, to be trained from their ImageNet weights."""


def detr_config(name: str, class_names: tuple[str, ...] | None = None) -> DetrConfig:
    """The detector named ``name``, with COCO's classes unless others are given.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in DETRS:
        raise UnknownNameError("model", name, DETRS)
    row = DETRS[name]
    return DetrConfig(
        name=name,
        backbone=backbone_config(row.backbone),
        class_names=class_names or (COCO_PANOPTIC if row.masks else COCO_91),
        position="learned" if row.demo else "sine",
        dilation=row.dilation,
        form="demo" if row.demo else "detr",
        # Of COCO's classes it is known which are stuff; of others training reads it from the data.
        masks=MaskConfig(stuff=COCO_PANOPTIC[91:] if class_names is None else ()) if row.masks else None,
        preprocess=LITE if row.backbone.startswith("efficientnet-lite") else IMAGENET,
    )
