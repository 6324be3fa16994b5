"""The training loss: one term for each answer, over what is known of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.base import Loss
from phidet.architectures.processes import Processes
from phidet.architectures.relations.batch import RelationsBatch
from phidet.core.structs import require

_BETA = 0.02  # of the smooth L1 of places, in sides of the box: half a pixel of 25


class RelationsLoss(Loss):
    """The weighted sum of the answers' losses.

    Labels: cross entropy over detections of an object. Scores: binary cross entropy over all detections, whose target
    is 1 for those of an object; with ``quality`` the share of COCO's thresholds 0.5…0.95 that its overlap reaches, so
    that scores rank well placed detections first. Places: smooth L1 of the deltas. Pairs and graphs: binary cross
    entropy where the truth is known.

    Args:
        quality: see above.
        weights: of the answers.

    Raises:
        ConfigError: a weight below 0.
    """

    def __init__(self, quality: bool, weights: dict[str, float]) -> None:
        for name, weight in weights.items():
            require(weight >= 0, f"loss {name} must be a number ≥ 0, got {weight!r}")
        self.quality, self.weights = bool(quality), weights

    def __call__(self, outputs: dict[str, Tensor], batch: RelationsBatch, processes: Processes) -> dict[str, Tensor]:
        """Losses by name; ``loss`` is their weighted sum."""
        found = batch.class_ids >= 0
        terms: dict[str, tuple[Tensor, Tensor]] = {}  # sum and number of what it is summed over
        if "label_logits" in outputs:
            each = F.cross_entropy(outputs["label_logits"].float()[found], batch.class_ids[found], reduction="sum")
            terms["label"] = each, found.sum()
        if "score_logits" in outputs:
            terms["score"] = _binary(outputs["score_logits"], _score_targets(batch.ious, self.quality))
        if "box_deltas" in outputs:
            deltas = outputs["box_deltas"].float()[found]
            each = F.smooth_l1_loss(deltas, batch.box_deltas[found], reduction="sum", beta=_BETA)
            terms["place"] = each, 4 * found.sum()
        if "together_logits" in outputs:
            terms["together"] = _binary(outputs["together_logits"], batch.together)
        if "right_logits" in outputs:
            terms["right"] = _binary(outputs["right_logits"], batch.right)
        # The mean over the processes' gradients is then that of the whole batch, however its nodes are shared out.
        losses = {
            name: total * processes.size / processes.total(count.float()).clamp(min=1)
            for name, (total, count) in terms.items()
        }
        return {"loss": sum((self.weights[k] * v for k, v in losses.items()), torch.zeros(())), **losses}


def _binary(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the binary cross entropy where the target is known, and their number."""
    known = targets >= 0
    each = F.binary_cross_entropy_with_logits(logits.float()[known], targets[known], reduction="sum")
    return each, known.sum()


def _score_targets(ious: Tensor, quality: bool) -> Tensor:
    """(N,) 0…1, −1 for unknown."""
    if quality:
        # Rounded first: 0.55 in float32 is a little more or less than the threshold.
        passed = torch.floor((ious - 0.5) * 20 + 1e-4) + 1
        reached = passed.clamp(0, 10) / 10
    else:
        reached = (ious > 0).float()
    return torch.where(ious < 0, ious, reached)
