"""A small whole file of every format that Pillow knows, those among them that it reads and does not write."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
Image.init()
HAS_AVIF = "AVIF" in Image.SAVE
"""Since Pillow 11.3."""
DECODED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", *(("AVIF",) if HAS_AVIF else ()))
"""Pillow's names of the formats that phidet decodes; HEIC is none of Pillow's own."""
_WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {  # mode and settings of those that Pillow writes
    "AVIF": ("RGB", {}),
    "BLP": ("P", {}),
    "BMP": ("RGB", {}),
    "DDS": ("RGB", {}),
    "DIB": ("RGB", {}),
    "EPS": ("RGB", {}),
    "GIF": ("P", {}),
    "ICNS": ("RGB", {}),
    "ICO": ("RGB", {}),
    "IM": ("RGB", {}),
    "JPEG": ("RGB", {}),
    "JPEG2000": ("RGB", {}),
    "MSP": ("1", {}),
    "PCX": ("RGB", {}),
    "PNG": ("RGB", {}),
    "PPM": ("RGB", {}),
    "SGI": ("RGB", {}),
    "SPIDER": ("F", {}),
    "TGA": ("RGB", {}),
    "TIFF": ("RGB", {}),
    "WEBP": ("RGB", {}),
    "XBM": ("1", {}),
}


def pillow_files() -> dict[str, bytes]:
    """A whole file by Pillow's name of its format; what some versions of Pillow lack is left out."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    files = {
        name: _written(Image.fromarray(pixels).convert(mode), name, settings)
        for name, (mode, settings) in _WRITTEN.items()
        if name in Image.SAVE
    }
    return {**files, **_only_read(pixels[..., 0].tobytes(), files["PCX"], files["BMP"])}


def _written(image: Image.Image, name: str, settings: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of formats that Pillow will drop
        image.save(content, name, **settings)
    return content.getvalue()


def _only_read(grey: bytes, pcx: bytes, bmp: bytes) -> dict[str, bytes]:
    """By their specifications, as Pillow's readers take them; ``grey`` are the pixels."""
    area = [0] * 64  # McIDAS: directory of 64 words, of which Pillow counts from 1
    area[1], area[8], area[9], area[10], area[13], area[33] = 4, SIDE, SIDE, 1, 1, 256
    pcd = bytearray(2048 + 96 * 2048)
    pcd[2048:2052] = b"PCD_"
    pixar = bytearray(1024)
    pixar[:4], pixar[416:420], pixar[424:428] = b"\x80\xe8\0\0", struct.pack("<HH", SIDE, SIDE), b"\x0e\0\2\0"
    fli = bytearray(128)
    struct.pack_into("<IHHHHHH", fli, 0, 128 + 16 + 16 * SIDE, 0xAF11, 1, SIDE, SIDE, 8, 3)
    channel = struct.pack(">HHIIHH", 1, SIDE, SIDE, 8, 1, 0)[2:]
    cards = ("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2",
             f"NAXIS1  = {SIDE:20}", f"NAXIS2  = {SIDE:20}", "END")  # fmt: skip
    rgb332 = b"P7 332\n#end\n" + b"%d %d 255\n" % (SIDE, SIDE)
    xpm = (
        f'/* XPM */\nstatic char *a[] = {{\n"{SIDE} {SIDE} 1 1",\n"a c #123456",\n'
        + f'"{"a" * SIDE}",\n' * SIDE
        + "};\n"
    )
    fields = ((3, 60, b"\1\0"), (3, 20, bytes([SIDE])), (3, 30, bytes([SIDE])), (3, 120, b"\1"))
    iptc = b"".join(struct.pack(">BBBH", 0x1C, *tag, len(value)) + value for *tag, value in fields)
    qoi = b"".join(b"\xfe" + bytes((value, value, value)) for value in grey)
    emf = struct.pack("<II4i4i", 1, 88, 0, 0, SIDE, SIDE, 0, 0, 400, 400) + b" EMF" + bytes(44)
    return {
        "BUFR": b"BUFR" + bytes(60),
        "CUR": struct.pack("<HHHBBBBHHII", 0, 2, 1, SIDE, SIDE, 0, 0, 0, 0, len(bmp) - 14, 22) + bmp[14:],
        "DCX": struct.pack("<III", 0x3ADE68B1, 12, 0) + pcx,
        "FITS": "".join(card.ljust(80) for card in cards).ljust(2880).encode() + grey.ljust(2880, b"\0"),
        "FLI": bytes(fli) + struct.pack("<IHH8x", 16 + 6, 0xF1FA, 1) + struct.pack("<IH", 6, 13),
        "FTEX": b"FTEX" + struct.pack("<9i", 1, SIDE, SIDE, 1, 1, 1, 36, 3 * SIDE * SIDE, 0) + 3 * grey,
        "GBR": struct.pack(">5I4sI", 29, 2, SIDE, SIDE, 1, b"GIMP", 10) + b"\0" + grey,
        "GRIB": b"GRIB" + bytes(3) + b"\1" + bytes(60),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
        "IMT": b"* a\nwidth %d\nheight %d\n\x0c" % (SIDE, SIDE) + grey,
        "IPTC": iptc + struct.pack(">BBBH", 0x1C, 8, 10, len(grey)) + grey,
        "MCIDAS": struct.pack(">64i", *area) + grey,
        "MPEG": b"\0\0\1\xb3\1\0\x10" + bytes(60),
        "PCD": bytes(pcd),
        "PIXAR": bytes(pixar) + 3 * grey,
        "PSD": b"8BPS\0\1" + bytes(6) + b"\0\1" + channel[2:10] + b"\0\x08\0\1" + bytes(12) + b"\0\0" + grey,
        "QOI": struct.pack(">4sIIBB", b"qoif", SIDE, SIDE, 3, 0) + qoi + bytes(7) + b"\1",
        "SUN": struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 8, len(grey), 1, 0, 0) + grey,
        "WMF": emf,
        "XPM": xpm.encode(),
        "XVTHUMB": rgb332 + grey,
    }
