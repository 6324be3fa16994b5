"""The server's certificate, which is read again when its files change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path
from typing import NamedTuple

from phidet.core.errors import ConfigError

POLL_SECONDS = 1.0
log = logging.getLogger("phidet.serve")


class Chain(NamedTuple):
    """A certificate with those that it depends on, and its key, both as PEM."""

    certificate: bytes
    key: bytes


class Certificate:
    """A certificate and its key in two files. Renewed files that do not fit each other change nothing.

    Args:
        certificate: PEM, with those between it and the root behind it.
        key: PEM, without a password.

    Attributes:
        context: for TLS over HTTP; ``follow`` keeps it up to date.
        chain: the same, as it is in the files.

    Raises:
        ConfigError: the files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self.context = _context(certificate, key)
        self.chain = self._read()

    async def follow(self) -> None:
        """Loads renewed files until it is cancelled; connections that there are go on with the old ones."""
        refused: Chain | None = None
        while True:
            await asyncio.sleep(POLL_SECONDS)
            # Not there, or only one of the two is written: the next look will find both.
            with contextlib.suppress(OSError):
                found = await asyncio.to_thread(self._read)
                if found in (self.chain, refused):
                    continue
                try:
                    # Tried in a context of its own first: a key that does not fit would spoil the present one.
                    await asyncio.to_thread(_context, self._certificate, self._key)
                    self.context.load_cert_chain(self._certificate, self._key)
                except (ConfigError, ssl.SSLError) as error:
                    refused = found
                    log.error("the renewed certificate is not used: %s", error)
                    continue
                self.chain = found
                log.info("the certificate of %s is used from now on", self._certificate)

    def _read(self) -> Chain:
        return Chain(self._certificate.read_bytes(), self._key.read_bytes())


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password would be asked for on a terminal that a server may not have.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot use the certificate {certificate} with the key {key}: {reason}") from error
    return context
