"""Masks of labels in every layout: the pixels that the layout's own tools see, read when they are needed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools.coco import COCO

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.mask_labels import Kind, MaskLabels, coco_label
from phidet.detections.masks import Masks
from phidet.images.label_image import palette_colour

HW = (48, 64)
Full = npt.NDArray[np.bool_]


def image(path: Path, size_hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_hw[::-1], (90, 90, 90)).save(path)


def disc(x: float, y: float, radius: float) -> Full:
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 < radius**2)


def star(x: float, y: float, radius: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    radii = radius * np.where(np.arange(9) % 2, 0.5, 1)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1).round(2).reshape(-1).tolist()


def box_of(full: Full) -> list[float]:
    ys, xs = np.nonzero(full)
    return [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def full_of(dataset: Dataset, index: int = 0) -> Full:
    masks = dataset.masks(index)
    assert masks is not None
    return masks.to_full()


# ---- COCO


def coco_file(root: Path) -> Path:
    blob = Masks.from_full(np.stack([disc(40, 20, 9), disc(20, 30, 14)]))
    runs = blob.to_list()
    counts = {"size": list(HW), "counts": [int(c) for c in np.diff(blob[1:].runs.bounds, prepend=0, append=48 * 64)]}
    segmentations = [[star(20, 20, 12)], [star(12, 12, 9), star(40, 30, 11)], runs[0], counts, [], None]
    objects = [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1, "bbox": [1, 1, 60, 40], "area": 9, "iscrowd": int(i == 3)}
        | ({} if segmentation is None else {"segmentation": segmentation})
        for i, segmentation in enumerate(segmentations, start=1)
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HW[0], "width": HW[1]} for i in (1, 2)],
        "annotations": objects,
        "categories": [{"id": 1, "name": "star"}],
    }
    for i in (1, 2):
        image(root / "train" / f"{i}.png")
    file = root / "annotations/instances_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    return file


def test_coco_polygons_and_runs_are_what_pycocotools_sees(tmp_path: Path) -> None:
    theirs = COCO(str(coco_file(tmp_path)))
    dataset = open_data(tmp_path).read("train")
    assert dataset.problems == []
    for index, image_id in enumerate((1, 2)):
        objects = theirs.loadAnns(theirs.getAnnIds(image_id))
        known = [bool(o.get("segmentation")) for o in objects]
        expected = [
            Masks.from_coco([theirs.annToRLE(o)], HW) if seg else Masks.empty(HW, 1)
            for o, seg in zip(objects, known, strict=True)
        ]
        labels = dataset.annotations(index).mask_labels
        assert labels is not None
        assert labels.known.tolist() == known
        assert labels.masks(HW) == expected[0].joined(expected[1:])
    kinds = dataset.all_annotations.mask_labels
    assert kinds is not None
    assert set(kinds.kinds.tolist()) == {Kind.NONE, Kind.POLYGONS, Kind.RUNS}


def test_a_mask_that_cannot_be_used_leaves_the_box(tmp_path: Path) -> None:
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    bad = [
        [[1, 2, 3, 4]],
        {"size": [5, 5], "counts": [25]},
        {"size": list(HW), "counts": [7]},
        12,
        "x",
        [[1, 2] * 4 + [3]],
    ]
    for annotation, segmentation in zip(content["annotations"], bad, strict=True):
        annotation["segmentation"] = segmentation
    content["annotations"].append(content["annotations"][0] | {"id": 9, "segmentation": [star(20, 20, 9)]})
    file.write_text(json.dumps(content))
    dataset = open_data(tmp_path).read("train")
    assert [problem.kind for problem in dataset.problems] == ["mask invalid"] * 6
    assert len(dataset.all_annotations.areas) == 7
    assert any("its mask has 5×5 pixels, its image 64×48" in problem.what for problem in dataset.problems)


def test_polygons_that_are_none_leave_the_others(tmp_path: Path) -> None:
    """A point or a line is left where a tool cuts a polygon."""
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    good, whole = star(20, 20, 9), content["annotations"][0]
    bad: list[Any] = [[1, 1, 2, 2], [], [3, 3, float("nan"), 4, 5, 6]]
    content["annotations"] = [whole | {"id": i, "segmentation": [one, good]} for i, one in enumerate([*bad, good])]
    file.write_text(json.dumps(content))
    dataset = open_data(tmp_path).read("train")
    assert [problem.kind for problem in dataset.problems] == ["mask invalid"] * 3
    assert all(problem.what.endswith("; the mask is made of the other polygons") for problem in dataset.problems)
    assert "infinite or no numbers" in dataset.problems[2].what
    masks = full_of(dataset, int(dataset.counts.argmax()))
    assert (masks == masks[3]).all()
    assert masks[0].any()


def test_a_mask_larger_than_indices_is_refused_in_true_numbers() -> None:
    with pytest.raises(InputError, match="a mask of 1000000×1000000 pixels is too large"):
        coco_label({"size": [10**6, 10**6], "counts": [10**12]})


def test_labels_stay_packed_through_subsets_pickling_and_joining(tmp_path: Path) -> None:
    coco_file(tmp_path)
    dataset = open_data(tmp_path).read("train")
    labels = dataset.all_annotations.mask_labels
    assert labels is not None
    assert dataset.annotations(1).mask_labels.content is labels.content  # type: ignore[union-attr]
    swapped = dataset.subset([1, 0], "swapped")
    assert [np.array_equal(full_of(swapped, i), full_of(dataset, 1 - i)) for i in (0, 1)] == [True, True]
    assert pickle.loads(pickle.dumps(labels)) == labels
    order = np.random.default_rng(0).permutation(len(labels))
    assert labels[order].masks(HW) == labels.masks(HW)[order]
    assert labels[:2].joined([labels[2:], MaskLabels.none(1)]).masks(HW)[:-1] == labels.masks(HW)
    # Bytes for each object, not pixels: these have some 3,000.
    assert labels.content.nbytes / len(labels) < 200


def test_data_without_masks_have_none(tmp_path: Path) -> None:
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    file.write_text(json.dumps(content))
    dataset = open_data(tmp_path).read("train")
    assert dataset.masks(0) is None
    assert dataset.all_annotations.fields == {}


# ---- YOLO


def yolo(root: Path, *lines: str) -> Dataset:
    image(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: images/train\nnames: [star, dot]\n")
    return open_data(root).read("train")


def test_yolo_outlines_are_polygons_in_fractions(tmp_path: Path) -> None:
    rings = [np.array(star(20, 20, 12)).reshape(-1, 2), np.array(star(40, 30, 11)).reshape(-1, 2)]
    lines = [" ".join(["1", *map(repr, (ring / HW[::-1]).reshape(-1).tolist())]) for ring in rings]
    dataset = yolo(tmp_path, *lines, "0 0.5 0.5 0.2 0.2")
    expected = Masks.from_polygons([[(ring / HW[::-1]) * HW[::-1]] for ring in rings], HW)
    masks = dataset.masks(0)
    assert masks is not None
    assert masks[:2] == expected
    assert dataset.annotations(0).mask_labels.known.tolist() == [True, True, False]  # type: ignore[union-attr]


def test_rotated_boxes_are_no_masks(tmp_path: Path) -> None:
    dataset = yolo(tmp_path, "0 0.1 0.1 0.3 0.2 0.25 0.4 0.05 0.3", "1 0.5 0.5 0.7 0.6 0.65 0.8 0.45 0.7")
    assert dataset.masks(0) is None
    assert len(dataset.all_annotations.areas) == 2


# ---- VOC


def voc(root: Path, discs: list[Full], names: list[str]) -> None:
    image(root / "JPEGImages/a.png")
    (root / "Annotations").mkdir()
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{k}>{v:g}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box_of(one), strict=True))
        + "</bndbox></object>"
        for one, name in zip(discs, names, strict=True)
    )
    (root / "Annotations/a.xml").write_text(
        f"<annotation><filename>a.png</filename><size><width>{HW[1]}</width><height>{HW[0]}</height></size>{objects}"
        "</annotation>"
    )


def palette_png(path: Path, values: npt.NDArray[np.uint8], coloured: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.array([palette_colour(i) for i in range(256)], np.uint8)
    if coloured:
        Image.fromarray(table[values]).save(path)
        return
    indexed = Image.fromarray(values)
    indexed.putpalette(table.tobytes())
    indexed.save(path)


def test_the_palette_is_vocs() -> None:
    assert [palette_colour(i) for i in (0, 1, 2, 3, 8, 15, 255)] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)),
        *((64, 0, 0), (192, 128, 128), (224, 224, 192)),
    ]


@pytest.mark.parametrize("coloured", [False, True], ids=["palette", "colours"])
@pytest.mark.parametrize("kind", ["SegmentationObject", "SegmentationClass"])
def test_vocs_label_images(tmp_path: Path, kind: str, coloured: bool) -> None:
    discs, names = [disc(15, 15, 9), disc(45, 20, 11), disc(30, 38, 7)], ["cat", "aeroplane", "cat"]
    voc(tmp_path, discs, names)
    values = np.zeros(HW, np.uint8)
    values[disc(15, 15, 10) | disc(45, 20, 12)] = 255  # the border that VOC leaves unlabelled
    for number, (one, name) in enumerate(zip(discs, names, strict=True), start=1):
        values[one] = number if kind == "SegmentationObject" else {"aeroplane": 1, "cat": 8}[name]
    palette_png(tmp_path / kind / "a.png", values, coloured)
    assert np.array_equal(full_of(open_data(tmp_path).read("all")), np.stack(discs))


def test_cvats_label_map_says_which_number_is_which_class(tmp_path: Path) -> None:
    discs = [disc(15, 15, 9), disc(45, 20, 11)]
    voc(tmp_path, discs, ["weed", "crop"])
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nweed:10,200,30::\ncrop:250,50,83::\n"
    )
    colours = np.zeros((*HW, 3), np.uint8)
    colours[discs[0]], colours[discs[1]] = (10, 200, 30), (250, 50, 83)
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(colours).save(tmp_path / "SegmentationClass/a.png")
    assert np.array_equal(full_of(open_data(tmp_path).read("all")), np.stack(discs))


# ---- COCO panoptic


def panoptic(root: Path) -> Path:
    image(root / "images/val/7.jpg")
    ids = np.full(HW, 70_000, np.int64)  # a sky around two cats
    ids[disc(20, 20, 12)], ids[disc(40, 30, 10)], ids[:, 60:] = 258, 3, 0
    (root / "annotations/panoptic_val").mkdir(parents=True)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65_536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(root / "annotations/panoptic_val/7.png")
    segments = [
        {"id": k, "category_id": c, "iscrowd": 0, "area": int((ids == k).sum())}
        | {"bbox": [v - w for v, w in zip(box_of(ids == k), [0, 0, *box_of(ids == k)[:2]], strict=True)]}
        for k, c in ((258, 17), (3, 17), (70_000, 187))
    ]
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": HW[0], "width": HW[1]}],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
        "categories": [{"id": 187, "name": "sky", "isthing": 0}, {"id": 17, "name": "cat", "isthing": 1}],
    }
    file = root / "annotations/panoptic_val.json"
    file.write_text(json.dumps(content))
    return file


def test_panoptic_segments_are_objects_of_things_and_stuff(tmp_path: Path) -> None:
    file = panoptic(tmp_path)
    data = open_data(tmp_path)
    assert (data.layout, data.splits) == ("panoptic", ("val",))
    dataset = data.read("val")
    assert dataset.class_names == ("cat", "sky")
    assert dataset.stuff == {1}
    assert dataset.subset([0], "part").stuff == {1}
    assert dataset.annotations(0).class_ids.tolist() == [0, 0, 1]
    full = full_of(dataset)
    assert np.array_equal(full[1], disc(40, 30, 10))
    assert full.sum(0).max() == 1
    assert dataset.annotations(0).boxes_xyxy.tolist() == [box_of(one) for one in full]
    # COCO's instances beside it are taken unless the panoptic labels are asked for.
    coco_file_folder = tmp_path / "coco"
    coco_file_folder.mkdir()
    shutil.copy(coco_file(coco_file_folder), file.with_name("instances_val.json"))
    assert open_data(tmp_path).layout == "coco"
    assert open_data(tmp_path, "panoptic").read("val").class_names == ("cat", "sky")


def test_what_is_missing_from_panoptic_labels_is_named(tmp_path: Path) -> None:
    file = panoptic(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] += [{"image_id": 8, "file_name": "8.png", "segments_info": []}, {"image_id": 7}]
    content["annotations"][0]["segments_info"][0].pop("bbox")
    file.write_text(json.dumps(content))
    dataset = open_data(tmp_path).read("val")
    whats = [problem.what for problem in dataset.problems]
    assert [what for what in whats if "image_id 8 is not among the images" in what]
    assert [what for what in whats if "expected image_id, file_name and segments_info" in what]
    assert [what for what in whats if "expected id, category_id and bbox" in what]
    (tmp_path / "annotations/panoptic_val/7.png").unlink()
    with pytest.raises(InputError, match=r"there is no 7.png beside panoptic_val.json"):
        open_data(tmp_path).read("val")


# ---- folders of masks


def test_folders_of_masks_with_a_class_each(tmp_path: Path) -> None:
    for name in ("a.jpg", "b_1.png", "empty.png"):
        image(tmp_path / "images" / name)
    one, two, other = disc(20, 20, 12), disc(40, 30, 10), disc(50, 10, 6)
    ids = np.where(one, 4, 0) + np.where(two & ~one, 9, 0)
    files = {"cat/a.png": one * 255, "cat/a_2.png": two, "dog/a.png": other * 128, "cat/b_1.png": ids}
    for name, values in files.items():
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "masks" / name)
    data = open_data(tmp_path)
    assert (data.layout, data.splits) == ("masks", ("all",))
    dataset = data.read("all")
    assert dataset.problems == []
    assert dataset.class_names == ("cat", "dog")
    assert dataset.names.tolist() == ["images/a.jpg", "images/b_1.png", "images/empty.png"]
    assert np.array_equal(full_of(dataset), np.stack([one, two, other]))
    assert np.array_equal(full_of(dataset, 1), np.stack([one, two & ~one]))
    assert dataset.annotations(1).boxes_xyxy.tolist() == [box_of(one), box_of(two & ~one)]
    assert len(dataset.annotations(2).areas) == 0


def test_masks_that_fit_no_image_are_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/a.png")
        (tmp_path / f"masks/{split}/cat").mkdir(parents=True)
        Image.fromarray(disc(20, 20, 12).astype(np.uint8)).save(tmp_path / f"masks/{split}/cat/a.png")
    Image.new("L", (9, 9), 1).save(tmp_path / "masks/train/cat/a_1.png")
    Image.new("L", HW[::-1], 1).save(tmp_path / "masks/train/cat/c.png")
    Image.new("L", HW[::-1], 1).save(tmp_path / "masks/train/cat/a_2.jpg")
    assert open_data(tmp_path).splits == ("train", "val")
    problems = open_data(tmp_path).read("train").problems
    assert sorted((p.kind, p.what.partition(";")[0]) for p in problems)[2] == (
        "mask invalid", "it has 9×9 pixels, its image 64×48"
    )  # fmt: skip
    assert any("there is no image c in" in p.what for p in problems)
    assert any("holds labels in lossy JPEG, which changes them: save them as PNG" in p.what for p in problems)


def test_images_that_differ_in_their_endings_only_share_their_masks(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        image(tmp_path / "images" / name)
    (tmp_path / "masks/cat").mkdir(parents=True)
    Image.fromarray(disc(20, 20, 12).astype(np.uint8)).save(tmp_path / "masks/cat/a.png")
    dataset = open_data(tmp_path).read("all")
    assert dataset.names.tolist() == ["images/a.jpg", "images/a.png"]
    assert np.array_equal(full_of(dataset, 0), full_of(dataset, 1))
    assert [(p.kind, p.where, p.what.partition(":")[0]) for p in dataset.problems] == [
        ("label shared", str(tmp_path / "images/a.jpg"), "its masks are also those of a.png")
    ]


def test_a_label_image_of_another_size_is_named_when_it_is_read(tmp_path: Path) -> None:
    panoptic(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "annotations/panoptic_val/7.png")
    with pytest.raises(InputError, match=r"7\.png has 10×10 pixels, its image 64×48"):
        open_data(tmp_path).read("val").masks(0)
