"""Input sources (files, folders, patterns, addresses, videos, cameras, standard input) as one stream of images."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.addresses import LARGEST_BYTES, is_address, without_password
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.core.machine import usable_cores
from phidet.images.decode import Decoded, Needed, pixels_in_memory, read_image, read_reduced, size_of
from phidet.images.formats import EXTENSIONS, FORMATS, count_left_out, other_image
from phidet.images.source_kinds import (
    HOW_KNOWN,
    VIDEO_EXTENSIONS,
    is_live,
    is_stream,
    is_webcam,
    live_name,
    name_of_address,
)

if TYPE_CHECKING:
    from phidet.images.pyav import Colors
    from phidet.images.video import Frame

_READ = f"phidet reads {FORMATS}"
_WORKERS = min(8, max(2, usable_cores() // 2))  # threads that decode ahead: a network takes longer than an image
_AHEAD = _WORKERS + 1  # decoded images that wait at most, so that memory stays bounded


class SourceImage(NamedTuple):
    """One image, or one frame of a video.

    Attributes:
        source: where it came from, for messages and reports: a path, an address, ``-``, ``webcam:0``.
        name: relative path for outputs made from it, never out of the output folder; shared by a video's frames.
        seen: (H, W, 3) uint8 RGB, or as much of it as was needed.
        frame: number of the frame, from 0; ``None`` for a still image.
        time_s: of the frame, since the video's beginning.
        duration_s: how long the frame is shown, where that is known.
        colors: how the video codes them.
        again: decodes the whole image, where ``seen`` is smaller.
    """

    source: str
    name: PurePosixPath
    seen: Decoded
    frame: int | None = None
    time_s: float | None = None
    duration_s: float | None = None
    colors: Colors | None = None
    again: Callable[[], npt.NDArray[np.uint8]] | None = None

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """The whole image, (H, W, 3) uint8 RGB, decoded now if it was not; InputError where that fails meanwhile."""
        return pixels_in_memory(self.seen) if self.again is None else self.again()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the whole image."""
        return size_of(self.seen)

    def continues(self, previous: SourceImage | None) -> bool:
        """Whether it is a later frame of the same video as ``previous``, the image that came before it."""
        if self.frame is None or previous is None or previous.frame is None:
            return False
        return previous.source == self.source and previous.frame < self.frame


class Unusable(NamedTuple):
    """A source that could not be read, and why."""

    source: str
    error: PhidetError


class _Still(NamedTuple):
    source: str
    name: PurePosixPath
    read: Callable[[], Path | bytes]


class _Video(NamedTuple):
    source: str
    name: PurePosixPath
    frames: Callable[[], Iterator[Frame]]


_Entry = _Still | _Video | Unusable


def check_sources_outside(sources: Sequence[str], out: Path) -> None:
    """Raises ConfigError if a source lies in ``out``, where it could be overwritten.

    Raises:
        ConfigError: one does.
    """
    folder = out.resolve()
    for source in sources:
        if source == "-" or is_address(source) or is_webcam(source):
            continue
        found = [Path(source)] if os.path.lexists(source) else _matches(source)
        for path in found:
            # Both the link itself and its target are checked: writing through a link overwrites the target.
            places = (path.resolve(), path.parent.resolve() / path.name)
            if any(place.is_relative_to(folder) for place in places[: 1 if path.is_dir() else 2]):
                raise ConfigError(
                    f"{source} lies in the folder that is written to, {out}, where it could be overwritten: choose "
                    "another folder with --out"
                )


def is_one_image(source: str) -> bool:
    """Whether ``source`` is one still image, as far as its name tells."""
    if source == "-" or (is_address(source) and not is_stream(source)):
        return True
    path = Path(source)
    return not path.is_dir() and path.suffix.lower() not in VIDEO_EXTENSIONS and (path.exists() or not _matches(source))


def read_sources(
    sources: Sequence[str],
    leave_out: Path | None = None,
    note: Callable[[str], None] | None = None,
    open_live: Callable[[str], Iterator[Frame]] | None = None,
    needed: Needed | None = None,
) -> Iterator[SourceImage | Unusable]:
    """The images of all sources, in order; only a few are in memory at a time.

    Args:
        sources: an image or video file; a folder, searched recursively for both, in the order of names; a pattern
            (``**`` is any depth); an http, https or data address of an image; ``-``, one image on standard input;
            ``webcam`` or ``webcam:1``; the rtsp, rtmp, srt or udp address of a stream.
        leave_out: a folder that is not searched: the output folder.
        note: called with a sentence that counts the images of a folder or pattern that are left out.
        open_live: called with each camera and stream for its frames; where it is given, http and https addresses are
            streams or videos, too.
        needed: what of a still image of some size has to be decoded; ``None`` for all of it.

    Yields:
        Each image, or an :class:`Unusable` in the place of one that cannot be read.
    """
    pool = ThreadPoolExecutor(_WORKERS)
    waiting: deque[Future[SourceImage | Unusable]] = deque()
    try:
        # Still images are decoded ahead in threads, but yielded in order; anything else first waits for those before
        # it.
        for entry in (e for source in sources for e in _entries(source, leave_out, note or _ignore, open_live)):
            if isinstance(entry, _Still):
                waiting.append(pool.submit(_read, entry, needed))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
                continue
            while waiting:
                yield waiting.popleft().result()
            if isinstance(entry, _Video):
                yield from _frames(entry)
            else:
                yield entry
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(still: _Still, needed: Needed | None) -> SourceImage | Unusable:
    try:
        content = still.read()
        try:
            seen = read_reduced(content, needed)
            if seen.factor == 1:
                return SourceImage(still.source, still.name, seen.pixels)
            # Cached, since several outputs may want it.
            again = cache(partial(_whole, content, still.source, seen.size_hw))
            return SourceImage(still.source, still.name, seen, again=again)
        except InputError as error:
            if isinstance(content, bytes):
                # Bytes have no name of their own, so the message gets the source's.
                raise InputError(f"{still.source}: {error}") from error
            if not _is_source(content):
                raise InputError(f"{error}; {HOW_KNOWN}") from error
            raise
    except PhidetError as error:
        return Unusable(still.source, error)


def _whole(content: Path | bytes, source: str, size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    image = read_image(content)
    if image.shape[:2] != size_hw:
        raise InputError(f"{source} was {size_hw[1]}×{size_hw[0]} pixels and is another image now: detect again")
    return image


def _frames(video: _Video) -> Iterator[SourceImage | Unusable]:
    try:
        for frame in video.frames():
            yield SourceImage(video.source, video.name, *frame)
    except PhidetError as error:
        yield Unusable(video.source, error)


def _ignore(_: str) -> None:
    pass


def _entries(
    source: str,
    leave_out: Path | None,
    note: Callable[[str], None],
    open_live: Callable[[str], Iterator[Frame]] | None,
) -> Iterator[_Entry]:
    if source == "-":
        yield _Still("-", PurePosixPath("stdin.jpg"), _standard_input)
    elif open_live is not None and is_live(source):
        yield _Video(without_password(source), live_name(source), partial(open_live, source))
    elif is_stream(source) or is_webcam(source):
        yield _Video(without_password(source), live_name(source), partial(_filmed, source))
    elif is_address(source):
        yield _Still(without_password(source), name_of_address(source), partial(_fetch, source))
    else:
        try:
            yield from _local(source, leave_out, note)
        except OSError as error:
            yield Unusable(source, InputError(f"cannot read {source}: {error.strerror or error}"))


def _filmed(source: str | Path) -> Iterator[Frame]:
    """The frames of a stream, a camera or a video file."""
    from phidet.images import live, video  # noqa: PLC0415 - images need none of it

    if isinstance(source, Path):
        return video.video_frames(source)
    return video.webcam_frames(source) if is_webcam(source) else live.LiveSource(source).frames()


def _fetch(source: str) -> bytes:
    from phidet.images.remote import fetch_image  # noqa: PLC0415 - slow to import, and rarely needed

    return fetch_image(source)


def _local(source: str, leave_out: Path | None, note: Callable[[str], None]) -> Iterator[_Entry]:
    path = Path(source)
    if os.path.lexists(source):
        yield from _folder(path, leave_out, note) if path.is_dir() else [_file(path, PurePosixPath(path.name))]
        return
    matches = _matches(source)
    if not matches:
        yield Unusable(source, InputError(_nothing_at(source)))
    files = [p for p in matches if _is_source(p) and not p.is_dir()]  # ** names a folder and what is in it
    left_out = [name for p in matches if p.is_file() and not _is_source(p) and (name := other_image(p))]
    if matches and not files:
        what = f"{source} matches {len(matches)} files or folders, but no image or video that phidet reads"
        yield Unusable(source, InputError(what + _reason(left_out)))
    elif left_out:
        note(f"{source}: {count_left_out(left_out)}; {_READ}")
    for file in files:
        yield _file(file, PurePosixPath(file.name))


def _nothing_at(source: str) -> str:
    if glob.has_magic(source):
        return f"no file matches {source}"
    return f"{source} does not exist: expected an image, a video, a folder, a pattern or an address"


def _matches(source: str) -> list[Path]:
    """Paths that match a pattern, in the order of names; ``**`` is any depth; cyclic links are followed once."""
    if not glob.has_magic(source):
        return []
    # Matched part by part instead of with glob's recursive mode, which follows cyclic links until the path is too long.
    pattern = Path(source)
    places = [Path(pattern.anchor)]
    given = pattern.parts[1:] if pattern.anchor else pattern.parts
    parts = [part for i, part in enumerate(given) if part != "**" or given[i - 1 : i] != ("**",)]  # **/** is **
    for i, part in enumerate(parts, start=1):
        if part == "**":
            below = [found for place in places if place.is_dir() for found in _walk(place)]
            places = [path for here, files in below for path in (here, *(here / f for f in files if i == len(parts)))]
        elif glob.has_magic(part):
            places = [Path(m) for place in places for m in glob.glob(os.path.join(glob.escape(str(place)), part))]
        else:
            places = [place / part for place in places if os.path.lexists(place / part)]
    return sorted(dict.fromkeys(places))


def _walk(
    folder: Path, apart: Path | None = None, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Each folder from ``folder`` on with its files, in the order of names: no hidden ones, each folder once.

    Links are followed, except to a parent folder, to a folder already visited, or into ``apart``.
    """
    root = folder.resolve()
    seen = {root}
    for place, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        here, new = Path(place), []
        for name in sorted(name for name in folders if not name.startswith(".")):
            real = (here / name).resolve()
            back = root.is_relative_to(real)
            if real not in seen and not back and (apart is None or not real.is_relative_to(apart)):
                seen.add(real)
                new.append(name)
        # os.walk descends into what is left in this list, hence the assignment in place.
        folders[:] = new
        yield here, sorted(name for name in files if not name.startswith("."))


def _folder(folder: Path, leave_out: Path | None, note: Callable[[str], None]) -> Iterator[_Entry]:
    """Every image and video below ``folder``, except hidden ones and those in ``leave_out``."""
    empty = True
    failed: list[Unusable] = []
    left_out: list[str] = []
    apart = None if leave_out is None else leave_out.resolve()

    def fail(error: OSError) -> None:
        failed.append(Unusable(str(error.filename), InputError(f"cannot read {error.filename}: {error.strerror}")))

    for here, files in _walk(folder, apart, fail):
        for file in files:
            path = here / file
            if not _is_source(path):
                if path.is_file() and (name := other_image(path)):
                    left_out.append(name)
                continue
            empty = False
            if apart is not None and path.is_symlink() and path.resolve().is_relative_to(apart):
                yield Unusable(str(path), InputError(f"{path} leads into the folder that is written to"))
                continue
            yield _file(path, PurePosixPath(path.relative_to(folder).as_posix()))
        yield from failed
        empty &= not failed
        failed.clear()
    yield from failed
    if empty and not failed:
        what = f"{folder} holds no image or video that phidet reads"
        yield Unusable(str(folder), InputError(what + _reason(left_out)))
    elif left_out:
        note(f"{folder}: {count_left_out(left_out)}; {_READ}")


def _reason(left_out: Sequence[str]) -> str:
    return f": {count_left_out(left_out)}, expected {FORMATS}" if left_out else ""


def _is_source(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS | VIDEO_EXTENSIONS


def _file(path: Path, name: PurePosixPath) -> _Entry:
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return _Video(str(path), name, partial(_filmed, path))
    return _Still(str(path), name, partial(_of_file, path))


def _of_file(path: Path) -> Path | bytes:
    """The path itself for a regular file, the content for a pipe."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path
        if stat.S_ISFIFO(mode):
            with path.open("rb") as pipe:
                # One byte more than the limit tells "too large" from "just fits" without reading an endless pipe.
                return _all_of(pipe.read(LARGEST_BYTES + 1), str(path))
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {path}") from error  # a link to nothing
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    raise InputError(f"{path} is neither a file nor a folder")


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("expected an image on standard input, as in: cat photo.jpg | phidet detect -")
    return _all_of(sys.stdin.buffer.read(LARGEST_BYTES + 1), "standard input")


def _all_of(content: bytes, name: str) -> bytes:
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{name} is larger than {LARGEST_BYTES:,} bytes: write it to a file first")
    if not content:
        raise InputError(f"{name} is empty: expected an image")
    return content
