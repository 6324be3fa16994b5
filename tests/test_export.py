"""Exports say what PyTorch says, on every runtime; folded copies, files and their headers, failures."""

from __future__ import annotations

import errno
import json
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import PIL.Image
import pytest
import torch
from onnx import numpy_helper

import phidet
from conftest import off_by
from export_models import CONFIGS, LOOSE, by_anchor, exported_tiny, picture, some_model
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, ExportError, InputError, UnknownNameError
from phidet.core.structs import from_json
from phidet.detections.boxes import pairwise_iou
from phidet.detections.settings import PostprocessSettings
from phidet.export.check import Agreement, check_agreement
from phidet.export.export import ExportOptions, export
from phidet.export.int8 import runtime_advice
from phidet.export.onnx_file import build_onnx
from phidet.export.onnx_graph import SMALL
from phidet.export.source import target_of
from phidet.inference.detector import Detector
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork, read_header
from phidet.inference.runtimes.open_model import find_model
from phidet.inference.runtimes.torch_runtime import TorchNetwork
from phidet.weights.native import save_model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folded_copy_and_an_export_say_what_the_model_says(name: str, tmp_path: Path) -> None:
    model = some_model(CONFIGS[name])
    images = torch.randn(2, 3, *model.config.image_size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(images)
    folded = model.optimize()(images)
    for ours, copy in zip(wanted, folded, strict=True):
        assert off_by(copy, ours) < 1e-4
    path = tmp_path / "model.onnx"
    for channels_last in (False, True):
        onnx.save(build_onnx(model, channels_last=channels_last), path)
        exported = by_anchor(OnnxNetwork(path, 1)(images.numpy()), model)
        for ours, file in zip(wanted, exported[1:], strict=True):
            assert off_by(torch.from_numpy(file), ours) < 1e-4
        np.testing.assert_array_equal(exported.best_logits, exported.class_logits.max(-1))


def test_a_folded_copy_takes_any_size_and_does_not_follow_its_model() -> None:
    model = some_model()
    copy = model.optimize()
    images = torch.randn(1, 3, 131, 200)
    with torch.inference_mode():
        before = model(images)
    assert off_by(copy(images).class_logits, before.class_logits) < 1e-4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert off_by(copy(images).class_logits, before.class_logits) < 1e-4


def test_no_padding_and_no_batch_norm_is_left_in_the_graph() -> None:
    graph = build_onnx(some_model()).graph
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Pad") == 2  # the predictors' channel of ones
    strided = [node for node in graph.node if node.op_type == "Conv" and _attribute(node, "strides") == [2, 2]]
    assert strided
    assert all(pads[2] >= pads[0] for pads in (_attribute(node, "pads") for node in strided))


def test_expansions_of_large_maps_are_made_in_parts_that_fit_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = some_model(), np.random.default_rng(0).normal(size=(2, 3, 128, 160)).astype(np.float32)
    outputs, convolutions, largest = [], [], []
    for cache in (1 << 30, 1 << 16):
        monkeypatch.setattr("phidet.export.onnx_graph.CACHE_BYTES", cache)
        graph = onnx.shape_inference.infer_shapes(build_onnx(model))
        onnx.save(graph, tmp_path / "model.onnx")
        outputs.append(by_anchor(OnnxNetwork(tmp_path / "model.onnx", 1)(images), model))
        convolutions.append(sum(node.op_type == "Conv" for node in graph.graph.node))
        expanded = {node.input[0] for node in graph.graph.node if node.op_type == "Sigmoid"}
        maps = [value for value in graph.graph.value_info if value.name in expanded]
        largest.append(max(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim[1:]]) for v in maps))
    assert convolutions[1] > convolutions[0]
    assert largest[1] < largest[0]
    np.testing.assert_allclose(outputs[1].class_logits, outputs[0].class_logits, atol=1e-5)
    np.testing.assert_allclose(outputs[1].box_deltas, outputs[0].box_deltas, atol=1e-5)


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])


def test_an_export_is_self_describing(tmp_path: Path) -> None:
    model = some_model()
    export(model, tmp_path / "model.onnx")
    metadata = ort.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert from_json(metadata["config"], ModelConfig) == model.config
    assert metadata["class_names"] == '["bolt","nut","washer"]'
    assert metadata["phidet_version"] == "0.1.0"
    assert "128x160" in metadata["preprocessing"]
    assert read_header(tmp_path / "model.onnx").precision == "fp32"


def test_fp16_is_half_the_file_and_nearly_the_same(tmp_path: Path) -> None:
    model = some_model()
    whole = export(model, tmp_path / "whole.onnx")
    half = export(model, tmp_path / "half.onnx", ExportOptions(precision="fp16"))
    assert half.megabytes < 0.6 * whole.megabytes
    assert half.agreement.score < 5e-3
    graph = onnx.load(tmp_path / "half.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Casts take a runtime longer to do than small weights to read: there is one for each large weight.
    halved = {name for name, values in stored.items() if values.dtype == np.float16}
    assert halved == {name for name, values in stored.items() if values.dtype.kind == "f" and values.size >= SMALL}
    assert Counter(halved) == Counter(node.input[0] for node in graph.node if node.op_type == "Cast")


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"what was there")
    other = some_model()
    with torch.no_grad():
        other.class_head.predict.pointwise.bias.add_(0.5)  # type: ignore[operator,union-attr]
    monkeypatch.setattr("phidet.export.export.build_onnx", lambda _, half: build_onnx(other, half))
    with pytest.raises(ExportError, match=r"model.onnx disagrees with PyTorch, so it was not written"):
        export(some_model(), target)
    assert target.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_full_disk_is_told_and_the_model_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = some_model().train()

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ExportError, match=r"cannot write .*m\.onnx: No space left on device"):
            export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert model.training


def test_an_export_that_ends_in_boxes_does_not_take_the_models_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(some_model(), tmp_path / "best.safetensors")
    assert main(["export", str(tmp_path)]) == 0
    assert main(["export", str(tmp_path), "--nms"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"best.safetensors", "best.onnx", "best-nms.onnx"}
    Detector(tmp_path)
    assert main(["export", str(tmp_path), "--half", "--eval", "nowhere"]) == 3
    assert "there is no data at nowhere" in capsys.readouterr().err


def test_int8_is_calibrated_on_images_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(some_model(), tmp_path / "best.safetensors")
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    assert main(["export", str(tmp_path), "--int8", "--calibrate", str(tmp_path / "photos")]) == 3
    assert "there are no images in" in capsys.readouterr().err
    for i in range(3):
        PIL.Image.fromarray(picture(90, 120, i)).save(tmp_path / "photos" / "deep" / f"{i}.png")
    main(["export", str(tmp_path), "--int8", "--calibrate", str(tmp_path / "photos")])
    said = "".join(capsys.readouterr())
    assert "on 3 images the best" in said, said


def test_weights_that_are_no_numbers_do_not_look_like_an_empty_image(tmp_path: Path) -> None:
    model = some_model()
    with torch.no_grad():
        model.class_head.predict.pointwise.bias[0] = float("nan")  # type: ignore[operator,union-attr,index]
    (tmp_path / "m.onnx").write_bytes(build_onnx(model).SerializeToString())
    for network in (tmp_path / "m.onnx", TorchNetwork(model)):
        with pytest.raises(CheckpointError, match="the network returned NaN"):
            Detector(network)(picture(90, 120))


def test_no_number_is_no_agreement() -> None:
    with pytest.raises(ExportError):
        check_agreement(Agreement(1, float("nan"), 1.0), "fp32", Path("model.onnx"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny(tmp_path_factory.mktemp("exported"))


def test_an_image_alone_is_an_image_in_a_batch(exported: Path) -> None:
    detector = Detector(exported, threads=2)
    pictures = [picture(120, 160), picture(300, 200, 1), picture(77, 500, 2)]
    together = detector(pictures, LOOSE)
    assert all(len(found) for found in together)
    for alone, found in zip((detector(p, LOOSE) for p in pictures), together, strict=True):
        np.testing.assert_array_equal(alone.boxes_xyxy, found.boxes_xyxy)
        np.testing.assert_array_equal(alone.scores, found.scores)
        np.testing.assert_array_equal(alone.class_ids, found.class_ids)


def test_boxes_are_in_pixels_of_the_image_and_inside_it(exported: Path) -> None:
    small = picture(96, 120)
    large = np.ascontiguousarray(small.repeat(3, 0).repeat(3, 1))
    detector = Detector(exported)
    for image in (small, large):
        found = detector(image, LOOSE)
        assert found.image_size_hw == image.shape[:2]
        assert found.names == detector.class_names == ("bolt", "nut", "washer")
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= [image.shape[1], image.shape[0]] * 2).all()
        assert found.boxes_xyxy.max() > max(image.shape) / 2


def test_threads_share_a_detector(exported: Path) -> None:
    detector = Detector(exported)
    pictures = [picture(100 + 10 * i, 150, i) for i in range(6)]
    alone = [detector(p, LOOSE) for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda p: detector(p, LOOSE), pictures * 3), alone * 3, strict=True):
            np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)


def test_thresholds_are_settings_of_the_run(exported: Path) -> None:
    detector = Detector(exported)
    image = picture(128, 160)
    everything = detector(image, PostprocessSettings(score=0.05, max_detections=5000))
    few = detector(image, PostprocessSettings(score=float(everything.scores[3])))
    np.testing.assert_array_equal(few.scores, everything.scores[:4])
    only = detector(image, PostprocessSettings(score=0.05, max_detections=5000, classes=("nut",)))
    np.testing.assert_array_equal(only.boxes_xyxy, everything.boxes_xyxy[everything.class_ids == 1])
    with pytest.raises(UnknownNameError, match=r"unknown class 'nutt'. Did you mean nut"):
        detector(image, PostprocessSettings(classes=("nutt",)))


def test_pytorch_and_onnx_runtime_find_the_same(exported: Path) -> None:
    image = picture(128, 160)
    found = Detector(exported)(image, LOOSE)
    in_torch = Detector(exported.with_suffix(".safetensors"))
    assert in_torch.runtime_name == "torch"
    np.testing.assert_allclose(in_torch(image, LOOSE).boxes_xyxy, found.boxes_xyxy, atol=2e-2)
    np.testing.assert_allclose(in_torch(image, LOOSE).scores, found.scores, atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_suppression_inside_the_graph_is_ours(tmp_path: Path, half: bool) -> None:
    model = some_model()
    report = export(model, tmp_path / "nms.onnx", ExportOptions(precision="fp16" if half else "fp32", nms=True))
    assert report.agreement.score < (5e-3 if half else 1e-5)
    session = ort.InferenceSession(tmp_path / "nms.onnx")
    images = np.random.default_rng(0).normal(size=(2, 3, 128, 160)).astype(np.float32)
    inputs = {"images": images, "max_detections_per_class": np.array(50), "iou_threshold": np.array(0.5, np.float32)}
    loose = session.run(["scores", "image_ids"], inputs | {"score_threshold": np.array(0.0, np.float32)})
    assert set(loose[1].tolist()) == {0, 1}
    class_ids, found = session.run(["class_ids", "boxes_xyxy"], inputs | {"score_threshold": np.array(0.0, np.float32)})
    for image_id in (0, 1):
        for class_id in range(3):
            boxes = found[(class_ids == class_id) & (loose[1] == image_id)]
            overlaps = pairwise_iou(boxes, boxes) - np.eye(len(boxes))
            assert 1 < len(boxes) <= 50
            assert overlaps.max() <= 0.5 + 1e-6
    middle = np.array(np.median(loose[0]), np.float32)
    strict = session.run(["scores"], inputs | {"score_threshold": middle})[0]
    assert 0 < len(strict) < len(loose[0])
    assert (strict > middle).all()
    with pytest.raises(CheckpointError, match=r"export it without --nms"):
        Detector(tmp_path / "nms.onnx")


def test_what_is_no_model_or_no_setting_is_told(exported: Path) -> None:
    with pytest.raises(ConfigError, match="expected a model's name, file or folder, or a network, got a NoneType"):
        Detector(None)  # type: ignore[arg-type]
    with Detector(exported) as detector:
        for wrong in (picture(90, 120), 0.5, 0):
            with pytest.raises(InputError, match="expected PostprocessSettings"):
                detector(picture(90, 120), wrong)  # type: ignore[call-overload]
        found = detector(picture(90, 120), PostprocessSettings(score=np.float32(0.001)))  # type: ignore[arg-type]
        json.dumps(found.to_coco(np.int64(3)))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="expected a list of classes, got 0"):
            found.filter(classes=0)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"a Pillow image or an array .*got a bytes"):
            found.draw(b"")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="sigma must be > 0, got 'a'"):
            PostprocessSettings(sigma="a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this detector is closed"):
        detector(picture(90, 120))


def test_a_file_called_like_a_known_model_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person").write_text("a note")
    assert find_model("person").suffix == ".onnx"


def test_a_network_that_is_loaded_already() -> None:
    model = some_model()
    assert Detector(TorchNetwork(model)).class_names == model.config.class_names


def test_images_that_are_none(exported: Path) -> None:
    detector = Detector(exported)
    assert detector([]) == []
    with pytest.raises(InputError, match=r"expected an image as \(height, width, 3\) uint8 RGB, got shape \(3, 8, 8\)"):
        detector(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"float64"):
        detector(np.zeros((8, 8, 3)))  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"expected a path, an address, a Pillow image or an array"):
        detector(3)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"there is no image at nowhere.jpg"):
        detector("nowhere.jpg")
    with pytest.raises(InputError, match=r"expected PostprocessSettings, got a str: several images go in a list"):
        detector(np.zeros((8, 8, 3), np.uint8), "b.jpg")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"classes must be a list of names, got the text 'person'"):
        PostprocessSettings(classes="person")  # type: ignore[arg-type]
    detector.close()
    with pytest.raises(InputError, match=r"this detector is closed"):
        detector(np.zeros((8, 8, 3), np.uint8))


def test_a_detector_of_a_file_goes_to_another_process(tmp_path: Path) -> None:
    model = some_model()
    (tmp_path / "m.onnx").write_bytes(build_onnx(model).SerializeToString())
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    detector = Detector(tmp_path / "m.onnx", threads=1, exact=True)
    again = pickle.loads(pickle.dumps(detector))
    assert (again(image), again.exact) == (detector(image), True)
    with pytest.raises(ConfigError, match="a detector of a loaded network cannot go to another process"):
        pickle.dumps(Detector(TorchNetwork(model)))


def test_a_model_of_pytorch_is_a_detector_too() -> None:
    model = some_model()
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    detector = Detector(model)  # type: ignore[arg-type]
    assert detector.runtime_name == "torch"
    assert detector(image) == Detector(TorchNetwork(model))(image)


def test_models_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'phidet export efficientdet-d0' downloads and converts it once"):
        Detector("efficientdet-d0")
    for name in ("setdet-lite0", "detr-efficientnet-lite0"):
        with pytest.raises(CheckpointError, match=rf"{name} has no published weights: train it"):
            Detector(name)
    with pytest.raises(CheckpointError, match=r"there is no model 'persons'"):
        Detector("persons")
    with pytest.raises(CheckpointError, match=r"holds no model"):
        Detector(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person" / "1").mkdir(parents=True)  # as 'phidet publish person person' makes it
    assert find_model("person").is_relative_to(Path(phidet.__file__).parent)
    with pytest.raises(ConfigError, match=r"threads must be a whole number from 1"):
        Detector("person", threads=0)
    with pytest.raises(ConfigError, match=r"at_once must be a whole number ≥ 1, got 0"):
        Detector("person", at_once=0)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"broken.onnx cannot be loaded"):
        Detector(tmp_path / "broken.onnx")
    foreign = onnx.helper.make_model(build_onnx(some_model()).graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    foreign.ir_version = 8
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=r"foreign.onnx is not a phidet detector"):
        Detector(tmp_path / "foreign.onnx")


def test_options_that_cannot_be(tmp_path: Path) -> None:
    model = some_model()
    with pytest.raises(UnknownNameError, match=r"unknown kind of export 'onx'. Did you mean onnx"):
        export(model, tmp_path / "m.onnx", ExportOptions(to="onx"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"an onnx file is written as .onnx, got 'm.xml'"):
        export(model, tmp_path / "m.xml")
    with pytest.raises(ConfigError, match=r"int8 needs images"):
        export(model, tmp_path / "m.onnx", ExportOptions(precision="int8"))


@pytest.mark.parametrize(("name", "said"), [("tiny", True), ("lite", False)])
def test_int8_of_silu_networks_names_the_runtime_to_take(name: str, said: bool, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(build_onnx(some_model(CONFIGS[name])).SerializeToString())
    assert ("--to openvino --int8" in runtime_advice(tmp_path / "m.onnx")) == said


@pytest.mark.slow
def test_int8_on_the_users_images(shared: Path, tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_model(some_model(), weights)
    data = str(shared / "data" / "bccd")
    assert main(["export", str(weights), "--int8", "--calibrate", data, "-o", str(tmp_path / "int8.onnx")]) == 0
    assert read_header(tmp_path / "int8.onnx").precision == "int8"
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("QuantizeLinear") > 50


def test_an_export_without_a_name_goes_beside_its_model(exported: Path) -> None:
    source = exported.with_suffix(".safetensors")
    assert target_of(source, "-int8.onnx") == source.with_name("tiny-int8.onnx")
    assert target_of("efficientdet-d0", "-int8.onnx").name == "efficientdet-d0-int8.onnx"


def test_a_target_that_cannot_be_written_is_named(exported: Path) -> None:
    source = exported.with_suffix(".safetensors")
    assert main(["export", str(source), "-o", "/proc/nowhere/x.onnx"]) == 7
