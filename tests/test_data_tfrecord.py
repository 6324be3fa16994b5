"""TFRecord framing and Example messages, against known values, laws and the official converter's files."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phidet.core.errors import InputError
from phidet.data.label_map import label_map, read_label_map
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import encoded_image, make_example, parse_example, read_record, scan, write_record

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
@settings(deadline=None)
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
@settings(deadline=None)
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
@settings(deadline=None)
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
        encoded_image(path, 0)


@pytest.mark.parametrize("names", [["a"], ["cat nap", 'say "hi"', "it's", "Ωμέγα", "a\\b", "new\nline"]])
def test_label_maps_round_trip(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "label_map.pbtxt"
    path.write_text(label_map(names), encoding="utf-8")
    assert read_label_map(path) == names


def test_label_maps_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cells_label_map.pbtxt"
    path.write_text("# cells\nitem {\n name: 'c',\n id: 3\n display_name: 'C' }\nitem { id: 0 name: 'background' }\n")
    assert read_label_map(path) == ["class-0", "class-1", "c"]
    for text in ("item { id: x }", "item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "", "item { id: 999999999 }"):
        path.write_text(text)
        with pytest.raises(InputError, match="label_map"):
            read_label_map(path)


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
