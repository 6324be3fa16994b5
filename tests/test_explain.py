"""Activation maps: what they add up to, and that they lie on the objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peers
from conftest import randomise
from phidet import create_classifier, create_model, save_model
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.explain import place_evidence
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.decode import select, with_best
from phidet.architectures.efficientdet.explain import gradient_evidence
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.registry import architecture_of
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.core.structs import replace
from phidet.data.layouts import open_data
from phidet.detections.settings import PostprocessSettings
from phidet.evaluation.explain import explain, overlay
from phidet.images.prepare import prepare

CLASSES = ("bolt", "nut", "washer")


def classifier(head_channels: int) -> Classifier:
    torch.manual_seed(1)
    backbone = BackboneConfig(architecture="efficientnet-lite", width=0.25, depth=0.3)
    model = create_classifier(
        ClassifierConfig(
            name="tiny",
            backbone=backbone,
            head_channels=head_channels,
            dropout=0.3,
            image_size_hw=(64, 64),
            class_names=CLASSES,
        )
    )
    randomise(model)
    return model.eval()


def detector() -> EfficientDet:
    torch.manual_seed(1)
    model = create_model(replace(peers.tiny_detector(CLASSES), {"image_size_hw": (128, 160)}))
    randomise(model)
    return model.eval()


def noise(size_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize("head_channels", [0, 24])
def test_a_class_logit_is_the_mean_of_its_map_and_the_bias(head_channels: int) -> None:
    model = classifier(head_channels).double()
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        evidence = place_evidence(model, images)
        logits = evidence.mean((1, 2)) + model.linear.bias
        torch.testing.assert_close(logits, model(images)[0], rtol=1e-10, atol=1e-10)
    assert evidence.shape == (3, 3, 4)


def test_a_detections_evidence_adds_up_to_its_slope() -> None:
    """All maps scaled by 1 + h change the logit by h times the evidence: gradient times activation, summed."""
    model = detector().double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # heads start with weights so small that there would be no slope to speak of
        for module in model.class_head.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(std=8 * module.weight[0].numel() ** -0.5, generator=generator)
    images = torch.randn(1, 3, 128, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbone = {level: x for level, x in model.backbone(images).items() if level >= 3}

    def logit(factor: float) -> torch.Tensor:
        maps = model.feature_network({level: x * factor for level, x in backbone.items()})
        return model.class_head(maps)[0, 500, 1]

    maps = {level: x.clone().requires_grad_() for level, x in backbone.items()}
    answer = model.class_head(model.feature_network(maps))[0, 500, 1]
    evidence = gradient_evidence(answer, list(maps.values()), (128, 160))
    with torch.no_grad():
        slope = float(logit(1 + 1e-6) - logit(1 - 1e-6)) / 2e-6
    assert abs(slope) > 0.01
    assert float(evidence.double().mean()) == pytest.approx(slope, rel=1e-4)


def test_what_is_explained_is_what_is_detected() -> None:
    model, image = detector(), noise((90, 130))
    found = explain(model, image, limit=4)
    config = model.config
    prepared, scale = prepare(image, config.image_size_hw, config.preprocess)
    anchors = generate_anchors(config.image_size_hw, config.feature_network.levels, config.anchors)
    with torch.inference_mode():
        logits, deltas = (part[0].numpy() for part in model(torch.from_numpy(prepared)[None]))
    settings = PostprocessSettings(score=0.0, max_detections=4)
    detected, _ = select(with_best(logits, deltas), anchors, scale, (90, 130), settings, CLASSES)
    assert [one.label for one in found] == [CLASSES[i] for i in detected.class_ids]
    np.testing.assert_allclose([one.score for one in found], detected.scores, rtol=1e-5)
    np.testing.assert_allclose([one.box_xyxy for one in found], detected.boxes_xyxy, rtol=1e-4, atol=1e-3)
    for one in found:
        assert one.heat.shape == (90, 130)
        assert one.heat.min() >= 0
        assert one.heat.max() in (0.0, 1.0)
    from_pil = explain(model, Image.fromarray(image), limit=4)
    assert all(np.array_equal(one.heat, other.heat) for one, other in zip(from_pil, found, strict=True))
    only = explain(model, image, "washer", limit=2)
    assert {one.label for one in only} == {"washer"}


def test_a_class_can_be_asked_for() -> None:
    model, image = classifier(24), noise((70, 90))
    best = explain(model, image, limit=3)
    assert sorted(one.label for one in best) == sorted(CLASSES)
    assert sum(one.score for one in best) == pytest.approx(1, abs=1e-5)
    asked = explain(model, image, best[2].label)
    assert len(asked) == 1
    assert asked[0].score == pytest.approx(best[2].score)
    np.testing.assert_array_equal(asked[0].heat, best[2].heat)
    with pytest.raises(UnknownNameError, match="washer"):
        explain(model, image, "washers")
    with pytest.raises(ConfigError, match="number of maps"):
        explain(model, image, limit=0)


def test_imagenets_classes_have_names() -> None:
    model = create_classifier("efficientnet-lite0")
    names = architecture_of(model.config).class_names(model.config)
    assert len(set(names)) == 1000
    assert (names[281], names[340]) == ("tabby", "zebra")


def test_no_heat_is_grey_and_heat_is_colour() -> None:
    image, heat = noise((20, 30)), np.zeros((20, 30), np.float32)
    heat[:, 15:] = 1
    seen = overlay(image, heat).astype(int)
    spread = seen.max(2) - seen.min(2)
    assert spread[:, :15].max() == 0
    assert spread[:, 15:].min() > 30


@pytest.mark.parametrize(
    ("file", "label", "share"),
    [
        ("000000000154.jpg", "zebra", 0.6),
        ("000000000502.jpg", "American black bear", 0.6),
        ("000000000471.jpg", "school bus", 0.6),
    ],
)
def test_photographs_are_named_and_the_heat_is_on_the_object(shared: Path, file: str, label: str, share: float) -> None:
    """ImageNet weights on photos of COCO, whose boxes say where the objects are."""
    folder = open_data(shared / "data" / "coco128" / "object_detection")
    dataset = folder.read(folder.splits[0])
    index = next(i for i, name in enumerate(dataset.names.tolist()) if name.endswith(file))
    model = create_classifier("efficientnet-lite0", pretrained="imagenet")
    best = explain(model, dataset.image(index), limit=1)[0]
    assert best.label == label
    inside = np.zeros(best.heat.shape, np.bool_)
    for x1, y1, x2, y2 in dataset.annotations(index).boxes_xyxy.astype(int):
        inside[y1:y2, x1:x2] = True
    on_object = float(best.heat[inside].sum() / best.heat.sum())
    assert on_object > share
    assert on_object > 1.5 * inside.mean()  # more than a map that is the same everywhere
    y, x = np.unravel_index(best.heat.argmax(), best.heat.shape)
    assert inside[y, x]


def test_command_compares_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise((60, 80))).save(tmp_path / "photo.png")
    save_model(classifier(24), tmp_path / "one.safetensors")
    (tmp_path / "run").mkdir()
    save_model(detector(), tmp_path / "run" / "best.safetensors")
    out = tmp_path / "seen.png"
    command = ["explain", str(tmp_path / "one.safetensors"), str(tmp_path / "run"), str(tmp_path / "photo.png")]
    assert main([*command, "--out", str(out), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["tiny", detector().config.name]
    with Image.open(out) as sheet:
        assert sheet.width == 16 + 3 * 416  # the image and two models
        assert sheet.height == 64 + 2 * 360  # two maps of each
    assert main(["explain", "no-such-model", str(tmp_path / "photo.png"), "--out", str(out)]) == 4
    assert "no-such-model" in capsys.readouterr().err
