"""Watching cameras: what viewers get, how many of them cost nothing, and the live page in headless Chromium."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mjpeg_server import Camera as FakeCamera
from mjpeg_server import brightness, serving_camera
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.tracking.places import Place
from phidet.serve.camera import Camera
from serve_server import Server, expected, one_model, until

pytest.importorskip("av")
pytest.importorskip("scipy")
SIZE_HW = (96, 128)
LINE = Place("door", ((0.0, 0.5), (1.0, 0.5)))
ZONE = Place("all", ((0, 0), (1, 0), (1, 1), (0, 1)))
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextlib.contextmanager
def watched(folder: Path, steps: list[Any], **changes: Any) -> Iterator[tuple[Server, FakeCamera, str]]:
    """A server that watches one camera, which sends a frame for each event in ``steps``."""
    camera = FakeCamera([steps], password="Basic bWU6aHVudGVyMg==")
    with serving_camera(camera) as address:
        watch = Camera("yard", address.replace("//", "//me:hunter2@"), places=(LINE, ZONE))
        with one_model(folder, cameras=(watch,), **changes) as server:
            yield server, camera, address
            for event in list(camera.events.values()):
                event.set()


def steps_of(frames: int) -> list[Any]:
    return [step for i in range(frames) for step in (f"go {i}", (1, SIZE_HW))] + ["end"]


class Viewer(threading.Thread):
    """Asks for the frame after number ``after``."""

    def __init__(self, server: Server, after: int, path: str = "/watch/yard/latest") -> None:
        super().__init__(daemon=True)
        self.path = f"{path}?after={after}"
        self.server = server
        self.answer: Any = None
        self.body = b""
        self.start()

    def run(self) -> None:
        self.body = self.server.get(self.path).body
        self.answer = json.loads(self.body)

    def result(self) -> Any:
        self.join(60)
        assert self.answer is not None
        return self.answer


def next_frame(server: Server, camera: FakeCamera, number: int, viewers: int = 1) -> list[Viewer]:
    """Lets the camera send a frame once the viewers wait for it; they have its answer."""
    watcher = server.service.watchers["yard"]
    before, watcher._viewed_until = watcher._sequence, 0.0
    waiting = [Viewer(server, before) for _ in range(viewers)]
    until(lambda: watcher._viewed_until > 0)
    until(lambda: server.service.metrics.in_flight._value.get() >= viewers)
    camera.event(f"go {number}").set()
    for viewer in waiting:
        viewer.result()
    return waiting


def test_a_viewer_gets_frames_tracks_and_counts(tmp_path: Path) -> None:
    with watched(tmp_path, steps_of(3)) as (server, camera, _):
        assert server.get("/watch/cameras").json == ["yard"]
        answers = [next_frame(server, camera, i)[0].answer for i in range(3)]
    assert [a["sequence"] for a in answers] == [1, 2, 3]
    assert [[t["id"] for t in a["tracks"]] for a in answers] == [[], [1], [1]]
    last = answers[2]
    with Image.open(io.BytesIO(base64.b64decode(last["image"].partition(",")[2]))) as image:
        shown = np.asarray(image.convert("RGB"))
    assert shown.shape[:2] == tuple(last["size_hw"]) == SIZE_HW
    assert abs(float(shown.mean()) - brightness(2)) < 2
    best = expected(np.full((*SIZE_HW, 3), brightness(2), np.uint8), 0.9)[0]
    (track,) = last["tracks"]
    np.testing.assert_allclose(track["box_xyxy"], best.box_xyxy, atol=1)
    assert (track["label"], track["score"]) == ("cat", 0.9)
    assert last["connected"] is True
    places = {place["name"]: place for place in last["places"]}
    assert places["all"]["inside"] == 1
    assert places["door"]["points"] == [[0, 48], [128, 48]]


def test_twenty_viewers_cost_no_more_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(tmp_path, steps_of(4)) as (server, camera, _):
        watcher = server.service.watchers["yard"]
        encoded, encode = [], watcher._encoded
        monkeypatch.setattr(watcher, "_encoded", lambda *args: (encoded.append(1), encode(*args))[1])
        for i in range(3):
            viewers = next_frame(server, camera, i, viewers=20)
            assert len({viewer.body for viewer in viewers}) == 1
        assert len(encoded) == 3  # once for each frame
        # Without viewers nothing is encoded, and what is seen is still counted.
        watcher._viewed_until = 0.0
        camera.event("go 3").set()
        until(lambda: watcher._live.state.taken == 4)
        assert len(encoded) == 3


def test_a_viewer_who_comes_late_gets_the_newest_frame(tmp_path: Path) -> None:
    with watched(tmp_path, steps_of(4)) as (server, camera, _):
        shown = [next_frame(server, camera, i)[0].result() for i in range(4)]
        slow = Viewer(server, shown[0]["sequence"]).result()
    assert slow == shown[3]


def test_the_password_is_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with watched(tmp_path, steps_of(1)) as (server, camera, _):
        (viewer,) = next_frame(server, camera, 0)
        pages = [server.get(path).body for path in ("/watch", "/openapi.json", "/watch/cameras")]
        seen = repr(server.service.settings).encode() + b"".join(pages) + viewer.body + caplog.text.encode()
    assert b"hunter2" not in seen
    assert camera.requests[-1] == "Basic bWU6aHVudGVyMg=="  # sent when the camera asked for it


def test_a_token_protects_the_frames_and_not_the_page(tmp_path: Path) -> None:
    with watched(tmp_path, steps_of(1), token="secret") as (server, _, _):
        assert server.get("/watch").status == 200
        assert server.get("/watch/cameras").status == 401
        assert server.get("/watch/yard/latest").status == 401
        assert server.get("/watch/cameras", Authorization="Bearer secret").json == ["yard"]


def test_wrong_requests_and_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path, steps_of(1), limits={"request_seconds": 1.0}) as (server, _, _):
        assert server.get("/watch/street/latest").error == "there is no camera of that name; watched: yard"
        assert server.get("/watch/yard/latest?after=-1").error == "after must be the number of a frame, 0 or more"
        late = server.get("/watch/yard/latest?after=5").json  # no frame comes
        assert (late["sequence"], "image" in late) == (5, False)
        settings = server.service.settings
    with pytest.raises(ConfigError, match=r"expected webcam or an address .*, got 'clip\.mp4'"):
        Camera("a", "clip.mp4")
    with pytest.raises(ConfigError, match="have no '/'"):
        Camera("a/b", "webcam")
    with pytest.raises(ConfigError, match="each camera's name once, got a, a"):
        type(settings)(sources=settings.sources, cameras=(Camera("a", "webcam"), Camera("a", "webcam:1")))
    with pytest.raises(UnknownNameError, match="unknown model 'n'"):
        type(settings)(sources=settings.sources, cameras=(Camera("a", "webcam", "n"),))
    serve = ["serve", "--model_name", "m", "--model_base_path", str(tmp_path / "m")]
    for options, message in (
        (["--watch", "rtsp://u:hunter2@h/1"], "expected --watch NAME=ADDRESS, each name once, got 'rtsp://h/1'"),
        (["--watch", "rtsp://u:hunter2@h/1?channel=1"], "got 'rtsp://h/1?channel=1'"),
        (["--watch", "a=webcam", "--watch_place", "b:x=0,0,1,1"], "unknown camera 'b'"),
        (["--watch", "a=webcam", "--watch_place", "a:x=0,0,1"], "expected NAME=x1,y1,x2,y2"),
    ):
        assert main([*serve, *options]) == 2
        assert message in (said := capsys.readouterr().err)
        assert "hunter2" not in said


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver")
def test_the_live_page_shows_what_is_tracked_and_counted(tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=420,900"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        with watched(tmp_path, steps_of(8), limits={"request_seconds": 120.0}) as (server, camera, _):
            watcher = server.service.watchers["yard"]
            driver.get(f"{server.url}/watch")
            for i in range(4):
                until(lambda: watcher._viewed_until > 0)
                until(lambda i=i: watcher._sequence == i)  # type: ignore[misc]
                camera.event(f"go {i}").set()
            script = """return {
                boxes: [...document.querySelectorAll('#boxes g')].map((g) => [g.dataset.id, g.dataset.label,
                    ...['x', 'y', 'width', 'height'].map((a) => Number(g.querySelector('.box').getAttribute(a)))]),
                places: document.querySelector('#places').innerText, now: document.querySelector('#now').innerText,
                status: document.querySelector('#status').innerText,
                width: document.querySelector('#frame').naturalWidth,
                wide: document.documentElement.scrollWidth <= window.innerWidth }"""
            until(lambda: watcher._sequence == 4)
            until(lambda: bool(driver.execute_script(script)["boxes"]))
            shown = driver.execute_script(script)
            (box,) = shown["boxes"]
            assert box[:2] == ["1", "cat"]
            x1, y1, x2, y2 = expected(np.full((*SIZE_HW, 3), brightness(3), np.uint8), 0.9)[0].box_xyxy
            assert np.abs(np.array(box[2:]) - (x1, y1, x2 - x1, y2 - y1)).max() <= 3  # of this frame or the one before
            assert shown["width"] == 128
            assert "frames a second" in shown["status"]
            assert shown["now"].split() == ["cat", "1"]
            assert shown["places"].split() == ["door", "0", "0", "all", "1", "0", "1"]
            assert shown["wide"], "a phone would have to scroll sideways"
            # Drawing a line gives the option to count there.
            draw = """document.querySelector('#draw').click(); const stage = document.querySelector('#stage');
                const area = stage.getBoundingClientRect();
                for (const [x, y] of [[.25, .5], [.75, .5]]) stage.dispatchEvent(new MouseEvent('click',
                    { clientX: area.left + x * area.width, clientY: area.top + y * area.height, bubbles: true }));
                return document.querySelector('#option').value"""
            option, _, numbers = driver.execute_script(draw).rpartition("=")
            assert option == "--watch_place yard:line"
            np.testing.assert_allclose([float(n) for n in numbers.split(",")], [0.25, 0.5, 0.75, 0.5], atol=0.01)
            driver.save_screenshot(str(tmp_path / "page.png"))
            severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
            assert severe == []
    finally:
        driver.quit()
