"""TLS for HTTP and gRPC, and certificates that are renewed while the server runs."""

from __future__ import annotations

import logging
import ssl
import urllib.request
from pathlib import Path

import pytest

from certificates import OPENSSL, Files, make_certificate
from phidet.cli.main import main
from phidet.core.errors import ConfigError
from phidet.serve.server import Network
from phidet.serve.tls import Certificate
from serve_server import Server, one_model, until

grpc = pytest.importorskip("grpc", reason="no grpcio here: pip install 'phidet[grpc]'")
from serve_grpc import IMAGE, client, predict_request  # noqa: E402

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl here: apt-get install openssl")


def over_https(server: Server, files: Files) -> int:
    context = ssl.create_default_context(cafile=files.certificate)
    with urllib.request.urlopen(f"https://localhost:{server.port}/v2/health/ready", context=context) as reply:
        return int(reply.status)


def over_grpc(server: Server, files: Files) -> int:
    credentials = grpc.ssl_channel_credentials(files.certificate.read_bytes())
    with client(server, credentials) as asked:
        return int(asked.predict(predict_request(IMAGE))["num_detections"][0])


def trusts(server: Server, files: Files) -> bool:
    try:
        return over_https(server, files) == 200
    except OSError:
        return False


def test_both_speak_tls_and_take_renewed_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("phidet.serve.tls.POLL_SECONDS", 0.05)
    files = make_certificate(tmp_path / "served")
    network = Network(grpc_port=0, certificate=Certificate(*files))
    with one_model(tmp_path, network=network) as server:
        assert (over_https(server, files), over_grpc(server, files)) == (200, 2)
        with client(server) as plain, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            plain.predict(predict_request(IMAGE))
        old = make_certificate(tmp_path / "other")  # stands for the certificate before it is renewed
        old.certificate.write_bytes(files.certificate.read_bytes())
        # Only one of two files is new yet: they do not fit each other, and what is in use stays.
        renewed = make_certificate(tmp_path / "renewed")
        with caplog.at_level(logging.ERROR, "phidet.serve"):
            files.certificate.write_bytes(renewed.certificate.read_bytes())
            until(lambda: "the renewed certificate is not used" in caplog.text)
        assert (over_https(server, old), over_grpc(server, old)) == (200, 2)
        files.key.write_bytes(renewed.key.read_bytes())
        until(lambda: trusts(server, renewed))
        assert over_grpc(server, renewed) == 2
        assert not trusts(server, old)


def test_files_that_are_no_certificate_are_said(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    for certificate, key in ((tmp_path / "nothing", files.key), (files.key, files.key), (files.certificate, tmp_path)):
        with pytest.raises(ConfigError, match="cannot use the certificate"):
            Certificate(certificate, key)


def test_the_command_wants_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").mkdir()
    assert main(["serve", "--model_base_path", str(tmp_path / "m"), "--tls_cert", "a.pem"]) != 0
    assert "expected --tls_cert FILE and --tls_key FILE together" in capsys.readouterr().err
