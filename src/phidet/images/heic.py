"""HEIC images, through pi-heif (an extra)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

_FULL_BOX_BYTES = 4  # version and flags, where a box has them


def open_heic(file: BinaryIO) -> Image.Image:
    """The image in ``file``, not yet decoded.

    Raises:
        ImportError: pi-heif is not installed.
        Exception: the file is damaged; pi-heif raises several types.
    """
    from pi_heif import HeifImageFile  # noqa: PLC0415  # an extra

    # Before pi-heif sees the file: it would crash the process, which no except clause catches.
    _check_items(file.read())
    file.seek(0)
    image: Image.Image = HeifImageFile(file)
    return image


def _check_items(content: bytes) -> None:
    """Raises UnicodeDecodeError where the type or name of an item is not UTF-8, on which pi-heif 1.4 crashes.

    Items are the images and the metadata of the file, as ISO/IEC 14496-12, 8.11.6, lists them: boxes ``infe`` in the
    box ``iinf`` of ``meta``.
    """
    for kind, begin, end in _boxes(content, 0, len(content)):
        if kind != b"meta":
            continue
        for inner, info, info_end in _boxes(content, begin + _FULL_BOX_BYTES, end):
            if inner != b"iinf":
                continue
            # Field widths depend on the version of the box, its first byte.
            count_bytes = 2 if content[info : info + 1] == b"\0" else 4
            for _, item, item_end in _boxes(content, info + _FULL_BOX_BYTES + count_bytes, info_end):
                id_bytes = 4 if content[item : item + 1] == b"\3" else 2
                content[item + _FULL_BOX_BYTES + id_bytes + 2 : item_end].decode()  # 2: protection index


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type of each box from ``at`` to ``end``, and where its content begins and ends."""
    while at + 8 <= end:
        # Size 1: a 64-bit size follows the type; size 0: the box extends to the end of its parent.
        size, head = int.from_bytes(content[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        stop = end if size == 0 else min(at + size, end)
        yield content[at + 4 : at + 8], at + head, stop
        at = max(stop, at + head)
