"""What reading and writing video share: PyAV itself, colours, pixel aspect and orientation of frames."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.optional import optional_package

_UNSPECIFIED = 2  # "unspecified" in all three code spaces of ITU-T H.273
_BT709, _BT601 = 1, 6
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
"""Matrix coefficients of H.273 → name in FFmpeg's scale filter; others are not luma with two colour differences."""
_RANGES = {1: "limited", 2: "full"}  # FFmpeg's AVColorRange; 0 where the file does not say
_HD_WIDTH, _SD_HEIGHT = 1280, 576
_LARGEST_ASPECT = 4  # anamorphic lenses and TV formats stay below 2; beyond this a header is damaged


class Colors(NamedTuple):
    """How a video codes colours, as code points of ITU-T H.273 (2: unspecified).

    Attributes:
        matrix: between RGB and luma with colour differences; always one that is known.
        primaries: of the RGB values.
        transfer: of the RGB values, their "gamma".
    """

    matrix: int
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    @property
    def matrix_name(self) -> str:
        """As FFmpeg's scale filter calls it."""
        return _MATRICES[self.matrix]


def import_av() -> Any:
    """PyAV, with FFmpeg's log switched off: errors that matter are raised anyway.

    With any level at all, PyAV has FFmpeg's threads wait for the interpreter's lock to report errors, even those below
    the level, while the thread that holds it waits for them: a damaged video then hangs its process for ever.

    Raises:
        MissingExtraError: the ``video`` extra is not installed.
    """
    av = optional_package("av", "reading and writing video", "video")
    av.logging.set_level(None)
    return av


def default_colors(width: int, height: int) -> Colors:
    """What players assume of a video of that size without tags: BT.709 for high definition, else BT.601."""
    return Colors(_BT709 if width >= _HD_WIDTH or height > _SD_HEIGHT else _BT601)


def colors_of(frame: Any, codec: Any) -> Colors:
    """The colours of a decoded frame; ``codec`` is the context that decoded it."""
    matrix = int(frame.colorspace)
    if matrix not in _MATRICES:
        matrix = default_colors(frame.width, frame.height).matrix
    return Colors(matrix, int(codec.color_primaries), int(codec.color_trc))


def is_supported_matrix(frame: Any) -> bool:
    """Whether the matrix that a frame is tagged with is supported; true for RGB and untagged frames."""
    return int(frame.colorspace) in (0, _UNSPECIFIED, *_MATRICES)


def is_plausible_aspect(sample_aspect: Fraction | None) -> bool:
    """Whether a pixel's width over its height, as a file gives it, is plausible (``None`` or 0: not given)."""
    return not sample_aspect or Fraction(1, _LARGEST_ASPECT) <= sample_aspect <= _LARGEST_ASPECT


def square_size(width: int, height: int, sample_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) of a frame once its pixels are square; the shorter side grows, so that no pixel is lost.

    Args:
        width: of the frame as coded.
        height: of the frame as coded.
        sample_aspect: a pixel's width over its height; ``None`` or 0 where the file does not say.
    """
    if not sample_aspect or not is_plausible_aspect(sample_aspect):
        return width, height
    return (round(width * sample_aspect), height) if sample_aspect > 1 else (width, round(height / sample_aspect))


class FrameConverter:
    """Converts frames to another pixel format and size with FFmpeg's scale filter.

    PyAV's own ``reformat`` ignores matrix and range before version 17, and names them differently from then on; the
    filter's options mean the same in every version, and it is no slower.
    """

    def __init__(self, av: Any) -> None:
        self._av = av
        self._graph: Any = None
        self._built_for: tuple[object, ...] = ()

    def to_rgb(self, frame: Any, size: tuple[int, int], colors: Colors) -> npt.NDArray[np.uint8]:
        """A decoded frame as (H, W, 3) uint8 RGB, at ``size`` (width, height)."""
        # An untagged range is left to FFmpeg, which derives it from the pixel format (yuvj420p is full).
        source = f"in_color_matrix={colors.matrix_name}"
        if int(frame.color_range) in _RANGES:
            source += f":in_range={_RANGES[int(frame.color_range)]}"
        image: npt.NDArray[np.uint8] = self._convert(frame, size, f"{source}:out_range=full", "rgb24").to_ndarray()
        return image

    def to_yuv(self, image: npt.NDArray[np.uint8], size: tuple[int, int], colors: Colors) -> Any:
        """An image, (H, W, 3) uint8 RGB, as a frame for an encoder: 4:2:0 in limited range, at ``size``."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        return self._convert(
            frame,
            size,
            f"out_color_matrix={colors.matrix_name}:out_range=limited:flags=bicubic+accurate_rnd",
            "yuv420p",
        )

    def _convert(self, frame: Any, size: tuple[int, int], options: str, pixel_format: str) -> Any:
        built_for = (frame.width, frame.height, frame.format.name, size, options)
        # Building a graph costs more than a conversion; it is built again only where the frames change.
        if built_for != self._built_for:
            graph = self._av.filter.Graph()
            chain = (
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
                ),
                graph.add("scale", f"w={size[0]}:h={size[1]}:{options}"),
                graph.add("format", f"pix_fmts={pixel_format}"),
                graph.add("buffersink"),
            )
            for first, second in pairwise(chain):
                first.link_to(second)
            graph.configure()
            self._graph, self._built_for = graph, built_for
        self._graph.push(frame)
        return self._graph.pull()


class Upright:
    """Turns and mirrors the frames of a stream to the nearest quarter, as their display matrix demands.

    The matrix is read of the first frame, and of the first of another size. PyAV ties a frame whose side data were
    looked at to itself, so that its memory is freed by the garbage collector only, which for thousands of frames is too
    late.
    """

    def __init__(self) -> None:
        self._read_for: tuple[int, int] | None = None
        self._matrix: bytes | None = None

    def __call__(self, image: npt.NDArray[np.uint8], frame: Any) -> npt.NDArray[np.uint8]:
        """``image``, the pixels of ``frame``, as it is to be seen."""
        if self._read_for != (frame.width, frame.height):
            self._read_for = frame.width, frame.height
            side_data = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = None if side_data is None else bytes(side_data)
        return image if self._matrix is None else _turned(image, self._matrix)


def _turned(image: npt.NDArray[np.uint8], matrix: bytes) -> npt.NDArray[np.uint8]:
    # Read from the matrix itself: PyAV has ``VideoFrame.rotation`` since 14.2 only, and it leaves mirroring out.
    # Rows (a, b, u), (c, d, v), (x, y, w) of ISO/IEC 14496-12, 8.3.2: a pixel at (p, q) is shown at (ap + cq, bp + dq).
    (a, b, _), (c, d, _) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2].tolist()
    # The off-diagonal entries dominate: a quarter turn, which swaps the axes.
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, across, down = image.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
