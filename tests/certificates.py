"""Certificates for tests, made by OpenSSL where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

OPENSSL = shutil.which("openssl")


class Files(NamedTuple):
    """A certificate for localhost, which is its own authority, and its key."""

    certificate: Path
    key: Path


def make_certificate(folder: Path, name: str = "localhost") -> Files:
    """Writes a new certificate over one that is there."""
    assert OPENSSL is not None
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / "tls.crt", folder / "tls.key")
    subprocess.run(
        [
            OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(files.key), "-out", str(files.certificate),
        ],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    return files
