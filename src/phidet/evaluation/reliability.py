"""How far scores are probabilities: of detections with a score near s, the share s should be right.

Detections are sorted into bins by their scores; the expected calibration error is the mean over all detections of the
difference between their bin's mean score and its precision (Guo et al., arXiv 1706.04599, eq. 3; for detectors Küppers
et al., arXiv 2004.13546).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, judge

FLOOR = 0.05
"""Detections below it are left out: there are thousands of them, nearly all wrong, as their scores say."""
BINS = 10


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Detections of similar scores.

    Attributes:
        low, high: scores s with low ≤ s < high, of the last bin ≤.
        detections: how many.
        score: their mean.
        precision: share of right ones; both ``None`` without any.
    """

    low: float
    high: float
    detections: int
    score: float | None
    precision: float | None


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """A reliability curve.

    Attributes:
        ece: expected calibration error, 0…1; ``None`` without detections.
        bias: mean score minus precision: above 0 the model is too sure of itself.
        floor: the lowest score that was looked at.
        bins: of equal width.
    """

    ece: float | None
    bias: float | None
    floor: float
    bins: tuple[Bin, ...]


def measure_reliability(
    dataset: Dataset, detections: Sequence[Detections], min_iou: float = MATCHED, bins: int = BINS
) -> Reliability:
    """The reliability of all classes together; detections on crowds and difficult objects are left out.

    Args:
        dataset: the ground truth.
        detections: one for each image.
        min_iou: the overlap with which a detection finds an object, 0…1.
        bins: of equal width over 0…1.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    score, _, hit = judge(dataset, detections, FLOOR, min_iou)
    # A score of exactly 1 belongs to the last bin.
    which = np.minimum((score * bins).astype(np.int64), bins - 1)
    counts = np.bincount(which, minlength=bins)
    # Sums, not means: an empty bin adds nothing to the error and has no mean.
    score_sums, hit_sums = (np.bincount(which, weights=values, minlength=bins) for values in (score, hit))
    total = int(counts.sum())
    return Reliability(
        ece=float(np.abs(score_sums - hit_sums).sum() / total) if total else None,
        bias=float((score_sums - hit_sums).sum() / total) if total else None,
        floor=FLOOR,
        bins=tuple(
            Bin(
                low=i / bins,
                high=(i + 1) / bins,
                detections=int(n),
                score=float(score_sums[i] / n) if n else None,
                precision=float(hit_sums[i] / n) if n else None,
            )
            for i, n in enumerate(counts.tolist())
        ),
    )
