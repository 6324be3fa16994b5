"""Augmentation policies: AutoAugment for detection (arXiv 1906.11172) and RandAugment (arXiv 1909.13719)."""

from __future__ import annotations

import numpy as np

from phidet.training.augmentation.operations import INSIDE, WHOLE, Sample, change_in_boxes
from phidet.training.recipe import Augmentation

Step = tuple[str, float, float]
"""Operation, probability, level (0–10)."""
Policy = tuple[tuple[Step, ...], ...]
"""Rows of steps; a row is drawn for each image, and its steps follow one another."""

# The tables are the official ones, row by row; v0 is the paper's, v1–v3 came with the code.
_V0: Policy = (
    (("translate-x", 0.6, 4), ("equalize", 0.8, 10)),
    (("translate-y-in-boxes", 0.2, 2), ("cutout", 0.8, 8)),
    (("sharpness", 0.0, 8), ("shear-x", 0.4, 0)),
    (("shear-y", 1.0, 2), ("translate-y-in-boxes", 0.6, 6)),
    (("rotate", 0.6, 10), ("color", 1.0, 6)),
)
POLICIES: dict[str, Policy] = {
    "v0": _V0,
    "v1": (
        *_V0,
        (("color", 0.0, 0), ("shear-x-in-boxes", 0.8, 4)),
        (("shear-y-in-boxes", 0.8, 2), ("flip-in-boxes", 0.0, 10)),
        (("equalize", 0.6, 10), ("translate-x", 0.2, 2)),
        (("color", 1.0, 10), ("translate-y-in-boxes", 0.4, 6)),
        (("rotate", 0.8, 10), ("contrast", 0.0, 10)),
        (("cutout", 0.2, 2), ("brightness", 0.8, 10)),
        (("color", 1.0, 6), ("equalize", 1.0, 2)),
        (("cutout-in-boxes", 0.4, 6), ("translate-y-in-boxes", 0.8, 2)),
        (("color", 0.2, 8), ("rotate", 0.8, 10)),
        (("sharpness", 0.4, 4), ("translate-y-in-boxes", 0.0, 4)),
        (("sharpness", 1.0, 4), ("solarize-add", 0.4, 4)),
        (("rotate", 1.0, 8), ("sharpness", 0.2, 8)),
        (("shear-y", 0.6, 10), ("equalize-in-boxes", 0.6, 8)),
        (("shear-x", 0.2, 6), ("translate-y-in-boxes", 0.2, 10)),
        (("solarize-add", 0.6, 8), ("brightness", 0.8, 10)),
    ),
    "v2": (
        (("color", 0.0, 6), ("cutout", 0.6, 8), ("sharpness", 0.4, 8)),
        (("rotate", 0.4, 8), ("sharpness", 0.4, 2), ("rotate", 0.8, 10)),
        (("translate-y", 1.0, 8), ("autocontrast", 0.8, 2)),
        (("autocontrast", 0.4, 6), ("shear-x", 0.8, 8), ("brightness", 0.0, 10)),
        (("solarize-add", 0.2, 6), ("contrast", 0.0, 10), ("autocontrast", 0.6, 0)),
        (("cutout", 0.2, 0), ("solarize", 0.8, 8), ("color", 1.0, 4)),
        (("translate-y", 0.0, 4), ("equalize", 0.6, 8), ("solarize", 0.0, 10)),
        (("translate-y", 0.2, 2), ("shear-y", 0.8, 8), ("rotate", 0.8, 8)),
        (("cutout", 0.8, 8), ("brightness", 0.8, 8), ("cutout", 0.2, 2)),
        (("color", 0.8, 4), ("translate-y", 1.0, 6), ("rotate", 0.6, 6)),
        (("rotate", 0.6, 10), ("box-cutout", 1.0, 4), ("cutout", 0.2, 8)),
        (("rotate", 0.0, 0), ("equalize", 0.6, 6), ("shear-y", 0.6, 8)),
        (("brightness", 0.8, 8), ("autocontrast", 0.4, 2), ("brightness", 0.2, 2)),
        (("translate-y", 0.4, 8), ("solarize", 0.4, 6), ("solarize-add", 0.2, 10)),
        (("contrast", 1.0, 10), ("solarize-add", 0.2, 8), ("equalize", 0.2, 4)),
    ),
    "v3": (
        (("posterize", 0.8, 2), ("translate-x", 1.0, 8)),
        (("box-cutout", 0.2, 10), ("sharpness", 1.0, 8)),
        (("rotate", 0.6, 8), ("rotate", 0.8, 10)),
        (("equalize", 0.8, 10), ("autocontrast", 0.2, 10)),
        (("solarize-add", 0.2, 2), ("translate-y", 0.2, 8)),
        (("sharpness", 0.0, 2), ("color", 0.4, 8)),
        (("equalize", 1.0, 8), ("translate-y", 1.0, 8)),
        (("posterize", 0.6, 2), ("rotate", 0.0, 10)),
        (("autocontrast", 0.6, 0), ("rotate", 1.0, 6)),
        (("equalize", 0.0, 4), ("cutout", 0.8, 10)),
        (("brightness", 1.0, 2), ("translate-y", 1.0, 6)),
        (("contrast", 0.0, 2), ("shear-y", 0.8, 0)),
        (("autocontrast", 0.8, 10), ("contrast", 0.2, 10)),
        (("rotate", 1.0, 10), ("cutout", 1.0, 10)),
        (("solarize-add", 0.8, 6), ("equalize", 0.8, 8)),
    ),
}
RANDOM_OPERATIONS = (
    "equalize",
    "solarize",
    "color",
    "cutout",
    "solarize-add",
    "translate-x",
    "translate-y",
    "shear-x",
    "shear-y",
    "rotate",
)
"""What RandAugment draws from, with equal probability."""


def apply_policy(sample: Sample, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """The sample after a row of the policy that ``settings`` name, drawn at random."""
    steps: tuple[Step, ...]
    if settings.policy == "none":
        return sample
    if settings.policy == "randaugment":
        # With replacement, as in the paper: an operation may be applied twice.
        drawn = rng.integers(len(RANDOM_OPERATIONS), size=settings.layers)
        steps = tuple((RANDOM_OPERATIONS[i], 1.0, settings.magnitude) for i in drawn)
    else:
        policy = POLICIES[settings.policy]
        steps = policy[int(rng.integers(len(policy)))]
    for name, probability, level in steps:
        # In boxes, the probability is drawn for each box; elsewhere, once for the image.
        if name in INSIDE:
            sample = change_in_boxes(sample, INSIDE[name], level, probability, rng)
        elif rng.random() < probability:
            sample = WHOLE[name](sample, level, rng)
    return sample
