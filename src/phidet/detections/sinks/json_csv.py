"""A line for each image (JSON lines) or for each object (CSV)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.detections.sinks.base import FileSink, readable
from phidet.images.sources import SourceImage, Unusable

COLUMNS = (
    *("source", "frame", "time_s", "class_id", "label", "score", "x1", "y1", "x2", "y2"),
    *("image_width", "image_height"),
)


def json_line(item: SourceImage, found: Detections) -> bytes:
    """``source``, ``frame`` and ``time_s`` (null for a still image), and the keys of DetectionsJson."""
    head: dict[str, Any] = {
        "source": readable(item.source),
        "frame": item.frame,
        # Microseconds: far below the interval of two frames, and free of rounding errors of the division.
        "time_s": None if item.time_s is None else round(item.time_s, 6),
    }
    return msgspec.json.encode(head | dict(found.to_dict())) + b"\n"


def error_line(unusable: Unusable) -> bytes:
    """``source`` and ``error`` of an image that could not be read."""
    return msgspec.json.encode({"source": readable(unusable.source), "error": readable(str(unusable.error))}) + b"\n"


class JsonSink(FileSink):
    """JSON lines: one document for each image or frame, also for those that could not be read."""

    def add(self, item: SourceImage, found: Detections) -> None:
        self._file.write(json_line(item, found))

    def skip(self, unusable: Unusable) -> None:
        self._file.write(error_line(unusable))

    def keep(self) -> str:
        self._file.keep()
        return str(self._file.path)


class CsvSink(FileSink):
    """CSV (RFC 4180) with a header: one line for each object; boxes in pixels of the original image."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._objects = 0
        self._write_rows([COLUMNS])

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        where = (readable(item.source), *("" if v is None else v for v in (item.frame, item.time_s)))
        plain = found.to_dict()["detections"]
        self._write_rows((*where, d["class_id"], d["label"], d["score"], *d["box_xyxy"], width, height) for d in plain)
        self._objects += len(found)

    def keep(self) -> str:
        self._file.keep()
        return f"{self._file.path} ({count(self._objects, 'object')})"
