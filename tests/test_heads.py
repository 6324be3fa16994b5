"""Class and box networks: whose numbers stand where, what is shared between levels, and where learning starts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import randomise
from phidet import create_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.efficientdet.anchors import generate_anchors, level_sizes, level_slices
from phidet.architectures.efficientdet.config import AnchorConfig, ModelConfig
from phidet.architectures.efficientdet.heads import Head, class_head
from phidet.architectures.efficientdet.published import detector_config
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.core.structs import replace

LEVELS = range(3, 6)
SIZE = (40, 56)  # grids 5×7, 3×4, 2×2


def grids(seed: int = 0) -> list[Tensor]:
    """Random maps of 8 channels on ``LEVELS`` of an image of ``SIZE``."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 8, *hw, generator=g, dtype=torch.float64) for hw in level_sizes(SIZE, LEVELS)]


def head(layers: int = 2, outputs: int = 4, anchors: int = 6) -> Head:
    """A small head in fp64 with random weights and statistics, in evaluation."""
    torch.manual_seed(0)
    built = Head(8, layers, len(LEVELS), outputs, anchors, "silu").double().eval()
    randomise(built)
    return built


def norm(bn: nn.Module, x: Tensor) -> Tensor:
    """Batch norm in evaluation, ε = 1e-3."""
    assert isinstance(bn, nn.BatchNorm2d)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-3)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "row", "column"), [(0, 0, 0), (0, 4, 6), (1, 2, 1), (1, 0, 3), (2, 1, 0)])
def test_outputs_stand_in_the_order_of_the_anchors(level: int, row: int, column: int) -> None:
    """Levels fine to coarse, row by row, anchors innermost: shown by a value planted in one cell."""
    built = head(layers=0)
    with torch.no_grad():  # the predictor passes channel 0 of its own cell on: output k of it is k + 1
        built.predict.depthwise.weight.zero_()
        built.predict.depthwise.weight[:, :, 1, 1] = 1
        built.predict.pointwise.weight.zero_()
        built.predict.pointwise.weight[:, 0, 0, 0] = torch.arange(1, 25)
        built.predict.pointwise.bias.zero_()
    maps = [torch.zeros_like(m) for m in grids()]
    maps[level][0, 0, row, column] = 1
    flat = built(maps)[0]
    config = AnchorConfig(octaves=2)
    cell = level_slices(SIZE, LEVELS, config)[level].start + (row * maps[level].shape[3] + column) * 6
    expected = torch.zeros(len(generate_anchors(SIZE, LEVELS, config)), 4, dtype=torch.float64)
    expected[cell : cell + 6] = torch.arange(1, 25).reshape(6, 4)  # anchor-major, the outputs of one anchor together
    assert torch.equal(flat, expected)


@settings(max_examples=15)
@given(st.integers(32, 150), st.integers(32, 150), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_there_is_one_output_per_anchor(height: int, width: int, octaves: int, aspects: int, classes: int) -> None:
    """Whatever the image's size and the anchors of a cell."""
    config = ModelConfig(
        name="small",
        backbone=BackboneConfig(architecture="efficientnet-lite", width=0.2, depth=0.2),
        feature_network=FeatureNetworkConfig(channels=8, repeats=1, graph="fpn", max_level=5),
        head_layers=1,
        activation="relu6",
        image_size_hw=(64, 64),
        class_names=tuple(f"class {i}" for i in range(classes)),
        anchors=AnchorConfig(octaves=octaves, aspects_wh=((1.0, 1.0), (2.0, 0.5), (0.5, 2.0), (3.0, 0.3))[:aspects]),
    )
    model = create_model(config).eval()
    with torch.inference_mode():
        out = model(torch.zeros(1, 3, height, width))
    anchors = generate_anchors((height, width), config.feature_network.levels, config.anchors)
    assert out.class_logits.shape == (1, len(anchors), classes)
    assert out.box_deltas.shape == (1, len(anchors), 4)


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_head_written_out(layers: int) -> None:
    """Per level: (depthwise, pointwise + bias, the level's own batch norm, silu) × layers, then the predictor."""
    built = head(layers)
    expected = []
    for level, x in enumerate(grids()):
        for conv, norms in zip(built.convs, built.norms, strict=True):
            x = F.conv2d(x, conv.depthwise.weight, None, padding=1, groups=8)
            x = norm(norms[level], F.conv2d(x, conv.pointwise.weight, conv.pointwise.bias))
            x = x * torch.sigmoid(x)
        x = F.conv2d(x, built.predict.depthwise.weight, None, padding=1, groups=8)
        x = F.conv2d(x, built.predict.pointwise.weight, built.predict.pointwise.bias)
        expected += [x[0, :, i, j].reshape(6, 4) for i in range(x.shape[2]) for j in range(x.shape[3])]
    torch.testing.assert_close(built(grids())[0], torch.cat(expected), rtol=0, atol=1e-12)


def test_convolutions_are_shared_and_norms_are_not() -> None:
    """One change to a convolution moves every level, one to a level's norm moves that level alone."""
    built = head()
    assert len(list(built.convs.parameters())) == 2 * 3
    parts = level_slices(SIZE, LEVELS, AnchorConfig(octaves=2))
    before = built(grids())[0]

    def moved() -> list[bool]:
        after = built(grids())[0]
        return [not torch.equal(before[part], after[part]) for part in parts]

    with torch.no_grad():
        for level in range(3):
            built.norms[1][level].bias += 1
            assert moved() == [i == level for i in range(3)]
            built.norms[1][level].bias -= 1
            built.norms[1][level].running_mean += 1  # statistics are a level's own as well
            assert moved() == [i == level for i in range(3)]
            built.norms[1][level].running_mean -= 1
        built.convs[1].pointwise.weight += 1
        assert moved() == [True] * 3


def test_norms_learn_from_their_own_level() -> None:
    """In training each level's statistics follow its own maps, with PyTorch's momentum 0.01 (TensorFlow's 0.99)."""
    built = Head(8, 1, 3, 4, 1, "silu").train()
    conv = built.convs[0]
    with torch.no_grad():
        conv.depthwise.weight.zero_()
        conv.depthwise.weight[:, :, 1, 1] = 1
        conv.pointwise.weight.copy_(torch.eye(8)[:, :, None, None])
    built([torch.full((2, 8, 4, 4), float(value)) for value in (1, 10, 100)])
    for level, value in enumerate((1, 10, 100)):
        torch.testing.assert_close(built.norms[0][level].running_mean, torch.full((8,), 0.01 * value))


# --- where learning starts --------------------------------------------------------------------------------------------


def test_biases_at_the_start() -> None:
    """Every class begins at probability 0.01 (1708.02002, section 4.1), every box at its anchor."""
    model = create_model("efficientdet-lite0", num_classes=7)
    bias = -math.log((1 - 0.01) / 0.01)
    assert bias == pytest.approx(-4.59512, abs=1e-5)
    assert model.class_head.predict.pointwise.bias.tolist() == pytest.approx([bias] * 63)
    assert torch.sigmoid(model.class_head.predict.pointwise.bias.detach()).tolist() == pytest.approx([0.01] * 63)
    assert model.box_head.predict.pointwise.bias.tolist() == [0] * 36
    for part in (model.class_head, model.box_head):
        assert all((conv.pointwise.bias == 0).all() for conv in part.convs)


def test_weights_at_the_start() -> None:
    """Keras' variance scaling: deviation √(1 / fan in), cut at two; all channels of a depthwise kernel count."""
    torch.manual_seed(0)
    built = class_head(64, 8, 5, 90, 9, "silu")
    pointwise = torch.cat([conv.pointwise.weight.detach().flatten() for conv in built.convs])
    depthwise = torch.cat([conv.depthwise.weight.detach().flatten() for conv in built.convs])
    for weights, fan_in in ((pointwise, 64), (built.predict.pointwise.weight.detach(), 64), (depthwise, 9 * 64)):
        assert float(weights.std()) == pytest.approx(math.sqrt(1 / fan_in), rel=0.03)
        assert float(weights.abs().max()) <= 2 * math.sqrt(1 / fan_in) / 0.8796
        assert float(weights.abs().max()) > 1.9 * math.sqrt(1 / fan_in) / 0.8796


def test_classes_decide_the_class_head_alone() -> None:
    """Another number of classes changes the width of one layer."""
    config = detector_config("efficientdet-lite0")
    shapes = [
        {name: tuple(p.shape) for name, p in create_model(replace(config, {"class_names": names})).named_parameters()}
        for names in (("a",), ("a", "b", "c"))
    ]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {
        "class_head.predict.pointwise.weight",
        "class_head.predict.pointwise.bias",
    }
    assert shapes[1]["class_head.predict.pointwise.weight"] == (27, 64, 1, 1)
