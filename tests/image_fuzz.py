"""Damages image files at random and reads them, in a process of its own: a decoder that crashes ends it.

Run as ``python image_fuzz.py FORMATS SEED COUNT PROGRESS``, where FORMATS is "decoded" or "all" and PROGRESS a file
that holds the number of the current image. Prints how
many gave a result and how many were refused, as JSON; any other ending is a traceback.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from odd_images import chunk, encoded, photo, whole_but_odd
from phidet.core.errors import InputError
from phidet.images.decode import encoding, image_size, read_image
from pillow_formats import HAS_AVIF, pillow_files

_MEMORY_BYTES = 4 * 2**30  # what the decoders may ask for
_CPU_SECONDS = 3600  # a decoder that does not end is killed
_HEIC = Path(__file__).parent / "data" / "heic"
_EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80")


_LIKELIHOODS = (0.1, 0.1, 0.1, 0.2, 0.1, 0.2, 0.2)


class Stored(NamedTuple):
    """An encoded image in memory."""

    content: bytes

    def read_bytes(self) -> bytes:
        return self.content

    def __str__(self) -> str:
        return "photo.jpg"


def decoded_files(rng: np.random.Generator) -> dict[str, list[bytes]]:
    """Whole files by format, of all that phidet decodes: variants that reach different parts of their decoders."""
    small, grey = photo(rng, 24, 36), photo(rng, 24, 36).convert("L")
    files: dict[str, list[bytes]] = {}
    for odd in whole_but_odd(rng):
        # Not those in which the time is, or a byte that Pillow leaves as it was in memory: cases are the same again.
        if odd.fate == "result" and len(odd.content) < 40_000 and odd.name not in ("moving.avif", "lab.tif"):
            files.setdefault(_format(odd.content), []).append(odd.content)
    kinds = (small, grey, small.convert("RGBA"))
    if HAS_AVIF:
        files["AVIF"] = [encoded(image, "AVIF", quality=quality) for image in kinds for quality in (30, 90)]
    files["BMP"] = [encoded(image, "BMP") for image in (*kinds, small.quantize(16), small.convert("1"))]
    files["GIF"] += [encoded(image, "GIF") for image in kinds]
    files["WEBP"] += [encoded(image, "WEBP", lossless=lossless) for image in kinds for lossless in (False, True)]
    jp2: tuple[dict[str, Any], ...] = ({}, {"no_jp2": True}, {"irreversible": True, "num_resolutions": 2})
    files["JPEG2000"] = [encoded(image, "JPEG2000", **settings) for image in kinds for settings in jp2]
    pnm = [encoded(image, "PPM") for image in (small, grey, small.convert("1"))]
    plain = "\n".join(map(str, np.asarray(grey).ravel().tolist()))
    pnm += [f"P2\n# a\n36 24\n255\n{plain}\n".encode(), f"P3 12 24 255\n{plain}".encode()]
    pnm += [b"P1 4 2\n0 1 0 1\n11110000", b"P5 4 2 65535\n" + bytes(range(16)), b"P6 2 1 1000\n" + bytes(range(12))]
    files["PPM"] = pnm
    files["HEIF"] = [path.read_bytes() for path in sorted(_HEIC.glob("*.heic"))]
    for compression in ("tiff_deflate", "tiff_adobe_deflate", "packbits", "tiff_lzw", "jpeg"):
        files["TIFF"].append(encoded(small, "TIFF", compression=compression))
    files["TIFF"].append(encoded(small.convert("1"), "TIFF", compression="group3"))
    return files


def _format(content: bytes) -> str:
    name = Image.open(io.BytesIO(content)).format or ""
    return {"MPO": "JPEG"}.get(name, name)


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one to three kinds of damage; ``other`` is a file that parts are taken from."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if not data:
            break
        # A third of the damage meets the headers, most of the rest what is compressed.
        at = int(rng.integers(min(len(data), 150) if rng.random() < 0.3 else len(data)))
        start = int(rng.integers(len(other)))
        kinds = (
            (at, len(data), b""),  # cut off
            (at, at + int(rng.integers(1, 100)), b""),
            (at, at, rng.bytes(int(rng.integers(1, 100)))),
            (at, at + 4, _EXTREMES[rng.integers(len(_EXTREMES))]),
            (at, at + int(rng.integers(1, 200)), other[start : start + int(rng.integers(1, 200))]),
            (at, at + 1, bytes([data[at] ^ 1 << int(rng.integers(8))])),
            (at, at + 1, rng.bytes(1)),
        )
        begin, end, replacement = kinds[rng.choice(len(kinds), p=_LIKELIHOODS)]
        data[begin:end] = replacement
    return bytes(data)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, so that its decoder reads on; others as they are."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    chunks, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append(chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(chunks)


def cases(formats: str, seed: int, count: int) -> list[bytes]:
    """``count`` damaged files, as many of one format as of the other."""
    rng = np.random.default_rng(seed)
    if formats == "decoded":
        files = decoded_files(rng)
    else:
        files = {name: [content] for name, content in pillow_files().items()}
    names = sorted(files)
    every = [content for name in names for content in files[name]]
    found = []
    for i in range(count):
        variants = files[names[i % len(names)]]
        other = every[rng.integers(len(every))]
        content = damaged(variants[rng.integers(len(variants))], other, rng)
        found.append(with_checksums(content) if rng.random() < 0.8 else content)
    return found


def read(content: bytes) -> str:
    """ "result" or "refusal"; every other ending is an error of phidet's."""
    refusals = 0
    for look in (image_size, encoding, read_image):
        try:
            found = look(Stored(content))
            assert look is not read_image or (found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8)
        except InputError as error:
            refusals += 1
            message = str(error)
            assert "photo.jpg" in message, message
            assert message.isprintable(), message
            assert len(message) < 500, message
    return "refusal" if refusals else "result"


def main(formats: str, seed: str, count: str, progress: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    endings: Counter[str] = Counter()
    with open(progress, "wb", buffering=0) as file:
        for i, content in enumerate(cases(formats, int(seed), int(count))):
            os.pwrite(file.fileno(), b"%09d" % i, 0)
            endings[read(content)] += 1
    print(json.dumps(endings))


def fuzz(formats: str, seed: int, count: int, folder: Path) -> dict[str, int]:
    """How many of ``count`` damaged files of ``formats`` gave a result, and how many were refused, in a new process.

    Raises:
        AssertionError: any of them ended otherwise, with the number of the file.
    """
    progress = folder / f"progress-{seed}"
    command = [sys.executable, __file__, formats, str(seed), str(count), str(progress)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    at = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"seed {seed}, file {at}: ended with {done.returncode}\n{done.stderr[-3000:]}"
    endings: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return endings


if __name__ == "__main__":
    main(*sys.argv[1:])
