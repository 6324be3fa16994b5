"""Text files of any origin: every label, list and class file is read here, with one handling of encodings."""

from __future__ import annotations

import codecs
import mmap
import re
from pathlib import Path

from phidet.core.errors import InputError

# UTF-32's little-endian mark begins with UTF-16's, so it is tried first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFFED = 1024  # bytes
_LONGEST_SHOWN = 60  # characters of a line in a message


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, without its byte order mark.

    Raises:
        InputError: the file cannot be read, or is in another encoding; the message names the place and a remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_text(content, path)


def read_lines(path: Path) -> list[str]:
    """The lines of :func:`read_text` that are not blank, without the spaces around them."""
    return [stripped for line in read_text(path).splitlines() if (stripped := line.strip())]


def contains(path: Path, *patterns: re.Pattern[bytes]) -> bool:
    """Whether all patterns occur in a file, which may be large; ``False`` for one that cannot be read."""
    try:
        # Searched in the mapped file instead of parsed: COCO's own JSON has hundreds of megabytes.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(pattern.search(content) for pattern in patterns)
    except (OSError, ValueError):  # the latter: an empty file
        return False


def decode_text(content: bytes, path: Path) -> str:
    """:func:`read_text` of a file whose content is at hand; ``path`` is for messages."""
    encoding = unicode_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(_not_unicode(content, encoding, error.start, path)) from error


def unicode_encoding(content: bytes) -> str:
    """Python's name of the Unicode encoding that the beginning of a file points to; UTF-8 unless it points to another.

    A byte order mark decides. Without one, text that is mostly ASCII has a zero in every second byte as UTF-16.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    head = content[:_SNIFFED]
    if b"\0" in head:  # never in UTF-8 text: the cheap test for the many small files of a data set
        even, odd = head[::2], head[1::2]
        if odd.count(0) > 0.9 * len(odd) and 0 not in even:
            return "utf-16-le"
        if even.count(0) > 0.9 * len(even) and 0 not in odd:
            return "utf-16-be"
    return "utf-8"


def _not_unicode(content: bytes, encoding: str, position: int, path: Path) -> str:
    """The message for a file that cannot be decoded at byte ``position``."""
    if encoding not in ("utf-8", "utf-8-sig"):
        name = encoding[:6].upper()
        return f"{path} begins like {name}, but is not {name} at byte {position}: save it as UTF-8"
    before = content[:position]
    line_number = before.count(b"\n") + 1
    line = content[before.rfind(b"\n") + 1 :].split(b"\n", 1)[0].strip()
    if b"\0" in line or b"\0" in content[:_SNIFFED]:
        return f"{path} is not text (byte 0x{content[position]:02X} at {position}): expected UTF-8"
    shown = line.decode("cp1252", "replace")[:_LONGEST_SHOWN]
    # Which of the many 8-bit encodings it is cannot be known; the text in the most usual one shows whether that fits.
    return (
        f"{path} is not UTF-8: byte 0x{content[position]:02X} in line {line_number}, which as Windows-1252 "
        f"(Latin-1) reads {shown!r}. Save the file in the encoding UTF-8"
    )
