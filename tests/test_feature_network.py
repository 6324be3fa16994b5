"""The executor of feature graphs against networks written out by hand, and its parts against brute force."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import randomise
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.architectures.feature_networks.graphs import GRAPHS, FeatureGraph, Node
from phidet.architectures.feature_networks.network import FeatureNetwork, FusionNode, Projection, fusion_weights
from phidet.architectures.layers import SameConv2d, SqueezeExcite, same_max_pool, same_padding

CHANNELS = {1: 4, 2: 5, 3: 6, 4: 7, 5: 9}
F64 = npt.NDArray[np.float64]
sides = st.integers(1, 23)


def network(**changes: object) -> FeatureNetwork:
    """A small network in fp64 with random weights, biases, statistics and fusion weights, in evaluation."""
    settings: dict[str, object] = {"channels": 8, "repeats": 1, **changes}
    config = FeatureNetworkConfig(**settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    built = FeatureNetwork(CHANNELS, config, "silu").double().eval()
    randomise(built)
    return built


def pyramid(height: int, width: int, seed: int = 0) -> dict[int, Tensor]:
    """Backbone maps of levels 1–5 of an image of this size, halved rounding up."""
    g = torch.Generator().manual_seed(seed)
    return {
        level: torch.randn(2, c, -(-height // 2**level), -(-width // 2**level), generator=g, dtype=torch.float64)
        for level, c in CHANNELS.items()
    }


# --- "SAME", by its definition ----------------------------------------------------------------------------------------


def pad_same(x: F64, kernel: int, stride: int, value: float) -> F64:
    """TensorFlow's rule: ⌈n / s⌉ windows; what they lack is split in two, the odd row and column at the end."""
    pads = []
    for n in x.shape[2:]:
        windows = -(-n // stride)
        lacking = max(0, (windows - 1) * stride + kernel - n)
        pads.append((lacking // 2, lacking - lacking // 2))
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=value)


def windows(x: Tensor, kernel: int, stride: int, value: float) -> list[list[F64]]:
    """Every "SAME" window, (B, C, kernel, kernel), by row and column."""
    rows, columns = (-(-n // stride) for n in x.shape[2:])
    padded = pad_same(x.numpy(), kernel, stride, value)
    return [
        [padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel] for j in range(columns)]
        for i in range(rows)
    ]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),  # even size, stride 2: the extra row goes to the end
        (225, 3, 2, (1, 1)),
        (112, 5, 2, (1, 2)),
        (7, 5, 1, (2, 2)),
        (5, 5, 4, (2, 2)),
        (8, 5, 4, (0, 1)),
        (1, 3, 2, (1, 1)),
        (4, 1, 2, (0, 0)),  # a kernel smaller than its stride lacks nothing
    ],
)
def test_same_padding(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@given(sides, sides, st.sampled_from([2, 4, 8, 16]))
def test_max_pool_is_same_max_pool(height: int, width: int, stride: int) -> None:
    """Kernel stride + 1, padded with −∞: all-negative maps stay negative at the borders."""
    g = torch.Generator().manual_seed(height * 100 + width)
    x = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64) - 5
    expected = [[w.max((2, 3)) for w in row] for row in windows(x, stride + 1, stride, -math.inf)]
    np.testing.assert_array_equal(same_max_pool(x, stride).permute(2, 3, 0, 1), expected)


@given(sides, sides, st.sampled_from([(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)]), st.booleans())
def test_convolution_is_same_convolution(height: int, width: int, shape: tuple[int, int], depthwise: bool) -> None:
    kernel, stride = shape
    torch.manual_seed(height * 100 + width)
    conv = SameConv2d(4, 4, kernel, stride, groups=4 if depthwise else 1).double()
    assert conv.bias is None
    x = torch.randn(2, 4, height, width, dtype=torch.float64)
    w = conv.weight.detach().numpy()
    rule = "bckl,ckl->bc" if depthwise else "bckl,ockl->bo"
    expected = [[np.einsum(rule, p, w[:, 0] if depthwise else w) for p in row] for row in windows(x, kernel, stride, 0)]
    np.testing.assert_allclose(conv(x).detach().permute(2, 3, 0, 1), expected, rtol=0, atol=1e-12)


def test_squeeze_excite() -> None:
    """1709.01507, eq. 2–4: x · σ(W₂ silu(W₁ mean(x) + b₁) + b₂), channel by channel."""
    torch.manual_seed(0)
    module = SqueezeExcite(6, 2).double()
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64)
    w1, b1 = module.reduce.weight[:, :, 0, 0], module.reduce.bias
    w2, b2 = module.expand.weight[:, :, 0, 0], module.expand.bias
    hidden = x.sum((2, 3)) / 35 @ w1.T + b1
    gate = 1 / (1 + torch.exp(-((hidden / (1 + torch.exp(-hidden))) @ w2.T + b2)))
    torch.testing.assert_close(module(x), x * gate[:, :, None, None], rtol=0, atol=1e-12)


# --- fusion -----------------------------------------------------------------------------------------------------------

raws = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5)


@given(raws)
def test_fast_fusion_weights(raw: list[float]) -> None:
    """Section 3.3: relu(wᵢ) / (ε + Σ relu(wⱼ)), ε = 1e-4; non-negative, summing to less than 1, never NaN."""
    positive = [max(w, 0.0) for w in raw]
    weights = fusion_weights("fast", torch.tensor(raw, dtype=torch.float64))
    np.testing.assert_allclose(weights, [p / (1e-4 + sum(positive)) for p in positive], rtol=1e-12)
    assert (weights >= 0).all()
    assert weights.sum() < 1


@given(raws)
def test_softmax_fusion_weights(raw: list[float]) -> None:
    powers = [math.exp(w) for w in raw]
    weights = fusion_weights("softmax", torch.tensor(raw, dtype=torch.float64))
    np.testing.assert_allclose(weights, [p / sum(powers) for p in powers], rtol=1e-12)
    assert float(weights.sum()) == pytest.approx(1)


@given(raws)
def test_unbounded_fusion_weights_are_the_weights(raw: list[float]) -> None:
    np.testing.assert_array_equal(fusion_weights("unbounded", torch.tensor(raw)), np.float32(raw))


@pytest.mark.parametrize("fusion", ["fast", "softmax", "unbounded"])
def test_fusion_weights_are_computed_in_fp32(fusion: Fusion) -> None:
    """bf16 cannot tell 1 from 1 + 1e-4."""
    weights = fusion_weights(fusion, torch.ones(2, dtype=torch.bfloat16))
    assert weights.dtype == torch.float32
    if fusion == "fast":
        assert weights.sum() == pytest.approx(2 / 2.0001, abs=1e-7)


def test_fusion_dies_quietly() -> None:
    """All weights ≤ 0: a node of zeros, finite output and gradients, not NaN."""
    built = network(fusion="fast").train()
    with torch.no_grad():
        for node in built.cells[0].nodes:
            node.weights.fill_(-1.0)
    maps = built(pyramid(128, 128))
    sum(m.sum() for m in maps).backward()
    assert all(m.isfinite().all() for m in maps)
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_a_node_is_its_formula(fusion: Fusion) -> None:
    """bn(conv(act(Σ wᵢ · resample(project(xᵢ))))) with the fusion's own w, on levels 3, 4 and 5 into 4."""
    built = network(graph="fully-connected-fpn", fusion=fusion, max_level=5)
    maps = pyramid(72, 88)
    raw = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64)
    node = built.cells[0].nodes[1]
    factors = {
        "sum": torch.ones(3, dtype=torch.float64),
        "unbounded": raw,
        "softmax": raw.exp() / raw.exp().sum(),
        "fast": torch.tensor([0.7, 0, 1.3], dtype=torch.float64) / (2.0 + 1e-4),
    }[fusion]
    if node.weights is not None:
        with torch.no_grad():
            node.weights.copy_(raw)
    assert (node.weights is None) == (fusion == "sum")
    p3, p4, p5 = (project(node.projections[str(i)], maps[level]) for i, level in enumerate((3, 4, 5)))
    fused = factors[0] * brute_pool(p3) + factors[1] * p4 + factors[2] * nearest(p5, p4)
    torch.testing.assert_close(built(maps)[1], after(node, fused), rtol=0, atol=1e-10)


# --- whole networks, written out --------------------------------------------------------------------------------------


def norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm in evaluation, ε = 1e-3."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / (bn.running_var + 1e-3).sqrt()
    return (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def project(module: Projection, x: Tensor) -> Tensor:
    """1×1 convolution with bias, and batch norm."""
    w = module.conv.weight[:, :, 0, 0]
    return norm(module.bn, torch.einsum("oc,bchw->bohw", w, x) + module.conv.bias[:, None, None])


def after(node: FusionNode, fused: Tensor) -> Tensor:
    """Behind the fusion: silu, depthwise 3×3 without bias, pointwise with bias, batch norm, no activation."""
    x = fused * torch.sigmoid(fused)
    x = F.conv2d(x, node.conv.depthwise.weight, None, padding=1, groups=x.shape[1])
    w = node.conv.pointwise.weight[:, :, 0, 0]
    return norm(node.bn, torch.einsum("oc,bchw->bohw", w, x) + node.conv.pointwise.bias[:, None, None])


def nearest(x: Tensor, like: Tensor) -> Tensor:
    """Nearest upsampling: row i of n from row ⌊i · m / n⌋ of m."""
    rows = torch.arange(like.shape[2]) * x.shape[2] // like.shape[2]
    columns = torch.arange(like.shape[3]) * x.shape[3] // like.shape[3]
    return x[:, :, rows][:, :, :, columns]


def brute_pool(x: Tensor) -> Tensor:
    """Max-pooling 3×3 by 2, window by window; differentiable enough for a comparison of values."""
    return torch.tensor(
        np.array([[w.max((2, 3)) for w in row] for row in windows(x.detach(), 3, 2, -math.inf)])
    ).permute(2, 3, 0, 1)


SIZES = [(128, 128), (100, 180), (257, 129)]  # a multiple of 128, odd ones, just above


@pytest.mark.parametrize("size", SIZES)
def test_fpn_written_out(size: tuple[int, int]) -> None:
    """P7′ = conv(P7), Pₗ′ = conv(Pₗ + up(Pₗ₊₁′)), with P6 = pool(project(C5)) and P7 = pool(P6)."""
    built = network(graph="fpn", fusion="sum")
    c = pyramid(*size)
    n7, n6, n5, n4, n3 = built.cells[0].nodes
    assert built.coarser is not None
    p6 = brute_pool(project(built.coarser, c[5]))
    p7 = brute_pool(p6)
    with torch.no_grad():
        o7 = after(n7, p7)
        o6 = after(n6, p6 + nearest(o7, p6))
        o5 = after(n5, project(n5.projections["0"], c[5]) + nearest(o6, c[5]))
        o4 = after(n4, project(n4.projections["0"], c[4]) + nearest(o5, c[4]))
        o3 = after(n3, project(n3.projections["0"], c[3]) + nearest(o4, c[3]))
        ours = built(c)
    for mine, theirs in zip(ours, (o3, o4, o5, o6, o7), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("repeats", [1, 3])
def test_bifpn_written_out(size: tuple[int, int], repeats: int) -> None:
    """Section 3.3's example, on all levels: P4, P5 projected twice, once for each node; later cells project nothing."""
    built = network(repeats=repeats)
    c = pyramid(*size)
    assert built.coarser is not None
    with torch.no_grad():
        p6 = brute_pool(project(built.coarser, c[5]))
        p3, p4, p5, p7 = c[3], c[4], c[5], brute_pool(p6)
        for cell in built.cells:
            n6, n5, n4, n3, m4, m5, m6, m7 = cell.nodes

            def own(node: FusionNode, x: Tensor) -> Tensor:
                """A level's own input as this node sees it."""
                return project(node.projections["0"], x) if "0" in node.projections else x

            def fuse(node: FusionNode, *xs: Tensor) -> Tensor:
                w = node.weights.clamp(min=0)
                w = w / (w.sum() + 1e-4)
                return after(node, sum((w[i] * x for i, x in enumerate(xs)), torch.tensor(0.0)))

            td6 = fuse(n6, own(n6, p6), nearest(p7, p6))
            td5 = fuse(n5, own(n5, p5), nearest(td6, p5))
            td4 = fuse(n4, own(n4, p4), nearest(td5, p4))
            o3 = fuse(n3, own(n3, p3), nearest(td4, p3))
            o4 = fuse(m4, own(m4, p4), td4, brute_pool(o3))
            o5 = fuse(m5, own(m5, p5), td5, brute_pool(o4))
            o6 = fuse(m6, own(m6, p6), td6, brute_pool(o5))
            o7 = fuse(m7, own(m7, p7), brute_pool(o6))
            p3, p4, p5, p6, p7 = o3, o4, o5, o6, o7
        ours = built(c)
    for mine, theirs in zip(ours, (p3, p4, p5, p6, p7), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    projected = [[sorted(node.projections) for node in cell.nodes] for cell in built.cells]
    assert projected[0] == [[], ["0"], ["0"], ["0"], ["0"], ["0"], [], []]
    assert projected[1:] == [[[]] * 8] * (repeats - 1)


@pytest.mark.parametrize(
    ("graph", "low", "high"),
    [
        (graph, *r)
        for graph in GRAPHS
        for r in [(3, 7), (2, 5), (3, 8), (1, 5)]
        if graph != "nas-fpn" or r[1] - r[0] == 4
    ],
)
def test_every_graph_at_every_range(graph: str, low: int, high: int) -> None:
    """Repeated cells are one cell after the other; maps keep their levels' sizes; every weight takes part."""
    size = (300, 271)
    twice = network(graph=graph, repeats=2, min_level=low, max_level=high).train()
    maps = twice(pyramid(*size))
    assert [m.shape[1:] for m in maps] == [
        (8, -(-size[0] // 2**level), -(-size[1] // 2**level)) for level in range(low, high + 1)
    ]
    g = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=g, dtype=m.dtype)).sum() for m in maps).backward()
    assert all(p.grad is not None for p in twice.parameters())
    twice.eval()
    with torch.no_grad():
        second = twice.cells[1](first_cell(twice, pyramid(*size)))
        for mine, theirs in zip(twice(pyramid(*size)), second, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def first_cell(built: FeatureNetwork, c: dict[int, Tensor]) -> list[Tensor]:
    """What the first cell answers, from the backbone's maps."""
    maps = [c[level] for level in built.levels if level <= 5]
    x = maps[-1]
    for level in (level for level in built.levels if level > 5):
        if level == 6:
            assert built.coarser is not None
            x = project(built.coarser, x)
        x = brute_pool(x)
        maps.append(x)
    answer: list[Tensor] = built.cells[0](maps)
    return answer


def test_a_map_that_fits_already_is_not_projected() -> None:
    """Official code: a 1×1 convolution only where channels change, level 6 included."""
    config = FeatureNetworkConfig(channels=9, repeats=1)
    built = FeatureNetwork(CHANNELS, config, "silu").double().eval()
    assert built.coarser is None
    maps: list[list[Tensor]] = []
    built.cells[0].register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    c = pyramid(200, 131)
    built(c)
    torch.testing.assert_close(maps[0][3], brute_pool(c[5]), rtol=0, atol=0)
    assert [sorted(node.projections) for node in built.cells[0].nodes[:4]] == [[], [], ["0"], ["0"]]


def test_inputs_are_left_alone() -> None:
    """Activations are in place; the maps that came in, and those that went out, must not change."""
    built = network(graph="panet", fusion="sum", repeats=2)
    c = pyramid(128, 128)
    before = {level: x.clone() for level, x in c.items()}
    outs: list[tuple[Tensor, Tensor]] = []
    built.cells[0].register_forward_hook(lambda _m, _a, out: outs.extend((o, o.clone()) for o in out))
    built(c)
    assert all(torch.equal(c[level], before[level]) for level in c)
    assert all(torch.equal(now, then) for now, then in outs)


def test_first_weights() -> None:
    """Keras' Glorot uniform: |w| ≤ √(6 / (fan in + fan out)); biases 0; fusion weights 1."""
    torch.manual_seed(0)
    built = FeatureNetwork(CHANNELS, FeatureNetworkConfig(channels=64, repeats=1), "silu")
    w = built.cells[0].nodes[0].conv.pointwise.weight.detach()
    bound = math.sqrt(6 / (64 + 64))
    assert float(w.abs().max()) <= bound
    assert float(w.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for name, p in built.named_parameters():
        if name.endswith(("conv.bias", "pointwise.bias")):
            assert (p == 0).all(), name
        if name.endswith(".weights"):
            assert (p == 1).all(), name


def test_a_map_that_no_node_stands_on_is_projected() -> None:
    """A graph may let an input through; the next cell, and the heads, still get the network's width."""
    graph = FeatureGraph(name="top-down", min_level=3, max_level=5, nodes=(Node(3, (0, 2)),), outputs=(3, 1, 2))
    config = FeatureNetworkConfig(channels=16, repeats=2, graph=graph, min_level=3, max_level=5)
    network = FeatureNetwork({3: 8, 4: 24, 5: 16}, config, "silu").double().eval()
    randomise(network)
    maps = {level: torch.randn(1, c, 64 >> level, 64 >> level).double() for level, c in {3: 8, 4: 24, 5: 16}.items()}
    out = network(maps)
    assert set(network.cells[0].projections) == {"1"}  # level 5 has the width already
    assert not network.cells[1].projections
    projection = network.cells[0].projections["1"]
    assert torch.equal(out[1], projection.bn(projection.conv(maps[4])))
    assert torch.equal(out[2], maps[5])
