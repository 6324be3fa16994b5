"""Detection on a stream of images: in batches, in order, continuing after images that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.sources import Picture, Unusable
from phidet.inference.tiles import detect_tiled


def detect_stream(
    detector: SupportsDetect,
    items: Iterable[Picture | Unusable],
    settings: PostprocessSettings,
    batch: int = 1,
    tile: int | None = None,
) -> Iterator[tuple[Picture, Detections] | Unusable]:
    """Each image with its detections, each unusable item unchanged, in their order.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        items: from :func:`~phidet.images.sources.pictures`.
        settings: thresholds and suppression.
        batch: number of images, or tiles of one image, that go through the network at once.
        tile: side of tiles in pixels, for sliced inference; ``None`` to detect on whole images.
    """
    waiting: list[Picture] = []
    for item in items:
        if isinstance(item, Picture) and tile is None:
            waiting.append(item)
            if len(waiting) < batch:
                continue
            yield from _detect(detector, waiting, settings)
            waiting = []
            continue
        yield from _detect(detector, waiting, settings)
        waiting = []
        if isinstance(item, Unusable):
            yield item
        elif tile is not None:
            yield _tiled(detector, item, tile, settings, batch)
    yield from _detect(detector, waiting, settings)


def _detect(
    detector: SupportsDetect, waiting: list[Picture], settings: PostprocessSettings
) -> Iterator[tuple[Picture, Detections] | Unusable]:
    if not waiting:
        return
    try:
        yield from zip(waiting, detector.detect([p.image for p in waiting], settings), strict=True)
    except InputError as error:
        if len(waiting) == 1:
            yield Unusable(waiting[0].source, error)
            return
        for picture in waiting:  # find the unusable image of the batch: run them one by one
            yield from _detect(detector, [picture], settings)


def _tiled(
    detector: SupportsDetect, picture: Picture, tile: int, settings: PostprocessSettings, batch: int
) -> tuple[Picture, Detections] | Unusable:
    try:
        return picture, detect_tiled(detector, picture.image, tile, settings, batch)
    except InputError as error:
        return Unusable(picture.source, error)
