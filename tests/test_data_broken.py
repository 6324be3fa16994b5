"""Broken labels and images: each is told with its kind, place and reason, and the rest is read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

import data_factory as factory
from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import make_example, parse_example, scan, write_record

ONE = factory.PICTURES[0]  # 64 wide, 32 high


def only_problem(dataset: Dataset, kind: str, where: str, says: str) -> None:
    assert [(p.kind, where in p.where, says in p.what) for p in dataset.problems] == [(kind, True, True)], (
        dataset.problems
    )


BOXES = [
    ((math.nan, 0, 1, 1), "box invalid", "not made of numbers"),
    ((0, 0, math.inf, 1), "box invalid", "not made of numbers"),
    ((5, 5, 5, 9), "box empty", "[5, 5, 5, 9] has no area"),
    ((9, 5, 5, 9), "box empty", "has no area"),
    ((64, 0, 70, 10), "box outside", "outside 64×32"),
    ((-9, 0, -1, 10), "box outside", "outside 64×32"),
    ((-9, 3, 70, 1e300), "box clipped", "reaches out of 64×32"),
]


def coco_with(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Dataset:
    root = factory.coco(tmp_path)
    content: dict[str, Any] = factory.coco_json()
    change(content)
    factory.write_text(root / "annotations/instances_train.json", json.dumps(content))
    return open_data(root).read("train")


@pytest.mark.parametrize(("box", "kind", "says"), BOXES)
def test_boxes_that_cannot_be(tmp_path: Path, box: tuple[float, ...], kind: str, says: str) -> None:
    def change(content: dict[str, Any]) -> None:
        x1, y1, x2, y2 = box
        content["annotations"].append({"image_id": 10, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})

    dataset = coco_with(tmp_path, change)
    only_problem(dataset, kind, "instances_train.json, annotations[5]", says)
    assert dataset.problems[0].image == "one.png"
    raising_write_errors = dataset.problems[0].box_xyxy
    assert raising_write_errors is None if kind == "box invalid" else raising_write_errors == pytest.approx(box)
    a = dataset.annotations(0)
    assert a.boxes_xyxy[:2].tolist() == [list(map(float, t.box)) for t in ONE.things]
    assert a.boxes_xyxy[2:].tolist() == ([[0, 3, 64, 32]] if kind == "box clipped" else [])


def test_a_box_a_rounding_error_outside_is_cut_without_a_word(tmp_path: Path) -> None:
    box = {"image_id": 10, "category_id": 1, "bbox": [-0.5, 0, 65, 32.5]}
    dataset = coco_with(tmp_path, lambda content: content["annotations"].append(box))
    assert dataset.problems == []
    assert dataset.annotations(0).boxes_xyxy[2].tolist() == [0, 0, 64, 32]


@pytest.mark.parametrize("area", [math.nan, -1, 1e300])
def test_an_area_that_cannot_be_is_the_boxes(tmp_path: Path, area: float) -> None:
    dataset = coco_with(tmp_path, lambda content: content["annotations"][0].update(area=area))
    assert dataset.annotations(0).areas[0] == 64 * 32


@pytest.mark.parametrize(
    ("change", "kind", "where", "says"),
    [
        (lambda c: c["annotations"][2].update(category_id=9), "class unknown", "annotations[2]", "category 9"),
        (lambda c: c["annotations"][2].update(category_id=[]), "label unreadable", "annotations[2]", "category_id"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), "label unreadable", "annotations[2]", "bbox [x, y"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, "x", 3]), "label unreadable", "annotations[2]", "bbox"),
        (lambda c: c["annotations"][2].pop("bbox"), "label unreadable", "annotations[2]", "'bbox'"),
        (lambda c: c["annotations"].__setitem__(2, None), "label unreadable", "annotations[2]", "expected"),
        (lambda c: c["annotations"][2].update(image_id=99), "label unreadable", "annotations[2]", "image_id 99"),
        (lambda c: c["annotations"][2].update(image_id=[]), "label unreadable", "annotations[2]", "expected"),
        (lambda c: c["images"].append({"id": 50}), "label unreadable", "images[4]", "file_name"),
        (lambda c: c["images"].append({"id": {}, "file_name": "x"}), "label unreadable", "images[4]", "id"),
        (lambda c: c["images"].append(7), "label unreadable", "images[4]", "file_name"),
        (lambda c: c["images"].append({"id": 50, "file_name": "gone.png"}), "image missing", "images[4]", "gone.png"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 10**400, 3]), "label unreadable", "annotations[2]", "bbox"),
        (lambda c: c["images"].append({"id": 5, "file_name": "x" * 9999}), "image missing", "images[4]", "no xxx"),
        (lambda c: c["images"].append({"id": 50, "file_name": "one.png"}), "image repeated", "one.png", "same objects"),
        (lambda c: c["images"].append({"id": 10, "file_name": "x.png"}), "image repeated", "images[4]", "id 10"),
    ],
)
def test_coco_entries(tmp_path: Path, change: Callable[[Any], object], kind: str, where: str, says: str) -> None:
    dataset = coco_with(tmp_path, change)
    only_problem(dataset, kind, where, says)
    assert len(dataset) == 4
    assert len(dataset.annotations(0).class_ids) == 2


def test_coco_without_sizes_looks_into_the_images(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["height"]

    factory.check(coco_with(tmp_path, change))
    (tmp_path / "train/two.png").write_text("not an image")
    dataset = open_data(tmp_path).read("train")
    only_problem(dataset, "image unreadable", "two.png", "is not an image")
    assert len(dataset) == 3


def test_labels_made_for_another_image_size(tmp_path: Path) -> None:
    dataset = coco_with(tmp_path, lambda content: content["images"][0].update(width=65))
    with pytest.raises(InputError, match=r"one\.png has 64×32 pixels, its labels say 65×32"):
        dataset.image(0)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("7 0.5 0.5 0.1 0.1", "class unknown", "class id 7"),
        ("-1 0.5 0.5 0.1 0.1", "class unknown", "class id -1"),
        ("ant 0.5 0.5 0.1 0.1", "label unreadable", "class x y width height"),
        ("0.5 0.5 0.5 0.1 0.1", "label unreadable", "class x y width height"),
        ("0 0.5 0.5 0.1", "label unreadable", "class x y width height"),
        ("0 0.5 0.5 0.1 0.1 45", "label unreadable", "the sixth number, 45, is no score"),
        ("0 0.5 0.5 0.1 0.1 -0.3", "label unreadable", "a rotated box must have its four corners"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1", "label unreadable", "8 numbers are neither box nor polygon"),
        ("0 30 20 10 10", "box invalid", "fractions of the image"),
        ("0 nan 0.5 0.1 0.1", "box invalid", "not made of numbers"),
        ("0 0.5 0.5 0 0.1", "box empty", "has no area"),
        ("0 0.5 0.5 -0.1 0.1", "box empty", "has no area"),
        ("0 1.5 0.5 0.1 0.1", "box outside", "outside 64×32"),
        ("0 1.0 0.5 0.5 0.1", "box clipped", "reaches out"),
        ("10000000000000 0.5 0.5 0.1 0.1", "class unknown", "class id 10000000000000"),
    ],
)
def test_yolo_lines(tmp_path: Path, line: str, kind: str, says: str) -> None:
    factory.save_image(tmp_path / "images/one.png", ONE)
    factory.write_text(tmp_path / "labels/one.txt", f"0 0.5 0.5 0.5 0.5\n\n{line}\n0 0.5 0.5 0.25 0.25\n")
    factory.write_text(tmp_path / "classes.txt", "\n".join(factory.CLASSES))
    dataset = open_data(tmp_path).read("all")
    only_problem(dataset, kind, "labels/one.txt, line 3", says)
    assert len(dataset.annotations(0).class_ids) == (3 if kind == "box clipped" else 2)


def test_a_huge_class_id_does_not_make_as_many_classes(tmp_path: Path) -> None:
    factory.save_image(tmp_path / "one.png", ONE)
    factory.write_text(tmp_path / "one.txt", "1 0.5 0.5 0.5 0.5\n1e15 0.5 0.5 0.1 0.1\n")
    dataset = open_data(tmp_path).read("all")
    assert dataset.class_names == ("class-0", "class-1")
    assert [problem.kind for problem in dataset.problems] == ["class names missing", "class unknown"]
    assert "class id 1000000000000000" in dataset.problems[1].what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: expected JPEG"),
        (b"This is text.", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "cannot be decoded as PNG"),
    ],
)
def test_files_that_are_not_images(tmp_path: Path, content: bytes, says: str) -> None:
    factory.yolo(tmp_path / "images/train", tmp_path / "labels/train")
    (tmp_path / "images/train/two.png").write_bytes(content)
    factory.write_text(tmp_path / "classes.txt", "\n".join(factory.CLASSES))
    dataset = open_data(tmp_path).read("train")
    only_problem(dataset, "image unreadable", "images/train/two.png", says)
    assert len(dataset) == 3


def test_a_missing_image_of_a_list(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "train.txt", "images/one.png\nimages/gone.png\n")
    factory.data_yaml(tmp_path / "data.yaml", train="train.txt")
    dataset = open_data(tmp_path).read("train")
    only_problem(dataset, "image missing", "images/gone.png", "there is no image")
    assert len(dataset) == 1


@pytest.mark.parametrize(
    ("change", "kind", "where", "says"),
    [
        (lambda t: t[:-9], "label unreadable", "one.xml", "not XML"),
        (lambda t: "", "label unreadable", "one.xml", "not XML"),
        (lambda t: '<?xml version="1.0" encoding="klingon"?>' + t, "label unreadable", "one.xml", "not XML"),
        (lambda t: t.replace("<xmin>3<", "<xmin>three<"), "label unreadable", "one.xml, object 2", "'three'"),
        (lambda t: t.replace("<xmin>3</xmin>", ""), "label unreadable", "one.xml, object 2", "<bndbox><xmin>"),
        (lambda t: t.replace("<xmax>20<", "<xmax>2<"), "box empty", "one.xml, object 2", "no area"),
        (lambda t: t.replace("<xmax>20<", "<xmax>90<"), "box clipped", "one.xml, object 2", "reaches out"),
        (lambda t: t.replace("<xmax>20<", "<xmax>nan<"), "box invalid", "one.xml, object 2", "not made of numbers"),
    ],
)
def test_voc_files(tmp_path: Path, change: Callable[[str], str], kind: str, where: str, says: str) -> None:
    root = factory.voc(tmp_path)
    file = root / "Annotations/one.xml"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    only_problem(open_data(root).read("train", factory.CLASSES), kind, where, says)


def test_voc_files_and_images_that_are_not_there(tmp_path: Path) -> None:
    root = factory.voc(tmp_path)
    with (root / "ImageSets/Main/train.txt").open("a") as file:
        file.write("\nnever\n")
    (root / "JPEGImages/two.png").unlink()
    kinds = {(p.kind, Path(p.where).name) for p in open_data(root).read("train").problems}
    assert kinds == {("label unreadable", "never.xml"), ("image missing", "two.xml")}
    assert len(open_data(root).read("train")) == 3


@pytest.mark.parametrize("size", ["", "<width>0</width><height>0</height>", "<width>inf</width><height>1</height>"])
def test_voc_without_a_size_looks_into_the_image(tmp_path: Path, size: str) -> None:
    root = factory.voc(tmp_path)
    text = factory.xml(ONE, size=False).replace("<object>", f"<size>{size}</size><object>", 1)
    factory.write_text(root / "Annotations/one.xml", text)
    factory.check(open_data(root).read("train"))
    (root / "JPEGImages/one.png").write_bytes(b"")
    only_problem(open_data(root).read("train"), "image unreadable", "one.png", "is empty: expected JPEG")


def test_voc_keeps_difficult(tmp_path: Path) -> None:
    root = factory.voc(tmp_path)
    text = factory.xml(ONE).replace("<bndbox>", "<difficult>1</difficult><bndbox>", 1)
    factory.write_text(root / "Annotations/one.xml", text)
    assert open_data(root).read("train").annotations(0).difficult.tolist() == [True, False]


def records(tmp_path: Path, *changes: dict[str, Any]) -> Dataset:
    """The factory's records, the second one changed."""
    file = factory.tfrecord(tmp_path) / "train-00000-of-00001.tfrecord"
    payloads = [payload for _, payload in scan(file)]
    with file.open("wb") as stream:
        for i, payload in enumerate(payloads):
            features = parse_example(payload)
            for change in changes if i == 1 else ():
                features |= change
            write_record(stream, make_example(features))
    return open_data(tmp_path).read("train", factory.CLASSES)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"image/encoded": []}, "image unreadable", "no image/encoded"),
        ({"image/encoded": [7]}, "image unreadable", "image/encoded should hold bytes"),
        ({"image/height": [b"x"]}, "image unreadable", "image/height should hold int"),
        ({"image/object/bbox/xmin": []}, "label unreadable", "1 labels for 0, 1, 1, 1"),
        ({"image/object/bbox/xmin": [b"x"]}, "label unreadable", "xmin should hold float"),
        ({"image/object/class/label": [1.0]}, "label unreadable", "label should hold int"),
        ({"image/filename": [3]}, "label unreadable", "filename should hold bytes"),
        ({"image/object/class/label": [0]}, "class unknown", "label 0"),
        ({"image/object/bbox/xmax": [0.0]}, "box empty", "no area"),
        ({"image/height": [0], "image/encoded": [b"x"]}, "image unreadable", "not an image"),
    ],
)
def test_tfrecord_records(tmp_path: Path, change: dict[str, Any], kind: str, says: str) -> None:
    dataset = records(tmp_path, change)
    only_problem(dataset, kind, "train-00000-of-00001.tfrecord, byte ", says)
    assert len(dataset) == (4 if kind in ("class unknown", "box empty") else 3)


@pytest.mark.parametrize("damage", ["flip", "cut", "garbage", "huge"])
def test_damaged_tfrecord_files_are_read_up_to_the_damage(tmp_path: Path, damage: str) -> None:
    file = factory.tfrecord(tmp_path) / "train-00000-of-00001.tfrecord"
    content = bytearray(file.read_bytes())
    third = [offset for offset, _ in scan(file)][2]
    if damage == "flip":
        content[third + 40] ^= 1
    file.write_bytes(content[: third + 40] if damage == "cut" else content)
    if damage == "garbage":
        file.write_bytes(bytes(content[:third]) + b"\xff" * 100)
    if damage == "huge":  # its checksum is right, and there is no such memory
        length = struct.pack("<Q", 2**62)
        file.write_bytes(bytes(content[:third]) + length + struct.pack("<I", masked_crc(length)) + b"x" * 9)
    dataset = open_data(tmp_path).read("train")
    says = {"flip": "does not match its checksum", "garbage": "checksum of the length"}.get(damage, "is cut off")
    only_problem(dataset, "label unreadable", file.name, says)
    assert str(third) in dataset.problems[0].what
    assert dataset.names.tolist() == ["one.png", "two.png"]


def masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_record_that_is_no_example(tmp_path: Path) -> None:
    file = factory.tfrecord(tmp_path) / "train-00000-of-00001.tfrecord"
    with file.open("ab") as stream:
        write_record(stream, b"\xff\xff\xff")
    only_problem(open_data(tmp_path).read("train"), "image unreadable", f"{file.name}, byte", "not a tf.train.Example")


def test_labels_with_two_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label 1 is both 'ant' and 'wasp'"):
        records(tmp_path, {"image/object/class/text": [b"wasp"], "image/object/class/label": [1]})
