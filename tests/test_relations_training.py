"""Training networks on detections: through the trainer and the command line, from files of detections or a detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import peers  # noqa: F401 - effdet scripts functions, which fails once torch_geometric is imported

pytest.importorskip("torch_geometric")

from phidet import load_model
from phidet.cli.main import main
from phidet.core.errors import ConfigError, InputError
from phidet.data.layouts import open_data
from phidet.data.writers.coco import write_coco
from phidet.detections.detections import Detections
from phidet.detections.graphs.graph import DetectionGraph, detection_graph
from phidet.detections.graphs.related import Related
from phidet.evaluation.relations import auc, f1, label_accuracy, measure_relations, pair_counts
from phidet.evaluation.results_file import read_results, write_results
from phidet.training import fit as training
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.plan import plan_run
from phidet.training.relations_data import detections_from
from phidet.training.run import resume, run
from relations_data import objects

pytestmark = pytest.mark.usefixtures("unrendered")
NAMES = ("left", "right", "single")
QUICK = ["--batch-size", "4", "--workers", "0", "--accelerator", "cpu"]


def write_pairs(root: Path, count: int, split: str, seed: int, detect: bool = True) -> Path:
    """Images of pairs, whose left part is of class 0 and whose right part is of class 1, and of single parts.

    A detector mistakes the parts of a pair for each other half of the time, so only relations tell them apart; it finds
    false ones, too. An image is right if no pair lacks its right part.
    """
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations, found = [], [], []
    for i in range(count):
        Image.new("RGB", (200, 160), (i % 250, seed % 250, 90)).save(root / split / f"{i}.png")
        complete = bool(rng.random() < 0.5)
        parts: list[tuple[float, float, int, int]] = []
        for cell in rng.permutation(12)[:5].tolist():
            x, y = cell % 4 * 48 + 4 + rng.uniform(0, 6), cell // 4 * 50 + 5 + rng.uniform(0, 10)
            if cell % 3 == 0:
                parts.append((x, y, 2, -1))
            else:
                parts.append((x, y, 0, cell))
                if complete or len(parts) > 1:
                    parts.append((x + 16, y, 1, cell))
        for x, y, class_id, group in parts:
            entry = {"id": len(annotations) + 1, "image_id": i, "category_id": class_id + 1, "bbox": [x, y, 12, 12]}
            annotations.append(entry | ({"group": group} if group >= 0 else {}))
            said = class_id if class_id == 2 or rng.random() < 0.5 else 1 - class_id
            box = [x + rng.normal(0, 0.3), y + rng.normal(0, 0.3), 12, 12]
            found.append({"image_id": i, "category_id": said + 1, "bbox": box, "score": float(rng.uniform(0.3, 0.9))})
        false = {"image_id": i, "category_id": 3, "bbox": [180, 140, 12, 12], "score": 0.6}
        found.append(false)
        images.append({"id": i, "file_name": f"{i}.png", "width": 200, "height": 160, "right": complete})
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(NAMES)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    if detect:
        (root.parent / f"found-{split}.json").write_text(json.dumps(found))
        searched = {"categories": categories, "images": images}
        (root.parent / f"found-{split}-images.json").write_text(json.dumps(searched))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs", 24, "train", 1)
    return write_pairs(tmp_path / "pairs", 12, "val", 2)


def request(data: Path, **changes: Any) -> Request:
    files = tuple(str(data.parent / f"found-{split}.json") for split in ("train", "val"))
    given: dict[str, Any] = {"model": "relations-attention", "detector": files, **changes}
    return Request(data=str(data), **given)


def settings(out: Path) -> RunSettings:
    return RunSettings(out=out, workers=0, accelerator="cpu")


def test_the_reader_keeps_groups_and_verdicts_and_the_writer_writes_them(data: Path, tmp_path: Path) -> None:
    read = open_data(data).read("val")
    raw = json.loads((data / "annotations" / "instances_val.json").read_text())
    groups = {i: [a.get("group", -1) for a in raw["annotations"] if a["image_id"] == i] for i in range(12)}
    assert [read.annotations(i).fields["group"].tolist() for i in range(12)] == list(groups.values())
    assert read.right == {f"{i}.png": raw["images"][i]["right"] for i in range(12)}
    write_coco({"val": read.subset(range(3, 9), "val")}, tmp_path / "out")
    again = open_data(tmp_path / "out").read("val")
    assert [again.annotations(i).fields["group"].tolist() for i in range(6)] == [groups[i] for i in range(3, 9)]
    assert again.right == {f"{i}.png": raw["images"][i]["right"] for i in range(3, 9)}


def test_answers_are_learned_where_the_data_know_them(data: Path, tmp_path: Path) -> None:
    everything = plan_run(request(data), settings(tmp_path / "run"))
    assert everything.model.config.answers == ("label", "score", "place", "together", "right")
    assert everything.model.config.class_names == NAMES
    for path in (data / "annotations").iterdir():
        labels = json.loads(path.read_text())
        for entry in labels["annotations"] + labels["images"]:
            entry.pop("group", None)
            entry.pop("right", None)
        path.write_text(json.dumps(labels))
    assert plan_run(request(data), settings(tmp_path / "run")).model.config.answers == ("label", "score", "place")


def test_a_run_learns_what_only_relations_tell(data: Path, tmp_path: Path) -> None:
    """The part on the left is "left", whatever the detector says of it."""
    write_pairs(data, 160, "train", 1)
    done = run(request(data, changes={"epochs": 15}), settings(tmp_path / "run"))
    assert {path.name for path in done.folder.iterdir()} >= {"best.safetensors", "run.json", "metrics.csv", "report"}
    report = json.loads((done.folder / "report" / "relations.json").read_text())
    assert report["images"] == 12
    assert report["detector_labels"] < 0.75
    assert report["labels"] > 0.95
    assert report["ap"] > report["detector_ap"] + 0.2
    assert report["groups"] > 0.9
    assert done.metrics["labels"] == report["labels"]


class StoppedError(Exception):
    """In the place of a crash."""


def test_a_resumed_run_ends_with_the_very_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 3, "batch_size": 8}
    whole = run(request(data, changes=changes), settings(tmp_path / "whole"))
    save = training.RunFolder.save_state

    def stop(folder: Any, state: dict[str, Any]) -> None:
        save(folder, state)
        raise StoppedError

    broken = tmp_path / "broken"
    monkeypatch.setattr(training.RunFolder, "save_state", stop)
    with pytest.raises(StoppedError):
        run(request(data, changes=changes), settings(broken))
    monkeypatch.undo()
    again = resume(broken, settings(broken))
    ours, theirs = (load_model(path / "last.safetensors").state_dict() for path in (whole.folder, again.folder))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_detectors_answers_are_made_once_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    class Square:
        class_names = NAMES

        def detect(self, arrays: Any, settings: Any = None) -> list[Detections]:
            calls.append(len(arrays))
            box = np.array([[10, 10, 22, 22.0]])
            return [Detections(box, np.array([0.9]), np.array([0]), NAMES, a.shape[:2]) for a in arrays]

    monkeypatch.setattr("phidet.training.relations_data.open_detector", lambda name: Square())
    words = ["train", str(data), "--task", "relations", "--detector", "square.onnx", "--epochs", "1", *QUICK]
    out = tmp_path / "run"
    assert main([*words, "--out", str(out)]) == 0
    assert sum(calls) == 36
    assert main(["train", "--resume", str(out), "--accelerator", "cpu", "--workers", "0"]) == 0
    assert sum(calls) == 36
    kept = detections_from(read_results(out / "detections-val.json"), open_data(data).read("val"))
    assert [found.boxes_xyxy.tolist() for found in kept] == [[[10, 10, 22, 22]]] * 12
    assert "relations.json" not in capsys.readouterr().err


def test_mistakes_are_one_message(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = (str(data.parent / f"found-{split}.json") for split in ("train", "val"))
    for words, message in (
        (["--task", "relations"], "name its model, or files of detections (.json) of these images, with --detector"),
        (
            ["--task", "relations", "--detector", train],
            "two splits that both have an image 0.png",
        ),
        (
            ["--task", "relations", "--detector", val, val],
            "no detections of 12 of 24 images of 'train'",
        ),
        (["--detector", train], "a detector is for networks that relate its detections, not for efficientdet-lite0"),
        (["--task", "relations", "--detector", "a.onnx", "b.onnx"], "expected one detector, or one or two files of"),
        (["--task", "relations", "--model", "efficientdet-lite0"], "efficientdet-lite0 is not for --task relations"),
        (["--task", "relations", "--detector", train, "--image-size", "64"], "looks at no image"),
    ):
        assert main(["train", str(data), *words, *QUICK, "--out", str(tmp_path / "run")]) in (2, 3)
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "run" / "run.json").exists()


def test_files_of_detections_must_be_of_one_detector(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    dataset = open_data(data).read("val")
    renamed = msgspec.json.decode((data.parent / "found-val-images.json").read_bytes())
    renamed["categories"][0]["name"] = "upper"
    write_results(other, dataset, [Detections.empty(NAMES, dataset.size_hw(i)) for i in range(12)])
    (tmp_path / "other-images.json").write_bytes(msgspec.json.encode(renamed))
    files = (str(data.parent / "found-train.json"), str(other))
    with pytest.raises(InputError, match="have detections of different classes"):
        plan_run(request(data, detector=files), settings(tmp_path / "run"))
    with pytest.raises(ConfigError, match="relations networks cannot learn a teacher's uncertain objects"):
        plan_run(request(data, model="relations-gcn", teacher="person"), settings(tmp_path / "run"))


# Metrics


def test_metrics_of_relations_are_what_is_counted_by_hand() -> None:
    said, true = np.array([0, 0, 0, 1, 1, -1]), np.array([5, 5, 6, 6, -1, -1])
    # Said: three pairs of group 0 and one of group 1; true: 0–1 and 2–3; both: 0–1.
    assert pair_counts(said, true).tolist() == [1, 4, 2]
    assert f1(np.array([1, 4, 2])) == pytest.approx(2 / 6)
    assert f1(np.zeros(3, np.int64)) is None
    assert auc(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])) == pytest.approx(3.5 / 4)
    assert auc(np.array([0.9]), np.array([True])) is None

    truth = objects([[0, 0, 10, 10], [20, 0, 30, 10]], [1, 2])
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [90, 90, 99, 99]], float)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 0, 0]), NAMES, (100, 100))
    assert label_accuracy([found], [truth]) == 0.5  # the second one is of an object that the first one has
    assert label_accuracy([Detections.empty(NAMES)], [truth]) is None


def test_the_report_compares_with_the_detector(data: Path) -> None:
    dataset = open_data(data).read("val")
    before = detections_from(read_results(data.parent / "found-val.json"), dataset)
    perfect = []
    for index in range(len(dataset)):
        truth = dataset.annotations(index)
        scores = np.linspace(0.9, 0.5, len(truth.class_ids))
        exact = Detections(truth.boxes_xyxy, scores, truth.class_ids, NAMES, dataset.size_hw(index))
        graph = detection_graph(exact)
        groups = truth.fields["group"]
        same = ((groups[graph.edges[0]] == groups[graph.edges[1]]) & (groups[graph.edges[0]] >= 0)).astype(np.float32)
        right = dataset.right[str(dataset.names[index])]
        perfect.append(Related(DetectionGraph(exact, graph.edges), same, 0.9 if right else 0.2))
    report = measure_relations(dataset, before, perfect)
    assert (report.ap, report.labels, report.verdicts, report.verdict_auc) == (1, 1, 1, 1)
    assert report.groups == 1
    assert report.detector_ap is not None
    assert report.detector_ap < 0.7
    assert report.detector_labels == label_accuracy(before, [dataset.annotations(i) for i in range(12)])
    assert report.detector_labels < 0.9
