"""The metrics that the paper and its repository publish, to stand beside ours."""

from __future__ import annotations

import msgspec


class PublishedDetr(msgspec.Struct, frozen=True):
    """DETR, arXiv 2005.12872, table 1, and the official repository.

    Attributes:
        parameters: of the network with COCO's 91 classes, counted from the official code; the paper's 41.3M leave out
            what is never trained.
        gflops: mean over the first 100 validation images, products of attention included.
        ap, ap50, ap75: COCO val.
        ap_small, ap_medium, ap_large: the same by size of the objects.
        fps: batch 1 on a V100.
    """

    parameters: int
    gflops: float
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    fps: float


METRICS: dict[str, PublishedDetr] = {
    "detr-r50": PublishedDetr(41_524_768, 86, 42.0, 62.4, 44.2, 20.5, 45.8, 61.1, 28),
    "detr-r101": PublishedDetr(60_464_672, 152, 43.5, 63.8, 46.4, 21.9, 48.0, 61.8, 20),
    "detr-r50-dc5": PublishedDetr(41_524_768, 187, 43.3, 63.1, 45.9, 22.5, 47.3, 61.1, 12),
    "detr-r101-dc5": PublishedDetr(60_464_672, 253, 44.9, 64.7, 47.7, 23.7, 49.5, 62.3, 10),
}
