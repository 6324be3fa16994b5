"""Detects truncated video files, from an interrupted download or copy, by the sizes that their containers declare."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MP4_FIRST = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV_TAGS = (8, 9, 18)  # audio, video, data


def is_cut_off(path: Path) -> bool:
    """Whether the file is shorter than its container declares.

    Supports MP4 and MOV, Matroska and WebM, AVI, ASF (WMV) and FLV; false for others, and where the container declares
    no size, as in a live recording.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        # By content, not by the name's ending: a file may be misnamed.
        head = file.read(16)
        if head[4:8] in _MP4_FIRST:
            return _mp4_end(file, size) > size
        if head.startswith(_EBML):
            return _matroska_end(file) > size
        if head.startswith(b"RIFF"):
            return _riff_end(file, size) > size
        if head == _ASF_HEADER:
            return _asf_end(file) > size
        return head.startswith(b"FLV") and not _ends_with_flv_tag(file, size)


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Where the last of the boxes ends (ISO/IEC 14496-12, 4.2)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4])
        if length == 1:  # a length of 64 bits follows
            length = int.from_bytes(header[8:16])
        if length < 8:  # 0: up to the end of the file; 1 to 7 are invalid
            break
        position += length
    return position


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends (RFC 8794, 6; RFC 9559, 5.1), 0 where its size is unknown."""
    # The file is an EBML header element followed by the segment, each as identifier, size, content.
    position = len(_EBML)
    for identifier in (_EBML, _SEGMENT):
        file.seek(position - len(identifier))
        if file.read(len(identifier)) != identifier:
            return 0
        field = file.read(8)
        # A size is a variable-length integer: the number of leading zero bits of its first byte gives its width, and
        # all value bits set mean "unknown".
        width = 9 - field[0].bit_length() if field and field[0] else 9
        value = int.from_bytes(field[:width]) & (1 << 7 * width) - 1
        if width > len(field) or value == (1 << 7 * width) - 1:
            return 0
        position += width + value + (len(_SEGMENT) if identifier == _EBML else 0)
    return position


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends; OpenDML files beyond 1 GB have several."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            break
        position += 8 + int.from_bytes(header[4:], "little")
    return position


def _asf_end(file: BinaryIO) -> int:
    """The size of the file by its properties (Advanced Systems Format, 3.2), 0 where it has none."""
    file.seek(0)
    header = file.read(2**16)
    position = 30  # of the first object in the header: identifier (16), length (8), …
    # The file properties are one of the header's objects, at no fixed place. At least 24 bytes are skipped each time,
    # so that a damaged length cannot loop for ever.
    while position + 48 <= len(header):
        if header[position : position + 16] == _ASF_FILE_PROPERTIES:
            return int.from_bytes(header[position + 40 : position + 48], "little")
        position += max(24, int.from_bytes(header[position + 16 : position + 24], "little"))
    return 0


def _ends_with_flv_tag(file: BinaryIO, size: int) -> bool:
    """Whether the last four bytes are the length of the tag before them, and that tag's own header agrees."""
    # FLV declares no total size, but each tag is followed by its length; a truncated file ends in the middle of a tag.
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4))
    if length < 11 or length + 4 > size:
        return False
    file.seek(size - 4 - length)
    tag = file.read(4)
    return tag[0] in _FLV_TAGS and int.from_bytes(tag[1:]) + 11 == length
