"""The training loss of a set predictor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phidet.architectures.base import Loss
from phidet.architectures.batch import Batch
from phidet.architectures.layers import wide
from phidet.architectures.processes import Processes
from phidet.architectures.setdet.decoder import Predictions
from phidet.architectures.setdet.dense import dense_losses
from phidet.architectures.setdet.loss_config import LossConfig
from phidet.architectures.setdet.network import TrainingOutputs
from phidet.architectures.sets.losses import box_losses
from phidet.architectures.sets.matching import CostWeights, Matched, focal_class_cost, match, matching_cost
from phidet.architectures.sets.targets import SetTargets, num_objects
from phidet.detections.boxes import cxcywh_to_xyxy, elementwise_iou, xyxy_to_cxcywh


def input_targets(batch: Batch) -> SetTargets:
    """The objects of ``batch``, in 0…1 of the input with its padding, as the maps are."""
    height, width = batch.pixels.shape[2:]
    size = batch.boxes_xyxy.new_tensor([width, height, width, height])
    return SetTargets(batch.class_ids, xyxy_to_cxcywh(batch.boxes_xyxy / size))


def quality_loss(logits: Tensor, qualities: Tensor, power: float) -> Tensor:
    """Sum of cross entropies whose target is the quality of the answer (arXiv 2008.13367, 2412.04234).

    Args:
        logits: (…, C).
        qualities: (…, C), 0…1: of a matched query's class the overlap of its box with the object, else 0.
        power: γ; what should be 0 counts as its probability to the γ, and a quality as itself to the γ.
    """
    wanted = qualities**power
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * torch.where(qualities > 0, 1.0, logits.detach().sigmoid() ** power)).sum()


class SetDetLoss(Loss):
    """Class and box losses of the chosen cells, of every decoder layer, of denoising, and of the dense head."""

    def __init__(self, settings: LossConfig) -> None:
        self.settings = settings
        self.costs = CostWeights(settings.class_cost, settings.l1_weight, settings.giou_weight)

    def __call__(self, outputs: TrainingOutputs, batch: Batch, processes: Processes) -> dict[str, Tensor]:
        targets = input_targets(batch)
        normaliser = num_objects(targets, processes)
        refinement = outputs.refinement
        # The cells and all layers are matched in one go: each transfer to the CPU would wait for the device.
        both = zip(refinement.chosen, refinement.layers, strict=True)
        answers = Predictions(*(torch.cat((cells[None], layers)) for cells, layers in both))
        costs = matching_cost(
            focal_class_cost(wide(answers.class_logits), targets.class_ids),
            wide(answers.boxes_cxcywh),
            targets,
            self.costs,
        )
        pairs = match(costs, targets)
        terms = [self._terms(_layer(answers, i), targets, matched, normaliser) for i, matched in enumerate(pairs)]
        if refinement.noisy is not None and refinement.denoising is not None:
            matched = denoised(targets, refinement.denoising.groups)
            share = normaliser * refinement.denoising.groups
            terms += [
                self._terms(_layer(refinement.noisy, i), targets, matched, share)
                for i in range(len(refinement.noisy.class_logits))
            ]
        class_loss, l1_loss, giou_loss = (torch.stack(parts).sum() for parts in zip(*terms, strict=True))
        settings = self.settings
        losses = {"class_loss": class_loss, "l1_loss": l1_loss, "giou_loss": giou_loss}
        total = settings.class_weight * class_loss + settings.l1_weight * l1_loss + settings.giou_weight * giou_loss
        if settings.dense_weight:
            dense = dense_losses(outputs.dense, targets, normaliser)
            losses["dense_loss"] = dense.classes + settings.giou_weight * dense.giou
            total = total + settings.dense_weight * losses["dense_loss"]
        else:  # without a weight, but not without a gradient: processes that share one wait for all of them
            total = total + 0 * sum(part.sum() for part in outputs.dense[:2])
        return {"loss": total, **losses}

    def _terms(
        self, answers: Predictions, targets: SetTargets, matched: Matched, normaliser: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class, L1 and GIoU loss of one layer."""
        logits, boxes = wide(answers.class_logits), wide(answers.boxes_cxcywh)
        pair = matched.images, matched.queries
        objects = targets.boxes_cxcywh[matched.images, matched.objects].to(boxes.dtype)
        # The overlap is a target here, not something to learn: no gradient goes through it.
        overlap: Tensor = elementwise_iou(cxcywh_to_xyxy(boxes[pair].detach()), cxcywh_to_xyxy(objects), "iou")
        ids = targets.class_ids[matched.images, matched.objects]
        qualities = torch.zeros_like(logits)
        # At least a little, so that a matched query whose box misses still counts as one that should answer.
        qualities[(*pair, ids)] = overlap.clamp(min=1e-4)
        l1, giou = box_losses(boxes, targets, matched, normaliser)
        return quality_loss(logits, qualities, self.settings.quality_power) / normaliser, l1, giou


def denoised(targets: SetTargets, groups: int) -> Matched:
    """The pairs that are known beforehand: the near queries of every group and the objects that they were made from."""
    images, objects = (targets.class_ids >= 0).nonzero(as_tuple=True)
    size = 2 * targets.class_ids.shape[1]
    # In each group, the first half is near its objects; the second is too far off and should say nothing.
    starts = torch.arange(groups, device=objects.device) * size
    queries = (objects[:, None] + starts).flatten()
    return Matched(images.repeat_interleave(groups), queries, objects.repeat_interleave(groups))


def _layer(answers: Predictions, index: int) -> Predictions:
    return Predictions(answers.class_logits[index], answers.boxes_cxcywh[index])
