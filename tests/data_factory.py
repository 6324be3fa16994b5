"""One small data set, written in every layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from phidet.data.dataset import Dataset
from phidet.data.tfrecord_file import make_example, write_record

CLASSES = ("ant", "bee", "cat nap")


class Thing(NamedTuple):
    """An object: box in pixels and class id."""

    box: tuple[int, int, int, int]
    class_id: int


class Picture(NamedTuple):
    """An image with objects."""

    name: str
    size_hw: tuple[int, int]
    things: tuple[Thing, ...]


# Sides are powers of two, so that fractions of them are exact in every layout.
PICTURES = (
    Picture("one.png", (32, 64), (Thing((0, 0, 64, 32), 0), Thing((3, 5, 20, 31), 2))),
    Picture("two.png", (64, 32), (Thing((1, 2, 3, 4), 1),)),
    Picture("empty.png", (32, 32), ()),
    Picture("with space.png", (16, 128), (Thing((100, 1, 128, 16), 0), Thing((0, 0, 50, 8), 0))),
)


def pixels(picture: Picture) -> np.ndarray:
    """Noise that belongs to the image's name."""
    rng = np.random.default_rng(list(picture.name.encode()))
    return rng.integers(0, 256, (*picture.size_hw, 3), np.uint8)


def save_image(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(picture)).save(path, "PNG")


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco_json(pictures: Sequence[Picture] = PICTURES, first_id: int = 1) -> dict[str, list[dict[str, object]]]:
    images = [
        {"id": 10 + i, "file_name": p.name, "height": p.size_hw[0], "width": p.size_hw[1]}
        for i, p in enumerate(pictures)
    ]
    objects = [
        {
            "id": i,
            "image_id": 10 + k,
            "category_id": t.class_id + first_id,
            "bbox": [t.box[0], t.box[1], t.box[2] - t.box[0], t.box[3] - t.box[1]],
        }
        for i, (k, t) in enumerate((k, t) for k, p in enumerate(pictures) for t in p.things)
    ]
    categories = [{"id": i + first_id, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": objects, "categories": categories}


def coco(root: Path, split: str = "train") -> Path:
    for p in PICTURES:
        save_image(root / split / p.name, p)
    write_text(root / "annotations" / f"instances_{split}.json", json.dumps(coco_json()))
    return root


def roboflow_coco(root: Path) -> Path:
    for split in ("train", "valid"):
        for p in PICTURES:
            save_image(root / split / p.name, p)
        write_text(root / split / "_annotations.coco.json", json.dumps(coco_json()))
    return root


def yolo_lines(picture: Picture) -> str:
    height, width = picture.size_hw
    lines = [
        f"{c} {(x1 + x2) / 2 / width!r} {(y1 + y2) / 2 / height!r} {(x2 - x1) / width!r} {(y2 - y1) / height!r}"
        for (x1, y1, x2, y2), c in picture.things
    ]
    return "\n".join(lines)


def yolo(images: Path, labels: Path) -> None:
    for p in PICTURES:
        save_image(images / p.name, p)
        if p.things:  # the image without objects has no label file
            write_text(labels / Path(p.name).with_suffix(".txt"), yolo_lines(p))


def data_yaml(path: Path, **splits: str) -> Path:
    lines = [f"{split}: {where}" for split, where in splits.items()]
    return write_text(path, "\n".join([*lines, "names:", *(f"  {i}: {name}" for i, name in enumerate(CLASSES))]))


def xml(picture: Picture, size: bool = True) -> str:
    things = "".join(
        f"<object><name>{CLASSES[t.class_id]}</name><bndbox><xmin>{t.box[0]}</xmin><ymin>{t.box[1]}</ymin>"
        f"<xmax>{t.box[2]}</xmax><ymax>{t.box[3]}</ymax></bndbox></object>"
        for t in picture.things
    )
    h, w = picture.size_hw
    sides = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{picture.name}</filename>{sides}{things}</annotation>"


def voc(root: Path, split: str | None = "train") -> Path:
    for p in PICTURES:
        save_image(root / "JPEGImages" / p.name, p)
        write_text(root / "Annotations" / Path(p.name).with_suffix(".xml"), xml(p))
    if split:
        names = "\n".join(Path(p.name).stem for p in PICTURES)
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", names)
        write_text(root / "ImageSets" / "Main" / f"ant_{split}.txt", "one 1\ntwo -1\n")
    return root


def tfrecord(root: Path, split: str = "train") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{split}-00000-of-00001.tfrecord").open("wb") as file:
        for p in PICTURES:
            save_image(root / "image", p)
            height, width = p.size_hw
            columns = list(zip(*(t.box for t in p.things), strict=True)) or [(), (), (), ()]
            sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), columns, strict=True))
            features = {
                f"image/object/bbox/{key}": [v / (width if key[0] == "x" else height) for v in values]
                for key, values in sides.items()
            }
            features |= {
                "image/encoded": [(root / "image").read_bytes()],
                "image/filename": [p.name.encode()],
                "image/height": [height],
                "image/width": [width],
                "image/object/class/label": [t.class_id + 1 for t in p.things],
                "image/object/class/text": [CLASSES[t.class_id].encode() for t in p.things],
            }
            write_record(file, make_example(features))
    (root / "image").unlink()
    return root


def check(dataset: Dataset, classes: Sequence[str] = CLASSES, problems: Sequence[str] = ()) -> None:
    """The data set is the factory's, whatever it was read from, with just these kinds of problems."""
    assert dataset.class_names == tuple(classes)
    assert [problem.kind for problem in dataset.problems] == list(problems)
    found = {Path(str(name)).name: i for i, name in enumerate(dataset.names)}
    assert sorted(found) == sorted(p.name for p in PICTURES)
    for p in PICTURES:
        i = found[p.name]
        a = dataset.annotations(i)
        assert a.boxes_xyxy.tolist() == [list(map(float, t.box)) for t in p.things]
        assert a.class_ids.tolist() == [t.class_id for t in p.things]
        assert a.areas.tolist() == [(t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in p.things]
        assert not a.crowd.any()
        assert not a.difficult.any()
        assert dataset.size_hw(i) == p.size_hw
        np.testing.assert_array_equal(dataset.image(i), pixels(p))
