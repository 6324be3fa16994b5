"""The same content reads the same from every layout, as it lies."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_factory as factory
from phidet.core.errors import InputError, UnknownNameError
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import make_example, write_record


def test_all_layouts_read_the_same(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "y/images/train", tmp_path / "y/labels/train")
    factory.data_yaml(tmp_path / "y/data.yaml", train="images/train", val="images/train")
    folders = [
        (factory.coco(tmp_path / "c"), "coco"),
        (factory.voc(tmp_path / "v"), "voc"),
        (tmp_path / "y", "yolo"),
        (factory.tfrecord(tmp_path / "t"), "tfrecord"),
    ]
    for path, layout in folders:
        folder = open_data(path)
        assert folder.layout == layout
        assert folder.train_split() == "train"
        factory.check(folder.read("train"))


def test_coco_as_roboflow_exports_it_and_given_as_a_file(tmp_path: Path) -> None:
    folder = open_data(factory.roboflow_coco(tmp_path / "r"))
    assert folder.splits == ("train", "valid")
    assert folder.val_split() == "valid"
    factory.check(folder.read("valid"))
    factory.check(open_data(tmp_path / "r/train/_annotations.coco.json").read("train"))
    factory.coco(tmp_path / "c", "train2017")
    factory.check(open_data(tmp_path / "c/annotations/instances_train2017.json").read("train2017"))


def test_coco_as_it_is_downloaded_with_captions_and_keypoints(tmp_path: Path) -> None:
    for year in ("train2017", "val2017"):
        instances = factory.coco(tmp_path, year) / "annotations" / f"instances_{year}.json"
        content = json.loads(instances.read_text())
        keypoints = json.dumps(content | {"categories": content["categories"][:1]})
        (instances.parent / f"person_keypoints_{year}.json").write_text(keypoints)
        captions = [{"id": 1, "image_id": content["images"][0]["id"], "caption": "a picture"}]
        text = json.dumps({"info": {}, "images": content["images"], "annotations": captions})
        (instances.parent / f"captions_{year}.json").write_text(text)
    folder = open_data(tmp_path)
    assert folder.splits == ("train2017", "val2017")
    assert (folder.train_split(), folder.val_split()) == ("train2017", "val2017")
    factory.check(folder.read("val2017"))
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    assert "person_keypoints_train2017" in open_data(tmp_path).splits, "where they are all there is"


def test_coco_with_a_byte_order_mark_and_windows_paths(tmp_path: Path) -> None:
    factory.save_image(tmp_path / "sub/one.png", factory.PICTURES[0])
    content = factory.coco_json(factory.PICTURES[:1])
    content["images"][0]["file_name"] = "sub\\one.png"
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert open_data(tmp_path).read("train").size_hw(0) == (32, 64)


def test_coco_ids_with_gaps_become_0_to_c_and_are_told(tmp_path: Path) -> None:
    root = factory.coco(tmp_path)
    content = factory.coco_json()
    ids = {1: 7, 2: 10**12, 3: 3}
    for category in content["categories"]:
        category["id"] = ids[int(str(category["id"]))]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[int(str(annotation["category_id"]))]
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    dataset = open_data(root).read("train")
    assert dataset.class_names == ("cat nap", "ant", "bee")
    assert dataset.annotations(0).class_ids.tolist() == [1, 0]
    assert [p.kind for p in dataset.problems] == ["category ids with gaps"]
    factory.check(Dataset.subset(open_data(root).read("train", factory.CLASSES), range(4), "all"))  # by name


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("images/train", "labels/train", "train"),
        ("train/images", "train/labels", "train"),
        ("images", "labels", "all"),
        (".", ".", "all"),
    ],
)
def test_bare_yolo_folders_with_and_without_class_names(tmp_path: Path, images: str, labels: str, split: str) -> None:
    factory.yolo(tmp_path / images, tmp_path / labels)
    folder = open_data(tmp_path)
    assert (folder.layout, folder.splits) == ("yolo", (split,))
    factory.check(folder.read(split), ["class-0", "class-1", "class-2"], ["class names missing"])
    (tmp_path / "classes.txt").write_text("\ufeff" + "\n".join(factory.CLASSES), encoding="utf-8")
    factory.check(open_data(tmp_path).read(split))


def test_yolo_yaml_of_roboflow_with_lists_and_given_directly(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "train/images", tmp_path / "train/labels")
    listed = factory.write_text(
        tmp_path / "list.txt", "\n".join(f"train/images/{p.name}" for p in factory.PICTURES) + "\n"
    )
    file = factory.data_yaml(tmp_path / "data.yaml", train="../train/images", val=listed.name)
    for folder in (open_data(tmp_path), open_data(file)):
        assert folder.splits == ("train", "val")
        factory.check(folder.read("train"))
        factory.check(folder.read("val"))


def test_yolo_polygons_become_their_boxes_and_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    factory.save_image(tmp_path / "one.png", factory.PICTURES[0])
    factory.write_text(tmp_path / "one.txt", "\ufeff0 0.25 0.5 0.5 0.25 0.75 0.75 0.5 1.0\n")
    a = open_data(tmp_path).read("all").annotations(0)
    assert a.boxes_xyxy.tolist() == [[16.0, 8.0, 48.0, 32.0]]


@pytest.mark.parametrize("where", ["", "VOC2007", "VOCdevkit/VOC2007"])
def test_voc_at_any_depth(tmp_path: Path, where: str) -> None:
    factory.voc(tmp_path / where)
    factory.check(open_data(tmp_path).read("train"))


def test_voc_without_lists_beside_images_and_of_several_years(tmp_path: Path) -> None:
    factory.voc(tmp_path / "one", split=None)
    factory.check(open_data(tmp_path / "one").read("all"))
    for p in factory.PICTURES:
        factory.save_image(tmp_path / "beside/train" / p.name, p)
        factory.write_text(tmp_path / "beside/train" / Path(p.name).with_suffix(".xml"), factory.xml(p, size=False))
    factory.check(open_data(tmp_path / "beside").read("train"))
    for year in ("VOC2007", "VOC2012"):
        factory.voc(tmp_path / "kit" / year, split=None)
    both = open_data(tmp_path / "kit").read("all")
    assert len(both) == 2 * len(factory.PICTURES)
    assert both.problems == []


def test_tfrecord_as_roboflow_exports_it_and_given_as_a_file(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        shard = factory.tfrecord(tmp_path / split) / "train-00000-of-00001.tfrecord"
        shard.rename(tmp_path / split / "bugs.tfrecord")
        factory.write_text(
            tmp_path / split / "bugs_label_map.pbtxt",
            "".join(
                f"item {{ name: '{name}', id: {i} }}\n" for i, name in enumerate([*factory.CLASSES, "dog"], start=1)
            ),
        )
    folder = open_data(tmp_path)
    assert folder.splits == ("train", "valid")
    factory.check(folder.read("valid"), [*factory.CLASSES, "dog"])
    factory.check(open_data(tmp_path / "valid/bugs.tfrecord").read("bugs"), [*factory.CLASSES, "dog"])


def test_links_that_git_left_as_text_files(shared: Path) -> None:
    folder = open_data(shared / "data/coco128/object_detection")
    train = folder.read("train")
    assert (len(train), len(train.all_annotations.class_ids), len(train.class_names)) == (128, 929, 80)
    assert (len(folder.read("val")), train.problems) == (128, [])
    assert train.image(0).shape[:2] == train.size_hw(0)


def test_bccd_and_its_two_empty_boxes(shared: Path) -> None:
    folder = open_data(shared / "data/bccd")
    assert folder.splits == ("test", "train", "trainval", "val")
    trainval = folder.read("trainval")
    assert (len(trainval), len(trainval.all_annotations.class_ids)) == (292, 3941)
    assert [p.kind for p in trainval.problems] == ["box empty", "box empty"]
    assert "BloodImage_00338.xml, object 13" in trainval.problems[0].where


def test_500_objects_in_one_image_stay(tmp_path: Path) -> None:
    factory.save_image(tmp_path / "one.png", factory.PICTURES[0])
    factory.write_text(tmp_path / "one.txt", "0 0.5 0.5 0.5 0.5\n" * 500)
    assert len(open_data(tmp_path).read("all").annotations(0).class_ids) == 500


def test_a_data_set_is_packed_and_its_annotations_are_views(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    encoded = root / "x.png"
    Image.new("RGB", (8, 8)).save(encoded)
    features = {"image/encoded": [encoded.read_bytes()], "image/height": [8], "image/width": [8]}
    with (root / "train.tfrecord").open("wb") as file:
        for i in range(1000):
            box = {
                f"image/object/bbox/{key}": [v] * 10
                for key, v in zip(("xmin", "ymin", "xmax", "ymax"), (0.0, 0.0, 0.5, 0.5), strict=True)
            }
            named = {"image/filename": [f"{i}.png".encode()], "image/object/class/label": [1] * 10}
            write_record(file, make_example(features | box | named))
    dataset = open_data(root).read("train")
    assert np.shares_memory(dataset.annotations(7).boxes_xyxy, dataset.all_annotations.boxes_xyxy)
    # 16 + 8 + 4 + 1 + 1 bytes for each object; names and paths for each image.
    assert len(pickle.dumps(dataset)) < 1000 * (10 * 30 + 8 * len(str(root)) + 100)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.source(999) == dataset.source(999)
    # No list of objects with counted references, whose pages worker processes would copy one by one.
    assert not any(isinstance(value, list | dict) and len(value) > 10 for value in vars(dataset).values())


def test_what_cannot_be_read_at_all_has_a_clear_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no data at"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="in no layout that phidet knows"):
        open_data(tmp_path)
    root = factory.coco(tmp_path / "c")
    with pytest.raises(UnknownNameError, match="Did you mean train"):
        open_data(root).read("trian")
    label = root / "annotations/instances_train.json"
    good = label.read_text()
    for text, says in [
        (good[:-30], "is not JSON"),
        ('{"images": ' + "[" * 100_000, "is not JSON"),
        ('{"images": []}', "expected lists named images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "is not COCO JSON"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "expected an id and a name"),
        ('{"images": [], "annotations": [], "categories": [{"id": [], "name": "a"}]}', "expected an id and a name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image that can be used"),
    ]:
        label.write_text(text)
        with pytest.raises(InputError, match=says):
            open_data(root).read("train")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [a]\ntrain: nowhere\n", "train: there is no"),
        ("names: {0: a, 2: b}\ntrain: .\n", "numbered 0…1"),
        ("names: []\ntrain: .\n", "has no names"),
        ("names: [cat, dog, cat]\ntrain: .\n", "the class cat is named more than once"),
        ("names: [a\ntrain: .\n", "cannot read"),
        ("- a\n", "should have the key names"),
    ],
)
def test_a_yaml_that_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = factory.write_text(tmp_path / "data.yaml", text)
    with pytest.raises(InputError, match=says):
        open_data(file).read("train")


def test_which_split_to_train_on_must_be_clear(tmp_path: Path) -> None:
    for split in ("left", "right"):
        factory.coco(tmp_path, split)
    folder = open_data(tmp_path)
    assert folder.val_split() is None
    with pytest.raises(InputError, match="left, right: say which one"):
        folder.train_split()


def test_what_lies_beside_the_data_does_not_matter(tmp_path: Path) -> None:
    factory.coco(tmp_path)
    (tmp_path / "settings.yaml").write_text("- a\n- b\n")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to("nowhere.json")
    (tmp_path / "same.json").symlink_to("annotations/instances_train.json")
    folder = open_data(tmp_path)
    assert (folder.layout, len(folder.read("train"))) == ("coco", len(factory.PICTURES))


def test_two_files_of_one_split_are_not_chosen_between(tmp_path: Path) -> None:
    label = factory.coco(tmp_path) / "annotations" / "instances_train.json"
    (tmp_path / "train.json").write_text(label.read_text())
    with pytest.raises(InputError, match=r"train\.json and .*instances_train\.json are both of the split 'train'"):
        open_data(tmp_path)
    label.unlink()
    (tmp_path / "annotations" / "train.json").symlink_to("../train.json")
    assert open_data(tmp_path).splits == ("train",)
