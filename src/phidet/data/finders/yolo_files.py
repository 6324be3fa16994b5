"""Finds the images that YOLO's folders and lists name, and their labels."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from phidet.data.data_folder import is_split_name
from phidet.data.dataset import Problem
from phidet.data.listing import Names, files_below, followed, has_drive, is_hidden, is_image, path_parts, same_name
from phidet.data.readers.yolo import Item, could_hold_labels
from phidet.data.text import read_lines
from phidet.images.formats import OTHER_EXTENSIONS

_PREFIXED = re.compile(r"[0-9a-f]{8}-(.+)\.txt", re.IGNORECASE)  # as Label Studio names uploaded files
_SAMPLE = 100  # lines of a list that are tried to find out what its paths are relative to


class _Place(NamedTuple):
    """What the paths of a list are relative to: ``base``, without their first ``skipped`` folders."""

    base: Path
    skipped: int


class YoloFiles:
    """Finds images and labels below a data folder; lists each folder once.

    Attributes:
        problems: what was set right or left out on the way.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self._names = Names()
        self._label_folders: dict[Path, list[tuple[Path, bool]]] = {}
        self._prefixed: dict[Path, dict[str, Path]] = {}

    def in_folder(self, folder: Path) -> Iterator[Item]:
        """Every image below ``folder``, sorted, with its labels.

        Those of formats that are not decoded are among them where they have labels, so that their loss is reported.
        """
        for path in files_below(
            folder, lambda name: is_image(name) or os.path.splitext(name)[1].lower() in OTHER_EXTENSIONS
        ):
            item = self._item(path)
            if is_image(path.name) or item.label is not None:
                yield item

    def in_list(self, file: Path, bases: Sequence[Path]) -> Iterator[Item]:
        """The images that the lines of ``file`` name; those that are not there, too.

        Paths may be relative to the list's folder or one of ``bases``; or were written on another computer, so that
        only their ends hold here. What is left out and what was set right goes to :attr:`problems`.

        Raises:
            InputError: the list cannot be read.
        """
        lines: list[str] = []
        hidden: list[str] = []
        for line in read_lines(file):
            (hidden if _names_hidden(line, self.root) else lines).append(line)
        if hidden:
            what = f"hidden files are listed ({len(hidden):,}, first {hidden[0]}); left out"
            self.problems.append(Problem("image hidden", str(file), what))
        places = list(dict.fromkeys([file.parent, *bases]))
        elsewhere: _Place | None = None
        moved = 0
        for i, line in enumerate(lines):
            path = self._as_written(line, places)
            if path is None:
                # Determined once for the list, from a sample: its paths all come from the same computer.
                elsewhere = elsewhere or self._place(lines[i : i + _SAMPLE], places)
                parts = path_parts(line)
                if elsewhere.skipped <= _most_skipped(parts[:-1]):
                    path = self._names.find(elsewhere.base.joinpath(*parts[elsewhere.skipped :]))
                moved += path is not None and not _is_usual(parts[: elsewhere.skipped], elsewhere.base)
            yield self._item(path or file.parent / line.replace("\\", "/"))
        if moved and elsewhere is not None:
            what = f"{moved:,} paths hold here without their first folders; they are taken as relative to"
            self.problems.append(Problem("path moved", str(file), f"{what} {elsewhere.base}"))

    def entry(self, text: str, bases: Sequence[Path]) -> Path | None:
        """The folder or list that an entry of ``data.yaml`` or ``obj.data`` means, as far as it is there.

        Where only the end of a path holds here, :attr:`problems` says so.
        """
        found = self._as_written(text, bases)
        if found is not None:
            return found
        # The longest end that is there: the shorter it is, the likelier it is another folder of that name.
        parts = path_parts(text)
        most = min(_most_skipped(parts), len(parts) - 1)
        for skipped, base in product(range(most + 1), bases):
            found = self._names.find(base.joinpath(*parts[skipped:]))
            if found is not None:
                if not _is_usual(parts[:skipped], base):
                    self.problems.append(Problem("path moved", text, f"is not there; {found} is taken instead"))
                return found
        return None

    def item(self, image: Path) -> Item:
        """An image with its labels."""
        return self._item(self._names.find(image) or image)

    def _item(self, spelled: Path) -> Item:
        return Item(spelled, followed(spelled), self._label(spelled))

    def _as_written(self, text: str, bases: Sequence[Path]) -> Path | None:
        for form in dict.fromkeys((text, text.replace("\\", "/"))):
            for base in bases:
                found = self._names.find(base / form)
                if found is not None:
                    return found
        return None

    def _place(self, lines: Sequence[str], bases: Sequence[Path]) -> _Place:
        """Where most of the ``lines`` are found by their ends, as long as possible."""
        parts = [path_parts(line) for line in lines]
        places = [_Place(base, skipped) for skipped in range(max(map(len, parts))) for base in bases]

        def found(place: _Place) -> int:
            ends = [place.base.joinpath(*p[place.skipped :]) for p in parts if place.skipped <= _most_skipped(p[:-1])]
            return sum(self._names.find(end) is not None for end in ends)

        return max(places, key=found, default=_Place(bases[0], 0))  # the first of equals

    def _label(self, image: Path) -> Path | None:
        if image.parent not in self._label_folders:
            self._label_folders[image.parent] = list(self._candidates(image.parent))
        for folder, is_beside in self._label_folders[image.parent]:
            for name in (f"{image.stem}.txt", f"{image.name}.txt"):
                found = self._names.find_in(folder, name)
                # Captions and notes have the names of images, too.
                if found is not None and not (is_beside and not could_hold_labels(found)):
                    return followed(found)
        # Last, as it takes listing folders: files that are called as the image are the usual case.
        return self._prefixed_labels(image.parent).get(same_name(image.stem))

    def _prefixed_labels(self, images: Path) -> dict[str, Path]:
        """The labels of the images in a folder that Label Studio gave a number before their names, by stem.

        Those that are the labels of an image with the number in its name, too, and those of several uploads of one name
        are not among them.
        """
        if images not in self._prefixed:
            names = os.listdir(followed(images)) if followed(images).is_dir() else []
            own = {same_name(os.path.splitext(name)[0]) for name in names if is_image(name)}
            found: dict[str, list[Path]] = defaultdict(list)
            for folder, _ in self._label_folders[images]:
                for name in os.listdir(followed(folder)):
                    match = _PREFIXED.fullmatch(name)
                    if match and same_name(os.path.splitext(name)[0]) not in own:
                        found[same_name(match[1])].append(followed(folder / name))
            self._prefixed[images] = {stem: files[0] for stem, files in found.items() if len(files) == 1}
        return self._prefixed[images]

    def _candidates(self, images: Path) -> Iterator[tuple[Path, bool]]:
        """The folders that labels of the images in a folder may lie in, and whether it is that folder itself."""
        parts = images.parts
        # YOLO's convention: the last "images" in the path becomes "labels"; further up where that leads nowhere.
        wanted = [
            Path(*parts[:i], "labels", *parts[i + 1 :])
            for i in range(len(parts) - 1, -1, -1)
            if parts[i].casefold() == "images"
        ]
        wanted += [images, images / "labels"]
        # labels/ beside the data's other folders, with the same folders in it, whatever those of images are called.
        if images.is_relative_to(self.root):
            wanted.append(self.root / "labels" / images.relative_to(self.root))
        for folder in dict.fromkeys(wanted):
            found = self._names.find(folder)
            if found is not None and found.is_dir():
                yield found, folder == images


def _most_skipped(folders: Sequence[str]) -> int:
    """How many of the first folders of a path may be another computer's.

    The last ones that are called like a split, ``images`` or ``labels`` may not, nor what follows them: without them
    the path of one split would lead to the images of another.
    """
    of_layout = [is_split_name(folder) or folder.casefold() in ("images", "labels") for folder in folders]
    if True not in of_layout:
        return len(folders)
    first = len(folders) - 1 - of_layout[::-1].index(True)
    while first > 0 and of_layout[first - 1]:
        first -= 1
    return first


def _is_usual(skipped: Sequence[str], base: Path) -> bool:
    """Whether leaving out the first folders of a path need not be reported: none, or the data folder itself.

    Darknet runs beside a folder ``data``, and CVAT writes its paths whatever the folder is called.
    """
    return not skipped or (len(skipped) == 1 and skipped[0] in ("data", base.name))


def _names_hidden(line: str, root: Path) -> bool:
    """Whether a path leads to a hidden file; the folders above the data may be hidden."""
    path = Path(line.replace("\\", "/"))
    if path.is_absolute() or has_drive(line):
        # Outside the data only the name counts: the data themselves may lie below ~/.cache.
        path = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return any(is_hidden(part) for part in path.parts if part not in (".", ".."))
