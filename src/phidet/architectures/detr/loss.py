"""The set loss of DETR (arXiv 2005.12872, section 3.1 and A.2), over all decoder layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phidet.architectures.base import Loss
from phidet.architectures.batch import Batch, check_class_ids
from phidet.architectures.detr.loss_config import DetrLossConfig
from phidet.architectures.detr.mask_losses import mask_losses
from phidet.architectures.detr.network import DetrOutputs
from phidet.architectures.layers import wide
from phidet.architectures.processes import Processes
from phidet.architectures.sets.losses import box_losses, matched_classes, softmax_class_loss
from phidet.architectures.sets.matching import CostWeights, Matched, match, matching_cost, softmax_class_cost
from phidet.architectures.sets.targets import SetTargets, num_objects, set_targets


class LayerLoss(NamedTuple):
    """Scalars of one decoder layer, without weights.

    Attributes:
        class_loss: cross entropy, "no object" included.
        box_loss: L1 distance of matched boxes.
        giou_loss: 1 − GIoU of matched boxes.
        cardinality_error: mean difference between the number of objects found and there; not minimised.
        class_error: share of matched queries whose class is another one, in percent; not minimised.
    """

    class_loss: Tensor
    box_loss: Tensor
    giou_loss: Tensor
    cardinality_error: Tensor
    class_error: Tensor


class DetrLoss(Loss):
    """The loss as :class:`phidet.architectures.base.Loss`.

    Args:
        num_classes: of the network, without "no object".
        config: weights.
    """

    def __init__(self, num_classes: int, config: DetrLossConfig) -> None:
        self.num_classes, self.config = num_classes, config

    def __call__(self, outputs: DetrOutputs, batch: Batch, processes: Processes) -> dict[str, Tensor]:
        """Losses by name: weighted sums over all layers in ``loss``, the last layer's own parts beside it."""
        targets = set_targets(batch)
        matched = self.match(outputs, targets)
        # Every layer is matched by itself, so each learns from pairs of its own (section 3.2).
        layers = self.layers(outputs, targets, matched, processes)
        totals = [self.weighted(layer) for layer in layers]
        losses = {"loss": torch.stack(totals).sum(), **layers[-1]._asdict()}
        if len(layers) > 1:
            losses["auxiliary_loss"] = torch.stack(totals[:-1]).sum()
        if outputs.mask_logits is not None:
            focal, dice = self._masks(outputs.mask_logits, batch.masks, matched[-1], num_objects(targets, processes))
            losses |= {"mask_loss": focal, "dice_loss": dice}
            losses["loss"] = losses["loss"] + self.config.mask_weight * focal + self.config.dice_weight * dice
        return losses

    def layers(
        self, outputs: DetrOutputs, targets: SetTargets, matched: list[Matched], processes: Processes
    ) -> list[LayerLoss]:
        """The loss of every layer, in order, over its own pairs of :meth:`match`."""
        logits, boxes = self._answers(outputs)
        normaliser = num_objects(targets, processes)
        return [
            self._layer(answers, targets, pairs, normaliser, processes)
            for *answers, pairs in zip(logits, boxes, matched, strict=True)
        ]

    def match(self, outputs: DetrOutputs, targets: SetTargets) -> list[Matched]:
        """The pairs of every layer, each matched by itself; of the last alone without auxiliary losses."""
        config, (logits, boxes_cxcywh) = self.config, self._answers(outputs)
        check_class_ids(targets.class_ids, self.num_classes)
        # Pairs are chosen by what the network answers, but no gradient goes through the choice.
        weights = CostWeights(config.class_cost, config.box_cost, config.giou_cost)
        class_cost = softmax_class_cost(wide(logits.detach()), targets.class_ids)
        return match(matching_cost(class_cost, wide(boxes_cxcywh.detach()), targets, weights), targets)

    def _answers(self, outputs: DetrOutputs) -> tuple[Tensor, Tensor]:
        """Logits (L, B, Q, C + 1) and boxes (L, B, Q, 4) of the layers that learn."""
        logits, boxes = outputs.class_logits[None], outputs.boxes_cxcywh[None]
        if not self.config.auxiliary:
            return logits, boxes
        return torch.cat([outputs.auxiliary_logits, logits]), torch.cat([outputs.auxiliary_boxes, boxes])

    def _masks(
        self, mask_logits: Tensor, masks: Tensor | None, matched: Matched, normaliser: Tensor
    ) -> tuple[Tensor, Tensor]:
        if masks is None:
            # A batch without any mask: zero, but through the network, as several processes exchange all gradients.
            nothing = 0 * mask_logits.sum()
            return nothing, nothing
        return mask_losses(mask_logits, masks, matched, normaliser)

    def weighted(self, layer: LayerLoss) -> Tensor:
        """What is minimised of one layer."""
        config = self.config
        boxes = config.box_weight * layer.box_loss + config.giou_weight * layer.giou_loss
        return config.class_weight * layer.class_loss + boxes

    def _layer(
        self, answers: list[Tensor], targets: SetTargets, matched: Matched, normaliser: Tensor, processes: Processes
    ) -> LayerLoss:
        logits, boxes = answers
        classes = matched_classes((logits.shape[0], logits.shape[1]), targets, matched, self.num_classes)
        class_loss = softmax_class_loss(logits, classes, self.config.no_object_weight, processes)
        pairs = box_losses(boxes, targets, matched, normaliser)
        # Nothing is learned from these two; they show how the training goes.
        with torch.no_grad():
            best = logits.argmax(-1)
            found = (best != self.num_classes).sum(1)
            cardinality = (found - targets.counts).abs().double().mean().to(class_loss.dtype)
            there = classes < self.num_classes
            right = ((best == classes) & there).sum()
            class_error = 100 - 100 * right / there.sum().clamp(min=1)
        return LayerLoss(class_loss, pairs.l1, pairs.giou, cardinality, class_error)
