"""COCO JSON as tools write it: categories that only group, names of other computers, boxes in another meaning."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data

BOXES = [[26, 87, 34, 27], [17, 31, 43, 18], [62, 6, 52, 33], [11, 9, 44, 18], [33, 30, 21, 38], [86, 63, 21, 23]]
CATS = [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]


def save(path: Path, size_wh: tuple[int, int] = (160, 120)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh).save(path)
    return path


def content(
    names: list[str], boxes: list[Any] = BOXES, categories: list[Any] = CATS, category_id: int = 1
) -> dict[str, list[Any]]:
    """Images of 160×120 pixels; box i belongs to image i mod their number."""
    images = [{"id": i, "file_name": name, "width": 160, "height": 120} for i, name in enumerate(names)]
    objects = [
        {"id": i, "image_id": i % len(names), "category_id": category_id, "bbox": box} for i, box in enumerate(boxes)
    ]
    return {"images": images, "annotations": objects, "categories": categories}


def write(path: Path, labels: dict[str, list[Any]], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(labels, ensure_ascii=False).encode(encoding))
    return path


def read(root: Path, labels: dict[str, list[Any]], split: str = "train") -> Dataset:
    write(root / split / "_annotations.coco.json", labels)
    return open_data(root).read(split)


def kinds(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems]


# What tools write beside the box


@pytest.mark.parametrize(("degrees", "around"), [(90, [65, 5, 75, 105]), (-90, [65, 5, 75, 105]), (30, None)])
def test_a_turned_box_becomes_the_upright_one_around_it(
    tmp_path: Path, degrees: float, around: list[float] | None
) -> None:
    """CVAT's: ``bbox`` is the box as it was before it was turned."""
    labels = content(["a.png"], [[20, 50, 100, 10], [30, 20, 40, 60], [11, 9, 44, 18]])
    save(tmp_path / "train/a.png")
    for one, turned in zip(labels["annotations"], (degrees, 180, 0), strict=True):
        one["attributes"] = {"occluded": False, "rotation": turned}
    # Around its centre, (70, 55); worked out with cos 30° = 0.8660 and sin 30° = 0.5.
    half_width, half_height = 50 * 0.8660254 + 5 * 0.5, 50 * 0.5 + 5 * 0.8660254
    wanted = around or [70 - half_width, 55 - half_height, 70 + half_width, 55 + half_height]
    dataset = read(tmp_path, labels)
    found = dataset.annotations(0).boxes_xyxy
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert found[1:].tolist() == [[30, 20, 70, 80], [11, 9, 55, 27]]
    assert kinds(dataset) == ["box turned"]
    assert f"turned by {degrees:g}°" in dataset.problems[0].what


def test_attributes_that_are_no_rotation_say_nothing(tmp_path: Path) -> None:
    labels = content(["a.png"])
    save(tmp_path / "train/a.png")
    others = ("steep", None, float("nan"), [90], True, {})
    for one, turned in zip(labels["annotations"], others, strict=True):
        one["attributes"] = {"rotation": turned} if turned != {} else ["rotation"]
    dataset = read(tmp_path, labels)
    assert (kinds(dataset), len(dataset.annotations(0).class_ids)) == ([], len(others))


@pytest.mark.parametrize("name", ["", "  ", None, True, ["cat"]])
def test_a_category_without_a_name_is_named_by_its_place(tmp_path: Path, name: Any) -> None:
    save(tmp_path / "train/a.png")
    labels = content(["a.png"], categories=[CATS[0], {"id": 2, "name": name}])
    with pytest.raises(InputError, match=r"categories\[1\]: expected an id and a name, got \{'id': 2"):
        read(tmp_path, labels)


def test_ids_that_are_numbers_here_and_text_there_are_the_same(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    save(tmp_path / "train/b.png")
    plain = read(tmp_path, content(["a.png", "b.png"]))
    labels = content(["a.png", "b.png"])
    for one in labels["annotations"]:
        one["image_id"], one["category_id"] = str(one["image_id"]), str(one["category_id"])
    dataset = read(tmp_path, labels)
    assert kinds(dataset) == []
    assert dataset.counts.tolist() == plain.counts.tolist() == [3, 3]
    assert (dataset.all_annotations.boxes_xyxy == plain.all_annotations.boxes_xyxy).all()
    # An id that is there as it is written is meant as it is written.
    labels["categories"] = [CATS[0], {"id": "1", "name": "other", "supercategory": ""}]
    assert {read(tmp_path, labels).class_names[c] for c in read(tmp_path, labels).all_annotations.class_ids} == {
        "other"
    }


def test_crowds_in_words(tmp_path: Path) -> None:
    labels = content(["a.png"])
    save(tmp_path / "train/a.png")
    for one, crowd in zip(labels["annotations"], ("0", "1", "false", True, None, "perhaps"), strict=True):
        one["iscrowd"] = crowd
    dataset = read(tmp_path, labels)
    assert dataset.annotations(0).crowd.tolist() == [False, True, False, True, False]
    assert kinds(dataset) == ["label unreadable"]
    assert "perhaps" in dataset.problems[0].what


# Categories


def category(category_id: int, name: str, above: str | None = None) -> dict[str, Any]:
    return {"id": category_id, "name": name} | ({} if above is None else {"supercategory": above})


@pytest.mark.parametrize(
    ("categories", "classes", "said"),
    [
        ([category(0, "pets", "none"), category(1, "cat", "pets"), category(2, "dog", "pets")], ("cat", "dog"), "pets"),
        ([category(0, "fish", "none"), category(1, "fish", "fish")], ("fish",), "fish"),
        ([category(1, "cat", "pets"), category(2, "dog", "pets"), category(3, "pets")], ("cat", "dog"), "pets"),
        # COCO's own "person" is its own supercategory; a class without objects is a class.
        ([category(1, "cat", "animal"), category(2, "person", "person")], ("cat", "person"), None),
        ([category(0, "pets", "none"), category(1, "cat", "animal")], ("pets", "cat"), None),
        ([category(1, "pets", "none"), category(2, "cat", "pets")], ("pets", "cat"), None),  # pets have objects
        ([category(0, "__background__"), category(1, "cat")], ("cat",), "__background__"),
        ([category(1, "background"), category(2, "cat")], ("background", "cat"), None),  # which has objects here
    ],
)
def test_a_category_that_only_groups_others_is_no_class(
    tmp_path: Path, categories: list[Any], classes: tuple[str, ...], said: str | None
) -> None:
    save(tmp_path / "train/a.png")
    dataset = read(tmp_path, content(["a.png"], categories=categories))
    assert dataset.class_names == classes
    assert len(dataset.all_annotations.class_ids) == len(BOXES)
    assert kinds(dataset) == ([] if said is None else ["grouping category"])
    if said is not None:
        assert f"{said!r} has no objects" in dataset.problems[0].what


def test_groups_of_groups_are_no_classes_and_categories_in_a_circle_all_stay(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    tree = [category(0, "animals", "none"), category(1, "pets", "animals"), category(2, "cat", "pets")]
    assert read(tmp_path, content(["a.png"], categories=tree, category_id=2)).class_names == ("cat",)
    circle = [category(1, "a", "b"), category(2, "b", "a")]
    assert read(tmp_path, content(["a.png"], boxes=[], categories=circle)).class_names == ("a", "b")


def test_class_names_in_unicodes_other_form_are_the_same_classes(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    decomposed = unicodedata.normalize("NFD", "Kühe")
    labels = content(["a.png"], categories=[category(1, decomposed)])
    dataset = read(tmp_path, labels)
    assert dataset.class_names == ("Kühe",)
    write(tmp_path / "train/_annotations.coco.json", labels)
    for names in (["Rind", "Kühe"], ["Rind", decomposed]):
        again = open_data(tmp_path).read("train", names)
        assert (again.problems, set(again.all_annotations.class_ids)) == ([], {1})


# Names of images


def test_what_lies_around_a_file_is_not_searched(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/deep/a.png")
    file = write(tmp_path / "set.json", content(["a.png"]))
    assert open_data(tmp_path).read("set").source(0) == tmp_path / "elsewhere/deep/a.png"
    with pytest.raises(InputError, match=r"no a\.png: it is not in"):
        open_data(file).read("set")


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\label-studio\\media\\upload\\4\\cb0618f0-scan.png",
        "images\\1/cb0618f0-scan.png",
        "/data/upload/4/cb0618f0-scan.png",
        "/data/local-files/?d=images/cb0618f0-scan.png",
        "https://example.com/files/cb0618f0-scan.png?X-Amz-Expires=60&x=a/b.png",
        "s3://bucket/images/cb0618f0-scan.png",
        "C:\\Users\\Ann\\cb0618f0-SCAN.PNG",
        "4/cb0618f0%2Dscan.png",
        "4/cb0618f0-scan",
    ],
)
def test_images_named_as_on_another_computer_are_found_by_name_and_it_is_said(tmp_path: Path, name: str) -> None:
    image = save(tmp_path / "images/cb0618f0-scan.png")
    save(tmp_path / "images/cb0618f1-scan.png")
    write(tmp_path / "result.json", content([name, "elsewhere/cb0618f1-scan.png"]))
    dataset = open_data(tmp_path / "result.json").read("result")
    assert dataset.source(0) == image
    assert [len(dataset.annotations(i).class_ids) for i in range(2)] == [3, 3]
    assert kinds(dataset) == ["image found by name"]
    assert "2 of 2 images are not where file_name says" in dataset.problems[0].what


def test_a_label_studio_prefix_is_left_off_where_only_one_image_is_meant(tmp_path: Path) -> None:
    save(tmp_path / "images/scan.png")
    write(tmp_path / "result.json", content(["upload/cb0618f0-scan.png"]))
    assert open_data(tmp_path / "result.json").read("result").source(0) == tmp_path / "images/scan.png"
    save(tmp_path / "images/other.png")
    write(tmp_path / "result.json", content(["upload/cb0618f0-scan.png", "upload/deadbeef-scan.png", "other.png"]))
    dataset = open_data(tmp_path / "result.json").read("result")
    assert dataset.names.tolist() == ["other.png"], "two uploads of one name are two images"
    assert kinds(dataset) == ["image missing", "image missing"]
    assert "2 names could mean that image" in dataset.problems[0].what


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_decomposed_names_are_found(tmp_path: Path, forms: tuple[str, str]) -> None:
    on_disk, written = (unicodedata.normalize(form, "Kühe 1.png") for form in forms)
    save(tmp_path / "train" / on_disk)
    dataset = read(tmp_path, content([written, on_disk]))
    assert len(dataset) == 1, "one file under two names is one image"
    assert len(dataset.annotations(0).class_ids) == len(BOXES)


def test_equal_names_in_the_folders_of_other_splits_are_other_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / "images" / split / f"{split}.png")
        write(tmp_path / f"annotations/instances_{split}.json", content(["train.png", "val.png"]))
    for split in ("train", "val"):
        dataset = open_data(tmp_path).read(split)
        assert dataset.names.tolist() == [f"{split}.png"]
        assert kinds(dataset) == ["image missing"]


def test_folders_in_the_name_choose_among_equal_names(tmp_path: Path) -> None:
    for folder in ("day", "night"):
        save(tmp_path / "photos" / folder / "0.png")
    labels = content(["D:\\set\\night\\0.png", "D:\\set\\day\\0.png", "dusk/0.png"])
    write(tmp_path / "all.json", labels)
    dataset = open_data(tmp_path).read("all")
    assert [dataset.source(i) for i in range(2)] == [tmp_path / f"photos/{f}/0.png" for f in ("night", "day")]
    assert kinds(dataset) == ["image found by name", "image missing"]
    assert "no dusk/0.png: it is not in" in dataset.problems[1].what


def test_images_are_called_by_their_paths_below_the_data_and_never_alike(tmp_path: Path) -> None:
    for name in ("train/a.png", "a.png", "train/sub/b.png"):
        save(tmp_path / name)
    dataset = read(tmp_path, content(["a.png", "..\\a.png", "./sub//b.png"]))
    assert dataset.problems == []
    assert dataset.names.tolist() == ["a.png", str(tmp_path / "train/../a.png"), "sub/b.png"]


def test_objects_of_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    labels = content(["a.png", "b.png"])
    del labels["images"][1]
    dataset = read(tmp_path, labels)
    assert [p.what for p in dataset.problems] == ["image_id 1 is not among the images; 3 objects left out"]


def test_an_image_that_has_its_exact_name_is_not_given_to_another_name(tmp_path: Path) -> None:
    save(tmp_path / "train/0.png")
    dataset = read(tmp_path, content(["0.png", "lost/0.png"]))
    assert (dataset.names.tolist(), kinds(dataset)) == (["0.png"], ["image missing"])
    assert len(dataset.annotations(0).class_ids) == 3


def test_an_image_listed_twice_has_the_objects_of_both_entries(tmp_path: Path) -> None:
    save(tmp_path / "train/p.png")
    dataset = read(tmp_path, content(["p.png", "p.png", ".\\p.png"], boxes=[*BOXES[:5], BOXES[0]]))
    assert len(dataset) == 1
    assert sorted(dataset.annotations(0).boxes_xyxy.tolist()) == sorted(
        [x, y, x + w, y + h] for x, y, w, h in BOXES[:5]
    )
    assert kinds(dataset) == ["image repeated", "image repeated"]
    assert "2 of the 2 objects of the later entry are new and added" in dataset.problems[0].what


def test_an_image_listed_twice_with_two_sizes_loses_the_second_and_it_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "train/p.png")
    labels = content(["p.png", "p.png"])
    labels["images"][1]["width"] = 320
    dataset = read(tmp_path, labels)
    assert len(dataset.annotations(0).class_ids) == 3
    assert "first with 160×120 pixels, then with 320×120: 3 objects of the later entry left out" in (
        dataset.problems[0].what
    )


# Boxes


def as_fractions(boxes: list[list[int]]) -> list[list[float]]:
    return [[x / 160, y / 120, w / 160, h / 120] for x, y, w, h in boxes]


def test_boxes_in_fractions_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    for boxes in (as_fractions(BOXES), [[0, 0, 1, 1]], [[0.1, 0.2, 0.9, 1.0]]):
        with pytest.raises(InputError, match=r"annotations\[0\]: (\d) of \1 boxes look like fractions of the image"):
            read(tmp_path, content(["a.png"], boxes))


def test_a_single_box_in_fractions_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    dataset = read(tmp_path, content(["a.png"], [*BOXES, *as_fractions(BOXES[:1])]))
    assert kinds(dataset) == ["box invalid"]
    assert "looks like fractions, 0…1; expected pixels" in dataset.problems[0].what
    assert len(dataset.annotations(0).class_ids) == len(BOXES)


def test_small_boxes_in_the_corner_of_an_icon_are_boxes(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png", (16, 16))
    labels = content(["a.png"], [[0, 0, 1, 1], [0.5, 0.5, 1, 1]])
    labels["images"][0].update(width=16, height=16)
    dataset = read(tmp_path, labels)
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[0, 0, 1, 1], [0.5, 0.5, 1.5, 1.5]]


def test_boxes_as_corners_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    corners = [[x, y, x + w, y + h] for x, y, w, h in BOXES]
    with pytest.raises(InputError, match="look") as caught:
        read(tmp_path, content(["a.png"], as_fractions(corners)))
    assert "fractions" in str(caught.value)
    with pytest.raises(InputError) as caught:
        read(tmp_path, content(["a.png"], corners))
    message = str(caught.value)
    assert "annotations[0]: 3 of 6 boxes reach out of their images as [x, y, width, height]" in message
    assert "and 6 of 6 boxes fit as corners [x1, y1, x2, y2], for example [26, 87, 60, 114]" in message
    assert message.endswith("write [x1, y1, x2 - x1, y2 - y1]")


def test_boxes_as_corners_that_stay_in_their_images_are_known_by_their_areas(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    corners, areas = [[5, 4, 40, 30], [8, 9, 60, 50]], [35 * 26, 52 * 41]
    labels = content(["a.png"], corners)
    assert len(read(tmp_path, labels).all_annotations.areas) == 2, "nothing tells what they are"
    for annotation, area in zip(labels["annotations"], areas, strict=True):
        annotation["area"] = area
    with pytest.raises(InputError, match=r"the areas do not fit as \[x, y, width, height\], and 2 of 2 boxes fit as"):
        read(tmp_path, labels)
    labels["annotations"][1]["area"] = 60 * 50  # of width and height
    assert read(tmp_path, labels).all_annotations.areas.tolist() == [35 * 26, 60 * 50]


def test_boxes_that_reach_out_are_cut_where_they_are_no_corners(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    sloppy = [[150, 100, 20, 30], [100, 90, 80, 40], [10, 10, 100, 90], [20, 100, 60, 40]]
    dataset = read(tmp_path, content(["a.png"], sloppy))
    assert kinds(dataset) == ["box clipped"] * 3
    assert len(dataset.annotations(0).class_ids) == 4
    large = [[5, 4, 150, 110], [20, 15, 130, 100], [8, 8, 140, 100], [30, 30, 129, 89], [1, 1, 158, 118]]
    assert read(tmp_path, content(["a.png"], large)).problems == [], "all could be corners, and are not"


# Text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / "train/a.png")
    write(tmp_path / "train/_annotations.coco.json", content(["a.png"], categories=[category(1, "Kühe")]), encoding)
    assert open_data(tmp_path).read("train").class_names == ("Kühe",)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    write(tmp_path / "train/_annotations.coco.json", content(["a.png"], categories=[category(1, "Kühe")]), "latin-1")
    with pytest.raises(InputError, match="is not UTF-8: byte 0xFC"):
        open_data(tmp_path).read("train")
