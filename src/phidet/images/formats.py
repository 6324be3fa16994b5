"""Identifies files by content: the image formats that are decoded, and the names of those that are not.

Nothing here decodes. The list of decoders is :data:`phidet.images.decode.DECODERS`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from phidet.core.words import count

HEAD_BYTES = 512  # length of the file's beginning that :func:`format_of` needs
_DESCRIBED_BYTES = 4096  # the same for :func:`describe`

Format = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF", "JPEG 2000", "PPM", "HEIC"]

_ENDINGS: dict[Format, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIC": (".heic", ".heif", ".hif"),
}
EXTENSIONS = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
"""Endings of files that a search for images takes, in lower case."""
FORMATS = f"{', '.join(list(_ENDINGS)[:-1])} or HEIC"
"""All formats that are decoded, for messages."""

_SIGNATURES: tuple[tuple[Format, tuple[bytes, ...]], ...] = (
    ("JPEG", (b"\xff\xd8\xff",)),
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("JPEG 2000", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
)
_PPM = re.compile(rb"P[1-6][\s#]")
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})  # of the versions of the BMP header
# Major and compatible brands of ISO base media files (ISO/IEC 23008-12, annex B; AV1 Image File Format, section 6).
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})


def format_of(head: bytes) -> Format | None:
    """The format of the file that begins with ``head``, at least :data:`HEAD_BYTES` of it; ``None`` for all others."""
    for name, beginnings in _SIGNATURES:
        if head.startswith(beginnings):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    # The two letters alone would match any text that begins with "BM", so the header's size is checked as well.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    return "PPM" if _PPM.match(head) else _format_by_brand(head)


def _format_by_brand(head: bytes) -> Format | None:
    """AVIF or HEIC by the brands of an ISO base media file, which many videos are as well."""
    if head[4:8] != b"ftyp":
        return None
    # A generic HEIF brand (mif1, …) only says "images inside"; the compatible brands then say which codec.
    major = head[8:12]
    box = head[: int.from_bytes(head[:4], "big")]
    compatible = {box[i : i + 4] for i in range(16, len(box) - 3, 4)}
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and compatible & _AVIF_BRANDS):
        return "AVIF"
    return "HEIC" if major in _HEIC_BRANDS | _HEIF_BRANDS else None


class _Other(NamedTuple):
    """A kind of file that is not decoded.

    Attributes:
        name: for counts: "PSD".
        description: for sentences: "a PSD (Photoshop) file".
        signatures: (offset, bytes) pairs, any of which identifies it.
        endings: file name endings by which a folder search counts it as left out; only for image formats.
    """

    name: str
    description: str
    signatures: tuple[tuple[int, bytes], ...] = ()
    endings: tuple[str, ...] = ()


_RAWS_THAT_ARE_TIFF = (".cr2", ".nef", ".nrw", ".arw", ".dng", ".pef", ".srw")
# Specific signatures come before general ones: a ZIP file may be an OpenRaster image, never the other way round.
_OTHERS = (
    _Other("EPS", "an EPS (PostScript) file", ((0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6")), (".eps", ".epsf", ".epsi")),
    _Other("PDF", "a PDF document", ((0, b"%PDF"),)),
    _Other("PSD", "a PSD (Photoshop) file", ((0, b"8BPS"),), (".psd", ".psb")),
    _Other("XCF", "an XCF (GIMP) file", ((0, b"gimp xcf"),), (".xcf",)),
    _Other("JPEG XL", "a JPEG XL image", ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n")), (".jxl",)),
    _Other("JPEG XR", "a JPEG XR image", ((0, b"II\xbc\x01"),), (".jxr", ".wdp", ".hdp")),
    _Other("BPG", "a BPG image", ((0, b"BPG\xfb"),), (".bpg",)),
    _Other("FLIF", "a FLIF image", ((0, b"FLIF"),), (".flif",)),
    _Other("QOI", "a QOI image", ((0, b"qoif"),), (".qoi",)),
    _Other("DDS", "a DDS texture", ((0, b"DDS "),), (".dds",)),
    _Other("KTX", "a KTX texture", ((0, b"\xabKTX "),), (".ktx", ".ktx2")),
    _Other("BLP", "a BLP texture", ((0, b"BLP1"), (0, b"BLP2")), (".blp",)),
    _Other("FTEX", "an FTEX texture", ((0, b"FTEX"),), (".ftc", ".ftu")),
    _Other("TGA", "a TGA (Targa) image", tuple((0, b"\0\0" + bytes((kind, 0, 0, 0, 0, 0))) for kind in (2, 3, 10, 11)),
           (".tga", ".icb", ".vda", ".vst")),
    _Other("ICO", "an ICO (Windows icon) file", ((0, b"\0\0\1\0"),), (".ico",)),
    _Other("CUR", "a CUR (Windows cursor) file", ((0, b"\0\0\2\0"),), (".cur",)),
    _Other("ICNS", "an ICNS (macOS icon) file", ((0, b"icns"),), (".icns",)),
    _Other("PCX", "a PCX image", ((0, b"\n\0\1"), (0, b"\n\2\1"), (0, b"\n\3\1"), (0, b"\n\5\1")), (".pcx",)),
    _Other("DCX", "a DCX file", ((0, b"\xb1\x68\xde\x3a"),), (".dcx",)),
    _Other("SGI", "an SGI image", ((0, b"\x01\xda"),), (".sgi",)),
    _Other("Sun raster", "a Sun raster image", ((0, b"\x59\xa6\x6a\x95"),), (".ras",)),
    _Other("XPM", "an XPM image", ((0, b"/* XPM */"), (0, b"! XPM2")), (".xpm",)),
    _Other("XBM", "an XBM image", (), (".xbm",)),
    _Other("PFM", "a PFM image (floating point)", ((0, b"PF\n"), (0, b"Pf\n"), (0, b"PF\r"), (0, b"Pf\r")), (".pfm",)),
    _Other("PAM", "a PAM image", ((0, b"P7\n"),), (".pam",)),
    _Other("XV thumbnail", "an XV thumbnail", ((0, b"P7 332"),)),
    _Other("FITS", "a FITS file", ((0, b"SIMPLE  ="),), (".fits",)),
    _Other("OpenEXR", "an OpenEXR image", ((0, b"\x76\x2f\x31\x01"),), (".exr",)),
    _Other("Radiance HDR", "a Radiance HDR image", ((0, b"#?RADIANCE"), (0, b"#?RGBE"))),
    _Other("DICOM", "a DICOM file", ((128, b"DICM"),), (".dcm", ".dicom")),
    _Other("HDF5", "an HDF5 file", ((0, b"\x89HDF\r\n\x1a\n"),)),
    _Other("GRIB", "a GRIB file", ((0, b"GRIB"),)),
    _Other("BUFR", "a BUFR file", ((0, b"BUFR"),)),
    _Other("McIDAS", "a McIDAS area file", ((0, b"\0\0\0\0\0\0\0\4"),)),
    _Other("FLI", "an FLI or FLC animation", ((4, b"\x11\xaf"), (4, b"\x12\xaf")), (".fli", ".flc")),
    _Other("GBR", "a GIMP brush", ((20, b"GIMP"),)),
    _Other("MSP", "an MSP (Windows Paint) image", ((0, b"DanM"), (0, b"LinS")), (".msp",)),
    _Other("PCD", "a Photo CD image", ((2048, b"PCD_"),)),
    _Other("PIXAR", "a PIXAR image", ((0, b"\x80\xe8\0\0"),), (".pxr",)),
    _Other("IM", "an IM (IFUNC) image", ((0, b"Image type:"),)),
    _Other("IPTC", "an IPTC record", ((0, b"\x1c\x01"), (0, b"\x1c\x02"), (0, b"\x1c\x03"))),
    _Other("SPIDER", "a SPIDER image", (), (".spider", ".spi")),
    _Other("WMF", "a WMF drawing", ((0, b"\xd7\xcd\xc6\x9a"), (0, b"\1\0\x09\0\0\3")), (".wmf",)),
    _Other("EMF", "an EMF drawing", ((40, b" EMF"),), (".emf",)),
    _Other("DjVu", "a DjVu document", ((0, b"AT&TFORM"),), (".djvu", ".djv")),
    _Other("SVG", "an SVG drawing", (), (".svg", ".svgz")),
    # Raw files that are TIFF files by their beginning are found where TIFF is decoded, and here by their endings.
    _Other("CR3", "a camera raw file (CR3)", ((4, b"ftypcrx "),), (".cr3",)),
    _Other("RAF", "a camera raw file (RAF)", ((0, b"FUJIFILMCCD-RAW"),), (".raf",)),
    _Other("ORF", "a camera raw file (ORF)", ((0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR")), (".orf",)),
    _Other("RW2", "a camera raw file (RW2)", ((0, b"IIU\0"),), (".rw2",)),
    _Other("X3F", "a camera raw file (X3F)", ((0, b"FOVb"),), (".x3f",)),
    *(_Other(e[1:].upper(), f"a camera raw file ({e[1:].upper()})", (), (e,)) for e in _RAWS_THAT_ARE_TIFF),
    _Other("MPEG video", "an MPEG video", ((0, b"\0\0\1\xb3"), (0, b"\0\0\1\xba"))),
    _Other("MP4 or MOV video", "an MP4 or MOV video", ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"))),
    _Other("AVI video", "an AVI video", ((8, b"AVI "),)),
    _Other("Matroska video", "a Matroska or WebM video", ((0, b"\x1a\x45\xdf\xa3"),)),
    _Other("gzip", "a gzip archive", ((0, b"\x1f\x8b"),)),
    _Other("ZIP", "a ZIP archive", ((0, b"PK\3\4"), (0, b"PK\5\6"))),
    _Other("AppleDouble", "a file of macOS beside the real one (AppleDouble)", ((0, b"\0\5\x16\7"),)),
    _Other("Git LFS pointer", "a pointer of Git LFS, for git lfs pull", ((0, b"version https://git-lfs"),)),
)  # fmt: skip
_NO_IMAGES = frozenset({".txt", ".xml", ".json", ".csv"})  # labels, of which a folder has as many as images
_BY_ENDING = {ending: other.name for other in _OTHERS for ending in other.endings}
OTHER_EXTENSIONS = frozenset(_BY_ENDING)
"""Endings of image formats that are not decoded, in lower case."""
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_XBM = re.compile(rb"\s*(/\*[^*]*\*/\s*)?#define\s+\w+_width\s")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


def describe(file: BinaryIO, ending: str = "") -> str | None:
    """The kind of a file in an unsupported format, as in "a PSD (Photoshop) file"; "" for an empty file, ``None`` if
    unknown.

    Args:
        file: the file, at any position.
        ending: of its name, for formats without a signature.
    """
    file.seek(0)
    head = file.read(_DESCRIBED_BYTES)
    if not head:
        return ""
    for other in _OTHERS:
        if any(head[at : at + len(content)] == content for at, content in other.signatures):
            return other.description
    if _XBM.match(head):
        return "an XBM image"
    # A saved error page or login page in place of a download is common in data sets.
    text = head.lstrip().lower()
    if text.startswith(_HTML):
        return "a web page (HTML)"
    if text.startswith(b"<"):
        return "an SVG drawing" if b"<svg" in text else "an XML text"
    # TGA has no signature at its beginning; version 2 has one at its end.
    file.seek(-min(len(_TGA_FOOTER), file.seek(0, 2)), 2)
    name = "TGA" if file.read() == _TGA_FOOTER else _BY_ENDING.get(ending.lower())
    return next((other.description for other in _OTHERS if other.name == name), None)


def other_image(path: Path) -> str | None:
    """The format, for counts, of an image file that a folder search leaves out; ``None`` for all other files.

    Its ending is that of an unsupported format, or its content is a supported image under another ending.
    """
    ending = path.suffix.lower()
    if ending in EXTENSIONS or ending in _NO_IMAGES:
        return None
    if ending in _BY_ENDING:
        return _BY_ENDING[ending]
    try:
        with path.open("rb") as file:
            found = format_of(file.read(HEAD_BYTES))
    except OSError:
        return None
    return found and f"{found} without an image's ending"


def count_left_out(names: Sequence[str]) -> str:
    """ "3 image files left out: 2 PSD, 1 CR2"; ``names`` are those of :func:`other_image`."""
    kinds = ", ".join(f"{number} {name}" for name, number in Counter(names).most_common())
    return f"{count(len(names), 'image file')} left out: {kinds}"
