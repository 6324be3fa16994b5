"""The best threshold of each class: the score from which its detections have the highest F1."""

from __future__ import annotations

from collections.abc import Sequence

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.detections.thresholds import Thresholds
from phidet.evaluation.curves import best_threshold, pr_curves
from phidet.evaluation.matching import MATCHED

THRESHOLD_SETTINGS = PostprocessSettings(score=0.001, max_detections=1000)
"""What thresholds are found with: detections as they are used, one class for each box, with nearly all scores."""


def best_thresholds(dataset: Dataset, detections: Sequence[Detections], min_iou: float = MATCHED) -> Thresholds | None:
    """The thresholds to store in a model, ``None`` where nothing right was detected at all.

    A threshold is the middle between the score with the best F1 and the next lower one of the class.
    A class without objects, or of which none was found, gets the one score with the best mean F1 over the classes that
    have objects.

    Args:
        dataset: the ground truth: validation data, never those that a model is compared with others on.
        detections: one for each image, made with :data:`THRESHOLD_SETTINGS`.
        min_iou: the overlap with which a detection finds an object, 0…1.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    curves = pr_curves(dataset, detections, min_iou)
    own = [curve.threshold for curve in curves]  # none without objects: then nothing is found
    if not any(score is not None for score in own):
        return None
    # A class that could not be measured is neither silenced nor let through: it goes by the others.
    common = best_threshold(curves)
    return Thresholds(
        scores=tuple(common if score is None else score for score in own),
        measured=tuple(score is not None for score in own),
        data=dataset.name,
        images=len(dataset),
        iou=min_iou,
    )
