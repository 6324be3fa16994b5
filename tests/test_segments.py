"""What every pixel belongs to: DETR's panoptic segments from the network to files, metrics and exports."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import detr_reference as reference
from phidet.architectures.detr.config import MaskConfig
from phidet.architectures.detr.decode import DetrDecoder
from phidet.architectures.detr.published import detr_config
from phidet.architectures.prepared import Placement
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.structs import replace
from phidet.data.layouts import open_data
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.segments import IS_THING, label_map, make_segments, things_of
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.detect_dataset import detect_dataset
from phidet.evaluation.measure import COCO_SETTINGS
from phidet.evaluation.panoptic import evaluate_panoptic
from phidet.evaluation.results_file import read_results, write_results
from phidet.export.export import ExportOptions, export
from phidet.inference.detector import Detector
from phidet.inference.runtimes.torch_runtime import TorchNetwork
from phidet.training.heads import with_heads
from phidet.weights.native import save_model
from test_detr_commands import photographs, tiny
from test_detr_panoptic import SMALL
from test_train_run import CLASSES

SIZE = (40, 60)


def segments(names: tuple[str, ...] = ("cat", "sky")) -> Detections:
    """Two cats beside each other above sky; a last segment has no pixel, a row of pixels no segment."""
    ids = np.full(SIZE, -1, np.int32)
    ids[:20, :30], ids[:20, 30:], ids[21:] = 2, 0, 1
    scores = np.array([0.9, 0.95, 0.99, 0.86])
    return make_segments(ids, np.array([0, 1, 0, 1]), scores, np.array([True, False, True, False]), names)


def found(names: tuple[str, ...] = ("cat", "sky")) -> Detections:
    boxes = np.array([[0, 0, 30, 20], [30, 0, 60, 20]], np.float32)
    return Detections(boxes, np.array([0.99, 0.4]), np.array([0, 0]), names, SIZE, segments=segments(names))


# ---- the result


def test_segments_are_sorted_boxed_and_cover_their_pixels() -> None:
    whole = segments()
    assert whole.labels == ["cat", "sky", "cat"]
    assert whole.boxes_xyxy.tolist() == [[0, 0, 30, 20], [0, 21, 60, 40], [30, 0, 60, 20]]
    assert things_of(whole).tolist() == [True, False, True]
    assert whole.masks is not None
    assert whole.masks.areas.tolist() == [600, 1140, 600]
    labels = label_map(found())
    assert (labels[:20] == 0).all()
    assert (labels[20] == -1).all()
    assert (labels[21:] == 1).all()


def test_a_label_map_of_objects_has_the_first_on_top() -> None:
    full = np.zeros((2, *SIZE), bool)
    full[0, :10], full[1, 5:15] = True, True
    boxes = np.zeros((2, 4), np.float32)
    objects = Detections(boxes, np.array([0.9, 0.8]), np.array([1, 0]), (), SIZE, {"masks": Masks.from_full(full)})
    assert label_map(objects)[[0, 9, 10, 14, 15], 0].tolist() == [1, 1, 0, 0, -1]
    assert (label_map(Detections.empty(image_size_hw=SIZE)) == -1).all()


def test_segments_go_with_their_image_whatever_happens_to_the_objects() -> None:
    both = found()
    assert pickle.loads(pickle.dumps(both)) == both
    assert both.filter(0.5).segments == both[:0].segments == both.segments
    assert both != Detections(both.boxes_xyxy, both.scores, both.class_ids, both.names, SIZE)
    content = json.loads(both.to_json())
    assert len(content["detections"]) == 2
    assert [(one["label"], one["is_thing"]) for one in content["segments"]] == [
        *(("cat", True), ("sky", False), ("cat", True)),
    ]
    again = Masks.from_coco([one["mask"] for one in content["segments"]], SIZE)
    assert both.segments is not None
    assert again == both.segments.masks
    assert "segments" not in json.loads(Detections.empty().to_json())


def test_an_image_is_drawn_with_all_of_its_segments() -> None:
    grey = Image.new("RGB", SIZE[::-1], (128, 128, 128))
    drawn = np.asarray(found().draw(grey)).astype(int)
    assert (drawn[20, 2:-2] == 128).all()  # belongs to nothing
    assert (drawn[30, 10:50] != 128).any(-1).all()  # sky, though no object was found there


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"segment_score must be in 0…1, got 2"):
        PostprocessSettings(segment_score=2)


# ---- DETR's


@pytest.mark.parametrize("case", ["things_stuff", "tiny_segment", "nothing", "one_thing", "low_threshold"])
def test_the_decoder_finds_the_official_segments(shared: Path, case: str) -> None:
    values = reference.values(shared, "panoptic_post")
    logits, masks = (values[f"{case}_{part}"][0] for part in ("logits", "masks"))
    size_hw, image_hw = (tuple(values[f"{case}_{part}"].tolist()) for part in ("size", "target"))
    config = replace(detr_config("detr-r50-panoptic"), {"image_size_hw": size_hw, "input_size": "fixed"})
    outputs = {"class_logits": logits, "mask_logits": masks, "boxes_cxcywh": np.full((len(logits), 4), 0.5, np.float32)}
    settings = PostprocessSettings(segment_score=float(values[f"{case}_threshold"]))
    decoder = DetrDecoder(config)
    decoder._input_sizes = lambda _: (size_hw, size_hw)  # type: ignore[method-assign, assignment]  # of no image in these cases
    whole = decoder(outputs, Placement(1.0, image_hw), settings).segments
    assert whole is not None
    assert whole.masks is not None
    official = {int(id_): (bool(thing), int(c)) for id_, thing, c, _ in values[f"{case}_segments"]}
    assert sorted(whole.masks.areas.tolist()) == sorted(int(area) for *_, area in values[f"{case}_segments"])
    for mask, thing, class_id in zip(whole.masks.to_full(), things_of(whole), whole.class_ids, strict=True):
        ids = np.unique(values[f"{case}_ids"][mask])
        assert len(ids) == 1  # one official segment, all of it as the areas agree
        assert official.pop(int(ids[0])) == (thing, class_id)
    assert not official


def masked(**changes: Any) -> Any:
    """A network whose queries are certain of something, and whose masks have edges."""
    model = tiny(masks=MaskConfig(stuff=CLASSES[:1]), transformer=SMALL, **changes)
    model.class_head.weight.data *= 3
    return model


def test_settings_say_whether_and_from_which_score_there_are_segments() -> None:
    detector, image = Detector(TorchNetwork(masked())), photographs()[0]
    every, none = PostprocessSettings(score=0, segment_score=0), PostprocessSettings(score=0, masks=False)
    all_of_them = detector(image, every).segments
    assert all_of_them is not None
    assert len(all_of_them) > 0
    without = detector(image, none)
    assert without.segments is None
    assert without.masks is None
    assert (without.boxes_xyxy == detector(image, every).boxes_xyxy).all()
    nothing = detector(image, msgspec.structs.replace(every, segment_score=1.0)).segments
    assert nothing is not None
    assert not len(nothing)
    assert set(all_of_them.fields) == {"masks", IS_THING}


def test_masks_that_are_no_numbers_are_refused() -> None:
    config = masked().config
    outputs = {
        "class_logits": np.zeros((2, len(CLASSES) + 1), np.float32),
        "boxes_cxcywh": np.full((2, 4), 0.5, np.float32),
        "mask_logits": np.full((2, 4, 4), np.nan, np.float32),
    }
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        DetrDecoder(config)(outputs, Placement(1.0, SIZE), PostprocessSettings())


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (ExportOptions(precision="fp16"), 0.99),
        pytest.param(ExportOptions(), 0.9999, marks=pytest.mark.slow),
        pytest.param(ExportOptions("openvino", "fp16"), 0.99, marks=pytest.mark.slow),
    ],
    ids=["onnx-fp16", "onnx", "openvino-fp16"],
)
def test_exports_have_pytorchs_masks_and_segments(options: ExportOptions, least: float, tmp_path: Path) -> None:
    model = masked(input_size="fixed", image_size_hw=(96, 96))
    path = tmp_path / ("tiny.xml" if options.to == "openvino" else "tiny.onnx")
    export(model, path, options)
    settings = PostprocessSettings(score=0, segment_score=0)
    ours = Detector(TorchNetwork(model)).detect(photographs(), settings)
    with Detector(path) as detector:
        theirs = detector.detect(photographs(), settings)
    compared = 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.masks is not None
        assert other.masks is not None
        seen = one.masks.areas > 20
        compared += int(seen.sum())
        assert (np.diag(one.masks.iou(other.masks))[seen] >= least).all()
        assert (label_map(one) == label_map(other)).mean() >= least
    assert compared > 10


def test_the_labels_say_which_classes_are_stuff() -> None:
    config = masked().config
    assert config.masks == MaskConfig(stuff=CLASSES[:1])
    assert with_heads(config, [], [CLASSES[1]]).masks == MaskConfig(stuff=CLASSES[1:2])
    assert with_heads(config, [], []) == config
    plain = replace(config, {"masks": None})
    assert with_heads(plain, ["masks"], [CLASSES[2]]).masks == MaskConfig(stuff=CLASSES[2:])
    with pytest.raises(ConfigError, match="detr networks have no head for the class of every pixel"):
        with_heads(config, ["semantic"], [])


# ---- files, commands


def test_panoptic_files_are_labels_of_the_same_segments(tmp_path: Path) -> None:
    """What is written reads back, by the reader of COCO's panoptic labels, to what was found."""
    image = tmp_path / "images/a.jpg"
    image.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(image, quality=95)
    save_model(masked(), tmp_path / "model.safetensors")
    words = [str(image), "-m", str(tmp_path / "model.safetensors"), "--segment-score", "0"]
    assert main(["detect", *words, "--save", "panoptic,semantic,json", "--out", str(tmp_path / "out")]) == 0
    line = json.loads((tmp_path / "out/detections.jsonl").read_text())
    masks = Masks.from_coco([one["mask"] for one in line["segments"]], (64, 96))
    assert len(masks) > 0
    (tmp_path / "out/images").symlink_to(image.parent)
    dataset = open_data(tmp_path / "out/panoptic.json", "panoptic").read("panoptic")
    assert dataset.class_names == CLASSES
    read = dataset.masks(0)
    assert read is not None
    assert (masks.iou(read).max(1) == 1).all()
    kinds = {one["label"]: one["is_thing"] for one in line["segments"]}
    assert {CLASSES[c] for c in dataset.stuff} == {name for name, thing in kinds.items() if not thing}
    # Measured against itself everything is found, which also says that the classes agree.
    segments = [Detector(tmp_path / "model.safetensors")(image, PostprocessSettings(segment_score=0))]
    assert evaluate_panoptic(dataset, segments).all.pq == 1.0
    with Image.open(tmp_path / "out/semantic/a.png") as file:
        assert file.mode == "P"
        assert (np.asarray(file).astype(int) - 1 == label_map(segments[0])).all()
    assert (tmp_path / "out/semantic/classes.txt").read_text().split() == list(CLASSES)


def test_eval_measures_the_segments_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On its own segments as labels PQ is 1, though its overlapping masks of objects would have less."""
    torch.manual_seed(0)
    (tmp_path / "val").mkdir()
    for i, image in enumerate(photographs()):
        Image.fromarray(image).save(tmp_path / f"val/{i}.png")
    model = masked()
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    words = [str(tmp_path / "val"), "-m", str(path), "--segment-score", "0.5"]
    assert main(["detect", *words, "--save", "panoptic", "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out/panoptic").rename(tmp_path / "panoptic_val")
    (tmp_path / "out/panoptic.json").rename(tmp_path / "panoptic_val.json")
    capsys.readouterr()
    words = ["eval", str(tmp_path), "--layout", "panoptic", "-m", str(path), "--split", "val", "--json"]
    assert main([*words, "--segment-score", "0.5", "--save-detections", str(tmp_path / "found.json")]) == 0
    masks = json.loads(capsys.readouterr().out)["masks"]
    assert masks["score"] is None
    assert masks["panoptic"]["all"]["pq"] == 1.0
    assert masks["semantic"]["miou"] == 1.0
    # What was saved is measured alike, and what was found before in its place is gone.
    words[words.index(str(path))] = str(tmp_path / "found.json")
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)["masks"]
    assert again == masks
    dataset = open_data(tmp_path, "panoptic").read("val")
    read = read_results(tmp_path / "found.json").detections_of(dataset)[1]
    detector, settings = Detector(path), msgspec.structs.replace(COCO_SETTINGS, segment_score=0.5)
    wholes = [one.segments for one in detect_dataset(detector, dataset, settings)[1]]
    assert [one.segments for one in read] == wholes
    assert any(whole is not None and not things_of(whole).all() for whole in wholes)
    write_results(tmp_path / "found.json", dataset, [Detections.empty(CLASSES)] * len(dataset))
    assert read_results(tmp_path / "found.json").segments is None
