"""Assigns objects to anchors and computes the training targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phidet.core.errors import InputError
from phidet.detections.boxes import area, encode

_CPU_CHUNK = 1 << 17  # (object, anchor) pairs at a time, such that buffers fit a core's cache
_DEVICE_CHUNK = 1 << 24  # 64 MiB a buffer


class Targets(NamedTuple):
    """Training targets of every anchor, in the order of
    :func:`phidet.architectures.efficientdet.anchors.generate_anchors`.

    Attributes:
        class_ids: (B, A) int64, −1 for background.
        box_deltas: (B, A, 4) float32, (ty, tx, th, tw) relative to the anchors; 0 for background.
        matched: (B, A) int64, index of the object among its image's N, −1 for background.
        num_positives: (B,) int64, anchors of the image that have an object.
        soft: (P, C) float32, the class probabilities of the objects of the P anchors that have one, in their order,
            where a teacher gave them; ``None`` for labels, which are certain.
    """

    class_ids: Tensor
    box_deltas: Tensor
    matched: Tensor
    num_positives: Tensor
    soft: Tensor | None = None

    @property
    def certainty(self) -> Tensor | None:
        """(P,) probability that there is an object, of the most probable class; ``None`` if all are certain."""
        return None if self.soft is None else self.soft.amax(1)


def assign_targets(anchors_xyxy: Tensor, boxes_xyxy: Tensor, class_ids: Tensor, min_iou: float = 0.5) -> Targets:
    """Match the objects of a batch of images to anchors.

    An anchor takes the object it overlaps most (the lower-numbered of equals) if that IoU is at least ``min_iou``, and
    is background otherwise; there is no band of ignored anchors. Moreover every object claims the anchor it overlaps
    most (the first of equals), whatever the IoU and whatever that anchor took before; where several claim one anchor,
    the lowest-numbered has it. An object that overlaps no anchor, or has no area, claims none.

    Args:
        anchors_xyxy: (A, 4) in pixels.
        boxes_xyxy: (B, N, 4) in pixels, padded; N may be 0 and has no upper limit. See :func:`pad_objects`.
        class_ids: (B, N) int64, −1 for padding.
        min_iou: in 0…1, exclusive of 0.

    Raises:
        InputError: shapes that do not match.
    """
    with torch.no_grad():
        objects = objects_of(boxes_xyxy, class_ids)
        anchors = anchors_xyxy.float()
        owner = _match(anchors, objects.boxes_xyxy, objects.image, objects.images, min_iou)
        return targets_of(owner, anchors, objects)


class Objects(NamedTuple):
    """The G real objects of a batch of images in one list, image by image.

    Attributes:
        boxes_xyxy: (G, 4) float32, with an area.
        class_ids: (G,) int64.
        image: (G,) of which image.
        number: (G,) which of its image's objects, counted with padding.
        images: how many images the batch has.
    """

    boxes_xyxy: Tensor
    class_ids: Tensor
    image: Tensor
    number: Tensor
    images: int


def objects_of(boxes_xyxy: Tensor, class_ids: Tensor) -> Objects:
    """The real objects among padded ones; arguments and errors as of :func:`assign_targets`."""
    if boxes_xyxy.ndim != 3 or boxes_xyxy.shape[2] != 4 or class_ids.shape != boxes_xyxy.shape[:2]:
        raise InputError(
            f"expected boxes (B, N, 4) and class ids (B, N), got {tuple(boxes_xyxy.shape)} and "
            f"{tuple(class_ids.shape)}: pad_objects makes them from lists"
        )
    boxes = boxes_xyxy.float()
    # Padding and boxes without area are dropped at once: what follows runs over the real objects of the whole batch
    # in one list, so that images with many objects do not make the others pay.
    image, index = ((class_ids >= 0) & (area(boxes) > 0)).nonzero(as_tuple=True)  # both (G,), row by row
    return Objects(boxes[image, index], class_ids[image, index], image, index, class_ids.shape[0])


def targets_of(owner: Tensor, anchors_xyxy: Tensor, objects: Objects) -> Targets:
    """Targets of an assignment: (B, A) row of the object that each anchor learns, or −1."""
    positive = owner >= 0
    where = positive.nonzero(as_tuple=True)  # (P,) images, (P,) anchors
    rows = owner[where]
    # Background is the default, and the few positive anchors are written over it.
    ids = torch.full_like(owner, -1)
    ids[where] = objects.class_ids[rows]
    matched = torch.full_like(owner, -1)
    matched[where] = objects.number[rows]
    deltas = anchors_xyxy.new_zeros((*owner.shape, 4))
    deltas[where] = encode(objects.boxes_xyxy[rows], anchors_xyxy[where[1]])
    return Targets(ids, deltas, matched, positive.sum(1))


def _match(anchors: Tensor, objects: Tensor, image: Tensor, num_images: int, min_iou: float) -> Tensor:
    """(A, 4) anchors, (G, 4) objects and the image of each → (B, A) row of the object that each anchor takes, or −1."""
    num_objects, num_anchors = len(objects), len(anchors)
    if num_objects == 0:
        return torch.full((num_images, num_anchors), -1, device=anchors.device)
    row, anchor, iou, best = _candidates(anchors, objects, min_iou)  # all (K,)

    # Of equal overlaps the first anchor is claimed, as the official code's argmax does.
    first = torch.full_like(image, num_anchors)  # (G,), the anchor that each object claims
    at_best = iou == best
    first.scatter_reduce_(0, row[at_best], anchor[at_best], "amin")
    claimed = anchor == first[row]
    # A claim beats every overlap, and claims are equal among themselves.
    score = torch.where(claimed, 2.0, iou)
    keep = claimed | (iou >= min_iou)
    row, score, slot = row[keep], score[keep], (image[row] * num_anchors + anchor)[keep]

    # Two scatters in place of an argmax: the highest score of each (image, anchor) slot, then the lowest row that has
    # it.
    highest = score.new_zeros(num_images * num_anchors).scatter_reduce_(0, slot, score, "amax")
    wins = score == highest[slot]
    owner = torch.full((num_images * num_anchors,), num_objects, device=anchors.device)
    owner.scatter_reduce_(0, slot[wins], row[wins], "amin")
    return owner.masked_fill_(owner == num_objects, -1).view(num_images, num_anchors)


def _candidates(anchors: Tensor, objects: Tensor, min_iou: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The few relevant pairs: with at least ``min_iou``, or an object's best. Row, anchor, IoU and the row's best IoU.

    A matrix of all pairs would take hundreds of megabytes, so this goes a few real objects at a time.
    """
    left, top, right, bottom = anchors.t().contiguous()  # (A,) each
    anchor_area = area(anchors)
    limit = _CPU_CHUNK if anchors.device.type == "cpu" else _DEVICE_CHUNK
    step = max(1, limit // len(anchors))
    found = []
    for start in range(0, len(objects), step):
        chunk = objects[start : start + step]
        x1, y1, x2, y2 = chunk.t()[..., None]  # (g, 1) each
        # As pairwise_iou, but in place.
        overlap = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
        overlap *= torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
        iou = overlap.div_((area(chunk)[:, None] + anchor_area).sub_(overlap))  # (g, A)
        best = iou.amax(1)
        # An object's best anchor passes however small its overlap; with no overlap at all, nothing does.
        threshold = torch.where(best > 0, best.clamp(max=min_iou), torch.inf)
        row, anchor = (iou >= threshold[:, None]).nonzero(as_tuple=True)
        found.append((row + start, anchor, iou[row, anchor], best[row]))
    row, anchor, iou, best = (torch.cat(parts) for parts in zip(*found, strict=True))
    return row, anchor, iou, best
