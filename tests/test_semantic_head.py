"""The class of every pixel: the head of transposed convolutions, its loss, its segments, and its exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conftest import randomise
from peers import tiny_detector
from phidet.architectures.batch import Batch
from phidet.architectures.costs import count_costs
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_config import STRIDE, MaskConfig, SemanticConfig
from phidet.architectures.efficientdet.network import EfficientDet, PanopticOutputs
from phidet.architectures.efficientdet.semantic_decode import class_map, class_segments, panoptic_segments
from phidet.architectures.efficientdet.semantic_head import SemanticHead
from phidet.architectures.efficientdet.semantic_losses import NOT_KNOWN, semantic_loss, semantic_targets
from phidet.architectures.layers import TransposedConv
from phidet.architectures.prepared import Placement
from phidet.architectures.processes import Processes
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.structs import replace
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.segments import label_map, things_of
from phidet.detections.settings import PostprocessSettings
from phidet.export.export import ExportOptions, export
from phidet.export.onnx_file import build_onnx
from phidet.inference.detector import Detector
from phidet.inference.runtimes.torch_runtime import TorchNetwork
from phidet.weights.load import load_into, open_source
from phidet.weights.native import load_model, save_model

pytestmark = pytest.mark.usefixtures("unrendered")
ALONE = Processes(1, lambda value: value)
NAMES = ("bolt", "nut", "sky")


def config(masks: bool = False, stuff: tuple[str, ...] = ("sky",)) -> ModelConfig:
    heads = {"semantic": SemanticConfig(stuff=stuff), "masks": MaskConfig(prototypes=4, channels=8) if masks else None}
    return replace(tiny_detector(NAMES), heads)


def network(masks: bool = False, seed: int = 0) -> EfficientDet:
    torch.manual_seed(seed)
    model = EFFICIENTDET.build(config(masks)).eval()
    randomise(model, seed)
    return model


def images(count: int = 2, size_hw: tuple[int, int] = (128, 160)) -> Tensor:
    coarse = torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3, 16, 20)).astype(np.float32))
    return F.interpolate(coarse, size_hw, mode="bicubic")


# ---- the network


@pytest.mark.parametrize("size_hw", [(6, 8), (5, 7), (6, 7)])
def test_a_transposed_convolution_is_tensorflows_with_same_padding(size_hw: tuple[int, int]) -> None:
    """By its definition: the gradient of a convolution of stride 2 with "SAME" padding, towards that one's input."""
    torch.manual_seed(0)
    layer = TransposedConv(3, 2, bias=True).double()
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    image = torch.zeros(1, 2, *size_hw, dtype=torch.float64, requires_grad=True)
    # TensorFlow pads an even side behind by one, an odd one on both sides; here always behind, as its sizes are even.
    padded = F.pad(image, (0, 9 - size_hw[1], 0, 7 - size_hw[0]))
    forward = F.conv2d(padded, layer.weight.detach().transpose(0, 1).contiguous(), stride=2)
    (gradient,) = torch.autograd.grad(forward, image, x)
    assert layer.bias is not None
    expected = gradient + layer.bias.detach()[:, None, None]
    torch.testing.assert_close(layer(x, size_hw).detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_head_is_that_of_the_official_demo() -> None:
    """Numbers of weights by hand, for 64 channels, five levels and 3 classes."""
    head = SemanticHead(64, 5, 3, "relu6")
    shapes = [tuple(parameter.shape) for parameter in head.parameters() if parameter.ndim == 4]
    assert shapes == [(64, 64, 3, 3), *[(64, 128, 3, 3)] * 3, (3, 128, 3, 3)]
    count = 64 * 64 * 9 + 3 * 128 * 64 * 9 + 4 * 2 * 64 + 128 * 3 * 9 + 3
    assert sum(parameter.numel() for parameter in head.parameters()) == count
    maps = [torch.randn(1, 64, -(-64 // 2**i), -(-80 // 2**i)) for i in range(5)]
    assert head(maps, (128, 160)).shape == (1, 3, 128, 160)
    costs = count_costs(config(), (128, 160))["semantic"]
    cells = [1 * 2, 2 * 3, 4 * 5, 8 * 10, 16 * 20]
    assert costs.multiply_adds == 9 * (cells[0] * 12 * 12 + sum(cells[1:4]) * 24 * 12 + cells[4] * 24 * 4)


@pytest.mark.parametrize("size_hw", [(128, 160), (132, 148)])
def test_folded_and_exported_logits_are_the_networks(size_hw: tuple[int, int]) -> None:
    model = network(masks=True)
    x = images(size_hw=size_hw)
    model.config = replace(model.config, {"image_size_hw": size_hw})
    with torch.no_grad():
        ours, folded = model(x), model.optimize()(x)
    assert isinstance(ours, PanopticOutputs)
    assert ours.semantic_logits.shape == (2, 4, size_hw[0] // STRIDE, size_hw[1] // STRIDE)
    spread = float(ours.semantic_logits.std())
    torch.testing.assert_close(folded.semantic_logits, ours.semantic_logits, rtol=0, atol=1e-5 * spread)
    for half, bound in ((False, 1e-4), (True, 0.02)):
        graph = build_onnx(model, half)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        names = [output.name for output in session.get_outputs()]
        assert set(EFFICIENTDET.output_shapes(model.config)) <= set(names)
        exported = dict(zip(names, session.run(None, {"images": x.numpy()}), strict=True))["semantic_logits"]
        assert np.abs(exported - ours.semantic_logits.numpy()).max() < bound * max(spread, 1)


@pytest.mark.parametrize("masks", [False, True])
def test_it_is_saved_and_may_be_added_to_a_detector(masks: bool, tmp_path: Path) -> None:
    model = network(masks)
    save_model(model, tmp_path / "all.safetensors")
    again = load_model(tmp_path / "all.safetensors")
    assert again.config == model.config
    assert torch.equal(again(images())[-1], model(images())[-1])
    plain = EFFICIENTDET.build(tiny_detector(NAMES))
    save_model(plain, tmp_path / "boxes.safetensors")
    report = load_into(model, open_source(tmp_path / "boxes.safetensors"))
    assert {name.partition(".")[0] for name in report.added} == {"semantic", *(("mask_head", "prototypes") * masks)}
    torch.testing.assert_close(model(images())[0], plain.eval()(images())[0])
    # Half of a part is a damaged file.
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("predict.bias")}
    model.load_state_dict(tensors, strict=False)
    with pytest.raises(ConfigError, match="multiples of 4"):
        replace(config(), {"image_size_hw": (130, 130)})


# ---- the loss


def rows(text: str) -> list[list[int]]:
    return [[255 if cell == "?" else int(cell) for cell in row] for row in text.split("/")]


def batch(masks: list[list[str]], class_ids: list[list[int]], boxes: Tensor | None = None) -> Batch:
    """Masks as rows of digits, "?" for an object that has a box only."""
    cells = [[rows(mask) for mask in of_image] for of_image in masks]
    values = torch.tensor(cells, dtype=torch.uint8)
    height, width = values.shape[2] * STRIDE, values.shape[3] * STRIDE
    return Batch(
        torch.zeros(len(values), 3, height, width, dtype=torch.uint8),
        torch.tensor([[height, width]] * len(values)),
        torch.zeros(*values.shape[:2], 4) if boxes is None else boxes,
        torch.tensor(class_ids),
        masks=values,
    )


def test_targets_by_hand() -> None:
    # A large object of class 0, a smaller one of class 1 in it; in the second image one row that is only padded.
    one = batch([["111000/111000", "011000/000000"], ["000000/000001", "000000/111111"]], [[0, 1], [1, -1]])
    assert semantic_targets(one, 2, has_background=True).tolist() == [
        [[0, 1, 1, 2, 2, 2], [0, 0, 0, 2, 2, 2]],
        [[2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 1]],
    ]
    # Labels of every pixel leave nothing to the background.
    unknown = semantic_targets(one, 2, has_background=False)
    assert unknown[0, 0].tolist() == [0, 1, 1, *[NOT_KNOWN] * 3]


def test_what_is_not_labelled_is_not_learned() -> None:
    boxes = torch.tensor([[[0, 0, 12, 4], [8, 0, 24, 8]]]).float()
    one = batch([["??????/??????", "000110/000000"]], [[0, 1]], boxes)
    one = one._replace(valid_hw=torch.tensor([[8, 20]]))
    # The box of the first object is unknown, but for where the second one covers it; padding is unknown.
    wanted = semantic_targets(one, 2, has_background=True)
    assert wanted[0].tolist() == [[*[NOT_KNOWN] * 3, 1, 1, NOT_KNOWN], [*[2] * 5, NOT_KNOWN]]
    nothing = one._replace(
        boxes_xyxy=torch.zeros(1, 0, 4),
        class_ids=torch.zeros(1, 0, dtype=torch.int64),
        masks=torch.zeros(1, 0, 2, 6, dtype=torch.uint8),
    )
    assert (semantic_targets(nothing, 2, has_background=True)[0, :, :5] == 2).all()


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[1.0, -1.0]]]], dtype=torch.float64, requires_grad=True)
    summed, count = semantic_loss(logits, torch.tensor([[[1, NOT_KNOWN]]]))
    assert count == 1
    assert float(summed.detach()) == pytest.approx(np.log(1 + np.exp(-1)), rel=1e-12)
    none, count = semantic_loss(logits, torch.full((1, 1, 2), NOT_KNOWN))
    assert (float(none.detach()), float(count)) == (0, 0)
    none.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_stuff_has_pixels_but_no_boxes() -> None:
    model = EFFICIENTDET.build(config(masks=True))
    loss = EFFICIENTDET.loss(model.config, EFFICIENTDET.loss_settings)
    masks = torch.zeros(1, 2, 32, 40, dtype=torch.uint8)
    masks[0, 0, 2:12, 2:12], masks[0, 1, 16:] = 1, 1
    boxes = torch.tensor([[[8.0, 8, 48, 48], [0, 64, 160, 128]]])
    pixels, size = torch.zeros(1, 3, 128, 160, dtype=torch.uint8), torch.tensor([[128, 160]])
    outputs = model(images(1))
    both = loss(outputs, Batch(pixels, size, boxes, torch.tensor([[0, 2]]), masks=masks), ALONE)
    thing = loss(outputs, Batch(pixels, size, boxes[:, :1], torch.tensor([[0]]), masks=masks[:, :1]), ALONE)
    for name in ("class_loss", "box_loss", "mask_loss"):
        torch.testing.assert_close(both[name], thing[name])
    assert not torch.equal(both["semantic_loss"], thing["semantic_loss"])
    both["loss"].backward()  # type: ignore[no-untyped-call]
    gradients = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert gradients >= {"backbone", "feature_network", "class_head", "box_head", "mask_head", "prototypes", "semantic"}
    total = both["class_loss"] + 50 * both["box_loss"] + both["mask_loss"] + both["semantic_loss"]
    torch.testing.assert_close(both["loss"], total)


# ---- decoding


@pytest.mark.parametrize("image_hw", [(128, 96), (301, 257), (40, 64), (1, 7)])
def test_classes_of_pixels_are_those_of_interpolated_logits(image_hw: tuple[int, int]) -> None:
    logits = np.random.default_rng(1).normal(size=(5, 32, 32)).astype(np.float32)
    scale = min(128 / image_hw[0], 128 / image_hw[1])
    rows, columns = ((torch.arange(n) + 0.5) * (scale / STRIDE) * 2 / 32 - 1 for n in image_hw)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None].float()
    whole = F.grid_sample(torch.from_numpy(logits)[None], grid, padding_mode="border", align_corners=False)[0]
    best = whole.topk(2, 0).values
    sure = (best[0] - best[1] > 1e-4).numpy()
    found = class_map(logits, scale, image_hw)
    assert sure.mean() > 0.99
    assert (found == whole.argmax(0).numpy())[sure].all()


def test_each_class_is_a_segment_with_its_mean_probability() -> None:
    logits = np.full((3, 2, 2), -20, np.float32)
    logits[0, 0], logits[2, 1] = 0, 0
    logits[1, 0, 0] = -np.log(3)  # probability ¾ of class 0 in one cell, 1 in the other
    whole = class_segments(logits, np.array([[0, 0], [2, 2]], np.int32), ("a", "b"))
    assert whole.labels == ["a"]
    assert whole.scores[0] == pytest.approx((0.75 + 1) / 2)
    assert not things_of(whole).any()
    assert (label_map(Detections.empty(("a", "b"), (2, 2))) == -1).all()


def test_things_lie_on_stuff_and_the_better_one_is_on_top() -> None:
    size = (100, 100)
    full = np.zeros((3, *size), bool)
    full[0, :40, :40] = True
    full[1, :40, 20:60] = True  # half of it is free
    full[1, 40:44, 20:60] = True  # and a bit more
    full[2, 5:35, 5:45] = True  # mostly covered
    boxes = np.zeros((3, 4), np.float32)
    things = Detections(
        boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1]), NAMES, size, {"masks": Masks.from_full(full)}
    )
    classes = np.full(size, 2, np.int32)  # sky
    classes[90:] = 1  # a thing that no object is found of
    whole = panoptic_segments(things, np.zeros((4, 4, 4), np.float32), classes, [2])
    assert sorted(whole.labels) == ["bolt", "nut", "sky"]
    labels = label_map(whole)
    assert (labels[:40, :40] == 0).all()
    assert (labels[:44, 40:60] == 1).all()
    assert (labels[90:] == -1).all()  # things are found as objects or not at all
    assert labels[60, 50] == 2
    by_label = dict(zip(whole.labels, things_of(whole).tolist(), strict=True))
    assert by_label == {"bolt": True, "nut": True, "sky": False}


def test_specks_of_stuff_are_dropped() -> None:
    classes = np.zeros((100, 100), np.int32)
    classes[:2, :5], classes[50:] = 1, 2
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64), NAMES, (100, 100),
                         {"masks": Masks.empty((100, 100))})  # fmt: skip
    whole = panoptic_segments(nothing, np.zeros((4, 4, 4), np.float32), classes, [1, 2])
    assert whole.labels == ["sky"]


def test_segments_do_not_depend_on_which_objects_are_asked_for() -> None:
    detector = Detector(TorchNetwork(network(masks=True)))
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    one = detector(image, PostprocessSettings(score=0.0, segment_score=0.45))
    other = detector(image, PostprocessSettings(score=0.99, classes=("nut",), segment_score=0.45))
    assert one.segments is not None
    assert len(one) > len(other)
    assert one.segments == other.segments
    assert one.segments.masks is not None
    assert (one.segments.masks.to_full().sum(0) <= 1).all()
    without = detector(image, PostprocessSettings(masks=False))
    assert without.segments is without.masks is None


def test_logits_that_are_no_numbers_are_refused() -> None:
    outputs = {name: np.zeros(shape, np.float32) for name, shape in EFFICIENTDET.output_shapes(config()).items()}
    decoder = EFFICIENTDET.decoder(config())
    decoder(outputs, Placement(1.0, (128, 160)), PostprocessSettings())
    outputs["semantic_logits"][0, 0, 0] = np.inf
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        decoder(outputs, Placement(1.0, (128, 160)), PostprocessSettings())


# ---- exports, and the whole way


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [ExportOptions(to, precision) for to in ("openvino",) for precision in ("fp32", "fp16")],
    ids=["openvino", "openvino-fp16"],
)
def test_every_runtime_gives_pixels_the_same_classes(options: ExportOptions, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if options.to == "openvino" else "litert_torch")
    model = network(masks=True)
    path = tmp_path / {"openvino": "m.xml", "tflite": "m.tflite"}[options.to]
    export(model, path, options)
    pictures = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8) for i in range(2)]
    ours = Detector(TorchNetwork(model)).detect(pictures)
    with Detector(path) as detector:
        theirs = detector.detect(pictures)
    for one, other in zip(ours, theirs, strict=True):
        assert (label_map(one) == label_map(other)).mean() > 0.99


def discs(folder: Path, count: int) -> None:
    """White discs on a dark ground, labelled by a mask each."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks/disc"):
        (folder / part).mkdir(parents=True)
    rows, columns = np.mgrid[:96, :128]
    for i in range(count):
        radius, y, x = rng.integers(14, 24), rng.integers(30, 66), rng.integers(30, 98)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = rng.integers(0, 60, (96, 128, 3)) + 180 * disc[..., None]
        Image.fromarray(image.astype(np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / f"masks/disc/{i}.png")


@pytest.mark.slow
def test_pixels_are_learned_and_measured_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    discs(tmp_path / "data", 8)
    start = EFFICIENTDET.build(
        replace(tiny_detector(("disc",)), {"semantic": SemanticConfig(), "image_size_hw": (128, 128)})
    )
    save_model(start, tmp_path / "start.safetensors")
    words = ["train", str(tmp_path / "data"), "-m", str(tmp_path / "start.safetensors"), "-o", str(tmp_path / "run")]
    words += ["--epochs", "120", "--workers", "0", "--val-split", "none"]
    words += ["--set", "ema_decay=0.5", "--set", "learning_rate=0.02", "--set", "augmentation.mosaic=0"]
    words += ["--set", "augmentation.scale_jitter=[0.9,1.1]"]
    assert main(words) == 0
    capsys.readouterr()
    model = str(tmp_path / "run/last.safetensors")
    assert main(["eval", str(tmp_path / "data"), "-m", model, "--split", "all", "--json"]) == 0
    masks = json.loads(capsys.readouterr().out)["masks"]
    assert masks["coco"] is None
    assert masks["score"] is None
    assert masks["semantic"]["miou"] > 0.9
    out = tmp_path / "found"
    assert (
        main(["detect", str(tmp_path / "data/images/0.png"), "-m", model, "--save", "semantic", "--out", str(out)]) == 0
    )
    with Image.open(out / "semantic/0.png") as found, Image.open(tmp_path / "data/masks/disc/0.png") as label:
        one, other = np.asarray(found) == 1, np.asarray(label) > 0
    assert (one & other).sum() / (one | other).sum() > 0.8
