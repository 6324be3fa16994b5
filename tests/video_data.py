"""Small videos as other programs write them: colours, times, covers, orientations, pixel aspects."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 60]], np.uint8)
"""Of the four vertical stripes of :func:`striped`."""
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Matrix of ITU-T H.273, table 4 → K_R, K_B."""
CODECS = {".avi": "mpeg4", ".flv": "flv", ".wmv": "wmv2", ".webm": "libvpx"}  # others: libx264
UPRIGHT = [[0, 1], [2, 3]]


def encode(
    path: Path,
    frames: Sequence[Any],
    times_s: Sequence[float],
    last_s: float = 0.1,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    **context: object,
) -> Path:
    """Writes frames of PyAV; ``context`` is set on the encoder, and ``last_s`` is how long the last frame is shown."""
    import av  # noqa: PLC0415 - an extra

    codec = CODECS.get(path.suffix, "libx264")
    pixels = frames[0].format.name if frames[0].format.name != "rgb24" else "yuv420p"
    ticks = 30 if path.suffix == ".avi" else 1000  # a second; AVI has a slot for each
    with av.open(
        str(path), "w", format="asf" if path.suffix == ".wmv" else None, options=container_options or {}
    ) as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixels
        stream.codec_context.time_base = Fraction(1, ticks)
        stream.options = options or ({"crf": "4", "bf": "0"} if codec == "libx264" else {})
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        packets = []
        for frame, time_s in zip(frames, times_s, strict=True):
            frame.pts, frame.time_base = round(time_s * ticks), Fraction(1, ticks)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(last_s * ticks)
        container.mux(packets)
    return path


def moving(count: int = 30, size_hw: tuple[int, int] = (64, 96)) -> list[Any]:
    """Frames of coarse noise that moves."""
    import av  # noqa: PLC0415

    coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size_hw[::-1], Image.Resampling.BICUBIC))
    return [av.VideoFrame.from_ndarray(np.roll(image, 2 * i, 1).copy(), format="rgb24") for i in range(count)]


def striped(matrix: int, full: bool, size_hw: tuple[int, int] = (64, 128), bits: int = 8) -> Any:
    """A frame of :data:`COLORS`, coded by H.273's formulas (8.3) rather than by FFmpeg."""
    import av  # noqa: PLC0415

    kr, kb = LUMA[matrix]
    red, green, blue = COLORS.T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        values = [luma * top, *(c * top + 128 * unit for c in chroma)]
    else:
        values = [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma)]
    frame = av.VideoFrame(size_hw[1], size_hw[0], "yuv420p" if bits == 8 else "yuv420p10le")
    dtype = np.uint8 if bits == 8 else np.uint16
    for plane, stripes in zip(frame.planes, values, strict=True):
        row = np.zeros(plane.line_size // np.dtype(dtype).itemsize, dtype)
        row[: plane.width] = np.repeat(stripes.round().astype(dtype), plane.width // 4)
        plane.update(np.tile(row, (plane.height, 1)).tobytes())
    frame.color_range = 2 if full else 1
    return frame


def stripes_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int_]:
    """(4, 3): the colour in the middle of each stripe."""
    height, width = image.shape[:2]
    return image[height // 2, width // 8 :: width // 4].astype(int)


def quadrants(path: Path) -> Path:
    """An MP4 of one frame, 32 × 64, whose four parts are as bright as ``UPRIGHT`` · 60."""
    import av  # noqa: PLC0415

    image = np.repeat(np.kron(np.array(UPRIGHT, np.uint8) * 60, np.ones((16, 32), np.uint8))[..., None], 3, 2)
    return encode(path, [av.VideoFrame.from_ndarray(image, format="rgb24")], [0])


def with_display_matrix(path: Path, rotation: tuple[int, int, int, int]) -> Path:
    """Writes (a, b, c, d) of the display matrix into the track header of an MP4 (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, number, length; layer, volume, …
    a, b, c, d = (value * 65536 for value in rotation)
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def with_cover(path: Path, before: bool = True) -> Path:
    """Puts a cover image, 64 × 64, into an MP4, as iTunes and other taggers do, before or after the tracks."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture, "JPEG")
    item = _box(b"ilst", _box(b"covr", _box(b"data", struct.pack(">II", 13, 0) + picture.getvalue())))
    handler = _box(b"hdlr", struct.pack(">II4s4sIIIB", 0, 0, b"mdir", b"appl", 0, 0, 0, 0)[:25])
    tags = _box(b"udta", _box(b"meta", bytes(4) + handler + item))
    content, position, parts = path.read_bytes(), 0, []
    while position < len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + length]
        if kind == b"moov":  # the last box of what FFmpeg writes, so that nothing else moves
            first = struct.unpack_from(">I", body)[0]
            body = body[:first] + tags + body[first:] if before else body + tags
        parts.append(_box(kind, body))
        position += length
    path.write_bytes(b"".join(parts))
    return path


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body
