"""Detection on a stream of images: in batches, in order, continuing after images that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import Needed
from phidet.images.sources import SourceImage, Unusable
from phidet.inference.tiles import detect_tiled


def needed_by(detector: SupportsDetect) -> Needed | None:
    """What ``detector`` needs of an image of some size; ``None`` where it does not say so, and takes whole images."""
    return getattr(detector, "needed_hw", None)


def detect_stream(
    detector: SupportsDetect,
    items: Iterable[SourceImage | Unusable],
    settings: PostprocessSettings,
    batch: int = 1,
    tile: int | None = None,
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    """Each image with its detections, each unusable item unchanged, in their order.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        items: from :func:`~phidet.images.sources.read_sources`.
        settings: thresholds and suppression.
        batch: number of images, or tiles of one image, that go through the network at once.
        tile: side of tiles in pixels, for sliced inference; ``None`` to detect on whole images.
    """
    waiting: list[SourceImage] = []
    for item in items:
        if isinstance(item, SourceImage) and tile is None:
            waiting.append(item)
            # Whole images are collected until a batch is full; tiles of one image fill batches by themselves.
            if len(waiting) < batch:
                continue
            yield from _detect(detector, waiting, settings)
            waiting = []
            continue
        # An unusable item comes after the images before it, so those cannot wait any longer.
        yield from _detect(detector, waiting, settings)
        waiting = []
        if isinstance(item, Unusable):
            yield item
        elif tile is not None:
            yield _tiled(detector, item, tile, settings, batch)
    yield from _detect(detector, waiting, settings)


def _detect(
    detector: SupportsDetect, waiting: list[SourceImage], settings: PostprocessSettings
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    if not waiting:
        return
    # Smaller ones are there only if the detector said that it takes them.
    seen = cast("list[npt.NDArray[np.uint8]]", [p.seen for p in waiting])
    try:
        yield from zip(waiting, detector.detect(seen, settings), strict=True)
    except InputError as error:
        if len(waiting) == 1:
            yield Unusable(waiting[0].source, error)
            return
        for item in waiting:  # find the unusable image of the batch: run them one by one
            yield from _detect(detector, [item], settings)


def _tiled(
    detector: SupportsDetect, item: SourceImage, tile: int, settings: PostprocessSettings, batch: int
) -> tuple[SourceImage, Detections] | Unusable:
    try:
        return item, detect_tiled(detector, item.image, tile, settings, batch)
    except InputError as error:
        return Unusable(item.source, error)
