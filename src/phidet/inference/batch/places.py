"""Files on this machine and in object stores, by fsspec: listed, read, and written as a whole or not at all."""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import suppress
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from phidet.core.addresses import without_password
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.core.optional import optional_package
from phidet.detections.sinks.base import readable

log = logging.getLogger("phidet")
_TEMPORARY = ".part"


class Place(NamedTuple):
    """A folder, a file or a pattern in a file system.

    Attributes:
        address: as the user gave it.
        fs: fsspec's file system.
        path: in it.
    """

    address: str
    fs: Any
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's file systems, which rename atomically."""
        protocol = self.fs.protocol  # one, or several
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)

    def file(self, name: str) -> Place:
        """A file or folder below this one."""
        return Place(f"{self.address.rstrip('/')}/{name}", self.fs, f"{self.path.rstrip('/')}/{name}")


def place_of(address: str) -> Place:
    """The place that an address or a path means: ``s3://bucket/folder``, ``gs://…``, ``folder``.

    Raises:
        MissingExtraError: fsspec is not installed.
        ConfigError: there is no file system of that kind, or its package is not installed.
    """
    url_to_fs = optional_package("fsspec.core", "phidet batch", "batch").url_to_fs
    try:
        fs, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {without_password(address)}: {error}") from error
    place = Place(address, fs, path)
    # Absolute on this machine: workers may have another current folder.
    return place._replace(address=path) if place.is_local else place


def read_bytes(place: Place, most: int) -> bytes:
    """The content of a file.

    Raises:
        InputError: it is missing, cannot be read, or is larger than ``most`` bytes.
    """
    shown = without_password(place.address)
    try:
        # One byte more than the limit tells "too large" from "just fits", and is not refused by file systems.
        content: bytes = place.fs.cat_file(place.path, start=0, end=most + 1)
    except Exception as error:  # file systems raise what their clients raise
        raise InputError(f"cannot read {shown}: {_reason(error)}") from error
    if len(content) > most:
        raise InputError(f"{shown} is larger than {most:,} bytes")
    return content


def open_file(place: Place) -> IO[bytes]:
    """An open file for reading.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        opened: IO[bytes] = place.fs.open(place.path, "rb")
    except Exception as error:
        raise InputError(f"cannot read {without_password(place.address)}: {_reason(error)}") from error
    return opened


def files_below(place: Place) -> dict[str, int]:
    """Name relative to the place → size in bytes, of all files below a folder, in the order of names; of one file, and
    of a pattern, those that match. Hidden ones, and those that begin with ``_``, are left out.

    Raises:
        InputError: it cannot be listed.
    """
    try:
        pattern = any(letter in place.path for letter in "*?[")
        if pattern:
            found = place.fs.glob(place.path, detail=True)
        else:
            place.fs.invalidate_cache()  # another process may have written since
            found = place.fs.find(place.path, detail=True) if place.fs.exists(place.path) else {}
    except Exception as error:
        raise InputError(f"cannot list {without_password(place.address)}: {_reason(error)}") from error
    root = PurePosixPath(folder_of(place).path)
    sizes = {}
    for path, about in found.items():
        name = PurePosixPath(path).relative_to(root) if PurePosixPath(path) != root else PurePosixPath(path).name
        # What a link leads to counts, as in a folder for 'phidet detect'.
        if about.get("islink") and place.fs.isfile(path):
            about = place.fs.info(path)
        if about.get("type", "file") != "file" or _is_hidden(PurePosixPath(name)):
            continue
        if not _is_text(str(name)):
            log.warning(
                "left out: %s has a name that is no UTF-8, which no table can hold: rename it", readable(str(name))
            )
        else:
            sizes[str(name)] = int(about.get("size") or 0)
    return dict(sorted(sizes.items()))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_of(place: Place) -> Place:
    """The folder itself; of a pattern the last one before it, of a file the one that it is in."""
    parts, address = place.path.split("/"), place.address.split("/")
    # Address and path end alike, so that as many parts are cut off both.
    magic = next((i for i, part in enumerate(parts) if any(letter in part for letter in "*?[")), None)
    if magic is not None:
        kept = len(parts) - magic
        return Place("/".join(address[:-kept]) or ".", place.fs, "/".join(parts[:magic]))
    if not place.fs.isfile(place.path):
        return place
    return Place("/".join(address[:-1]) or ".", place.fs, "/".join(parts[:-1]))


def write_whole(place: Place, content: bytes) -> None:
    """Writes a file that appears with its whole content or not at all: by a rename, in object stores by one put.

    Raises:
        PhidetError: it cannot be written.
    """
    try:
        if not place.is_local:
            place.fs.pipe_file(place.path, content)
            return
        folder, name = os.path.split(place.path)
        os.makedirs(folder, exist_ok=True)
        # Not by the process's number alone: processes of several machines may share the folder.
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}{_TEMPORARY}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                # Without it, a power failure after the rename could leave an empty file under the final name.
                os.fsync(file.fileno())
            os.replace(temporary, place.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except Exception as error:
        raise PhidetError(f"cannot write {without_password(place.address)}: {_reason(error)}") from error


def create(place: Place, content: bytes) -> bool:
    """Writes a file unless there is one already; returns whether it was written. Of two processes, one succeeds.

    Raises:
        PhidetError: it cannot be written.
    """
    try:
        if place.is_local:
            os.makedirs(os.path.dirname(place.path), exist_ok=True)
            if os.path.lexists(place.path):
                return False
            write_whole(place, content)  # the folder is locked by now
            return True
        place.fs.pipe_file(place.path, content, mode="create")
    except FileExistsError:
        return False
    except PhidetError:
        raise
    except Exception as error:
        raise PhidetError(f"cannot write {without_password(place.address)}: {_reason(error)}") from error
    return True


def remove_temporary(place: Place) -> None:
    """Removes what killed processes left in a folder on this machine, which nobody else writes to now."""
    for folder, _, names in os.walk(place.path):
        for name in names:
            if name.startswith(".") and name.endswith(_TEMPORARY):
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in name.parts)


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
