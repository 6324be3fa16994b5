"""``phidet track`` from end to end, on made videos with a detector that finds what is painted."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageGrab, features

from blobs import BLUE, RED, BlobDetector, painted
from mjpeg_server import SIZE_HW, Camera, serving_camera
from phidet.cli.live_status import LiveStatus
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.detections.draw import colour
from phidet.images.ahead import read_ahead
from phidet.images.live import LiveSource
from phidet.images.video import video_frames
from phidet.images.video_writer import VideoWriter

av = pytest.importorskip("av")
pytest.importorskip("scipy")
made: list[BlobDetector] = []
SIZE = (160, 240)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: Any, runtime: str, threads: int | None) -> BlobDetector:
        made.append(BlobDetector(*args, runtime=runtime, threads=threads))
        return made[-1]

    made.clear()
    monkeypatch.setattr("phidet.inference.detector.Detector", make)
    monkeypatch.chdir(tmp_path)


def down_and_up(i: int) -> list[tuple[tuple[int, int, int, int], int]]:
    """A person that comes down on the left and a dog that goes up on the right, 4 pixels a frame."""
    return [((40, 4 * i, 70, 4 * i + 40), RED), ((160, 116 - 4 * i, 190, 156 - 4 * i), BLUE)]


def clip(
    name: str = "clip.mp4", frames: int = 30, objects: Callable[[int], Any] = down_and_up, rate: float = 10
) -> Path:
    writer = VideoWriter(Path(name))
    for i in range(frames):
        writer.write(painted(*SIZE, *objects(i)), i / rate)
    writer.keep()
    return Path(name)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_video_becomes_a_drawn_one_with_ids_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clip()
    assert main(["track", "clip.mp4"]) == 0
    out, err = capsys.readouterr()
    assert out == "clip.mp4: 30 frames, tracks of 1 person, 1 dog\n"
    assert err.startswith("30 frames, 2 tracks; ")
    assert err.endswith(" frames a second; wrote tracks (1 video)\n")
    frames = list(video_frames(Path("tracks/clip.mp4")))
    assert [round(f.time_s, 2) for f in frames] == [i / 10 for i in range(30)]
    # Frames of boxes have the colours of ids, 1 for the better detection.
    edge = frames[20].image[100, 40:44].astype(int)
    assert (np.abs(edge - colour(1)).max(axis=-1) < 70).any()


def test_all_outputs_agree(capsys: pytest.CaptureFixture[str]) -> None:
    clip()
    kinds = "json,csv,mot,coco,counts,heat"
    line = "kerb=0,0.5,1,0.5"
    assert main(["track", "clip.mp4", "--save", kinds, "--line", line, "--anchor", "centre"]) == 0
    lines = [json.loads(text) for text in Path("tracks/tracks.jsonl").read_text().splitlines()]
    assert [entry["frame"] for entry in lines] == list(range(30))
    assert [[d["track_id"] for d in entry["detections"]] for entry in lines[1:]] == [[1, 2]] * 29
    mot = np.loadtxt("tracks/mot/clip.txt", delimiter=",")
    assert mot.shape == (58, 10)
    person = mot[mot[:, 1] == 1]
    assert person[:, 0].tolist() == list(range(2, 31))
    boxes = np.array([entry["detections"][0]["box_xyxy"] for entry in lines[1:]])
    np.testing.assert_allclose(person[:, 2:4] - 1, boxes[:, :2], atol=0.01)
    np.testing.assert_allclose(person[:, 4:6], boxes[:, 2:] - boxes[:, :2], atol=0.01)
    table = rows("tracks/tracks.csv")
    assert [(r["track_id"], r["label"], r["first_frame"], r["last_frame"], r["frames"]) for r in table] == [
        ("1", "person", "1", "29", "29"),
        ("2", "dog", "1", "29", "29"),
    ]
    assert float(table[0]["last_y"]) - float(table[0]["first_y"]) == pytest.approx(4 * 28, abs=1.5)
    results = json.loads(Path("tracks/coco-tracks.json").read_text())
    about = json.loads(Path("tracks/coco-videos.json").read_text())
    assert [v["name"] for v in about["videos"]] == ["clip.mp4"]
    assert [i["frame_index"] for i in about["images"]] == list(range(30))
    assert [(r["image_id"], r["track_id"], r["category_id"], r["video_id"]) for r in results[:2]] == [
        (2, 1, 1, 1),
        (2, 2, 2, 1),
    ]
    # Middles at 20 + 4 i and 136 − 4 i, the line at 80, margins of 3.5: the 16th frame is the first beyond.
    assert [(r["kind"], r["label"], r["frame"], r["time_s"]) for r in rows("tracks/counts.csv")] == [
        ("in", "person", "16", "1.6"),
        ("out", "dog", "15", "1.5"),
    ][::-1]
    assert [(r["place"], r["label"], r["in"], r["out"]) for r in rows("tracks/totals.csv")] == [
        ("kerb", "dog", "0", "1"),
        ("kerb", "person", "1", "0"),
    ]
    with Image.open("tracks/heat/clip.png") as heat:
        assert heat.size == (240, 160)
    assert "tracks of 1 person, 1 dog" in capsys.readouterr().out


def test_every_third_frame_is_detected_on_and_tracks_go_on_between(capsys: pytest.CaptureFixture[str]) -> None:
    clip(frames=31)
    assert main(["track", "clip.mp4", "--json", "--detect-every", "3"]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert made[0].batches == [1] * 11
    assert len(lines) == 31
    for entry in lines[12:]:
        ((x1, y1, x2, y2),) = (d["box_xyxy"] for d in entry["detections"] if d["track_id"] == 1)
        np.testing.assert_allclose((x1, y1, x2, y2), (40, 4 * entry["frame"], 70, 4 * entry["frame"] + 40), atol=3)


def test_a_stride_leaves_frames_out_and_keeps_their_numbers_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    clip()
    assert main(["track", "clip.mp4", "--stride", "2", "--save", "video,json"]) == 0
    lines = [json.loads(text) for text in Path("tracks/tracks.jsonl").read_text().splitlines()]
    assert [(entry["frame"], entry["time_s"]) for entry in lines] == [(i, i / 10) for i in range(0, 30, 2)]
    assert [round(f.time_s, 2) for f in video_frames(Path("tracks/clip.mp4"))] == [i / 10 for i in range(0, 30, 2)]
    assert "tracks of 1 person, 1 dog" in capsys.readouterr().out


def test_each_video_has_tracks_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    clip("a.mp4", 5)
    clip("b.mp4", 5)
    assert main(["track", "a.mp4", "b.mp4", "--save", "mot,coco", "--json"]) == 0
    ids = [[d["track_id"] for d in json.loads(t)["detections"]] for t in capsys.readouterr().out.splitlines()]
    assert ids == [[], [1, 2], [1, 2], [1, 2], [1, 2]] * 2
    assert Path("tracks/mot/a.txt").read_bytes() == Path("tracks/mot/b.txt").read_bytes()
    results = json.loads(Path("tracks/coco-tracks.json").read_text())
    assert {r["video_id"] for r in results} == {1, 2}


def test_images_are_frames_where_their_rate_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    Path("img1").mkdir()
    for i in range(6):
        Image.fromarray(painted(*SIZE, *down_and_up(i))).save(f"img1/{i + 1:06d}.png")
    assert main(["track", "img1", "--json"]) == 3
    assert "is a still image: --fps N takes images for the frames of a video" in capsys.readouterr().err
    assert main(["track", "img1", "--fps", "25", "--save", "mot"]) == 0
    assert capsys.readouterr().out == "img1: 6 frames, tracks of 1 person, 1 dog\n"
    assert np.loadtxt("tracks/mot/img1.txt", delimiter=",")[:, 0].tolist() == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["photos"], ["photos"]),
        (["."], ["A", "B", "images", "photos"]),
        (["photos/1.png"], ["photos"]),
        (["one.png"], ["images"]),
        (["train"], ["A", "B"]),
        (["train/A/img1", "train/B/img1"], ["A", "B"]),
    ],
)
def test_videos_of_images_are_called_as_their_folders(sources: list[str], names: list[str]) -> None:
    for name in ("photos/1.png", "train/A/img1/1.png", "train/B/img1/1.png", "one.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted(*SIZE)).save(name)
    assert main(["track", *sources, "--fps", "10", "--save", "mot"]) == 0
    assert sorted(p.stem for p in Path("tracks/mot").rglob("*.txt")) == names


def test_events_are_printed_with_the_frames(capsys: pytest.CaptureFixture[str]) -> None:
    clip()
    assert main(["track", "clip.mp4", "--json", "--zone", "left=0,0,0.5,0,0.5,1,0,1"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("30 frames, 2 tracks; ")
    lines = [json.loads(text) for text in out.splitlines()]
    (entered,) = (entry for entry in lines if "kind" in entry)
    assert (entered["kind"], entered["place"], entered["label"], entered["time_s"]) == ("enter", "left", "person", 0.1)
    assert not Path("tracks").exists()


def with_sound(path: Path, seconds: float = 3.0) -> None:
    """Adds a tone to a video."""
    silent = path.with_name("silent.mp4")
    path.rename(silent)
    with av.open(str(silent)) as source, av.open(str(path), "w") as out:
        picture = source.streams.video[0]
        # PyAV 13 calls it otherwise.
        template = getattr(out, "add_stream_from_template", None)
        copied = template(picture) if template else out.add_stream(template=picture)
        sound = out.add_stream("aac", rate=48000, layout="mono")
        for packet in source.demux(picture):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
        tone = np.sin(np.arange(int(48000 * seconds)) * 0.06).astype(np.float32)
        for start in range(0, len(tone) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    silent.unlink()


def test_sound_is_kept_on_request(caplog: pytest.LogCaptureFixture) -> None:
    with_sound(clip())
    clip("mute.mp4", 5)
    assert main(["track", "clip.mp4", "mute.mp4", "--sound"]) == 0
    assert "mute.mp4 has no sound" in caplog.text
    with av.open("clip.mp4") as source, av.open("tracks/clip.mp4") as drawn, av.open("tracks/mute.mp4") as mute:
        packets = [
            [(float(p.pts * p.time_base), bytes(p)) for p in c.demux(audio=0) if p.size] for c in (source, drawn)
        ]
        assert len(packets[0]) > 100
        assert [content for _, content in packets[0]] == [content for _, content in packets[1]]
        np.testing.assert_allclose(*[[at for at, _ in p] for p in packets], atol=0.001)
        assert not mute.streams.audio
    assert len(list(video_frames(Path("tracks/clip.mp4")))) == 30
    for name in ("clip.mp4", "mute.mp4"):
        content = Path("tracks", name).read_bytes()
        assert content.index(b"moov") < content.index(b"mdat"), "browsers could not play it before its end has come"
    assert sorted(p.name for p in Path("tracks").iterdir()) == ["clip.mp4", "mute.mp4"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--save", "movie"], 2, "unknown kind of output 'movie'. Did you mean video or mot?"),
        (["--save", "counts"], 2, "--save counts needs a line or a zone to count at"),
        (["--line", "a=0,0,1,1,1,0"], 2, "a: --line has two points, --zone three or more, got 3"),
        (["--sound", "--save", "mot"], 2, "--sound needs drawn videos"),
        (["--json", "--out", "x"], 2, "--out needs something to write"),
        (["--classes", "cow"], 2, "unknown class 'cow'"),
        (["--zone", "a=0,0,1,1,1,0,0,1"], 2, "a: its sides cross"),
        (["--low", "0.7"], 2, "low must not be above high"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clip()
    assert main(["track", "clip.mp4", *options]) == code
    assert message in capsys.readouterr().err
    assert [p.name for p in Path().iterdir()] == ["clip.mp4"]


def test_a_stream_cannot_be_silent_for_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["track", "rtsp://camera/1", "--silent", "0"])
    assert "argument --silent: expected seconds above 0, got '0'" in capsys.readouterr().err


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from phidet.detections.tracking.assignment import import_solver  # noqa: PLC0415

    import_solver.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert main(["track", "clip.mp4"]) == 6
    assert "tracking needs packages that are not installed: pip install 'phidet[track]'" in capsys.readouterr().err


def test_reading_ahead_changes_nothing_but_who_waits() -> None:
    assert list(read_ahead(iter(range(100)))) == list(range(100))
    closed = []

    def endless() -> Any:
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    some = read_ahead(endless())
    assert [next(some) for _ in range(5)] == [0, 1, 2, 3, 4]
    some.close()  # type: ignore[attr-defined]
    assert closed == [True]

    come, waiting = threading.Event(), threading.Event()

    def silent() -> Any:
        yield 1
        waiting.set()
        come.wait()  # a camera that is down

    items = read_ahead(silent(), stop=come.set)
    assert next(items) == 1
    waiting.wait()
    items.close()  # type: ignore[attr-defined]
    assert come.is_set()

    def broken() -> Any:
        yield 1
        raise ConfigError("no more")

    with pytest.raises(ConfigError, match="no more"):
        list(read_ahead(broken()))


def test_a_stream_is_tracked_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def limited(self: BlobDetector, arrays: Any, settings: Any = None) -> Any:
        self.batches.append(len(arrays))
        if len(self.batches) > 15:
            raise KeyboardInterrupt
        return [self._one(array, settings) for array in arrays]

    monkeypatch.setattr(BlobDetector, "detect", limited)
    monkeypatch.setattr("threading.Event.wait", lambda *_: False)  # between attempts to connect
    camera = Camera([[(10, SIZE_HW)], [(10, SIZE_HW)]], password="Basic bWU6aHVudGVyMg==")
    with serving_camera(camera) as address:
        secret = address.replace("//", "//me:hunter2@")
        assert main(["track", secret, "--every-frame", "--json", "--save", "json,mot", "--quiet"]) == 130
    out, err = capsys.readouterr()
    lines = [json.loads(text) for text in out.splitlines()]
    assert [entry["frame"] for entry in lines] == list(range(15))
    assert {entry["source"] for entry in lines} == {address}
    assert Path("tracks/tracks.jsonl").read_text() == out
    written = out + err + "".join(str(p) + p.read_text() for p in Path("tracks").rglob("*") if p.is_file())
    assert "hunter2" not in written


def test_a_video_behind_an_address_is_read_to_its_end(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import functools  # noqa: PLC0415
    import http.server  # noqa: PLC0415

    content = clip().read_bytes()
    Path("cut.mp4").write_bytes(content[: len(content) * 6 // 10])

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="."))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert main(["track", f"{address}/clip.mp4", "--json", "--quiet"]) == 0
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert not caplog.records
        assert main(["track", f"{address}/cut.mp4", "--json", "--quiet"]) == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [(entry["frame"], entry["time_s"]) for entry in lines] == [(i, i / 10) for i in range(30)]
    (warning,) = (record.message for record in caplog.records)
    assert warning.startswith(f"{address}/cut.mp4 ends after ")
    assert warning.endswith(" of 3.0 s: it is cut off or damaged")


def test_a_line_says_what_goes_on() -> None:
    from phidet.cli.track import TrackReport  # noqa: PLC0415

    live, report = LiveSource("rtsp://me:hunter2@cam/1"), TrackReport(True, None)
    status = LiveStatus(live, report)
    assert status.line() == "rtsp://cam/1: no connection, 0 reconnects so far"
    live.state.connected, live.state.received, live.state.reconnects = True, 25, 1
    report.looked_at, report.tracks_now, report.tracks_so_far = 8, 1, 12
    assert status.line() == "rtsp://cam/1: 25 frames a second, 8 looked at, 1 track (12 so far), 1 reconnect"
    assert status.line() == "rtsp://cam/1: 0 frames a second, 0 looked at, 1 track (12 so far), 1 reconnect"


def test_a_stream_is_tracked_alone_and_a_window_needs_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", "rtsp://u:p@cam/1", "rtsp://cam/2"]) == 2
    assert "rtsp://cam/1 may never end: track it alone" in capsys.readouterr().err
    pytest.importorskip("tkinter")
    clip()
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main(["track", "clip.mp4", "--show", "--json"]) == 2
    assert "--show needs a screen" in capsys.readouterr().err


@pytest.mark.skipif(
    shutil.which("Xvfb") is None or not features.check("xcb"), reason="no Xvfb here: apt-get install xvfb"
)
def test_a_window_shows_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter")
    from phidet.cli.show import Window  # noqa: PLC0415

    clip()
    shots: list[Any] = []
    add = Window.add

    def add_and_look(self: Window, item: Any, found: Any) -> None:
        add(self, item, found)
        self._root.update()
        if item.frame == 20:
            shots.append(ImageGrab.grab(xdisplay=screen))
            self._root.event_generate("<q>")

    monkeypatch.setattr(Window, "add", add_and_look)
    with subprocess.Popen(["Xvfb", "-displayfd", "1", "-screen", "0", "320x200x24", "-nolisten", "tcp"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            screen = ":" + server.stdout.readline().strip()
            monkeypatch.setenv("DISPLAY", screen)
            # The key q ends it, as Ctrl-C does.
            assert main(["track", "clip.mp4", "--show", "--json"]) == 130
        finally:
            server.terminate()
    (shot,) = shots
    pixels = np.asarray(shot.convert("RGB")).astype(int)
    for number in (1, 2):
        assert (np.abs(pixels - colour(number)).max(axis=-1) < 70).sum() > 20
