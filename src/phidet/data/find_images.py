"""Finds the images that label files name, even if paths are from another computer or no longer exact."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from phidet.core.words import few
from phidet.data.data_folder import is_split_name
from phidet.data.listing import files_below, followed, is_image, path_parts, same_name

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of a file that is uploaded


_Index = dict[str, list[PurePosixPath]]
"""Images by stem, as :func:`same_name` makes it; paths are relative to the folder."""


class Search(NamedTuple):
    """What :meth:`ImageFinder.search` found.

    Attributes:
        found: the image by name.
        reasons: for names without one, why there is none, where more is known than that.
    """

    found: dict[str, Path]
    reasons: dict[str, str]


class ImageFinder:
    """Images below some folders.

    Args:
        folders: where images may lie, the likeliest first.
        split: that the images are of; folders of other splits are skipped, because equal names there are other images.
        within: the data folder. What lies around it, which may be a whole disk, is never searched at any depth.
    """

    def __init__(self, folders: Sequence[Path], split: str, within: Path) -> None:
        self.folders, self._split, self._within = folders, split, within
        self._indices: list[tuple[Path, _Index]] | None = None

    def exact(self, name: str) -> Path | None:
        """The image at the path ``name`` below one of the folders, which may be written as on Windows."""
        # As written first: elsewhere than on Windows a backslash may be part of a name.
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in self.folders:
                if _is_file(folder / spelling):
                    return folder / spelling
        return None

    def named(self, name: str) -> list[Path]:
        """The images that fit a path best: it may be of another computer, or an address.

        Capital letters and Unicode's form may differ, and folders in it that do not exist here.
        """
        *folders, file_name = name_parts(name)
        for spelling in _spellings(file_name, name):
            # Without an image's ending, what follows the last dot is part of the name, and any ending will do.
            stem, suffix = os.path.splitext(spelling) if is_image(spelling) else (spelling, None)
            found = self._best((*folders, stem), suffix)
            if found:
                return found
        return []

    def of_stem(self, parts: Sequence[str]) -> list[Path]:
        """The images that fit a path without its ending best, with any ending."""
        return self._best(parts, None)

    def search(self, names: Iterable[str], exact: Mapping[str, Path]) -> Search:
        """:meth:`named` for many names; an image that several of them could mean is given to none.

        Args:
            names: without an exact image.
            exact: the images of other names, which are theirs.
        """
        candidates = {name: self.named(name) for name in dict.fromkeys(names)}
        # An image that two names could mean would give one of them the boxes of the other: neither gets it.
        claims: dict[Path, set[str]] = defaultdict(set)
        for name, paths in candidates.items():
            if len(paths) == 1:
                claims[paths[0]].add(_plain(name))
        for name, path in exact.items():
            if path in claims:
                claims[path].add(_plain(name))
        found: dict[str, Path] = {}
        reasons: dict[str, str] = {}
        for name, paths in candidates.items():
            if len(paths) > 1:
                reasons[name] = f"{len(paths)} images could be it, {few(paths, 2)}"
            elif paths and len(claims[paths[0]]) > 1:
                reasons[name] = f"{paths[0]} could be it, but {len(claims[paths[0]])} names could mean that image"
            elif paths:
                found[name] = paths[0]
        return Search(found, reasons)

    def _best(self, wanted: Sequence[str], suffix: str | None) -> list[Path]:
        """The images of a stem in the likeliest folder that has any, with the most equal folders above them.

        Args:
            wanted: folders and stem.
            suffix: the ending, in any capitals; ``None`` for any.
        """
        for folder, index in self._walked():
            fitting = [path for path in index.get(same_name(wanted[-1]), ()) if self._may_be(path, wanted, suffix)]
            # Several images of that name: the one that shares the most folders with the wanted path is meant.
            if len(fitting) > 1:
                whole = [(*folder.parts, *path.parts) for path in fitting]
                ranks = [(_shared(parts, wanted), parts[-1] == f"{wanted[-1]}{suffix or ''}") for parts in whole]
                fitting = [path for path, rank in zip(fitting, ranks, strict=True) if rank == max(ranks)]
            if fitting:
                found = [folder / path for path in fitting]
                # Asked of the system first: links as text are rare, and telling one takes reading it.
                return [path if os.path.isfile(path) else followed(path) for path in found]
        return []

    def _may_be(self, path: PurePosixPath, wanted: Sequence[str], suffix: str | None) -> bool:
        """Whether an image may be the one that is wanted: not where folders contradict, or are of another split."""
        if suffix is not None and path.suffix.lower() != suffix.lower():
            return False
        shared = _shared(path.parts, wanted)
        above = path.parts[: len(path.parts) - shared]
        if shared == 1 and above and len(wanted) > 1:
            return False  # day/0.jpg is not night/0.jpg
        return all(part == self._split or not is_split_name(part) for part in above)

    def _walked(self) -> list[tuple[Path, _Index]]:
        """Every image below the folders, by its stem; made when first needed, as most sets never do."""
        if self._indices is None:
            self._indices = []
            for folder in self.folders:
                # Around a folder that has images are those of other splits.
                if any(index and other.is_relative_to(folder) for other, index in self._indices):
                    continue
                index: _Index = defaultdict(list)
                around = folder != self._within and self._within.is_relative_to(folder)
                for path in files_below(folder, is_image, levels=0 if around else None):
                    index[same_name(path.stem)].append(PurePosixPath(path.relative_to(folder)))
                self._indices.append((folder, dict(index)))
        return self._indices


def name_parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a path or an address, as it was written on any system; at least one part."""
    return path_parts(re.split(r"[?#]", name)[0] if "://" in name else name) or ("",)


def _plain(name: str) -> str:
    """A form that is equal for names that are one name, written differently."""
    return same_name("/".join(name_parts(name)))


def _spellings(file_name: str, whole: str) -> list[str]:
    """Possible spellings of a file's name, the likeliest first."""
    # Tools of the web quote names in paths, and may have done so or not with the same name beside the labels.
    spellings = [file_name]
    if "%" in whole:
        spellings.append(unquote(file_name))
    return list(dict.fromkeys([*spellings, *(_UPLOAD.sub("", spelling, count=1) for spelling in spellings)]))


def _shared(path: Sequence[str], wanted: Sequence[str]) -> int:
    """How many names at the ends of two paths are equal; the last ones are taken to be."""
    count = 1
    for ours, theirs in zip(path[-2::-1], wanted[-2::-1], strict=False):
        if same_name(ours) != same_name(theirs):
            break
        count += 1
    return count


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a null in it
        return False
