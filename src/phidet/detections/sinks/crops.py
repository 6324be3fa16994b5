"""Each object as an image of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from phidet.core.files import write_atomic
from phidet.core.words import count
from phidet.detections.boxes import clip
from phidet.detections.detections import Detections
from phidet.detections.sinks.annotated import check_ours, encode, writable_name
from phidet.detections.sinks.base import Names
from phidet.images.sources import SourceImage, Unusable


class CropSink:
    """``crops/CLASS/NAME-1.jpg``, …: all pixels that the box touches, numbered by descending score.

    An object with a mask becomes a PNG of its mask's box, transparent around the object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._names, self._files = folder, Names(), 0

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
            check_ours(self._folder / folder / file)
            write_atomic(self._folder / folder / file, encode(crop, file))
            self._files += 1

    def skip(self, unusable: Unusable) -> None:
        """Writes nothing: there are no objects."""

    def keep(self) -> str:
        return f"{self._folder} ({count(self._files, 'crop')})" if self._files else ""

    def discard(self) -> None:
        """Nothing to do: finished crops stay."""
