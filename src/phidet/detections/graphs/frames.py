"""Detections of two frames as one graph, in which an edge may join an object with itself in the next frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.fields import join_fields
from phidet.detections.tracking.assignment import assign

FRAME = "frame"
"""Field of joined detections: 0 in the first frame, 1 in the second."""


def join_frames(first: Detections, second: Detections) -> Detections:
    """The detections of both frames, best first, with the field ``frame``.

    A network with ``fields={"frame": 1}`` sees which is which; trained with the objects' track numbers as ``group``,
    its answer "together" is whether two detections are the same object.

    Raises:
        InputError: images of different sizes or detectors of different classes.
    """
    if (first.names, first.image_size_hw) != (second.names, second.image_size_hw):
        raise InputError(
            f"expected two frames of one video, got {first.image_size_hw} with {len(first.names)} classes and "
            f"{second.image_size_hw} with {len(second.names)}"
        )
    numbered = enumerate((first, second))
    parts = [found.with_fields({FRAME: np.full(len(found), number, np.int64)}) for number, found in numbered]
    return Detections(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        first.names,
        first.image_size_hw,
        join_fields([(part.fields, len(part)) for part in parts]),
    )


def side_by_side(found: Detections) -> Detections:
    """Joined frames as one image of twice the width, the second frame on the right; other detections as they are.

    There, boxes of different frames never overlap: what a detection is of is found as in a single image.
    """
    if FRAME not in found.fields or found.image_size_hw is None:
        return found
    height, width = found.image_size_hw
    boxes = beside(found.boxes_xyxy, np.asarray(found.fields[FRAME]), width)
    return replace(found, boxes_xyxy=boxes, image_size_hw=(height, 2 * width))


def beside(boxes_xyxy: npt.NDArray[np.float32], frames: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
    """(N, 4) boxes, those of frame 1 moved to the right by the ``width`` of an image."""
    return boxes_xyxy + frames[:, None].astype(np.float32) * np.array([width, 0, width, 0], np.float32)


def matches_of(
    frames: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64], together: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """(2, M) pairs that are the same object, one of the first frame and one of the second, each at most once.

    Of all ways to pair them the likeliest: the greatest sum of the pairs' log odds, of those above 0.5.

    Args:
        frames: (N,) field ``frame`` of joined detections, also after a network corrected them.
        pairs: (2, P) numbers of detections.
        together: (P,) 0…1, how sure it is that a pair is one object.
    """
    # Each pair in the order of the frames, once.
    pairs = np.where(frames[pairs[0]] <= frames[pairs[1]], pairs, pairs[::-1])
    kept = (frames[pairs[0]] < frames[pairs[1]]) & (together > 0.5)
    first, rows = np.unique(pairs[0, kept], return_inverse=True)
    second, columns = np.unique(pairs[1, kept], return_inverse=True)
    # A pair that is quite sure has finite odds, so that two others together may weigh more.
    share = np.minimum(together[kept].astype(np.float64), 1 - 1e-6)
    odds = np.zeros((len(first), len(second)))
    odds[rows, columns] = np.log(share / (1 - share))
    chosen = np.stack(assign(odds, 0.0))
    matched = np.stack((first[chosen[0]], second[chosen[1]]))
    return matched[:, np.lexsort(matched[::-1])].astype(np.int64)
