"""Shared by all writers of data sets: atomic folders, decodable images, unique names.

Encoded images are copied as they are, unless a tool that knows less than phidet would see other pixels: a photo that
EXIF turns, and in TFRecord what TensorFlow cannot decode, become PNG. An image that cannot be decoded is left out and
reported.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.data.dataset import Dataset, Problem
from phidet.data.listing import is_hidden, same_name
from phidet.data.tfrecord_file import ImageSource
from phidet.images.decode import Encoding, encoded, encoding
from phidet.images.formats import EXTENSIONS

_AT_ONCE = 64  # images held in memory while threads decode them
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic"}  # others are called like the format
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # would end a line of a list


class Written(NamedTuple):
    """What was written.

    Attributes:
        images: by split.
        objects: by split.
        files: the files with labels, or the folders of them, relative to the target.
        problems: images that were left out because they cannot be decoded, and what the layout cannot express.
    """

    images: dict[str, int]
    objects: dict[str, int]
    files: list[Path]
    problems: list[Problem]


class PreparedImage(NamedTuple):
    """An image ready to be written: "JPEG", "PNG", …, and its bytes."""

    format: str
    content: bytes


def check_splits(datasets: Mapping[str, Dataset]) -> None:
    """Raises ConfigError unless these splits can be written together.

    There must be one at least, its name a file name, and the classes the same in all of them.
    """
    if not datasets:
        raise ConfigError("there is no split to write")
    for split, dataset in datasets.items():
        if not split or split != PurePosixPath(split).name or "\\" in split or split == "..":
            raise ConfigError(f"a split's name becomes a file name, {split!r} cannot")
        first = next(iter(datasets.values()))
        if dataset.class_names != first.class_names:
            raise ConfigError(
                f"split {split!r} has other classes than {next(iter(datasets))!r}: read both with the same class_names"
            )


def count_written(written: Written, split: str, dataset: Dataset, kept: Sequence[int], *, crowd: bool = True) -> None:
    """Counts the images with indices ``kept`` of a split, and their objects, ``crowd`` regions among them or not.

    Raises:
        InputError: there is none.
    """
    if not kept:
        raise InputError(f"split {split!r} has no image that can be decoded: nothing was written")
    written.images[split] = len(kept)
    marks = (dataset.annotations(i).crowd for i in kept)
    written.objects[split] = sum(len(mark) if crowd else int((~mark).sum()) for mark in marks)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end, or vanishes.

    Raises:
        ConfigError: there is something at ``out`` already.
        PhidetError: the disk is full or not writable; nothing is left behind.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"{out} is there already: name a folder that does not exist, or an empty one")
        # Not makedirs: a missing parent is more likely a typo than a wish.
        part.mkdir()
        try:
            yield part
            if out.exists():
                out.rmdir()  # where a folder cannot be renamed onto an empty one
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise PhidetError(f"cannot write {out}: {error.strerror or error}. Nothing was written") from error


def decodable_images(
    dataset: Dataset, order: Sequence[int], problems: list[Problem], *, for_tensorflow: bool
) -> Iterator[tuple[int, PreparedImage]]:
    """Index and bytes of the images that can be decoded; each is decoded first, so that no broken one is written."""
    prepare = partial(_prepared, dataset, for_tensorflow=for_tensorflow)
    with ThreadPoolExecutor() as pool, tqdm(total=len(order), desc=dataset.name, unit="image", disable=None) as bar:
        # In portions: pool.map would start on all images at once and hold every decoded one until it is written.
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            for index, found in zip(some, pool.map(prepare, some), strict=True):
                bar.update()
                if isinstance(found, InputError):
                    problems.append(Problem("image unreadable", str(dataset.source(index)), f"{found}; left out"))
                else:
                    yield index, found


def _prepared(dataset: Dataset, index: int, *, for_tensorflow: bool) -> PreparedImage | InputError:
    try:
        source = dataset.source(index)
        image, how = dataset.image(index), encoding(source)
        # Unchanged bytes wherever possible: encoding again would lose quality and change the fingerprint.
        if how.orientation == 1 and (not for_tensorflow or _plain(how)):
            return PreparedImage(how.format, encoded(source))
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        return PreparedImage("PNG", stream.getvalue())
    except InputError as error:
        return error


def _plain(how: Encoding) -> bool:
    """Whether TensorFlow decodes it, to the same pixels."""
    if how.format == "JPEG":
        return how.mode in ("L", "RGB")
    return how.format == "PNG" and how.bits == 8 and not how.transparency


def copy_images(
    dataset: Dataset, folder: Path, problems: list[Problem], names: FreeNames, *, as_text: bool = False
) -> Iterator[tuple[int, str]]:
    """Writes the images into ``folder``; index and name in it of each.

    Args:
        dataset: those that cannot be decoded are left out.
        folder: is made.
        problems: gets what was left out.
        names: gives out unique names in ``folder``.
        as_text: whether names must be visible, and lines of text: see :func:`text_name`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in decodable_images(dataset, range(len(dataset)), problems, for_tensorflow=False):
        wanted = file_name(str(dataset.names[index]), index, image.format, dataset.source(index))
        name = names.claim(text_name(wanted) if as_text else wanted)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image.content)
        yield index, name


def file_name(name: str, index: int, image_format: str, source: ImageSource) -> PurePosixPath:
    """The image's name below its folder: no way out of it, and the ending that belongs to its content."""
    # Names come from data of others: a path that leads out of the folder must not be followed.
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")]
    path = PurePosixPath(*parts) if parts else PurePosixPath(f"{index:06d}")
    ending = _ENDINGS.get(image_format, f".{image_format.lower()}")
    if path.suffix.lower() not in EXTENSIONS:
        return path.with_name(path.name + ending)
    # An image that was made a PNG must not keep .jpg; other endings stay as they are, right or wrong.
    turned = image_format == "PNG" and encoding(source).format != "PNG"
    return path.with_suffix(ending) if turned else path


def text_name(name: PurePosixPath) -> PurePosixPath:
    """A name like ``name`` that readers of folders and lists of text take: no part is hidden or called as YOLO's
    folders of images and labels are, and none holds what a line of UTF-8 cannot.
    """
    parts = []
    for part in name.parts:
        text = part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        text = _CONTROL.sub("_", text).strip()
        stem, dot, ending = text.rpartition(".")
        text = f"{stem.strip()}{dot}{ending}"  # a line of a list is a stem, and its reader strips it
        parts.append(f"_{text}" if not text or is_hidden(text) or text.casefold() in ("images", "labels") else text)
    return PurePosixPath(*parts)


class FreeNames:
    """Gives out unique file names, regardless of case and of Unicode's form.

    Args:
        by_stem: whether names that differ in their endings only are one, as the labels of such images are.
    """

    def __init__(self, *, by_stem: bool = False) -> None:
        self._by_stem = by_stem
        self._taken: dict[str, bool] = {}  # whether each name in use is a file's

    def claim(self, wanted: PurePosixPath) -> str:
        """``wanted``, or a name like it that is free; from now on it is not."""
        path, flat, number = wanted, PurePosixPath("_".join(wanted.parts)), 1
        while not self._is_free(path):
            path = flat if number == 1 else flat.with_stem(f"{flat.stem}-{number}")
            number += 1
        # Folders of the path are taken as well, so that no later file gets the name of one.
        self._taken.update((same_name(str(parent)), False) for parent in path.parents)
        self._taken[self._key(path)] = True
        return str(path)

    def _is_free(self, path: PurePosixPath) -> bool:
        # A file "a" and a file "a/b" cannot both exist.
        in_file = any(self._taken.get(same_name(str(parent))) for parent in path.parents)
        return self._key(path) not in self._taken and not in_file

    def _key(self, path: PurePosixPath) -> str:
        return same_name(str(path.with_suffix("") if self._by_stem else path))


def marks_lost(split: str, dataset: Dataset, kept: Sequence[int], layout: str, *, difficult: bool) -> Iterator[Problem]:
    """What YOLO and VOC cannot express of the images with indices ``kept``, each with its count.

    Args:
        split: its name.
        dataset: of the split.
        kept: the images that were written.
        layout: what was written, for the message.
        difficult: whether marks of difficult objects are lost, too.
    """
    parts = [dataset.annotations(i) for i in kept]
    crowds = sum(int(a.crowd.sum()) for a in parts)
    if crowds:
        what = f"{crowds:,} regions of many objects; {layout} cannot mark them, left out"
        yield Problem("crowd left out", split, what)
    hard = sum(int(a.difficult.sum()) for a in parts)
    if hard and difficult:
        yield Problem("difficult unmarked", split, f"{hard:,} difficult objects; {layout} has no mark for them")
    sides = (np.maximum(a.boxes_xyxy[:, 2:] - a.boxes_xyxy[:, :2], 0) for a in parts)
    others = sum(int((np.abs(s.prod(1) - a.areas) > 1)[~a.crowd].sum()) for s, a in zip(sides, parts, strict=True))
    if others:
        what = f"{others:,} objects have areas of their own; in {layout} the box's area counts"
        yield Problem("area not kept", split, what)
