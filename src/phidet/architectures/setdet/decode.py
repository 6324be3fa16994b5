"""From a network's raw outputs to detections: the best pairs of query and class, nothing suppressed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from phidet.architectures.outputs import check_finite
from phidet.architectures.prepared import Placement
from phidet.architectures.setdet.config import SetDetConfig
from phidet.core.numbers import sigmoid
from phidet.detections.boxes import FloatArray, clip, cxcywh_to_xyxy
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings, class_ids_of


class SetDecoding:
    """The decoder of a config. Of the settings, those of suppression mean nothing here and are not read."""

    def __init__(self, config: SetDetConfig) -> None:
        self.config = config

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        logits, boxes = outputs["class_logits"], outputs["boxes_cxcywh"]
        check_finite(logits, boxes)
        names = self.config.class_names
        scores = sigmoid(logits)
        if settings.classes is not None:
            others = np.setdiff1d(np.arange(len(names)), class_ids_of(settings.classes, names))
            scores[:, others] = -1  # a query may then speak for its best class among the wanted ones
        # One class for each query; the others fall behind everything that any threshold lets through.
        if not settings.multi_class:
            scores = np.where(scores == scores.max(1, keepdims=True), scores, -1)
        order = np.argsort(-scores, axis=None, kind="stable")[: settings.max_detections]
        queries, class_ids = np.unravel_index(order, scores.shape)
        best = scores[queries, class_ids]
        found = best >= settings.least_score
        queries, class_ids = queries[found], class_ids[found]
        boxes_xyxy = clip(self.pixels(boxes[queries], placement), placement.image_hw)
        return Detections(boxes_xyxy, best[found], class_ids.astype(np.int64), names, placement.image_hw)

    def pixels(self, boxes_cxcywh: FloatArray, placement: Placement) -> FloatArray:
        """(N, 4) in 0…1 of the input as xyxy in pixels of the original image, not clipped."""
        height, width = self.config.image_size_hw
        inside = cxcywh_to_xyxy(boxes_cxcywh) * np.array([width, height, width, height], np.float32)
        placed: FloatArray = inside / np.float32(placement.scale)
        return placed
