"""Masks written in a layout read back to the same pixels; what the layout cannot hold is counted; the doctor looks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from phidet.core.errors import InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.doctor.masks import mask_problems
from phidet.data.layouts import open_data
from phidet.data.mask_labels import NO_MASK, MaskLabel, MaskLabels, coco_label, polygons_label
from phidet.data.tfrecord_file import make_example, parse_example, scan, write_record
from phidet.data.writers.coco import write_coco
from phidet.data.writers.tfrecord import write_tfrecord
from phidet.data.writers.voc import write_voc
from phidet.data.writers.yolo import write_yolo
from phidet.detections.masks import Masks
from test_data_masks import HW, coco_file, disc, full_of, image, panoptic, star

NAMES = ("zebra", "ant")


def made(root: Path, *labels: MaskLabel, crowd: int = -1) -> Dataset:
    """Two images; the objects' boxes are those of their masks."""
    collector = Collector("train", root, NAMES)
    for name in ("a.png", "b.png"):
        image(root / name)
        objects = []
        for i, label in enumerate(labels):
            box = [1, 1, 9, 9] if label == NO_MASK else MaskLabels.of([label]).masks(HW).boxes_xyxy[0].tolist()
            x1, y1, x2, y2 = box
            objects.append(RawObject(f"{i}", (x1, y1, x2, y2), NAMES[i % 2], crowd=i == crowd, mask=label))
        collector.add(name, root / name, HW, objects)
    return collector.dataset()


def ring_label() -> MaskLabel:
    """A disc with a hole and a piece apart, as runs."""
    full = (disc(20, 20, 15) & ~disc(22, 18, 6)) | disc(50, 35, 5)
    return coco_label(Masks.from_full(full[None]).to_list()[0])


def stars() -> list[MaskLabel]:
    return [polygons_label([star(20, 20, 12)]), polygons_label([star(45, 15, 10), star(40, 35, 9)]), ring_label()]


def test_coco_keeps_polygons_and_runs(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", *stars(), NO_MASK, crowd=2)
    write_coco({"train": dataset}, tmp_path / "out")
    again = open_data(tmp_path / "out").read("train")
    assert again.all_annotations.mask_labels == dataset.all_annotations.mask_labels  # to the last bit of a coordinate
    theirs = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    objects = theirs.loadAnns(theirs.getAnnIds([1]))
    runs = [theirs.annToRLE(o) for o in objects if "segmentation" in o]
    masks = dataset.masks(0)
    assert masks is not None
    assert len(runs) == 3
    assert Masks.from_coco(runs, HW) == masks[:3]


def test_label_images_become_runs(tmp_path: Path) -> None:
    panoptic(tmp_path / "in")
    dataset = open_data(tmp_path / "in").read("val")
    write_coco({"val": dataset}, tmp_path / "out")
    assert np.array_equal(full_of(open_data(tmp_path / "out").read("val")), full_of(dataset))


def test_yolo_has_one_outline_for_each_object(tmp_path: Path) -> None:
    square = polygons_label([[5.5, 6.25, 30, 6.25, 30, 30, 5.5, 30]])  # not to be taken for a rotated box
    dataset = made(tmp_path / "in", *stars(), square, NO_MASK, ring_label(), crowd=5)
    written = write_yolo({"train": dataset}, tmp_path / "out")
    assert [problem.kind for problem in written.problems] == ["crowd left out"]
    again = open_data(tmp_path / "out").read("train")
    assert again.all_annotations.mask_labels.known.tolist() == [True] * 4 + [False] + [True] * 4 + [False]  # type: ignore[union-attr]
    assert np.array_equal(full_of(again), full_of(dataset)[:5])
    only = made(tmp_path / "squares", square, square)
    write_yolo({"train": only}, tmp_path / "only")
    assert np.array_equal(full_of(open_data(tmp_path / "only").read("train")), full_of(only))


def test_voc_has_label_images_of_what_does_not_overlap(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", polygons_label([star(15, 15, 12)]), ring_label(), polygons_label([star(48, 36, 9)]))
    written = write_voc({"train": dataset}, tmp_path / "out")
    masks = dataset.masks(0)
    assert masks is not None
    lost = int(masks.areas.sum()) - int(masks.to_full().any(0).sum())
    assert [(p.kind, p.what.split()[0]) for p in written.problems] == [("mask overlap lost", f"{2 * lost:,}")]
    assert (tmp_path / "out/ImageSets/Segmentation/train.txt").read_text() == "a\nb\n"
    assert "<segmented>1</segmented>" in (tmp_path / "out/Annotations/a.xml").read_text()
    # The smallest of several objects keeps a pixel.
    order = np.argsort(masks.areas)
    ids = masks[order].to_ids(order + 1)
    expected = np.stack([ids == i for i in (1, 2, 3)])
    assert np.array_equal(full_of(open_data(tmp_path / "out").read("train")), expected)
    # By classes alone, labelmap.txt says which number is which; within a box all of the class belong to the object.
    for file in (tmp_path / "out/SegmentationObject").iterdir():
        file.unlink()
    by_class = full_of(open_data(tmp_path / "out").read("train"))
    zebras = expected[0] | expected[2]
    x1, y1, x2, y2 = dataset.annotations(0).boxes_xyxy[0].astype(int)
    within = np.zeros(HW, bool)
    within[y1:y2, x1:x2] = True
    assert np.array_equal(by_class[0], zebras & within)


def test_what_a_layout_cannot_hold_is_counted(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", *stars(), NO_MASK)
    written = write_voc({"train": dataset}, tmp_path / "voc")
    assert ("mask left out", "6") in [(p.kind, p.what.split()[0]) for p in written.problems]
    assert not (tmp_path / "voc/SegmentationObject").exists()


def test_records_hold_a_png_for_each_object(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", *stars(), NO_MASK, crowd=2)
    written = write_tfrecord({"train": dataset}, tmp_path / "out", images_per_shard=1)
    assert not written.problems
    again = open_data(tmp_path / "out").read("train")
    labels = again.all_annotations.mask_labels
    assert labels is not None
    assert labels.known.tolist() == [True, True, True, False] * 2
    assert len(labels.content) < 8 * 300  # where masks lie, not their pixels
    for index in range(2):
        assert again.masks(index) == dataset.masks(index)
    # As TensorFlow's detection tools have it: a PNG of the image's size, 0 and 1.
    example = parse_example(next(payload for _, payload in scan(tmp_path / "out" / written.files[0])))
    pngs = example["image/object/mask"]
    assert [len(png) > 0 for png in pngs] == [True, True, True, False]  # type: ignore[arg-type]
    with Image.open(io.BytesIO(pngs[2])) as file:  # type: ignore[arg-type]
        assert (file.mode, file.size) == ("L", HW[::-1])
        masks = dataset.masks(0)
        assert masks is not None
        assert np.array_equal(np.asarray(file), masks.to_full()[2])


def test_records_without_masks_are_as_before(tmp_path: Path) -> None:
    write_tfrecord({"train": made(tmp_path / "in", NO_MASK)}, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.tfrecord")
    assert all("image/object/mask" not in parse_example(payload) for _, payload in scan(file))


def test_masks_of_a_record_that_do_not_go_with_it_are_named(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", *stars()[:2])
    write_tfrecord({"train": dataset}, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.tfrecord")
    records = [parse_example(payload) for _, payload in scan(file)]
    small = io.BytesIO()
    Image.new("L", (3, 2), 1).save(small, "PNG")
    records[0]["image/object/mask"] = records[0]["image/object/mask"][:1]  # of two objects
    records[1]["image/object/mask"] = [small.getvalue(), b"no image"]
    with file.open("wb") as stream:
        for record in records:
            write_record(stream, make_example(record))
    read = open_data(tmp_path / "out").read("train")
    assert [p.what for p in read.problems] == ["it has 2 objects and 1 values of image/object/mask; left out"]
    with pytest.raises(InputError, match=r"mask 1 has 3×2 pixels, its image 64×48"):
        read.masks(0)
    labels = read.annotations(0).mask_labels
    assert labels is not None
    with pytest.raises(InputError, match="mask 2: the content"):
        labels[1:2].masks(HW)


@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc, write_tfrecord])
def test_a_label_image_that_is_gone_costs_the_masks_not_the_boxes(write: object, tmp_path: Path) -> None:
    panoptic(tmp_path / "in")
    dataset = open_data(tmp_path / "in").read("val")
    next((tmp_path / "in/annotations/panoptic_val").iterdir()).unlink()
    written = write({"val": dataset}, tmp_path / "out")  # type: ignore[operator]
    assert "mask invalid" in [problem.kind for problem in written.problems]
    assert len(open_data(tmp_path / "out").read("val").all_annotations.areas) == 3


# ---- doctor


def test_the_doctor_names_what_is_wrong_with_masks(tmp_path: Path) -> None:
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    segmentations = {
        "mask outside": [star(60, 20, 12)],
        "mask empty": {"size": list(HW), "counts": [HW[0] * HW[1]]},
        "mask misplaced": [[50, 40, 60, 40, 60, 47, 50, 47]],
        "": [star(30, 22, 20)],
    }
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0, "segmentation": segmentation}
        for i, (segmentation, box) in enumerate(
            zip(segmentations.values(), ([49, 8, 15, 24], [1, 1, 9, 9], [3, 4, 12, 11], [11, 3, 38, 39]), strict=True),
            1,
        )
    ]
    file.write_text(json.dumps(content))
    found = mask_problems(open_data(tmp_path).read("train"))
    assert [(problem.kind, problem.where) for problem in found] == [
        (kind, f"1.png, object {i}") for i, kind in enumerate(segmentations, 1) if kind
    ]
    assert found[2].what == "its mask lies in [50, 40, 60, 47], its box is [3, 4, 15, 15]"
    assert found[0].what == "its outline reaches 8 pixels out of the image"
    assert mask_problems(open_data(tmp_path).read("train").subset([1], "clean")) == []


def test_segments_of_panoptic_labels_do_not_overlap(tmp_path: Path) -> None:
    file = panoptic(tmp_path)
    assert mask_problems(open_data(tmp_path).read("val")) == []
    content = json.loads(file.read_text())
    segments = content["annotations"][0]["segments_info"]
    segments.append(segments[1] | {"category_id": 187, "bbox": [29, 20, 22, 21]})
    file.write_text(json.dumps(content))
    [problem] = mask_problems(open_data(tmp_path).read("val"))
    assert problem.kind == "mask overlapping"
    common = int(disc(40, 30, 10).sum())
    assert problem.what == f"segments 2 (cat) and 4 (sky) have {common} pixels in common"


def test_a_missing_label_image_is_a_finding(tmp_path: Path) -> None:
    panoptic(tmp_path)
    dataset = open_data(tmp_path).read("val")
    (tmp_path / "annotations/panoptic_val/7.png").unlink()
    [problem] = mask_problems(dataset)
    assert problem.kind == "mask invalid"
    assert "7.png" in problem.what
