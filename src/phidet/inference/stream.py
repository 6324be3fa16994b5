"""Detection on a stream of images: in batches, in order, continuing after images that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.ahead import read_ahead
from phidet.images.decode import Needed
from phidet.images.sources import SourceImage, Unusable


def needed_by(detector: SupportsDetect) -> Needed | None:
    """What ``detector`` needs of an image of some size; ``None`` where it does not say so, and takes whole images."""
    return getattr(detector, "needed_hw", None)


def detect_stream(
    detector: SupportsDetect,
    items: Iterable[SourceImage | Unusable],
    settings: PostprocessSettings,
    batch: int = 1,
    tile: int | None = None,
    at_once: int = 0,
) -> Iterator[tuple[SourceImage, Detections] | Unusable]:
    """Each image with its detections, each unusable item unchanged, in their order.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        items: from :func:`~phidet.images.sources.read_sources`.
        settings: thresholds and suppression.
        batch: number of images, or tiles of one image, that go through the network at once.
        tile: side of tiles in pixels, for sliced inference; ``None`` to detect on whole images.
        at_once: number of calls of the detector at a time, from threads of their own; meanwhile the next images are
            read, and the caller has the last answers. 0 detects when the caller asks for the next answer, as frames of
            a camera need it. As many images again wait at most, before and after.
    """
    # Tiles of one image fill the batches themselves.
    groups = _groups(items, 1 if tile is not None else batch)
    detect = partial(_detect, detector, settings=settings, batch=batch, tile=tile)
    if at_once == 0:
        for group in groups:
            yield from [group] if isinstance(group, Unusable) else detect(group)
        return
    # Submitted ahead in a thread, so that the next images are read while answers are waited for; their order stays.
    pool = ThreadPoolExecutor(at_once, "detect")
    try:
        submitted = (group if isinstance(group, Unusable) else pool.submit(detect, group) for group in groups)
        with closing(read_ahead(submitted, limit=at_once)) as answers:
            for answer in answers:
                yield from [answer] if isinstance(answer, Unusable) else answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


Answers = list[tuple[SourceImage, Detections] | Unusable]


def _groups(items: Iterable[SourceImage | Unusable], size: int) -> Iterator[list[SourceImage] | Unusable]:
    """Images in batches of ``size``; an unusable item by itself, after all images before it."""
    waiting: list[SourceImage] = []
    for item in items:
        if isinstance(item, SourceImage):
            waiting.append(item)
        if waiting and (len(waiting) == size or isinstance(item, Unusable)):
            yield waiting
            waiting = []
        if isinstance(item, Unusable):
            yield item
    if waiting:
        yield waiting


def _detect(
    detector: SupportsDetect, group: list[SourceImage], settings: PostprocessSettings, batch: int, tile: int | None
) -> Answers:
    try:
        if tile is not None:
            from phidet.inference.tiles import detect_tiled  # noqa: PLC0415 - whole images need none of it

            return [(item, detect_tiled(detector, item.image, tile, settings, batch)) for item in group]
        # Smaller ones are there only if the detector said that it takes them.
        seen = cast("list[npt.NDArray[np.uint8]]", [item.seen for item in group])
        return list(zip(group, detector.detect(seen, settings), strict=True))
    except InputError as error:
        if len(group) == 1:
            return [Unusable(group[0].source, error)]
        # Find the unusable image of the batch: run them one by one.
        return [answer for item in group for answer in _detect(detector, [item], settings, batch, tile)]
