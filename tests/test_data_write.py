"""What is written reads back the same, appears whole or not at all, and the original stays."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

import data_factory as factory
from conftest import slowly
from phidet.cli.main import main
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.data.dataset import Annotations, Dataset
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import RecordImage, parse_example, scan
from phidet.data.writers import coco, tfrecord, voc, yolo
from phidet.data.writers.coco import write_coco
from phidet.data.writers.files import Written
from phidet.data.writers.tfrecord import write_tfrecord
from phidet.data.writers.voc import write_voc
from phidet.data.writers.yolo import write_yolo
from phidet.images.decode import encoded

Write = Callable[[dict[str, Dataset], Path], Written]
WRITERS: list[Write] = [write_coco, write_tfrecord, write_yolo, write_voc]
KEEPING: list[Write] = [write_coco, write_tfrecord]
"""Those that keep every flag and area."""
STEPS = {write_coco: (coco, "_coco"), write_tfrecord: (tfrecord, "write_record"), write_yolo: (yolo, "_lines"),
         write_voc: (voc, "_annotation")}  # fmt: skip
"""What each writer calls before it is done."""


def same(found: Dataset, expected: Dataset, *, rtol: float = 0, images: bool = True) -> None:
    """By file name: TFRecord deals images out to shards, and layouts have folders of their own."""
    assert found.class_names == expected.class_names
    assert found.problems == []
    assert len(found) == len(expected)
    where = {Path(str(name)).name: i for i, name in enumerate(found.names)}
    for k, name in enumerate(expected.names):
        i = where[Path(str(name)).name]
        assert found.size_hw(i) == expected.size_hw(k)
        ours, theirs = found.annotations(i), expected.annotations(k)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=rtol, atol=0)
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        if images:
            np.testing.assert_array_equal(found.image(i), expected.image(k))


def state(folder: Path) -> dict[str, str]:
    """Checksums of the files below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def made(root: Path, images: dict[str, np.ndarray | bytes], **flags: object) -> Dataset:
    """A data set of files that are written here, one box in each, labelled with the size that a viewer shows."""
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            Image.fromarray(content).save(root / name)
    one = Annotations(
        np.array([[1.1, 2.3, 7.7, 9.0]], np.float32), np.array([0]), np.array([33.3], np.float32),
        np.array([bool(flags.get("crowd"))]), np.array([bool(flags.get("difficult"))]),
    )  # fmt: skip
    return Dataset(
        "train", ["ant"], names=list(images), sources=[root / name for name in images],
        annotations=[one] * len(images), sizes_hw=np.array([(20, 30)] * len(images), np.int32),
    )  # fmt: skip


NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("layout", ["coco", "voc", "tfrecord", "yolo"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_factory_round_trips_from_every_layout(tmp_path: Path, layout: str, writer: Write) -> None:
    source = tmp_path / "in"
    if layout == "yolo":
        factory.yolo(source / "images/train", source / "labels/train")
        factory.data_yaml(source / "data.yaml", train="images/train")
    else:
        getattr(factory, layout)(source)
    before = state(source)
    dataset = open_data(source).read("train")
    written = writer({"train": dataset}, tmp_path / "out")
    assert (written.images, written.objects, written.problems) == ({"train": 4}, {"train": 5}, [])
    factory.check(open_data(tmp_path / "out").read("train"))
    writer({"train": dataset}, tmp_path / "again")
    assert state(tmp_path / "again") == state(tmp_path / "out")
    assert state(source) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "in", "out"]


@pytest.mark.parametrize("every", [4, *slowly(1)])
@pytest.mark.parametrize("writer", WRITERS)
def test_bccd_round_trips(shared: Path, tmp_path: Path, writer: Write, every: int) -> None:
    bccd = open_data(shared / "data/bccd")
    train = bccd.read("train")
    splits = {"train": train.subset(range(0, len(train), every), "train"), "test": bccd.read("test")}
    writer(splits, tmp_path / "out")
    for split, dataset in splits.items():
        rtol = 2**-23 if writer is write_tfrecord else 0  # fractions in float32
        same(open_data(tmp_path / "out").read(split), dataset, rtol=rtol, images=split == "test")


def test_coco128_round_trips_with_the_classes_that_never_occur(shared: Path, tmp_path: Path) -> None:
    part = open_data(shared / "data/coco128/object_detection").read("train").subset(range(0, 128, 4), "train")
    write_coco({"train": part}, tmp_path / "coco")
    same(open_data(tmp_path / "coco").read("train"), part)
    write_tfrecord({"train": part}, tmp_path / "records", images_per_shard=5)
    records = open_data(tmp_path / "records").read("train")
    assert records.class_names == part.class_names
    np.testing.assert_allclose(
        sorted(records.all_annotations.boxes_xyxy.sum(1)), sorted(part.all_annotations.boxes_xyxy.sum(1)), rtol=2**-22
    )


def test_the_official_converters_records_are_reproduced(shared: Path, tmp_path: Path) -> None:
    person = open_data(shared / "data/coco-person").read("val").subset(range(48), "person48")
    write_tfrecord({"person48": person}, tmp_path / "out", images_per_shard=24)
    names = [f"person48-0000{i}-of-00002.tfrecord" for i in (0, 1)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["label_map.pbtxt", *names]
    for name in names:
        ours = [parse_example(payload) for _, payload in scan(tmp_path / "out" / name)]
        theirs = [parse_example(payload) for _, payload in scan(shared / "reference" / name)]
        assert len(ours) == len(theirs) == 24
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys() == b.keys()
            for key in b:
                if "bbox" in key:  # theirs divide float64 pixels, ours float32 ones
                    np.testing.assert_allclose(a[key], b[key], rtol=2**-23, atol=0, err_msg=key)
                else:
                    assert a[key] == b[key], key


@pytest.mark.parametrize("writer", KEEPING)
def test_flags_and_areas_survive(tmp_path: Path, writer: Write) -> None:
    for flags in ({"crowd": True}, {"difficult": True}, {}):
        dataset = made(tmp_path / "in", {"a.png": NOISE}, **flags)
        out = tmp_path / f"out-{'-'.join(flags)}"
        writer({"train": dataset}, out)
        same(open_data(out).read("train"), dataset, rtol=2**-23 if writer is write_tfrecord else 0)
        if writer is write_tfrecord:
            ((_, payload),) = scan(out / "train-00000-of-00001.tfrecord")
            assert ("image/object/difficult" in parse_example(payload)) == ("difficult" in flags)
        else:
            (entry,) = json.loads((out / "annotations/instances_train.json").read_text())["annotations"]
            assert entry["area"] == 33.3
            assert entry["bbox"] == [1.1, 2.3, 6.6, 6.7]
            assert ("difficult" in entry) == ("difficult" in flags)


def marked(root: Path) -> Dataset:
    """Two images of 30×20: an ordinary object, a difficult one and a crowd region; and one without objects."""
    one = made(root, {"day/a.png": NOISE, "b.png": NOISE})
    boxes = np.array([[1, 2, 7, 9], [0.5, 2.25, 7.75, 20], [3, 3, 30, 9]], np.float32)
    a = Annotations(
        boxes, np.array([2, 0, 0]), np.array([42, 128.6875, 20], np.float32), np.array([False, False, True]),
        np.array([False, True, False]),
    )  # fmt: skip
    none = Annotations(boxes[:0], a.class_ids[:0], a.areas[:0], a.crowd[:0], a.difficult[:0])
    return Dataset(
        "train", ["on", "never", "Zürich: 1"], names=one.names.tolist(), sources=[one.source(i) for i in range(2)],
        annotations=[a, none], sizes_hw=np.array([(20, 30)] * 2, np.int32),
    )  # fmt: skip


def test_yolo_files_are_what_its_tools_read(tmp_path: Path) -> None:
    dataset = marked(tmp_path / "in")
    datasets = dict.fromkeys(("train2017", "valid", "night"), dataset)
    written = write_yolo(datasets, tmp_path / "out")
    assert written.images == written.objects == dict.fromkeys(datasets, 2)
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text("utf-8")) == {
        "train": "images/train2017", "val": "images/valid", "night": "images/night",
        "names": {0: "on", 1: "never", 2: "Zürich: 1"},
    }  # fmt: skip
    labels = tmp_path / "out/labels/valid"
    assert (labels / "b.txt").read_text() == ""
    lines = [[float(word) for word in line.split()] for line in (labels / "day/a.txt").read_text().splitlines()]
    # x: (1 + 7) / 2 / 30, y: (2 + 9) / 2 / 20, width: 6 / 30, height: 7 / 20
    np.testing.assert_allclose(lines[0], [2, 0.133333333, 0.275, 0.2, 0.35], rtol=1e-8)
    np.testing.assert_allclose(lines[1], [0, 0.1375, 0.55625, 0.241666667, 0.8875], rtol=1e-8)
    assert [(p.kind, p.where) for p in written.problems[:2]] == [
        ("crowd left out", "train2017"),
        ("difficult unmarked", "train2017"),
    ]
    folder = open_data(tmp_path / "out")
    assert folder.splits == ("train", "val", "night")
    found = folder.read("night")
    assert found.problems == []
    assert found.class_names == ("on", "never", "Zürich: 1")
    index = [Path(name).name for name in found.names.tolist()].index("a.png")
    np.testing.assert_array_equal(found.annotations(index).boxes_xyxy, dataset.annotations(0).boxes_xyxy[:2])


def test_voc_files_are_what_its_tools_read(tmp_path: Path) -> None:
    dataset = marked(tmp_path / "in")
    written = write_voc({"train": dataset, "train_val": dataset.subset([0], "train_val")}, tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")} == {
        "JPEGImages/a.png", "JPEGImages/b.png", "Annotations/a.xml", "Annotations/b.xml",
        "ImageSets/Main/train.txt", "ImageSets/Main/train-val.txt",
    }  # fmt: skip
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text() == "a\nb\n"
    root = ElementTree.parse(tmp_path / "out/Annotations/a.xml").getroot()
    assert [root.findtext(key) for key in ("filename", "size/width", "size/height", "size/depth")] == [
        "a.png",
        "30",
        "20",
        "3",
    ]
    objects = [
        [o.findtext(key) for key in ("name", "difficult", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")]
        for o in root.iter("object")
    ]
    assert objects == [["Zürich: 1", "0", "1", "2", "7", "9"], ["on", "1", "0.5", "2.25", "7.75", "20"]]
    assert [p.kind for p in written.problems] == ["crowd left out", "crowd left out", "class not kept"]
    assert "1 classes without an object (never)" in written.problems[2].what
    folder = open_data(tmp_path / "out")
    assert set(folder.splits) == {"train", "train-val"}
    found = folder.read("train-val", dataset.class_names)
    np.testing.assert_array_equal(found.annotations(0).boxes_xyxy, dataset.annotations(0).boxes_xyxy[:2])
    assert found.annotations(0).difficult.tolist() == [False, True]
    with pytest.raises(ConfigError, match="would have the same lists in VOC"):
        write_voc({"a_b": dataset, "a-b": dataset}, tmp_path / "no")
    other = Dataset(
        "train", ["a\0b"], names=["a.png"], sources=[dataset.source(0)], annotations=[dataset.annotations(1)],
        sizes_hw=np.array([(20, 30)], np.int32),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"the class name 'a\\x00b' cannot be written in XML"):
        write_voc({"train": other}, tmp_path / "no")


NAMES = [
    "a.png", "a.jpg", "A.PNG", "../a.png", "sub/a.png", "images/a.png", "Labels/x/a.png", ".hidden/b.png", "._b.png",
    "__MACOSX/b.png", "b", "b/c.png", " b .png", "line\nbreak\u2028.png", "\udcff.png", "c -1.png", "é.png",
    "e\u0301.png",
]  # fmt: skip


@pytest.mark.parametrize("writer", [write_yolo, write_voc])
def test_images_keep_their_own_labels_whatever_they_are_called(tmp_path: Path, writer: Write) -> None:
    dataset = made(tmp_path / "in", {f"{i}.png": NOISE + np.uint8(i) for i in range(len(NAMES))})
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 9, (len(NAMES), 2)).astype(np.float32)
    sides = rng.uniform(0.1, 9, (len(NAMES), 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + sides], 1)
    a = dataset.annotations(0)
    dataset = Dataset(
        "train", ["ant"], names=NAMES, sources=[dataset.source(i) for i in range(len(NAMES))],
        annotations=[a._replace(boxes_xyxy=box[None], areas=(box[2:] - box[:2]).prod()[None]) for box in boxes],
        sizes_hw=np.array([(20, 30)] * len(NAMES), np.int32),
    )  # fmt: skip
    assert writer({"train": dataset}, tmp_path / "out").problems == []
    found = open_data(tmp_path / "out").read("train")
    assert found.problems == []
    assert len(found) == len(NAMES)
    numbers = [int(found.image(i)[0, 0, 0]) - int(NOISE[0, 0, 0]) for i in range(len(found))]
    assert sorted(number % 256 for number in numbers) == list(range(len(NAMES)))
    for i, number in enumerate(numbers):
        np.testing.assert_array_equal(found.annotations(i).boxes_xyxy[0], boxes[number % 256])


def test_images_of_equal_names_in_two_splits_stay_apart_in_voc(tmp_path: Path) -> None:
    train, val = (made(tmp_path / split, {"p0.png": NOISE + np.uint8(i)}) for i, split in enumerate(("train", "val")))
    write_voc({"train": train, "val": val}, tmp_path / "out")
    for split, dataset in (("train", train), ("val", val)):
        found = open_data(tmp_path / "out").read(split)
        np.testing.assert_array_equal(found.image(0), dataset.image(0))


def kinds(root: Path) -> dict[str, bytes]:
    """Encoded images of 30×20 pixels as a viewer shows them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {"exif": exif.tobytes()}
    image = Image.fromarray(NOISE)
    sideways = Image.fromarray(np.ascontiguousarray(np.rot90(NOISE)))
    palette = image.quantize(256)
    deep = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    saves = {
        "plain.jpg": (image, {}), "grey.jpg": (image.convert("L"), {}), "plain.png": (image, {}),
        "alpha.png": (image.convert("RGBA"), {}), "palette.png": (palette, {}),
        "turned.jpg": (sideways, turned), "turned.png": (sideways, turned), "turned.webp": (sideways, turned),
        "cmyk.jpg": (image.convert("CMYK"), {}), "see-through.png": (palette, {"transparency": 3}),
        "one-bit.png": (image.convert("1"), {}), "deep.png": (deep, {}),
        "a.webp": (image, {"lossless": True}), "a.tif": (image, {}), "a.bmp": (image, {}), "a.gif": (palette, {}),
    }  # fmt: skip
    root.mkdir()
    for name, (picture, options) in saves.items():
        picture.save(root / name, **options)
    return {name: (root / name).read_bytes() for name in saves}


def test_every_kind_of_image_keeps_its_pixels_and_plain_ones_their_bytes(tmp_path: Path) -> None:
    images = kinds(tmp_path / "kinds")
    dataset = made(tmp_path / "in", dict(images))
    write_coco({"train": dataset}, tmp_path / "coco")
    write_tfrecord({"train": dataset}, tmp_path / "records")
    plain = {"plain.jpg", "grey.jpg", "plain.png", "alpha.png", "palette.png"}
    turned = {name for name in images if name.startswith("turned")}
    coco, records = (open_data(tmp_path / name).read("train") for name in ("coco", "records"))
    assert coco.problems == records.problems == []
    for i, name in enumerate(images):
        assert str(records.names[i]) == name
        assert (encoded(records.source(i)) == images[name]) == (name in plain), name
        assert (encoded(coco.source(i)) == images[name]) == (name not in turned), name
        for found in (coco, records):
            np.testing.assert_array_equal(found.image(i), dataset.image(i), err_msg=name)
            assert found.size_hw(i) == (20, 30)
    for _, payload in scan(tmp_path / "records/train-00000-of-00001.tfrecord"):
        example = parse_example(payload)
        (content,) = example["image/encoded"]
        (kind,) = example["image/format"]
        assert isinstance(content, bytes)
        assert content.startswith({b"jpeg": b"\xff\xd8", b"png": b"\x89PNG"}[kind])  # type: ignore[index]
        assert example["image/key/sha256"] == [hashlib.sha256(content).hexdigest().encode()]
    # An ending that tells what is inside; three images do not become one.
    renamed = [str(found) for found, name in zip(coco.names, images, strict=True) if name in turned]
    assert renamed == ["turned.png", "turned-2.png", "turned-3.png"]


def test_labels_made_on_the_stored_pixels_of_a_turned_photo(tmp_path: Path) -> None:
    """The image is written the way its boxes mean it, and no longer depends on who reads EXIF."""
    photo = kinds(tmp_path / "kinds")["turned.png"]
    dataset = made(tmp_path / "in", {"a.png": photo})
    stored = Dataset(
        "train", ["ant"], names=["a.png"], sources=[dataset.source(0)], annotations=[dataset.annotations(0)],
        sizes_hw=np.array([(30, 20)], np.int32),
    )  # fmt: skip
    for i, writer in enumerate(WRITERS):
        writer({"train": stored}, tmp_path / str(i))
        found = open_data(tmp_path / str(i)).read("train")
        assert found.size_hw(0) == (30, 20)
        np.testing.assert_array_equal(found.image(0), np.rot90(NOISE))
        assert encoded(found.source(0)) != photo


def test_names_that_lead_out_collide_or_say_nothing(tmp_path: Path) -> None:
    names = [
        "../a.png",
        "a.png",
        "A.PNG",
        "sub/a.png",
        "x/../../a.png",
        "a",
        "..",
        "b.png",
        "b.png/c.png",
        "b.png_c.png",
    ]
    dataset = made(tmp_path / "in", {f"{i}.png": NOISE + np.uint8(i) for i in range(len(names))})
    dataset.names = np.array(names)
    write_coco({"train": dataset}, tmp_path / "out")
    found = open_data(tmp_path / "out").read("train")
    assert found.names.tolist() == [
        "a.png", "a-2.png", "A-3.PNG", "sub/a.png", "x/a.png", "a-4.png", "000006.png", "b.png", "b.png_c.png",
        "b.png_c-2.png",
    ]  # fmt: skip
    for i in range(len(names)):
        np.testing.assert_array_equal(found.image(i), NOISE + np.uint8(i))
    files = {p.relative_to(tmp_path / "out/train").as_posix() for p in (tmp_path / "out/train").rglob("*.*")}
    assert files == set(found.names.tolist())


def test_labels_alone_name_the_originals(tmp_path: Path) -> None:
    dataset = open_data(factory.coco(tmp_path / "in")).read("train")
    write_coco({"train": dataset}, tmp_path / "out", with_images=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["annotations"]
    factory.check(open_data(tmp_path / "out").read("train"))
    records = open_data(factory.tfrecord(tmp_path / "t")).read("train")
    assert isinstance(records.source(0), RecordImage)
    with pytest.raises(ConfigError, match="must be copied"):
        write_coco({"train": records}, tmp_path / "no", with_images=False)


@pytest.mark.parametrize("writer", WRITERS)
def test_images_that_cannot_be_decoded_are_left_out_and_told(tmp_path: Path, writer: Write) -> None:
    jpeg = kinds(tmp_path / "kinds")["plain.jpg"]
    broken = {"cut.jpg": jpeg[:-200], "empty.jpg": b"", "text.jpg": b"text", "small.png": NOISE[:9]}
    dataset = made(tmp_path / "in", {**broken, "good.jpg": jpeg})
    written = writer({"train": dataset}, tmp_path / "out")
    assert written.images == {"train": 1}
    unreadable = [Path(p.where).name for p in written.problems if p.kind == "image unreadable"]
    assert unreadable == list(broken)
    assert len(written.problems) == len(broken) + (writer not in KEEPING)  # and the areas, which are not the boxes'
    assert "its labels say 30×20" in written.problems[3].what
    assert [Path(name).name for name in open_data(tmp_path / "out").read("train").names.tolist()] == ["good.jpg"]
    with pytest.raises(InputError, match="no image that can be decoded"):
        writer({"train": dataset.subset(range(4), "train")}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_left_behind_when_it_fails(tmp_path: Path, writer: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(tmp_path / "in", {"a.png": NOISE, "b.png": NOISE})

    def fail(error: BaseException) -> Callable[..., object]:
        def raises(*_: object, **__: object) -> object:
            raise error

        return raises

    out = tmp_path / "out"
    for error, expected in [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), PhidetError),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(*STEPS[writer], fail(error))
            with pytest.raises(expected):
                writer({"train": dataset}, out)
        assert [p.name for p in tmp_path.iterdir()] == ["in"]
    out.mkdir()  # empty is as good as absent
    writer({"train": dataset}, out)
    before = state(out)
    with pytest.raises(ConfigError, match="is there already"):
        writer({"train": dataset}, out)
    with pytest.raises(PhidetError, match="cannot write"):
        writer({"train": dataset}, tmp_path / "no/such/folder")
    assert state(out) == before


def test_what_cannot_be_written(tmp_path: Path) -> None:
    dataset = made(tmp_path / "in", {"a.png": NOISE})
    other = Dataset(
        "val", ["bee"], names=["a.png"], sources=[dataset.source(0)], annotations=[dataset.annotations(0)],
        sizes_hw=np.array([(20, 30)], np.int32),
    )  # fmt: skip
    for writer in WRITERS:
        with pytest.raises(ConfigError, match="no split"):
            writer({}, tmp_path / "out")
        with pytest.raises(ConfigError, match="other classes than 'train'"):
            writer({"train": dataset, "val": other}, tmp_path / "out")
        for split in ("", "..", "a/b", "."):
            with pytest.raises(ConfigError, match="becomes a file name"):
                writer({split: dataset}, tmp_path / "out")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        write_tfrecord({"train": dataset}, tmp_path / "out", images_per_shard=0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = factory.roboflow_coco(tmp_path / "in")
    label = source / "train/_annotations.coco.json"
    content = json.loads(label.read_text())
    content["annotations"] += [{"image_id": 10, "category_id": 1, "bbox": [1, 1, 0, 0]}] * 7
    label.write_text(json.dumps(content))
    (source / "valid/two.png").write_bytes(b"")
    out = tmp_path / "out"
    assert main(["convert-data", str(source), str(out), "--to", "tfrecord", "--images-per-shard", "2"]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert "train: 4 images, 5 objects" in printed
    assert "valid: 3 images, 4 objects" in printed
    assert "box empty: 7" in printed
    assert "annotations[5]" in printed
    assert "and 2 more" in printed
    assert "image unreadable: 1" in printed
    factory.check(open_data(out).read("train"))
    assert main(["convert-data", str(out), str(tmp_path / "back"), "--to", "coco", "--split", "train"]) == 0
    assert open_data(tmp_path / "back").splits == ("train",)
    factory.check(open_data(tmp_path / "back").read("train"))


def test_the_command_gives_all_splits_the_same_classes(tmp_path: Path) -> None:
    for split, extra in (("train", "ant"), ("valid", "wasp")):
        label = factory.roboflow_coco(tmp_path / "in") / split / "_annotations.coco.json"
        content = json.loads(label.read_text())
        content["categories"][0]["name"] = extra
        label.write_text(json.dumps(content))
        if split == "train":
            kept = label.read_text()
    (tmp_path / "in/train/_annotations.coco.json").write_text(kept)
    assert main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "coco"]) == 0
    for split in ("train", "valid"):
        assert open_data(tmp_path / "out").read(split).class_names == ("ant", "bee", "cat nap", "wasp")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("nowhere out --to coco", 3, "no data at nowhere"),
        ("in in --to coco", 2, "is there already"),
        ("in out --to coco --split trian", 2, "Did you mean train"),
        ("in out --to coco --images-per-shard 5", 2, "belongs to --to tfrecord"),
        ("in out --to tfrecord --images-per-shard 0", 2, "at least 1"),
        ("in no/such/out --to coco", 1, "cannot write"),
        ("in out", 2, "--to"),
        ("in out --to pascal", 2, "invalid choice"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    factory.coco(Path("in"))
    try:
        found = main(["convert-data", *words.split()])
    except SystemExit as end:
        found = int(end.code or 0)
    assert found == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert not Path("out").exists()


@pytest.mark.parametrize("package", ["yaml", "google", "google_crc32c"])
def test_without_its_packages_the_message_names_the_extra(package: str, tmp_path: Path) -> None:
    factory.tfrecord(tmp_path / "in")
    script = (
        f"import sys\nsys.modules[{package!r}] = None\nfrom phidet.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", script, "convert-data", "in", "out", "--to", "coco"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 6
    assert "pip install 'phidet[data]'" in done.stderr
    assert "Traceback" not in done.stderr
