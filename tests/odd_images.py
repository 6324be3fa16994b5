"""Images that are damaged, or whole but unlike most: what people's folders hold."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from pillow_formats import HAS_AVIF

Fate = Literal["result", "error", "either"]


class Odd(NamedTuple):
    """A file's content, and what must become of it; ``either`` where damage may have met what decoders do not need."""

    name: str
    content: bytes
    fate: Fate
    size_hw: tuple[int, int] | None = None


def encoded(image: Image.Image, form: str, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **settings)
    return content.getvalue()


def photo(rng: np.random.Generator, height: int = 60, width: int = 90) -> Image.Image:
    """Smooth, so that all encoders have something to do."""
    small = rng.integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


FORMATS = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("bmp", "BMP"), ("gif", "GIF"), ("tif", "TIFF"),
           ("jp2", "JPEG2000"), ("ppm", "PPM"), *((("avif", "AVIF"),) if HAS_AVIF else ()))  # fmt: skip


def damaged(rng: np.random.Generator) -> Odd:
    """Cut off, with changed bytes, with bytes missing, or with others put in, anywhere."""
    ending, form = FORMATS[rng.integers(len(FORMATS))]
    settings = {"compression": "tiff_lzw"} if form == "TIFF" and rng.random() < 0.5 else {}
    content = bytearray(encoded(photo(rng), form, **settings))
    at = int(rng.integers(len(content)))
    match int(rng.integers(4)):
        case 0:
            return Odd(f"cut.{ending}", bytes(content[:at]), "either")
        case 1:
            for place in rng.integers(0, len(content), int(rng.integers(1, 40))):
                content[place] = int(rng.integers(256))
        case 2:
            del content[at : at + int(rng.integers(1, 200))]
        case _:
            content[at:at] = rng.bytes(int(rng.integers(1, 200)))
    return Odd(f"changed.{ending}", bytes(content), "either")


def not_images(rng: np.random.Generator) -> Iterator[Odd]:
    """Of no format that is read."""
    page = b"<!DOCTYPE html><html>404</html>"
    others = {"empty": b"", "page": page, "pdf": b"%PDF-1.7\n%", "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
              "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "zip": b"PK\3\4" + bytes(30), "noise": rng.bytes(2000),
              "zeros": bytes(5000), "utf16": "hello".encode("utf-16"), "exe": b"MZ" + rng.bytes(300),
              "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "dds": b"DDS " + bytes(124),
              "psd": b"8BPS\0\1" + bytes(30)}  # fmt: skip
    for name, content in others.items():
        yield Odd(f"{name}{('.jpg', '.png', '.webp', '.tif')[rng.integers(4)]}", content, "error")


def bombs() -> Iterator[Odd]:
    """Small files that promise or hold very many pixels."""
    yield Odd("promise.png", png(60_000, 60_000, zlib.compress(b"\0")), "error")
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(2501)) for _ in range(20_000)) + rows.flush()
    yield Odd("bomb.png", png(20_000, 20_000, packed, bits=1, kind=0), "error")  # 50 MB of zeros in 60 kB
    yield Odd("twice.png", png(12_000, 12_000, zlib.compress(b"\0")), "error")  # where Pillow only warns
    comment = b"Comment\0\0" + zlib.compress(bytes(100_000_000))
    yield Odd("text.png", png(8, 8, zlib.compress(bytes(8 * 25)), extra=chunk(b"zTXt", comment)), "result", (8, 8))
    gif = bytearray(encoded(Image.new("L", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield Odd("promise.gif", bytes(gif), "error")
    bmp = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    yield Odd("promise.bmp", bytes(bmp), "error")
    yield Odd("nothing.png", png(0, 5, zlib.compress(b"")), "error")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, packed: bytes, bits: int = 8, kind: int = 2, extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def whole_but_odd(rng: np.random.Generator) -> Iterator[Odd]:
    """Each must give a result, of the size that a viewer shows."""
    p = photo(rng)
    grey16 = Image.fromarray(rng.integers(0, 65_535, (60, 90), dtype=np.uint16))
    frames = [photo(rng) for _ in range(3)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames}
    made: dict[str, tuple[Callable[[], Image.Image], str, dict[str, Any]]] = {
        "one.png": (lambda: p.resize((1, 1)), "PNG", {}),
        "one.jpg": (lambda: p.resize((1, 1)), "JPEG", {}),
        "wide.png": (lambda: p.resize((20_000, 10)), "PNG", {}),
        "high.jpg": (lambda: p.resize((10, 20_000)), "JPEG", {}),
        "line.png": (lambda: p.resize((500, 1)), "PNG", {}),
        "cmyk.jpg": (lambda: p.convert("CMYK"), "JPEG", {}),
        "cmyk.tif": (lambda: p.convert("CMYK"), "TIFF", {}),
        "16bit.png": (lambda: grey16, "PNG", {}),
        "16bit.tif": (lambda: grey16, "TIFF", {}),
        "grey.jpg": (lambda: p.convert("L"), "JPEG", {}),
        "black-and-white.png": (lambda: p.convert("1"), "PNG", {}),
        "black-and-white.tif": (lambda: p.convert("1"), "TIFF", {"compression": "group4"}),
        "palette.png": (lambda: p.quantize(16), "PNG", {"transparency": 3}),
        "palette.gif": (lambda: p.quantize(16), "GIF", {"transparency": 3}),
        "alpha.png": (lambda: p.convert("RGBA"), "PNG", {}),
        "grey-alpha.png": (lambda: p.convert("LA"), "PNG", {}),
        "alpha.webp": (lambda: p.convert("RGBA"), "WEBP", {"lossless": True}),
        "lab.tif": (lambda: p.convert("LAB"), "TIFF", {}),
        "ycbcr.tif": (lambda: p.convert("YCbCr"), "TIFF", {}),
        "moving.gif": (lambda: p, "GIF", animated),
        "moving.png": (lambda: p, "PNG", animated),
        "moving.webp": (lambda: p, "WEBP", animated),
        "pages.tif": (lambda: p, "TIFF", animated),
        "progressive.jpg": (lambda: p, "JPEG", {"progressive": True}),
        "poor.jpg": (lambda: p, "JPEG", {"quality": 1}),
        "lzw.tif": (lambda: p, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tif": (lambda: p, "TIFF", {"compression": "jpeg"}),
        "jpeg-called.png": (lambda: p, "JPEG", {}),
        "png-called.jpg": (lambda: p, "PNG", {}),
        "gif-called.tiff": (lambda: p, "GIF", {}),
        "tiff-called.JPEG": (lambda: p, "TIFF", {}),
        "two.jpg": (lambda: p, "MPO", animated),
        "avif-called.jpg": (lambda: p, "AVIF", {}),
        "moving.avif": (lambda: p, "AVIF", animated),
        "alpha.avif": (lambda: p.convert("RGBA"), "AVIF", {}),
        "wavelets.jp2": (lambda: p, "JPEG2000", {}),
        "16bit.jp2": (lambda: grey16, "JPEG2000", {}),
        "plain.ppm": (lambda: p, "PPM", {}),
        "16bit.pgm": (lambda: grey16.convert("I"), "PPM", {}),
    }
    for name, (make, form, settings) in made.items():
        if form == "AVIF" and not HAS_AVIF:
            continue
        image = make()
        yield Odd(name, encoded(image, form, **settings), "result", (image.height, image.width))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = (90, 60) if orientation >= 5 else (60, 90)
        yield Odd(f"turned-{orientation}.jpg", encoded(p, "JPEG", exif=exif), "result", turned)
        yield Odd(f"turned-{orientation}.png", encoded(p, "PNG", exif=exif), "result", turned)
    yield Odd("tail.jpg", encoded(p, "JPEG") + rng.bytes(1000), "result", (60, 90))
    yield Odd("bad-exif.jpg", encoded(p, "JPEG", exif=b"Exif\0\0" + rng.bytes(60)), "result", (60, 90))
    yield Odd("float.tif", encoded(Image.fromarray(rng.random((60, 90), np.float32)), "TIFF"), "error")
    wide = Image.fromarray(rng.integers(-(2**30), 2**30, (60, 90), dtype=np.int32))
    yield Odd("32bit.tif", encoded(wide, "TIFF"), "error")


def odd_images(count: int, seed: int) -> list[Odd]:
    """``count`` of them, all kinds among them, in random order."""
    rng = np.random.default_rng(seed)
    kinds = [*bombs()]
    while len(kinds) < count * 0.5:
        kinds += [*whole_but_odd(rng), *not_images(rng)]
    kinds += [damaged(rng) for _ in range(count - len(kinds))]
    return [kinds[i] for i in rng.permutation(len(kinds))][:count]
