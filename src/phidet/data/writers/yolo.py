"""Writes YOLO: ``data.yaml``, ``images/SPLIT`` and ``labels/SPLIT`` with a text file for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from phidet.data.data_folder import TRAIN_SPLITS, VAL_SPLITS, first_split
from phidet.data.dataset import Annotations, Dataset
from phidet.data.writers.files import (
    FreeNames,
    Written,
    atomic_folder,
    check_splits,
    copy_images,
    count_written,
    marks_lost,
)
from phidet.data.writers.masks import outlines_of, readable_or_none


def write_yolo(datasets: Mapping[str, Dataset], out: Path) -> Written:
    """Writes ``out/data.yaml``, the images below ``out/images/SPLIT/`` and their labels below ``out/labels/SPLIT/``.

    Masks are written as outlines. An image without objects has an empty file. Regions of many objects (``iscrowd``) are
    left out, marks of difficult objects and areas are lost: YOLO has no place for them, and :attr:`Written.problems`
    counts them.

    Args:
        datasets, out: as :func:`~phidet.data.writers.coco.write_coco` takes them. ``data.yaml`` calls the split to
            train on ``train`` and the one to validate on ``val``, as YOLO's tools want it.

    Raises:
        ConfigError, InputError, PhidetError: as there.
    """
    check_splits(datasets)
    written = Written({}, {}, [], [])
    with atomic_folder(out) as folder:
        for split, dataset in datasets.items():
            kept = []
            labels = Path("labels", split)
            (folder / labels).mkdir(parents=True)
            images = copy_images(
                dataset, folder / "images" / split, written.problems, FreeNames(by_stem=True), as_text=True
            )
            for index, name in images:
                file = (folder / labels / name).with_suffix(".txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                rings = readable_or_none(outlines_of, dataset, index, written.problems)
                text = _lines(dataset.annotations(index), rings, dataset.size_hw(index))
                file.write_text(text, encoding="utf-8")
                kept.append(index)
            count_written(written, split, dataset, kept, crowd=False)
            written.problems.extend(marks_lost(split, dataset, kept, "YOLO", difficult=True))
            written.files.append(labels)
        content = {key: f"images/{split}" for key, split in _keys(list(datasets)).items()}
        # With their numbers: a list would be as right, but people edit these files by hand.
        names = dict(enumerate(next(iter(datasets.values())).class_names))
        text = yaml.safe_dump(content | {"names": names}, sort_keys=False, allow_unicode=True)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        written.files.append(Path("data.yaml"))
    return written


def _keys(splits: list[str]) -> dict[str, str]:
    """The key of each split in ``data.yaml``."""
    train = first_split(TRAIN_SPLITS, splits) or (splits[0] if len(splits) == 1 else None)
    # Other tools look for the keys train and val, whatever the splits are called here.
    usual = {train: "train", first_split(VAL_SPLITS, splits): "val"}
    return {usual.get(split, split): split for split in splits}


def _lines(a: Annotations, rings: Sequence[npt.NDArray[np.float64] | None] | None, size_hw: tuple[int, int]) -> str:
    """A line for each object, in fractions, in as many digits as give them back: class and the corners of its outline,
    or class, centre, width and height where there is none.
    """
    height, width = size_hw
    lines = []
    columns = (a.class_ids.tolist(), a.crowd.tolist(), a.boxes_xyxy.tolist(), rings or [None] * len(a.class_ids))
    for class_id, crowd, box, ring in zip(*columns, strict=True):
        if not crowd:
            x1, y1, x2, y2 = box
            # repr gives all digits of a float64, so that reading gives back the float32 box.
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            if ring is not None:
                values = (ring / [width, height]).reshape(-1).tolist()
            lines.append(" ".join([str(class_id), *map(repr, values)]) + "\n")
    return "".join(lines)
