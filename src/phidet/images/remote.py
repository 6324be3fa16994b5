"""Fetches images whose address the user gives: http, https and data only, of bounded size, in bounded time."""

from __future__ import annotations

import base64
import binascii
import time
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import unquote_to_bytes, urlsplit

from phidet.core.addresses import LARGEST_BYTES, without_password
from phidet.core.errors import DownloadError
from phidet.core.web import WebError, open_url, wants_offline

TIMEOUT_S = 10.0  # for each read: the longest silence of the server
DEADLINE_S = 60.0  # for the whole download


def fetch_image(url: str, largest_bytes: int = LARGEST_BYTES, deadline_s: float = DEADLINE_S) -> bytes:
    """The image at ``url``, encoded as it is there.

    Redirects are followed to http and https only, and never from https to http. A name and a password in the address
    are for its host alone and are in no message.

    Raises:
        DownloadError: it could not be fetched, is larger, or takes longer; it is a web page or a video; or the network
            is not to be used (``PHIDET_OFFLINE``).
    """
    shown = without_password(url)
    if url.startswith("data:"):
        return _of_data_address(url, shown, largest_bytes)
    if wants_offline():
        raise DownloadError(f"{shown} is not fetched: the network is not to be used (--offline, or PHIDET_OFFLINE)")
    # In a thread of its own, as a server can draw out names, handshakes and headers at will, byte by byte; none of
    # Python's timeouts covers the whole. The thread ends with its connection, or with the process.
    results: SimpleQueue[bytes | Exception] = SimpleQueue()
    ends = time.monotonic() + deadline_s
    Thread(target=lambda: results.put(_fetched(url, largest_bytes, ends)), daemon=True).start()
    try:
        result = results.get(timeout=deadline_s)
    except Empty:
        result = _TooLateError()
    if isinstance(result, bytes):
        return result
    if isinstance(result, _TooLateError):
        raise DownloadError(f"{shown} takes longer than {deadline_s:g} seconds: try again later")
    if isinstance(result, WebError):
        raise DownloadError(f"cannot fetch {shown}: {result}") from result
    raise result


class _TooLateError(Exception):
    """The time is over."""


def _fetched(url: str, largest_bytes: int, ends: float) -> bytes | Exception:
    """The body, or what went wrong."""
    try:
        with open_url(url, _check_scheme, TIMEOUT_S) as answer:
            _check_kind(answer.media_type)
            body = bytearray()
            for chunk in answer.chunks():
                body += chunk
                if len(body) > largest_bytes:
                    return WebError(f"it is larger than {largest_bytes:,} bytes; download it by other means")
                if time.monotonic() > ends:
                    return _TooLateError()
        _check_content(answer.media_type, bytes(body[:1024]))
        return bytes(body)
    except Exception as error:  # raised again by the waiting thread
        return error


def _check_scheme(url: str) -> None:
    """Raises WebError unless ``url`` is an http or https address."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise WebError(f"expected an http or https address, got {without_password(url)}")


def _check_kind(media_type: str) -> None:
    """Raises WebError for what is no single image, before it is fetched: some of it never ends."""
    if media_type.startswith("multipart/"):
        raise WebError(
            f"it is a stream of images ({media_type}), which does not end: expected one image; cameras have an address "
            "for snapshots, too"
        )
    if media_type.startswith(("video/", "audio/")):
        raise WebError(f"it is {media_type}, expected an image: download it, and give the file")


def _check_content(media_type: str, beginning: bytes) -> None:
    """Raises WebError for text that is declared as text: a page around an image, a login, an error with status 200."""
    if media_type.startswith("text/") or media_type in ("application/json", "application/xhtml+xml"):
        try:
            is_text = "\0" not in beginning.decode(errors="strict")
        except UnicodeDecodeError as error:
            is_text = error.reason == "unexpected end of data"  # cut in the middle of a letter
        if is_text:
            raise WebError(f"the server sent {media_type}, expected an image: give the address of the image itself")


def _of_data_address(url: str, shown: str, largest_bytes: int) -> bytes:
    """What the address itself holds (RFC 2397)."""
    head, _, data = url.partition(",")
    content = unquote_to_bytes(data)
    if head.endswith(";base64"):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise DownloadError(f"cannot read {shown}: it is not valid base64 ({error})") from error
    if len(content) > largest_bytes:
        raise DownloadError(f"{shown} holds more than {largest_bytes:,} bytes: write them to a file")
    return content
