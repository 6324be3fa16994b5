"""Detections as the tensors of the TensorFlow Object Detection API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phidet.detections.boxes import xyxy_to_yxyx
from phidet.detections.detections import Detections
from phidet.detections.masks import nearest
from phidet.detections.segments import label_map

Tensors = dict[str, npt.NDArray[np.float32]]

FIRST_CLASS = 1
"""The API's label maps count from 1, where phidet's class ids count from 0."""


MASK_SIDE = 33
"""Cells of a mask over its box in either direction, as in the API's Mask R-CNNs: the number of objects, not the size of
their image, limits the size of an answer."""


MAP_SIDE = 128
"""Cells of a label map over the whole image in either direction, so that no image makes an answer larger."""
EVERYTHING = frozenset({"masks", "segments"})
"""All that a model may find beside boxes."""


def output_shapes(max_detections: int, finds: frozenset[str] = frozenset()) -> dict[str, tuple[int, ...]]:
    """Name → shape of one image's part, in alphabetical order."""
    masks = {"detection_masks": (max_detections, MASK_SIDE, MASK_SIDE)} if "masks" in finds else {}
    segments = {"label_map": (MAP_SIDE, MAP_SIDE)} if "segments" in finds else {}
    return {
        "detection_boxes": (max_detections, 4),
        "detection_classes": (max_detections,),
        **masks,
        "detection_scores": (max_detections,),
        **segments,
        "num_detections": (),
    }


def to_tensors(
    detections: Sequence[Detections],
    sizes_hw: Sequence[tuple[int, int]],
    max_detections: int,
    finds: frozenset[str] = frozenset(),
) -> Tensors:
    """The answers to a batch of B images, each padded with zeros to M = ``max_detections``.

    Returns:
        ``detection_boxes`` (B, M, 4): ymin, xmin, ymax, xmax as parts of the image's height and width, 0…1;
        ``detection_classes`` (B, M): class id + 1; ``detection_scores`` (B, M); ``num_detections`` (B,); of models
        with masks ``detection_masks`` (B, M, 33, 33), the share of the object in each cell of a grid over its box, 0…1;
        of those that say what every pixel belongs to ``label_map`` (B, 128, 128), the class id + 1 in the middle of
        each cell of a grid over the image, 0 for none.
    """
    batch = len(detections)
    shapes = output_shapes(max_detections, finds)
    tensors = {name: np.zeros((batch, *shape), np.float32) for name, shape in shapes.items()}
    for i, (found, (height, width)) in enumerate(zip(detections, sizes_hw, strict=True)):
        # Fixed shapes, as TensorFlow's exported detectors have them; num_detections says how much is padding.
        n = min(len(found.scores), max_detections)
        side = np.array([height, width, height, width], np.float32)
        tensors["detection_boxes"][i, :n] = xyxy_to_yxyx(found.boxes_xyxy[:n]) / side
        tensors["detection_classes"][i, :n] = found.class_ids[:n] + FIRST_CLASS
        tensors["detection_scores"][i, :n] = found.scores[:n]
        tensors["num_detections"][i] = n
        if "segments" in finds:
            tensors["label_map"][i] = label_cells(replace(found, image_size_hw=(height, width)))
        if "masks" in finds and found.masks is not None:
            tensors["detection_masks"][i, :n] = found.masks[:n].in_boxes(found.boxes_xyxy[:n], MASK_SIDE)
    return tensors


def label_cells(found: Detections) -> npt.NDArray[np.float32]:
    """(128, 128), the class id + 1 in the middle of each cell of a grid over the image, 0 where there is none."""
    labels = label_map(found)
    rows, columns = (nearest(side, MAP_SIDE) for side in labels.shape)
    return (labels[np.ix_(rows, columns)] + FIRST_CLASS).astype(np.float32)
