"""Frames of videos in pairs, for networks that say which detections are the same object in the next frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phidet.core.errors import InputError
from phidet.data.dataset import Annotations, Dataset
from phidet.detections.detections import Detections
from phidet.detections.fields import join_fields
from phidet.detections.graphs.frames import beside, join_frames

Pairs = list[tuple[int, int]]


def frame_pairs(dataset: Dataset) -> Pairs:
    """Numbers of the images that are a frame and the next one of its video, among those that are there.

    Raises:
        InputError: two images are the same frame, or no video has two.
    """
    videos: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, name in enumerate(map(str, dataset.names)):
        if name in dataset.frames:
            video, number = dataset.frames[name]
            videos[video].append((number, index))
    pairs: Pairs = []
    for video, frames in videos.items():
        # Neighbours in the order of their numbers, in which there may be gaps: not every frame is labelled.
        for (number, index), (following, other) in zip(sorted(frames), sorted(frames)[1:], strict=False):
            if number == following:
                raise InputError(
                    f"{dataset.names[index]} and {dataset.names[other]} are both frame {number} of video {video}"
                )
            pairs.append((index, other))
    if not pairs:
        raise InputError(f"{dataset.name!r} has no two frames of one video: expected images with video_id and frame_id")
    return pairs


def paired(dataset: Dataset, found: Sequence[Detections], pairs: Pairs) -> tuple[Dataset, list[Detections]]:
    """Each pair as one image of twice the width with the objects of both frames, and the joined detections."""
    joined = [join_frames(found[one], found[other]) for one, other in pairs]
    sizes = np.array([dataset.size_hw(one) for one, _ in pairs], np.int32).reshape(-1, 2)
    data = Dataset(
        dataset.name,
        dataset.class_names,
        names=[f"{dataset.names[one]} {dataset.names[other]}" for one, other in pairs],
        sources=[Path(str(dataset.source(one))) for one, _ in pairs],
        annotations=[_both(dataset, one, other) for one, other in pairs],
        sizes_hw=sizes * np.array([1, 2], np.int32),
    )
    return data, joined


def _both(dataset: Dataset, one: int, other: int) -> Annotations:
    first, second = dataset.annotations(one), dataset.annotations(other)
    width = dataset.size_hw(one)[1]
    # Labels of masks have a place in their own image only, and are not looked at.
    fields = [({name: v for name, v in a.fields.items() if name != "masks"}, len(a.areas)) for a in (first, second)]
    second = second._replace(boxes_xyxy=beside(second.boxes_xyxy, np.ones(len(second.areas), np.int64), width))
    arrays: list[tuple[Any, ...]] = [first[:-1], second[:-1]]
    columns = (np.concatenate(both) for both in zip(*arrays, strict=True))
    return Annotations._make([*columns, join_fields(fields)])
