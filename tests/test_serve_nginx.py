"""The server behind a real nginx with the configuration that deploy/ has: prefix, TLS, page, REST and gRPC."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from certificates import OPENSSL, Files, make_certificate
from ports import reserved_port
from serve_server import BODY, PREDICT, Server, one_model, until

grpc = pytest.importorskip("grpc", reason="no grpcio here: pip install 'phidet[grpc]'")
from serve_grpc import IMAGE, ON, Client, infer_request, predict_request, tensors_of  # noqa: E402
from test_serve_page import CHROMIUM, DRIVER, chromium_with  # noqa: E402

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx.conf"
pytestmark = pytest.mark.skipif(
    not (NGINX and OPENSSL), reason="no nginx or openssl here: apt-get install nginx openssl"
)


class Proxy(NamedTuple):
    """nginx in front of a server."""

    server: Server
    port: int
    files: Files

    def get(self, path: str, data: bytes | None = None) -> tuple[int, str, bytes]:
        """Status, where it came from after redirects, and body."""
        context = ssl.create_default_context(cafile=self.files.certificate)
        with urllib.request.urlopen(f"https://localhost:{self.port}{path}", data, context=context) as reply:
            return reply.status, reply.url, reply.read()


@contextmanager
def behind_nginx(folder: Path, server: Server, replaced: dict[str, str] | None = None) -> Iterator[Proxy]:
    """Runs nginx with the configuration of ``deploy/``, in which ports and files are those of the test."""
    files = make_certificate(folder / "tls")
    (folder / "nginx").mkdir()
    with reserved_port() as port:
        text = CONFIGURATION.read_text()
        for old, new in {
            "127.0.0.1:8501": f"127.0.0.1:{server.port}",
            "127.0.0.1:8500": f"127.0.0.1:{server.grpc_port}",
            "listen 443 ": f"listen 127.0.0.1:{port} ",
            "/etc/nginx/tls.crt": str(files.certificate),
            "/etc/nginx/tls.key": str(files.key),
            **(replaced or {}),
        }.items():
            assert old in text
            text = text.replace(old, new)
        paths = "".join(
            f"{kind}_temp_path {folder}/nginx/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"daemon off;\nerror_log {folder}/error.log;\npid {folder}/nginx/pid;\n{user}events {{ }}\n"
            f"http {{\naccess_log off;\n{paths}{text}\n}}\n"
        )
        assert NGINX is not None
        process = subprocess.Popen(
            [NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "e")]
        )
        proxy = Proxy(server, port, files)
        try:
            until(lambda: process.poll() is not None or _answers(proxy))
            assert process.poll() is None, (folder / "error.log").read_text()
            yield proxy
        finally:
            process.terminate()
            process.wait()


def _answers(proxy: Proxy) -> bool:
    try:
        return proxy.get("/detect/v2/health/ready")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxied")
    with one_model(folder, network=ON, prefix="/detect") as server, behind_nginx(folder, server) as found:
        yield found


@contextmanager
def channel(proxy: Proxy) -> Iterator[Client]:
    credentials = grpc.ssl_channel_credentials(proxy.files.certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{proxy.port}", credentials) as found:
        yield Client(found)


def test_rest_is_below_the_prefix(proxy: Proxy) -> None:
    _, _, through = proxy.get(f"/detect{PREDICT}", json.dumps(BODY).encode())
    assert json.loads(through) == proxy.server.post(PREDICT, BODY).json
    status, url, page = proxy.get("/detect")
    assert (status, url) == (200, f"https://localhost:{proxy.port}/detect/"), "redirected, for its links are relative"
    assert page == proxy.server.get("/").body
    assert json.loads(proxy.get("/detect/openapi.json")[2])["servers"] == [{"url": "/detect"}]
    assert proxy.server.get("/detect").headers["location"] == "/detect/", "the server says the same without nginx"
    with pytest.raises(urllib.request.HTTPError, match="404"):
        proxy.get("/v2")


def test_a_proxy_that_cuts_the_prefix_off_serves_the_same(tmp_path: Path) -> None:
    cut = {"proxy_pass http://phidet_rest;": "proxy_pass http://phidet_rest/;"}
    with one_model(tmp_path, network=ON, prefix="/detect") as server, behind_nginx(tmp_path, server, cut) as proxy:
        assert proxy.get("/detect/")[2] == server.get("/").body
        _, _, through = proxy.get(f"/detect{PREDICT}", json.dumps(BODY).encode())
        assert json.loads(through) == server.post(PREDICT, BODY).json


def test_grpc_of_both_protocols_and_a_stream(proxy: Proxy) -> None:
    with channel(proxy) as asked:
        found = asked.predict(predict_request(IMAGE))
        same = asked.infer(infer_request(IMAGE))
        answers = list(asked.stream([infer_request(IMAGE, request_id=str(i)) for i in range(20)]))
        assert asked.raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as error:
            asked.predict(predict_request(IMAGE, name="x"))
    assert error.value.code().name == "NOT_FOUND"
    assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(20)]
    for name, value in found.items():
        np.testing.assert_array_equal(same[name], value)
        np.testing.assert_array_equal(tensors_of(answers[-1].infer_response)[name], value)


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver")
def test_the_page_works_below_the_prefix(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(IMAGE)
    with chromium_with("--ignore-certificate-errors") as driver:  # the test's authority is not the browser's

        def find(selector: str) -> list[Any]:
            return list(driver.find_elements("css selector", selector))

        driver.get(f"https://localhost:{proxy.port}/detect")
        until(lambda: len(find("#model option")) > 0)
        find("#file")[0].send_keys(str(tmp_path / "picture.png"))
        until(lambda: len(find("#boxes g")) == 2)
        find("a[href=docs]")[0].click()
        until(lambda: "/detect/v1/models" in driver.page_source or "/v1/models" in driver.page_source)
        assert driver.current_url == f"https://localhost:{proxy.port}/detect/docs"
        find("header a")[0].click()
        until(lambda: len(find("#model option")) > 0)
        assert driver.current_url == f"https://localhost:{proxy.port}/detect/"
        driver.get(f"https://localhost:{proxy.port}/detect/watch")
        until(lambda: "no camera is watched" in find("#status")[0].text)
        assert not [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
