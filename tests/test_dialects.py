"""Foreign weight files: every tensor finds its place, and its way back.

That the places are the right ones is held by the peers' own networks, which must accept our files strictly and
answer alike, by the official file, and, where the peer cannot be installed, by its key names as literals.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import torchvision
from effdet import DetBenchPredict, DetBenchTrain
from torch import Tensor, nn

import peers
from conftest import off_by, randomise, slowly
from peers import same_tensors as same
from phidet import convert, create_classifier, create_model, save_model
from phidet.architectures.backbones.dialects import LUKEMELAS, TIMM, TORCHVISION
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.classifier.published import classifier_config
from phidet.architectures.costs import build_on_meta
from phidet.architectures.dialect import Config, Dialect
from phidet.architectures.efficientdet.config import ASPECTS_2020, ASPECTS_OFFICIAL
from phidet.architectures.efficientdet.dialect_automl import AUTOML
from phidet.architectures.efficientdet.dialect_effdet import EFFDET
from phidet.architectures.efficientdet.dialect_zylo117 import ZYLO117
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.efficientdet.published import detector_config, family_of, scaled_detector_config
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.core.errors import CheckpointError
from phidet.core.structs import replace
from phidet.weights.create import local_or_fetched
from phidet.weights.load import load_into, open_source
from phidet.weights.mapping import to_ours, to_theirs, weights_of
from phidet.weights.read import recognise

D0 = "efficientdet-d0"
SIZE = (128, 128)


def shapes_of(config: Config) -> dict[str, Tensor]:
    """Our tensors without their values."""
    return weights_of(build_on_meta(config))


def numbered(like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of these shapes in which no two numbers are equal until 2³¹."""
    ends = torch.tensor([tensor.numel() for tensor in like.values()]).cumsum(0).tolist()
    return {
        name: torch.arange(end - tensor.numel(), end, dtype=torch.int32).reshape(tensor.shape)
        for (name, tensor), end in zip(like.items(), ends, strict=True)
    }


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    """effdet's d0 with three classes."""
    model = peers.effdet_model(D0, SIZE, num_classes=3)
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def peer_file(peer: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("effdet") / "d0.pth"
    torch.save(peer.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def ours(peer_file: Path) -> EfficientDet:
    """Our d0 with the peer's weights."""
    return create_model(D0, pretrained=peer_file).eval()


# There and back.


@pytest.mark.parametrize("name", [D0, "efficientdet-lite0", *slowly("efficientdet-d6", "efficientdet-d7x")])
@pytest.mark.parametrize("dialect", [AUTOML, EFFDET, ZYLO117], ids=lambda d: d.name)
def test_detectors_go_there_and_come_back(dialect: Dialect, name: str) -> None:
    there_and_back(dialect, detector_config(name))


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        *((TIMM, name) for name in ("efficientnet-b0", "efficientnet-b6", "efficientnet-lite4")),
        *((LUKEMELAS, name) for name in ("efficientnet-b0", "efficientnet-b6", "efficientnet-lite4")),
        *((TORCHVISION, name) for name in ("resnet18", "resnet101", "mobilenet-v2")),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_classifiers_go_there_and_come_back(dialect: Dialect, name: str) -> None:
    there_and_back(dialect, classifier_config(name))


def there_and_back(dialect: Dialect, config: Config) -> None:
    like = shapes_of(config)
    weights = numbered(like)
    theirs = to_theirs(weights, dialect, config)
    fillers = dialect.fillers(config)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in like.values()) + sum(fillers.values())
    known = recognise(theirs)
    assert known is not None
    assert known.dialect is dialect
    assert known.tensors.keys() == theirs.keys(), "what we write is canonical"
    back = to_ours(known.tensors, dialect, config, like)
    assert not back.missing
    assert not back.unexpected
    assert same(back.tensors, weights)


def test_a_dialect_without_a_place_says_so() -> None:
    """Classifiers in files of detectors and the other way about, other feature networks, other backbones."""
    lite0, b0 = detector_config("efficientdet-lite0"), classifier_config("efficientnet-b0")
    panet = replace(lite0, {"feature_network": FeatureNetworkConfig(channels=8, repeats=1, graph="panet")})
    cases: list[tuple[Dialect, Config, str]] = [
        (EFFDET, b0, "backbone"),
        (ZYLO117, b0, "backbone"),
        (ZYLO117, panet, "backbone"),
        (TIMM, lite0, "feature_network"),
        (LUKEMELAS, lite0, "feature_network"),
        (TIMM, classifier_config("resnet18"), "backbone"),
        (EFFDET, scaled_detector_config(0, family_of("efficientdet-resnet18")), "backbone"),
        (TORCHVISION, b0, "backbone"),
    ]
    for dialect, config, part in cases:
        said = f"{dialect.name} format has no key for '{part}[^']*' of {config.name}"
        with pytest.raises(CheckpointError, match=said):
            to_theirs(shapes_of(config), dialect, config)


# effdet.


def test_effdet_accepts_our_file_and_answers_alike(peer: nn.Module, ours: EfficientDet, tmp_path: Path) -> None:
    save_model(ours, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="effdet")
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    fresh = peers.effdet_model(D0, SIZE, num_classes=3)
    with torch.no_grad():
        for tensor in fresh.state_dict().values():
            tensor.zero_()  # nothing may be right by chance
    fresh.load_state_dict(theirs, strict=True)
    assert len(fresh.state_dict()) == 784
    assert same(theirs, {k: v for k, v in peer.state_dict().items() if not k.endswith("num_batches_tracked")})
    images = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        for a, b in zip(fresh.eval()(images), peer(images), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["efficientdet-lite0", *slowly("efficientdet-d6", "efficientdet-d7x")])
def test_effdet_has_exactly_the_keys_that_we_write(name: str) -> None:
    with torch.device("meta"):
        model = peers.effdet_model(name, (256, 256))
    theirs = to_theirs(shapes_of(detector_config(name)), EFFDET, detector_config(name))
    expected = {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in theirs.items()} == expected


def test_a_foreign_detector_brings_class_count_and_anchors(ours: EfficientDet) -> None:
    assert ours.config.class_names == ("class-0", "class-1", "class-2")
    assert ours.config.anchors.aspects_wh == ASPECTS_2020
    assert detector_config(D0).anchors.aspects_wh == ASPECTS_OFFICIAL


def test_a_foreign_detector_takes_the_classes_it_is_given(peer_file: Path, ours: EfficientDet) -> None:
    named = create_model(D0, class_names=["a", "b", "c"], pretrained=peer_file)
    assert named.config.class_names == ("a", "b", "c")
    assert same(weights_of(named), weights_of(ours))
    with pytest.raises(CheckpointError, match=r"predicts 3 classes, efficientdet-d0 was asked for 2: .*replace_head"):
        create_model(D0, num_classes=2, pretrained=peer_file)
    replaced = weights_of(create_model(D0, num_classes=2, pretrained=peer_file, replace_head=True))
    differing = [name for name, tensor in weights_of(ours).items() if not torch.equal(tensor, replaced[name])]
    assert differing == ["class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias"]


def renamed(prefix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {prefix + key: tensor for key, tensor in state.items()}


def emptied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "no counters": lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
    "model.": renamed("model."),
    "module.": renamed("module."),
    "module.model.": renamed("module.model."),
    "anchors": lambda s: {**s, "anchors.boxes": torch.ones(9, 4)},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "state_dict_ema": lambda s: {"state_dict": emptied(s), "state_dict_ema": s, "metric": 0.5},
    "model_ema": lambda s: {"model_ema": renamed("module.")(s), "model": emptied(s)},
    "ema": lambda s: {"model": emptied(s), "ema": s},
    "model": lambda s: {"model": s, "epoch": torch.tensor(3)},
    "_orig_mod.": renamed("_orig_mod."),
    "compiled, parallel, in a trainer": renamed("model._orig_mod.module.model."),
    "parallel, compiled": renamed("module._orig_mod."),
    "fully sharded": renamed("_fsdp_wrapped_module._checkpoint_wrapped_module."),
    "ema.": lambda s: renamed("ema.module.")(s) | renamed("model.")(emptied(s)),
    "ema first": lambda s: renamed("model.")(emptied(s)) | renamed("model_ema.")(s),
    "ema_model.": lambda s: {**renamed("online_model.")(emptied(s)), **renamed("ema_model.")(s), "step": torch.ones(1)},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(5), **renamed("module.")(s)},
    "compiled parts": lambda s: {key.replace("net.", "net._orig_mod.", 1): tensor for key, tensor in s.items()},
    "parallel parts": lambda s: {key.replace("backbone.", "backbone.module.", 1): tensor for key, tensor in s.items()},
    "model_state_dict": lambda s: {"epoch": 1, "model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "net": lambda s: {"net": renamed("module.")(s), "acc": 0.3},
    "nested": lambda s: {"model": {"state_dict": renamed("_orig_mod.")(s)}, "args": {"model": "effdet"}},
    "ema with its settings": lambda s: {"model": emptied(s), "ema": {"decay": 0.999, "module": s}},
    "ema that is a number": lambda s: {"model": s, "ema": 0.999},
    "ema that is empty": lambda s: {"model": s, "ema": {}},
    "a trainer": lambda s: {**renamed("model.")(s), "criterion.alpha": torch.ones(2), "metric.total": torch.ones(1)},
    "a trainer of a bench": lambda s: {**renamed("model.model.")(s), "model.anchors.boxes": torch.ones(9, 4)},
    "weights alone averaged": lambda s: (
        renamed("model.")({k: v if "running" in k else torch.zeros_like(v) for k, v in s.items()})
        | renamed("ema.")({k: v for k, v in s.items() if "running" not in k})
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper: str, peer: nn.Module, ours: EfficientDet, tmp_path: Path) -> None:
    torch.save(WRAPPERS[wrapper](peer.state_dict()), tmp_path / "wrapped.pth")
    source = open_source(tmp_path / "wrapped.pth")
    assert source.kind == "effdet"
    back = to_ours(source.tensors, EFFDET, ours.config, weights_of(ours))
    assert same(back.tensors, weights_of(ours))
    assert not back.unexpected
    assert set(source.beside) == {
        "a trainer": {"criterion.alpha", "metric.total"}, "ema_model.": {"step"},
    }.get(wrapper, set())  # fmt: skip


def test_tensors_of_a_trainer_are_reported(peer: nn.Module, ours: EfficientDet, tmp_path: Path) -> None:
    torch.save(renamed("model.")(peer.state_dict()) | {"loss.alpha": torch.ones(1)}, tmp_path / "trained.pth")
    report = load_into(ours, open_source(tmp_path / "trained.pth"))
    assert report.ignored == ["loss.alpha"]
    assert str(report).endswith("; 1 other tensors are not used")
    torch.save(peer.state_dict() | {"loss.alpha": torch.ones(1)}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: loss\.alpha"):
        load_into(ours, open_source(tmp_path / "bare.pth"))


def test_two_networks_in_one_file_are_refused(peer: nn.Module, tmp_path: Path) -> None:
    """A teacher and a student, say: which one is meant cannot be known."""
    state = peer.state_dict()
    torch.save(renamed("model.")(state) | renamed("net.")(emptied(state)), tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"two\.pth cannot be loaded: it holds several sets of weights, as "):
        open_source(tmp_path / "two.pth")


def test_a_pickled_network_is_read_without_its_code(peer: nn.Module, ours: EfficientDet, tmp_path: Path) -> None:
    torch.save({"model": peer, "args": argparse.Namespace(lr=0.1)}, tmp_path / "whole.pth")
    source = open_source(tmp_path / "whole.pth")
    back = to_ours(source.tensors, EFFDET, ours.config, weights_of(ours))
    assert same(back.tensors, weights_of(ours))


@pytest.mark.parametrize("bench", [DetBenchTrain, DetBenchPredict])
def test_bench_wrapped_files_load(bench: type[nn.Module], peer: nn.Module, ours: EfficientDet, tmp_path: Path) -> None:
    wrapped = bench(peer)
    assert "anchors.boxes" in wrapped.state_dict()
    torch.save(wrapped.state_dict(), tmp_path / "bench.pth", _use_new_zipfile_serialization=False)
    assert same(weights_of(create_model(D0, pretrained=tmp_path / "bench.pth")), weights_of(ours))


def test_batch_norms_with_the_level_first(peer: nn.Module, ours: EfficientDet, peer_file: Path, tmp_path: Path) -> None:
    turned = peers.effdet_model(D0, SIZE, num_classes=3)
    turned.load_state_dict(torch.load(peer_file, weights_only=True))
    turned.toggle_head_bn_level_first()
    assert "class_net.bn_rep.4.2.weight" in turned.state_dict(), "five levels of three layers"
    assert "class_net.bn_rep.2.4.bn.weight" in peer.state_dict()
    torch.save(turned.state_dict(), tmp_path / "turned.pth")
    assert same(weights_of(create_model(D0, pretrained=tmp_path / "turned.pth")), weights_of(ours))


def test_biases_in_front_of_a_batch_norm_may_lack(peer: nn.Module, tmp_path: Path) -> None:
    """``redundant_bias=False``: what lacks counts as zero; any other bias must be there."""
    redundant = re.compile(r".*(resample\..*conv\.conv|after_combine\.conv\.conv_pw|conv_rep\.\d\.conv_pw)\.bias")
    state = {key: tensor for key, tensor in peer.state_dict().items() if not redundant.fullmatch(key)}
    lacking = len(peer.state_dict()) - len(state)
    assert lacking == 1 + 5 + 3 * 8 + 2 * 3, "projections to P6, in the first cell; nodes; layers of both heads"
    torch.save(state, tmp_path / "lean.pth")
    lean = weights_of(create_model(D0, pretrained=tmp_path / "lean.pth"))
    full = create_model(D0, num_classes=3)
    with torch.no_grad():
        for key, tensor in peer.state_dict().items():
            if redundant.fullmatch(key):
                tensor = torch.zeros_like(tensor)
            state[key] = tensor
    torch.save(state, tmp_path / "zeros.pth")
    load_into(full, open_source(tmp_path / "zeros.pth"))
    assert same(lean, weights_of(full))
    del state["class_net.predict.conv_pw.bias"]
    torch.save(state, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match="no class predictor"):
        create_model(D0, pretrained=tmp_path / "headless.pth")
    state["class_net.predict.conv_pw.bias"] = torch.zeros(27)
    del state["box_net.predict.conv_pw.bias"]
    torch.save(state, tmp_path / "boxless.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: box_net\.predict\.conv_pw\.bias"):
        create_model(D0, pretrained=tmp_path / "boxless.pth")


def test_another_size_is_refused_in_a_few_lines(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(peers.effdet_model("efficientdet-d1", SIZE).state_dict(), tmp_path / "d1.pth")
    model = create_model(D0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for replace_head in (False, True):
        with pytest.raises(CheckpointError) as caught:
            create_model(D0, pretrained=tmp_path / "d1.pth", replace_head=replace_head)
        message = str(caught.value)
        assert "d1.pth (effdet) does not fit efficientdet-d0" in message
        assert "of the wrong shape" in message
        assert "expected (64," in message
        assert "got (88," in message
        assert "unexpected" in message
        assert message.count("\n") <= 4
        assert len(message) < 1500
    with pytest.raises(CheckpointError):
        load_into(model, open_source(tmp_path / "d1.pth"))
    assert same(dict(model.state_dict()), before)


# zylo117, from facts: its code is LGPL and stays away. By hand its own networks (coefficients 0, 6, 7, 8) were run
# against ours with the same weights, and read what we write with strict=True.

CELL = "feature_network.cells."
ZYLO117_D0 = {
    "backbone_net.model._conv_stem.conv.weight": ("backbone.stem.conv.weight", (32, 3, 3, 3)),
    "backbone_net.model._bn0.running_var": ("backbone.stem.bn.running_var", (32,)),
    "backbone_net.model._blocks.0._depthwise_conv.conv.weight": (
        "backbone.blocks.0.depthwise.conv.weight",
        (32, 1, 3, 3),
    ),
    "backbone_net.model._blocks.0._bn1.bias": ("backbone.blocks.0.depthwise.bn.bias", (32,)),
    "backbone_net.model._blocks.1._expand_conv.conv.weight": ("backbone.blocks.1.expand.conv.weight", (96, 16, 1, 1)),
    "backbone_net.model._blocks.1._bn0.weight": ("backbone.blocks.1.expand.bn.weight", (96,)),
    "backbone_net.model._blocks.1._se_reduce.conv.bias": ("backbone.blocks.1.se.reduce.bias", (4,)),
    "backbone_net.model._blocks.1._se_expand.conv.weight": ("backbone.blocks.1.se.expand.weight", (96, 4, 1, 1)),
    "backbone_net.model._blocks.15._bn2.running_mean": ("backbone.blocks.15.project.bn.running_mean", (320,)),
    "bifpn.0.p5_to_p6.0.conv.weight": ("feature_network.coarser.conv.weight", (64, 320, 1, 1)),
    "bifpn.0.p5_to_p6.1.weight": ("feature_network.coarser.bn.weight", (64,)),
    "bifpn.0.p5_down_channel.0.conv.weight": (CELL + "0.nodes.1.projections.0.conv.weight", (64, 320, 1, 1)),
    "bifpn.0.p4_down_channel.0.conv.bias": (CELL + "0.nodes.2.projections.0.conv.bias", (64,)),
    "bifpn.0.p3_down_channel.1.running_var": (CELL + "0.nodes.3.projections.0.bn.running_var", (64,)),
    "bifpn.0.p4_down_channel_2.0.conv.weight": (CELL + "0.nodes.4.projections.0.conv.weight", (64, 112, 1, 1)),
    "bifpn.0.p5_down_channel_2.1.bias": (CELL + "0.nodes.5.projections.0.bn.bias", (64,)),
    "bifpn.0.p6_w1": (CELL + "0.nodes.0.weights", (2,)),
    "bifpn.0.p3_w1": (CELL + "0.nodes.3.weights", (2,)),
    "bifpn.0.p4_w2": (CELL + "0.nodes.4.weights", (3,)),
    "bifpn.2.p7_w2": (CELL + "2.nodes.7.weights", (2,)),
    "bifpn.1.conv4_up.pointwise_conv.conv.weight": (CELL + "1.nodes.2.conv.pointwise.weight", (64, 64, 1, 1)),
    "bifpn.2.conv7_down.bn.bias": (CELL + "2.nodes.7.bn.bias", (64,)),
    "regressor.conv_list.1.depthwise_conv.conv.weight": ("box_head.convs.1.depthwise.weight", (64, 1, 3, 3)),
    "regressor.bn_list.4.1.weight": ("box_head.norms.1.4.weight", (64,)),
    "regressor.header.pointwise_conv.conv.weight": ("box_head.predict.pointwise.weight", (36, 64, 1, 1)),
    "classifier.bn_list.3.0.running_mean": ("class_head.norms.0.3.running_mean", (64,)),
    "classifier.header.pointwise_conv.conv.bias": ("class_head.predict.pointwise.bias", (810,)),
}


def test_zylo117s_names_of_d0() -> None:
    config = detector_config(D0)
    weights = numbered(shapes_of(config))
    theirs = to_theirs(weights, ZYLO117, config)
    for key, (name, shape) in ZYLO117_D0.items():
        assert tuple(theirs[key].shape) == shape, key
        assert torch.equal(theirs[key], weights[name]), key


@pytest.mark.parametrize(
    ("name", "keys", "weights"),
    [(D0, 676, 24), ("efficientdet-d6", 1629, 64), ("efficientdet-d7", 1629, 64), ("efficientdet-d7x", 1966, 64)],
)
def test_zylo117_counts_its_keys(name: str, keys: int, weights: int) -> None:
    """As many as its own networks have without counters. Its fusion weights stop at level 7 and are always there."""
    config = detector_config(name)
    theirs = to_theirs(shapes_of(config), ZYLO117, config)
    assert len(theirs) == keys
    fusion = {key: tuple(t.shape) for key, t in theirs.items() if re.search(r"p\d_w[12]$", key)}
    assert len(fusion) == weights
    assert fusion["bifpn.0.p6_w1"] == fusion["bifpn.0.p7_w2"] == (2,)
    assert fusion["bifpn.0.p6_w2"] == (3,)
    assert not any("p8" in key for key in fusion)
    if name == "efficientdet-d7x":
        assert theirs["bifpn.7.conv8_down.bn.weight"].shape == (384,)
        assert theirs["classifier.bn_list.5.4.bias"].shape == (384,)


def test_zylo117s_fillers_are_ones_and_are_not_read() -> None:
    config = detector_config("efficientdet-lite0")
    like = shapes_of(config)
    weights = numbered(like)
    theirs = to_theirs(weights, ZYLO117, config)
    assert torch.equal(theirs["bifpn.2.p5_w2"], torch.ones(3))
    theirs["bifpn.2.p5_w2"] = torch.tensor([5.0, 6.0, 7.0])
    back = to_ours(theirs, ZYLO117, config, like)
    assert same(back.tensors, weights)
    assert not back.unexpected
    stray = to_ours(theirs | {"bifpn.9.p5_w2": torch.ones(3)}, ZYLO117, config, like)
    assert stray.unexpected == ["bifpn.9.p5_w2"]


def test_zylo117s_files_load(ours: EfficientDet, tmp_path: Path) -> None:
    theirs = to_theirs(weights_of(ours), ZYLO117, ours.config)
    counters = {
        re.sub("running_var$", "num_batches_tracked", key): torch.tensor(7) for key in theirs if "running_var" in key
    }
    torch.save({f"module.{key}": tensor for key, tensor in (theirs | counters).items()}, tmp_path / "zylo.pth")
    model = create_model(D0, pretrained=tmp_path / "zylo.pth")
    assert same(weights_of(model), weights_of(ours))
    assert len(theirs) + len(counters) == 784
    assert model.config.anchors.aspects_wh == ASPECTS_2020
    assert model.config.num_classes == 3


# Backbones.


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-lite0"])
def test_timm_accepts_our_file_and_answers_alike(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_classifier(name, num_classes=5).eval()
    randomise(model)
    save_model(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="timm")
    peer = timm.create_model("tf_" + name.replace("-", "_"), num_classes=5)
    peer.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True), strict=True)
    images = torch.randn(1, 3, 96, 96).double()
    with torch.inference_mode():
        assert off_by(model.double()(images), peer.double().eval()(images)) < 1e-9


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2"])
def test_torchvision_accepts_our_file_and_answers_alike(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_classifier(name, num_classes=5).eval()
    randomise(model)
    save_model(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", to="torchvision")
    peer = torchvision.models.get_model(name.replace("-", "_"), num_classes=5)
    peer.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True), strict=True)
    images = torch.randn(1, 3, 96, 96).double()
    with torch.inference_mode():
        assert off_by(model.double()(images), peer.double().eval()(images)) < 1e-9


def test_lukemelas_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = local_or_fetched(backbone_file("efficientnet-lite0"))
    original = torch.load(path, weights_only=True)
    convert(path, tmp_path / "ours.safetensors", "efficientnet-lite0")
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="lukemelas")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same(back, {k: v for k, v in original.items() if not k.endswith("num_batches_tracked")})


def test_lukemelas_names_of_b0() -> None:
    """His squeeze-excite, which the Lite file has none of."""
    config = classifier_config("efficientnet-b0")
    weights = numbered(shapes_of(config))
    theirs = to_theirs(weights, LUKEMELAS, config)
    pairs = {
        "_blocks.3._se_reduce.weight": "backbone.blocks.3.se.reduce.weight",
        "_blocks.3._se_expand.bias": "backbone.blocks.3.se.expand.bias",
        "_blocks.0._bn1.weight": "backbone.blocks.0.depthwise.bn.weight",
        "_conv_head.weight": "head.conv.weight",
        "_bn1.running_var": "head.bn.running_var",
        "_fc.bias": "linear.bias",
    }
    for key, name in pairs.items():
        assert torch.equal(theirs[key], weights[name]), key


def test_a_foreign_classifier_brings_its_class_count(tmp_path: Path) -> None:
    path = tmp_path / "ten.pth"
    peer = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    torch.save(peer.state_dict(), path)
    model = create_classifier("efficientnet-lite0", pretrained=path)
    assert model.config.class_names == tuple(f"class-{i}" for i in range(10))
    assert torch.equal(model.linear.bias, peer.classifier.bias)
    with pytest.raises(CheckpointError, match="predicts 10 classes, efficientnet-lite0 was asked for 4"):
        create_classifier("efficientnet-lite0", num_classes=4, pretrained=path)
    fresh = create_classifier("efficientnet-lite0", num_classes=4, pretrained=path, replace_head=True)
    assert torch.equal(fresh.head.conv.weight, peer.conv_head.weight)
    assert torch.equal(fresh.linear.bias, torch.zeros(4))


# The official Keras files.


def test_the_official_file_has_the_keys_and_layouts_that_we_know(shared: Path) -> None:
    source = open_source(shared / "reference/efficientdet-d0.h5")
    assert source.kind == "automl"
    config = detector_config(D0)
    back = to_ours(source.tensors, AUTOML, config, shapes_of(config))
    assert not back.missing
    assert not back.unexpected
    assert same(to_theirs(back.tensors, AUTOML, config), source.tensors)
    hwio = source.tensors["class_net/class-predict/pointwise_kernel"]
    assert hwio.shape == (1, 1, 64, 810)
    assert torch.equal(back.tensors["class_head.predict.pointwise.weight"][700, 5, 0, 0], hwio[0, 0, 5, 700])
    hwc1 = source.tensors["class_net/class-predict/depthwise_kernel"]
    assert hwc1.shape == (3, 3, 64, 1)
    assert torch.equal(back.tensors["class_head.predict.depthwise.weight"][5, 0, 2, 1], hwc1[2, 1, 5, 0])
    weights = [source.tensors[f"fpn_cells/cell_1/fnode4/WSM{i}"] for i in ("", "_1", "_2")]
    assert torch.equal(back.tensors["feature_network.cells.1.nodes.4.weights"], torch.stack(weights))


def test_official_files_convert_and_load_as_ours(shared: Path, tmp_path: Path) -> None:
    path = shared / "reference/efficientdet-lite0.h5"
    report = convert(path, tmp_path / "lite0.safetensors", "efficientdet-lite0")
    assert (report.kind, report.model) == ("automl", "efficientdet-lite0")
    direct = create_model("efficientdet-lite0", pretrained=path)
    through = create_model("efficientdet-lite0", pretrained=tmp_path / "lite0.safetensors")
    assert same(weights_of(direct), weights_of(through))
    assert through.config.anchors.aspects_wh == ASPECTS_OFFICIAL


def test_averaged_weights_win_and_what_is_no_weight_is_passed_over(tmp_path: Path) -> None:
    """Scopes doubled by Keras, ``:0`` behind, averages of TensorFlow 1 beside, an optimizer's state around."""
    config = detector_config("efficientdet-lite0")
    weights = {name: tensor.float() for name, tensor in numbered(shapes_of(config)).items()}
    path = tmp_path / "trained.h5"
    with h5py.File(path, "w") as file:
        for key, tensor in to_theirs(weights, AUTOML, config).items():
            doubled = f"{key.split('/')[0]}/{key}:0"
            file[doubled.replace(":0", "/ExponentialMovingAverage:0")] = tensor.numpy()
            file[doubled] = np.zeros(tensor.shape, np.float32)
        file["optimizer_weights/class_net/class-predict/bias:0"] = np.ones(810, np.float32)
        file["top_level_model_weights/step"] = np.int64(7)
        file["note"] = "no number"
    model = create_model("efficientdet-lite0", pretrained=path)
    assert same(weights_of(model), weights)


def test_truncated_official_files_are_refused(shared: Path, tmp_path: Path) -> None:
    whole = (shared / "reference/efficientdet-lite0.h5").read_bytes()
    for length in (16, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            open_source(tmp_path / "cut.h5")


def test_truncated_pytorch_files_are_refused(tmp_path: Path) -> None:
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"conv_stem.weight": torch.ones(9, 3)}, buffer, _use_new_zipfile_serialization=zipped)
        whole = buffer.getvalue()
        for length in range(1, len(whole), 23):
            (tmp_path / "cut.pth").write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"cut\.pth"):
                open_source(tmp_path / "cut.pth")
