"""A set predictor trains, resumes, is measured, exported and deployed as every detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from conftest import randomise
from doctor_data import coco
from export_models import picture
from interrupted import interrupted_after, same_weights
from phidet import Detector, create_model, save_model
from phidet.architectures.header import Header
from phidet.architectures.registry import architecture_of
from phidet.architectures.setdet.architecture import SETDET
from phidet.architectures.setdet.attention import sampling_points, sine_positions
from phidet.architectures.setdet.explain import attention_weights
from phidet.architectures.setdet.network import SetDet
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.detections.settings import PostprocessSettings
from phidet.export.check import compare
from phidet.export.int8 import quantise
from phidet.export.onnx_file import build_onnx, with_header
from phidet.export.onnx_graph import OWN
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork
from phidet.inference.runtimes.torch_runtime import TorchNetwork
from phidet.training.recipe import choose_recipe, recipe_named
from test_plugin import NAMES, scenes
from test_setdet import TINY, lively

pytestmark = pytest.mark.usefixtures("unrendered")
QUICK = ["--batch-size", "8", "--workers", "0", "--accelerator", "cpu", "--pretrained", "none"]
PLAIN = ["--set", "learning_rate=0.01", "--set", "augmentation.mosaic=0", "--set", "augmentation.colour=0"]


def some_model(**changes: object) -> SetDet:
    model = SetDet(replace(TINY, changes)).eval()
    randomise(model)
    lively(model.decoder)
    return model


@pytest.mark.parametrize("size_hw", [(96, 128), (100, 150)])
@pytest.mark.parametrize("half", [False, True])
def test_an_export_gives_pytorchs_answers(half: bool, size_hw: tuple[int, int], tmp_path: Path) -> None:
    model = some_model(image_size_hw=size_hw)
    path = tmp_path / "model.onnx"
    path.write_bytes(build_onnx(model, half).SerializeToString())
    network = OnnxNetwork(path, 1)
    images = np.stack([SETDET.prepare(model.config, picture(90, 120, seed)).image for seed in range(3)])
    ours, theirs = TorchNetwork(model, folded=False)(images), network(images)  # three at once: the batch is free
    assert {name: of.shape[1:] for name, of in theirs.items()} == SETDET.output_shapes(model.config)
    score, iou = np.mean(
        [
            SETDET.agreement(model.config, *({name: of[i] for name, of in one.items()} for one in (ours, theirs)))
            for i in range(3)
        ],
        axis=0,
    )
    bounds = (0.02, 0.97) if half else (1e-5, 0.99999)
    assert score < bounds[0]
    assert iou > bounds[1]
    if half:
        weights = {t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) > 1 and t.dims[0] > 4}
        assert onnx.TensorProto.FLOAT16 in weights


def test_the_folded_network_is_the_network() -> None:
    model = some_model().double()
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    with torch.no_grad():
        plain = model(images)
        folded = model.float().optimize()(images.float())
    torch.testing.assert_close(folded.class_logits.double(), plain.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded.boxes_cxcywh.double(), plain.boxes_cxcywh, atol=1e-4, rtol=1e-4)


def test_in_int8_attention_and_coordinates_stay_in_floats(tmp_path: Path) -> None:
    model = some_model()
    pictures = [picture(96, 128, seed) for seed in range(4)]
    for for_openvino in (False, True):
        graph = quantise(build_onnx(model, channels_last=True), model.config, pictures, for_openvino)
        makers = {output: node for node in graph.graph.node for output in node.output}
        kinds = {node.op_type for node in graph.graph.node if node.name.startswith(OWN)}
        assert {"GridSample", "LayerNormalization", "MatMul", "Softmax", "TopK"} <= kinds
        # No value inside was rounded: between two of its nodes there is no pair of quantiser and dequantiser.
        inside = [
            makers[name].op_type
            for node in graph.graph.node
            if node.name.startswith(OWN)
            for name in node.input
            if name in makers and makers[name].input and makers[name].op_type == "DequantizeLinear"
            for before in [makers.get(makers[name].input[0])]
            if before is not None and makers.get(before.input[0], before).name.startswith(OWN)
        ]
        assert inside == []
        assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    path = tmp_path / "int8.onnx"
    path.write_bytes(with_header(graph, Header(model.config, "int8")).SerializeToString())
    assert np.isfinite(compare(model, OnnxNetwork(path, 1), pictures[:1]).score)


def test_a_different_set_of_the_same_answers_is_the_same_answer() -> None:
    generator = np.random.default_rng(0)
    logits, boxes = generator.normal(size=(12, 3)), generator.uniform(0.2, 0.8, (12, 4))
    ours = {"class_logits": logits.astype(np.float32), "boxes_cxcywh": boxes.astype(np.float32)}
    order = generator.permutation(12)
    assert SETDET.agreement(TINY, ours, {name: of[order] for name, of in ours.items()}) == (0.0, 1.0)
    moved = {**ours, "boxes_cxcywh": ours["boxes_cxcywh"] * np.float32(0.8)}
    assert SETDET.agreement(TINY, ours, moved)[1] < 0.9


def test_it_trains_resumes_and_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = coco(tmp_path / "data", {"train": scenes(16, 0), "val": scenes(4, 1)}, NAMES)
    torch.manual_seed(0)
    start = create_model(replace(TINY, {"class_names": tuple(NAMES), "image_size_hw": (96, 96)}))
    save_model(start, tmp_path / "start.safetensors")
    whole = ["train", str(data), "--model", "start.safetensors", *QUICK, "--epochs", "3", *PLAIN]
    assert main([*whole, "--out", "whole"]) == 0

    # Interrupted after an epoch and resumed, it ends where the other one did: noise is chance, but the epoch's own.
    with interrupted_after(1):
        assert main([*whole, "--out", "cut"]) == 130
    assert main(["train", "--resume", "cut", "--workers", "0", "--accelerator", "cpu"]) == 0
    assert same_weights(Path("whole/last.safetensors"), Path("cut/last.safetensors"))

    capsys.readouterr()
    assert main(["info", "whole/best.safetensors"]) == 0
    assert "12 queries" in capsys.readouterr().out
    assert main(["eval", "whole", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coco"]["ap"] is not None
    assert main(["export", "whole"]) == 0
    image, settings = scenes(1, 1)[0][0], PostprocessSettings(score=0.0)
    answers = [Detector(path, threads=1)(image, settings) for path in ("whole/best.safetensors", "whole/best.onnx")]
    np.testing.assert_allclose(answers[0].boxes_xyxy, answers[1].boxes_xyxy, atol=1e-2)
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=1e-4)


def test_what_is_explained_is_what_was_read() -> None:
    model = some_model()
    image = picture(72, 96)  # the input is 96×128: scaled by 4/3, nothing padded
    maps = SETDET.explain(model, image, None, 3)
    assert [one.score for one in maps] == sorted((one.score for one in maps), reverse=True)
    assert all(one.heat.shape == (72, 96) and one.heat.max() == 1 for one in maps)
    # The brightest place is where the points lie closest: where the weighted mean of their spots says.
    layer = model.decoder.layers[-1]
    seen: list[tuple[torch.Tensor, ...]] = []
    handle = layer.sampling.register_forward_hook(lambda _, inputs, __: seen.append(inputs))  # type: ignore[operator,union-attr]
    with torch.no_grad():
        outputs = model(torch.from_numpy(SETDET.prepare(model.config, image).image)[None])
        points, weights = sampling_points(layer.sampling, *seen[0][:2])  # type: ignore[arg-type]
    handle.remove()
    query = int(outputs.class_logits[0].amax(1).argmax())
    x, y = (points[0, query].reshape(-1, 2) * torch.tensor([96.0, 72.0])).unbind(1)
    deviation = 128 / 40 * 3 / 4
    rows, columns = np.mgrid[:72, :96] + 0.5
    expected = sum(
        float(w) * np.exp(-((columns - float(px)) ** 2 + (rows - float(py)) ** 2) / (2 * deviation**2))
        for px, py, w in zip(x, y, weights[0, query].flatten(), strict=True)
    )
    assert np.corrcoef(maps[0].heat.ravel(), np.ravel(expected))[0, 1] > 0.99
    assert SETDET.explain(model, image, 2, 1)[0].label == "c"


def test_the_encoders_attention_from_a_point() -> None:
    model = some_model()
    image = picture(72, 96)
    found = SETDET.explain_point(model, image, (95, 71))  # the last cell of the coarsest map
    attention = model.encoder.layers[-1].attention
    cells = torch.randn(1, 12, 32)
    positions = sine_positions((3, 4), 32, cells)
    weights = attention_weights(attention, cells, positions)  # type: ignore[arg-type]
    read = weights @ attention.split(attention.value(cells), 4)  # type: ignore[operator,union-attr]
    out = attention.out(read.transpose(1, 2).flatten(2))  # type: ignore[operator,union-attr]
    torch.testing.assert_close(out, attention(cells, positions))  # type: ignore[operator]
    assert found.heat.shape == (72, 96)
    assert 1 / 12 <= found.score <= 1
    with pytest.raises(ConfigError, match="outside the image of 96×72 pixels"):
        SETDET.explain_point(model, image, (96, 10))
    with pytest.raises(ConfigError, match="no encoder layer"):
        SETDET.explain_point(some_model(encoder_layers=0), image, (10, 10))


def test_its_own_recipe_is_the_automatic_one() -> None:
    assert (recipe_named("auto", 292, SETDET).batch_size, recipe_named("auto", 292, SETDET).learning_rate) == (
        16,
        0.004,
    )
    assert recipe_named("auto", 292, SETDET).epochs == choose_recipe(292).epochs
    assert [recipe_named("auto", count, SETDET).batch_size for count in (20, 100, 160, 5000)] == [8, 10, 16, 16]
    assert recipe_named("small", 292, SETDET) == recipe_named("small", 292)


def test_a_published_name_is_a_detector() -> None:
    model = create_model("setdet-lite0", num_classes=2)
    assert architecture_of(model.config) is SETDET
    scaled = create_model(phi=0.5, family="setdet-resnet18")
    assert scaled.config.name == "setdet-resnet18-phi0.5"
    with pytest.raises(ConfigError, match=r"no published backbone has the size of setdet-resnet18-phi0\.5's"):
        create_model(scaled.config, pretrained="backbone")
    with pytest.raises(UnknownNameError, match=r"unknown family 'setdet-lit'\. Did you mean setdet-lite"):
        create_model(phi=1, family="setdet-lit")


def test_weights_go_to_another_size_and_another_number_of_queries(tmp_path: Path) -> None:
    model = some_model()
    save_model(model, tmp_path / "m.safetensors")
    larger = replace(TINY, {"decoder": replace(TINY.decoder, {"queries": 20}), "image_size_hw": (128, 128)})
    again = create_model(larger, pretrained=tmp_path / "m.safetensors").eval()
    assert SETDET.weights_key(again.config) == SETDET.weights_key(TINY)
    with torch.no_grad():
        assert again(torch.randn(1, 3, 96, 128)).class_logits.shape == (1, 20, 3)
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
