"""The training recipe of the paper, by the fields of :class:`phidet.training.recipe.Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAPER: dict[str, Any] = {
    "epochs": 300,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 2e-4,  # 1e-4 for 16 images: the rate is given for 64 and scales with the root
    "backbone_rate": 0.1,
    "weight_decay": 1e-4,
    "decay_all": True,
    "schedule": "step",
    "step_at": 2 / 3,
    "warmup_epochs": 0.0,
    "ema_decay": 0.0,
    "clip_norm": 0.1,
    "freeze": "early",
    "augmentation": {"sizes": "multi-scale", "crop": 0.5, "flip": 0.5},
}
"""AdamW with a tenth of the rate for the backbone, gradients clipped to 0.1, the rate divided by ten after two thirds
of 300 epochs (arXiv 2005.12872, section 4 and A.4; the sizes and the crop are the official code's)."""


def recipe_fields(name: str, num_images: int) -> Mapping[str, Any]:
    """The fields of the recipes "detr", "detr-masks", and "auto", which has fewer epochs and a smaller batch."""
    if name == "detr":
        return _PAPER
    if name == "detr-masks":
        # Masks of a detector that is trained already, which stays as it is (section 4.4).
        return {**_PAPER, "freeze": "detector", "epochs": 25, "step_at": 0.6}
    if name != "auto":
        return {}
    # About 60,000 images in total: plain DETR learns slowly, and the rate must fall before the end.
    return {**_PAPER, "name": "detr", "batch_size": 8, "epochs": min(max(round(60_000 / num_images), 50), 300)}
