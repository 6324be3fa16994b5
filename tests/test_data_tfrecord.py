"""TFRecord framing and Example messages, against known values, laws and the official converter's files."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.data.label_map import label_map, read_label_map
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import RecordImage, make_example, parse_example, read_record, scan, write_record

FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(st.lists(st.binary(max_size=20)), st.lists(FLOATS), st.lists(st.integers(-(2**63), 2**63 - 1)))


def test_the_checksum_is_crc_32c() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283
    stream = io.BytesIO()
    write_record(stream, b"123456789")
    length, _, payload, masked = struct.unpack("<QI9sI", stream.getvalue())
    assert (length, payload) == (9, b"123456789")
    # TensorFlow's mask: rotated right by 15 bits, plus a constant.
    assert masked == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(payloads=st.lists(st.binary(max_size=300), max_size=8))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "framing.tfrecord"
    with path.open("wb") as file:
        for payload in payloads:
            write_record(file, payload)
    found = list(scan(path))
    assert [payload for _, payload in found] == payloads
    for offset, payload in found:
        assert read_record(path, offset) == payload
    with pytest.raises(InputError, match="ends before"):
        read_record(path, path.stat().st_size)


@given(payload=st.binary(min_size=1, max_size=50), data=st.data())
def test_any_bit_flip_and_any_cut_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, data: st.DataObject
) -> None:
    stream = io.BytesIO()
    write_record(stream, payload)
    content = bytearray(stream.getvalue())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.getbasetemp() / "flipped.tfrecord"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        list(scan(path))
    path.write_bytes(stream.getvalue()[: data.draw(st.integers(1, len(content) - 1))])
    with pytest.raises(InputError, match="cut off"):
        list(scan(path))


@given(features=st.dictionaries(st.text(max_size=10), VALUES, max_size=6))
def test_examples_round_trip_to_the_same_bytes(features: dict[str, list[bytes] | list[float] | list[int]]) -> None:
    payload = make_example(features)
    assert parse_example(payload) == features
    assert make_example(dict(reversed(features.items()))) == payload


def test_an_empty_list_has_no_kind() -> None:
    """TensorFlow's parser refuses a list of whole numbers, even an empty one, where it expects floats."""
    feature = make_example({"a": []})
    assert feature == b"\x0a\x07\x0a\x05\x0a\x01a\x12\x00"  # a map with one entry: key "a", an empty Feature


def test_missing_files_and_records_without_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        list(scan(tmp_path / "no.tfrecord"))
    path = tmp_path / "a.tfrecord"
    with path.open("wb") as file:
        write_record(file, make_example({"image/encoded": [7]}))
    with pytest.raises(InputError, match="holds no image/encoded"):
        RecordImage(path, 0).read_bytes()


@pytest.mark.parametrize("names", [["a"], ["cat nap", 'say "hi"', "it's", "Ωμέγα", "a\\b", "new\nline"]])
def test_label_maps_round_trip(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "label_map.pbtxt"
    path.write_text(label_map(names), encoding="utf-8")
    assert read_label_map(path) == names


def test_label_maps_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cells_label_map.pbtxt"
    path.write_text("# cells\nitem {\n name: 'c',\n id: 3\n display_name: 'C' }\nitem { id: 0 name: 'background' }\n")
    assert read_label_map(path) == ["class-0", "class-1", "C"]
    for text in ("item { id: x }", "item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "", "item { id: 999999999 }"):
        path.write_text(text)
        with pytest.raises(InputError, match="label_map"):
            read_label_map(path)


def test_a_display_name_is_the_name_where_each_class_has_its_own(tmp_path: Path) -> None:
    path = tmp_path / "label_map.pbtxt"
    item = "item {{ id: {} name: '{}' display_name: '{}' }}\n"
    path.write_text(item.format(1, "/m/01yrx", "Cat") + item.format(2, "/m/0bt9lr", "Dog"), encoding="utf-16")
    assert read_label_map(path) == ["Cat", "Dog"]
    path.write_text(item.format(1, "/m/1", "Bat") + item.format(2, "/m/2", "Bat"))
    assert read_label_map(path) == ["/m/1", "/m/2"]
    path.write_text(item.format(1, "/m/1", "") + item.format(2, "", "Dog") + item.format(4, "", ""))
    assert read_label_map(path) == ["/m/1", "Dog", "class-2", "class-3"]


def png(number: int) -> bytes:
    """An image of 64×32 pixels, different for every number."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 32), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def record(image: bytes, **features: list[bytes] | list[float] | list[int]) -> dict[str, Any]:
    """A record with one object, [8, 8, 24, 16] of class 1; ``__`` stands for ``/`` in names of features."""
    box = {"image/object/bbox/xmin": [0.125], "image/object/bbox/ymin": [0.25]}
    box |= {"image/object/bbox/xmax": [0.375], "image/object/bbox/ymax": [0.5]}
    named = {key.replace("__", "/"): value for key, value in features.items()}
    return {"image/encoded": [image], "image/object/class/label": [1], **box, **named}


def read_records(folder: Path, *records: dict[str, Any]) -> Dataset:
    with (folder / "train.tfrecord").open("wb") as file:
        for features in records:
            write_record(file, make_example(features))
    return open_data(folder).read("train")


def test_different_images_of_one_name_are_all_read(tmp_path: Path) -> None:
    records = [
        record(png(0), image__filename=[b"0.jpg"], image__source_id=[b"clip-a"]),
        record(png(1), image__filename=[b"0.jpg"], image__source_id=[b"clip-b"]),
        record(png(2), image__filename=[b"0.jpg"], image__source_id=[b"clip-b"]),
        record(png(3), image__filename=[b"0.jpg"]),
    ]
    dataset = read_records(tmp_path, *records)
    assert dataset.problems == []
    assert dataset.names[:2].tolist() == ["0.jpg", "clip-b/0.jpg"]
    assert len(set(dataset.names)) == 4
    assert [int(dataset.image(i)[0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert [len(dataset.annotations(i).class_ids) for i in range(4)] == [1, 1, 1, 1]


def test_another_size_in_the_record_than_the_images_own_is_set_right(tmp_path: Path) -> None:
    """Boxes are fractions of the image, whose size tools change without changing the record."""
    stale = {"image__height": [100], "image__width": [7]}
    dataset = read_records(tmp_path, record(png(0), **stale), record(png(1), image__height=[32], image__width=[64]))
    assert dataset.sizes_hw.tolist() == [[32, 64]] * 2
    assert dataset.all_annotations.boxes_xyxy.tolist() == [[8, 8, 24, 16]] * 2
    assert dataset.image(0).shape == (32, 64, 3)
    assert [(p.kind, p.what) for p in dataset.problems] == [
        ("image size corrected", "its record says 7×100 pixels, it has 64×32: these are used")
    ]


def test_a_record_with_the_sides_of_an_image_before_it_is_turned_means_that_image(tmp_path: Path) -> None:
    """Its boxes are fractions of that, too; with no size they are those of what a viewer shows."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(stream, "JPEG", exif=exif)
    dataset = read_records(tmp_path, record(stream.getvalue(), image__height=[32], image__width=[64]))
    assert (dataset.image(0).shape, dataset.problems) == ((32, 64, 3), [])
    assert dataset.all_annotations.boxes_xyxy.tolist() == [[8, 8, 24, 16]]
    upright = read_records(tmp_path, record(stream.getvalue()))
    assert upright.image(0).shape == (64, 32, 3)
    assert upright.all_annotations.boxes_xyxy.tolist() == [[4, 16, 12, 32]]


def test_one_image_in_two_records_has_the_objects_of_both(tmp_path: Path) -> None:
    named = {"image__filename": [b"a.png"]}
    other = record(png(0), **named) | {"image/object/bbox/xmin": [0.25]}
    dataset = read_records(tmp_path, record(png(0), **named), other, record(png(0), **named))
    assert dataset.names.tolist() == ["a.png"]
    assert dataset.annotations(0).boxes_xyxy.tolist() == [[8, 8, 24, 16], [16, 8, 24, 16]]
    assert [(p.kind, p.where) for p in dataset.problems] == [("image repeated", "a.png")] * 2
    assert "1 of the 1 object of the later entry is new" in dataset.problems[0].what
    assert "with the same objects" in dataset.problems[1].what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress, "is compressed with gzip: decompress it, for example gzip -dc"),
        (zlib.compress, "is compressed with zlib: decompress it"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "placeholder of Git LFS"),
        (lambda _: b"no records at all", "is damaged, or not a TFRecord file"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, content: Callable[[bytes], bytes], says: str) -> None:
    stream = io.BytesIO()
    write_record(stream, make_example(record(png(0))))
    (tmp_path / "train.tfrecord").write_bytes(content(stream.getvalue()))
    with pytest.raises(InputError, match=says):
        open_data(tmp_path).read("train")


def test_records_with_class_names_alone(tmp_path: Path) -> None:
    records = [
        record(png(i), image__object__class__label=[], image__object__class__text=[text])
        for i, text in enumerate([b"dog", b"cat", b"dog"])
    ]
    dataset = read_records(tmp_path, *records)
    assert dataset.problems == []
    assert dataset.class_names == ("cat", "dog")
    assert dataset.all_annotations.class_ids.tolist() == [1, 0, 1]


def test_records_of_tensorflow_datasets(tmp_path: Path) -> None:
    (tmp_path / "objects-label.labels.txt").write_text("cat\ndog\n")
    boxes = [0.25, 0.125, 0.5, 0.375, 0.0, 0.0, 1.0, 1.0]  # ymin, xmin, ymax, xmax
    features = {"image": [png(0)], "image/filename": [b"a.png"], "objects/bbox": boxes, "objects/label": [1, 0]}
    dataset = read_records(tmp_path, features | {"objects/is_crowd": [0, 1], "objects/area": [100, 2048]})
    assert dataset.problems == []
    assert dataset.class_names == ("cat", "dog")
    a = dataset.annotations(0)
    assert a.boxes_xyxy.tolist() == [[8, 8, 24, 16], [0, 0, 64, 32]]
    assert (a.class_ids.tolist(), a.crowd.tolist(), a.areas.tolist()) == ([1, 0], [False, True], [100, 2048])
    assert dataset.image(0).shape == (32, 64, 3)


def test_a_group_of_objects_is_a_crowd(tmp_path: Path) -> None:
    dataset = read_records(tmp_path, record(png(0), image__object__group_of=[1]))
    assert dataset.all_annotations.crowd.tolist() == [True]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"image/encoded": []}, "image unreadable", "its features are image/encoded, image/object/bbox/xmax"),
        ({"image/object/bbox/xmax": [24.0]}, "box invalid", "expected fractions of the image, 0…1, got pixels"),
        ({"objects/bbox": [0.5] * 3}, "image unreadable", "objects/bbox has 3 numbers"),
    ],
)
def test_records_that_are_otherwise(tmp_path: Path, change: dict[str, Any], kind: str, says: str) -> None:
    dataset = read_records(tmp_path, record(png(0)) | change, record(png(1)))
    assert [p.kind for p in dataset.problems] == [kind]
    assert says in dataset.problems[0].what


def test_objects_in_features_of_another_spelling_do_not_make_an_empty_image(tmp_path: Path) -> None:
    other = {"image/encoded": [png(0)], "image/object/bndbox/x1": [0.1], "image/object/name": [b"cat"]}
    dataset = read_records(tmp_path, other, record(png(1)), {"image/encoded": [png(2)]})
    assert len(dataset) == 2, "a record without any feature of objects is an image without objects"
    assert [p.kind for p in dataset.problems] == ["label unreadable"]
    assert "image/object/bndbox/x1, image/object/name, which phidet does not know" in dataset.problems[0].what


def test_the_official_converters_files_are_coco_person(shared: Path) -> None:
    records = open_data(shared / "reference").read("person48")
    coco = open_data(shared / "data/coco-person").read("val").subset(range(48), "first")
    assert records.class_names == ("person",)
    assert records.problems == []
    where = {str(name): i for i, name in enumerate(coco.names)}
    assert sorted(where) == sorted(records.names.tolist())
    for i, name in enumerate(records.names):
        k = where[str(name)]
        ours, theirs = records.annotations(i), coco.annotations(k)
        assert records.size_hw(i) == coco.size_hw(k)
        # Fractions in float32 are off by half a unit in the last place, and so is what they are multiplied to.
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=2**-23, atol=0)
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(records.image(i), coco.image(k))
    assert math.isclose(records.all_annotations.areas.sum(), coco.all_annotations.areas.sum(), rel_tol=1e-5)


@pytest.mark.parametrize("where", ["train/label_map.pbtxt", "labelmap.pbtxt", "annotations/classes.pbtxt"])
def test_a_label_map_may_lie_anywhere_in_the_data_folder(tmp_path: Path, where: str) -> None:
    (tmp_path / "train").mkdir()
    with (tmp_path / "train" / "data.record").open("wb") as file:
        write_record(file, make_example(record(png(0))))
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text(label_map(["cat"]))
    (tmp_path / "graph.pbtxt").write_text("node { name: 'x' }")
    assert open_data(tmp_path).read("train").class_names == ("cat",)


def test_the_label_map_beside_the_shards_of_a_split_is_theirs(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("valid", ["dog", "cat"])):
        (tmp_path / split).mkdir()
        (tmp_path / split / "label_map.pbtxt").write_text(label_map(names))
        with (tmp_path / split / "a.tfrecord").open("wb") as file:
            write_record(file, make_example(record(png(0))))
    for split, name in (("train", "cat"), ("valid", "dog")):
        dataset = open_data(tmp_path).read(split, ["cat", "dog"])
        assert [dataset.class_names[i] for i in dataset.all_annotations.class_ids] == [name]


def test_a_compressed_file_with_the_ending_of_one_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    write_record(stream, make_example(record(png(0))))
    (tmp_path / "train.tfrecord.gz").write_bytes(gzip.compress(stream.getvalue()))
    with pytest.raises(InputError, match="is compressed with gzip"):
        open_data(tmp_path).read("train")
