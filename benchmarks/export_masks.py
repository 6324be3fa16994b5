"""How far the masks of an exported model are from PyTorch's, on real images.

    python benchmarks/export_masks.py MODEL.safetensors EXPORT… --images FOLDER

For each export: mean and least IoU of the masks of the objects that both find (boxes that overlap by at least 0.9), and
the share of pixels with the same class where the network says what every pixel belongs to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.segments import label_map
from phidet.images.decode import read_image
from phidet.inference.detector import Detector


def compared(ours: Detections, theirs: Detections) -> list[float]:
    """IoU of masks of the objects that both have."""
    if not (len(ours) and len(theirs)) or ours.masks is None or theirs.masks is None:
        return []
    overlap = pairwise_iou(ours.boxes_xyxy, theirs.boxes_xyxy)
    best = overlap.argmax(1)
    same = (overlap.max(1) > 0.9) & (ours.class_ids == theirs.class_ids[best])
    ious: list[float] = np.asarray(ours.masks.iou(theirs.masks)[np.flatnonzero(same), best[same]]).tolist()
    return ious


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    args = parser.parse_args()
    images = [read_image(file) for file in sorted(args.images.iterdir()) if file.suffix in (".jpg", ".png")]
    ours = Detector(args.model).detect(images)
    print(f"{len(images)} images, {sum(map(len, ours))} objects in PyTorch")
    for path in args.exports:
        with Detector(path) as detector:
            theirs = detector.detect(images)
        ious = [iou for one, other in zip(ours, theirs, strict=True) for iou in compared(one, other)]
        said = (
            f"{path.name}: {len(ious)} masks, IoU mean {np.mean(ious):.5f}, least {np.min(ious):.5f}"
            if ious
            else path.name
        )
        if ours[0].segments is not None:
            alike = [float((label_map(a) == label_map(b)).mean()) for a, b in zip(ours, theirs, strict=True)]
            said += f"; pixels of the same class {np.mean(alike):.5f}"
        print(said)


if __name__ == "__main__":
    main()
