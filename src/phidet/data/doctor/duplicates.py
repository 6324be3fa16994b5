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

from phidet.data.doctor.decoding import Look

MOST_BITS = 5
_PARTS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits): MOST_BITS + 1 of them
_WINDOW = 512  # of very many images that share a part, each is compared with those nearest in brightness
_PLAIN = 6.0  # standard deviation of grey levels; below it an image has too little structure to be recognised
_MEAN_DIFFERENCE, _LARGEST_DIFFERENCE = 4.0, 32.0  # grey levels, of thumbnails
_ASPECT = 0.02  # of width over height, relative
_1, _2, _4, _56 = (np.uint64(shift) for shift in (1, 2, 4, 56))
_PAIRS, _FOURS, _BYTES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
_SUM = np.uint64(0x0101010101010101)


def same_groups(looks: Sequence[Look]) -> list[list[int]]:
    """Groups of two or more with the same pixels, or, where these were not decoded, the same bytes."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        if look.pixels or (look.content and look.fault is None):  # two broken files are not one image
            found[look.pixels or look.content].append(i)
    return [group for group in found.values() if len(group) > 1]


def near_groups(looks: Sequence[Look], sizes_hw: npt.NDArray[np.int32]) -> list[list[int]]:
    """Groups of two or more near copies, whose pixels differ.

    Args:
        looks: of distinct images.
        sizes_hw: (N, 2) of the images; copies keep their aspect.
    """
    thumbnails = np.stack([look.thumbnail for look in looks]) if looks else np.zeros((0, 1, 1, 3), np.uint8)
    grey = thumbnails.mean(axis=3)
    comparable = np.array([bool(look.pixels) for look in looks], bool) & (grey.std(axis=(1, 2)) >= _PLAIN)
    indices = np.flatnonzero(comparable)
    # Behind the images come their mirror images, which are compared with the images, not with each other.
    count = len(indices)
    hashes = np.array([getattr(looks[i], key) for key in ("dhash", "mirrored") for i in indices.tolist()], np.uint64)
    brightness = np.tile(grey[indices].mean(axis=(1, 2)), 2)
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
    x = a ^ b
    x = x - ((x >> _1) & _PAIRS)  # counts in pairs of bits, then in fours, then in bytes, then their sum
    x = (x & _FOURS) + ((x >> _2) & _FOURS)
    x = (x + (x >> _4)) & _BYTES
    counts: npt.NDArray[np.int64] = ((x * _SUM) >> _56).astype(np.int64)
    return counts


def _candidates(
    hashes: npt.NDArray[np.uint64], brightness: npt.NDArray[np.float64]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of indices within ``MOST_BITS`` of each other; a pair may come more than once."""
    found = []
    for first, bits in _PARTS:
        # Pigeonhole principle: of six parts, five differing bits leave at least one unchanged.
        part = (hashes >> np.uint64(first)) & np.uint64((1 << bits) - 1)
        # Equal parts become neighbours, so candidates are found by comparing with the next ones in the order.
        order = np.lexsort((brightness, part))
        part = part[order]
        live = np.arange(len(order))
        for shift in range(1, _WINDOW + 1):
            live = live[live < len(order) - shift]
            live = live[part[live] == part[live + shift]]
            if not live.size:
                break
            a, b = order[live], order[live + shift]
            close = hamming(hashes[a], hashes[b]) <= MOST_BITS
            if close.any():
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
