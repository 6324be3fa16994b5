"""The interface of all sinks, and the names of the files that they write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from phidet.core.csv_files import csv_bytes
from phidet.core.files import AtomicFile
from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.images.sources import SourceImage, Unusable

_LONGEST = 220  # bytes of a name; numbers and endings are appended


class Sink(Protocol):
    """Receives one image after the other and writes an output; ``keep`` makes it final. Raises PhidetError."""

    def add(self, item: SourceImage, found: Detections) -> None:
        """Adds an image, or the next frame of a video."""

    def skip(self, unusable: Unusable) -> None:
        """Notes a source that could not be read."""

    def keep(self) -> str:
        """Finishes; returns a text that says what was written, "" for nothing."""

    def discard(self) -> None:
        """Aborts, and deletes unfinished files."""


class ObjectSink:
    """A base of sinks that write objects only: nothing of a source that could not be read."""

    def skip(self, unusable: Unusable) -> None:
        """Writes nothing."""

    def discard(self) -> None:
        """Nothing to undo: files that are finished stay."""


class FolderSink(ObjectSink):
    """A base of sinks that write files of their own into a folder; ``what`` they are, in messages."""

    what = "file"

    def __init__(self, folder: Path) -> None:
        self._folder, self._names, self._files = folder, Names(), 0

    def keep(self) -> str:
        return f"{self._folder} ({count(self._files, self.what)})" if self._files else ""


class FileSink(ObjectSink):
    """A base of sinks that write one file, which appears when all is in it."""

    def __init__(self, path: Path) -> None:
        self._file = AtomicFile(path)

    def discard(self) -> None:
        self._file.discard()

    def _write_rows(self, rows: Iterable[Iterable[object]]) -> None:
        self._file.write(csv_bytes(rows))


class Names:
    """Unique names for the outputs of one run, compared without case, as some file systems do.

    The output of a second ``a.jpg``, from another folder, is named ``a-2.jpg``.

    Attributes:
        reserved: folders and files of other outputs, in small letters, that no name may begin with.
    """

    def __init__(self) -> None:
        self.reserved: frozenset[str] = frozenset()
        self._taken: set[str] = set()
        self._name = PurePosixPath()
        self._previous: SourceImage | None = None

    def of(self, item: SourceImage, wanted: PurePosixPath) -> PurePosixPath:
        """``wanted``, or with a number appended if it is taken; consecutive frames of a video share one name."""
        goes_on, self._previous = item.continues(self._previous), item
        if goes_on:
            return self._name
        wanted = short_enough(wanted)
        if wanted.parts[0].casefold() in self.reserved:
            wanted = PurePosixPath(f"{wanted.parts[0]}-images", *wanted.parts[1:])
        name, number = wanted, 1
        while str(name).casefold() in self._taken:
            number += 1
            name = wanted.with_stem(f"{wanted.stem}-{number}")
        self._taken.add(str(name).casefold())
        self._name = name
        return name

    def of_frame(self, item: SourceImage) -> PurePosixPath:
        """A name without ending for an image or one frame: ``a``, or ``clip-000012``."""
        name = self.of(item, item.name.with_suffix(""))
        return name if item.frame is None else name.with_name(f"{name.name}-{item.frame:06d}")

    def png_of_frame(self, item: SourceImage) -> PurePosixPath:
        """The name of a PNG for an image or one frame."""
        name = self.of_frame(item)
        return name.with_name(f"{name.name}.png")


def coco_image(item: SourceImage, image_id: int | None, file_name: PurePosixPath) -> dict[str, Any]:
    """The entry of an image or frame in COCO's list of images, under the name that is unique in this run."""
    height, width = item.size_hw
    image: dict[str, Any] = {"id": image_id, "width": width, "height": height}
    image["file_name"] = readable(str(file_name))
    image["source"] = readable(item.source)
    return image if item.frame is None else image | {"frame": item.frame}


def short_enough(name: PurePosixPath) -> PurePosixPath:
    """``name``, its stem cut so that with additions it stays below 255 bytes, the limit of file systems."""
    # In bytes, as file systems count, and cut between characters of UTF-8.
    most = _LONGEST - len(name.suffix.encode("utf-8", "surrogatepass"))
    stem = name.stem.encode("utf-8", "surrogatepass")
    return name if len(stem) <= most else name.with_stem(stem[:most].decode("utf-8", "ignore"))


def readable(text: str) -> str:
    """``text`` on one line, without terminal control characters and characters that cannot be encoded."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
