"""From a network's raw outputs to detections: no threshold decides what an object is, and no suppression follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.detr.panoptic import THRESHOLD, Panoptic, instance_mask, panoptic
from phidet.architectures.detr.prepare import resized_hw
from phidet.architectures.outputs import check_finite
from phidet.architectures.prepared import Placement
from phidet.detections.boxes import FloatArray, cxcywh_to_xyxy
from phidet.detections.detections import Detections
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks
from phidet.detections.segments import make_segments
from phidet.detections.settings import PostprocessSettings, class_ids_of


class Answers(NamedTuple):
    """What each of Q queries says.

    Attributes:
        boxes_xyxy: (Q, 4) float32 in pixels of the original image, not clipped.
        scores: (Q,) float32.
        class_ids: (Q,) int64.
    """

    boxes_xyxy: FloatArray
    scores: FloatArray
    class_ids: npt.NDArray[np.int64]


def answers_of(class_logits: FloatArray, boxes_cxcywh: FloatArray, image_hw: tuple[int, int]) -> Answers:
    """The best class of every query that is not "no object", also where that is more likely (the paper's +2 AP).

    Args:
        class_logits: (Q, C + 1), the last one "no object".
        boxes_cxcywh: (Q, 4) in 0…1 of the image.
        image_hw: of the original image.
    """
    # The largest logit is subtracted, so that exp cannot overflow.
    weights = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    probabilities = weights[:, :-1] / weights.sum(-1, keepdims=True)
    class_ids = probabilities.argmax(-1)
    height, width = image_hw
    boxes = cxcywh_to_xyxy(boxes_cxcywh) * np.array([width, height, width, height], np.float32)
    return Answers(boxes, probabilities.max(-1), class_ids.astype(np.int64))


class DetrDecoder:
    """The decoder of a network of ``config``."""

    def __init__(self, config: DetrConfig) -> None:
        self.config, self.class_names = config, config.class_names

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        """The queries that score enough, at most ``settings.max_detections``; settings of suppression do nothing.

        Raises:
            UnknownNameError: ``settings.classes`` names a class that the model does not have.
            CheckpointError: the network returned NaN or infinity.
        """
        logits, boxes = outputs["class_logits"], outputs["boxes_cxcywh"]
        check_finite(logits, boxes)
        found = answers_of(logits, boxes, placement.image_hw)
        # Of the original's answers nothing else is dropped: every query is an object with some score.
        kept = found.scores >= settings.least_score
        if settings.classes is not None:
            kept &= np.isin(found.class_ids, class_ids_of(settings.classes, self.class_names))
        best = np.flatnonzero(kept)
        best = best[np.argsort(-found.scores[best], kind="stable")[: settings.max_detections]]
        fields = {}
        segments = None
        if "mask_logits" in outputs and settings.masks:
            check_finite(outputs["mask_logits"])
            # Only of the objects that are kept, and one by one: a hundred masks at full size would take gigabytes.
            sizes = self._input_sizes(placement.image_hw)
            full = (instance_mask(outputs["mask_logits"][i], *sizes, placement.image_hw) for i in best)
            fields[MASKS] = Masks.from_crops([(0, 0)] * len(best), full, placement.image_hw)
            segments = self._segments(outputs, placement, settings)
        boxes_xyxy, scores, class_ids = found.boxes_xyxy[best], found.scores[best], found.class_ids[best]
        return Detections(boxes_xyxy, scores, class_ids, self.class_names, placement.image_hw, fields, segments)

    def _segments(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        least = THRESHOLD if settings.segment_score is None else settings.segment_score
        ids, segments, scores = self.panoptic(outputs, placement, least)
        columns = [np.array([getattr(s, name) for s in segments]) for name in ("class_id", "is_thing")]
        return make_segments(ids, columns[0].astype(np.int64), scores, columns[1].astype(np.bool_), self.class_names)

    def panoptic(
        self, outputs: Mapping[str, FloatArray], placement: Placement, threshold: float = THRESHOLD
    ) -> Panoptic:
        """One segment for every pixel of the image, from the outputs of a network with masks."""
        padded_hw, valid_hw = self._input_sizes(placement.image_hw)
        stuff = () if self.config.masks is None else self.config.masks.stuff
        things = np.array([name not in stuff for name in self.class_names])
        return panoptic(
            outputs["class_logits"],
            outputs["mask_logits"],
            (padded_hw, valid_hw),
            placement.image_hw,
            things,
            threshold,
        )

    def _input_sizes(self, image_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the input with and without padding."""
        valid_hw = resized_hw(image_hw, self.config)
        return self.config.image_size_hw if self.config.input_size == "fixed" else valid_hw, valid_hw
