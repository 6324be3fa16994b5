"""What every sink is, and the names of what sinks write."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Protocol

from phidet.detections.detections import Detections
from phidet.images.sources import Picture, Unusable

_LONGEST = 220  # bytes of a name; numbers and endings are added


class Sink(Protocol):
    """Takes one picture after the other; what it writes counts once it is kept. Raises PhidetError if it cannot."""

    def add(self, picture: Picture, found: Detections) -> None:
        """One picture, or the next frame of a video."""

    def skip(self, unusable: Unusable) -> None:
        """What could not be looked at."""

    def keep(self) -> str:
        """Ends; says what was written, empty for nothing."""

    def discard(self) -> None:
        """Ends, and leaves no half-written file behind."""


class Names:
    """A name for each picture and each video that no other of this run has, whatever the case of its letters.

    Of a second ``a.jpg``, from another folder, what is made is called ``a-2.jpg``.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._name = PurePosixPath()
        self._previous: Picture | None = None

    def of(self, picture: Picture, wanted: PurePosixPath) -> PurePosixPath:
        """``wanted`` or one like it; the frames of a video, which come one after the other, get the same one."""
        goes_on, self._previous = picture.continues(self._previous), picture
        if goes_on:
            return self._name
        wanted = short_enough(wanted)
        name, number = wanted, 1
        while str(name).casefold() in self._taken:
            number += 1
            name = wanted.with_stem(f"{wanted.stem}-{number}")
        self._taken.add(str(name).casefold())
        self._name = name
        return name

    def of_frame(self, picture: Picture) -> PurePosixPath:
        """A name without ending, of a picture or of one frame: ``a``, or ``clip-000012``."""
        name = self.of(picture, picture.name.with_suffix(""))
        return name if picture.frame is None else name.with_name(f"{name.name}-{picture.frame:06d}")


def short_enough(name: PurePosixPath) -> PurePosixPath:
    """``name``, its stem cut where what is added to it would make it longer than a file's name may be, 255 bytes."""
    most = _LONGEST - len(name.suffix.encode("utf-8", "surrogatepass"))
    stem = name.stem.encode("utf-8", "surrogatepass")
    return name if len(stem) <= most else name.with_stem(stem[:most].decode("utf-8", "ignore"))


def readable(text: str) -> str:
    """``text`` on one line and without what a terminal would obey or an encoder refuse."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def count(number: int, what: str) -> str:
    """``1 picture``, ``2,000 pictures``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
