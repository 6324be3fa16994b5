"""The page in headless Chromium: what it draws is what the API answers."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phidet.serve.configuration import Policy, Source
from serve_server import Server, b64, encoded, picture, serving, settings_for, write_version

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: pip install 'phidet[dev]'")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
)
IMAGE = picture(240, 320)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("m")
    write_version(base, 7, "800")
    write_version(base, 9, "900")
    with serving(settings_for(base, sources=(Source("m", base, Policy()),))) as running:
        yield running


@contextmanager
def chromium_with(*arguments: str) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", *arguments,
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_with() as driver:
        yield driver


class Page:
    """The page, opened anew."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        driver.get(server.url)
        self.until(lambda: len(self.find("#model option")) > 0)

    def find(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        (element,) = self.find(selector)
        return element

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def until(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.text("#summary"), self.driver.get_log("browser"))
            time.sleep(0.05)

    def upload(self, path: Path) -> None:
        self.one("#file").send_keys(str(path))

    def boxes(self) -> list[dict[str, Any]]:
        script = """return [...document.querySelectorAll('#boxes g')].reverse().map((g) => ({
            name: g.dataset.name, score: Number(g.dataset.score),
            box: ['x', 'y', 'width', 'height'].map((a) => Number(g.querySelector('.box').getAttribute(a)))}))"""
        return list(self.driver.execute_script(script))

    def set_threshold(self, value: float) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.driver.execute_script(script, self.one("#threshold"), value)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def page(chromium: Any, server: Server) -> Page:
    return Page(chromium, server)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my picture.png"
    path.write_bytes(encoded(IMAGE))
    return path


def answer(server: Server, data: bytes, path: str = "/v1/models/m:predict") -> list[dict[str, Any]]:
    """The API's answer as boxes x, y, width, height in pixels."""
    row = server.post(path, {"instances": [b64(data)]}).json["predictions"][0]
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    names = ["person", "dog", "cat"]
    found = []
    for i in range(int(row["num_detections"])):
        top, left, bottom, right = row["detection_boxes"][i]
        box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
        name = names[int(row["detection_classes"][i]) - 1]
        found.append({"name": name, "score": row["detection_scores"][i], "box": box})
    return found


def same(shown: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [(o["name"], o["score"]) for o in shown] == [(o["name"], o["score"]) for o in wanted]
    np.testing.assert_allclose([o["box"] for o in shown], [o["box"] for o in wanted], atol=1e-6)


def test_boxes_are_the_apis_answer(page: Page, server: Server, file: Path) -> None:
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    same(page.boxes(), answer(server, file.read_bytes()))
    assert page.text("#summary") == "1 × cat, 1 × person"
    assert page.text("#times").startswith("320 × 240 pixels, ")
    assert [item.text.split("\n") for item in page.find("#objects li")] == [["cat", "0.900"], ["person", "0.450"]]
    image_at, boxes_at = page.one("#image").rect, page.one("#boxes").rect
    for side in ("x", "y", "width", "height"):
        assert boxes_at[side] == pytest.approx(image_at[side], abs=1), "the boxes lie on the picture"
    assert not page.complaints()


def test_the_threshold_hides_what_is_below_it(page: Page, file: Path) -> None:
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    for value, count, text in [(0.44, 2, "1 × cat, 1 × person"), (0.46, 1, "1 × cat"), (0.91, 0, "Nothing found")]:
        page.set_threshold(value)
        assert len(page.boxes()) == len(page.find("#objects li")) == count
        assert page.text("#summary").startswith(text)
        assert page.text("#least") == f"{value:.2f}"


def test_choosing_a_version_asks_it(page: Page, server: Server, file: Path) -> None:
    options = [option.text for option in page.find("#model option")]
    assert options == ["m (latest)", "m, version 7", "m, version 9"]
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    page.find("#model option")[1].click()
    page.until(lambda: [o["score"] for o in page.boxes()] == [0.8, 0.4])
    same(page.boxes(), answer(server, file.read_bytes(), "/v1/models/m/versions/7:predict"))
    assert "/v1/models/m/versions/7:predict" in page.text("#curl")


def test_a_bad_file_shows_the_error_and_a_good_one_takes_it_away(page: Page, tmp_path: Path, file: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"this is no picture")
    page.upload(bad)
    page.until(lambda: page.one("#error").is_displayed())
    assert "the content (18 bytes) is not an image that can be read" in page.text("#error")
    assert page.boxes() == []
    page.complaints()  # Chromium notes the 400
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    assert not page.one("#error").is_displayed()


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], 'dropped.png', { type: 'image/png' }));
const event = arguments[1] === 'drop' ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
document.body.dispatchEvent(event);
"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropping_and_pasting(page: Page, server: Server, way: str) -> None:
    data = encoded(IMAGE)
    page.driver.execute_script(DROP, base64.b64encode(data).decode(), way)
    page.until(lambda: len(page.boxes()) == 2)
    same(page.boxes(), answer(server, data))


def test_a_turned_photo_has_its_boxes_where_they_are_seen(page: Page, server: Server, tmp_path: Path) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGE).save(out, "JPEG", exif=exif)
    path = tmp_path / "turned.jpg"
    path.write_bytes(out.getvalue())
    page.upload(path)
    page.until(lambda: len(page.boxes()) == 2)
    assert page.text("#times").startswith("240 × 320 pixels")
    whole = page.boxes()[1]["box"]
    assert whole == [0, 0, 240, 320]


def test_the_webcam_is_looked_at_until_it_is_stopped(page: Page) -> None:
    page.one("#webcam").click()
    page.until(lambda: page.text("#times").endswith("live"))
    page.until(lambda: len(page.boxes()) == 2)
    assert page.text("#webcam") == "Stop"
    page.one("#webcam").click()
    assert page.text("#webcam") == "Webcam"
    assert page.boxes() == []
    assert page.text("#summary") == "No image yet"
    assert not page.complaints()


def test_an_image_that_comes_while_the_webcam_is_asked_for_is_what_is_shown(page: Page, file: Path) -> None:
    page.driver.execute_script("""const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = (wanted) => new Promise((done) => {
            window.allow = async () => { window.stream = await ask(wanted); done(window.stream); }; })""")
    page.one("#webcam").click()
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    page.driver.execute_script("window.allow()")
    ended = "return window.stream ? window.stream.getTracks().every((track) => track.readyState === 'ended') : false"
    page.until(lambda: page.driver.execute_script(ended))
    assert page.one("#image").is_displayed()
    assert not page.one("#video").is_displayed()
    assert page.text("#webcam") == "Webcam"


def test_an_image_ends_the_webcam_and_is_shown(page: Page, file: Path) -> None:
    page.one("#webcam").click()
    page.until(lambda: page.text("#times").endswith("live"))
    page.upload(file)
    page.until(lambda: "320 × 240 pixels" in page.text("#times") and not page.text("#times").endswith("live"))
    assert len(page.boxes()) == 2
    assert page.one("#image").is_displayed()
    assert page.text("#webcam") == "Webcam"
    assert "busy" not in page.one("#stage").get_attribute("class")


def test_another_model_while_the_webcam_runs(page: Page, file: Path) -> None:
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    page.one("#webcam").click()
    page.until(lambda: page.text("#times").endswith("live"))
    page.find("#model option")[-1].click()
    page.until(lambda: page.boxes()[0]["score"] == pytest.approx(0.9))
    page.find("#model option")[1].click()
    page.until(lambda: page.boxes()[0]["score"] == pytest.approx(0.8))
    assert page.text("#times").endswith("live")
    assert "/versions/7:predict" in page.text("#curl")
    page.one("#webcam").click()


def test_the_webcam_outlives_a_busy_server(page: Page) -> None:
    page.driver.execute_script("""const ask = window.fetch; let asked = 0; window.fetch = (url, options) =>
        String(url).endsWith(':predict') && ++asked <= 2
            ? Promise.resolve(new Response('{"error": "full"}', { status: 503 })) : ask(url, options)""")
    page.one("#webcam").click()
    page.until(lambda: page.text("#times") == "The server is busy")
    page.until(lambda: len(page.boxes()) == 2)
    assert "live" in page.text("#times")
    page.one("#webcam").click()


def test_everything_can_be_reached_with_the_keyboard_and_has_a_name(page: Page, file: Path) -> None:
    page.upload(file)
    page.until(lambda: len(page.boxes()) == 2)
    page.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(14):
        webdriver.ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text.split("\n")[0])
        if reached[-1] == "copy":
            break
    assert reached == ["model", "API", "file", "webcam", "threshold", "cat", "person", "curl", "copy"]
    names = {name: page.one(f"#{name}").accessible_name for name in ("model", "file", "webcam", "threshold", "copy")}
    assert names == {
        "model": "Model", "file": "Choose an image", "webcam": "Webcam", "threshold": "Least score", "copy": "Copy",
    }  # fmt: skip
    assert page.one("#boxes").accessible_name == "1 × cat, 1 × person"
    assert page.one("#summary").get_attribute("aria-live") == "polite"
    page.one("#threshold").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 46)
    assert len(page.boxes()) == 1


def test_on_a_phone_nothing_sticks_out(page: Page, file: Path) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.upload(file)
        page.until(lambda: len(page.boxes()) == 2)
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 360
        assert page.one("#image").rect["width"] > 300
        for name in ("webcam", "copy", "model"):
            assert page.one(f"#{name}").rect["height"] >= 44, "big enough for a finger"
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_asks_for_the_token(chromium: Any, tmp_path: Path, file: Path) -> None:
    write_version(tmp_path / "m", 1, "900")
    with serving(settings_for(tmp_path / "m", token="secret")) as server:
        chromium.get(server.url)
        page = Page.__new__(Page)
        page.driver = chromium
        page.until(lambda: page.one("#token").is_displayed())
        assert "this server requires its token" in page.text("#error")
        page.one("#token").send_keys("secret")
        page.one("#use").click()
        page.until(lambda: len(page.find("#model option")) == 2)
        page.upload(file)
        page.until(lambda: len(page.boxes()) == 2)
        assert "Bearer $PHIDET_SERVE_TOKEN" in page.text("#curl")
        assert "secret" not in page.text("#curl")
    chromium.get_log("browser")


def test_the_api_page_lists_every_path(chromium: Any, server: Server) -> None:
    chromium.get(server.url + "/docs")
    wanted = set(server.get("/openapi.json").json["paths"])
    end = time.monotonic() + 60
    shown: set[str] = set()
    while shown != wanted and time.monotonic() < end:
        shown = {element.text for element in chromium.find_elements(By.CSS_SELECTOR, "summary code")}
    assert shown == wanted
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]


def test_masks_are_drawn_over_their_boxes_and_can_be_hidden(chromium: Any, tmp_path: Path, file: Path) -> None:
    for name, content in (("masks", "900 0 masks"), ("plain", "900"), ("pixels", "900 0 segments")):
        write_version(tmp_path / name, 1, content)
    sources = tuple(Source(name, tmp_path / name, Policy()) for name in ("masks", "plain", "pixels"))
    with serving(settings_for(tmp_path, sources=sources)) as running:
        page = Page(chromium, running)
        page.upload(file)
        page.until(lambda: len(page.boxes()) == 2)
        script = """return [...document.querySelectorAll('#boxes .mask')].map((m) =>
            ['x', 'y', 'width', 'height'].map((a) => Number(m.getAttribute(a))))"""
        places = page.driver.execute_script(script)
        assert sorted(places) == sorted(box["box"] for box in page.boxes())
        page.one("#masks").click()
        assert {mask.value_of_css_property("display") for mask in page.find("#boxes .mask")} == {"none"}
        assert len(page.boxes()) == 2
        names = [option.get_attribute("value") or option.text for option in page.find("#model option")]
        at = {kind: next(i for i, name in enumerate(names) if kind in name) for kind in ("plain", "pixels")}
        page.find("#model option")[at["plain"]].click()
        page.until(lambda: not page.find("#boxes .mask"))
        assert not page.one("#masked").is_displayed()  # nothing to hide
        page.find("#model option")[at["pixels"]].click()
        page.until(lambda: page.find("#boxes .mask"))  # the class of every pixel, over the whole image
        assert page.driver.execute_script(script) == [[0, 0, IMAGE.shape[1], IMAGE.shape[0]]]
        assert page.one("#masked").is_displayed()
        assert not page.complaints()
