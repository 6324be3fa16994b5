"""DETR on the command line: detect, explain, evaluate, export; and what its attention maps say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import slowly
from phidet import create_model, load_model, save_model
from phidet.architectures.base import Architecture
from phidet.architectures.costs import count_costs
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.config import DetrConfig, MaskConfig, TransformerConfig
from phidet.architectures.detr.published import DETRS, detr_config
from phidet.architectures.detr.transformer import Attention
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.prepared import by_shape
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.settings import PostprocessSettings
from phidet.export.export import ExportOptions, export
from phidet.inference.detector import Detector
from phidet.inference.runtimes.torch_runtime import TorchNetwork
from test_detr_dialects import R18, randomised, small
from test_train_run import CLASSES, write_squares

EVERY = PostprocessSettings(score=0)
SIZES_HW = ((100, 150), (150, 100), (64, 64), (100, 150))


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    backbone = msgspec.structs.replace(R18, width=0.25)
    config = msgspec.structs.replace(small(), backbone=backbone, class_names=CLASSES, image_size_hw=(64, 96))
    model = create_model(msgspec.structs.replace(config, **changes)).eval()
    # Fresh answers are all alike: spread out, they show where one is taken for another.
    torch.nn.init.normal_(model.class_head.weight)  # type: ignore[union-attr, arg-type]
    return model


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(tiny(), path)
    return path


def photographs(sizes_hw: tuple[tuple[int, int], ...] = SIZES_HW) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes_hw]


# ---- images of different sizes


def test_what_is_found_in_an_image_does_not_depend_on_the_others() -> None:
    detector = Detector(TorchNetwork(tiny()))
    images = photographs()
    together = detector.detect(images, EVERY)
    for image, found in zip(images, together, strict=True):
        alone = detector.detect([image], EVERY)[0]
        assert found.image_size_hw == image.shape[:2]
        np.testing.assert_allclose(found.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    assert by_shape([image.shape for image in images]) == [[0, 3], [1], [2]]


def test_a_fixed_size_is_padded_and_the_network_told() -> None:
    """Three quarters of the input are padding: hardly anything changes where the network knows, else much does."""
    model = tiny(input_size="fixed", image_size_hw=(96, 96))
    config = model.config
    image = photographs(((96, 96),))[0]
    tight = DETR.prepare(config, image)
    roomy = np.zeros((3, 192, 192), np.float32)
    roomy[:, :96, :96] = tight.image
    assert tight.valid_hw == (96, 96)
    with torch.no_grad():
        answers = model(torch.from_numpy(tight.image)[None]).class_logits
        images = torch.from_numpy(roomy)[None]
        told = model(images, torch.tensor([[96, 96]])).class_logits
        untold = model(images).class_logits
    assert float((told - answers).abs().mean()) < 0.3 * float((untold - answers).abs().mean())


def test_an_image_is_resized_as_the_official_evaluation_does() -> None:
    published = detr_config("detr-r50")
    image = photographs(((240, 320),))[0]
    prepared = DETR.prepare(published, image)
    assert prepared.image.shape == (3, 800, 1066)
    assert prepared.valid_hw == (800, 1066)
    wanted = np.asarray(Image.fromarray(image).resize((1066, 800), Image.Resampling.BILINEAR), np.float32)
    pixels = prepared.image.transpose(1, 2, 0) * published.preprocess.std_rgb + published.preprocess.mean_rgb
    np.testing.assert_allclose(pixels, wanted, atol=1e-3)
    fixed = DETR.resized(published, (400, 640))
    prepared = DETR.prepare(fixed, image)
    assert prepared.image.shape == (3, 400, 640)
    assert prepared.valid_hw == (400, 533)
    assert not prepared.image[:, :, 533:].any()
    assert [array.shape for array in DETR.network_inputs([prepared])] == [(1, 3, 400, 640), (1, 2)]


def test_other_architectures_get_images_alone() -> None:
    config = EFFICIENTDET.published_config("efficientdet-lite0")
    prepared = EFFICIENTDET.prepare(config, photographs(((50, 60),))[0])
    assert [array.shape for array in EFFICIENTDET.network_inputs([prepared])] == [(1, 3, 320, 320)]
    assert not Architecture.takes_valid_hw


@pytest.mark.parametrize("name", ["detr-resnet50", "detr-r50", "detr-mobilenet-v2", "detr-efficientnet-lite0"])
def test_folded_batch_norms_answer_the_same(name: str) -> None:
    """Also dilated, and where some convolutions pad by themselves."""
    backbone = detr_config("detr-r50-dc5" if name == "detr-resnet50" else name).backbone
    model: Any = randomised(small(backbone=backbone, dilation=name == "detr-resnet50")).double()
    images, sizes = torch.randn(2, 3, 64, 96, dtype=torch.float64), torch.tensor([[64, 96], [40, 70]])
    with torch.no_grad():
        folded = model.optimize()(images, sizes)
        torch.testing.assert_close(folded.class_logits, model(images, sizes).class_logits, rtol=0, atol=1e-9)
    names = sum(type(module).__name__ == "FrozenBatchNorm2d" for module in model.optimize().modules())
    assert names == 0 or "efficientnet" in name


# ---- attention


def test_weights_of_an_attention_give_what_it_answers() -> None:
    torch.manual_seed(0)
    attention = Attention(32, 4, 0.0).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    query, key, value = (torch.randn(2, n, 32, dtype=torch.float64) for n in (3, 5, 5))
    attended = torch.tensor([[True] * 5, [True, True, False, True, False]])[:, None, None]
    weights = attention.weights(query, key, attended)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3, dtype=torch.float64))
    assert not weights[1, :, :, [2, 4]].any()
    values = (value @ attention.in_proj_weight[64:].T + attention.in_proj_bias[64:]).reshape(2, 5, 4, 8).transpose(1, 2)
    answer = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(query, key, value, attended), answer)
    # And PyTorch's own, which has the same parameters.
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True).double()
    theirs.load_state_dict(attention.state_dict())
    official, _ = theirs(query, key, value, key_padding_mask=~attended[:, 0, 0])
    torch.testing.assert_close(official, answer)


def test_explain_draws_what_the_decoder_looks_at(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photographs(((96, 144),))[0]
    model: Any = load_model(model_file)
    maps = DETR.explain(model, image, None, 2)
    found = Detector(TorchNetwork(model)).detect([image], EVERY)[0]
    assert [(one.label, round(one.score, 5)) for one in maps] == [
        (label, round(float(score), 5)) for label, score in zip(found.labels[:2], found.scores[:2], strict=True)
    ]
    for one in maps:
        assert one.heat.shape == (96, 144)
        assert one.heat.max() == pytest.approx(1)
    of_class = DETR.explain(model, image, CLASSES.index(found.labels[-1]), 3)
    assert {one.label for one in of_class} == {found.labels[-1]}
    Image.fromarray(image).save(tmp_path / "photo.png")
    command = ["explain", str(tmp_path / "photo.png"), "-m", str(model_file), "--out", str(tmp_path / "out.png")]
    assert main([*command, "--point", "20,80"]) == 0
    assert "from 20,80" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.width > 144
    assert main([*command, "--point", "144,10"]) == 2
    assert "the point 144,10 is outside the image of 144×96 pixels" in capsys.readouterr().err


def test_a_point_attends_from_its_own_cell() -> None:
    """With all projections but the positions' at zero the encoder looks where the position is the same: at itself."""
    model = tiny(image_size_hw=(256, 256), input_size="fixed")
    layer = model.encoder.layers[-1].self_attention
    with torch.no_grad():
        model.projection.weight.zero_()
        for one in model.encoder.layers[:-1]:
            for parameter in one.parameters():
                parameter.zero_()
        layer.in_proj_weight[:64] = 12 * torch.eye(32).repeat(2, 1)
        layer.in_proj_bias.zero_()
    image = np.zeros((256, 256, 3), np.uint8)
    for x, y in ((40, 200), (200, 40), (130, 130)):
        heat = DETR.explain_point(model, image, (x, y)).heat
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        assert abs(row - y) <= 32
        assert abs(column - x) <= 32


# ---- commands


def test_detect_says_what_changes_nothing(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photographs()[0]).save(tmp_path / "photo.png")
    command = ["detect", str(tmp_path / "photo.png"), "-m", str(model_file), "--json", "--score", "0"]
    assert main([*command, "--nms", "soft", "--iou", "0.3"]) == 0
    with_options = capsys.readouterr()
    assert with_options.err.count("suppresses nothing: --nms and --iou changes nothing") == 1
    assert main(command) == 0
    without = capsys.readouterr()
    assert "suppresses nothing" not in without.err
    assert with_options.out == without.out


def test_it_is_evaluated_and_exports_refuse_nms(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_squares(tmp_path, 3)
    assert main(["eval", str(tmp_path), "-m", str(model_file), "--split", "train", "--json"]) == 0
    assert '"ap"' in capsys.readouterr().out
    assert main(["export", str(model_file), "--nms"]) == 2
    assert "its answers need none" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, *slowly({"input_size": "fixed"})], ids=["varying", "fixed"])
def test_an_export_answers_as_pytorch_does(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(**changes)
    report = export(model, tmp_path / "tiny.onnx")
    assert report.agreement.score < 1e-5
    with Detector(tmp_path / "tiny.onnx") as exported:
        for ours, theirs in zip(
            Detector(TorchNetwork(model)).detect(photographs(), EVERY),
            exported.detect(photographs(), EVERY),
            strict=True,
        ):
            np.testing.assert_allclose(theirs.boxes_xyxy, ours.boxes_xyxy, atol=1e-2)
            np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [ExportOptions(precision="fp16"), ExportOptions(precision="int8")])
def test_reduced_exports_are_checked(options: ExportOptions, tmp_path: Path) -> None:
    from phidet.data.layouts import open_data  # noqa: PLC0415

    write_squares(tmp_path / "data", 6)
    report = export(tiny(), tmp_path / "tiny.onnx", options, open_data(tmp_path / "data").read("train"))
    assert report.agreement.iou > 0.9


# ---- configs


def test_every_backbone_of_the_house_is_published_by_name() -> None:
    for name in ("detr-efficientnet-lite0", "detr-mobilenet-v2", "detr-resnet18", "detr-efficientnet-b3"):
        assert name in DETRS
        costs = count_costs(DETR.published_config(name, ("a",)), (64, 96))
        assert costs["backbone"].parameters > 1e6
    config = DetrConfig(
        name="own",
        backbone=msgspec.structs.replace(detr_config("detr-efficientnet-b0").backbone, width=0.5, depth=0.5),
        class_names=("a",),
        transformer=TransformerConfig(width=64, encoder_layers=0, decoder_layers=1),
    )
    answers: Any = create_model(config).eval()(torch.zeros(1, 3, 64, 96))
    assert answers.class_logits.shape == (1, 100, 2)


def test_products_of_attention_are_counted() -> None:
    """By hand, for one encoder layer of 6 cells: three projections in, both products, one out, the perceptron."""
    config = msgspec.structs.replace(
        small(), transformer=TransformerConfig(width=32, heads=4, encoder_layers=1, decoder_layers=1, feed_forward=48)
    )
    cells, width = 2 * 3, 32
    expected = 3 * cells * width**2 + 2 * cells**2 * width + cells * width**2 + 2 * cells * width * 48
    assert count_costs(config, (64, 96))["encoder"].multiply_adds == expected


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"queries": 0}, "queries must be a whole number ≥ 1"),
        ({"image_size_hw": (16, 64)}, "16×64 is smaller than the stride"),
        ({"backbone": detr_config("detr-efficientnet-b0").backbone, "dilation": True}, "only ResNets can be dilated"),
        ({"masks": MaskConfig()}, "masks need a transformer width that is a multiple of 128"),
    ],
)
def test_mistakes_in_a_config_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        small(**changes)
    with pytest.raises(ConfigError, match="6 heads cannot share a width of 32"):
        TransformerConfig(width=32, heads=6)
    with pytest.raises(UnknownNameError, match="position"):
        small(position="cosine")
