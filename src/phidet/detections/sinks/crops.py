"""Each object as an image of its own."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from phidet.detections.boxes import clip
from phidet.detections.detections import Detections
from phidet.detections.sinks.annotated import writable_name, write_image
from phidet.detections.sinks.base import FolderSink
from phidet.images.sources import SourceImage


class CropSink(FolderSink):
    """``crops/CLASS/NAME-1.jpg``, …: all pixels that the box touches, numbered by descending score.

    An object with a mask becomes a PNG of its mask's box, transparent around the object.
    """

    what = "crop"

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        name = self._names.of_frame(item)
        boxes = clip(found.boxes_xyxy, (height, width))
        crops = [None] * len(found) if found.masks is None else found.masks.crops()
        for number, (box, label, masked) in enumerate(zip(boxes, found.labels, crops, strict=True), start=1):
            (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int).tolist(), np.ceil(box[2:]).astype(int).tolist()
            mask = None
            if masked is not None and masked[1].any():
                (x1, y1, x2, y2), mask = masked
            if x2 <= x1 or y2 <= y1:
                continue
            # A class name may hold slashes or dots, which must not lead out of the folder.
            folder = re.sub(r"[^\w -]+", "_", label).strip() or "_"
            crop = Image.fromarray(item.image[y1:y2, x1:x2])
            if mask is not None:
                crop.putalpha(Image.fromarray(mask * np.uint8(255)))
            ending = "jpg" if mask is None else "png"
            file = writable_name(name.with_name(f"{name.name}-{number}.{ending}"), crop.size)
            write_image(self._folder / folder, file, crop)
            self._files += 1
