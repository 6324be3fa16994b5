"""A field that nobody knows follows its objects wherever they go."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobs import BlobDetector, painted
from phidet.core.errors import InputError
from phidet.data.dataset import Annotations
from phidet.detections.detections import Detections
from phidet.detections.fields import join_fields
from phidet.detections.settings import PostprocessSettings
from phidet.detections.sinks.coco import CocoSink
from phidet.detections.sinks.json_csv import CsvSink, JsonSink
from phidet.images.sources import SourceImage
from phidet.inference.tiles import detect_tiled

NAMES = ("person", "dog")


def tagged(count: int, seed: int) -> Detections:
    """Detections whose fields say which box they belong to: a number, a text, rows of numbers, and anything."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 50, (count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 1 + rng.integers(0, 9, (count, 2))], axis=1)
    return Detections(boxes, rng.integers(0, 5, count) / 4, rng.integers(0, 2, count), NAMES, (60, 60), marks(boxes))


def marks(boxes: npt.NDArray[np.float32]) -> dict[str, object]:
    key = [hash(tuple(box)) for box in boxes.tolist()]
    anything = np.empty(len(key), object)
    anything[:] = [{"key": k, "parts": [1] * (k % 3)} for k in key]
    rows = np.array(key, np.int64)[:, None] + np.arange(3)
    return {"key": np.array(key, np.int64), "word": [str(k) for k in key], "rows": rows, "anything": anything}


def belong(found: Detections) -> bool:
    """Whether every field is that of its box."""
    wanted = marks(found.boxes_xyxy)
    return all(np.asarray(found.fields[name]).tolist() == np.asarray(wanted[name]).tolist() for name in wanted)


@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.data())
def test_through_ordering_filtering_slicing_and_pickling(count: int, seed: int, data: st.DataObject) -> None:
    found = tagged(count, seed)
    assert belong(found)  # made best first from any order
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
    chosen = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    parts = (
        found[start:stop],
        found[np.array(chosen, bool)],
        found.filter(0.5, ["dog"]),
        pickle.loads(pickle.dumps(found)),
    )
    for part in parts:
        assert set(part.fields) == set(found.fields)
        assert belong(part)
    assert parts[-1] == found
    if count:
        other = found.with_fields({"key": found.fields["key"] + 1})
        assert other != found
        assert not belong(other)


@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_through_json_coco_and_supervision(count: int, seed: int) -> None:
    found = tagged(count, seed)
    for written in (json.loads(found.to_json())["detections"], found.to_coco(1)):
        assert [row["key"] for row in written] == found.fields["key"].tolist()
        assert [row["anything"] for row in written] == found.fields["anything"].tolist()
    supervision = pytest.importorskip("supervision")
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert theirs.data["rows"].tolist() == found.fields["rows"].tolist()


def test_through_sinks(tmp_path: Path) -> None:
    found = tagged(7, 3)
    picture = SourceImage("one.png", PurePosixPath("one"), np.zeros((60, 60, 3), np.uint8))
    (tmp_path / "coco").mkdir()
    for sink in (JsonSink(tmp_path / "a.jsonl"), CsvSink(tmp_path / "a.csv"), CocoSink(tmp_path / "coco", NAMES)):
        sink.add(picture, found)
        sink.keep()
    lines = json.loads((tmp_path / "a.jsonl").read_text())
    assert [row["word"] for row in lines["detections"]] == found.fields["word"].tolist()
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == 7  # its columns are fixed
    results = tmp_path / "coco" / "coco-results.json"
    assert sorted(row["key"] for row in json.loads(results.read_text())) == sorted(found.fields["key"].tolist())


class Marked(BlobDetector):
    """Marks each object with the mean colour of its box: what an architecture of another package might add."""

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        return [
            found.with_fields({"reds": np.array([self.red(image, box) for box in found.boxes_xyxy.astype(int)], float)})
            for image, found in zip(arrays, super().detect(arrays, settings), strict=True)
        ]

    @staticmethod
    def red(image: npt.NDArray[np.uint8], box: npt.NDArray[np.int64]) -> float:
        x1, y1, x2, y2 = box
        return float(image[y1:y2, x1:x2, 0].mean())


def test_through_tiles() -> None:
    image = painted(300, 400, ((10, 20, 60, 70), 0), ((180, 100, 330, 280), 1))
    found = detect_tiled(Marked(), image, 128)
    assert sorted(found.labels) == ["dog", "person"]
    for label, red in zip(found.labels, found.fields["reds"], strict=True):
        assert red == pytest.approx(230 if label == "person" else 20, abs=12)


def test_annotations_take_their_fields_along() -> None:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    ones = np.ones(3, bool)
    all_of_them = Annotations(
        boxes, np.arange(3), np.ones(3, np.float32), ones, ones, {"mask": np.array(["a", "b", "c"])}
    )
    assert all_of_them.take(np.array([True, False, True])).fields["mask"].tolist() == ["a", "c"]
    assert all_of_them.take(slice(1, 2)).fields["mask"].tolist() == ["b"]


def test_what_does_not_belong_is_refused_by_name() -> None:
    boxes, two = np.zeros((2, 4)), np.zeros(2)
    with pytest.raises(InputError, match=r"the field 'track' has shape \(3,\): expected 2 rows"):
        Detections(boxes, two, two.astype(int), fields={"track": np.arange(3)})
    with pytest.raises(InputError, match="cannot be called 'score'"):
        Detections(boxes, two, two.astype(int), fields={"score": two})
    with pytest.raises(InputError, match="1 of 2 parts with objects lack the field 'track'"):
        join_fields([({"track": np.arange(2)}, 2), ({}, 1), ({}, 0)])
    with pytest.raises(ValueError, match="read-only"):
        tagged(2, 0).fields["key"][0] = 1
