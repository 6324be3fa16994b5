"""YOLO data as the tools of the field write them read as what they mean, and what is left out is reported."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import data_factory as factory
from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.doctor.unused import unused_files
from phidet.data.layouts import open_data

CLASSES = "\n".join(factory.CLASSES) + "\n"
ONE = factory.PICTURES[0]  # 64 wide, 32 high
IMAGES = [p.name for p in factory.PICTURES]


def problems(dataset: Dataset) -> list[tuple[str, str]]:
    return [(problem.kind, problem.what) for problem in dataset.problems]


def kinds(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems]


def boxes(dataset: Dataset) -> list[list[float]]:
    return dataset.all_annotations.boxes_xyxy.round(4).tolist()


def lines(root: Path, text: str, **yaml: str) -> Dataset:
    """The factory's first image (64×32) with these labels."""
    factory.save_image(root / "images/one.png", ONE)
    factory.write_text(root / "labels/one.txt", text)
    factory.write_text(root / "classes.txt", CLASSES)
    if yaml:
        content = "".join(f"{key}: {value}\n" for key, value in yaml.items())
        factory.write_text(root / "data.yaml", f"train: images\nnames: [{', '.join(factory.CLASSES)}]\n{content}")
    folder = open_data(root)
    return folder.read(folder.splits[0])


# Where images and labels lie


def test_a_test_split_that_is_not_there_is_none(tmp_path: Path) -> None:
    """Tools name one in every data.yaml, whether they write it or not; of the others a missing one is a mistake."""
    factory.yolo(tmp_path / "images/train", tmp_path / "labels/train")
    factory.data_yaml(tmp_path / "data.yaml", train="images/train", val="images/train", test="images/test")
    folder = open_data(tmp_path)
    assert folder.splits == ("train", "val")
    factory.yolo(tmp_path / "images/test", tmp_path / "labels/test")
    assert open_data(tmp_path).splits == ("train", "val", "test")
    factory.data_yaml(tmp_path / "data.yaml", train="images/train", val="images/nowhere")
    with pytest.raises(InputError, match=r"val: there is no .*images/nowhere"):
        open_data(tmp_path).read("val")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("train", "train"),
        ("train/images", "train/images"),
        ("Images/train", "Labels/train"),
        ("train", "train/labels"),
        ("train", "labels/train"),
        ("images/train/day/cam 1", "labels/train/day/cam 1"),
    ],
)
def test_labels_are_found_wherever_tools_put_them(tmp_path: Path, images: str, labels: str) -> None:
    factory.yolo(tmp_path / images, tmp_path / labels)
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    folder = open_data(tmp_path)
    assert folder.splits == ("train",)
    factory.check(folder.read("train"))
    factory.data_yaml(tmp_path / "data.yaml", train=images.split("/day", maxsplit=1)[0])
    factory.check(open_data(tmp_path).read("train"))


def test_labels_beside_images_in_a_folder_called_images(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "first", tmp_path / "first")
    factory.yolo(tmp_path / "second/images", tmp_path / "second/images")
    factory.data_yaml(tmp_path / "data.yaml", train="[first, second/images]", val="first")
    folder = open_data(tmp_path)
    train = folder.read("train")
    assert (len(train), train.problems) == (2 * len(IMAGES), [])
    texts = [file.read_text() for file in tmp_path.rglob("*.txt")]
    written = sorted(line.split()[0] for text in texts for line in text.splitlines())
    assert sorted(map(str, train.all_annotations.class_ids.tolist())) == written
    factory.check(folder.read("val"))
    assert unused_files(folder, [train], []) == []


def test_a_part_of_the_labels_beside_images_in_a_folder_called_images(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels/one.txt").rename(tmp_path / "images/one.txt")
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    factory.check(open_data(tmp_path).read("all"))
    factory.write_text(tmp_path / "images/empty.txt", "a caption: a dim room\n")  # is none of the labels
    factory.check(open_data(tmp_path).read("all"))
    factory.write_text(tmp_path / "images/empty.txt", "ant 0.5 0.5 0.1 0.1\n")  # is meant as one
    assert kinds(open_data(tmp_path).read("all")) == ["label unreadable"]


def test_folders_of_splits_beside_each_other_are_no_one_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):  # as Roboflow exports for Darknet
        factory.yolo(tmp_path / split, tmp_path / split)
        factory.write_text(tmp_path / split / "_darknet.labels", CLASSES)
    folder = open_data(tmp_path)
    assert set(folder.splits) == {"train", "valid", "test"}
    for split in folder.splits:
        factory.check(folder.read(split))
    factory.save_image(tmp_path / "later/one.png", ONE)
    factory.write_text(tmp_path / "later/one.txt", factory.yolo_lines(ONE))
    first, *others = (problems(open_data(tmp_path).read(split)) for split in folder.splits)
    assert others == [[], []]
    ((kind, what),) = first
    assert kind == "image in no split"
    assert what.startswith("1 labelled images lie outside the splits")


def test_folders_of_cameras_are_one_split(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        factory.yolo(tmp_path / "images" / camera, tmp_path / "labels" / camera)
    factory.write_text(tmp_path / "labels/classes.txt", CLASSES)
    folder = open_data(tmp_path)
    assert folder.splits == ("all",)
    dataset = folder.read("all")
    assert (len(dataset), dataset.problems) == (2 * len(IMAGES), [])


@pytest.mark.parametrize("as_text", [False, True], ids=["links", "links that git left as text"])
def test_linked_folders_and_images(tmp_path: Path, as_text: bool) -> None:
    def link(at: Path, to: str) -> None:
        at.parent.mkdir(parents=True, exist_ok=True)
        if as_text:
            at.write_text(to)
        else:
            at.symlink_to(to)

    store, root = tmp_path / "store", tmp_path / "set"
    for part in ("a", "b"):
        factory.yolo(store / part, root / "labels/train" / part)
        link(root / "images/train" / part, f"../../../store/{part}")
    link(root / "images/train/single.png", "../../../store/a/one.png")
    factory.write_text(root / "labels/train/single.txt", factory.yolo_lines(ONE))
    if not as_text:
        link(root / "images/train/a/../../loop", "..")  # back to the whole: read once
        link(root / "images/train/gone.png", "../../../store/nowhere.png")
    factory.data_yaml(root / "data.yaml", train="images/train")
    dataset = open_data(root).read("train")
    names = [f"images/train/{part}/{name}" for part in ("a", "b") for name in sorted(IMAGES)]
    assert dataset.names.tolist() == [*names, "images/train/single.png"]
    assert dataset.annotations(len(dataset) - 1).boxes_xyxy.tolist() == [list(map(float, t.box)) for t in ONE.things]
    assert len(dataset.all_annotations.class_ids) == 2 * 5 + 2
    assert kinds(dataset) == ([] if as_text else ["image missing"])
    assert dataset.image(len(dataset) - 1).shape == (32, 64, 3)


@pytest.mark.parametrize(("of_images", "of_labels"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("listed", [False, True])
def test_names_are_compared_as_people_see_them(tmp_path: Path, of_images: str, of_labels: str, listed: bool) -> None:
    # The form of the folder's name differs, too.
    folder, name = "Kühe", "Zürich é 1"
    in_images, in_labels = (
        lambda text, form=form: unicodedata.normalize(form, text) for form in (of_images, of_labels)
    )
    factory.save_image(tmp_path / "images" / in_images(folder) / f"{in_images(name)}.png", ONE)
    label = tmp_path / "labels" / in_labels(folder) / f"{in_labels(name)}.txt"
    factory.write_text(label, factory.yolo_lines(ONE))
    factory.write_text(tmp_path / "train.txt", f"images/{in_labels(folder)}/{in_labels(name)}.png\n")
    factory.data_yaml(tmp_path / "data.yaml", train="train.txt" if listed else f"images/{in_labels(folder)}")
    dataset = open_data(tmp_path).read("train")
    assert boxes(dataset) == [list(map(float, t.box)) for t in ONE.things]
    assert dataset.problems == []


def test_capital_endings_of_images_labels_and_lists(tmp_path: Path) -> None:
    for p in factory.PICTURES:
        factory.save_image(tmp_path / "images" / p.name.upper(), p)
        if p.things:
            factory.write_text(tmp_path / "labels" / f"{Path(p.name).stem.upper()}.TXT", factory.yolo_lines(p))
    factory.write_text(tmp_path / "CLASSES.TXT", CLASSES)
    dataset = open_data(tmp_path).read("all")
    assert (len(dataset), len(dataset.all_annotations.class_ids), dataset.problems) == (4, 5, [])
    assert dataset.class_names == factory.CLASSES
    factory.write_text(tmp_path / "DATA.YAML", f"train: TRAIN.TXT\nnames: [{', '.join(factory.CLASSES)}]\n")
    factory.write_text(tmp_path / "TRAIN.TXT", "".join(f"images/{name}\n" for name in IMAGES))  # small letters
    dataset = open_data(tmp_path).read("train")
    assert (len(dataset), len(dataset.all_annotations.class_ids), dataset.problems) == (4, 5, [])


def test_a_label_is_shared_by_images_of_one_stem_and_that_is_reported(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    factory.save_image(tmp_path / "images/one.jpg", ONE)
    dataset = open_data(tmp_path).read("all")
    assert (len(dataset), len(dataset.all_annotations.class_ids)) == (5, 7)
    ((kind, what),) = problems(dataset)
    assert kind == "label shared"
    assert "shared by 2 images (one.jpg, one.png)" in what
    factory.write_text(tmp_path / "labels/one.jpg.txt", "")  # nearer by its name
    factory.write_text(tmp_path / "labels/one.png.txt", factory.yolo_lines(ONE))


def test_images_of_formats_that_are_not_read_are_reported_where_they_have_labels(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    (tmp_path / "images/scan.psd").write_bytes(b"8BPS\0\1" + b"\0" * 99)
    (tmp_path / "images/other.psd").write_bytes(b"8BPS\0\1" + b"\0" * 99)
    factory.write_text(tmp_path / "labels/scan.txt", "0 0.5 0.5 0.5 0.5\n")
    (problem,) = open_data(tmp_path).read("all").problems
    assert (problem.kind, Path(problem.where).name) == ("image unreadable", "scan.psd")


def test_labels_that_label_studio_exports_for_images_of_ones_own(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    for number, file in enumerate(sorted((tmp_path / "labels").iterdir())):
        file.rename(file.with_name(f"{number + 0xCB0618F0:08x}-{file.name}"))
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    factory.write_text(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "ant"}], "info": {}}')
    factory.check(open_data(tmp_path).read("all"))
    factory.write_text(tmp_path / "labels/00000000-one.txt", "0 0.5 0.5 0.5 0.5\n")  # two uploads of one name
    dataset = open_data(tmp_path).read("all")
    assert len(dataset.annotations(dataset.names.tolist().index("images/one.png")).class_ids) == 0
    factory.save_image(tmp_path / "images/00000000-one.png", ONE)  # whose labels the second are
    dataset = open_data(tmp_path).read("all")
    objects = [len(dataset.annotations(i).class_ids) for i in range(len(dataset))]
    assert dict(zip(dataset.names.tolist(), objects, strict=True)) == {
        "images/00000000-one.png": 1, "images/empty.png": 0, "images/one.png": 2, "images/two.png": 1,
        "images/with space.png": 2,
    }  # fmt: skip


def test_labels_without_images_say_so(tmp_path: Path) -> None:
    factory.write_text(tmp_path / "labels/one.txt", "0 0.5 0.5 0.5 0.5\n")
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    with pytest.raises(InputError, match=r"has labels \(labels/one\.txt, …\), but no images"):
        open_data(tmp_path)


def test_labels_and_images_that_are_not_used_are_listed(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.data_yaml(tmp_path / "data.yaml", train="train.txt")
    factory.write_text(tmp_path / "train.txt", "images/two.png\nimages/gone.png\n")
    factory.write_text(tmp_path / "labels/GONE.TXT", "0 0.5 0.5 0.1 0.1\n")
    factory.write_text(tmp_path / "notes.txt", "look at one.png again\n")
    factory.write_text(tmp_path / "extra/three.txt", "0 0.5 0.5 0.1 0.1\n")
    factory.write_text(tmp_path / ".trash/four.txt", "0 0.5 0.5 0.1 0.1\n")
    folder = open_data(tmp_path)
    dataset = folder.read("train")
    assert kinds(dataset) == ["image missing"]
    assert unused_files(folder, [dataset], [problem.where for problem in dataset.problems]) == [
        "extra/three.txt", "images/empty.png", "images/one.png", "images/with space.png", "labels/one.txt",
        "labels/with space.txt",
    ]  # fmt: skip


# Lists and descriptions


def darknet(root: Path, prefix: str = "data/", **splits: str) -> Path:
    """As Darknet has it and CVAT exports it."""
    for split, folder in splits.items():
        factory.yolo(root / folder, root / folder)
        listed = "".join(f"{prefix}{folder}/{name}\n" for name in IMAGES)
        factory.write_text(root / f"{split}.txt", listed)
    content = "".join(f"{split} = {prefix}{split}.txt\n" for split in splits)
    factory.write_text(root / "obj.data", f"classes = 3\n{content}names = {prefix}obj.names\nbackup = backup/\n")
    factory.write_text(root / "obj.names", CLASSES)
    return root


@pytest.mark.parametrize("prefix", ["data/", "", "./", "my set/", "/home/ann/darknet/data/", "C:\\Users\\ann\\set\\"])
def test_darknets_files_wherever_the_folder_was(tmp_path: Path, prefix: str) -> None:
    root = darknet(tmp_path / "my set", prefix, train="obj_train_data", valid="obj_valid_data")
    folders = [open_data(root), open_data(root / "obj.data")]
    (root / "obj.data").unlink()  # the lists alone say as much
    for folder in [*folders, open_data(root)]:
        assert folder.splits == ("train", "valid")
        for split in folder.splits:
            moved = ["path moved"] * (1 + (folder in folders)) if prefix.startswith(("/", "C")) else []
            factory.check(folder.read(split), problems=moved)
    listed = open_data(root / "train.txt")
    assert listed.splits == ("train",)


def test_the_same_file_names_in_both_splits_are_not_mixed_up(tmp_path: Path) -> None:
    root = tmp_path / "x"
    factory.yolo(root / "train/images", root / "train/labels")
    factory.yolo(root / "val/images", root / "val/labels")
    for p in factory.PICTURES:
        if p.things:
            factory.write_text(root / "val/labels" / Path(p.name).with_suffix(".txt"), "1 0.5 0.5 0.5 0.5\n")
    for split in ("train", "val"):
        factory.write_text(root / f"{split}.txt", "".join(f"/old/set/{split}/images/{n}\n" for n in IMAGES))
    factory.data_yaml(root / "data.yaml", train="train.txt", val="val.txt")
    folder = open_data(root)
    factory.check(folder.read("train"), problems=["path moved"])
    assert set(folder.read("val").all_annotations.class_ids.tolist()) == {1}
    (root / "val/images/one.png").unlink()
    assert sorted(kinds(open_data(root).read("val"))) == ["image missing", "path moved"]


@pytest.mark.parametrize(
    "entry",
    ["train/images", "./train/images", "../train/images", ".\\train\\images", "..\\train\\images",
     "/content/set/train/images", "D:\\data\\set\\train\\images\\", "[train/images]", "list.txt"],
)  # fmt: skip
def test_entries_of_a_yaml_written_on_any_system(tmp_path: Path, entry: str) -> None:
    root = tmp_path / "set"
    factory.yolo(root / "train/images", root / "train/labels")
    factory.write_text(root / "list.txt", "".join(f".\\train\\images\\{name}\n" for name in IMAGES))
    factory.data_yaml(root / "data.yaml", train=entry)
    moved = entry.startswith(("/", "D"))
    factory.check(open_data(root).read("train"), problems=["path moved"] if moved else [])
    with (root / "data.yaml").open("a") as file:
        file.write("\npath: D:\\data\\set\n")
    factory.check(open_data(root).read("train"), problems=["path moved"] if moved else [])


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.data_yaml(tmp_path / "data.yaml", train="images", val="../valid/pictures")
    folder = open_data(tmp_path)
    factory.check(folder.read("train"))
    with pytest.raises(InputError, match=r"data\.yaml: val: there is no .*\.\./valid/pictures"):
        folder.read("val")


def test_a_path_in_the_home_of_somebody_who_is_not_here(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    with factory.data_yaml(tmp_path / "data.yaml", train="images").open("a") as file:
        file.write("\npath: ~nobody-of-that-name/data\n")
    factory.check(open_data(tmp_path).read("train"))


def test_a_list_in_another_encoding_is_not_passed_over(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "train.txt").write_bytes("images/Kühe.png\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.txt is not UTF-8: byte 0xFC in line 1"):
        open_data(tmp_path)


def test_hidden_files_in_a_list_are_left_out_with_their_count(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    hidden = "images/._one.png\nimages/.ipynb_checkpoints/one-checkpoint.png\n"
    factory.write_text(tmp_path / "train.txt", hidden + "".join(f"./images/{name}\n" for name in IMAGES))
    factory.data_yaml(tmp_path / "data.yaml", train="train.txt")
    dataset = open_data(tmp_path).read("train")
    factory.check(dataset, problems=["image hidden"])
    assert "(2, first images/._one.png)" in dataset.problems[0].what


def test_two_yaml_files_that_describe_different_data_are_named(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.data_yaml(tmp_path / "data.yaml", train="images")
    factory.data_yaml(tmp_path / "coco.yaml", train="coco/images/train2017")  # of data that are not here
    factory.check(open_data(tmp_path).read("train"))
    factory.data_yaml(tmp_path / "fold2.yml", train="images")
    with pytest.raises(InputError, match=r"data\.yaml and fold2\.yml .*give the right one"):
        open_data(tmp_path)
    factory.check(open_data(tmp_path / "fold2.yml").read("train"))


# Names of classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[on, off, yes]", ("on", "off", "yes")),
        ("[No, NULL, ~]", ("No", "NULL", "~")),
        ("[007, 1.50, 12:30]", ("007", "1.50", "12:30")),
        ("[1e3, 0x1F, 2024-01-01]", ("1e3", "0x1F", "2024-01-01")),
        ("{0: on, 1: y, 2: n}", ("on", "y", "n")),
        ("{'0': cat, '1': dog, '2': cow}", ("cat", "dog", "cow")),
        ("{2: cow, 0: cat, 1: dog}", ("cat", "dog", "cow")),
        ("{cat: 0, dog: 1, cow: 2}", ("cat", "dog", "cow")),
        ("\n  - cat\n  - dog\n  - sea cow", ("cat", "dog", "sea cow")),
        ("my.names", ("cat", "class-1", "cow")),
    ],
)
def test_names_in_a_yaml_are_the_text_that_is_written(tmp_path: Path, names: str, expected: tuple[str, ...]) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "my.names", "cat\n\ncow\n\n")
    factory.write_text(tmp_path / "data.yaml", f"train: images\nval:\ntest: null\nnames: {names}\n")
    folder = open_data(tmp_path)
    assert folder.splits == ("train",)
    factory.check(folder.read("train"), expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: {1: a, 2: b}\ntrain: .\n", "numbered 0…1, got 1, 2"),
        ("names: {0: a, 0: b}\ntrain: .\n", "the key 0 occurs twice"),
        ("names: [a, [b]]\ntrain: .\n", "the name of class 1 should be text"),
        ("names: cat, dog\ntrain: .\n", "has no names: expected the classes as a list"),
        ("names: [a]\ntrain: .\nkpt_shape: [17]\n", r"kpt_shape should be \[points, 2 or 3\]"),
        ("names: [a]\ntrain: .\nkpt_shape: [0, 3]\n", "kpt_shape should be"),
        ("names: [a]\n", "names no images: expected train: and val:"),
        ("names: [a]\ntrain: " + "x" * 5000 + "\n", "train: there is no"),
        ("train: .\nval: .\n", r"should have the key names \(the classes\) beside train and val, got train, val"),
        ("names: [a]\ntrain: .\nx: " + "[" * 5000 + "\n", "cannot read"),
        ("names: \xff", "cannot read"),
        (
            "names: [a]\ntrain: [.\nval: {{\n",
            r"cannot read .*data\.yaml: line 3, column 4: expected ',' or '\]', but got ':'$",
        ),
    ],
)
def test_yaml_files_that_are_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "data.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=says):
        open_data(tmp_path / "data.yaml").read("train")


def test_class_lists_of_labelimg_beside_the_labels_of_each_split(tmp_path: Path) -> None:
    for split, names in (("train", CLASSES), ("val", "ant\nbee\n")):  # grew with what was labelled
        factory.yolo(tmp_path / "images" / split, tmp_path / "labels" / split)
        factory.write_text(tmp_path / "labels" / split / "classes.txt", names)
    factory.check(open_data(tmp_path).read("train"))
    factory.check(open_data(tmp_path).read("val"))
    (tmp_path / "labels/val/classes.txt").unlink()  # one list serves all
    factory.check(open_data(tmp_path).read("val"))


def test_class_lists_in_another_order_are_followed_folder_by_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        factory.yolo(tmp_path / "images" / split, tmp_path / "labels" / split)
    factory.write_text(tmp_path / "labels/train/classes.txt", CLASSES)
    factory.write_text(tmp_path / "labels/val/classes.txt", "cat nap\nbee\nant\nwasp\n")
    folder = open_data(tmp_path)
    train, val = folder.read("train"), folder.read("val", folder.read("train").class_names)
    assert set(factory.CLASSES) <= set(train.class_names)
    k = train.names.tolist().index("images/train/one.png")
    assert [train.class_names[i] for i in train.annotations(k).class_ids] == ["ant", "cat nap"]
    k = val.names.tolist().index("images/val/one.png")
    assert [val.class_names[i] for i in val.annotations(k).class_ids] == ["cat nap", "ant"]
    (tmp_path / "other").mkdir()
    (tmp_path / "labels/val/classes.txt").rename(tmp_path / "other/old.names")
    with pytest.raises(InputError, match=r"the labels in .*val have no list of classes, and those elsewhere differ"):
        open_data(tmp_path).read("val")


@pytest.mark.parametrize(
    "name", ["classes.txt", "obj.names", "coco.names", "predefined_classes.txt", "images/classes.txt"]
)
def test_class_lists_of_other_names(tmp_path: Path, name: str) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / name, CLASSES)
    factory.check(open_data(tmp_path).read("all"))


def test_names_of_a_yaml_without_splits(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "data.yaml", f"nc: 3\nnames: [{', '.join(factory.CLASSES)}]\n")
    factory.check(open_data(tmp_path).read("all"))


def test_classes_without_names_are_reported(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "data.yaml", "train: images\nnc: 3\n")
    dataset = open_data(tmp_path).read("train")
    factory.check(dataset, ["class-0", "class-1", "class-2"], ["class names missing"])
    assert "no list of classes (classes.txt, obj.names, data.yaml)" in dataset.problems[0].what


# Lines


BOX = "1 0.5 0.5 0.25 0.5"  # of 64×32 pixels: 24, 8, 40, 24
POLYGON = "0.375 0.25 0.625 0.25 0.5 0.75"


@pytest.mark.parametrize(
    ("line", "yaml", "expected"),
    [
        (BOX, {}, []),
        (f"{BOX} 0.875", {}, ["score unused"]),
        (f"1 {POLYGON}", {}, []),
        ("1 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75", {}, []),  # the corners of a rotated box
        (f"{BOX} 0.4 0.3 0.6 0.7", {"kpt_shape": "[2, 2]"}, []),
        (f"{BOX} 0.4 0.3 2 0 0 0", {"kpt_shape": "[2, 3]"}, []),
        (f"{BOX} 0.4 0.3 2 0 0 0 0.9", {"kpt_shape": "[2, 3]"}, []),  # as predicted: a score behind the points
        (BOX, {"kpt_shape": "[2, 3]"}, []),
        (f"{BOX} 0.4 0.3 2 0.6 0.7 1 0.5 0.5 0", {}, ["key points inferred"]),
        ("\ufeff" + BOX.replace(" ", "\t") + "\r", {}, []),
        (f"{BOX}   ", {}, []),
        (BOX.replace("1 ", "1.0 ", 1), {}, []),
    ],
)
def test_lines_of_every_kind(tmp_path: Path, line: str, yaml: dict[str, str], expected: list[str]) -> None:
    dataset = lines(tmp_path, f"{line}\n", **yaml)
    assert boxes(dataset) == [[24, 8, 40, 24]]
    assert dataset.all_annotations.class_ids.tolist() == [1]
    assert kinds(dataset) == expected


def test_key_points_that_no_yaml_declares_are_told_from_polygons(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres, sizes = rng.uniform(0.2, 0.8, (20, 2)), rng.uniform(0.02, 0.2, (20, 2))
    points = centres[:, None] + rng.uniform(-0.5, 0.5, (20, 8, 2)) * sizes[:, None]
    points[3, 2] = 0  # not visible
    rows = np.concatenate([centres, sizes, points.reshape(20, -1)], 1)
    text = "".join("0 " + " ".join(f"{v:.6f}" for v in row) + "\n" for row in rows)
    dataset = lines(tmp_path / "pose", text)
    assert kinds(dataset) == ["key points inferred"]
    assert "'kpt_shape: [8, 2]'" in dataset.problems[0].what
    wanted = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1) * [64, 32, 64, 32]
    np.testing.assert_allclose(dataset.all_annotations.boxes_xyxy, wanted, atol=1e-4)
    # Polygons of as many corners, anywhere in the image.
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    corners = centres[:, None] + np.stack([np.cos(angles), np.sin(angles)], 1) * sizes[:, None] / 2
    text = "".join("0 " + " ".join(f"{v:.6f}" for v in row.ravel()) + "\n" for row in corners)
    dataset = lines(tmp_path / "polygons", text)
    assert dataset.problems == []
    wanted = np.concatenate([corners.min(1), corners.max(1)], 1) * [64, 32, 64, 32]
    np.testing.assert_allclose(dataset.all_annotations.boxes_xyxy, wanted, atol=1e-4)


def test_a_sixth_number_is_no_score_where_one_of_them_cannot_be(tmp_path: Path) -> None:
    dataset = lines(tmp_path, f"{BOX} 0.3\n{BOX} 1.2\n{BOX}\n")  # angles, in radians
    assert boxes(dataset) == [[24, 8, 40, 24]]
    assert kinds(dataset) == ["label unreadable"] * 2
    assert "a rotated box must have its four corners" in dataset.problems[0].what


def test_lines_that_do_not_fit_the_declared_key_points(tmp_path: Path) -> None:
    dataset = lines(tmp_path, f"{BOX} 0.4 0.3 2\n1 {POLYGON}\n", kpt_shape="[2, 3]")
    assert [problem.where.rsplit("/", 1)[1] for problem in dataset.problems] == ["one.txt, line 1", "one.txt, line 2"]
    assert "expected 5 or 11 numbers (kpt_shape [2, 3]), got 8" in dataset.problems[0].what


def test_a_label_file_that_cannot_be_read_takes_its_image_with_it(tmp_path: Path) -> None:
    factory.yolo(tmp_path / "images", tmp_path / "labels")
    factory.write_text(tmp_path / "classes.txt", CLASSES)
    (tmp_path / "labels/two.txt").write_bytes(b"0 0.5 0.5 0.1 0.1 caf\xe9\n")
    dataset = open_data(tmp_path).read("all")
    assert len(dataset) == 3
    ((kind, what),) = problems(dataset)
    assert kind == "label unreadable"
    assert what.endswith("the image is left out")
    os.remove(tmp_path / "labels/two.txt")
    (tmp_path / "labels/two.txt").mkdir()
    assert kinds(open_data(tmp_path).read("all")) == ["label unreadable"]
