"""Detections of other tools become ours, and serve drawing, metrics and tracking as our own do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_factory
from phidet.core.errors import ConfigError, InputError, UnknownNameError
from phidet.data.layouts import open_data
from phidet.detections.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.sinks import open_sinks
from phidet.detections.tracking.tracker import Tracker
from phidet.evaluation.coco_metrics import evaluate_coco
from test_tables import FIELDS, NAMES, SIZE, picture, some

plain = st.builds(
    some,
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 5),
    fields=st.lists(st.sampled_from(sorted(set(FIELDS) - {"anything"})), unique=True),
    masks=st.booleans(),
)


class Tensor:
    """As much of a tensor on a device as is needed to be one."""

    def __init__(self, values: Any, on_device: bool = True) -> None:
        self.values, self.on_device = np.asarray(values), on_device

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.values, False)

    def numpy(self) -> Any:
        assert not self.on_device, "a tensor on a device cannot become an array"
        return self.values

    def __len__(self) -> int:
        return len(self.values)


@settings(max_examples=40)
@given(found=plain)
def test_arrays_of_any_form_and_tensors(found: Detections) -> None:
    boxes = found.boxes_xyxy.astype(np.float64)
    given: dict[str, Any] = {"xyxy": boxes, "xywh": xyxy_to_xywh(boxes), "cxcywh": xyxy_to_cxcywh(boxes)}
    for form, values in given.items():
        back = Detections.from_arrays(
            Tensor(values), Tensor(found.scores), Tensor(found.class_ids.astype(np.float32)), NAMES, SIZE,
            form=form, fields=found.fields,
        )  # fmt: skip
        np.testing.assert_allclose(back.boxes_xyxy, found.boxes_xyxy, atol=1e-4)
        if form == "xyxy":
            assert back == found


def test_arrays_by_hand() -> None:
    found = Detections.from_arrays([[1, 2, 3, 4], [0, 0, 10, 4]], form="xywh")
    assert found.boxes_xyxy.tolist() == [[1, 2, 4, 6], [0, 0, 10, 4]]
    assert (found.scores.tolist(), found.class_ids.tolist()) == ([1, 1], [0, 0])
    assert len(Detections.from_arrays([])) == 0
    full = np.zeros((1, 4, 5), bool)
    full[0, 1:3, 2] = True
    masked = Detections.from_arrays([[2, 1, 3, 3]], fields={"masks": Tensor(full)})
    assert masked.masks == Masks.from_full(full)
    with pytest.raises(InputError, match=r"expected whole numbers, got 0\.5"):
        Detections.from_arrays([[0, 0, 1, 1]], [1], [0.5])
    with pytest.raises(UnknownNameError, match="unknown form of boxes 'yxyx'"):
        Detections.from_arrays([], form="yxyx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected boxes"):
        Detections.from_arrays([[0, 0, 1, 1]], [1, 1])


def test_names_are_a_list_or_those_of_numbers_from_0() -> None:
    boxes, scores = [[0, 0, 4, 4]] * 2, [0.9, 0.8]
    for names in (["cat", "dog"], ("cat", "dog"), {1: "dog", 0: "cat"}):
        assert Detections.from_arrays(boxes, scores, [0, 1], names).labels == ["cat", "dog"]  # type: ignore[arg-type]
        assert Detections(np.array(boxes), np.array(scores), np.array([0, 1]), names).names == ("cat", "dog")  # type: ignore[arg-type]
    for names, said in (
        ("cat", r"expected a list of class names, got 'cat': \['cat'\]\?"),
        ({1: "cat", 2: "dog"}, r"expected names of the classes 0…1, got those of 1, 2"),
        ([0, 1], "expected class names as text, got 0"),
    ):
        with pytest.raises(InputError, match=said):
            Detections.from_arrays(boxes, scores, [0, 1], names)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 5), (1, 8), (1, 5), (8,), (2, 2, 4)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected boxes \(N, 4\), got shape"):
        Detections.from_arrays(np.zeros(shape))
    assert len(Detections.from_arrays([])) == 0
    assert len(Detections.from_arrays([0, 0, 4, 4])) == 1


def test_an_images_size_is_two_numbers_in_any_sequence() -> None:
    sizes = ((80, 100), [80, 100], np.array([80, 100]))
    same = [Detections.empty(NAMES, size) for size in sizes]  # type: ignore[arg-type]
    assert same[0] == same[1] == same[2]
    assert same[2].image_size_hw == (80, 100)
    for size in ("ab", (1, 2, 3), (-1, 5), 640, (1.5, 2)):
        with pytest.raises(InputError, match=r"expected the image's size as \(height, width\) in pixels"):
            Detections.empty(NAMES, size)  # type: ignore[arg-type]


def test_a_score_to_filter_by_is_a_number() -> None:
    for score in ("auto", None, [0.1, 0.9]):
        with pytest.raises(ConfigError, match=r"expected a score in 0…1, got"):
            Detections.empty(NAMES).filter(score)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(found=plain)
def test_coco_and_back(found: Detections) -> None:
    for ids in (None, [90, 7, 8, 1]):
        back = Detections.from_coco(found.to_coco(3, ids), NAMES, SIZE, ids)
        np.testing.assert_allclose(back.boxes_xyxy, found.boxes_xyxy, atol=1e-4)
        assert back.scores.tolist() == found.scores.tolist()
        assert back.labels == found.labels
        assert back.masks == (found.masks if len(found) else None)
        names = found.fields.keys() - {"masks"} if len(found) else set()
        assert back.fields.keys() - {"masks"} == names
        for name in names:
            assert back.fields[name].tolist() == found.fields[name].tolist()  # type: ignore[union-attr]


def test_coco_annotations_and_mistakes() -> None:
    square = [1, 1, 5, 1, 5, 5, 1, 5]
    truth = {"id": 9, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    found = Detections.from_coco([truth | {"segmentation": [square]}], NAMES, (10, 10))
    assert (found.labels, found.scores.tolist(), set(found.fields)) == (["tram, stop"], [1.0], {"masks"})
    assert found.masks is not None
    assert found.masks.areas.tolist() == [16]
    with pytest.raises(InputError, match="give image_size_hw"):
        Detections.from_coco([truth | {"segmentation": [square]}])
    with pytest.raises(InputError, match="expected the results of one image"):
        Detections.from_coco([truth, truth | {"image_id": 2}])
    with pytest.raises(InputError, match="one has no bbox"):
        Detections.from_coco([{"image_id": 1, "category_id": 1}])
    with pytest.raises(InputError, match=r"expected one of the category ids \[5\], got 2"):
        Detections.from_coco([truth], category_ids=[5])


@settings(max_examples=15)
@given(found=st.builds(some, st.integers(0, 999), st.integers(0, 5), st.just([]), st.just(False)))
def test_yolo_as_phidet_writes_it(found: Detections, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("yolo")
    [sink] = open_sinks(["yolo"], out, NAMES)
    sink.add(picture("a.jpg"), found)
    sink.keep()
    back = Detections.from_yolo(out / "labels" / "a.txt", SIZE, NAMES)
    np.testing.assert_allclose(back.boxes_xyxy, found.boxes_xyxy.clip(0, (80, 60, 80, 60)), atol=2e-4)
    np.testing.assert_allclose(back.scores, found.scores, atol=1e-6)
    assert sorted(back.labels) == sorted(found.labels)


def test_yolo_by_hand() -> None:
    found = Detections.from_yolo("0 0.5 0.5 0.5 0.25\n\n1 0.25 0.5 0.5 0.5 0.75\n", (40, 80))
    assert found.boxes_xyxy.tolist() == [[20, 15, 60, 25], [0, 10, 40, 30]]
    assert found.scores.tolist() == [1.0, 0.75]
    outlined = Detections.from_yolo("1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n0 0.5 0.5 1 1", (40, 80))
    assert outlined.masks is not None
    assert outlined.boxes_xyxy.tolist() == [[20, 10, 40, 30], [0, 0, 80, 40]]
    assert outlined.masks.areas.tolist() == [400, 3200]
    for text, message in (
        ("0 0.5 0.5", "line 1: expected class, centre x and y, width, height and perhaps a score.* got 3 numbers"),
        ("\nperson 0 0 1 1", "line 2: expected numbers, the class first, got 'person 0 0 1 1'"),
    ):
        with pytest.raises(InputError, match=message):
            Detections.from_yolo(text, (4, 4))
    with pytest.raises(InputError, match=r"cannot read nowhere\.txt: No such file"):
        Detections.from_yolo(Path("nowhere.txt"), (4, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the peer's own imports
@settings(max_examples=20)
@given(found=st.builds(some, st.integers(0, 999), st.integers(1, 4), st.just(["track_id", "points"]), st.booleans()))
def test_supervision_and_back(found: Detections) -> None:
    pytest.importorskip("supervision")
    theirs = found.to_supervision()
    assert theirs.tracker_id.tolist() == found.fields["track_id"].tolist()  # type: ignore[union-attr]
    assert Detections.from_supervision(theirs, NAMES, SIZE) == found
    assert Detections.from_supervision(theirs).labels == found.labels


def ultralytics_result() -> Any:
    """What ``YOLO("yolo11n-seg.pt").track(...)`` returns for one image, as its documentation describes it."""
    boxes = SimpleNamespace(
        xyxy=Tensor(np.array([[1, 2, 11, 12], [5, 5, 9, 9]], np.float32)),
        conf=Tensor(np.array([0.25, 0.75], np.float32)),
        cls=Tensor(np.array([0.0, 2.0], np.float32)),
        id=Tensor(np.array([4.0, 9.0], np.float32)),
    )
    outline = np.array([[5, 5], [9, 5], [9, 9], [5, 9]], np.float32)
    masks = SimpleNamespace(xy=[np.zeros((0, 2), np.float32), outline])
    return SimpleNamespace(
        boxes=boxes, masks=masks, obb=None, names={0: "cat", 1: "dog", 2: "bird"}, orig_shape=(20, 30)
    )


def test_ultralytics() -> None:
    found = Detections.from_ultralytics(ultralytics_result())
    assert found.names == ("cat", "dog", "bird")
    assert (found.labels, found.image_size_hw) == (["bird", "cat"], (20, 30))
    assert found.fields["track_id"].tolist() == [9, 4]  # type: ignore[union-attr]
    assert found.masks is not None
    assert found.masks.areas.tolist() == [16, 0]
    result = ultralytics_result()
    result.boxes, result.obb, result.masks = None, result.boxes, None
    result.obb.id = None
    assert Detections.from_ultralytics(result, ["a", "b", "c"]).labels == ["c", "a"]
    result.obb = None
    with pytest.raises(InputError, match="expected a result of detection"):
        Detections.from_ultralytics(result)


def test_metrics_drawing_and_tracking_serve_any_detector(tmp_path: Path) -> None:
    """The truth, said by another tool in its own form, measures as perfect, is drawn, and keeps its ids."""
    data_factory.coco(tmp_path)
    dataset = open_data(tmp_path).read("train")
    found = []
    for i in range(len(dataset)):
        truth, (height, width) = dataset.annotations(i), dataset.size_hw(i)
        found.append(
            Detections.from_arrays(
                truth.boxes_xyxy, np.full(len(truth.class_ids), 0.9), truth.class_ids, dataset.class_names,
                (height, width),
            )
        )  # fmt: skip
    assert evaluate_coco(dataset, found).ap == pytest.approx(1.0)
    image = dataset.image(0)
    assert np.asarray(found[0].draw(image)).tolist() != image.tolist()
    tracker = Tracker()
    ids = [tracker.update(found[0], time).fields["track_id"].tolist() for time in (0.0, 0.1, 0.2)]  # type: ignore[union-attr]
    assert ids[-1] == ids[-2]
    assert len(ids[-1]) == len(found[0])
