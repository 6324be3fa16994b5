"""Detections of two frames as one graph, in which an edge may join an object with itself in the next frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.fields import join_fields

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


def matches_of(
    joined: Detections, pairs: npt.NDArray[np.int64], together: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """(2, M) pairs that are the same object, one of the first frame and one of the second, each at most once.

    Args:
        joined: of :func:`join_frames`, also after a network corrected them.
        pairs: (2, P) numbers of detections.
        together: (P,) 0…1, how sure it is that a pair is one object; pairs above 0.5 count, the surest first.
    """
    frames = np.asarray(joined.fields[FRAME])
    taken = np.zeros(len(joined), np.bool_)
    matched = []
    for position in np.argsort(-together, kind="stable"):
        i, j = sorted(pairs[:, position].tolist(), key=lambda node: int(frames[node]))
        if together[position] > 0.5 and frames[i] != frames[j] and not taken[[i, j]].any():
            taken[[i, j]] = True
            matched.append((i, j))
    return np.array(sorted(matched), np.int64).reshape(-1, 2).T
