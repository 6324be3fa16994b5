"""Addresses of images: what a server, or the address itself, can do."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phidet import Detector
from phidet.cli.main import main
from phidet.core.addresses import without_password
from phidet.core.errors import DownloadError, InputError
from phidet.images.decode import as_pixels
from phidet.images.remote import fetch_image
from phidet.images.sources import SourceImage, Unusable, read_sources


def png(shade: int = 50) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), (shade,) * 3).save(content, "PNG")
    return content.getvalue()


def deflated(content: bytes, window: int) -> bytes:
    compressor = zlib.compressobj(wbits=window)
    return compressor.compress(content) + compressor.flush()


ENCODED = {
    "gzip": ("gzip", gzip.compress(png())),
    "members": ("x-gzip", gzip.compress(png()[:40]) + gzip.compress(png()[40:]) + bytes(8)),
    "zlib": ("deflate", deflated(png(), 15)),
    "raw": ("deflate", deflated(png(), -15)),
    "twice": ("gzip, identity, gzip", gzip.compress(gzip.compress(png()))),
    "cut": ("gzip", gzip.compress(png())[:-20]),
    "damaged": ("gzip", b"\x1f\x8b\x08" + bytes(range(50, 100))),
    "unknown": ("br", png()),
    "bomb": ("gzip", gzip.compress(bytes(30_000_000))),
}
TYPES = {
    "page": ("text/html; charset=utf-8", b"<html>Please log in</html>"),
    "error.json": ("application/json", '{"error": "zurück"}'.encode()),
    "mislabelled": ("text/plain", png()),
    "untyped": (None, png()),
    "film": ("video/mp4", bytes(100)),
    "camera": ("multipart/x-mixed-replace; boundary=x", b"--x\r\n"),
}


class Web(BaseHTTPRequestHandler):
    """A server of images and of tricks; ``tail`` is the address of another one."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        name = self.path.split("?")[0].split("/")[1]
        match name:
            case "photo.png" | "%C3%A4%20b.php":
                self.send(200, png())
            case "to":  # /to/ADDRESS
                self.send(302, b"", Location=self.path.removeprefix("/to/"))
            case "round":
                self.send(302, b"", Location="/round")
            case "large":
                self.send(200, bytes(100_000))
            case "short":
                self.send(200, png()[:50], length=len(png()))
            case "basic" | "digest" | "ntlm":
                self.authenticate(name)
            case "endless" | "headers":
                self.never_end(name)
            case _ if name in ENCODED:
                encoding, body = ENCODED[name]
                self.send(200, body, **{"Content-Encoding": encoding})
            case _ if name in TYPES:
                media_type, body = TYPES[name]
                self.send(200, body, **{"Content-Type": media_type} if media_type else {})
            case _:
                self.send(404, b"no")

    def authenticate(self, kind: str) -> None:
        given = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode("er:sé%cret".encode()).decode()
        if (kind == "basic" and given == basic) or (kind == "digest" and given.startswith('Digest username="er", ')):
            self.send(200, png())
            return
        challenge = {"basic": 'Basic realm="c"', "digest": 'Digest realm="c", nonce="1", qop="auth"'}.get(kind, "NTLM")
        self.send(401, b"", **{"WWW-Authenticate": challenge})

    def never_end(self, what: str) -> None:
        if what == "endless":
            self.send(200, b"", length=10**9)
        else:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        with contextlib.suppress(OSError):  # until the client hangs up
            while not self.server.closing.wait(0.01):
                self.wfile.write(b"x")

    def send(self, code: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Web)
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, as it should."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("PHIDET_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def with_password(server: Server, path: str, password: str = "s%C3%A9%25cret") -> str:
    return server.address.replace("//", f"//er:{password}@") + path


def refusal(address: str) -> str:
    [item] = read_sources([address])
    assert isinstance(item, Unusable)
    assert item.source == without_password(address)
    return str(item.error)


# What comes


def test_an_image_comes_under_a_plain_name(web: Server) -> None:
    for path, name in (
        ("ä b.php", "ä_b.php.jpg"),
        ("photo.png?size=3", "photo.png"),
        ("to//photo.png", "photo.png"),
        ("%C3%A4%20b.php", "ä_b.php.jpg"),
    ):
        [found] = read_sources([f"{web.address}/{path}"])
        assert isinstance(found, SourceImage)
        assert found.image.max() == 50
        assert str(found.name) == name


@pytest.mark.parametrize("name", ["gzip", "members", "zlib", "raw", "twice"])
def test_an_image_that_the_server_compressed_is_inflated(web: Server, name: str) -> None:
    assert fetch_image(f"{web.address}/{name}") == png()


@pytest.mark.parametrize("name", ["mislabelled", "untyped"])
def test_an_image_is_one_whatever_the_server_calls_it(web: Server, name: str) -> None:
    assert as_pixels(f"{web.address}/{name}").max() == 50


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the server answers 404 Not Found"),
        ("to/file:///etc/passwd", "Redirection to url 'file:///etc/passwd' is not allowed"),
        ("to/ftp://localhost/x", "expected an http or https address, got ftp://localhost/x"),
        ("to/http://a:b@127.0.0.1:1/x", "Connection refused"),
        ("to/gopher://a:secret@b/", "Redirection to url 'gopher://b/' is not allowed"),
        ("round", "infinite loop"),
        ("short", f"the connection ended {len(png()) - 50} bytes early: try again"),
        ("cut", "the connection ended early: try again"),
        ("damaged", "the server sent it compressed, and damaged: "),
        ("unknown", "the server sent it compressed (br), which was not asked for"),
        ("page", "the server sent text/html, expected an image: give the address of the image itself"),
        ("error.json", "the server sent application/json, expected an image"),
        ("film", "it is video/mp4, expected an image: download it, and give the file"),
        ("camera", "it is a stream of images (multipart/x-mixed-replace), which does not end"),
        ("basic", "the server answers 401 Unauthorized: give a valid name and password in the address"),
        ("ntlm", "the server asks for another kind of authentication than Basic and Digest"),
    ],
)
def test_what_does_not_come_is_named_in_one_line(web: Server, path: str, message: str) -> None:
    said = refusal(f"{web.address}/{path}")
    assert message in said
    assert said.startswith(f"cannot fetch {web.address}/{without_password(path)}: ")
    assert "\n" not in said
    assert "secret" not in said.partition(": ")[2]


def test_size_is_limited_before_and_after_inflating(web: Server) -> None:
    assert len(fetch_image(f"{web.address}/large", largest_bytes=100_000)) == 100_000
    for name in ("large", "bomb"):
        with pytest.raises(DownloadError, match="it is larger than 50,000 bytes; download it by other means"):
            fetch_image(f"{web.address}/{name}", largest_bytes=50_000)


@pytest.mark.parametrize("name", ["endless", "headers"])
def test_time_is_limited_whatever_the_server_draws_out(web: Server, name: str) -> None:
    with pytest.raises(DownloadError, match=f"/{name} takes longer than 0.3 seconds: try again later"):
        fetch_image(f"{web.address}/{name}", deadline_s=0.3)


def test_only_the_web_and_only_online(web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("file:///etc/passwd", "ftp://host/a.jpg", "gopher://host"):
        assert "expected an http or https address" in refusal(address)
    assert "cannot fetch http://[" in refusal("http://[")
    assert "cannot fetch" in refusal("http://127.0.0.1:1/a.jpg")
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    assert "the network is not to be used" in refusal(with_password(web, "/photo.png"))
    assert web.asked == []


# Names and passwords


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_name_and_a_password_are_used_and_never_shown(
    kind: str, web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    address = with_password(web, f"/{kind}", "s%C3%A9%25cret" if kind == "basic" else "secret")
    assert main(["detect", address, "--json", "--save", "images,json,coco,csv"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["source"] == f"{web.address}/{kind}"
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()).decode(errors="replace")
    assert not any(word in text for word in ("cret", "er:s") for text in (written, said.out, said.err))


def test_a_password_that_digest_cannot_carry_is_not_shown(web: Server) -> None:
    said = refusal(with_password(web, "/digest"))
    assert said == (
        f"cannot fetch {web.address}/digest: Digest authentication takes a name and a password of ASCII letters only"
    )


def test_a_wrong_password_is_neither_shown_nor_tried_for_ever(web: Server) -> None:
    for kind in ("basic", "ntlm"):
        assert "wrong" not in refusal(with_password(web, f"/{kind}", "wrong"))
    assert len(web.asked) <= 4


def test_a_password_stays_with_its_host(web: Server) -> None:
    with serving() as other:
        assert fetch_image(with_password(web, f"/to/{other.address}/photo.png")) == png()
        assert [header is not None for _, header in web.asked] == [True]
        assert other.asked == [("/photo.png", None)]
        web.asked.clear()
        assert fetch_image(f"{web.address}/to/{with_password(other, '/basic')}") == png()
        assert web.asked[0][1] is None
    web.asked.clear()
    assert fetch_image(with_password(web, "/to//basic")) == png()
    assert [header is not None for _, header in web.asked] == [True, True]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://a:b@host/x.jpg", "http://host/x.jpg"),
        ("HTTPS://a@host:80/x@2.jpg?q=a@b", "HTTPS://host:80/x@2.jpg?q=a@b"),
        ("http://host/x@2x.jpg", "http://host/x@2x.jpg"),
        ("http://host:8080/x@2x.jpg", "http://host:8080/x@2x.jpg"),
        ("http://[::1]:80/x@2x.jpg", "http://[::1]:80/x@2x.jpg"),
        ("http://a:b@c@host/", "http://host/"),
        ("http://a:b/c@host/", "http://host/"),  # a password that should have been written b%2Fc
        ("http://a:b?c#d@host/x", "http://host/x"),
        ("photo@2x.jpg", "photo@2x.jpg"),
        # Parameters of cameras: only what is secret is hidden.
        ("http://h/v.mjpg?user=me&pwd=hunter2&channel=1", "http://h/v.mjpg?user=me&pwd=***&channel=1"),
        ("rtsp://h:554/user=me_password=hunter2_channel=1", "rtsp://h:554/user=me_password=***"),
        ("rtsp://h/1?access_token=hunter2#t", "rtsp://h/1?access_token=***#t"),
        (
            "https://h/a.png?X-Amz-Expires=9&X-Amz-Signature=hunter2",
            "https://h/a.png?X-Amz-Expires=9&X-Amz-Signature=***",
        ),
        ("https://h/a.png?api_key=hunter2&Key=hunter2", "https://h/a.png?api_key=***&Key=***"),
        ("http://h/monkey=3?keyword=cat&passage=2", "http://h/monkey=3?keyword=cat&passage=2"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_a_password_that_must_be_encoded_is_explained_and_not_shown() -> None:
    said = refusal("http://a:b/c@127.0.0.1:1/x.jpg")
    assert said == (
        "cannot fetch http://127.0.0.1:1/x.jpg: write / as %2F, ? as %3F, # as %23 and @ as %40 in its password"
    )


# Addresses that hold the image, and addresses from Python


def test_a_data_address_is_read_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    text = base64.b64encode(png()).decode()
    for address in (f"data:image/png;base64,{text}", "data:image/png," + "".join(f"%{byte:02x}" for byte in png())):
        [found] = read_sources([address])
        assert isinstance(found, SourceImage)
        assert found.image.max() == 50
        assert (found.source, str(found.name)) == (address[:40] + "…", "data.png")
        assert as_pixels(address).max() == 50
    assert "it is not valid base64" in refusal("data:image/png;base64,*")
    assert refusal("data:,hello").startswith("data:,hello: ")
    with pytest.raises(DownloadError, match="holds more than 10 bytes"):
        fetch_image(f"data:;base64,{text}", largest_bytes=10)


def test_an_address_works_from_python(web: Server) -> None:
    found = Detector("person")(f"{web.address}/photo.png")
    assert found.image_size_hw == (4, 6)
    assert np.asarray(found.draw(f"{web.address}/photo.png")).shape == (4, 6, 3)
    with pytest.raises(DownloadError, match=f"cannot fetch {web.address}/missing: the server answers 404"):
        as_pixels(f"{web.address}/missing")
    with pytest.raises(InputError, match=rf"{web.address}/large: the content \(100000 bytes\) is not an image"):
        as_pixels(f"{web.address}/large")
    with pytest.raises(InputError, match="is an address in a Path, where it loses a slash: give it as text"):
        as_pixels(Path(f"{web.address}/photo.png"))
