"""Cameras and streams, against one on HTTP that cuts, freezes and changes its size."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mjpeg_server import SIZE_HW, Camera, number_of, serving_camera
from phidet.core.errors import ConfigError, InputError
from phidet.images.live import LiveSettings, LiveSource
from phidet.images.live_backlog import keep_up
from phidet.images.live_clock import SourceClock
from phidet.images.source_kinds import is_live, is_stream, live_name
from phidet.images.video import webcam_frames
from video_data import moving

av = pytest.importorskip("av")
LARGE_HW = (96, 128)
EVERY = LiveSettings(newest=False, silent_s=5.0)


class Pauses:
    """In the place of waiting: notes the pauses, and stops after some."""

    def __init__(self, most: int = 100) -> None:
        self.seconds: list[float] = []
        self._most = most

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) > self._most


class Clock:
    """Rises by a tenth of a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


@pytest.mark.repeated
def test_a_camera_that_cuts_freezes_and_changes_its_size(caplog: pytest.LogCaptureFixture) -> None:
    # Cut three times, frozen once, another size in the middle of the last connection.
    camera = Camera([[(6, SIZE_HW)], [(6, SIZE_HW)], [(6, SIZE_HW)], [(6, SIZE_HW), "freeze"],
                     [(6, SIZE_HW), (6, LARGE_HW)]])  # fmt: skip
    pauses = Pauses()
    with serving_camera(camera) as address:
        source = LiveSource(address, EVERY, wait=pauses, clock=Clock())
        frames = list(islice(source.frames(), 36))
        source.close()
    assert [number_of(f.image) for f in frames] == list(range(36))  # every frame, once, in order
    assert [f.number for f in frames] == list(range(36))
    assert [f.image.shape[:2] for f in frames] == [SIZE_HW] * 30 + [LARGE_HW] * 6
    assert camera.frozen.is_set()
    assert source.state.reconnects == 4
    assert pauses.seconds == [1.0] * 4  # each connection brought something: the pauses begin anew
    times = [f.time_s for f in frames]
    assert times[0] == 0
    assert times == sorted(times)
    assert caplog.text.count("connecting again in 1 s") == 4
    assert caplog.text.count("nothing came for 5 s; connecting again in 1 s") == 1


def test_pauses_grow_up_to_a_limit() -> None:
    camera = Camera([[(2, SIZE_HW)]])  # then 503
    pauses = Pauses(8)
    with serving_camera(camera) as address:
        assert len(list(LiveSource(address, EVERY, wait=pauses).frames())) == 2
    assert pauses.seconds == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_the_newest_frame_is_what_a_slow_reader_gets() -> None:
    camera = Camera([[(1, SIZE_HW), "go", (20, SIZE_HW), "end"]])
    with serving_camera(camera) as address:
        source = LiveSource(address, LiveSettings(silent_s=60))
        frames = source.frames()
        first = next(frames)
        assert number_of(first.image) == 0
        camera.event("go").set()
        until(lambda: source.state.received == 21)  # the reader is busy in the meantime
        newest = next(frames)
        assert number_of(newest.image) == 20
        assert (newest.number, source.state.taken) == (1, 1)
        camera.event("end").set()
        source.close()
        frames.close()  # type: ignore[attr-defined]


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("newest", [True, False])
def test_what_cannot_be_opened_at_first_is_an_error_without_the_password(
    newest: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = LiveSettings(newest=newest, silent_s=5)
    with serving_camera(Camera([], password="Basic bmFtZTpvdGhlcg==")) as address:
        secret = address.replace("//", "//name:hunter2@")
        with pytest.raises(InputError, match=r"cannot read http://127\.0\.0\.1:\d+/live: ") as refused:
            list(LiveSource(secret, settings, wait=Pauses()).frames())
    pauses = Pauses()
    with pytest.raises(InputError, match=r"cannot read http://127\.0\.0\.1:\d+/live: Connection refused"):
        list(LiveSource(secret, settings, wait=pauses).frames())
    assert pauses.seconds == [1, 2]  # three attempts
    assert "hunter2" not in str(refused.value) + caplog.text + repr(refused.value.__cause__)


def test_the_password_goes_to_the_camera() -> None:
    camera = Camera([[(3, SIZE_HW)]], password="Basic bmFtZTpodW50ZXIy")
    with serving_camera(camera) as address:
        source = LiveSource(address.replace("//", "//name:hunter2@"), EVERY, wait=Pauses(0))
        assert [number_of(f.image) for f in source.frames()] == [0, 1, 2]
        assert source.shown == address


def test_what_is_no_stream_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected a camera or the address of a stream"):
        LiveSource("file:///etc/passwd")
    with pytest.raises(InputError, match="cannot read webcam:77"):
        list(LiveSource("webcam:77", wait=Pauses()).frames())
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    with pytest.raises(InputError, match=r"http://h/x is not read: the network is not to be used"):
        list(LiveSource("http://u:p@h/x", wait=Pauses()).frames())


def test_names_and_kinds_of_sources() -> None:
    assert [is_stream(s) for s in ("rtsp://h/1", "http://h/1", "webcam", "clip.mp4")] == [True, False, False, False]
    assert [is_live(s) for s in ("rtsp://h/1", "http://h/1", "webcam", "clip.mp4")] == [True, True, True, False]
    assert str(live_name("rtsp://me:pw@cam.local:554/h264?ch=1")) == "cam-local-554-h264-ch-1.mp4"
    assert str(live_name("webcam:1")) == "webcam-1.mp4"


def test_times_of_the_source_go_on_over_connections() -> None:
    clock = SourceClock()
    clock.begin()
    # The second frame came late, but was taken in time.
    assert [clock.time_of(own, at) for own, at in ((500.0, 10.0), (500.04, 10.3), (500.08, 10.31))] == pytest.approx(
        [0, 0.04, 0.08]
    )
    clock.begin()  # cut; the camera's clock begins at zero
    assert [clock.time_of(own, at) for own, at in ((0.0, 15.0), (0.04, 15.04))] == pytest.approx([5, 5.04])
    assert clock.time_of(-100.0, 15.2) == pytest.approx(5.2)  # it jumped back
    assert clock.time_of(-99.9, 15.3) == pytest.approx(5.3)


def test_a_camera_that_lies_about_its_frame_rate_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    clock = SourceClock()
    clock.begin()
    # It says 25 frames a second and sends 5.
    times = [clock.time_of(i / 25, i / 5) for i in range(1000)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(999 / 5)
    assert caplog.text.count("differ from the clock's") == 1
    without = SourceClock()
    without.begin()
    assert [without.time_of(None, at) for at in (3.0, 3.5)] == [0, 0.5]


def test_times_of_a_file_are_true_however_fast_it_is_read() -> None:
    for seconds_each in (0.001, 10.0):
        clock = SourceClock()
        clock.begin(is_file=True)
        times = [clock.time_of(7 + i, i * seconds_each) for i in range(100)]
        assert times == list(range(100))


def test_frames_are_freed_when_they_are_done_with() -> None:
    """Without the garbage collector: a day of frames would wait for it."""
    camera = Camera([[(30, SIZE_HW)]])
    gc.collect()
    gc.disable()
    try:
        with serving_camera(camera) as address:
            for _ in LiveSource(address, EVERY, wait=Pauses(0)).frames():
                pass
        alive = sum(type(thing).__name__ == "VideoFrame" for thing in gc.get_objects())
    finally:
        gc.enable()
    assert camera.sent == 30
    assert alive <= 3


def test_a_playlist_is_read_to_its_end_and_leads_to_no_file(tmp_path: Path) -> None:
    import av  # noqa: PLC0415

    with av.open(str(tmp_path / "index.m3u8"), "w", format="hls", options={"hls_time": "1"}) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.options = {"g": "25", "bf": "0"}
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i, frame in enumerate(moving(50)):
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (segment, *_) = sorted(tmp_path.glob("*.ts"))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
    (tmp_path / "evil.m3u8").write_text(f"{head}file://{segment}\n#EXT-X-ENDLIST\n")

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        # A file waits for its reader: also where the newest frame is wanted, none is left out.
        for settings in (EVERY, LiveSettings(silent_s=5.0)):
            frames = list(LiveSource(f"{address}/index.m3u8", settings, wait=Pauses()).frames())
            np.testing.assert_allclose([f.time_s for f in frames], np.arange(50) / 25, atol=1e-3)
        with pytest.raises(InputError, match=r"cannot read http://.*/evil\.m3u8: Invalid data"):
            list(LiveSource(f"{address}/evil.m3u8", EVERY, wait=Pauses()).frames())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("settings", [EVERY, LiveSettings(silent_s=5.0)])
def test_a_file_whose_connection_breaks_is_not_begun_again(tmp_path: Path, settings: LiveSettings) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in moving(50):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = (tmp_path / "clip.mp4").read_bytes()

    class Breaks(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) * 2 // 3])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaks)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    times: list[float] = []
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/clip.mp4"
        with pytest.raises(InputError, match=r"/clip\.mp4 was not read to its end: Input/output error"):
            times.extend(frame.time_s for frame in LiveSource(address, settings, wait=Pauses()).frames())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert 0 < len(times) < 50
    assert times == sorted(set(times))


def test_rtsp_is_read_by_its_own_times_over_connections() -> None:
    from rtsp_server import serving_rtsp, transport_stream  # noqa: PLC0415 - needs PyAV

    streams = [transport_stream(range(20)), transport_stream(range(20, 40))]
    with serving_rtsp(streams, "Basic bWU6aHVudGVyMg==") as (address, requests):
        source = LiveSource(address.replace("//", "//me:hunter2@"), EVERY, wait=Pauses(2))
        frames = list(source.frames())
    numbers = [number_of(f.image) for f in frames]
    # A connection that is cut may take its last frame with it, which nothing ends.
    assert [n for n in numbers if n not in (19, 39)] == [*range(19), *range(20, 39)]
    second = numbers.index(20)
    for part in (frames[:second], frames[second:]):
        np.testing.assert_allclose(np.diff([f.time_s for f in part]), 0.04, atol=1e-6)
    assert frames[second].time_s >= frames[second - 1].time_s
    assert source.shown == address
    assert "hunter2" not in "".join(requests)


class SimulatedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Packet(NamedTuple):
    sent_s: float
    is_keyframe: bool


@pytest.mark.parametrize("group", [1, 50])
@pytest.mark.parametrize(("decoding_s", "busy"), [(0.03, False), (0.1, True), (0.6, True)])
def test_a_decoder_that_is_too_slow_leaves_frames_out(decoding_s: float, busy: bool, group: int) -> None:
    clock = SimulatedClock()

    def sent() -> Iterator[Packet]:
        for i in range(25 * 60):
            clock.now = max(clock.now, i / 25) + 1e-4  # waits for what is not sent yet
            yield Packet(i / 25, i % group == 0)

    decoded, ages = [], []
    for packet in keep_up(sent(), clock):
        clock.now += decoding_s
        decoded.append(packet)
        ages.append(clock.now - packet.sent_s)
    assert (len(decoded) < 25 * 60) == busy
    # Noticed after a second, and the frame that is decoded then.
    assert max(ages) < 1.1 + 2 * decoding_s
    times = [packet.sent_s for packet in decoded]
    assert max(b - a for a, b in pairwise([0.0, *times, 60.0])) < 1.1 + 2 * decoding_s + group / 25
    for one, other in pairwise(decoded):
        assert other.is_keyframe or other.sent_s - one.sent_s == pytest.approx(0.04)


def test_a_local_camera_is_read_through_ffmpegs_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no camera, FFmpeg's device that makes frames takes its place."""
    made = "testsrc2=size=64x48:rate=25", "lavfi"
    monkeypatch.setattr("phidet.images.live.camera_device", lambda _: made)
    monkeypatch.setattr("phidet.images.video.camera_device", lambda _: made)
    live = [f for f, _ in zip(LiveSource("webcam", EVERY).frames(), range(10), strict=False)]
    plain = [f for f, _ in zip(webcam_frames("webcam"), range(10), strict=False)]
    for frames in (live, plain):
        assert [f.number for f in frames] == list(range(10))
        assert {f.image.shape for f in frames} == {(48, 64, 3)}
        times = [f.time_s for f in frames]
        assert times[0] == 0
        assert times == sorted(times)
        assert (frames[0].image != frames[9].image).any()
    for one, other in zip(live, plain, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_allclose([f.time_s for f in live], np.arange(10) / 25, atol=1e-6)
