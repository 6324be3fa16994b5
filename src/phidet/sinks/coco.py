"""COCO's results, and the JSON that says which image each number is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from phidet.files import AppearingFile
from phidet.results import Detections
from phidet.sinks.base import Names, readable
from phidet.sources import Picture, Unusable

log = logging.getLogger("phidet")


class CocoSink:
    """``coco-results.json``, as COCO's tools load it, and ``coco-images.json``, with images and categories.

    ``file_name`` is the name that the annotated picture would have, no other image's; ``source`` is what was looked at.
    An image's number is the one that its file is called by (COCO's 000000000139.jpg is 139), else, or if another image
    has it, the next free one from 1. Category numbers are class numbers + 1.
    """

    def __init__(self, out: Path, class_names: Sequence[str]) -> None:
        categories = [{"id": c, "name": name} for c, name in enumerate(class_names, start=1)]
        self._results = _List(out / "coco-results.json", b"[\n", b"\n]\n")
        try:
            head = b'{"categories": ' + msgspec.json.encode(categories) + b',\n"images": [\n'
            self._images = _List(out / "coco-images.json", head, b"\n]}\n")
        except BaseException:
            self._results.file.discard()
            raise
        self._names = Names()
        self._taken: set[int] = set()
        self._next = 1

    def add(self, picture: Picture, found: Detections) -> None:
        number = self._number(picture)
        height, width = picture.image.shape[:2]
        image: dict[str, Any] = {"id": number, "width": width, "height": height}
        image["file_name"] = readable(str(self._names.of(picture, picture.name)))
        image["source"] = readable(picture.source)
        if picture.frame is not None:
            image["frame"] = picture.frame
        self._images.append(image)
        for result in found.to_coco(number):
            self._results.append(result)

    def skip(self, unusable: Unusable) -> None:
        """Has no number: an image that nobody saw."""

    def keep(self) -> str:
        return f"{self._results.keep()}, {self._images.keep()}"

    def discard(self) -> None:
        self._results.file.discard()
        self._images.file.discard()

    def _number(self, picture: Picture) -> int:
        stem = picture.name.stem
        own = int(stem) if picture.frame is None and stem.isascii() and stem.isdigit() and len(stem) < 16 else 0
        number = own
        if own < 1 or own in self._taken:
            while self._next in self._taken:
                self._next += 1
            number = self._next
        if own >= 1 and own != number:  # evaluated against annotations of that number, it would count as wrong
            log.warning("%s is image %d of the COCO results: an image before it has %d", picture.name, number, own)
        self._taken.add(number)
        return number


class _List:
    """A JSON list in a file, one entry on a line."""

    def __init__(self, path: Path, head: bytes, foot: bytes) -> None:
        self.file = AppearingFile(path)
        self.file.write(head)
        self._foot = foot
        self._empty = True

    def append(self, entry: object) -> None:
        self.file.write((b"" if self._empty else b",\n") + msgspec.json.encode(entry))
        self._empty = False

    def keep(self) -> Path:
        self.file.write(self._foot)
        self.file.keep()
        return self.file.path
