"""Tracking on a stream of images: one tracker for each video, detection on every frame or on every n-th one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath

import msgspec

from phidet.core.errors import InputError
from phidet.core.structs import require
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.detections.tracking.external import SupportsTrack
from phidet.detections.tracking.settings import TrackerSettings
from phidet.detections.tracking.tracker import Tracker
from phidet.images.sources import SourceImage, Unusable
from phidet.inference.tiles import detect_one

_USUAL_RATE = 30.0


class TrackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream is tracked.

    Attributes:
        tracker: thresholds and times.
        stride: every ``stride``-th frame is looked at, the others are left out.
        detect_every: of those, every n-th is detected on; between them, tracks go on where they are believed.
        tile: side of tiles in pixels, for sliced inference; ``None`` to detect on whole images.
    """

    tracker: TrackerSettings = TrackerSettings()
    stride: int = 1
    detect_every: int = 1
    tile: int | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "detect_every"):
            require(getattr(self, name) >= 1, f"{name} must be a whole number ≥ 1, got {getattr(self, name)!r}")


def track_stream(
    detector: SupportsDetect,
    items: Iterable[SourceImage | Unusable],
    postprocess: PostprocessSettings,
    settings: TrackSettings,
    make_tracker: Callable[[], SupportsTrack] | None = None,
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    """Each frame with its tracked objects (field ``track_id``), each unusable item unchanged, in their order.

    Each video has tracks of its own, whose ids begin at 1.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        items: from :func:`~phidet.images.sources.read_sources`; still images by :func:`as_video`.
        postprocess: thresholds and suppression; its score should be as low as the tracker's.
        settings: of the tracker, and which frames are looked at.
        make_tracker: makes another tracker for each video, such as an
            :class:`~phidet.detections.tracking.external.ExternalTracker`.
    """
    # Made once before any video, so that an extra that is missing is named at once.
    make_tracker = make_tracker or partial(Tracker, settings.tracker)
    tracker = make_tracker()
    previous: SourceImage | None = None
    looked_at, last_s = 0, 0.0
    for item in items:
        if isinstance(item, Unusable):
            yield item
            continue
        if item.frame is None:
            error = InputError(f"{item.source} is a still image: --fps N takes images for the frames of a video")
            yield Unusable(item.source, error)
            continue
        # Another video, or the same one from its beginning: nobody in it is known.
        if not item.continues(previous):
            tracker, looked_at, last_s = make_tracker(), 0, 0.0
        previous = item
        # By the frame's number, so that a frame that fails does not shift those after it.
        if item.frame % settings.stride:
            continue
        # Damaged videos and some cameras have times that jump back; tracks go on from the last one.
        last_s = max(last_s, item.frame / _USUAL_RATE if item.time_s is None else item.time_s)
        try:
            if looked_at % settings.detect_every:
                tracked = tracker.predict(last_s)
            else:
                found = detect_one(detector, item.image, settings.tile, postprocess, batch=1)
                tracked = tracker.update(found, last_s, item.image if settings.tracker.camera_motion else None)
        except InputError as error:
            yield Unusable(item.source, error)
            continue
        looked_at += 1
        yield item, tracked


def as_video(items: Iterable[SourceImage | Unusable], rate: float) -> Iterator[SourceImage | Unusable]:
    """Still images as the frames of one video for each folder, at ``rate`` frames a second; videos as they are."""
    folder, frame = "", 0
    for item in items:
        if isinstance(item, Unusable) or item.frame is not None:
            yield item
            continue
        # Images come folder by folder.
        if _folder(item.source) != folder:
            folder, frame = _folder(item.source), 0
        yield item._replace(
            source=folder, name=_video_name(item, folder), frame=frame, time_s=frame / rate, duration_s=1 / rate
        )
        frame += 1


def _video_name(item: SourceImage, folder: str) -> PurePosixPath:
    """As the folder is called; as the sequence, where it is MOTChallenge's ``SEQUENCE/img1``."""
    # Images given by their folder have names below it, and the folder itself is no part of them.
    place = item.name.parent if item.name.parent.name else PurePosixPath(folder)
    if place.name == "img1":
        whole = PurePosixPath(folder)
        place = place.parent if place.parent.name else whole.parent if whole.parent.name else place
    name = re.sub(r"[^\w.-]+", "_", place.name).strip(".") or "images"
    # Only what lies below the source keeps its folders.
    below = place.parent if place in (item.name.parent, item.name.parent.parent) else PurePosixPath()
    return below / f"{name}.mp4"


def _folder(source: str) -> str:
    return source.replace("\\", "/").rpartition("/")[0] or "."
