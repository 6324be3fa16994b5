"""Label images that cannot be read, or are missing, where masks are measured: nothing ends, and it is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phidet.cli.main import main
from phidet.data.dataset import Dataset
from phidet.data.doctor.unused import unused_files
from phidet.data.layouts import open_data
from phidet.data.readable_masks import with_readable_masks
from phidet.detections.detections import Detections
from phidet.detections.masks import FIELD
from phidet.evaluation.measure import measure
from phidet.evaluation.results_file import write_results

HW = (48, 64)


def write_panoptic(root: Path, count: int = 3) -> Path:
    """Images of a sky, and of a cat in it."""
    (root / "annotations/panoptic_val").mkdir(parents=True)
    (root / "images/val").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        Image.new("RGB", HW[::-1], (90, 90, 40 * i)).save(root / f"images/val/{i}.png")
        ids = np.zeros((*HW, 3), np.uint8)
        ids[..., 0] = 1
        ids[10:30, 8 + i : 40 + i, 0] = 2
        Image.fromarray(ids).save(root / f"annotations/panoptic_val/{i}.png")
        segments = [
            {"id": 1, "category_id": "2", "bbox": [0, 0, 64, 48], "area": 64 * 48 - 640, "iscrowd": "0"},
            {"id": 2, "category_id": 1, "bbox": [8 + i, 10, 32, 20], "area": 640, "iscrowd": "0"},
        ]
        images.append({"id": i, "file_name": f"{i}.png", "height": 48, "width": 64})
        annotations.append({"image_id": str(i), "file_name": f"{i}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "cat", "isthing": "1"}, {"id": 2, "name": "sky", "isthing": "0"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/panoptic_val.json").write_text(json.dumps(content))
    return root


def labelled(dataset: Dataset) -> list[Detections]:
    """The labels as detections."""
    found = []
    for i in range(len(dataset)):
        a, masks = dataset.annotations(i), dataset.masks(i)
        assert masks is not None
        scores = np.full(len(masks), 0.9, np.float32)
        fields = {FIELD: masks}
        found.append(Detections(a.boxes_xyxy, scores, a.class_ids, dataset.class_names, HW, fields))
    return found


def test_flags_in_words_are_what_they_say(tmp_path: Path) -> None:
    dataset = open_data(write_panoptic(tmp_path)).read("val")
    assert dataset.stuff == {1}
    assert not dataset.all_annotations.crowd.any()


@pytest.mark.parametrize("damage", ["cut", "size"])
def test_an_image_whose_masks_cannot_be_read_keeps_its_boxes(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_data(write_panoptic(tmp_path)).read("val")
    found = labelled(dataset)
    assert with_readable_masks(dataset) is dataset
    png = tmp_path / "annotations/panoptic_val/1.png"
    if damage == "cut":
        png.write_bytes(png.read_bytes()[:60])
    else:
        Image.new("RGB", (9, 9)).save(png)
    with caplog.at_level(logging.WARNING, "phidet"):
        usable = with_readable_masks(dataset)
    assert [line.startswith("mask left out: ") and "1.png" in line for line in caplog.messages] == [True]
    assert [(problem.kind, problem.image) for problem in usable.problems] == [("mask invalid", str(dataset.names[1]))]
    assert not dataset.problems, "the data that came in are as they were"
    labels = usable.all_annotations.mask_labels
    assert labels is not None
    assert labels.known.tolist() == [True, True, False, False, True, True]
    assert (usable.stuff, usable.coco_ids) == (dataset.stuff, dataset.coco_ids)
    # Everything that is known was found: the metrics are perfect, of boxes on all images, of pixels on two.
    report = measure("m", "d", dataset, found)
    assert report.coco.ap == 1.0
    assert [(group.kind, group.count) for group in report.summary.notes] == [("mask invalid", 1)]
    assert report.masks is not None
    assert report.masks.coco is not None
    assert report.masks.coco.ap == 1.0
    assert report.masks.panoptic is not None
    assert report.masks.panoptic.all.pq == 1.0
    assert [one.found for one in report.masks.panoptic.classes] == [2, 2]
    assert report.masks.semantic.miou == 1.0
    # Boxes alone do not ask for masks.
    caplog.clear()
    measure("m", "d", dataset, [Detections(f.boxes_xyxy, f.scores, f.class_ids, f.names, HW) for f in found])
    assert caplog.messages == []


def test_the_command_measures_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_data(write_panoptic(tmp_path / "data")).read("val")
    write_results(tmp_path / "found.json", dataset, labelled(dataset))
    (tmp_path / "data/annotations/panoptic_val/2.png").write_bytes(b"")
    words = ["eval", str(tmp_path / "data"), "-m", str(tmp_path / "found.json"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["masks"]["panoptic"]["all"]["pq"] == 1.0
    assert sum(line.startswith("mask left out: ") for line in caplog.messages) == 1


def test_a_listed_image_without_an_annotation_is_named(tmp_path: Path) -> None:
    file = write_panoptic(tmp_path) / "annotations/panoptic_val.json"
    content = json.loads(file.read_text())
    del content["annotations"][1]
    file.write_text(json.dumps(content))
    dataset = open_data(tmp_path).read("val")
    assert len(dataset) == 2
    assert [(p.kind, p.where) for p in dataset.problems] == [("label unreadable", f"{file}, images[1]")]
    assert dataset.problems[0].what == "no annotation is about it; left out"


def test_label_images_are_used(tmp_path: Path) -> None:
    """Also those of classes beside those of objects, which nobody reads."""
    folder = open_data(write_panoptic(tmp_path / "panoptic"))
    Image.new("RGB", HW[::-1]).save(tmp_path / "panoptic/annotations/panoptic_val/other.png")
    assert unused_files(folder, [folder.read("val")], []) == ["annotations/panoptic_val/other.png"]
    for layout in ("voc", "coco"):
        assert main(["convert-data", str(tmp_path / "panoptic"), str(tmp_path / layout), "--to", layout]) == 0
        folder = open_data(tmp_path / layout)
        read = [folder.read(split) for split in folder.splits]
        assert unused_files(folder, read, []) == []
    voc = tmp_path / "voc"
    assert (voc / "SegmentationObject").is_dir()
    (voc / "SegmentationClass").mkdir(exist_ok=True)
    for name in ("0.png", "alone.png"):
        Image.new("P", HW[::-1]).save(voc / "SegmentationClass" / name)
    folder = open_data(voc)
    assert unused_files(folder, [folder.read(split) for split in folder.splits], []) == ["SegmentationClass/alone.png"]
