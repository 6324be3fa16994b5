"""Detections as the tensors of the TensorFlow Object Detection API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phidet.detections.boxes import xyxy_to_yxyx
from phidet.detections.detections import Detections

Tensors = dict[str, npt.NDArray[np.float32]]

FIRST_CLASS = 1
"""The API's label maps count from 1, where phidet's class ids count from 0."""


MASK_SIDE = 33
"""Cells of a mask over its box in either direction, as in the API's Mask R-CNNs: the number of objects, not the size of
their image, limits the size of an answer."""


def output_shapes(max_detections: int, has_masks: bool = False) -> dict[str, tuple[int, ...]]:
    """Name → shape of one image's part, in alphabetical order."""
    masks = {"detection_masks": (max_detections, MASK_SIDE, MASK_SIDE)} if has_masks else {}
    return {
        "detection_boxes": (max_detections, 4),
        "detection_classes": (max_detections,),
        **masks,
        "detection_scores": (max_detections,),
        "num_detections": (),
    }


def to_tensors(
    detections: Sequence[Detections],
    sizes_hw: Sequence[tuple[int, int]],
    max_detections: int,
    has_masks: bool = False,
) -> Tensors:
    """The answers to a batch of B images, each padded with zeros to M = ``max_detections``.

    Returns:
        ``detection_boxes`` (B, M, 4): ymin, xmin, ymax, xmax as parts of the image's height and width, 0…1;
        ``detection_classes`` (B, M): class id + 1; ``detection_scores`` (B, M); ``num_detections`` (B,); of models
        with masks ``detection_masks`` (B, M, 33, 33), the share of the object in each cell of a grid over its box, 0…1.
    """
    batch = len(detections)
    shapes = output_shapes(max_detections, has_masks)
    tensors = {name: np.zeros((batch, *shape), np.float32) for name, shape in shapes.items()}
    for i, (found, (height, width)) in enumerate(zip(detections, sizes_hw, strict=True)):
        # Fixed shapes, as TensorFlow's exported detectors have them; num_detections says how much is padding.
        n = min(len(found.scores), max_detections)
        side = np.array([height, width, height, width], np.float32)
        tensors["detection_boxes"][i, :n] = xyxy_to_yxyx(found.boxes_xyxy[:n]) / side
        tensors["detection_classes"][i, :n] = found.class_ids[:n] + FIRST_CLASS
        tensors["detection_scores"][i, :n] = found.scores[:n]
        tensors["num_detections"][i] = n
        if has_masks and found.masks is not None:
            tensors["detection_masks"][i, :n] = found.masks[:n].in_boxes(found.boxes_xyxy[:n], MASK_SIDE)
    return tensors
