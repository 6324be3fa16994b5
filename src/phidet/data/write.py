"""Writes data sets as COCO JSON or as sharded TFRecord, the way the official tools do.

What is written reads back to the same pixels, boxes, classes, areas and flags. Encoded images are copied as they are,
unless a tool that knows less than phidet would see other pixels: a photo that EXIF turns, and in TFRecord what
TensorFlow cannot decode, become PNG. An image that cannot be decoded is left out and told.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.core.numbers import shortest
from phidet.data.dataset import Annotations, Dataset, Problem
from phidet.data.label_map import label_map
from phidet.data.tfrecord_file import ImageSource, RecordImage, Value, make_example, write_record
from phidet.images.decode import Encoding, encoded, encoding
from phidet.images.formats import EXTENSIONS

_AT_ONCE = 64  # images held in memory while threads decode them
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif"}  # others are called like the format


class Written(NamedTuple):
    """What was written.

    Attributes:
        images: by split.
        objects: by split.
        files: the files with labels, relative to the target.
        problems: images that were left out because they cannot be decoded.
    """

    images: dict[str, int]
    objects: dict[str, int]
    files: list[Path]
    problems: list[Problem]


class _Encoded(NamedTuple):
    """An image ready to be written: "JPEG", "PNG", …, and its bytes."""

    format: str
    content: bytes


def write_coco(datasets: Mapping[str, Dataset], out: Path, copy_images: bool = True) -> Written:
    """Writes ``out/annotations/instances_SPLIT.json`` and the images below ``out/SPLIT/``, as COCO itself lies.

    VOC's difficult objects have ``"difficult": 1``, a key that others ignore.

    Args:
        datasets: by the name of the split; all with the same classes.
        out: a folder that does not exist, or is empty. It appears as a whole or not at all.
        copy_images: ``False`` writes labels alone, which name the original images by their full path.

    Raises:
        ConfigError: ``out`` is not empty, a split's name is no file name, the classes differ between the splits, or
            images inside TFRecord files are not to be copied.
        InputError: no image of a split can be decoded.
        PhidetError: the disk is full or not writable; nothing is left behind.
    """
    _check(datasets)
    if not copy_images and any(isinstance(d.source(i), RecordImage) for d in datasets.values() for i in range(len(d))):
        raise ConfigError("images inside TFRecord files have no path of their own: they must be copied")
    written = Written({}, {}, [], [])
    with _appearing(out) as folder:
        (folder / "annotations").mkdir()
        for split, dataset in datasets.items():
            if copy_images:
                names = _copy(dataset, folder / split, written.problems)
            else:
                names = {i: str(Path(str(dataset.source(i))).absolute()) for i in range(len(dataset))}
            _count(written, split, dataset, list(names))
            file = Path("annotations", f"instances_{split}.json")
            (folder / file).write_text(json.dumps(_coco(dataset, names), separators=(",", ":")), encoding="utf-8")
            written.files.append(file)
    return written


def write_tfrecord(datasets: Mapping[str, Dataset], out: Path, images_per_shard: int = 1000) -> Written:
    """Writes ``out/SPLIT-00000-of-000NN.tfrecord`` with the features of the official converter, and a label map.

    Image i goes to shard i mod NN, as there. ``image/object/difficult`` is only in records that need it.

    Args:
        datasets: by the name of the split; all with the same classes.
        out: a folder that does not exist, or is empty. It appears as a whole or not at all.
        images_per_shard: at most so many images in a file.

    Raises:
        ConfigError: ``out`` is not empty, a split's name is no file name, the classes differ between the splits, or
            ``images_per_shard`` is below 1.
        InputError: no image of a split can be decoded.
        PhidetError: the disk is full or not writable; nothing is left behind.
    """
    _check(datasets)
    if images_per_shard < 1:
        raise ConfigError(f"images_per_shard must be at least 1, got {images_per_shard}")
    written = Written({}, {}, [], [])
    with _appearing(out) as folder:
        for split, dataset in datasets.items():
            shards = -(-len(dataset) // images_per_shard)
            kept: list[int] = []
            order = [i for shard in range(shards) for i in range(shard, len(dataset), shards)]
            images = _usable(dataset, order, written.problems, for_tensorflow=True)
            upcoming = next(images, None)
            for shard in range(shards):
                file = Path(f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")
                with (folder / file).open("wb") as stream:
                    while upcoming is not None and upcoming[0] % shards == shard:
                        write_record(stream, make_example(_example(dataset, *upcoming)))
                        kept.append(upcoming[0])
                        upcoming = next(images, None)
                written.files.append(file)
            _count(written, split, dataset, kept)
        names = next(iter(datasets.values())).class_names
        (folder / "label_map.pbtxt").write_text(label_map(names), encoding="utf-8")
        written.files.append(Path("label_map.pbtxt"))
    return written


def _check(datasets: Mapping[str, Dataset]) -> None:
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


def _count(written: Written, split: str, dataset: Dataset, kept: Sequence[int]) -> None:
    if not kept:
        raise InputError(f"split {split!r} has no image that can be decoded: nothing was written")
    written.images[split] = len(kept)
    written.objects[split] = sum(len(dataset.annotations(i).class_ids) for i in kept)


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end, or vanishes."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"{out} is there already: name a folder that does not exist, or an empty one")
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


def _usable(
    dataset: Dataset, order: Sequence[int], problems: list[Problem], *, for_tensorflow: bool
) -> Iterator[tuple[int, _Encoded]]:
    """Index and bytes of the images that can be decoded; every one is, so that no broken one is handed on."""
    prepare = partial(_prepared, dataset, for_tensorflow=for_tensorflow)
    with ThreadPoolExecutor() as pool, tqdm(total=len(order), desc=dataset.name, unit="image", disable=None) as bar:
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            for index, found in zip(some, pool.map(prepare, some), strict=True):
                bar.update()
                if isinstance(found, InputError):
                    problems.append(Problem("image unreadable", str(dataset.source(index)), f"{found}; left out"))
                else:
                    yield index, found


def _prepared(dataset: Dataset, index: int, *, for_tensorflow: bool) -> _Encoded | InputError:
    try:
        source = dataset.source(index)
        image, how = dataset.image(index), encoding(source)
        if how.orientation == 1 and (not for_tensorflow or _plain(how)):
            return _Encoded(how.format, encoded(source))
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        return _Encoded("PNG", stream.getvalue())
    except InputError as error:
        return error


def _plain(how: Encoding) -> bool:
    """Whether TensorFlow decodes it, to the same pixels."""
    if how.format == "JPEG":
        return how.mode in ("L", "RGB")
    return how.format == "PNG" and how.bits == 8 and not how.transparency


def _copy(dataset: Dataset, folder: Path, problems: list[Problem]) -> dict[int, str]:
    """Writes the images; their names in ``folder`` by index."""
    taken: dict[str, bool] = {}
    names: dict[int, str] = {}
    folder.mkdir(exist_ok=True)
    for index, image in _usable(dataset, range(len(dataset)), problems, for_tensorflow=False):
        wanted = _file_name(str(dataset.names[index]), index, image.format, dataset.source(index))
        names[index] = name = _free_name(wanted, taken)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image.content)
    return names


def _file_name(name: str, index: int, image_format: str, source: ImageSource) -> PurePosixPath:
    """The image's name below its folder: no way out of it, and the ending that belongs to its content."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")]
    path = PurePosixPath(*parts) if parts else PurePosixPath(f"{index:06d}")
    ending = _ENDINGS.get(image_format, f".{image_format.lower()}")
    if path.suffix.lower() not in EXTENSIONS:
        return path.with_name(path.name + ending)
    turned = image_format == "PNG" and encoding(source).format != "PNG"
    return path.with_suffix(ending) if turned else path


def _free_name(wanted: PurePosixPath, taken: dict[str, bool]) -> str:
    """``wanted``, or one like it that no file or folder has, whatever the case of its letters.

    ``taken`` says of every name in use whether it is a file's.
    """

    def free(path: PurePosixPath) -> bool:
        return str(path).casefold() not in taken and not any(taken.get(str(p).casefold()) for p in path.parents)

    path, flat, number = wanted, PurePosixPath("_".join(wanted.parts)), 1
    while not free(path):
        path = flat if number == 1 else flat.with_stem(f"{flat.stem}-{number}")
        number += 1
    taken.update((str(parent).casefold(), False) for parent in path.parents)
    taken[str(path).casefold()] = True
    return str(path)


def _coco(dataset: Dataset, names: Mapping[int, str]) -> dict[str, Any]:
    """The JSON; ids count from 1."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index, name in names.items():
        height, width = dataset.size_hw(index)
        images.append({"id": index + 1, "width": width, "height": height, "file_name": name})
        a = dataset.annotations(index)
        for k in range(len(a.class_ids)):
            entry = {
                "id": len(objects) + 1,
                "image_id": index + 1,
                "category_id": int(a.class_ids[k]) + 1,
                "bbox": _xywh(a, k),
                "area": shortest(a.areas[k]),
                "iscrowd": int(a.crowd[k]),
            }
            objects.append(entry | {"difficult": 1} if a.difficult[k] else entry)
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.class_names, start=1)]
    return {"images": images, "annotations": objects, "categories": categories}


def _xywh(a: Annotations, k: int) -> list[float]:
    """The box such that x + width gives back its right side, as float32, in few digits."""
    x1, y1, x2, y2 = a.boxes_xyxy[k]
    x, y = shortest(x1), shortest(y1)
    return [x, y, _side(x, x2), _side(y, y2)]


def _side(start: float, end: np.float32) -> float:
    side = round(shortest(end) - start, 4)
    return side if np.float32(start + side) == end else float(end) - start


def _example(dataset: Dataset, index: int, image: _Encoded) -> dict[str, Value]:
    height, width = dataset.size_hw(index)
    a = dataset.annotations(index)
    x1, y1, x2, y2 = (a.boxes_xyxy.astype(np.float64) / [width, height, width, height]).T
    features: dict[str, Value] = {
        "image/height": [height],
        "image/width": [width],
        "image/filename": [str(dataset.names[index]).encode("utf-8", "surrogateescape")],
        "image/source_id": [str(index + 1).encode()],
        "image/key/sha256": [hashlib.sha256(image.content).hexdigest().encode()],
        "image/encoded": [image.content],
        "image/format": [image.format.lower().encode()],
        "image/object/bbox/xmin": x1.tolist(),
        "image/object/bbox/xmax": x2.tolist(),
        "image/object/bbox/ymin": y1.tolist(),
        "image/object/bbox/ymax": y2.tolist(),
        "image/object/class/text": [dataset.class_names[i].encode() for i in a.class_ids],
        "image/object/class/label": (a.class_ids + 1).tolist(),
        "image/object/is_crowd": a.crowd.astype(np.int64).tolist(),
        "image/object/area": a.areas.tolist(),
    }
    if a.difficult.any():
        features["image/object/difficult"] = a.difficult.astype(np.int64).tolist()
    return features
