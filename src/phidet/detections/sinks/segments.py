"""Masks as PNG: instances by their number, classes, and panoptic segments as COCO has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.files import write_atomic
from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.segments import label_map, things_of
from phidet.detections.sinks.annotated import write_image
from phidet.detections.sinks.base import FileSink, FolderSink, Names, coco_image, readable
from phidet.images.label_image import PALETTE
from phidet.images.sources import SourceImage


class InstanceSink(FolderSink):
    """``instances/NAME.png``: the number of the object at each pixel, 1 for the best one, 0 where there is none.

    8 bits, 16 from 256 objects on. Where masks overlap, the better object is on top; an object without a mask is
    nowhere.
    """

    what = "image"

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        masks = found.masks if found.masks is not None else Masks.empty((height, width))
        ids = masks.to_ids(dtype=np.uint8 if len(masks) < 256 else np.uint16)
        write_image(self._folder, self._names.png_of_frame(item), Image.fromarray(np.ascontiguousarray(ids)))
        self._files += 1


class SemanticSink(FolderSink):
    """``semantic/NAME.png``: the class at each pixel, its id + 1, 0 where there is none; ``semantic/classes.txt``.

    8 bits with VOC's palette, 16 bits where there are more than 255 classes.
    """

    what = "image"

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder)
        self._class_names = class_names

    def add(self, item: SourceImage, found: Detections) -> None:
        if found.image_size_hw is None:
            found = replace(found, image_size_hw=item.image.shape[:2])
        small = len(self._class_names) < 256
        values = (label_map(found) + 1).astype(np.uint8 if small else np.uint16)
        image = Image.fromarray(np.ascontiguousarray(values))
        if small:
            image.putpalette(PALETTE)
        write_image(self._folder, self._names.png_of_frame(item), image)
        self._files += 1

    def keep(self) -> str:
        if self._files:
            lines = "".join(f"{readable(name)}\n" for name in self._class_names)
            write_atomic(self._folder / "classes.txt", lines.encode())
        return super().keep()


class PanopticSink(FileSink):
    """COCO's panoptic format: ``panoptic/NAME.png`` and ``panoptic.json``, which says what each segment is.

    A pixel's colour is its segment's id, R + 256 G + 256² B; 0 belongs to none. Segments do not overlap: of a network
    that finds objects only, the better one keeps the common pixels. Ids of images count from 1.
    """

    def __init__(self, out: Path, class_names: Sequence[str]) -> None:
        super().__init__(out / "panoptic.json")
        self._folder, self._names, self._class_names = out / "panoptic", Names(), class_names
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._stuff: set[int] = set()

    def add(self, item: SourceImage, found: Detections) -> None:
        image_id, file = len(self._images) + 1, self._names.png_of_frame(item)
        # Unique, as the PNG is: a second a.jpg is a-2.jpg, and a frame has the name of its PNG.
        shown = file.with_suffix(item.name.suffix) if item.frame is None else file
        whole = found if found.segments is None else found.segments
        ids = np.zeros(item.size_hw, np.int32) if whole.masks is None else whole.masks.to_ids()
        write_image(self._folder, file, Image.fromarray(id_colours(ids)))
        self._stuff |= set(whole.class_ids[~things_of(whole)].tolist())
        self._images.append(coco_image(item, image_id, shown))
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": readable(str(file)),
                "segments_info": segments_info(ids, whole.class_ids),
            }
        )

    def keep(self) -> str:
        categories = [
            {"id": c + 1, "name": name, "isthing": int(c not in self._stuff)}
            for c, name in enumerate(self._class_names)
        ]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        self._file.write(msgspec.json.encode(content))
        self._file.keep()
        return f"{self._file.path}, {self._folder} ({count(len(self._images), 'image')})"


def id_colours(ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """(H, W) ids below 2²⁴ as COCO's panoptic colours, (H, W, 3) uint8."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def segments_info(ids: npt.NDArray[np.int32], class_ids: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """COCO's ``segments_info`` of segments 1…N of an image, those that have a pixel; categories count from 1."""
    seen = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=len(class_ids) + 1)[1:]) + 1
    masks = Masks.from_ids(ids, seen)
    return [
        {
            "id": segment,
            "category_id": int(class_ids[segment - 1]) + 1,
            "iscrowd": 0,
            "bbox": [int(x1), int(y1), int(x2 - x1), int(y2 - y1)],
            "area": area,
        }
        for segment, (x1, y1, x2, y2), area in zip(
            seen.tolist(), masks.boxes_xyxy.tolist(), masks.areas.tolist(), strict=True
        )
    ]
