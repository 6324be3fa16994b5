"""From a classifier's logits to detections: each class is an object as large as the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.outputs import check_finite
from phidet.architectures.prepared import Placement
from phidet.detections.boxes import FloatArray
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings, class_ids_of


class ImageDecoder:
    """The classes of one image, best first, each with the box of the whole image; scores are softmax's."""

    def __init__(self, config: ClassifierConfig) -> None:
        self.class_names = config.class_names

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        logits = outputs["class_logits"].astype(np.float64)
        check_finite(logits)
        # Subtracting the maximum keeps exp from overflowing and cancels out in the quotient.
        odds = np.exp(logits - logits.max())
        scores = (odds / odds.sum()).astype(np.float32)
        ids = np.argsort(-scores, kind="stable")
        if settings.classes is not None:
            ids = ids[np.isin(ids, class_ids_of(settings.classes, self.class_names))]
        ids = ids[scores[ids] >= settings.least_score][: settings.max_detections]
        height, width = placement.image_hw
        boxes = np.tile(np.array([0, 0, width, height], np.float32), (len(ids), 1))
        return Detections(boxes, scores[ids], ids, self.class_names, placement.image_hw)
