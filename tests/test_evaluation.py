"""An evaluation says what it measured: what is in the data, what was lost, counts by class; detections as files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics_data import a_dataset, detections, nothing, some_detections, thing, truth
from phidet.cli.main import main
from phidet.cli.metrics import summarise
from phidet.core.errors import ConfigError, InputError
from phidet.data.collector import Collector, RawObject
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.data.summary import summarise_data
from phidet.detections.detections import Detections
from phidet.evaluation.class_counts import class_counts, sum_counts
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.evaluation.curves import pr_curves
from phidet.evaluation.measure import MeasureSettings, measure
from phidet.evaluation.report_tables import write_tables
from phidet.evaluation.results_file import images_file, read_results, write_results
from phidet.training.about import Request
from phidet.training.run_data import read_run_data

seeds = st.integers(0, 2**32 - 1)


def test_a_summary_counts_what_is_there_and_what_is_not() -> None:
    collector = Collector("val", Path(), ["ant", "bee", "cow"])
    box = (10.0, 10.0, 60.0, 60.0)
    objects = [RawObject("1", box, "ant"), RawObject("2", box, "bee", crowd=True), RawObject("3", box, "dog")]
    objects += [RawObject("4", box, "dog"), RawObject("5", box, "Ant"), RawObject("6", (5, 5, 5, 9), "ant")]
    collector.add("0.jpg", Path("0.jpg"), (100, 100), objects)
    collector.add(
        "1.jpg", Path("1.jpg"), (100, 100), [RawObject("7", (-9, 0, 50, 50), "ant"), RawObject("8", box, "ant")]
    )
    collector.add("2.jpg", Path("2.jpg"), (100, 100), [])
    collector.problem("image missing", "list, line 4", "no 3.jpg; left out")
    summary = summarise_data(collector.dataset())
    assert (summary.images, summary.backgrounds, summary.objects, summary.crowds) == (3, 1, 3, 1)
    assert (summary.classes, summary.classes_without_objects, summary.most_objects) == (3, ("bee", "cow"), 2)
    lost = {(group.kind, group.what): (group.count, group.examples) for group in summary.left_out}
    assert lost == {
        ("class unknown", "class 'dog' is not one of the classes; left out"): (2, ("3", "4")),
        ("class unknown", "class 'Ant' is not one of the classes; left out"): (1, ("5",)),
        ("box empty", "box [5, 5, 5, 9] has no area; left out"): (1, ("6",)),
        ("image missing", "no 3.jpg; left out"): (1, ("list, line 4",)),
    }
    assert [group.kind for group in summary.notes] == ["box clipped"], "nothing is lost by it"
    assert summary.line() == (
        "val: 3 images (1 background), 3 objects and 1 crowd region of 3 classes; "
        "left out: class unknown 3, box empty 1, image missing 1"
    )
    assert summarise_data(truth([thing(box)])).line().endswith("1 object of 2 classes; nothing left out")


def test_counts_by_hand() -> None:
    """Two of class a found by three, one of b called a; a crowd, a difficult one and a low score count nowhere."""
    a, b, c, d = (10, 10, 60, 60), (100, 10, 150, 60), (200, 10, 250, 60), (10, 100, 60, 150)
    dataset = truth(
        [thing(a), thing(b), thing(c, "b"), thing(d, crowd=True)],
        [thing(a, difficult=True)],
        classes=("a", "b", "never"),
    )
    found = [
        detections((a, 0.9, 0), (b, 0.8, 0), (c, 0.7, 0), (d, 0.6, 0), (b, 0.3, 1), (a, 0.2, 2)),
        detections((a, 0.9, 0)),
    ]
    first, second, never = class_counts(dataset, found, min_score=0.3)
    assert (first.objects, first.detections, first.true_positives) == (2, 3, 2)
    assert (first.false_positives, first.false_negatives) == (1, 0)
    assert (first.precision, first.recall, first.f1) == (2 / 3, 1.0, 0.8)
    assert (second.false_positives, second.false_negatives, second.precision, second.recall, second.f1) == (
        1,
        1,
        0,
        0,
        0,
    )
    assert (never.objects, never.detections, never.precision, never.recall, never.f1) == (0, 0, None, None, None)
    whole = sum_counts((first, second, never))
    assert (whole.objects, whole.detections, whole.true_positives) == (3, 4, 2)
    assert (whole.precision, whole.recall, whole.f1) == (0.5, 2 / 3, 4 / 7)
    assert class_counts(dataset, found, min_score=0.2)[2].precision == 0


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from([0.3, 0.5, 0.75]), st.floats(0, 1))
def test_counts_are_the_point_of_the_curve_at_their_score(seed: int, iou: float, score: float) -> None:
    dataset = a_dataset(seed, images=5, difficult=0.2)
    found = some_detections(dataset, seed + 1)
    for counts, curve in zip(class_counts(dataset, found, score, iou), pr_curves(dataset, found, iou), strict=True):
        above = np.flatnonzero(curve.scores >= np.float32(score))
        assert counts.objects == curve.objects == counts.true_positives + counts.false_negatives
        assert counts.detections == counts.true_positives + counts.false_positives
        if not len(above):
            assert counts.detections == 0
            continue
        assert counts.precision == pytest.approx(curve.precision[above[-1]])
        assert (counts.recall or 0.0) == pytest.approx(curve.recall[above[-1]])


def test_overlap_decides_what_is_found() -> None:
    """IoU 0.4: half as wide a box, a little off."""
    dataset = truth([thing((0, 0, 100, 100))])
    found = [detections(((0, 0, 100, 40), 0.9, 0))]
    for iou, right in ((0.3, 1), (0.4, 1), (0.41, 0), (0.5, 0)):
        evaluation = measure("m", "d", dataset, found, MeasureSettings(iou=iou))
        assert evaluation.all_classes.true_positives == right
        assert evaluation.ap_at_iou == right
        assert evaluation.confusion[0] == [right, 0, 1 - right]
        assert evaluation.coco.ap50 == 0, "COCO's metrics have their own overlaps"


def test_score_decides_what_counts_and_the_best_is_kept_beside_it() -> None:
    dataset = truth([thing((0, 0, 100, 100)), thing((150, 0, 250, 100))])
    found = [detections(((0, 0, 100, 100), 0.9, 0), ((150, 0, 250, 100), 0.4, 0), ((0, 110, 50, 190), 0.2, 0))]
    best = measure("m", "d", dataset, found)
    assert (best.score, best.all_classes.f1) == (best.best_score, 1.0)
    assert 0.2 < best.score <= 0.4
    for score, counted, f1 in ((0.5, 1, 2 / 3), (0.1, 3, 0.8)):
        other = measure("m", "d", dataset, found, MeasureSettings(score=score))
        assert (other.score, other.best_score, other.coco) == (score, best.best_score, best.coco)
        assert (other.all_classes.detections, other.all_classes.f1) == (counted, pytest.approx(f1))
    assert "at score 0.1, IoU 0.5\n" in summarise(measure("m", "d", dataset, found, MeasureSettings(score=0.1)))


def crowded(count: int) -> tuple[Dataset, list[Detections]]:
    """An image of ``count`` objects, and perfect detections of them."""
    boxes: list[tuple[float, float, float, float]] = [
        (float(x), float(y), x + 4.0, y + 4.0) for y in range(0, 200, 5) for x in range(0, 300, 5)
    ][:count]
    return truth([thing(box) for box in boxes]), [detections(*((box, 0.9, 0) for box in boxes))]


def test_more_than_a_hundred_objects_count_where_they_are_asked_for() -> None:
    """COCO's limit lets perfect detections of 2,000 objects reach a recall of 5 %."""
    dataset, found = crowded(2000)
    official, whole = (evaluate_coco(dataset, found, limit) for limit in (100, 2000))
    assert (official.ar_max, official.ar_100, official.max_objects) == (0.05, 0.05, 100)
    assert official.ap == pytest.approx(6 / 101)  # recalls 0 … 0.05 of 101
    assert (whole.ap, whole.ar_max, whole.ar_100, whole.ar_small) == (1.0, 1.0, 0.05, 1.0)
    assert (whole.ar_1, whole.ar_10) == (official.ar_1, official.ar_10)
    assert (whole.ar_1, whole.ar_10) == pytest.approx((0.0005, 0.005))
    assert evaluate_coco(dataset, found, 10).ar_100 == pytest.approx(0.005)
    assert "AR 2000" in summarise(measure("m", "d", dataset, found, MeasureSettings(max_objects=2000)))
    assert MeasureSettings(max_objects=2000).postprocess.max_detections == 2000


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from([3, 50, 150, 1000]))
def test_any_limit_gives_pycocotools_metrics(seed: int, limit: int) -> None:
    dataset = a_dataset(seed, images=3, classes=3, most=30)
    found = some_detections(dataset, seed + 1, most=200, ties=False)
    report = evaluate_coco(dataset, found, limit)
    with contextlib.redirect_stdout(io.StringIO()):
        target, answer = COCO(), COCO()
        for coco, kept in ((target, None), (answer, found)):
            coco.dataset = coco_dataset(dataset, kept)
            coco.createIndex()
        evaluator = COCOeval(target, answer, "bbox")
        evaluator.params.maxDets = [limit]
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][..., 0, -1], evaluator.eval["recall"][..., 0, -1]
    for own, values in ((report.ap, precision), (report.ap75, precision[5]), (report.ar_max, recall)):
        defined = values[values > -1]
        assert own == (pytest.approx(defined.mean(), abs=1e-12) if defined.size else None)


def coco_dataset(dataset: Dataset, found: Sequence[Detections] | None) -> dict[str, object]:
    annotations: list[dict[str, object]] = []
    for i in range(len(dataset)):
        a = dataset.annotations(i)
        if found is None:
            rows = zip(a.boxes_xyxy.astype(float), a.class_ids, a.areas, a.crowd, np.zeros(len(a.areas)), strict=True)
        else:
            f = found[i]
            boxes = f.boxes_xyxy.astype(float)
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            rows = zip(boxes, f.class_ids, areas, np.zeros(len(f), bool), f.scores, strict=True)
        for box, c, area, crowd, score in rows:
            annotation: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": i + 1,
                "category_id": int(c) + 1,
                "area": float(area),
            }
            annotation |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "score": float(score)}
            annotations.append(annotation | {"iscrowd": int(crowd)})
    return {
        "images": [{"id": i + 1} for i in range(len(dataset))],
        "annotations": annotations,
        "categories": [{"id": c + 1} for c in range(len(dataset.class_names))],
    }


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"score": 1.5},
        {"score": -0.1},
        {"iou": 0.0},
        {"iou": 1.1},
        {"max_objects": 0},
        {"iou": float("nan")},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MeasureSettings(**wrong)  # type: ignore[arg-type]


def test_tables_have_what_the_report_has(tmp_path: Path) -> None:
    dataset = a_dataset(3, classes=3)
    evaluation = measure("m", "d", dataset, some_detections(dataset, 4), MeasureSettings(score=0.5))
    for path in write_tables(tmp_path, evaluation):
        assert path.parent == tmp_path
    with (tmp_path / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*dataset.class_names, "all classes"]
    for row, counts in zip(rows, [*evaluation.classes, evaluation.all_classes], strict=True):
        for key in ("objects", "detections", "true_positives", "false_positives", "false_negatives"):
            assert int(row[key]) == getattr(counts, key)
        for key in ("precision", "recall", "f1"):
            value = getattr(counts, key)
            assert (row[key] == "") == (value is None)
            assert value is None or float(row[key]) == pytest.approx(value, abs=1e-6)
    assert float(rows[-1]["ap"]) == pytest.approx(evaluation.coco.ap, abs=1e-6)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        header, *matrix = csv.reader(file)
    assert header == ["class", *dataset.class_names, "(missed)"]
    assert [row[0] for row in matrix] == [*dataset.class_names, "(background)"]
    assert [[int(cell) for cell in row[1:]] for row in matrix] == evaluation.confusion


def write_coco(root: Path, split: str = "val", count: int = 4, names: Sequence[str] = ("person", "dog")) -> Path:
    """Images with ids 7, 17 … and a square each; categories 5 and 9."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, objects = [], []
    for i in range(count):
        Image.new("RGB", (160, 120), (i, 90, 90)).save(root / split / f"{i}.png")
        images.append({"id": 7 + 10 * i, "file_name": f"{i}.png", "width": 160, "height": 120})
        box = [10, 10, 50, 50]
        objects.append(
            {"id": i, "image_id": 7 + 10 * i, "category_id": (5, 9)[i % 2], "bbox": box, "iscrowd": 0, "area": 2500}
        )
    categories = [{"id": 5, "name": names[0]}, {"id": 9, "name": names[1]}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def random_detections(dataset: Dataset, seed: int) -> list[Detections]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(len(dataset)):
        corners = rng.uniform(0, 60, (6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (6, 2))], 1).astype(np.float32)
        classes = rng.integers(0, len(dataset.class_names), 6)
        found.append(Detections(boxes, rng.random(6).astype(np.float32), classes))
    return found


def test_detections_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    """Of COCO JSON with its own numbers, with a class that the data lack, and of a part of the images."""
    whole = open_data(write_coco(tmp_path)).read("val", ["cat", "dog", "person"])
    part = whole.subset([3, 1], "part")
    found = random_detections(part, 0)
    written = write_results(tmp_path / "found.json", part, found)
    assert written == [tmp_path / "found.json", tmp_path / "found-images.json"]
    results = json.loads((tmp_path / "found.json").read_text())
    assert {r["image_id"] for r in results} == {17, 37}
    assert {r["category_id"] for r in results} <= {5, 9, 10}
    read = read_results(tmp_path / "found.json")
    assert read.class_names == ("person", "dog", "cat")
    dataset, back = read.detections_of(whole)
    assert dataset.names.tolist() == ["1.png", "3.png"], "in the order of the data"
    for name, one in zip(dataset.names.tolist(), back, strict=True):
        own = found[part.names.tolist().index(name)]
        np.testing.assert_allclose(one.boxes_xyxy, own.boxes_xyxy, atol=1e-3)
        np.testing.assert_array_equal(one.scores, own.scores)
        np.testing.assert_array_equal(one.class_ids, own.class_ids)
    assert images_file(Path("x/coco-results.json")) == Path("x/coco-images.json"), "as phidet detect calls it"


def test_pycocotools_reads_the_results_with_the_datas_own_file(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path)).read("val")
    found = random_detections(dataset, 1)
    write_results(tmp_path / "found.json", dataset, found)
    with contextlib.redirect_stdout(io.StringIO()):
        target = COCO(str(tmp_path / "annotations" / "instances_val.json"))
        evaluator = COCOeval(target, target.loadRes(str(tmp_path / "found.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert evaluate_coco(dataset, found).ap == pytest.approx(evaluator.stats[0], abs=1e-9)


def test_results_of_another_detector_have_the_numbers_of_the_datas_own_file(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path)).read("val")
    file = tmp_path / "theirs.json"
    rows = [{"image_id": 17, "category_id": 9, "bbox": [10, 10, 50, 50], "score": 0.5, "segmentation": []}]
    file.write_text(json.dumps(rows))
    measured, found = read_results(file).detections_of(dataset)
    assert measured is dataset
    assert [len(one) for one in found] == [0, 1, 0, 0]
    assert found[1].class_ids.tolist() == [1]
    for change, said in (
        ({"image_id": 3}, r"theirs.json, \[0\]: image_id 3 is not in 'val': are these detections of other data"),
        ({"category_id": 1}, r"theirs.json, \[0\]: category_id 1 is not in 'val'"),
        ({"score": 7}, r"detections of 1.png: expected scores 0…1, got 7"),
        ({"bbox": [10, 10, -5, 5]}, "detections of 1.png: expected x1 ≤ x2"),
    ):
        file.write_text(json.dumps([rows[0] | change]))
        with pytest.raises(InputError, match=said):
            read_results(file).detections_of(dataset)
    for content in (
        "{",
        "{}",
        '[{"image_id": 1}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1], "score": 1}]',
        "\xff",
    ):
        file.write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=r"theirs.json is not COCO's results: expected a list of"):
            read_results(file)
    file.write_text("[]")
    assert len(read_results(file).detections_of(dataset)[1]) == 4, "a detector that found nothing"
    unnumbered = truth([thing((10, 10, 60, 60))])
    with pytest.raises(InputError, match=r"provide theirs-images\.json, or write the data as COCO JSON"):
        read_results(file).detections_of(unnumbered)


def test_a_measurement_from_a_file_is_that_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line: detections out, and in again, also those of ``phidet detect``."""
    data, out = str(write_coco(tmp_path / "data")), str(tmp_path / "found.json")
    words = ["--json", "--score", "0.01", "--out", str(tmp_path / "report")]
    assert main(["eval", "person", data, "--save-detections", out, *words]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["eval", out, data, *words]) == 0
    again = json.loads(capsys.readouterr().out)
    for key in ("coco", "classes", "confusion", "voc_ap50"):
        assert again[key] == own[key]
    detected = ["detect", str(tmp_path / "data" / "val"), "--save", "coco", "--out", str(tmp_path / "detected")]
    assert main([*detected, "--score", "0.001"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "detected" / "coco-results.json"), data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coco"]["images"] == 4
    assert main(["eval", out, data, "--save-detections", out]) == 2
    assert "holds detections already" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "none.json"), data]) == 3
    assert "cannot read" in capsys.readouterr().err


def test_eval_names_what_it_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Missing and undecodable images, classes that only one side has: on the terminal and in the report."""
    data = write_coco(tmp_path, count=6)
    (tmp_path / "val" / "0.png").unlink()
    content = (tmp_path / "val" / "2.png").read_bytes()
    (tmp_path / "val" / "2.png").write_bytes(content[: len(content) // 2])
    with caplog.at_level("INFO", "phidet"):
        assert main(["eval", "person", str(data), "--json", "--out", str(tmp_path / "report")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    lost = {(group["kind"], group["count"]) for group in report["summary"]["left_out"]}
    assert lost == {("image missing", 1), ("image unreadable", 1), ("class unknown", 3)}
    assert report["summary"]["images"] == report["coco"]["images"] == 4
    assert (
        "val: 5 images (3 backgrounds), 2 objects of 1 class; left out: class unknown 3, image missing 1" in caplog.text
    )
    assert "class 'dog' is not one of the classes; left out (and 2 more)" in caplog.text
    assert "no 0.png" in caplog.text


@pytest.mark.parametrize("spelling", ["Person", "pérson"])
def test_a_measurement_on_nothing_is_an_error(
    spelling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No class in common; then all crowds; then no image with an object that can be decoded."""
    data = write_coco(tmp_path / "other", names=(spelling, "dog"))
    assert main(["eval", "person", str(data)]) == 3
    said = capsys.readouterr().err
    assert f"it has no object of the classes of person (person). class '{spelling}' is not one of the classes" in said
    assert "capital letters included" in said
    data = write_coco(tmp_path / "crowds")
    file = data / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    assert main(["eval", "person", str(data)]) == 3
    assert "nothing can be measured on" in capsys.readouterr().err
    data = write_coco(tmp_path / "broken")
    for name in ("0.png", "2.png"):
        content = (data / "val" / name).read_bytes()
        (data / "val" / name).write_bytes(content[: len(content) // 2])
    assert main(["eval", "person", str(data)]) == 3
    assert "no image with an object was left" in capsys.readouterr().err


def test_eval_says_that_a_hundred_objects_are_too_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_coco(tmp_path, count=1)
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"] = [content["annotations"][0] | {"id": i, "bbox": [i, 0, 3, 3]} for i in range(120)]
    file.write_text(json.dumps(content))
    limit = "an image has 120 objects, but at most 100 detections of an image count: --max-objects 120 counts more"
    for words, warned in (([], True), (["--max-objects", "120"], False), (["--max-objects", "119"], True)):
        caplog.clear()
        assert main(["eval", "person", str(data), *words]) == 0
        assert ("at most" in caplog.text) == warned
        assert (limit in caplog.text) == (not words)
    capsys.readouterr()
    for words, said in ((["--score", "2"], "score"), (["--iou", "0"], "iou"), (["--max-objects", "0"], "max_objects")):
        assert main(["eval", "person", str(data), *words]) == 2
        assert said in capsys.readouterr().err


def test_nothing_found_and_nothing_there_are_measured_without_a_division(tmp_path: Path) -> None:
    dataset = truth([thing((10, 10, 60, 60))], [])
    evaluation = measure("m", "d", dataset, nothing(2))
    assert (evaluation.all_classes.precision, evaluation.all_classes.recall) == (None, 0.0)
    assert write_tables(tmp_path, evaluation)


def test_training_data_are_described_and_checked_before_anything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line first; then what was lost on either side, classes without objects, and more objects than count."""
    data = write_coco(write_coco(tmp_path / "data", "train", 6), "val", 4)
    for split, change in (("train", "dog"), ("val", "ant")):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"].append({"id": 11, "name": change + "s"})
        more = [content["annotations"][0] | {"id": 100 + i, "category_id": 11 - 6 * (i > 1)} for i in range(123)]
        content["annotations"] += more if split == "val" else []
        file.write_text(json.dumps(content))
    (data / "val" / "3.png").unlink()
    with caplog.at_level("INFO", "phidet"):
        read = read_run_data(Request(data=str(data)), seed=0, classify=False)
    assert (len(read.train), None if read.val is None else len(read.val)) == (6, 3)
    first, *others = [record.getMessage() for record in caplog.records]
    assert first == "train: 6 images (0 backgrounds), 6 objects of 3 classes; nothing left out"
    assert others[0].endswith("ids 5, 9, 11 became 0…2, by name")
    assert others[1] == "  no objects of 1 of 3 classes: dogs"
    assert others[2] == (
        "val: 3 images (0 backgrounds), 124 objects of 3 classes; left out: class unknown 2, image missing 1"
    )
    assert "class 'ants' is not one of the classes; left out (and 1 more)" in others[3]
    assert "no 3.png" in others[4]
    assert "an image of val has 122 objects, and validation counts at most 100" in others[-1]
    assert read_run_data(Request(data=str(data), val_split="none"), 0, False).val is None


@pytest.mark.parametrize("crowds", ["train", "val"])
def test_crowds_alone_are_nothing_to_learn_and_nothing_to_measure(
    crowds: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_coco(write_coco(tmp_path, "train", 6), "val", 4)
    file = data / "annotations" / f"instances_{crowds}.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    request = Request(data=str(data))
    if crowds == "train":
        with pytest.raises(InputError, match=r"'train' has an object but crowd regions \(6, iscrowd 1\)"):
            read_run_data(request, 0, False)
    else:
        assert read_run_data(request, 0, False).val is None
        assert "val has no objects but crowd regions, so that nothing can be measured on it" in caplog.text
