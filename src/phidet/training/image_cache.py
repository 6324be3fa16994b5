"""Decoded images that stay in memory from one epoch to the next."""

from __future__ import annotations

from collections.abc import Callable

from phidet.images.decode import Reduced

CACHE_BYTES = 512 * 2**20
"""For all processes together that load the images of a device: 500 images of 640 × 480, or 1,700 phones' photographs as
a network of 320 pixels sees them."""


class ImageCache:
    """The first images that fit ``limit`` bytes; nothing makes room for others.

    An epoch's order is random, so that an image that was thrown out would have been as likely to be wanted again as the
    one that took its place: throwing out costs, and gains nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._images: dict[int, Reduced] = {}

    def get(self, index: int, decode: Callable[[], Reduced]) -> Reduced:
        """Image ``index``, from memory or as ``decode`` makes it; its pixels are not to be written to."""
        kept = self._images.get(index)
        if kept is not None:
            return kept
        image = decode()
        if self.bytes + image.pixels.nbytes <= self.limit:
            self._images[index] = image
            self.bytes += image.pixels.nbytes
        return image
