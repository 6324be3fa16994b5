"""Statistics from the labels alone: counts, sizes, classes, and duplicate boxes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from phidet.core.numbers import equal_pairs
from phidet.data.dataset import Dataset
from phidet.data.doctor.facts import (
    COCO_DETECTIONS,
    MEDIUM,
    SMALL,
    Bins,
    ClassFacts,
    DuplicateBoxes,
    ImageSize,
    SplitFacts,
    Spread,
)
from phidet.data.made import made_images
from phidet.detections.boxes import area, elementwise_iou

SAME_BOX = 0.95  # IoU from which two boxes of a class are one object labelled twice
FEW_OBJECTS = 20


def split_facts(dataset: Dataset, made_of: Sequence[str], size_hw: tuple[int, int]) -> SplitFacts:
    """Counts and sizes of one split, its boxes also as they are in an input of ``size_hw``."""
    every = dataset.all_annotations
    counts = dataset.counts
    target = ~every.crowd
    boxes = every.boxes_xyxy[target].astype(np.float64)
    scales = object_scales(dataset, size_hw)[target]
    by_class = np.bincount(every.class_ids, minlength=len(dataset.class_names)).tolist()
    sizes_wh = np.repeat(dataset.sizes_hw[:, ::-1], counts, axis=0)
    # Sizes by frequency: a few unusual sizes often come from thumbnails or wrong exports.
    distinct, frequency = np.unique(dataset.sizes_hw, axis=0, return_counts=True)
    order = np.argsort(-frequency, kind="stable")
    return SplitFacts(
        name=dataset.name,
        made_of=list(made_of),
        images=len(dataset),
        objects=len(every.class_ids),
        classes=dict(zip(dataset.class_names, by_class, strict=True)),
        images_without_objects=int((counts == 0).sum()),
        crowd=int(every.crowd.sum()),
        difficult=int(every.difficult.sum()),
        image_sizes=[ImageSize(int(distinct[i, 1]), int(distinct[i, 0]), int(frequency[i])) for i in order],
        objects_per_image=spread(counts),
        crowded_images=int((counts > COCO_DETECTIONS).sum()),
        boxes=_bins(area(boxes)),
        boxes_at_input=_bins(area(boxes * scales[:, None])),
        aspects=spread((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])),
        extent=round(float((boxes[:, 2:] / sizes_wh[target]).max(initial=0.0)), 3),
        made=int(made_images(dataset).sum()),
    )


def spread(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Spread:
    """Distribution of values, to three decimals."""
    if not len(values):
        return Spread()
    smallest, low, median, high, largest = (round(q, 3) for q in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist())
    mean = round(float(values.mean()), 3)
    return Spread(smallest=smallest, low=low, median=median, mean=mean, high=high, largest=largest)


def _bins(areas: npt.NDArray[np.float64]) -> Bins:
    small, up_to_medium = int((areas < SMALL).sum()), int((areas < MEDIUM).sum())
    return Bins(small, up_to_medium - small, len(areas) - up_to_medium)


def class_facts(splits: Sequence[SplitFacts], train: str | None, val: str | None) -> ClassFacts:
    """Irregularities of the classes of some splits."""
    by_name = {split.name: split for split in splits}
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    total = {name: sum(split.classes.get(name, 0) for split in splits) for name in names}
    trained = by_name[train].classes if train in by_name else None
    measured = by_name[val].classes if val in by_name else None
    # Classes without any object are named once, as unused, and not again as rare or untrained.
    used = [name for name in names if total[name]]
    return ClassFacts(
        names=names,
        unused=[name for name in names if not total[name]],
        rare={} if trained is None else {n: trained[n] for n in used if 0 < trained.get(n, 0) < FEW_OBJECTS},
        untrained=[] if trained is None else [n for n in used if not trained.get(n, 0)],
        unmeasured=[
            n for n in used if trained and trained.get(n, 0) and measured is not None and not measured.get(n, 0)
        ],
        twins=class_name_twins(names),
        lists_differ=[s.name for s in splits if trained is not None and list(s.classes) != list(trained)],
    )


def class_name_twins(names: Iterable[str]) -> list[list[str]]:
    """Names that are the same but for case, spaces, punctuation or a plural s."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = re.sub(r"[\W_]+", "", name.casefold())
        # A name of punctuation alone has no plain form and stays by itself.
        groups[plain.removesuffix("s") or name].append(name)
    return [group for group in groups.values() if len(group) > 1]


def duplicate_boxes(dataset: Dataset) -> list[DuplicateBoxes]:
    """Pairs of boxes of one class in one image with IoU > 0.95, crowds left out."""
    every = dataset.all_annotations
    images = np.repeat(np.arange(len(dataset)), dataset.counts)
    starts = np.cumsum(dataset.counts) - dataset.counts
    group = images * len(dataset.class_names) + every.class_ids
    # All images at once: sorted by image and class, only objects of one group are compared.
    order = np.flatnonzero(~every.crowd)
    order = order[np.argsort(group[order], kind="stable")]
    group, boxes = group[order], every.boxes_xyxy[order].astype(np.float64)
    found: list[tuple[int, int, float]] = []
    for first, second in equal_pairs(group, len(group)):
        ious = elementwise_iou(boxes[first], boxes[second], "iou")
        same = ious > SAME_BOX
        found += zip(order[first[same]].tolist(), order[second[same]].tolist(), ious[same].tolist(), strict=True)
    return [
        DuplicateBoxes(
            dataset.name,
            str(dataset.names[images[a]]),
            dataset.class_names[every.class_ids[a]],
            int(a - starts[images[a]]),
            int(b - starts[images[a]]),
            round(iou, 4),
        )
        for a, b, iou in sorted(found)
    ]


def unions(members: Mapping[str, frozenset[object]]) -> dict[str, list[str]]:
    """Splits that consist of others (VOC's trainval of train and val), with these others.

    Args:
        members: the images of each split.
    """
    found = {}
    for name, images in members.items():
        # Proper subsets only; together they must be all of it, or images of its own would not be examined.
        parts = [other for other, theirs in members.items() if other != name and theirs and theirs < images]
        if len(parts) > 1 and frozenset().union(*(members[part] for part in parts)) == images:
            found[name] = parts
    return found


def fit_scales(sizes_hw: npt.NDArray[np.int32], size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(N, 2) sizes of images → (N,) factors that make each just fit into ``size_hw``."""
    factors: npt.NDArray[np.float64] = (np.array(size_hw, np.float64) / sizes_hw).min(axis=1)
    return factors


def object_scales(dataset: Dataset, size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The factor from image to input, for every object of a data set."""
    return np.repeat(fit_scales(dataset.sizes_hw, size_hw), dataset.counts)
