"""Downloads, from a real server on this machine that can be told to misbehave."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.request import Request

import effdet
import pytest
import torch

import phidet
from phidet.architectures.efficientdet.published_files import detector_file
from phidet.architectures.published_file import PublishedFile
from phidet.core import web
from phidet.core.errors import DownloadError
from phidet.weights import download
from phidet.weights.download import cache_dir, fetch
from ports import reserved_port

CONTENT = random.Random(0).randbytes(3_000_000)
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path, and notes what was asked and how many bytes of body were sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.version = {"ETag": '"one"'}
        self.heeds_range = True
        self.heeds_if_range = True
        self.tells_length = True
        self.encoding: str | None = None
        self.cuts: list[int] = []  # one per answer: bytes after which the connection ends
        self.statuses: list[int] = []  # one per answer: errors to give instead
        self.redirects: dict[str, str] = {}
        self.hold: threading.Event | None = None  # what a cut answer waits for before the connection ends
        self.asked: list[HTTPMessage] = []
        self.sent = 0

    def file(self, name: str = "model.pth", checksum: bool = True) -> PublishedFile:
        prefix = hashlib.sha256(CONTENT).hexdigest()[:8] if checksum else ""
        return PublishedFile(f"http://127.0.0.1:{self.server_port}/{name}", prefix, "CC0-1.0 (tests)")

    @property
    def ranges(self) -> list[str | None]:
        return [headers["Range"] for headers in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the game."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers)
        if server.statuses:
            self.answer(server.statuses.pop(0), {"Content-Length": "0"})
        elif self.path in server.redirects:
            self.answer(302, {"Location": server.redirects[self.path], "Content-Length": "0"})
        else:
            self.send_content()

    def send_content(self) -> None:
        server, headers = self.server, dict(self.server.version)
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        start = 0
        if wanted and server.heeds_range and (condition in server.version.values() or not server.heeds_if_range):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.answer(416, {"Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
        body = server.content[start:]
        if server.encoding is not None:
            headers["Content-Encoding"] = server.encoding
        if server.tells_length:
            headers["Content-Length"] = str(len(body))
        self.answer(206 if start else 200, headers)
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.wfile.write(body)
            if server.hold is not None:
                server.hold.wait(120)
        else:
            self.wfile.write(body)
        server.sent += len(body)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; no proxy, no waits between attempts."""
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PHIDET_OFFLINE", raising=False)
    monkeypatch.setattr(download, "RETRY_PAUSES_S", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempt inside one fetch."""
    monkeypatch.setattr(download, "RETRY_PAUSES_S", ())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def cut_in_half(server: Server) -> None:
    """A first fetch that gets half of the file."""
    server.cuts = [HALF]
    with pytest.raises(DownloadError, match=f"ended {len(CONTENT) - HALF:,} bytes early"):
        fetch(server.file())
    server.asked.clear()
    server.sent = 0


# A download without trouble


def test_fresh_download(server, cache, caplog):
    caplog.set_level(logging.INFO, logger="phidet")
    path = fetch(server.file())
    assert path == cache / "model.pth"
    assert path.read_bytes() == CONTENT
    assert leftovers(cache) == ["model.pth"]
    assert server.asked[0]["User-Agent"] == "phidet"
    assert server.file().url in caplog.text
    assert "CC0-1.0 (tests)" in caplog.text


def test_cached_file_needs_no_server_and_is_trusted(cache):
    cache.mkdir()
    (cache / "model.pth").write_bytes(b"put here by hand")
    file = PublishedFile("https://127.0.0.1:1/model.pth", "00000000", "none")
    assert fetch(file).read_bytes() == b"put here by hand"
    assert fetch(file, offline=True) == cache / "model.pth"
    assert leftovers(cache) == ["model.pth"]


def test_without_length_and_checksum(server):
    server.tells_length = False
    assert fetch(server.file(checksum=False)).read_bytes() == CONTENT


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_a_terminal(server, progress, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(server.file(), progress=progress)
    shown = capsys.readouterr()
    assert ("model.pth: 100%" in shown.err and "B/s" in shown.err) == progress
    assert shown.out == ""


def test_no_progress_in_a_log(server, capsys):
    fetch(server.file())
    assert capsys.readouterr().err == ""


def test_redirects_are_followed_with_the_range(server, once):
    server.redirects["/model.pth"] = "/elsewhere"
    cut_in_half(server)
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"] * 2


# A download in several pieces


@pytest.mark.parametrize("version", [{"ETag": '"one"'}, {"Last-Modified": "Tue, 01 Sep 2020 00:00:00 GMT"}])
def test_resume_asks_for_the_rest_only(server, cache, once, version):
    server.version = version
    cut_in_half(server)
    assert leftovers(cache) == ["model.pth.part", "model.pth.part.version"]
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"]
    assert server.asked[0]["If-Range"] in version.values()
    assert server.sent == len(CONTENT) - HALF
    assert leftovers(cache) == ["model.pth"]


def test_lost_connections_are_tried_again(server):
    server.cuts = [1_000_000, 500_000]
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_starts_over(server, once, heeds_if_range):
    server.content = bytes(len(CONTENT))
    cut_in_half(server)
    server.content, server.version, server.heeds_if_range = CONTENT, {"ETag": '"two"'}, heeds_if_range
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == ([f"bytes={HALF}-"] if heeds_if_range else [f"bytes={HALF}-", None])


def test_a_server_that_ignores_ranges_starts_over(server, once):
    cut_in_half(server)
    server.heeds_range = False
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_version_it_starts_over(server, once, version):
    server.version = version
    cut_in_half(server)
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_range_that_cannot_be_met_starts_over(server, cache):
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(CONTENT + b"more")
    (cache / "model.pth.part.version").write_text('"one"')
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_interrupt_keeps_what_arrived(server, cache, once):
    server.cuts, server.hold = [HALF], threading.Event()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from phidet.weights.download import fetch, PublishedFile\n"
        f"fetch(PublishedFile(*{tuple(server.file())}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    part = cache / "model.pth.part"
    until(lambda: part.is_file() and part.stat().st_size == HALF)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=600)[1]
    server.hold.set()
    assert part.read_bytes() == CONTENT[:HALF]
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


# Two at once


def test_threads_share_one_download(server, caplog):
    caplog.set_level(logging.INFO, logger="phidet")
    server.cuts, server.hold = [HALF], threading.Event()  # the first one stands still until the second one waits
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server.file()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: "waiting for another process that downloads model.pth" in caplog.text)
    server.hold.set()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in paths] == [True, True]
    assert server.sent == len(CONTENT)
    assert "waiting for another process" in caplog.text


def test_processes_share_one_download(server):
    code = f"from phidet.weights.download import fetch, PublishedFile; fetch(PublishedFile(*{tuple(server.file())}))"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    assert fetch(server.file()).read_bytes() == CONTENT
    assert len(server.asked) == 1


# Failures


def test_wrong_content_is_deleted(server, cache):
    server.content = b"captive portal"
    with pytest.raises(DownloadError, match="not what was published") as caught:
        fetch(server.file())
    assert hashlib.sha256(b"captive portal").hexdigest() in str(caught.value)
    assert server.file().sha256_prefix in str(caught.value)
    assert leftovers(cache) == []
    server.content = CONTENT
    assert fetch(server.file()).read_bytes() == CONTENT


def test_connection_that_always_breaks(server, cache):
    server.cuts = [100, 100, 100]
    with pytest.raises(DownloadError, match=f"ended {len(CONTENT) - 300:,} bytes early"):
        fetch(server.file())
    assert len(server.asked) == 3
    assert (cache / "model.pth.part").read_bytes() == CONTENT[:300]


def test_missing_file_is_not_asked_for_again(server, cache):
    server.statuses = [404]
    with pytest.raises(DownloadError, match="answers 404 Not Found") as caught:
        fetch(server.file())
    assert str(cache / "model.pth") in str(caught.value)
    assert len(server.asked) == 1


def test_busy_server_is_asked_again(server):
    server.statuses = [503, 500]
    assert fetch(server.file()).read_bytes() == CONTENT


def test_no_server(cache):
    with reserved_port() as port:  # where nobody listens
        url = f"http://127.0.0.1:{port}/model.pth"
        with pytest.raises(DownloadError, match="Connection refused") as caught:
            fetch(PublishedFile(url, "", "none"))
    assert url in str(caught.value)
    assert str(cache / "model.pth") in str(caught.value)


def test_silent_server(monkeypatch, once):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/model.pth"
        with pytest.raises(DownloadError, match="timed out"):
            fetch(PublishedFile(url, "", "none"))


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_by_environment(server, cache, monkeypatch, value):
    monkeypatch.setenv("PHIDET_OFFLINE", value)
    with pytest.raises(DownloadError, match="PHIDET_OFFLINE") as caught:
        fetch(server.file())
    assert server.file().url in str(caught.value)
    assert str(cache / "model.pth") in str(caught.value)
    assert server.asked == []
    assert not cache.exists()
    fetch(server.file(), offline=False)


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_not_offline_by_environment(server, monkeypatch, value):
    monkeypatch.setenv("PHIDET_OFFLINE", value)
    fetch(server.file())


def test_offline_by_argument(server):
    with pytest.raises(DownloadError, match="network is not to be used"):
        fetch(server.file(), offline=True)


@pytest.mark.parametrize("url", ["http://example.com/m.pth", "ftp://127.0.0.1/m.pth", "file:///etc/m.pth"])
def test_only_https_leaves_the_machine(url):
    with pytest.raises(DownloadError, match="is not an https address"):
        fetch(PublishedFile(url, "", "none"))


def test_redirect_to_plain_http_elsewhere_is_refused(server):
    server.redirects["/model.pth"] = "http://example.com/model.pth"
    with pytest.raises(DownloadError, match=r"http://example.com/model.pth is not an https address"):
        fetch(server.file())
    assert len(server.asked) == 1


@pytest.mark.parametrize("to", ["http://example.com/m", "http://127.0.0.1/m", "https://example.com/m"])
def test_redirects_from_https_stay_there(to):
    def redirect() -> Request | None:
        handler = web._Redirects(download._check_address)
        return handler.redirect_request(Request("https://a.org/m"), BytesIO(), 302, "Found", HTTPMessage(), to)

    if to.startswith("https"):
        assert redirect().full_url == to
    else:
        with pytest.raises(web.WebError, match=to):
            redirect()


def test_a_compressed_answer_is_inflated_and_not_resumed(server, once):
    server.encoding, server.content = "gzip", gzip.compress(CONTENT, 0)
    server.cuts = [HALF]
    with pytest.raises(DownloadError, match="bytes early"):
        fetch(server.file())
    assert fetch(server.file()).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_folder_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match=r"cannot write .*Not a directory.*PHIDET_CACHE"):
        fetch(server.file())
    assert server.asked == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk(server, cache):
    cache.mkdir()
    (cache / "model.pth.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"No space left on device.*Free some space"):
        fetch(server.file())
    assert len(server.asked) == 1


# Where files go


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PHIDET_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("PHIDET_CACHE", "")
    assert cache_dir() == tmp_path / "xdg" / "phidet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "phidet"
    monkeypatch.setenv("PHIDET_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(DownloadError, match="set PHIDET_CACHE"):
        cache_dir()


def test_a_detector_by_hand(cache, monkeypatch):
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        phidet.create_model("efficientdet-d0", pretrained="coco")
    path = cache / detector_file("efficientdet-d0").name
    assert str(path) in str(caught.value)
    theirs = effdet.EfficientDet(effdet.get_efficientdet_config("tf_efficientdet_d0"), pretrained_backbone=False)
    cache.mkdir()
    torch.save(theirs.state_dict(), path)
    ours = phidet.create_model("efficientdet-d0", pretrained="coco")
    assert torch.equal(ours.backbone.stem.conv.weight, theirs.backbone.conv_stem.weight)
