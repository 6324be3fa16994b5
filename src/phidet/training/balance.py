"""Class balance: images of rare classes come more often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Dataset


def repeat_factors(dataset: Dataset, share: float) -> npt.NDArray[np.float64]:
    """How often each image is trained on relative to others (repeat factor sampling, arXiv 1908.03195, section 5).

    A class that is on a share f of the images has the factor ``max(1, √(share / f))``; an image has the largest factor
    of its classes, and 1 without objects. Crowd regions do not count.

    Args:
        dataset: N images.
        share: classes on a smaller share of the images come more often, 0…1.

    Returns:
        (N,) numbers ≥ 1.
    """
    present = [np.unique(_real(dataset, index)) for index in range(len(dataset))]
    # On how many images each class is, not how many objects it has.
    images_of = np.bincount(np.concatenate(present), minlength=len(dataset.class_names))
    factors = np.sqrt(share * len(dataset) / np.maximum(images_of, 1)).clip(min=1)
    return np.array([factors[ids].max(initial=1) for ids in present])


def _real(dataset: Dataset, index: int) -> npt.NDArray[np.int64]:
    annotations = dataset.annotations(index)
    return annotations.class_ids[~annotations.crowd]
