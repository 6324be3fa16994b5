"""Fetches images whose address the user gives: http and https only, of bounded size, in bounded time."""

from __future__ import annotations

import os
import time
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from phidet.core.errors import DownloadError

LARGEST_BYTES = 64 * 2**20
TIMEOUT_S = 10.0  # for each read: the longest silence of the server
DEADLINE_S = 60.0  # for the whole download
_CHUNK_BYTES = 2**16


def fetch_picture(url: str, largest_bytes: int = LARGEST_BYTES, deadline_s: float = DEADLINE_S) -> bytes:
    """The body at ``url``.

    Redirects are followed to http and https only, and never from https to http.

    Raises:
        DownloadError: it could not be fetched, is larger, or takes longer; or the network is not to be used
            (``PHIDET_OFFLINE``).
    """
    if wants_offline():
        raise DownloadError(f"{url} is not fetched: the network is not to be used (--offline, or PHIDET_OFFLINE)")
    ends = time.monotonic() + deadline_s
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise DownloadError(f"cannot fetch {url}: expected an http or https address")
        opener = build_opener(_WebRedirects)
        response: HTTPResponse
        with opener.open(
            Request(_ascii(url), headers={"User-Agent": "phidet"}), timeout=min(TIMEOUT_S, deadline_s)
        ) as response:
            body = bytearray()
            # read1 returns what has arrived: read would wait for a full chunk, and a slow server could exceed the
            # deadline.
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > largest_bytes:
                    raise DownloadError(f"{url} is larger than {largest_bytes:,} bytes: download it by other means")
                if time.monotonic() > ends:
                    raise DownloadError(f"{url} takes longer than {deadline_s:g} seconds: try again later")
            if response.length:  # bytes that Content-Length announced and that did not arrive
                raise DownloadError(f"{url} ended {response.length:,} bytes early: try again")
            return bytes(body)
    except HTTPError as error:
        error.close()
        raise DownloadError(f"cannot fetch {url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise DownloadError(f"cannot fetch {url}: {reason}") from error


def _ascii(url: str) -> str:
    """The address in ASCII: non-ASCII characters percent-encoded, those of the host in IDNA."""
    parts = urlsplit(url)
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    # "%" is safe, since an address may be encoded already and must not be encoded twice.
    path, query = (quote(text, safe="/%:;=@&+$,!~*'()?") for text in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))


def wants_offline() -> bool:
    """Whether ``PHIDET_OFFLINE`` forbids use of the network."""
    return os.environ.get("PHIDET_OFFLINE", "").strip().lower() in ("1", "true", "yes")


class _WebRedirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        # urllib would also follow a redirect to ftp, and from https to http.
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise DownloadError(f"cannot fetch {req.full_url}: the server redirects from {req.type} to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
