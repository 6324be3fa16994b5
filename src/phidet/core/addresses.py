"""Addresses as text: what is one, and how it is shown."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:[^,]*,")
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
# Many cameras take them as parameters, some of them in the path: /user=admin_password=…_channel=1.
_SECRET = re.compile(
    r"((?:^|[?&;/_])(?:[a-z_-]*(?:password|passwd|token|secret|signature)|pass|pwd|psw|pw|auth|(?:api_?)?key|sig)=)[^&;/#]+",
    re.IGNORECASE,
)
_SHOWN = 40  # characters of a data address

LARGEST_BYTES = 64 * 2**20
"""Of an image that comes from an address or a pipe."""


def is_address(text: str) -> bool:
    """Whether ``text`` is an address, ``scheme://…`` or ``data:…,…``, rather than a path."""
    return _ADDRESS.match(text) is not None


def without_password(url: str) -> str:
    """``url`` for people, reports and logs: without the name and password that may stand before its host, with ``***``
    for the values of parameters that are called password, token, key and the like; of a data address only the
    beginning.
    """
    match = _AUTHORITY.fullmatch(url)
    if match is None:
        return f"{url[:_SHOWN]}…" if url.startswith("data:") and len(url) > _SHOWN else url
    scheme, authority, rest = match.groups()
    if has_password_in_path(url):
        return scheme + _SECRET.sub(r"\1***", rest.rpartition("@")[2])
    return scheme + authority.rpartition("@")[2] + _SECRET.sub(r"\1***", rest)


def has_password_in_path(url: str) -> bool:
    """Whether a password with / ? or # in it, unencoded, ends the host too early: then its port is no number."""
    match = _AUTHORITY.fullmatch(url)
    if match is None or "@" in match[2] or "@" not in match[3]:
        return False
    # The brackets of an IPv6 address hold colons, too.
    port = re.sub(r"^\[.*\]", "", match[2]).partition(":")[2]
    return bool(port) and not port.isdecimal()
