"""From a network's raw outputs to detections: candidates are selected by score first, so that few boxes are decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_decode import decode_masks
from phidet.architectures.efficientdet.semantic_decode import (
    SEGMENT_SCORE,
    class_map,
    class_segments,
    panoptic_segments,
)
from phidet.architectures.outputs import check_finite
from phidet.architectures.prepared import Placement
from phidet.core.errors import CheckpointError
from phidet.core.numbers import sigmoid
from phidet.detections.boxes import FloatArray, clip, decode
from phidet.detections.detections import Detections
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.nms import Floats, Ints, suppress
from phidet.detections.settings import PostprocessSettings, class_ids_of


class AnchorDecoder:
    """:func:`select` for a config, with its anchors generated once."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.anchors_xyxy = generate_anchors(config.image_size_hw, config.feature_network.levels, config.anchors)

    def __call__(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        found = self._objects(outputs, placement, settings)
        if self.config.semantic is None or not settings.masks:
            return found
        return replace(found, segments=self._segments(outputs, placement, settings))

    def _segments(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        """What every pixel belongs to."""
        names, logits = self.config.class_names, outputs["semantic_logits"]
        check_finite(logits)
        classes = class_map(logits, *placement)
        stuff = () if self.config.semantic is None else self.config.semantic.stuff
        if self.config.masks is None or not stuff:
            return class_segments(logits, classes, names)
        # Things of one score whatever objects are asked for.
        least = SEGMENT_SCORE if settings.segment_score is None else settings.segment_score
        things = self._objects(outputs, placement, PostprocessSettings(score=least))
        return panoptic_segments(things, logits, classes, [i for i, name in enumerate(names) if name in stuff])

    def _objects(
        self, outputs: Mapping[str, FloatArray], placement: Placement, settings: PostprocessSettings
    ) -> Detections:
        named = as_outputs(outputs, self.config.num_classes)
        found, anchors = select(named, self.anchors_xyxy, *placement, settings, self.config.class_names)
        if self.config.masks is None or not settings.masks:
            return found
        coefficients = outputs["mask_coefficients"].reshape(-1, self.config.masks.prototypes)[anchors]
        check_finite(coefficients, outputs["prototypes"])
        masks = decode_masks(outputs["prototypes"], coefficients, found.boxes_xyxy, *placement)
        return found.with_fields({MASKS: masks})


def as_outputs(outputs: Mapping[str, FloatArray], num_classes: int) -> NetworkOutputs:
    """Outputs for one image by name, (A, …) from PyTorch or (cells, anchors of a cell · …) from an exported file."""
    class_logits = outputs["class_logits"].reshape(-1, num_classes)
    box_deltas = outputs["box_deltas"].reshape(-1, 4)
    best = outputs.get("best_logits")
    if best is None:
        return with_best(class_logits, box_deltas)
    return NetworkOutputs(best, class_logits, box_deltas)


class Candidates(NamedTuple):
    """(anchor, class) pairs that may be objects.

    Attributes:
        anchors: (N,) indices.
        class_ids: (N,).
        scores: (N,).
    """

    anchors: Ints
    class_ids: Ints
    scores: Floats


def find_candidates(best_logits: Floats, class_logits: Floats, settings: PostprocessSettings) -> Candidates:
    """The top-scoring pairs of one image with at least the score threshold.

    The best ``candidates`` pairs lie on the best ``candidates`` anchors by best class: only those are searched.

    Args:
        best_logits: (A,), the largest class logit of each anchor.
        class_logits: (A, C).
        settings: ``score``, ``candidates``, ``multi_class``.
    """
    least = _logit(settings.least_score)
    # By the largest logit of each anchor alone, which drops nearly all of them.
    anchors = np.flatnonzero(best_logits >= least) if least > -math.inf else np.arange(len(best_logits))
    anchors = anchors[_largest(best_logits[anchors], settings.candidates)]
    num_classes = class_logits.shape[1]
    # One class for each anchor: its best one, whose logit is known already.
    if not settings.multi_class or num_classes == 1:
        class_ids = class_logits[anchors].argmax(1) if num_classes > 1 else np.zeros(len(anchors), np.int64)
        logits = best_logits[anchors]
    else:
        pairs = class_logits[anchors].ravel()  # (N · C,)
        if len(anchors) >= settings.candidates:
            least = max(least, float(best_logits[anchors].min()))  # enough pairs, the anchors' best ones, reach it
        best = np.flatnonzero(pairs >= least)
        best = best[_largest(pairs[best], settings.candidates)]
        anchors, class_ids, logits = anchors[best // num_classes], best % num_classes, pairs[best]
    # Probabilities of the few that are left; the threshold of logits above let a little too much through.
    scores = sigmoid(logits)
    good = scores >= settings.least_score
    return Candidates(anchors[good], class_ids[good], scores[good])


def select(
    outputs: NetworkOutputs,
    anchors_xyxy: Floats,
    scale: float,
    image_hw: tuple[int, int],
    settings: PostprocessSettings,
    class_names: tuple[str, ...],
) -> tuple[Detections, Ints]:
    """The objects of one image, and the anchor that gave each.

    Args:
        outputs: of one image: best logits (A,), class logits (A, C) and box deltas (A, 4).
        anchors_xyxy: (A, 4) in pixels of the input.
        scale: pixels of the input per pixel of the image.
        image_hw: of the original image; boxes are clipped to it.
        settings: thresholds and suppression.
        class_names: of the model.

    Raises:
        UnknownNameError: ``settings.classes`` names a class that the model does not have.
        CheckpointError: the network returned NaN or infinity.
    """
    best_logits, class_logits, box_deltas = outputs
    anchors, class_ids, scores = find_candidates(best_logits, class_logits, settings)
    # NaN fails every threshold, so without this check a broken network would seem to find nothing.
    if np.isnan(best_logits).any() or not np.isfinite(box_deltas[anchors]).all():
        raise CheckpointError("the network returned NaN or infinity; check its weights or its training")
    if settings.classes is not None:
        wanted = np.isin(class_ids, class_ids_of(settings.classes, class_names))
        anchors, class_ids, scores = anchors[wanted], class_ids[wanted], scores[wanted]
    # Only candidates are decoded: at most ``settings.candidates`` of, say, D0's 49,104 anchors.
    boxes = clip(decode(box_deltas[anchors], anchors_xyxy[anchors]) / np.float32(scale), image_hw)
    kept, scores = suppress(boxes, scores, class_ids, settings)
    # Best first already, as detections are, unless soft suppression has lowered a score.
    order = np.argsort(-scores, kind="stable")
    kept, scores = kept[order], scores[order]
    return Detections(boxes[kept], scores, class_ids[kept], class_names, image_hw), anchors[kept]


def _logit(score: float) -> float:
    """Slightly below the logit of ``score``, so that rounding does not lose a pair that passes the score itself."""
    if score <= 0:
        return -math.inf
    if score >= 1:
        return 15.0  # sigmoid is 1 in fp32 from about 17
    return math.log(score / (1 - score)) - 1e-4


def _largest(values: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of the ``count`` largest values, in rising order of index; of equals, any."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.sort(np.argpartition(values, len(values) - count)[-count:])


class NetworkOutputs(NamedTuple):
    """The network's outputs for every anchor, finest level first, row by row, anchors innermost.

    Outputs of a single image lack the first dimension.

    Attributes:
        best_logits: (B, A), the largest of each anchor's class logits.
        class_logits: (B, A, C), before the sigmoid.
        box_deltas: (B, A, 4), relative to the anchors; see :func:`phidet.detections.boxes.decode`.
    """

    best_logits: FloatArray
    class_logits: FloatArray
    box_deltas: FloatArray


def with_best(class_logits: FloatArray, box_deltas: FloatArray) -> NetworkOutputs:
    """Outputs of a network without ``best_logits``, which are computed here."""
    best = class_logits[..., 0] if class_logits.shape[-1] == 1 else class_logits.max(-1)
    return NetworkOutputs(best, class_logits, box_deltas)
