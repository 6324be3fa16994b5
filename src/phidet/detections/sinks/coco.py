"""COCO's results, and the JSON that maps image ids to files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec

from phidet.core.files import AtomicFile, raising_write_errors
from phidet.detections.detections import Detections
from phidet.detections.sinks.base import Names, ObjectSink, coco_image
from phidet.images.sources import SourceImage

log = logging.getLogger("phidet")


class CocoSink(ObjectSink):
    """``coco-results.json``, as COCO's tools load it, and ``coco-images.json``, with images and categories.

    ``file_name`` is the unique name of the annotated image; ``source`` is where the image came from. An image's id is
    the number in its file name (COCO's 000000000139.jpg is 139). All others, such as frames of videos, are written at
    the end with the ids still free, from 1 on; until then they are kept in an unnamed temporary file.
    """

    def __init__(self, out: Path, class_names: Sequence[str]) -> None:
        categories = [{"id": c, "name": name} for c, name in enumerate(class_names, start=1)]
        head = b'{"categories": ' + msgspec.json.encode(categories) + b',\n"images": [\n'
        with ExitStack() as begun:  # discards the files opened so far if the next one cannot be
            self._results = JsonList(out / "coco-results.json", b"[\n", b"\n]\n")
            begun.callback(self._results.file.discard)
            self._images = JsonList(out / "coco-images.json", head, b"\n]}\n")
            begun.callback(self._images.file.discard)
            with raising_write_errors(self._images.file.path):
                self._waiting = TemporaryFile(dir=out)  # noqa: SIM115 - deleted when closed
            begun.pop_all()
        self._names = Names()
        self._taken: set[int] = set()

    def add(self, item: SourceImage, found: Detections) -> None:
        own = _own_number(item)
        image = coco_image(item, own, self._names.of(item, item.name))
        if own is not None and own not in self._taken:
            self._taken.add(own)
            self._write(image, found.to_coco(own))
            return
        if own is not None:
            log.warning("%s is not image %d of the COCO results: an earlier image has that number", item.name, own)
        with raising_write_errors(self._results.file.path):
            self._waiting.write(msgspec.json.encode((image, found.to_coco(0))) + b"\n")

    def keep(self) -> str:
        # Only now are all numbers in file names known, so only now can free ones be given out.
        free = (number for number in count(1) if number not in self._taken)
        with raising_write_errors(self._results.file.path):
            self._waiting.seek(0)
        for line in self._waiting:
            image, results = msgspec.json.decode(line)
            image["id"] = next(free)
            self._write(image, [result | {"image_id": image["id"]} for result in results])
        self._waiting.close()
        return f"{self._results.keep()}, {self._images.keep()}"

    def discard(self) -> None:
        with suppress(OSError):  # closing flushes, which fails on a full disk
            self._waiting.close()
        self._results.file.discard()
        self._images.file.discard()

    def _write(self, image: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
        self._images.append(image)
        for result in results:
            self._results.append(result)


def _own_number(item: SourceImage) -> int | None:
    """The image's id by its file name, ``None`` without one."""
    stem = item.name.stem
    # Below 16 digits an id stays exact in a float64, which is what JSON readers in JavaScript use.
    number = int(stem) if item.frame is None and stem.isascii() and stem.isdigit() and len(stem) < 16 else 0
    return number if number > 0 else None


class JsonList:
    """A JSON list in a file, one entry on a line."""

    def __init__(self, path: Path, head: bytes, foot: bytes) -> None:
        self.file = AtomicFile(path)
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
