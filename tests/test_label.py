"""``phidet label``: pre-labels in the forms that labelling tools import, their order, and what people changed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data_factory import Picture, save_image
from described_detector import NAMES, described
from phidet.cli.main import main
from phidet.core.errors import InputError
from phidet.data.layouts import open_data
from phidet.detections.detections import Detections
from phidet.evaluation.prelabels import compare, expected_mistakes, read_record

ROWS = np.array([[[8, 4, 40, 20, 0.9, 0, 0], [32, 32, 64, 64, 0, 0.6, 0], [0, 40, 8, 64, 0, 0, 0.2]]], np.float32)
"""In pixels of an input of 64 × 64: a cat, a dog, and a bird below the threshold."""
BOXES = {"one.png": [[8, 4, 40, 20], [32, 32, 64, 64]], "deep & far/two.png": [[16, 8, 80, 40], [64, 64, 128, 128]]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    save_image(folder / "one.png", Picture("one.png", (64, 64), ()))
    save_image(folder / "deep & far" / "two.png", Picture("two.png", (128, 128), ()))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def label(images: Path, tmp_path: Path, *words: str) -> Path:
    model = described(tmp_path, ROWS, boxes="xyxy")
    out = tmp_path / "start"
    assert main(["label", str(images), "-m", str(model), "--out", str(out), *words]) == 0
    return out


def test_a_name_that_is_no_utf_8_costs_nothing(images: Path, tmp_path: Path) -> None:
    (images / "one.png").rename(images / "on\udce9.png")
    out = label(images, tmp_path, "--to", "coco", "yolo", "cvat", "label-studio")
    names = {image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]}
    assert names == {"on\ufffd.png", "deep & far/two.png"}


def test_every_form_holds_the_same_boxes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = label(images, tmp_path, "--to", "coco", "yolo", "cvat", "label-studio", "--image-prefix", "s3://bucket/")
    assert "found 4 objects in 2 images, 1 left out" in capsys.readouterr().out
    assert f"{images / 'broken.png'} is not an image that can be read" in caplog.text

    coco = json.loads((out / "coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    in_coco: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for a in coco["annotations"]:
        x, y, width, height = a["bbox"]
        in_coco[names[a["image_id"]]].append([x, y, x + width, y + height])
    assert in_coco == BOXES

    root = ElementTree.parse(out / "cvat.xml").getroot()
    in_cvat = {
        image.attrib["name"]: [[float(box.attrib[k]) for k in ("xtl", "ytl", "xbr", "ybr")] for box in image]
        for image in root.iter("image")
    }
    assert in_cvat == BOXES
    assert [box.attrib["label"] for box in root.iter("box")] == ["cat", "dog"] * 2

    in_studio = {}
    for task in json.loads((out / "label-studio.json").read_text()):
        address = task["data"]["image"]
        assert " " not in address
        found = task["predictions"][0]["result"]
        assert [r["value"]["rectanglelabels"] for r in found] == [["cat"], ["dog"]]
        assert [r["score"] for r in found] == pytest.approx([0.9, 0.6])
        sides = []
        for r in found:
            value, width, height = r["value"], r["original_width"] / 100, r["original_height"] / 100
            x, y = value["x"] * width, value["y"] * height
            sides.append([x, y, x + value["width"] * width, y + value["height"] * height])
        in_studio[unquote(address.removeprefix("s3://bucket/"))] = sides
    assert in_studio.keys() == BOXES.keys()
    for name, boxes in in_studio.items():
        np.testing.assert_allclose(boxes, BOXES[name])
    # The interface names what the tasks refer to.
    interface = ElementTree.parse(out / "label-studio.xml").getroot()
    tags = {tag.tag: tag.attrib for tag in interface.iter()}
    assert (tags["RectangleLabels"]["name"], tags["RectangleLabels"]["toName"]) == ("label", "image")
    assert tags["Image"]["value"] == "$image"
    assert [tag.attrib["value"] for tag in interface.iter("Label")] == list(NAMES)

    yolo = open_data(out / "yolo").read("train")
    in_yolo = {Path(str(yolo.source(i))): yolo.annotations(i).boxes_xyxy.tolist() for i in range(len(yolo))}
    assert {path.relative_to(out / "yolo/images/train").as_posix(): boxes for path, boxes in in_yolo.items()} == BOXES


def test_the_most_uncertain_image_comes_first() -> None:
    def found(*scores: float) -> Detections:
        count = len(scores)
        return Detections(np.tile([0.0, 0, 1, 1], (count, 1)), np.array(scores), np.zeros(count, np.int64), NAMES)

    assert expected_mistakes(Detections.empty(NAMES)) == 0
    assert expected_mistakes(found(1.0, 0.04)) == 0
    assert expected_mistakes(found(0.9, 0.6, 0.2)) == pytest.approx(0.1 + 0.4 + 0.2)
    assert expected_mistakes(found(0.5)) > expected_mistakes(found(0.9, 0.9, 0.1))


def test_the_ranking_names_every_image_once(images: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((label(images, tmp_path) / "next.csv").read_text().splitlines()))
    assert [(row["rank"], row["image"]) for row in rows] == [("1", "deep & far/two.png"), ("2", "one.png")]
    said = [(row["expected_mistakes"], row["prelabels"], row["detections"]) for row in rows]
    assert said == [("0.700", "2", "3")] * 2


def test_doctor_counts_what_people_changed(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = label(images, tmp_path, "--to", "yolo")
    corrected = out / "yolo"
    assert compare(read_record(out), [open_data(corrected).read("train")])[:] == (2, 4, 0, 0, 0, 0)

    one = next(corrected.glob("labels/train/one.txt"))
    cat, dog = one.read_text().splitlines()
    one.write_text("\n".join([cat.replace("0 ", "2 ", 1), "1 0.05 0.9 0.1 0.1"]))  # renamed; removed; added
    two = next(corrected.glob("labels/train/deep*/two.txt"))
    cat, dog = two.read_text().splitlines()
    word = dog.split()
    two.write_text("\n".join([cat, f"{word[0]} {float(word[1]) - 0.05} {' '.join(word[2:])}"]))  # kept; moved
    assert compare(read_record(out), [open_data(corrected).read("train")])[:] == (2, 1, 1, 1, 1, 1)

    # Images are known by their content: names do not matter.
    for folder in ("images", "labels"):
        for path in list((corrected / folder / "train").glob("one.*")):
            path.rename(path.with_stem("renamed"))
    main(["doctor", str(corrected), "--prelabels", str(out), "--fast"])
    said = capsys.readouterr().err
    assert (
        "2 images compared: of 4 pre-labels 1 (25%) kept, 1 moved, 1 given another class, 1 removed; 1 object added"
        in said
    )


def test_another_projects_detector_is_measured_as_any(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher should be measured before it teaches. On what it labelled itself, nothing is wrong."""
    data = label(images, tmp_path, "--to", "yolo") / "yolo"
    model = tmp_path / "foreign.json"
    capsys.readouterr()
    words = ["eval", str(data), "--split", "train", "--json", "-m"]
    assert main([*words, str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["coco"]["ap"] == pytest.approx(1)
    for wrong, said in (("--device", "leave out"), ("--store-thresholds", "a model file of your own")):
        assert main([*words, str(model), wrong, *(["cuda"] if wrong == "--device" else [])]) == 2
        assert said in capsys.readouterr().err
    # Neither detections nor a description is still told as what it is not.
    (tmp_path / "labels.json").write_text('{"images": [], "categories": []}')
    assert main([*words, str(tmp_path / "labels.json")]) == 3
    assert "is not COCO's results" in capsys.readouterr().err
    assert main(["detect", str(images), "-m", str(model), "--out", str(tmp_path / "found")]) == 4
    assert "are for 'phidet label', 'phidet eval' and --teacher" in capsys.readouterr().err


def test_where_nothing_is_found_there_are_files_without_objects(images: Path, tmp_path: Path) -> None:
    out = label(images, tmp_path, "--to", "coco", "yolo", "cvat", "label-studio", "--score", "0.99")
    assert json.loads((out / "coco.json").read_text())["annotations"] == []
    assert [task["predictions"][0]["result"] for task in json.loads((out / "label-studio.json").read_text())] == [
        [],
        [],
    ]
    assert [image.scores for image in read_record(out).images] == [[], []]


def test_mistakes_are_said(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = label(images, tmp_path)
    before = sorted(out.rglob("*"))
    model = str(tmp_path / "foreign.json")
    assert main(["label", str(images), "-m", model, "--out", str(out)]) == 2
    assert "start is there already" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before
    assert main(["label", str(images), "-m", model, "--score", "0", "--out", str(tmp_path / "other")]) == 2
    assert "--score must be above 0" in capsys.readouterr().err
    assert main(["label", str(tmp_path / "absent"), "-m", model, "--out", str(tmp_path / "other")]) == 3
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match=r"has no prelabels\.json: name the folder that 'phidet label' wrote"):
        read_record(images)
    (images / "prelabels.json").write_text("{}")
    with pytest.raises(InputError, match=r"prelabels\.json is damaged, or not of 'phidet label'"):
        read_record(images)
    others = tmp_path / "others"
    others.mkdir()
    Image.new("RGB", (9, 9)).save(others / "unknown.png")
    (others / "unknown.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(InputError, match="none of the 2 pre-labelled images is among the data"):
        compare(read_record(out), [open_data(others).read("all")])
