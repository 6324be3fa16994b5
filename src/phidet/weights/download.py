"""Fetches published files into one cache folder.

A file is downloaded to ``NAME.part``. An interrupted transfer leaves it behind, with the server's tag of this version
of the file in ``NAME.part.version``, and the next one requests only the rest. A complete file is checked against the
published SHA-256 and then renamed, so ``NAME`` is always complete.

An existing file is used as it is, without network access or checksum: hashing hundreds of megabytes at every start is
slow, and a file that was put there manually is meant. The checksums are the eight digits of the file names; they detect
damage, while https authenticates the sender.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from phidet.architectures.published_file import PublishedFile
from phidet.core.addresses import without_password
from phidet.core.errors import DownloadError
from phidet.core.files import cache_dir
from phidet.core.web import Answer, ConnectionLostError, WebError, open_url, wants_offline

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TIMEOUT_S = 15.0
"""Maximum time without data from the server."""
RETRY_PAUSES_S: tuple[float, ...] = (0.5, 2.0)
"""Waits before each further attempt after a lost connection."""
LOCK_POLL_S = 0.1

log = logging.getLogger("phidet")


def fetch(file: PublishedFile, offline: bool | None = None, progress: bool = True) -> Path:
    """The local path of ``file``, after a download if it is not in :func:`cache_dir` yet.

    Several processes may ask at once: one downloads, the others wait for it.

    Args:
        file: what to fetch.
        offline: never use the network; left out, $PHIDET_OFFLINE (1, true, yes) decides.
        progress: show a progress bar where stderr is a terminal.

    Raises:
        DownloadError: it could not be fetched or written; the message says where to put it manually.
    """
    target = cache_dir() / file.name
    try:
        if target.is_file():
            return target
        if wants_offline() if offline is None else offline:
            raise WebError("the network is not to be used (offline, or PHIDET_OFFLINE is set)")
        _check_address(file.url)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{file.name}.lock")):
            if not target.is_file():  # another process may have downloaded it meanwhile
                log.info("downloading %s, %s", file.url, file.licence)
                _download(file, target, progress)
    except WebError as error:
        raise DownloadError(
            f"cannot download {file.url}: {error}. Or bring it from elsewhere and put it at {target}"
        ) from error
    except OSError as error:  # those of the network are WebError by now
        raise DownloadError(
            f"cannot write {target}: {error.strerror or error}. Free some space there, or set PHIDET_CACHE to a folder "
            f"that can be written, for {file.url}"
        ) from error
    return target


def _check_address(url: str) -> None:
    """Raises WebError unless ``url`` is https, or http on this machine."""
    address = urlsplit(url)
    # Plain http could be changed on the way, and the eight digits of a checksum are no signature.
    loopback = address.scheme == "http" and address.hostname in ("127.0.0.1", "::1", "localhost")
    if address.scheme != "https" and not loopback:
        raise WebError(f"{without_password(url)} is not an https address")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file ``path``. The file is kept, as removing it would race; the lock ends with its process."""
    with path.open("ab") as file:
        if not _try_lock(file.fileno()):
            log.info("waiting for another process that downloads %s", path.stem)
            while not _try_lock(file.fileno()):
                time.sleep(LOCK_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # held by another process: Linux raises the one, Windows the other
        return False
    return True


def _download(file: PublishedFile, target: Path, progress: bool) -> None:
    """Downloads ``target`` completely and checks it."""
    part = target.with_name(f"{file.name}.part")
    version = target.with_name(f"{file.name}.part.version")
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            _transfer(file.url, part, version, progress)
            break
        except ConnectionLostError:
            if pause_s is None:
                raise
            time.sleep(pause_s)
    # Over the whole file: what an earlier attempt left is checked with the rest.
    with part.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    version.unlink()
    if not digest.startswith(file.sha256_prefix):
        part.unlink()
        raise WebError(
            f"what arrived is not what was published (SHA-256 {digest}, expected {file.sha256_prefix}…) and was deleted"
        )
    part.replace(target)


def _transfer(url: str, part: Path, version: Path, progress: bool) -> None:
    """Downloads the rest of ``part`` if the server still has that ``version`` of the file, else all of it."""
    resumable = part.is_file() and version.is_file()
    answer, start = _open(url, part.stat().st_size, version.read_text()) if resumable else _open(url)
    with answer, part.open("ab" if start else "wb") as sink:
        if not start:
            version.write_text(_version(answer))  # only now, when nothing of an older version is left in the part
        with tqdm(
            desc=part.stem,
            total=None if answer.length is None else start + answer.length,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,  # None: unless stderr is a terminal
        ) as bar:
            for chunk in answer.chunks():
                sink.write(chunk)
                bar.update(len(chunk))
        # On the disk before it gets its name: a power cut would else leave a whole name for half a file.
        sink.flush()
        os.fsync(sink.fileno())


def _open(url: str, have: int = 0, version: str = "") -> tuple[Answer, int]:
    """Requests the file from byte ``have`` on, or from 0 if the server no longer has that ``version`` of it.

    Returns:
        The answer, and the position in the file at which its body starts.
    """
    resuming = have > 0 and version != ""
    headers = {"Range": f"bytes={have}-", "If-Range": version} if resuming else {}
    try:
        answer = open_url(url, _check_address, TIMEOUT_S, headers)
    except WebError as error:
        if resuming and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url)
        raise
    if not resuming or answer.status != HTTPStatus.PARTIAL_CONTENT:
        return answer, 0
    if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") and _version(answer) == version:
        return answer, have
    with answer:  # the rest of another version: this server ignores If-Range
        return _open(url)


def _version(answer: Answer) -> str:
    """Identifies this version of the file in an If-Range header; empty if the server sends no identifier, or
    a compressed file, whose bytes are not those of the part.
    """
    if answer.encodings:
        return ""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")  # no weak tags
