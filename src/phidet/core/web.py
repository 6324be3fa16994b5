"""The one HTTP client: addresses with passwords, redirects, content encodings, and what went wrong in one line."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import (
    BaseHandler,
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithPriorAuth,
    HTTPRedirectHandler,
    Request,
    build_opener,
)

from phidet.core.addresses import has_password_in_path, without_password

_CHUNK_BYTES = 1 << 18
_GZIP_FIRST_BYTE, _ZLIB_DEFLATE = 0x1F, 8
_GZIP_OR_ZLIB, _RAW_DEFLATE = 47, -15  # window sizes, as zlib.decompressobj takes them


class WebError(Exception):
    """A request failed, for the reason in the message, which never holds a password.

    Attributes:
        status: of the server's answer; ``None`` where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ConnectionLostError(WebError):
    """No connection, or it ended too early, or the server has trouble of its own: another attempt may succeed."""


def wants_offline() -> bool:
    """Whether ``PHIDET_OFFLINE`` says that the network is not to be used."""
    return os.environ.get("PHIDET_OFFLINE", "").strip().lower() in ("1", "true", "yes")


def open_url(
    url: str, check_url: Callable[[str], None], timeout_s: float, headers: Mapping[str, str] | None = None
) -> Answer:
    """Asks for ``url``.

    A name and a password in the address go to its host only, as Basic authentication, or as Digest where the server
    asks for that.

    Args:
        url: http or https.
        check_url: is called with each address before it is asked for, the ones of redirects too; raises WebError for
            those that are not wanted.
        timeout_s: how long the server may stay silent.
        headers: of the request.

    Raises:
        WebError: it could not be had.
        ConnectionLostError: another attempt may succeed.
    """
    try:
        redirects = _Redirects(check_url)
        request = Request(redirects.prepared(url), headers={"User-Agent": "phidet", **(headers or {})})
        response: HTTPResponse = build_opener(*redirects.handlers).open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        kind = ConnectionLostError if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR else WebError
        hint = ""
        if error.code == HTTPStatus.UNAUTHORIZED:
            hint = ": give a valid name and password in the address, as in http://NAME:PASSWORD@host/"
        raise kind(f"the server answers {error.code} {_reason(error)}{hint}", error.code) from None
    except (OSError, HTTPException) as error:
        raise ConnectionLostError(_reason(error)) from error
    except UnicodeEncodeError as error:
        if error.encoding == "ascii":  # urllib's digest
            raise WebError("Digest authentication takes a name and a password of ASCII letters only") from None
        raise WebError(f"its host is no valid name: {error.reason}") from None
    except ValueError as error:
        if "does not support the following scheme" in str(error):  # urllib's words
            raise WebError("the server asks for another kind of authentication than Basic and Digest") from error
        raise WebError(_reason(error)) from error
    return Answer(response)


class Answer:
    """What a server answers; ``with`` closes it.

    Attributes:
        status: 200, 206, …
        headers: by name, in any case.
        media_type: in small letters, without parameters; "" where the server gives none.
        encodings: of the body (Content-Encoding), as they were applied; ``chunks`` undoes them.
    """

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response
        self.status, self.headers = response.status, response.headers
        # http.client says text/plain where there is no Content-Type.
        self.media_type = self.headers.get_content_type() if "Content-Type" in self.headers else ""
        self.encodings = [word.strip().lower() for word in self.headers.get("Content-Encoding", "").split(",")]
        self.encodings = [word for word in self.encodings if word not in ("", "identity")]

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come, ``None`` where the server does not tell."""
        return None if self.encodings else self._response.length

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes, without its content encodings; each chunk is at most 256 KiB.

        Raises:
            ConnectionLostError: it ended too early.
            WebError: of an encoding that is not known, or damaged.
        """
        # In reverse: the encoding that was applied last is undone first.
        chunks = self._received()
        for name in reversed(self.encodings):
            if name not in ("gzip", "x-gzip", "deflate"):
                raise WebError(f"the server sent it compressed ({name}), which was not asked for")
            chunks = _inflated(chunks)
        yield from chunks

    def _received(self) -> Iterator[bytes]:
        try:
            while chunk := self._response.read1(_CHUNK_BYTES):
                yield chunk
        except (OSError, HTTPException) as error:
            raise ConnectionLostError(_reason(error)) from error
        if self._response.length:
            raise ConnectionLostError(f"the connection ended {self._response.length:,} bytes early: try again")


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Undoes gzip, which may come in several members, or deflate, with zlib's header or without."""
    inflater = None
    ended = False
    try:
        for chunk in chunks:
            rest = chunk
            while rest and not ended:
                if inflater is None:
                    headed = rest[0] == _GZIP_FIRST_BYTE or rest[0] & 0x0F == _ZLIB_DEFLATE
                    inflater = zlib.decompressobj(_GZIP_OR_ZLIB if headed else _RAW_DEFLATE)
                inflated = inflater.decompress(rest, _CHUNK_BYTES)
                yield inflated
                # A full chunk may have left more inside, for which no further input is needed.
                while len(inflated) == _CHUNK_BYTES and not inflater.unconsumed_tail and not inflater.eof:
                    yield (inflated := inflater.decompress(b"", _CHUNK_BYTES))
                rest = inflater.unconsumed_tail
                if inflater.eof:
                    rest, inflater = inflater.unused_data, None
                    ended = bool(rest) and rest[0] != _GZIP_FIRST_BYTE  # padding, as gzip's own tool ignores it
    except zlib.error as error:
        raise WebError(f"the server sent it compressed, and damaged: {error}") from error
    if inflater is not None:
        raise ConnectionLostError("the connection ended early: try again")


class _Redirects(HTTPRedirectHandler):
    """Checks each address of a request, follows redirects, never from https to http, and keeps passwords with hosts."""

    handler_order = 100  # before those for 401, which leave the answer open

    def __init__(self, check_url: Callable[[str], None]) -> None:
        self._check_url = check_url
        self._passwords = HTTPPasswordMgrWithPriorAuth()
        self.handlers: list[BaseHandler] = [
            self,
            HTTPBasicAuthHandler(self._passwords),
            HTTPDigestAuthHandler(self._passwords),
        ]

    def prepared(self, url: str) -> str:
        """``url`` as it goes over the wire: its password remembered apart, other letters percent-encoded, the host in
        IDNA.

        Raises:
            WebError: it is no address, or none that is wanted.
        """
        self._check_url(url)
        if has_password_in_path(url):
            raise WebError("write / as %2F, ? as %3F, # as %23 and @ as %40 in its password")
        parts = urlsplit(url)
        credentials, _, host = parts.netloc.rpartition("@")
        # The host alone goes through IDNA: paths are percent-encoded, and a password stays as it is.
        if not host.isascii():
            host = host.encode("idna").decode()
        path, query = (quote(text, safe="/%:;=@&+$,!~*'()?") for text in (parts.path, parts.query))
        if credentials:
            name, _, password = credentials.partition(":")
            place = urlunsplit((parts.scheme, host, "/", "", ""))
            self._passwords.add_password(None, place, unquote(name), unquote(password), is_authenticated=True)
        return urlunsplit((parts.scheme, host, path, query, ""))

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        try:
            if req.type == "https" and urlsplit(newurl).scheme != "https":
                raise WebError(f"the server redirects from https to {without_password(newurl)}")
            target = self.prepared(newurl)
        except BaseException:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, target)

    def http_error_401(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> None:
        """Closes what no handler after this one reads."""
        fp.close()


def _reason(error: Exception) -> str:
    """What went wrong, in one line, without urllib's wrapping and without passwords."""
    text = " ".join(str(getattr(error, "reason", error)).split())
    return re.sub(r"//[^/\s]*@", "//", text) or type(error).__name__
