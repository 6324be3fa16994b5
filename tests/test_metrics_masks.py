"""Metrics of masks against pycocotools, against the official panoptic evaluation's rules, and worked out by hand."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from phidet.cli.main import main
from phidet.cli.metrics import summarise
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.mask_labels import NO_MASK, coco_label, segmentation_of
from phidet.data.writers.coco import write_coco
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.evaluation.coco_metrics import METRICS, evaluate_coco
from phidet.evaluation.mask_metrics import has_masks, measure_masks
from phidet.evaluation.measure import measure
from phidet.evaluation.panoptic import Segments, evaluate_semantic, panoptic_quality
from phidet.evaluation.report_folder import write_evaluation
from phidet.evaluation.results_file import read_results, write_results

SIZE = (60, 80)
SEEDS = st.integers(0, 2**32 - 1)


def blob(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    y, x = rng.uniform(8, SIZE[0] - 8), rng.uniform(8, SIZE[1] - 8)
    height, width = rng.uniform(3, 20, 2)
    return np.asarray(((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)


def a_dataset(seed: int, images: int = 6, boxes_only: bool = False, root: Path = Path()) -> Dataset:
    rng = np.random.default_rng(seed)
    collector = Collector("val", root, ["a", "b", "c"])
    for i in range(images):
        objects = []
        for j in range(rng.integers(0, 6)):
            masks = Masks.from_full(blob(rng)[None])
            x1, y1, x2, y2 = masks.boxes_xyxy[0].tolist()
            label = NO_MASK if boxes_only and rng.random() < 0.3 else coco_label(masks.to_list()[0])
            crowd, area = bool(rng.random() < 0.15), float(masks.areas[0])
            objects.append(RawObject(f"{i}:{j}", (x1, y1, x2, y2), "ab"[rng.integers(0, 2)], area, crowd, mask=label))
        collector.add(f"{i}.png", root / f"{i}.png", SIZE, objects)
    return collector.dataset()


def some_detections(dataset: Dataset, seed: int) -> list[Detections]:
    """Labelled masks moved a little, some of another class, and invented ones."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(len(dataset)):
        masks, a = dataset.masks(i), dataset.annotations(i)
        full = [] if masks is None else list(masks.to_full())
        moved = [np.roll(one, tuple(rng.integers(-3, 4, 2)), (0, 1)) for one in full]
        every = np.array([*moved, *(blob(rng) for _ in range(rng.integers(0, 4)))], bool).reshape(-1, *SIZE)
        classes = np.concatenate([a.class_ids, rng.integers(0, 3, len(every) - len(full))])
        classes = np.where(rng.random(len(classes)) < 0.1, rng.integers(0, 3, len(classes)), classes)
        found = Masks.from_full(every)
        scores = np.round(rng.random(len(every)), 1)
        result.append(
            Detections(found.boxes_xyxy, scores, classes, dataset.class_names, SIZE, {"masks": found})  # type: ignore[arg-type]
        )
    return result


def perfect(dataset: Dataset) -> list[Detections]:
    result = []
    for i in range(len(dataset)):
        a, masks = dataset.annotations(i), dataset.masks(i)
        fields = {"masks": Masks.empty(SIZE) if masks is None else masks}
        result.append(
            Detections(a.boxes_xyxy, np.ones(len(a.areas), np.float32), a.class_ids, dataset.class_names, SIZE, fields)
        )
    return result


# ---- AP


def oracle(dataset: Dataset, found: list[Detections]) -> list[float]:
    """pycocotools' twelve metrics of masks."""
    annotations = []
    for i in range(len(dataset)):
        a = dataset.annotations(i)
        for k in range(len(a.areas)):
            assert a.mask_labels is not None
            x1, y1, x2, y2 = a.boxes_xyxy[k].tolist()
            entry = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": int(a.class_ids[k]) + 1}
            entry |= {"area": float(a.areas[k]), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(a.crowd[k])}
            annotations.append(entry | {"segmentation": segmentation_of(a.mask_labels.label(k))})
    results = [row for i, one in enumerate(found) for row in one.to_coco(i + 1)]
    for row in results:
        del row["bbox"]  # else pycocotools takes the box's area for the mask's
    target = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(dataset))]
        target.dataset = {"images": images, "annotations": annotations, "categories": [{"id": c} for c in (1, 2, 3)]}
        target.createIndex()
        evaluation = COCOeval(target, target.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


@given(SEEDS, SEEDS)
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_mask_ap_is_pycocotools(seed: int, other: int) -> None:
    dataset = a_dataset(seed)
    found = some_detections(dataset, other)
    if dataset.all_annotations.mask_labels is None or not any(len(one) for one in found):
        return
    report = evaluate_coco(dataset, found, overlap="segm")
    ours = [getattr(report, name) for name in METRICS]
    theirs = [None if v == -1 else v for v in oracle(dataset, found)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_objects_that_have_boxes_only_are_neither_right_nor_wrong() -> None:
    dataset = a_dataset(11, images=8, boxes_only=True)
    labels = dataset.all_annotations.mask_labels
    assert labels is not None
    assert 0 < labels.known.sum() < len(labels)
    found = perfect(dataset)
    # Where nothing is known about the mask, a detection with the box as its mask is forgiven.
    full = []
    for i, one in enumerate(found):
        assert one.masks is not None
        known = dataset.annotations(i).mask_labels.known  # type: ignore[union-attr]
        rings = [[box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)] for box in one.boxes_xyxy]
        boxes = Masks.from_polygons(rings, SIZE).to_full()
        masks = Masks.from_full(np.where(known[:, None, None], one.masks.to_full(), boxes))
        full.append(one.with_fields({"masks": masks}))
    report = evaluate_coco(dataset, full, overlap="segm")
    assert report.ap == 1.0
    assert report.objects == int((labels.known & ~dataset.all_annotations.crowd).sum())


def test_boundaries_are_stricter_than_masks() -> None:
    dataset = a_dataset(3, images=10)
    assert evaluate_coco(dataset, perfect(dataset), overlap="boundary").ap == 1.0
    found = some_detections(dataset, 1)
    masks, boundaries = (evaluate_coco(dataset, found, overlap=kind).ap for kind in ("segm", "boundary"))  # type: ignore[arg-type]
    assert masks is not None
    assert boundaries is not None
    assert 0 < boundaries < masks < 1


def test_masks_are_measured_only_where_there_are_some() -> None:
    dataset = a_dataset(3)
    boxes = [Detections(f.boxes_xyxy, f.scores, f.class_ids, f.names) for f in perfect(dataset)]
    assert has_masks(dataset, perfect(dataset))
    assert not has_masks(dataset, boxes)
    assert measure_masks(dataset, boxes, 0.5) is None
    assert measure("m", "d", dataset, boxes).masks is None


# ---- panoptic quality


def segments(rows: list[str], classes: str, crowd: str = "") -> Segments:
    """Segments drawn as digits, 0 for void; the class of each as a letter, and which are crowds."""
    ids = np.array([[int(c) for c in row] for row in rows], np.int32)
    return Segments(
        ids,
        np.array(["ABC".index(c) for c in classes], np.int64),
        np.array([str(i + 1) in crowd for i in range(len(classes))], bool),
    )


def qualities(truth: Segments, found: Segments) -> list[tuple[float | None, float | None, float | None]]:
    return [(c.pq, c.sq, c.rq) for c in panoptic_quality([(truth, found)], "ABC", [2]).classes]


def test_panoptic_quality_by_hand() -> None:
    # A: labelled 6 pixels and 4; detected 5 of the 6 and 1 outside: IoU 5 / 7; the other one is missed.
    # B: 3 of 3 and one in A's place: IoU 3 / 4. C: a false one.
    truth = segments(["11122", "11122", "33300"], "AAB")
    found = segments(["11133", "11023", "22233"], "ABC")
    #  found 1 lies on 5 of truth 1; found 2 on 3 of truth 3 and 1 of truth 2; found 3 on 3 of truth 2 and 2 of void
    a, b, c = qualities(truth, found)
    assert a == pytest.approx((5 / 6 / 1.5, 5 / 6, 1 / 1.5))
    assert b == pytest.approx((3 / 4, 3 / 4, 1.0))
    assert c == (0.0, 0.0, 0.0)
    report = panoptic_quality([(truth, found)], "ABC", [2])
    assert report.all.pq == pytest.approx((5 / 9 + 3 / 4) / 3)
    assert report.things.pq == pytest.approx((5 / 9 + 3 / 4) / 2)
    assert (report.stuff.pq, report.stuff.classes) == (0.0, 1)


def test_an_iou_of_one_half_is_not_enough() -> None:
    assert qualities(segments(["1111"], "A"), segments(["1100"], "A"))[0] == (0.0, 0.0, 0.0)
    assert qualities(segments(["11111"], "A"), segments(["11100"], "A"))[0] == pytest.approx((0.6, 0.6, 1.0))


def test_void_is_in_no_union_and_forgives_what_lies_in_it() -> None:
    # Half of the detection lies in void: its IoU is 4 / 4. What lies in void by more than half is no mistake.
    truth = segments(["1111000022"], "AA")
    found = segments(["1111111022"], "AA")
    assert qualities(truth, found)[0] == (1.0, 1.0, 1.0)
    assert qualities(truth, segments(["1111022222"], "AB"))[1] == (None, None, None)  # 3 of 5 in void
    assert qualities(truth, segments(["1111002222"], "AB"))[1] == (0.0, 0.0, 0.0)  # 2 of 4


def test_crowds_forgive_their_class_and_are_never_found_or_missed() -> None:
    truth = segments(["1111122222"], "AA", crowd="1")
    assert qualities(truth, segments(["1111022222"], "AA"))[0] == (1.0, 1.0, 1.0)  # in the crowd by more than half
    assert qualities(truth, segments(["1111022222"], "BA"))[1] == (0.0, 0.0, 0.0)  # in that of another class
    assert qualities(truth, segments(["0000022222"], "AA"[:2]))[0][0] == 1.0  # not missed
    a, _, _ = qualities(truth, segments(["0000000000"], ""))
    assert a == (0.0, 0.0, 0.0)


def pixels(image: Segments, k: int) -> set[int]:
    return set(np.flatnonzero(image.ids.reshape(-1) == k + 1).tolist())


def official(truth: Segments, found: Segments, sums: dict[int, list[float]]) -> None:
    """The rules of the official evaluation, one after the other, with sets of pixels."""
    void, matched_truth, matched = pixels(truth, -1), set(), set()
    for i, j in np.ndindex(len(truth.class_ids), len(found.class_ids)):
        t, f, c = pixels(truth, i), pixels(found, j), int(truth.class_ids[i])
        if c == found.class_ids[j] and not truth.crowd[i] and t & f:
            iou = len(t & f) / (len(t) + len(f) - len(t & f) - len(f & void))
            if iou > 0.5:
                sums[c][0] += iou
                sums[c][1] += 1
                matched_truth.add(i)
                matched.add(j)
    crowds = {int(truth.class_ids[i]): i for i in np.flatnonzero(truth.crowd).tolist()}
    for i in set(range(len(truth.class_ids))) - matched_truth - set(np.flatnonzero(truth.crowd).tolist()):
        sums[int(truth.class_ids[i])][3] += 1
    for j in set(range(len(found.class_ids))) - matched:
        f, d = pixels(found, j), int(found.class_ids[j])
        forgiven = len(f & void) + (len(f & pixels(truth, crowds[d])) if d in crowds else 0)
        sums[d][2] += bool(f) and forgiven / len(f) <= 0.5


@given(SEEDS)
@settings(max_examples=40)
def test_panoptic_quality_follows_the_official_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(3):
        n, m = rng.integers(1, 5, 2)
        coarse = rng.integers(0, n + 1, (4, 5))
        truth = coarse.repeat(3, 0).repeat(3, 1).astype(np.int32)
        noisy = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, m + 1, truth.shape), np.minimum(truth, m))
        classes = rng.integers(0, 3, max(n, m))
        pairs.append(
            (
                Segments(truth, classes[:n], rng.random(n) < 0.25),
                Segments(noisy.astype(np.int32), classes[:m], np.zeros(m, bool)),
            )
        )
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for truth_segments, found_segments in pairs:
        official(truth_segments, found_segments, sums)
    report = panoptic_quality(pairs, "ABC", [2])
    for c, ours in enumerate(report.classes):
        iou, tp, fp, fn = sums[c]
        assert (ours.found, ours.false, ours.missed) == (tp, fp, fn)
        if tp + fp + fn:
            assert ours.pq == pytest.approx(iou / (tp + fp / 2 + fn / 2), abs=1e-12)
            assert ours.sq == pytest.approx(iou / tp if tp else 0, abs=1e-12)
    there = [c.pq for c in report.classes if c.pq is not None]
    assert report.all.pq == (pytest.approx(np.mean(there), abs=1e-12) if there else None)


# ---- classes of pixels


def drawn(ids: list[str], classes: list[int], names: tuple[str, ...], size: tuple[int, int]) -> Detections:
    image = np.array([[int(c) for c in row] for row in ids])
    masks = Masks.from_ids(image, np.arange(1, len(classes) + 1))
    return Detections(
        masks.boxes_xyxy, np.linspace(1, 0.5, len(classes)), np.array(classes), names, size, {"masks": masks}
    )  # type: ignore[arg-type]


def one_image(ids: list[str], classes: str, stuff: set[int]) -> Dataset:
    image = np.array([[int(c) for c in row] for row in ids])
    masks = Masks.from_ids(image, np.arange(1, len(classes) + 1))
    collector = Collector("val", Path(), ["a", "b"])
    objects = [
        RawObject("x", tuple(box), name, mask=coco_label(runs))  # type: ignore[arg-type]
        for box, name, runs in zip(masks.boxes_xyxy.tolist(), classes, masks.to_list(), strict=True)
    ]
    collector.add("0.png", Path("0.png"), masks.size_hw, objects)
    dataset = collector.dataset()
    dataset.stuff = frozenset(stuff)
    return dataset


def test_mean_iou_by_hand() -> None:
    labels, found = ["1111", "2200"], ["1112", "2220"]
    # a: 3 of 4 labelled, none besides; b: 2 right, one of a's and one of the background besides.
    panoptic = evaluate_semantic(one_image(labels, "ab", {1}), [drawn(found, [0, 1], ("a", "b"), (2, 4))])
    assert panoptic.ious == pytest.approx({"a": 3 / 4, "b": 2 / 3})  # unlabelled pixels do not count
    assert panoptic.miou == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert panoptic.accuracy == pytest.approx(5 / 6)
    instances = evaluate_semantic(one_image(labels, "ab", set()), [drawn(found, [0, 1], ("a", "b"), (2, 4))])
    assert instances.ious == pytest.approx({"a": 3 / 4, "b": 2 / 4})
    assert instances.miou == pytest.approx((3 / 4 + 2 / 4 + 1 / 2) / 3)  # the background is a class
    assert instances.accuracy == pytest.approx(6 / 8)


# ---- files and the command line


def written(tmp_path: Path) -> tuple[Dataset, list[Detections]]:
    for i in range(6):
        Image.new("RGB", SIZE[::-1], (9 * i, 90, 90)).save(tmp_path / f"{i}.png")
    write_coco({"val": a_dataset(3, root=tmp_path)}, tmp_path / "data")
    dataset = open_data(tmp_path / "data").read("val")
    return dataset, some_detections(dataset, 5)


def test_results_files_keep_masks(tmp_path: Path) -> None:
    dataset, found = written(tmp_path)
    write_results(tmp_path / "found.json", dataset, found)
    assert read_results(tmp_path / "found.json").detections_of(dataset)[1] == found


def test_eval_measures_masks_and_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, found = written(tmp_path)
    write_results(tmp_path / "found.json", dataset, found)
    assert (
        main(["eval", str(tmp_path / "data"), "-m", str(tmp_path / "found.json"), "--out", str(tmp_path / "out")]) == 0
    )
    said = capsys.readouterr().out
    expected = evaluate_coco(dataset, found, overlap="segm")
    assert "masks" in said
    assert f"{expected.ap:.3f}" in said
    assert "mean IoU of classes" in said
    assert "panoptic" not in said
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["masks"]["coco"]["ap"] == pytest.approx(expected.ap)
    header = (tmp_path / "out/classes.csv").read_text().splitlines()[0]
    assert header.endswith("ap,ap50,mask_ap,mask_ap50,pixel_iou")
    # The sheet of samples without masks is another one.
    boxes = [Detections(f.boxes_xyxy, f.scores, f.class_ids, f.names, SIZE) for f in found]
    write_evaluation(tmp_path / "boxes", measure("m", "d", dataset, boxes), dataset, boxes)
    for sheet in ("samples.png", "mistakes.png"):
        with Image.open(tmp_path / "out" / sheet) as one, Image.open(tmp_path / "boxes" / sheet) as other:
            assert one.size != other.size or (np.asarray(one) != np.asarray(other)).any()


def test_panoptic_labels_have_panoptic_quality() -> None:
    dataset = one_image(["1111", "2200"], "ab", {1})
    evaluation = measure("m", "d", dataset, [drawn(["1112", "2220"], [0, 1], ("a", "b"), (2, 4))])
    assert evaluation.masks is not None
    assert evaluation.masks.panoptic is not None
    assert evaluation.masks.panoptic.things.pq == pytest.approx(3 / 4)
    assert evaluation.masks.panoptic.stuff.pq == pytest.approx(2 / 3)  # one of its four pixels is void
    said = summarise(evaluation)
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("all ", "things", "stuff"))][:3] == [
        *("all", "things", "stuff")
    ]  # fmt: skip
    msgspec.json.encode(evaluation)


def test_ap_of_panoptic_labels_is_that_of_things() -> None:
    dataset = a_dataset(3, images=10)
    found = some_detections(dataset, 1)
    everything = evaluate_coco(dataset, found, overlap="segm")
    dataset.stuff = frozenset({1})
    things = evaluate_coco(dataset, found, overlap="segm")
    assert things.ap == everything.classes[0].ap != everything.ap
    assert things.classes[1].ap is None
    assert things.objects == everything.classes[0].objects
