"""Segments: what each pixel of an image belongs to, a thing of its own or a kind of stuff."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.detections.detections import Detections
from phidet.detections.fields import Values
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks

IS_THING = "is_thing"
"""Name of the field that tells countable things (True) from stuff such as sky."""
NOTHING = -1
"""In a label map: a pixel that belongs to no segment."""


def make_segments(
    ids: npt.NDArray[Any],
    class_ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating[Any]],
    is_thing: npt.NDArray[np.bool_],
    names: tuple[str, ...],
) -> Detections:
    """Segments of an image, best first, each in the box around it; those without a pixel are left out.

    Args:
        ids: (H, W), the number of the segment at each pixel, 0…N−1; others for none.
        class_ids, scores, is_thing: (N,) each, of the segments.
        names: of the classes.
    """
    height, width = ids.shape
    masks = Masks.from_ids(ids, np.arange(len(class_ids)))
    seen = masks.areas > 0
    fields: dict[str, Values] = {MASKS: masks[seen], IS_THING: is_thing[seen]}
    return Detections(
        masks[seen].boxes_xyxy, scores[seen].astype(np.float32), class_ids[seen], names, (height, width), fields
    )


def things_of(segments: Detections) -> npt.NDArray[np.bool_]:
    """(N,) bool, which segments are countable things; all, where that is not known."""
    return np.asarray(segments.fields.get(IS_THING, np.ones(len(segments), np.bool_)), np.bool_)


def label_map(found: Detections) -> npt.NDArray[np.int32]:
    """(H, W) int32, the class id at each pixel of the image, −1 where there is none.

    From the segments of what was found, or, of a network that finds objects only, from their masks, of which the first
    is on top.

    Raises:
        ValueError: there are neither segments nor masks, and the size of the image is not known.
    """
    whole = found if found.segments is None else found.segments
    if whole.masks is None:
        if found.image_size_hw is None:
            raise ValueError("detections without masks and without the size of their image have no label map")
        return np.full(found.image_size_hw, NOTHING, np.int32)
    return whole.masks.to_ids(whole.class_ids, NOTHING)
