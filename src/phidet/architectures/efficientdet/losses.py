"""The training loss: focal loss for classes, Huber loss and optionally an IoU loss for boxes (arXiv 1911.09070, 4–5).

All sums are in float32 (float64 for float64 input) whatever the network runs in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from phidet.architectures.batch import Batch, check_class_ids
from phidet.architectures.efficientdet.anchors import generate_anchors, level_sizes
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.dynamic import atss, task_aligned
from phidet.architectures.efficientdet.loss_config import LossConfig
from phidet.architectures.efficientdet.mask_losses import mask_loss
from phidet.architectures.efficientdet.network import (
    MaskedOutputs,
    Outputs,
    PanopticOutputs,
    RawOutputs,
    SemanticOutputs,
)
from phidet.architectures.efficientdet.semantic_losses import semantic_loss, semantic_targets
from phidet.architectures.efficientdet.targets import Targets, assign_targets, objects_of, targets_of
from phidet.architectures.layers import wide
from phidet.architectures.processes import Processes
from phidet.core.errors import InputError
from phidet.detections.boxes import IouKind, decode, elementwise_iou

_CPU_CHUNK = 1 << 17  # logits at a time, such that buffers fit a core's cache
_DEVICE_CHUNK = 1 << 23  # 32 MiB a buffer


class DetectionLoss(NamedTuple):
    """Scalars; only ``total`` includes the weights of :class:`LossConfig`."""

    total: Tensor
    class_loss: Tensor
    box_loss: Tensor
    iou_loss: Tensor


def detection_loss(
    outputs: RawOutputs, targets: Targets, anchors_xyxy: Tensor, config: LossConfig, normalizer: Tensor | None = None
) -> DetectionLoss:
    """The loss of a batch.

    Args:
        outputs: of the network; class_logits (B, A, C), box_deltas (B, A, 4).
        targets: for the same B images and A anchors.
        anchors_xyxy: (A, 4) in pixels.
        config: weights and shapes of the losses.
        normalizer: scalar > 0 that the class loss is divided by, and the box losses by four times it; by default the
            batch's positive anchors + 1. Training on several devices passes the mean over them.

    Raises:
        InputError: outputs, targets and anchors are not of the same images and anchors, or a class id is too high.
    """
    shape = tuple(outputs.class_logits.shape[:2])
    if not (shape == targets.class_ids.shape == outputs.box_deltas.shape[:2] and shape[1] == len(anchors_xyxy)):
        raise InputError(
            f"class logits are of (images, anchors) {shape}, box deltas of {tuple(outputs.box_deltas.shape[:2])}, "
            f"targets of {tuple(targets.class_ids.shape)}, and there are {len(anchors_xyxy)} anchors: "
            "make anchors and targets for the size of the images that the network saw"
        )
    if normalizer is None:
        normalizer = targets.num_positives.sum().float() + 1
    if targets.soft is None:
        class_loss = focal_loss(outputs.class_logits, targets.class_ids, config) / normalizer
    else:
        class_loss = soft_focal_loss(outputs.class_logits, targets, config) / normalizer
    box_loss = huber_loss(outputs.box_deltas, targets, config.delta) / (4 * normalizer)
    iou_loss = torch.zeros_like(box_loss)
    if config.iou_kind is not None:
        # By four, like the box loss, though an anchor has one IoU only: so the official code does.
        iou_loss = box_iou_loss(outputs.box_deltas, targets, anchors_xyxy, config.iou_kind) / (4 * normalizer)
    total = class_loss + config.box_weight * box_loss + config.iou_weight * iou_loss
    return DetectionLoss(total, class_loss, box_loss, iou_loss)


def focal_loss(class_logits: Tensor, class_ids: Tensor, config: LossConfig) -> Tensor:
    """Sum over all anchors and classes of ``α_t (1 − p_t)^γ · CE`` (arXiv 1708.02002, equation 5).

    Each class is a binary decision. ``p_t`` is the predicted probability of the true outcome; label smoothing changes
    the cross entropy ``CE`` alone.

    Args:
        class_logits: (…, C), any floating type.
        class_ids: (…,) int64, 0…C − 1, or −1 for background.
        config: ``alpha``, ``gamma`` and ``label_smoothing`` count.

    Returns:
        Scalar, float32 or float64. It can be differentiated once, not twice.

    Raises:
        InputError: a class id ≥ C; on accelerators, where looking would have to wait for the device, PyTorch's error.
    """
    check_class_ids(class_ids, class_logits.shape[-1])
    total: Tensor = _FocalSum.apply(class_logits, class_ids, config.alpha, config.gamma, config.label_smoothing / 2)
    return total


def soft_focal_loss(class_logits: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """:func:`focal_loss` of uncertain targets q: ``α_q |q − p|^γ · CE``, ``α_q = α q + (1 − α)(1 − q)``.

    The quality focal loss (arXiv 2006.04388, equation 4) with the focal loss's α; the focal loss where q is 0 or 1.

    Args:
        class_logits: (B, A, C), any floating type.
        targets: with ``soft``; anchors without an object are background for certain.
        config: as for :func:`focal_loss`.

    Returns:
        Scalar, float32 or float64.
    """
    assert targets.soft is not None
    # As if all were background; the few anchors with objects are then corrected.
    total = focal_loss(class_logits, torch.full_like(targets.class_ids, -1), config)
    rows = class_logits[targets.class_ids >= 0]  # (P, C)
    wanted = targets.soft.to(wide(rows).dtype)
    corrected = _soft_focal(wide(rows), wanted, config) - _soft_focal(wide(rows), torch.zeros_like(wanted), config)
    return total + corrected.sum()


def _soft_focal(logits: Tensor, wanted: Tensor, config: LossConfig) -> Tensor:
    smoothed = wanted * (1 - config.label_smoothing) + config.label_smoothing / 2
    entropy = F.softplus(logits) - smoothed * logits
    weight = config.alpha * wanted + (1 - config.alpha) * (1 - wanted)
    # The power has no derivative at 0 for γ < 1.
    return weight * (wanted - logits.sigmoid()).abs().clamp(min=1e-6) ** config.gamma * entropy


def huber_loss(box_deltas: Tensor, targets: Targets, delta: float) -> Tensor:
    """Sum over the box code of positive anchors: ``½ e²``, and ``δ (|e| − ½ δ)`` where ``|e| > δ`` (arXiv 1504.08083).

    Args:
        box_deltas: (B, A, 4), any floating type.
        targets: for the same images and anchors.
        delta: where the loss turns from a square to a line.

    Returns:
        Scalar, float32 or float64.
    """
    predicted = wide(box_deltas)
    wanted = targets.box_deltas.to(predicted.dtype)
    # The official code masks every target that is exactly 0, to leave out background. That also drops an
    # object in perfect line with its anchor; here the anchor's class says what is background.
    positive = targets.class_ids >= 0
    answer = torch.where(positive.unsqueeze(-1), predicted, wanted)
    if targets.certainty is None:
        return F.huber_loss(answer, wanted, reduction="sum", delta=delta)
    each = F.huber_loss(answer[positive], wanted[positive], reduction="none", delta=delta).sum(1)  # (P,)
    return (each * targets.certainty).sum()


def box_iou_loss(box_deltas: Tensor, targets: Targets, anchors_xyxy: Tensor, kind: IouKind) -> Tensor:
    """Sum over positive anchors of one minus :func:`phidet.detections.boxes.elementwise_iou` of the answer and the
    wanted box.

    Args:
        box_deltas: (B, A, 4), any floating type.
        targets: for the same images and anchors.
        anchors_xyxy: (A, 4) in pixels.
        kind: which measure.

    Returns:
        Scalar, float32 or float64.
    """
    positive = (targets.class_ids >= 0).nonzero(as_tuple=True)  # (P,) images, (P,) anchors
    anchors = anchors_xyxy[positive[1]]
    answer = decode(wide(box_deltas[positive]), anchors)
    wanted = decode(targets.box_deltas[positive], anchors)
    each: Tensor = 1 - elementwise_iou(answer, wanted, kind)
    return each.sum() if targets.certainty is None else (each * targets.certainty).sum()


class _FocalSum(torch.autograd.Function):
    """Loss and gradient in one pass, a piece at a time, so that the only large tensor is the gradient itself.

    With s half the smoothing, p = sigmoid(z) and ``f(z) = p^γ · (softplus(z) − s·z)``, a negative logit costs
    (1 − α) f(z), a positive one α f(−z). So the sign of the positive logits is flipped, f taken of all, and the result
    weighted; no one-hot target is needed. Also ``f′(z) = p^γ · (γ (1 − p) (softplus(z) − s·z) + p − s)``, and
    ``p^γ = exp(γ (z − softplus(z)))``, which is faster than a power and never 0 · ∞.
    """

    @staticmethod
    def forward(
        ctx: Any, class_logits: Tensor, class_ids: Tensor, alpha: float, gamma: float, smoothing: float
    ) -> Tensor:
        logits, ids = class_logits.reshape(-1, class_logits.shape[-1]), class_ids.reshape(-1, 1)
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        gradient = None
        if ctx.needs_input_grad[0]:
            # Without the loss scale, which comes in backward, small gradients would vanish in float16.
            gradient = torch.empty_like(logits, dtype=wide if logits.dtype == torch.float16 else logits.dtype)
        limit = _CPU_CHUNK if logits.device.type == "cpu" else _DEVICE_CHUNK
        if torch.compiler.is_compiling():
            limit = logits.numel()  # a compiler fuses the steps itself, and would unroll the loop
        step = max(1, limit // logits.shape[1])
        sums = [torch.zeros((), dtype=wide, device=logits.device)]
        for start in range(0, len(logits), step):
            piece = slice(start, start + step)
            yes = ids[piece] >= 0  # (rows, 1)
            column = ids[piece].clamp(min=0)
            z = logits[piece].to(wide, copy=True)
            true_class = z.gather(1, column)  # (rows, 1); of background, whatever stands first
            # Turned round at the right class: then one formula, that of a negative, holds for all.
            z.scatter_(1, column, torch.where(yes, -true_class, true_class))
            entropy = F.softplus(z)
            # p^γ by log p = z − softplus(z), which loses nothing where p is small.
            power = torch.sub(z, entropy).mul_(gamma).exp_()
            if smoothing:
                entropy.sub_(z, alpha=smoothing)
            loss = power * entropy
            # Everything is summed as if negative; the second sum corrects the few positives from 1 − α to α.
            sums.append((1 - alpha) * loss.sum())
            sums.append((2 * alpha - 1) * torch.where(yes, loss.gather(1, column), 0).sum())
            if gradient is not None:
                # The derivative of p^γ · entropy by z; buffers that are no longer needed are written over.
                p = z.sigmoid_()
                slope = entropy.mul_(gamma).mul_(1 - p).add_(p).sub_(smoothing).mul_(power)
                true_class = slope.gather(1, column)
                slope.mul_(1 - alpha)
                slope.scatter_(1, column, torch.where(yes, -alpha * true_class, (1 - alpha) * true_class))
                gradient[piece] = slope
        ctx.save_for_backward(gradient)
        ctx.like = class_logits.shape, class_logits.dtype
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        shape, dtype = ctx.like
        return (gradient * grad_output).to(dtype).view(shape), None, None, None, None


class AnchorLoss:
    """:func:`detection_loss` of anchors, normalised by the positives of all processes' images plus one."""

    def __init__(self, config: ModelConfig, settings: LossConfig) -> None:
        self.settings = settings
        levels = config.feature_network.levels
        self.anchors_xyxy = torch.from_numpy(generate_anchors(config.image_size_hw, levels, config.anchors).copy())
        self.per_cell = config.anchors.per_cell
        self.anchors_of_level = [h * w * self.per_cell for h, w in level_sizes(config.image_size_hw, levels)]
        stuff = () if config.semantic is None else config.semantic.stuff
        self.is_thing = torch.tensor([name not in stuff for name in config.class_names])

    def to(self, device: torch.device) -> None:
        """Moves the anchors, and which classes are things, to ``device``."""
        self.anchors_xyxy, self.is_thing = self.anchors_xyxy.to(device), self.is_thing.to(device)

    def __call__(self, outputs: Outputs, batch: Batch, processes: Processes) -> dict[str, Tensor]:
        # Stuff such as sky has pixels, but no box that would say anything.
        boxed = torch.where(self.is_thing[batch.class_ids.clamp(min=0)], batch.class_ids, -1)
        targets, quality = self._assigned(outputs, batch.boxes_xyxy, boxed)
        if batch.soft is not None:
            image, anchor = (targets.class_ids >= 0).nonzero(as_tuple=True)
            targets = targets._replace(soft=batch.soft[image, targets.matched[image, anchor]])
        # The target of the class is then how well the box fits, instead of 1.
        if quality is not None:
            ids = targets.class_ids[targets.class_ids >= 0]
            certain = F.one_hot(ids, outputs.class_logits.shape[-1]).to(quality.dtype)
            targets = targets._replace(soft=quality[:, None] * (certain if targets.soft is None else targets.soft))
        found = targets.num_positives if targets.certainty is None else targets.certainty
        positives = processes.total(found.sum().float())
        # The mean of the processes' gradients is then the gradient of the whole batch.
        normalizer = (positives + 1) / processes.size
        raw = RawOutputs(outputs.class_logits, outputs.box_deltas)
        loss = detection_loss(raw, targets, self.anchors_xyxy, self.settings, normalizer)
        losses = {"loss": loss.total, "class_loss": loss.class_loss, "box_loss": loss.box_loss}
        if isinstance(outputs, MaskedOutputs | PanopticOutputs) and batch.masks is not None:
            of_masks = outputs.mask_coefficients, outputs.prototypes
            summed, count = mask_loss(*of_masks, targets, batch.masks, batch.boxes_xyxy)
            losses["mask_loss"] = summed / (processes.total(count) / processes.size).clamp(min=1)
            losses["loss"] = losses["loss"] + self.settings.mask_weight * losses["mask_loss"]
        if isinstance(outputs, SemanticOutputs | PanopticOutputs) and batch.masks is not None:
            wanted = semantic_targets(batch, len(self.is_thing), bool(self.is_thing.all()))
            summed, count = semantic_loss(outputs.semantic_logits, wanted)
            losses["semantic_loss"] = summed / (processes.total(count) / processes.size).clamp(min=1)
            losses["loss"] = losses["loss"] + self.settings.semantic_weight * losses["semantic_loss"]
        return losses

    @torch.no_grad()
    def _assigned(self, outputs: Outputs, boxes_xyxy: Tensor, class_ids: Tensor) -> tuple[Targets, Tensor | None]:
        """Targets, and of each anchor that has an object, (P,), how good its class shall say that it is."""
        how, anchors = self.settings.assignment, self.anchors_xyxy
        if how == "iou" and not self.settings.quality:
            return assign_targets(anchors, boxes_xyxy, class_ids), None
        answers = decode(wide(outputs.box_deltas), anchors)  # (B, A, 4)
        if how == "task":
            objects = objects_of(boxes_xyxy, class_ids)
            owner, quality = task_aligned(anchors, answers, wide(outputs.class_logits).sigmoid(), objects)
            return targets_of(owner, anchors.float(), objects), quality[owner >= 0]
        if how == "atss":
            objects = objects_of(boxes_xyxy, class_ids)
            owner = atss(anchors, self.anchors_of_level, self.per_cell, objects)
            targets = targets_of(owner, anchors.float(), objects)
        else:
            targets = assign_targets(anchors, boxes_xyxy, class_ids)
        if not self.settings.quality:
            return targets, None
        at = (targets.class_ids >= 0).nonzero(as_tuple=True)
        wanted = boxes_xyxy[at[0], targets.matched[at]].to(answers.dtype)
        quality = elementwise_iou(answers[at], wanted, "iou")
        return targets, quality
