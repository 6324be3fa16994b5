"""YOLO's text format: a file for each image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phidet.core.errors import ConfigError
from phidet.core.files import write_atomic
from phidet.core.words import count
from phidet.detections.boxes import clip, xyxy_to_cxcywh
from phidet.detections.detections import Detections
from phidet.detections.outlines import single_outlines
from phidet.detections.sinks.base import FolderSink, short_enough
from phidet.images.sources import SourceImage

log = logging.getLogger("phidet")

OURS = ".phidet"
CLASSES = "classes.txt"


class YoloSink(FolderSink):
    """``labels/NAME.txt`` with a line for each object: class, centre x and y, width, height (0…1), score.

    Objects with masks are written as outlines, x and y of every corner, without a score, as labels of segments are; one
    whose mask is empty as its box's corners.

    An image without objects gets an empty file, and one that could not be read none; ``classes.txt`` beside the folder
    names the classes.

    Raises:
        ConfigError: the folder has labels that no earlier run wrote, which may be hand-made.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder)
        # Text files cannot carry a mark of their own, so a file in the folder says that phidet wrote it.
        if not (folder / OURS).is_file() and (next(folder.rglob("*.txt"), None) or (folder.parent / CLASSES).exists()):
            raise ConfigError(
                f"{folder.parent} has labels that phidet did not write and would overwrite: choose another --out"
            )
        write_atomic(folder / OURS, b"Written by phidet detect, which may overwrite what is here.\n")
        write_atomic(folder.parent / CLASSES, "".join(f"{name}\n" for name in class_names).encode())

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        # In fp64, so that six digits of a share are exact; readers of YOLO refuse shares outside 0…1.
        inside = clip(found.boxes_xyxy.astype(np.float64), (height, width))
        rows: list[list[float]]
        if found.masks is None:
            boxes = xyxy_to_cxcywh(inside) / [width, height, width, height]
            rows = np.column_stack([boxes, found.scores.astype(np.float64)]).tolist()
        else:
            rings = [
                ring if len(ring) else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
                for ring, box in zip(single_outlines(found.masks), inside, strict=True)
            ]
            rows = [(ring / [width, height]).reshape(-1).tolist() for ring in rings]
        lines = [
            " ".join([str(c), *(f"{v:.6f}" for v in row)])
            for c, row in zip(found.class_ids.tolist(), rows, strict=True)
        ]
        name = self._names.of_frame(item)
        if item.frame is None and name != short_enough(item.name.with_suffix("")):
            log.warning("the labels of %s are in %s.txt: another image has that name", item.source, name)
        path = self._folder / name.with_name(f"{name.name}.txt")
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        self._files += 1

    def keep(self) -> str:
        return f"{self._folder} ({count(self._files, 'file')})"
