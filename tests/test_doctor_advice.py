"""What the doctor advises about labels that readers set right, refuse or doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doctor_data import coco, scene
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.published import detector_config
from phidet.data.doctor.examine import examine
from phidet.data.doctor.facts import Report

LITE0 = detector_config("efficientdet-lite0")
INSIDE, REACHING_OUT = [20.0, 30.0, 40.0, 50.0], [100.0, 90.0, 90.0, 20.0]  # x, y, width, height in 160×120 pixels
view = EFFICIENTDET.doctor_view


def report_on(folder: Path, boxes: list[list[float]], **changes: object) -> Report:
    """On one image with boxes; ``changes`` are keys of all objects."""
    coco(folder, {"train": [(scene(0), [("cat", box) for box in boxes])]}, ["cat"])
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation |= changes
    file.write_text(json.dumps(content))
    return examine(folder, view(LITE0), decode=False).report


def advice(report: Report, severity: str, words: str) -> bool:
    return any(a.severity == severity and words in a.text for a in report.advice)


@pytest.mark.parametrize(("outside", "inside", "many"), [(6, 30, True), (6, 54, False), (3, 5, False)])
def test_many_boxes_that_reach_out_of_their_image_are_a_warning(
    tmp_path: Path, outside: int, inside: int, many: bool
) -> None:
    boxes = [
        *(INSIDE for _ in range(inside)),
        *([x, y + i, w, h] for i, (x, y, w, h) in enumerate([REACHING_OUT] * outside)),
    ]
    report = report_on(tmp_path, boxes)
    assert advice(report, "warning", f"{outside} boxes of {inside + outside} reaching out of the image") == many
    assert advice(report, "note", f"{outside} boxes reaching out of the image, cut at its border") == (not many)


def test_crowds_alone_are_an_error_as_nothing_is_learned_from_them(tmp_path: Path) -> None:
    report = report_on(tmp_path / "crowds", [INSIDE, INSIDE], iscrowd=1)
    assert (report.splits[0].objects, report.splits[0].crowd) == (2, 2)
    assert advice(report, "error", "All objects in train are crowds")
    assert report.errors == 1
    assert not advice(report_on(tmp_path / "objects", [INSIDE]), "error", "crowds")


def test_a_split_with_boxes_in_fractions_is_an_error_that_says_so(tmp_path: Path) -> None:
    report = report_on(tmp_path, [[0.1, 0.2, 0.3, 0.4]])
    assert report.splits == []
    assert advice(report, "error", "1 of 1 boxes look like fractions of the image")


def test_a_group_is_noted(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"train": [(scene(0), [("cat", INSIDE)])]}, ["cat", "pets"])
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["categories"][0]["supercategory"] = "pets"
    file.write_text(json.dumps(content))
    report = examine(folder, view(LITE0), decode=False).report
    assert (report.classes.names, report.classes.unused) == (["cat"], [])
    assert advice(report, "note", "only groups others is not used as a class")


@pytest.mark.parametrize(("scale", "count", "small"), [(0.5, 20, True), (0.5, 19, False), (1.0, 20, False)])
def test_labels_of_smaller_copies_of_the_images_are_doubted(
    tmp_path: Path, scale: float, count: int, small: bool
) -> None:
    boxes = [[scale * v for v in (100.0, 10.0 + i, 50.0, 80.0)] for i in range(count)]  # in 160×120 pixels
    report = report_on(tmp_path, boxes)
    assert report.splits[0].extent == pytest.approx(scale * max(150 / 160, (90 + count - 1) / 120), abs=1e-3)
    assert advice(report, "warning", "reaches beyond 47% of its image" if small else "reaches beyond") == small
