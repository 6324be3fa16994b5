"""Two images in one: objects of one put into the other, or one laid over the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phidet.data.blend import blend
from phidet.training.augmentation.detection import pad_to
from phidet.training.augmentation.mask_tensors import UNKNOWN
from phidet.training.augmentation.operations import GREY, Sample

MOST_PASTED = 3
_SMALLEST = 8.0  # pixels of the input; a smaller piece is all seam
_CONTEXT = 1.25  # of a box's sides: as much as blending fades, so that the object itself stays as it is
_MOST_HIDDEN = 0.3  # of an object that is there, so that its label stays true
_TRIES = 10  # to find such a place


def paste_objects(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """``sample`` with one to three objects of ``other`` at places where they hide little, without a seam.

    A piece is an object's box and a quarter more, as much as blending fades (:mod:`phidet.data.blend`). Objects keep
    their size; where none has room, nothing happens.
    """
    height, width = sample.pixels.shape[1:]
    sides = other.boxes_xyxy[:, 2:] - other.boxes_xyxy[:, :2]
    usable = np.flatnonzero((sides.amin(1) >= _SMALLEST).numpy()) if len(sides) else np.zeros(0, np.int64)
    chosen = rng.permutation(usable)[: int(rng.integers(1, MOST_PASTED + 1))]
    pixels = np.ascontiguousarray(sample.pixels.permute(1, 2, 0).numpy()).copy()
    boxes, ids, masks = sample.boxes_xyxy, sample.class_ids, sample.masks
    for k in chosen.tolist():
        left, top, right, bottom = _piece(other, k)
        place = _room(boxes, (right - left, bottom - top), (width, height), rng)
        if place is None:
            continue
        x, y = place[0] - left, place[1] - top  # how far everything moves
        blend(pixels, other.pixels[:, top:bottom, left:right].permute(1, 2, 0).numpy(), *place)
        box = other.boxes_xyxy[k] + other.boxes_xyxy.new_tensor([x, y, x, y])
        if masks is not None and other.masks is not None:
            masks = _with_mask(masks, other.masks[k], (left, top, right, bottom), place, box)
        boxes, ids = torch.cat([boxes, box[None]]), torch.cat([ids, other.class_ids[k : k + 1]])
    return Sample(torch.from_numpy(pixels).permute(2, 0, 1), boxes, ids, masks)


def mixed(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Both images over each other, with the objects of both (mixup for detection, arXiv 1902.04103, section 3.1).

    The share of the first is drawn from Beta(8, 8), about a half, so that both can be seen. Where only one of them
    reaches, it is seen alone. Masks stay those of their objects.
    """
    height, width = (max(a.pixels.shape[side] for a in (sample, other)) for side in (1, 2))
    size_hw = height, width
    share = float(rng.beta(8, 8))
    # NaN marks where an image does not reach, which 0 would not tell from black.
    first, second = (pad_to(s.pixels.float(), size_hw, float("nan")) for s in (sample, other))
    pixels = torch.where(
        first.isnan(), second, torch.where(second.isnan(), first, share * first + (1 - share) * second)
    )
    masks = None
    if sample.masks is not None and other.masks is not None:
        masks = torch.cat([pad_to(m, size_hw) for m in (sample.masks, other.masks)])
        masks[(masks == UNKNOWN).flatten(1).any(1)] = UNKNOWN
    return Sample(
        pixels.nan_to_num(GREY).round().to(torch.uint8),  # where neither reaches
        torch.cat([sample.boxes_xyxy, other.boxes_xyxy]),
        torch.cat([sample.class_ids, other.class_ids]),
        masks,
    )


def _piece(sample: Sample, k: int) -> tuple[int, int, int, int]:
    """Whole pixels around an object and its context, inside the image."""
    height, width = sample.pixels.shape[1:]
    x1, y1, x2, y2 = sample.boxes_xyxy[k].tolist()
    more_x, more_y = ((_CONTEXT - 1) / 2 * side for side in (x2 - x1, y2 - y1))
    left, top = max(0, int(x1 - more_x)), max(0, int(y1 - more_y))
    return left, top, min(width, int(np.ceil(x2 + more_x))), min(height, int(np.ceil(y2 + more_y)))


def _room(
    boxes_xyxy: Tensor, piece_wh: tuple[int, int], image_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Left and top of a place for a piece, ``None`` if none was found."""
    free = image_wh[0] - piece_wh[0], image_wh[1] - piece_wh[1]
    if min(free) < 0:
        return None
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    for _ in range(_TRIES):
        left, top = int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
        low = boxes_xyxy[:, :2].maximum(boxes_xyxy.new_tensor([left, top]))
        high = boxes_xyxy[:, 2:].minimum(boxes_xyxy.new_tensor([left + piece_wh[0], top + piece_wh[1]]))
        hidden = (high - low).clamp(min=0).prod(1)
        if (hidden <= _MOST_HIDDEN * areas).all():
            return left, top
    return None


def _with_mask(
    masks: Tensor, mask: Tensor, piece: tuple[int, int, int, int], place: tuple[int, int], box: Tensor
) -> Tensor:
    """The masks of an image into which an object was put: what it hides is no longer seen."""
    height, width = masks.shape[1:]
    left, top, right, bottom = piece
    moved = mask.new_zeros(height, width)
    moved[place[1] : place[1] + bottom - top, place[0] : place[0] + right - left] = mask[top:bottom, left:right]
    hides = moved == 1
    if (mask == UNKNOWN).any():
        moved[:] = UNKNOWN  # only its box is known: that hides all there is
        x1, y1, x2, y2 = (round(v) for v in box.tolist())
        hides[y1:y2, x1:x2] = True
    before = torch.where(hides & (masks == 1), torch.zeros((), dtype=masks.dtype), masks)
    return torch.cat([before, moved[None]])
