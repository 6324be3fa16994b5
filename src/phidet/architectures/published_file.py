"""Published weight files: address, checksum and licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from phidet.core.errors import UnknownNameError


class PublishedFile(NamedTuple):
    """A weight file that somebody published.

    Attributes:
        url: its https address.
        sha256_prefix: the first hexadecimal digits of its SHA-256; empty if its publisher gives none.
        licence: the licence of the project that it comes from, and that project. The images that weights were trained
            on have terms of their own, which none of these licences cover.
        package: a Python package that carries the same weights, for machines that reach a package index and nothing
            else; empty where there is none.
    """

    url: str
    sha256_prefix: str
    licence: str
    package: str = ""

    @property
    def name(self) -> str:
        """Its file name; no two published files share one."""
        return self.url.rpartition("/")[2]


def file_of(name: str, files: Mapping[str, PublishedFile], kind: str) -> PublishedFile:
    """The file of the model of that name; ``kind`` is what the names stand for.

    Raises:
        UnknownNameError: none is published under that name; the nearest names are in the message.
    """
    if name not in files:
        raise UnknownNameError(kind, name, files)
    return files[name]


def published_files(base_url: str, licence: str, stems: dict[str, str]) -> dict[str, PublishedFile]:
    """Entries from file names without ``.pth``; all three publishers end them with the start of the SHA-256."""
    return {
        name: PublishedFile(f"{base_url}/{stem}.pth", stem.rpartition("-")[2], licence) for name, stem in stems.items()
    }
