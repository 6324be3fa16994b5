"""Finds duplicate images: the same file, bytes, pixels, or nearly the same image.

Near copies are sought by a 64-bit difference hash: two within 5 bits agree wholly in at least one of six parts of it,
so only images that share a part are compared, and what the hash finds is verified on thumbnails. An image and the
mirror image of another are compared in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phidet.core.numbers import equal_pairs
from phidet.data.doctor.decoding import ImageCheck

MOST_BITS = 5
_PARTS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits): MOST_BITS + 1 of them
_WINDOW = 512  # of very many images that share a part, each is compared with those nearest in brightness
_PLAIN = 6.0  # standard deviation of grey levels; below it an image has too little structure to be recognised
_MEAN_DIFFERENCE, _LARGEST_DIFFERENCE = 4.0, 32.0  # grey levels, of thumbnails
_ASPECT = 0.02  # of width over height, relative


def same_groups(checks: Sequence[ImageCheck]) -> list[list[int]]:
    """Groups of two or more with the same pixels, or, where these were not decoded, the same bytes."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for i, check in enumerate(checks):
        if check.pixels or (check.content and check.fault is None):  # two broken files are not one image
            found[check.pixels or check.content].append(i)
    return [group for group in found.values() if len(group) > 1]


def near_groups(checks: Sequence[ImageCheck], sizes_hw: npt.NDArray[np.int32]) -> list[list[int]]:
    """Groups of two or more near copies, whose pixels differ.

    Args:
        checks: of distinct images.
        sizes_hw: (N, 2) of the images; copies keep their aspect.
    """
    thumbnails = np.stack([check.thumbnail for check in checks]) if checks else np.zeros((0, 1, 1, 3), np.uint8)
    grey = thumbnails.mean(axis=3)
    # Of plain images, such as empty walls, any two look the same.
    comparable = np.array([bool(check.pixels) for check in checks], bool) & (grey.std(axis=(1, 2)) >= _PLAIN)
    indices = np.flatnonzero(comparable)
    # Behind the images come their mirror images, which are compared with the images, not with each other.
    count = len(indices)
    hashes = np.array([getattr(checks[i], key) for key in ("dhash", "mirrored") for i in indices.tolist()], np.uint64)
    brightness = np.tile(grey[indices].mean(axis=(1, 2)), 2)
    # Copies are resized, not squeezed; logarithms, so that it does not matter which of two is the copy.
    log_aspects = np.tile(np.log(sizes_hw[indices, 1] / sizes_hw[indices, 0]), 2)
    thumbnails = np.concatenate([thumbnails[indices], thumbnails[indices][:, :, ::-1]])
    pairs: set[tuple[int, int]] = set()
    for a, b in _candidates(hashes, brightness):
        alike = (np.abs(log_aspects[a] - log_aspects[b]) <= _ASPECT) & (a < count) & (b != a + count)
        a, b = a[alike], b[alike]
        verified = _look_alike(thumbnails, a, b)
        a, b = indices[a[verified]], indices[b[verified] % count] if count else b
        pairs |= set(zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True))
    return _connected(pairs)


def hamming(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Hamming distance of each of ``a`` and the corresponding one of ``b``, in bits."""
    counts: npt.NDArray[np.int64] = np.unpackbits((a ^ b).view(np.uint8).reshape(-1, 8), axis=1).sum(1, np.int64)
    return counts


def _candidates(
    hashes: npt.NDArray[np.uint64], brightness: npt.NDArray[np.float64]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of indices within ``MOST_BITS`` of each other; a pair may come more than once."""
    found = []
    for start, bits in _PARTS:
        # Pigeonhole principle: of six parts, five differing bits leave at least one unchanged.
        part = (hashes >> np.uint64(start)) & np.uint64((1 << bits) - 1)
        # Equal parts become neighbours, and among them images of like brightness.
        order = np.lexsort((brightness, part))
        for first, second in equal_pairs(part[order], _WINDOW):
            a, b = order[first], order[second]
            close = hamming(hashes[a], hashes[b]) <= MOST_BITS
            found.append((np.minimum(a, b)[close], np.maximum(a, b)[close]))
    return found


def _look_alike(
    thumbnails: npt.NDArray[np.uint8], a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    verdicts = [np.zeros(0, bool)]
    # In portions, because the differences of all pairs could fill the memory.
    for start in range(0, len(a), 4096):
        part = slice(start, start + 4096)
        off = np.abs(thumbnails[a[part]].astype(np.int16) - thumbnails[b[part]]).reshape(len(a[part]), -1)
        verdicts.append((off.mean(axis=1) <= _MEAN_DIFFERENCE) & (off.max(axis=1) <= _LARGEST_DIFFERENCE))
    return np.concatenate(verdicts)


def _connected(pairs: set[tuple[int, int]]) -> list[list[int]]:
    """Connected components of the pairs, sorted."""
    parents: dict[int, int] = {}

    def root(i: int) -> int:
        while parents.setdefault(i, i) != i:
            # Union-find with path halving.
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for a, b in sorted(pairs):
        parents[root(b)] = root(a)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in sorted(parents):
        groups[root(i)].append(i)
    return sorted(groups.values())
