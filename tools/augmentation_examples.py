"""Draws every built-in augmentation by itself: a row for each, one image in three epochs.

python tools/augmentation_examples.py DATA [--index 0] [--out docs/images/augmentations.jpg]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from phidet.data.layouts import open_data
from phidet.detections.sheet import Tile, draw_sheet
from phidet.training.loading import TrainImages
from phidet.training.recipe import Augmentation

STILL = {"scale_jitter": (1.0, 1.0), "flip": 0.0}
ROWS: dict[str, dict[str, object]] = {
    "scale_jitter=0.5,1.5": {"scale_jitter": (0.5, 1.5)},
    "flip=1": {"flip": 1.0},
    "colour=0.4": {"colour": 0.4},
    "hue=0.2": {"hue": 0.2},
    "policy=v1": {"policy": "v1"},
    "policy=randaugment": {"policy": "randaugment", "layers": 2, "magnitude": 8.0},
    "mosaic=1": {"mosaic": 1.0},
    "copy_paste=1": {"copy_paste": 1.0},
    "mixup=1": {"mixup": 1.0},
    "rotate=20": {"rotate": 20.0},
    "shear=0.3": {"shear": 0.3},
    "grid_mask=1": {"grid_mask": 1.0},
}
EPOCHS = 3


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a data folder or file, in any layout")
    parser.add_argument("--index", type=int, default=0, help="of the image")
    parser.add_argument("--size", type=int, default=256, help="side of the network's input in pixels")
    parser.add_argument("--out", type=Path, default=Path("docs/images/augmentations.jpg"))
    args = parser.parse_args()
    folder = open_data(args.data)
    dataset = folder.read(folder.train_split())
    tiles = []
    for name, changes in ROWS.items():
        images = TrainImages(dataset, (args.size, args.size), Augmentation(**{**STILL, **changes}), seed=0)  # type: ignore[arg-type]
        for epoch in range(EPOCHS):
            example = images[epoch, args.index]
            pixels = example.pixels.permute(1, 2, 0).numpy()
            ids = example.class_ids.tolist()
            boxes = example.boxes_xyxy.numpy()
            tiles.append(Tile(name, f"epoch {epoch + 1}", np.ascontiguousarray(pixels), boxes, [""] * len(ids), ids))
    sheet = draw_sheet("Built-in augmentations, one at a time", tiles, columns=2 * EPOCHS)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS).save(args.out, quality=85)
    print(f"wrote {args.out}, {sheet.width}×{sheet.height}")


if __name__ == "__main__":
    main()
