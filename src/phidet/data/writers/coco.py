"""Writes COCO JSON with its images, as COCO itself lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phidet.core.errors import ConfigError
from phidet.core.numbers import shortest_float
from phidet.data.dataset import Annotations, Dataset, Problem
from phidet.data.tfrecord_file import RecordImage
from phidet.data.writers.files import FreeNames, Written, atomic_folder, check_splits, copy_images, count_written
from phidet.data.writers.masks import readable_or_none, segmentations
from phidet.detections.graphs.related import GROUP


def write_coco(datasets: Mapping[str, Dataset], out: Path, with_images: bool = True) -> Written:
    """Writes ``out/annotations/instances_SPLIT.json`` and the images below ``out/SPLIT/``, as COCO itself lies.

    Masks stay polygons where they are labelled as such; others are compressed run lengths. VOC's difficult objects have
    ``"difficult": 1``, objects of a group its number as ``"group"``, and images that are known to be right or wrong
    ``"right"``: keys that others ignore. Frames of videos have ``"video_id"`` and ``"frame_id"``, and their objects'
    identities are ``"track_id"``.

    Args:
        datasets: by the name of the split; all with the same classes.
        out: a folder that does not exist, or is empty. It appears as a whole or not at all.
        with_images: ``False`` writes labels alone, which name the original images by their full path.

    Raises:
        ConfigError: ``out`` is not empty, a split's name is no file name, the classes differ between the splits, or
            images inside TFRecord files are not to be copied.
        InputError: no image of a split can be decoded.
        PhidetError: the disk is full or not writable; nothing is left behind.
    """
    check_splits(datasets)
    if not with_images and any(isinstance(d.source(i), RecordImage) for d in datasets.values() for i in range(len(d))):
        raise ConfigError("images inside TFRecord files have no path of their own: they must be copied")
    written = Written({}, {}, [], [])
    with atomic_folder(out) as folder:
        (folder / "annotations").mkdir()
        for split, dataset in datasets.items():
            if with_images:
                names = dict(copy_images(dataset, folder / split, written.problems, FreeNames()))
            else:
                names = {i: str(Path(str(dataset.source(i))).absolute()) for i in range(len(dataset))}
            count_written(written, split, dataset, list(names))
            file = Path("annotations", f"instances_{split}.json")
            (folder / file).write_bytes(coco_json(dataset, names, written.problems))
            written.files.append(file)
    return written


def coco_json(dataset: Dataset, names: Mapping[int, str], problems: list[Problem]) -> bytes:
    """COCO JSON of the images whose indices are in ``names``, under these names; ``problems`` gets what is left out."""
    return json.dumps(_coco(dataset, names, problems), separators=(",", ":")).encode()


def _coco(dataset: Dataset, names: Mapping[int, str], problems: list[Problem]) -> dict[str, Any]:
    """The JSON; ids count from 1. Masks that cannot be read are left out and become problems."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index, name in names.items():
        height, width = dataset.size_hw(index)
        image = {"id": index + 1, "width": width, "height": height, "file_name": name}
        right = dataset.right.get(str(dataset.names[index]))
        frame = dataset.frames.get(str(dataset.names[index]))
        image |= {} if frame is None else {"video_id": frame[0], "frame_id": frame[1]}
        images.append(image if right is None else image | {"right": right})
        a = dataset.annotations(index)
        masks = readable_or_none(segmentations, dataset, index, problems) or [None] * len(a.class_ids)
        for k in range(len(a.class_ids)):
            # Plain Python numbers, as json rejects NumPy's; shortest_float keeps float32 values short and exact.
            entry = {
                "id": len(objects) + 1,
                "image_id": index + 1,
                "category_id": int(a.class_ids[k]) + 1,
                "bbox": _xywh(a, k),
                "area": shortest_float(a.areas[k]),
                "iscrowd": int(a.crowd[k]),
            }
            extra: dict[str, Any] = {"difficult": 1} if a.difficult[k] else {}
            if GROUP in a.fields and a.fields[GROUP][k] >= 0:
                extra["group" if frame is None else "track_id"] = int(a.fields[GROUP][k])
            objects.append(entry | extra | ({} if masks[k] is None else {"segmentation": masks[k]}))
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.class_names, start=1)]
    return {"images": images, "annotations": objects, "categories": categories}


def _xywh(a: Annotations, k: int) -> list[float]:
    """The box such that x + width gives back its right side, as float32, in few digits."""
    x1, y1, x2, y2 = a.boxes_xyxy[k]
    x, y = shortest_float(x1), shortest_float(y1)
    return [x, y, _side(x, x2), _side(y, y2)]


def _side(start: float, end: np.float32) -> float:
    # Readers compute x + width in float64; the short form is used only where that gives the very side again.
    side = round(shortest_float(end) - start, 4)
    return side if np.float32(start + side) == end else float(end) - start
