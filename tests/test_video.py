"""Videos written and read back."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from phidet.core.errors import InputError, PhidetError
from phidet.images.sources import SourceImage, Unusable, read_sources
from phidet.images.video import Frame, video_frames
from phidet.images.video_writer import VideoWriter
from video_data import quadrants

pytest.importorskip("av")


def film(path: Path, frames: int = 12, height: int = 48, width: int = 64, rate: float = 10) -> Path:
    """A grey of its own for each frame."""
    writer = VideoWriter(path)
    for i in range(frames):
        writer.write(np.full((height, width, 3), 20 * i % 240, np.uint8), i / rate)
    writer.keep()
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_what_is_written_is_read_back_with_its_times(name: str, tmp_path: Path) -> None:
    frames = list(video_frames(film(tmp_path / name)))
    assert [f.number for f in frames] == list(range(12))
    assert [f.time_s for f in frames] == pytest.approx([i / 10 for i in range(12)], abs=2e-3)
    for i, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)
        assert abs(frame.image.astype(int) - 20 * i).max() <= 4
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_uneven_frame_times_stay(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 2.0]
    writer = VideoWriter(tmp_path / "a.mp4")
    for t in times:
        writer.write(np.zeros((32, 32, 3), np.uint8), t)
    writer.write(np.zeros((32, 32, 3), np.uint8), 1.0)  # time only goes forward
    writer.keep()
    read = [f.time_s for f in video_frames(tmp_path / "a.mp4")]
    assert read[:-1] == pytest.approx(times, abs=1e-3)
    assert read[-1] > 2


@pytest.mark.parametrize(
    "rate", ["24000/1001", "24", "25", "30000/1001", "60000/1001", "120000/1001", "90000/3003", "50"]
)
def test_times_of_usual_rates_are_exact(rate: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    if "libx264" not in av.codecs_available:
        pytest.skip("MPEG-4 Part 2 counts too coarsely for frames over 1.001")
    frame_s = 1 / Fraction(rate)
    film(tmp_path / "a.mp4", frames=30, rate=float(1 / frame_s))
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    assert [packet.pts * packet.time_base for packet in packets] == [i * frame_s for i in range(30)]
    assert {packet.duration * packet.time_base for packet in packets} == {frame_s}


def test_odd_sizes_and_sizes_that_change(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    for size in ((33, 47), (33, 47), (90, 80)):
        writer.write(np.full((*size, 3), 200, np.uint8), 0.0)
    writer.keep()
    frames = list(video_frames(tmp_path / "a.mp4"))
    assert {f.image.shape for f in frames} == {(34, 48, 3)}
    assert all(f.image.min() > 190 for f in frames)


def test_discarded_or_empty_it_leaves_nothing_and_an_older_one_stays(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", frames=2)
    older = path.read_bytes()
    writer = VideoWriter(path)
    writer.write(np.zeros((32, 32, 3), np.uint8), 0.0)
    assert path.read_bytes() == older
    writer.discard()
    VideoWriter(path).keep()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.mp4", older)]


def test_a_damaged_video_gives_the_frames_before_the_damage(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", frames=40, height=240, width=320)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    items = list(read_sources([str(path)]))
    assert 0 < sum(isinstance(item, SourceImage) for item in items) < 40
    path = quadrants(tmp_path / "b.mp4")
    path.write_bytes(path.read_bytes()[:200])  # an MP4 that says at its end where frames are
    [item] = read_sources([str(path)])
    assert isinstance(item, Unusable)
    assert str(item.error).startswith(f"cannot read video {path}")


def test_a_video_that_is_cut_off_says_so_where_its_file_tells_how_long_it_was(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", frames=100, height=120, width=160)
    assert len(list(video_frames(path))) == 100
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.raises(InputError, match=r"a\.mkv ends after \d\.\d s of (9|10)\.\d s: it is cut off or damaged"):
        list(video_frames(path))
    items = list(read_sources([str(path)]))
    assert 20 < len(items) < 90, "the frames before the end"
    assert isinstance(items[-1], Unusable)


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read video .*a\.mp4"):
        next(video_frames(tmp_path / "a.mp4"))
    with pytest.raises(InputError, match="there is no video at"):
        next(video_frames(tmp_path / "none.mp4"))
    with pytest.raises(PhidetError, match="cannot write"):
        VideoWriter(Path("/proc/none/a.mp4"))


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", frames=60, height=240, width=320)
    tracemalloc.start()
    last: Frame | None = None
    for frame in video_frames(path):
        last = frame
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last is not None
    assert last.number == 59
    assert peak < 10 * last.image.nbytes
