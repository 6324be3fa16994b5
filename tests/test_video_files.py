"""Videos as cameras, recorders, taggers and editors write them."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from phidet.core.errors import InputError
from phidet.images.cut_off import is_cut_off
from phidet.images.pyav import Colors, square_size
from phidet.images.video import Frame, video_frames
from phidet.images.video_writer import VideoWriter
from video_data import (
    COLORS,
    encode,
    moving,
    quadrants,
    striped,
    stripes_of,
    with_cover,
    with_display_matrix,
)

av = pytest.importorskip("av")

TIMES = [i / 30 for i in range(30)]
CONTAINERS = ["mp4", "mov", "m4v", "mkv", "webm", "avi", "flv", "wmv"]


def copy(frames: list[Frame], path: Path) -> Path:
    """Writes frames as ``phidet detect`` does those that it has drawn on."""
    writer = VideoWriter(path, colors=frames[0].colors)
    for frame in frames:
        writer.write(frame.image, frame.time_s, frame.duration_s)
    writer.keep()
    return path


# Colours


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_tagged_colours_are_read_and_written_by_their_matrix_and_range(matrix: int, full: bool, tmp_path: Path) -> None:
    source = encode(
        tmp_path / "a.mp4",
        [striped(matrix, full)] * 3,
        [0, 0.1, 0.2],
        colorspace=matrix,
        color_range=2 if full else 1,
        color_primaries=9,
        color_trc=16,
    )
    frames = list(video_frames(source))
    assert abs(stripes_of(frames[0].image) - COLORS).max() <= 3
    assert frames[0].colors == Colors(matrix, 9, 16)
    drawn = copy(frames, tmp_path / "b.mp4")
    read = list(video_frames(drawn))[-1]
    assert abs(stripes_of(read.image) - stripes_of(frames[0].image)).max() <= 3
    with av.open(str(drawn)) as container:  # players go by the tags
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (matrix, 1)
        context = container.streams.video[0].codec_context
        assert (int(context.color_primaries), int(context.color_trc)) == (9, 16)


@pytest.mark.parametrize(("size_hw", "matrix"), [((576, 720), 6), ((720, 1280), 1), ((640, 360), 1)])
def test_untagged_colours_are_those_that_players_assume(size_hw: tuple[int, int], matrix: int, tmp_path: Path) -> None:
    frames = list(video_frames(encode(tmp_path / "a.mp4", [striped(matrix, False, size_hw)], [0])))
    assert abs(stripes_of(frames[0].image) - COLORS).max() <= 3
    with av.open(str(copy(frames, tmp_path / "b.mp4"))) as container:
        assert int(next(container.decode(video=0)).colorspace) == matrix


def test_ten_bits_are_read_alike(tmp_path: Path) -> None:
    frame = striped(9, full=False, bits=10)
    [read] = video_frames(encode(tmp_path / "a.mkv", [frame], [0], colorspace=9, color_range=1))
    assert abs(stripes_of(read.image) - COLORS).max() <= 3


def test_a_matrix_that_is_not_supported_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [read] = video_frames(encode(tmp_path / "a.mp4", [striped(6, full=False)], [0], colorspace=8, color_range=1))
    assert read.colors == Colors(6)
    assert ["colour matrix that is not supported, 8 of ITU-T H.273" in m for m in caplog.messages] == [True]


# Orientation and pixel aspect


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), [[0, 1], [2, 3]]),
        ((0, 1, -1, 0), [[2, 0], [3, 1]]),  # a telephone held upright: a quarter clockwise
        ((-1, 0, 0, -1), [[3, 2], [1, 0]]),
        ((0, -1, 1, 0), [[1, 3], [0, 2]]),
        ((-1, 0, 0, 1), [[1, 0], [3, 2]]),  # a front camera's mirror
        ((1, 0, 0, -1), [[2, 3], [0, 1]]),
        ((0, 1, 1, 0), [[0, 2], [1, 3]]),
        ((0, -1, -1, 0), [[3, 1], [2, 0]]),
    ],
)
def test_frames_are_turned_and_mirrored_as_the_file_says(
    matrix: tuple[int, int, int, int], shown: list[list[int]], tmp_path: Path
) -> None:
    source = with_display_matrix(quadrants(tmp_path / "a.mp4"), matrix)
    frames = list(video_frames(source))
    height, width = frames[0].image.shape[:2]
    assert (height, width) == ((64, 32) if matrix[0] == 0 else (32, 64))
    for image in (frames[0].image, next(video_frames(copy(frames, tmp_path / "b.mp4"))).image):
        middles = image[height // 4 :: height // 2, width // 4 :: width // 2, 0]
        assert (middles / 60).round().tolist() == shown


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(None, (90, 60)), (0, (90, 60)), (1, (90, 60)), ("4/3", (120, 60)), ("1/2", (90, 120)), ("100/1", (90, 60))],
)
def test_pixels_become_square_and_none_is_lost(aspect: str | int | None, size: tuple[int, int]) -> None:
    assert square_size(90, 60, None if aspect is None else Fraction(aspect)) == size


def test_a_video_of_wide_pixels_is_read_as_it_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = encode(tmp_path / "a.mp4", moving(2, (64, 96)), [0, 0.1], sample_aspect_ratio=Fraction(4, 3))
    frames = list(video_frames(source))
    assert frames[0].image.shape == (64, 128, 3)
    with av.open(str(copy(frames, tmp_path / "b.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (128, 64)
        assert stream.sample_aspect_ratio in (None, 0, 1)
    turned = with_display_matrix(source, (0, 1, -1, 0))
    assert next(video_frames(turned)).image.shape == (128, 64, 3)
    assert not caplog.messages
    odd = encode(tmp_path / "c.mp4", moving(2, (64, 96)), [0, 0.1], sample_aspect_ratio=Fraction(10, 1))
    assert next(video_frames(odd)).image.shape == (64, 96, 3)
    assert ["pixels are 10 times as wide as high" in m for m in caplog.messages] == [True]


# Covers


@pytest.mark.parametrize("before", [True, False])
def test_a_cover_is_not_the_video(before: bool, tmp_path: Path) -> None:
    source = with_cover(encode(tmp_path / "a.mp4", moving(), TIMES), before)
    with av.open(str(source)) as container:
        assert len(container.streams.video) == 2
    frames = list(video_frames(source))
    assert [f.image.shape for f in frames] == [(64, 96, 3)] * 30


def test_a_file_with_nothing_but_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(3):
            sound = av.AudioFrame(layout=stream.layout, samples=1024)
            for plane in sound.planes:
                plane.update(bytes(plane.buffer_size))
            sound.sample_rate, sound.pts = 44100, 1024 * i
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"a\.mp4 holds no video$"):
        next(video_frames(path))
    with pytest.raises(InputError, match=r"a\.mp4 holds no video, only a cover image$"):
        next(video_frames(with_cover(path)))


def test_of_two_videos_the_first_is_read_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, width in zip(streams, (96, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
        for stream in streams:
            for i, frame in enumerate(moving(3, (64, stream.width))):
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert [f.image.shape[1] for f in video_frames(path)] == [96] * 3
    assert caplog.messages == [f"{path} holds 2 videos: only the first one is read"]


# Last frames and missing ends


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_last_frame_that_stays_is_no_missing_end(container: str, tmp_path: Path) -> None:
    source = encode(tmp_path / f"a.{container}", moving(), TIMES, last_s=9)
    frames = list(video_frames(source))
    assert len(frames) == 30
    assert [f.duration_s for f in frames] == pytest.approx([1 / 30] * 29 + [9], abs=0.04)
    for name in ("b.mp4", "b.mov", "b.mkv"):
        assert list(video_frames(copy(frames, tmp_path / name)))[-1].duration_s == pytest.approx(9, abs=0.04)
        with av.open(str(tmp_path / name)) as drawn:
            assert drawn.duration / 1e6 == pytest.approx(9 + TIMES[-1], abs=0.04)


def test_recordings_that_were_joined_byte_by_byte_follow_one_another(tmp_path: Path) -> None:
    part = encode(tmp_path / "part.ts", moving(6), [i / 10 for i in range(6)])
    alone = [frame.time_s for frame in video_frames(part)]
    (tmp_path / "joined.ts").write_bytes(part.read_bytes() * 3)
    frames = list(video_frames(tmp_path / "joined.ts"))
    times = np.array([frame.time_s for frame in frames])
    assert len(times) == 3 * len(alone)
    assert (np.diff(times) > 0).all()
    for i in range(3):
        own = times[i * len(alone) : (i + 1) * len(alone)]
        assert own - own[0] == pytest.approx(np.array(alone), abs=1e-3)
    assert all(frame.duration_s is None or frame.duration_s > 0 for frame in frames)


def test_a_slide_show_keeps_its_times(tmp_path: Path) -> None:
    frames = list(video_frames(encode(tmp_path / "a.mp4", moving(3), [0, 1, 2], last_s=10)))
    assert [(f.time_s, f.duration_s) for f in frames] == [(0, 1), (1, 1), (2, 10)]
    read = list(video_frames(copy(frames, tmp_path / "b.mp4")))
    assert [(f.time_s, f.duration_s) for f in read] == [(0, 1), (1, 1), (2, 10)]


@pytest.mark.parametrize("last_s", [0.033, 9])
@pytest.mark.parametrize("container", ["mkv", "webm", "flv", "wmv", "avi"])
def test_a_missing_end_is_told_with_the_frames_before_it(container: str, last_s: float, tmp_path: Path) -> None:
    path = encode(tmp_path / f"a.{container}", moving(60), [i / 30 for i in range(60)], last_s=last_s)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 5])
    frames = []
    with pytest.raises(InputError, match=r"ends after \d\.\d s( of \d+\.\d s)?: it is cut off or damaged"):
        frames.extend(video_frames(path))  # list.extend keeps what came before the error
    assert 0 < len(frames) < 60


def test_an_mp4_made_for_streaming_that_misses_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, moving(60), [i / 30 for i in range(60)], container_options={"movflags": "faststart"})
    assert len(list(video_frames(path))) == 60
    whole = path.read_bytes()
    for share in (0.98, 0.6):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"ends after|cannot read video"):
            list(video_frames(path))


def box(length: int, kind: bytes, body: int, large: int | None = None) -> bytes:
    extra = b"" if large is None else large.to_bytes(8)
    return length.to_bytes(4) + kind + extra + bytes(body)


@pytest.mark.parametrize(
    ("content", "cut_off"),
    [
        (b"", False),
        (b"hello, this is no video", False),
        (box(16, b"ftyp", 8) + box(24, b"mdat", 16), False),
        (box(16, b"ftyp", 8) + box(25, b"mdat", 16), True),
        (box(16, b"ftyp", 8) + box(1, b"mdat", 16, large=32), False),
        (box(16, b"ftyp", 8) + box(1, b"mdat", 16, large=2**40), True),
        (box(16, b"ftyp", 8) + box(0, b"mdat", 16), False),  # a length of 0: up to the end
        (b"RIFF\x0c\0\0\0AVI " + bytes(8), False),
        (b"RIFF\x0d\0\0\0AVI " + bytes(8), True),
        (b"RIFF\x0c\0\0\0AVI " + bytes(8) + b"RIFF\x0d\0\0\0AVIX" + bytes(8), True),  # beyond 1 GB
        (b"\x1a\x45\xdf\xa3\x82ab" + b"\x18\x53\x80\x67\x84" + bytes(4), False),
        (b"\x1a\x45\xdf\xa3\x82ab" + b"\x18\x53\x80\x67\x85" + bytes(4), True),
        (b"\x1a\x45\xdf\xa3\x82ab" + b"\x18\x53\x80\x67\xff" + bytes(4), False),  # a live recording
        (b"\x1a\x45\xdf\xa3\x82ab" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(4), False),
        (b"\x1a\x45\xdf\xa3\x82ab", False),
        (b"\x1a\x45\xdf\xa3", False),
        (b"FLV\x01\x01\0\0\0\x09\0\0\0\0" + b"\x09\0\0\x02" + bytes(9) + (13).to_bytes(4), False),
        (b"FLV\x01\x01\0\0\0\x09\0\0\0\0" + b"\x09\0\0\x02" + bytes(9), True),
    ],
)
def test_how_a_container_tells_its_end(content: bytes, cut_off: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert is_cut_off(path) == cut_off


def test_random_ends_and_bytes_are_never_more_than_a_message(tmp_path: Path) -> None:
    path = tmp_path / "a"
    generator = np.random.default_rng(0)
    heads = [b"\0\0\0\x10ftyp", b"RIFF", b"\x1a\x45\xdf\xa3", b"FLV", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")]
    for i in range(200):
        path.write_bytes(heads[i % len(heads)] + generator.bytes(int(generator.integers(0, 90))))
        assert is_cut_off(path) in (True, False)


DAMAGE = """
import random, sys
from pathlib import Path
from phidet.core.errors import InputError
from phidet.images.video import video_frames

whole, path, generator = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), random.Random(0)
for i in range(60):
    content = bytearray(whole)
    for _ in range(generator.choice((1, 20, 300))):
        content[generator.randrange(len(content))] = generator.randrange(256)
    path.write_bytes(content)
    try:
        for _ in video_frames(path):
            pass
    except InputError as error:
        assert "\\n" not in str(error), error
print("done")
"""


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_damage_is_one_line_and_never_ends_or_hangs_the_process(container: str, tmp_path: Path) -> None:
    """In a process of its own: FFmpeg's threads, which report damage, could wait for Python, and Python for them."""
    source = encode(tmp_path / f"a.{container}", moving(), TIMES)
    command = [sys.executable, "-c", DAMAGE, str(source), str(tmp_path / f"b.{container}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_title_of_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    writer = VideoWriter(path, comment="Grosse Strasse")
    writer.write(np.zeros((32, 32, 3), np.uint8), 0)
    writer.keep()
    content = path.read_bytes()
    assert b"Strasse" in content
    path.write_bytes(content.replace(b"Strasse", b"Stra\xdfe "))  # Latin-1
    assert len(list(video_frames(path))) == 1
