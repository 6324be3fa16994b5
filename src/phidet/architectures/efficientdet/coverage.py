"""Anchor coverage: the best IoU of any anchor with each ground-truth box, before any training.

Boxes are mapped to the network's input as in training: the image is scaled, keeping its aspect, until it
just fits, and padded right and below.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.architectures.efficientdet.anchors import generate_anchors, level_sizes, level_slices
from phidet.architectures.efficientdet.config import AnchorConfig, ModelConfig
from phidet.data.dataset import Dataset
from phidet.data.doctor.facts import MEDIUM, SMALL, Coverage, Recall, Trial
from phidet.data.doctor.labels import object_scales
from phidet.data.doctor.view import AnchorView, Boxes
from phidet.detections.boxes import area, elementwise_iou

MATCHED = 0.5  # IoU from which an anchor is positive
ENOUGH = 0.95  # recall from which nothing is suggested
_WORTH = 0.02  # minimum gain in recall for a suggestion
_MOST_BOXES = 100_000
_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
_FACTORS = (1.25, 1.5, 2.0)


def best_ious(
    boxes_xyxy: Boxes, size_hw: tuple[int, int], levels: Sequence[int], config: AnchorConfig
) -> npt.NDArray[np.float64]:
    """The largest IoU that any anchor has with each box; the same as comparing with all of them.

    An anchor's overlap with a box only shrinks when it is moved away along an axis, so of all anchors of one shape on
    one level the best is the one of the cell nearest to the box's centre.

    Args:
        boxes_xyxy: (N, 4) in pixels of the input.
        size_hw: of the input.
        levels, config: as in :func:`phidet.architectures.efficientdet.anchors.generate_anchors`.

    Returns:
        (N,) in 0…1.
    """
    anchors = generate_anchors(size_hw, levels, config)
    best = np.zeros(len(boxes_xyxy))
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    grids = zip(level_sizes(size_hw, levels), level_slices(size_hw, levels, config), strict=True)
    for (rows, columns), part in grids:
        grid = anchors[part].reshape(rows, columns, config.per_cell, 4)
        # The cell that holds the centre; boxes whose centre is beyond the last cell belong to that one.
        row = np.clip(np.floor(centres[:, 1] * rows / size_hw[0]), 0, rows - 1).astype(int)
        column = np.clip(np.floor(centres[:, 0] * columns / size_hw[1]), 0, columns - 1).astype(int)
        for shape in range(config.per_cell):
            nearest = grid[row, column, shape].astype(np.float64)
            np.maximum(best, elementwise_iou(boxes_xyxy, nearest, "iou"), out=best)
    return best


def anchor_view(config: ModelConfig) -> AnchorView:
    """The anchor coverage of ``config``, for the doctor."""
    own, levels, size_hw = config.anchors, config.feature_network.levels, config.image_size_hw

    def met(boxes_xyxy: Boxes, trial: Trial | None) -> npt.NDArray[np.bool_]:
        anchors, tried_hw = own, size_hw
        if trial is not None and trial.what == "scale":
            anchors = msgspec.structs.replace(own, scale=trial.anchor_scale)
        if trial is not None and trial.what == "size":
            tried_hw = trial.image_size_hw
        # Boxes come in pixels of the model's own input.
        ratio = min(new / old for new, old in zip(tried_hw, size_hw, strict=True))
        return best_ious(boxes_xyxy * ratio, tried_hw, levels, anchors) >= MATCHED

    aspects = tuple(width / height for width, height in own.aspects_wh)
    return AnchorView(own.scale, aspects, lambda datasets: examine_coverage(datasets, config), met)


def examine_coverage(datasets: Sequence[Dataset], config: ModelConfig) -> Coverage | None:
    """The anchor coverage of all ``datasets``, and settings that would improve it.

    Crowds are left out: training ignores them. ``None`` without boxes.
    """
    boxes, scales = _sample(datasets, config.image_size_hw)
    if not len(boxes):
        return None
    size, own = config.image_size_hw, config.anchors
    scaled = boxes * scales[:, None]
    ious = best_ious(scaled, size, config.feature_network.levels, own)
    sides = np.sqrt(area(scaled))

    def trial(what: str, anchors: AnchorConfig, factor: float = 1.0) -> Trial:
        # Rounded to multiples of 64, as sizes of inputs usually are.
        tried_size = int(round(size[0] * factor / 64) * 64), int(round(size[1] * factor / 64) * 64)
        ratio = min(tried_size[0] / size[0], tried_size[1] / size[1]) if factor != 1 else 1.0
        tried_hw = tried_size if factor != 1 else size
        found = best_ious(scaled * ratio, tried_hw, config.feature_network.levels, anchors)
        return Trial(
            what=what,  # type: ignore[arg-type]
            anchor_scale=anchors.scale,
            image_size_hw=tried_hw,
            aspects=[round(w / h, 3) for w, h in anchors.aspects_wh],
            recall=_recall(found, scaled),
            mean_best_iou=_rounded(found.mean()),
        )

    by_scale = [trial("scale", msgspec.structs.replace(own, scale=s)) for s in _SCALES if s != own.scale]
    by_size = [trial("size", own, factor) for factor in _FACTORS]
    by_aspects = [trial("aspects", msgspec.structs.replace(own, aspects_wh=_own_aspects(boxes)))]
    recall = _recall(ious, scaled)
    return Coverage(
        boxes=len(boxes),
        recall=recall,
        mean_best_iou=_rounded(ious.mean()),
        smaller_than={str(limit): int((sides < limit).sum()) for limit in (4, 8, 16)},
        tried=[*by_scale, *by_aspects, *by_size],
        better=_better(recall, own.scale, by_scale, by_aspects, by_size),
    )


def _sample(datasets: Sequence[Dataset], size_hw: tuple[int, int]) -> tuple[Boxes, npt.NDArray[np.float64]]:
    boxes: list[Boxes] = [np.zeros((0, 4))]
    scales: list[npt.NDArray[np.float64]] = [np.zeros(0)]
    for dataset in datasets:
        target = ~dataset.all_annotations.crowd
        boxes.append(dataset.all_annotations.boxes_xyxy[target].astype(np.float64))
        scales.append(object_scales(dataset, size_hw)[target])
    every, factors = np.concatenate(boxes), np.concatenate(scales)
    if len(every) > _MOST_BOXES:
        # A sample is enough for a recall to three digits; the fixed seed keeps reports reproducible.
        drawn = np.sort(np.random.default_rng(0).choice(len(every), _MOST_BOXES, replace=False))
        every, factors = every[drawn], factors[drawn]
    return every, factors


def _recall(ious: npt.NDArray[np.float64], scaled: Boxes) -> Recall:
    """Bins are those of the model's own input size, so that trials can be compared."""
    areas = area(scaled)
    bins = {
        "all": np.ones(len(ious), bool),
        "small": areas < SMALL,
        "medium": (areas >= SMALL) & (areas < MEDIUM),
        "large": areas >= MEDIUM,
    }
    return Recall(
        **{name: _rounded((ious[bin_] >= MATCHED).mean()) if bin_.any() else None for name, bin_ in bins.items()}
    )


def _own_aspects(boxes: Boxes) -> tuple[tuple[float, float], ...]:
    """Three aspects of the data's own: the 10th, 50th and 90th percentile, as sides of a square's area."""
    log_aspects = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    roots = np.exp(np.quantile(log_aspects, (0.1, 0.5, 0.9)) / 2)
    return tuple((round(float(root), 3), round(float(1 / root), 3)) for root in roots)


def _better(
    recall: Recall, scale: float, by_scale: list[Trial], by_aspects: list[Trial], by_size: list[Trial]
) -> list[Trial]:
    """Suggestions in order of cost: other anchors are free, a larger input costs its area."""
    if recall.all is None or recall.all >= ENOUGH:
        return []
    # Of equally good scales the one nearest to the present is suggested.
    best = max(by_scale, key=lambda t: (t.recall.all or 0, -abs(t.anchor_scale - scale)))
    # The smallest input that is good enough; where none is, the one that comes nearest.
    aim = min(ENOUGH, max(t.recall.all or 0 for t in by_size))
    larger = next(t for t in by_size if (t.recall.all or 0) >= aim)
    return [trial for trial in (best, by_aspects[0], larger) if (trial.recall.all or 0) >= recall.all + _WORTH]


def _rounded(value: float) -> float:
    return round(float(value), 4)
