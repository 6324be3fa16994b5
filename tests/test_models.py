"""Building and running models: names, φ and families, class counts, what is refused, and what training changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import off_by, randomise, usually
from phidet import create_classifier, create_model, save_model
from phidet.architectures.backbones.build import build_backbone
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import plan_blocks
from phidet.architectures.backbones.published import OTHER_BACKBONES
from phidet.architectures.backbones.scaling import CompoundScaling
from phidet.architectures.classifier.published import CLASSIFIER_NAMES, classifier_config, scaled_classifier_config
from phidet.architectures.efficientdet.anchors import generate_anchors
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet, RawOutputs
from phidet.architectures.efficientdet.published import (
    DETECTOR_NAMES,
    FAMILIES,
    Family,
    detector_config,
    scaled_detector_config,
)
from phidet.architectures.efficientdet.scaling import DetectorLaw
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.architectures.layers import SqueezeExcite
from phidet.core.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from phidet.core.structs import replace
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.weights.create import parse_image_size


def small(**changes: object) -> ModelConfig:
    """The family's structure at a hundredth of its cost."""
    config = ModelConfig(
        name="small",
        backbone=BackboneConfig(architecture="efficientnet", width=0.3, depth=0.3),
        feature_network=FeatureNetworkConfig(channels=16, repeats=2),
        head_layers=1,
        activation="silu",
        image_size_hw=(128, 128),
        class_names=("cat", "dog", "bird"),
    )
    return replace(config, changes)


def images(batch: int = 1, height: int = 128, width: int = 128, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(model: EfficientDet, x: Tensor) -> RawOutputs:
    with torch.inference_mode():
        out: RawOutputs = model(x)
    return out


# --- what is built ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTOR_NAMES)
def test_a_name_builds_the_published_detector(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert model.config == detector_config(name)
    assert model.config.class_names == COCO_CLASS_NAMES


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_a_name_builds_the_published_classifier(name: str) -> None:
    with torch.device("meta"):
        model = create_classifier(name)
    assert model.config == classifier_config(name)
    assert model.linear.out_features == 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_phi_builds_what_the_law_gives(family: str) -> None:
    with torch.device("meta"):
        assert create_model(phi=1.5, family=family).config == scaled_detector_config(1.5, FAMILIES[family])
        classifier = create_classifier(phi=1.5, family=family).config
    assert classifier == scaled_classifier_config(1.5, FAMILIES[family].architecture)


def test_a_config_builds_itself() -> None:
    config = small()
    assert create_model(config).config is config
    again = create_model(config, class_names=["a", "b"], image_size=(256, 384)).config
    assert again == replace(config, {"class_names": ("a", "b"), "image_size_hw": (256, 384)})


def test_a_family_belongs_to_phi() -> None:
    with pytest.raises(ConfigError, match="family belongs to phi"):
        create_model("efficientdet-d0", family="efficientdet-lite")
    with pytest.raises(ConfigError, match="family belongs to phi"):
        create_classifier("efficientnet-b0", family="efficientdet-lite")


def test_class_counts_and_names() -> None:
    config = small()
    assert create_model(config, num_classes=1).config.class_names == ("class-0",)
    assert create_model(config, num_classes=2, class_names=("x", "y")).config.class_names == ("x", "y")
    assert create_model(config, num_classes=90).config.class_names[:2] == ("class-0", "class-1")
    assert create_model(config).config.class_names == ("cat", "dog", "bird")
    one = create_model(config, num_classes=1).eval()
    assert run(one, images()).class_logits.shape[2] == 1  # one class is one logit; there is no background


@pytest.mark.parametrize(("given", "expected"), [(256, (256, 256)), ((256, 384), (256, 384)), ([256, 384], (256, 384))])
def test_image_sizes(given: int | tuple[int, int], expected: tuple[int, int]) -> None:
    assert create_model(small(), image_size=given).config.image_size_hw == expected


@pytest.mark.parametrize("architecture", ["efficientnet", "efficientnet-lite"])
def test_published_plans_of_blocks(architecture: str) -> None:
    """EfficientNet's table 1 at B0, and its B4: stem 48, 32 blocks. Lite4 keeps stem, first and last stage."""
    stem, blocks = plan_blocks(BackboneConfig(architecture=architecture))  # type: ignore[arg-type]
    assert stem == 32
    assert [b.out_channels for b in blocks] == [16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320]
    assert [b.stride for b in blocks] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [b.kernel for b in blocks] == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert [b.expand for b in blocks] == [1] + [6] * 15
    stem, blocks = plan_blocks(BackboneConfig(architecture=architecture, width=1.4, depth=1.8))  # type: ignore[arg-type]
    repeats = [sum(b.stage == s for b in blocks) for s in range(7)]
    widths = [next(b.out_channels for b in blocks if b.stage == s) for s in range(7)]
    assert widths == [24, 32, 56, 112, 160, 272, 448]
    assert repeats == ([2, 4, 4, 6, 6, 8, 2] if architecture == "efficientnet" else [1, 4, 4, 6, 6, 8, 1])
    assert stem == (48 if architecture == "efficientnet" else 32)


def test_stochastic_depth_grows_linearly() -> None:
    """Official code: block i of n drops with probability 0.2 · i / n, where it has a shortcut."""
    _, blocks = plan_blocks(BackboneConfig(architecture="efficientnet", depth=1.1, drop_path=0.2))
    assert [b.drop_path for b in blocks] == pytest.approx([0.2 * i / len(blocks) for i in range(len(blocks))])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [create_model, create_classifier])
def test_either_a_model_or_phi(create: object) -> None:
    for arguments in ({}, {"model": "efficientdet-d0", "phi": 0}):
        with pytest.raises(ConfigError, match=r"give either a model \('efficient.*, or a config\) or phi=…"):
            create(**arguments)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("create", "name", "near"),
    [
        (create_model, "efficientdet-d8", "efficientdet-d"),
        (create_model, "eficientdet-lite0", "efficientdet-lite0"),
        (create_classifier, "efficientnet_b0", "efficientnet-b0"),
        (create_classifier, "mobilenetv2", "mobilenet-v2"),
    ],
)
def test_unknown_names_give_the_nearest(create: object, name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown model '{name}'\. Did you mean .*{near}"):
        create(name)  # type: ignore[operator]


def test_the_other_kind_of_model_is_pointed_to() -> None:
    with pytest.raises(ConfigError, match=r"'resnet50' is a classifier: use create_classifier\('resnet50'\)"):
        create_model("resnet50")
    with pytest.raises(ConfigError, match=r"'efficientdet-d0' is a detector: use create_model\('efficientdet-d0'\)"):
        create_classifier("efficientdet-d0")
    with pytest.raises(ConfigError, match=r"published name or a ModelConfig, got a ClassifierConfig"):
        create_model(classifier_config("resnet50"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"published name or a ClassifierConfig, got a int"):
        create_classifier(50)  # type: ignore[arg-type]


@pytest.mark.parametrize("create", [create_model, create_classifier])
@pytest.mark.parametrize("count", [0, -1, True, False, 2.0, "3"])
def test_impossible_class_counts(create: object, count: object) -> None:
    name = "efficientdet-d0" if create is create_model else "efficientnet-b0"
    with pytest.raises(ConfigError, match=rf"num_classes must be a whole number ≥ 1, got {count!r}.*no background"):
        create(name, num_classes=count)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "class_names": ["a", "b"]}, r"num_classes is 3 but class_names has 2 names"),
        ({"class_names": []}, r"at least one class, got none"),
        ({"class_names": ["a", "b", "a"]}, r"class names must differ: 'a' is both 0 and 2"),
        ({"class_names": "cat"}, r"must be a list of names, got one string 'cat'"),
        ({"image_size": 64}, r"64×64 is smaller than the coarsest stride, 128 \(level 7\)"),
    ],
)
def test_impossible_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(small(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, True, 3.5, "512", (512,), (512, 512, 3), (512, 2.0), (512, True), None])
def test_impossible_image_sizes(size: object) -> None:
    with pytest.raises(ConfigError, match=r"whole number or \(height, width\) in pixels, got " + re.escape(repr(size))):
        parse_image_size(size)  # type: ignore[arg-type]


def test_unknown_families() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown family 'efficientdet-light'\. Did you mean efficientdet-lite"):
        create_model(phi=0, family="efficientdet-light")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 128, 128), r"\(batch, 3, height, width\), got shape \(3, 128, 128\)"),
        ((1, 1, 128, 128), r"got shape \(1, 1, 128, 128\): colour images, channels first"),
        ((1, 128, 128, 3), r"got shape \(1, 128, 128, 3\)"),
        ((1, 3, 127, 400), r"images of 127×400 pixels are smaller than the coarsest stride, 128 \(level 7\)"),
        ((1, 3, 400, 64), r"images of 400×64 pixels .* pad them to at least 128×128"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_impossible_images(shape: tuple[int, ...], message: str, training: bool) -> None:
    """One line that names what came, instead of an error from somewhere inside."""
    model = create_model(small()).train(training)
    with pytest.raises(InputError, match=message):
        model(torch.zeros(shape))


def test_fewer_levels_take_smaller_images() -> None:
    network = FeatureNetworkConfig(channels=16, repeats=1, max_level=5)
    model = create_model(small(feature_network=network)).eval()
    assert run(model, images(1, 32, 33)).class_logits.shape == (1, (4 * 5 + 2 * 3 + 1 * 2) * 9, 3)
    with pytest.raises(InputError, match=r"31×32 pixels are smaller than the coarsest stride, 32 \(level 5\)"):
        model(images(1, 31, 32))


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (200, 331), (129, 257)])
def test_an_image_answers_alike_in_any_batch(size: tuple[int, int]) -> None:
    """In evaluation, images of one batch do not see each other."""
    model = create_model(small()).eval().double()
    randomise(model)
    batch = images(3, *size).double()
    together = run(model, batch)
    for i in range(3):
        for mine, alone in zip(together, run(model, batch[i : i + 1]), strict=True):
            assert off_by(mine[i : i + 1], alone) < 1e-9


def test_padding_at_the_bottom_right_moves_only_what_sees_it() -> None:
    """Images padded to one size: far from the padding, a network without squeeze-excite answers the same."""
    config = small(
        backbone=BackboneConfig(architecture="efficientnet-lite", width=0.3, depth=0.3),
        feature_network=FeatureNetworkConfig(channels=16, repeats=1, max_level=4),
        head_layers=0,
    )
    model = create_model(config).eval().double()
    randomise(model)
    image = images(1, 384, 384).double()
    padded = torch.zeros(1, 3, 384, 768, dtype=torch.float64)
    padded[..., :384] = image
    alone, inside = (run(model, x).class_logits[0] for x in (image, padded))
    rows = alone[: 48 * 48 * 9].reshape(48, 48, -1), inside[: 48 * 96 * 9].reshape(48, 96, -1)
    torch.testing.assert_close(rows[0][:, :24], rows[1][:, :24], rtol=0, atol=1e-10)
    assert not torch.equal(rows[0][:, 47], rows[1][:, 47])


@pytest.mark.parametrize("phi", [-1, 1.5])
def test_any_phi_runs(phi: float) -> None:
    """Forward at 128 pixels, one answer per anchor, all of it finite."""
    torch.manual_seed(0)
    model = create_model(phi=phi, num_classes=2).eval()
    randomise(model)
    out = run(model, images())
    anchors = generate_anchors((128, 128), model.config.feature_network.levels, model.config.anchors)
    assert out.class_logits.shape == (1, len(anchors), 2)
    assert out.box_deltas.shape == (1, len(anchors), 4)
    assert all(o.isfinite().all() for o in out)
    assert all(o.std() > 1e-4 for o in out)


def test_a_family_of_ones_own() -> None:
    """Any α, β, γ, law, graph, fusion and activation."""
    mine = Family(
        name="mine",
        architecture="mobilenet-v2",
        compound=CompoundScaling(alpha=1.3, beta=1.2, gamma=1.05),
        law=DetectorLaw(width_base=16, depth_base=1, head_base=1, size_base=256, size_step=64),
        graph="panet",
        fusion="softmax",
        activation="relu",
    )
    model = create_model(phi=-1, family=mine, num_classes=4).eval()
    config = model.config
    assert (config.name, config.backbone.width, config.backbone.depth) == ("mine-phi-1", 1 / 1.2, 1 / 1.3)
    assert (config.feature_network.graph, config.feature_network.fusion) == ("panet", "softmax")
    assert run(model, images()).class_logits.isfinite().all()


@pytest.mark.parametrize("architecture", usually("resnet18", "resnet50", "mobilenet-v2", among=OTHER_BACKBONES))
def test_other_backbones_learn_in_every_parameter(architecture: str) -> None:
    """At φ = −2; the levels' widths are those that the backbone says, and every parameter has a gradient."""
    family = FAMILIES[f"efficientdet-{architecture}"]
    torch.manual_seed(0)
    model = create_model(phi=-2, family=family, num_classes=2)
    x = images(2, 128, 160)
    maps = model.backbone(x)
    assert {level: m.shape[1] for level, m in maps.items()} == model.backbone.channels
    assert [m.shape[2:] for m in maps.values()] == [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
    out = model(x)
    g = torch.Generator().manual_seed(1)
    sum((o * torch.randn(o.shape, generator=g)).sum() for o in out).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still
    # Level 1 and 2 maps feed nothing but the next level, so all of the backbone is upstream of level 3.
    dead = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert not dead, dead


def test_every_parameter_of_efficientnet_learns() -> None:
    torch.manual_seed(0)
    model = create_model(small())
    out = model(images(2))
    g = torch.Generator().manual_seed(1)
    sum((o * torch.randn(o.shape, generator=g)).sum() for o in out).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "mobilenet-v2"])
def test_other_backbones_scale(architecture: str) -> None:
    """EfficientNet's table 3: width widens every level, depth adds blocks and leaves the levels' widths."""
    base = BackboneConfig(architecture=architecture)  # type: ignore[arg-type]
    with torch.device("meta"):
        plain, wide, deep = (build_backbone(replace_backbone(base, **c)) for c in ({}, {"width": 1.5}, {"depth": 1.5}))
    convolutions = [sum(p.ndim == 4 for p in b.parameters()) for b in (plain, wide, deep)]
    assert convolutions[0] == convolutions[1] < convolutions[2]
    assert plain.channels == deep.channels
    assert all(wide.channels[level] / plain.channels[level] == pytest.approx(1.5, rel=0.12) for level in plain.channels)


def replace_backbone(config: BackboneConfig, **changes: float) -> BackboneConfig:
    return BackboneConfig(architecture=config.architecture, **changes)


# --- training and evaluation ------------------------------------------------------------------------------------------


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    """Stochastic depth works in training alone; evaluation does not touch the statistics."""
    backbone = BackboneConfig(architecture="efficientnet", width=0.3, depth=1, drop_path=0.5)
    torch.manual_seed(0)
    model = create_model(small(backbone=backbone)).eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    first, second = (run(model, images()) for _ in range(2))
    assert torch.equal(first.class_logits, second.class_logits)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    model.train()
    first, second = (run(model, images(2)) for _ in range(2))
    assert not torch.equal(first.class_logits, second.class_logits)
    assert type(first) is RawOutputs  # one return type in training and evaluation
    assert all(not torch.equal(b, before[name]) for name, b in model.named_buffers())


def test_training_without_drop_path_is_deterministic() -> None:
    model = create_model(small()).train()
    first, second = (run(model, images(2)) for _ in range(2))
    assert torch.equal(first.class_logits, second.class_logits)


def test_dropped_blocks_are_made_up_for() -> None:
    """Kept residuals are divided by their probability, so the mean over many passes is the evaluated block."""
    backbone = build_backbone(BackboneConfig(architecture="efficientnet", width=0.3, depth=1, drop_path=0.5)).double()
    block = next(b for b in reversed(backbone.blocks) if b.drop_path is not None)
    x = torch.randn(1, block.project.bn.num_features, 1, 1, dtype=torch.float64).expand(4000, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        block.eval()
        residual = block(x[:1]) - x[:1]
        block.drop_path.train()
        dropped = block(x) - x
    kept = dropped.abs().sum((1, 2, 3)) > 0
    rate = block.drop_path.p
    assert float(kept.double().mean()) == pytest.approx(1 - rate, abs=0.03)
    torch.testing.assert_close(dropped[kept], (residual / (1 - rate)).expand_as(dropped[kept]), rtol=0, atol=1e-10)


def test_dropout_of_the_classifier_is_for_training() -> None:
    """All of B0's last layer sees is dropped with probability 0.2, in training alone."""
    torch.manual_seed(0)
    model = create_classifier("efficientnet-lite0", num_classes=10).eval()
    x = images(1, 64, 64)
    seen: list[Tensor] = []
    model.linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        assert torch.equal(model(x), model(x))
        model.dropout.train()
        model(x.expand(8, -1, -1, -1))
    positive = seen[0][0] > 0
    assert float((seen[2][:, positive] == 0).double().mean()) == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(seen[2].amax(0), seen[0][0] / 0.8, rtol=1e-3, atol=1e-6)


def test_seeds_decide_the_first_weights() -> None:
    """Equal seeds, equal models; different seeds, different ones."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(create_model(small()).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_a_fresh_model_is_calm() -> None:
    """Before training, every class of every anchor is near probability 0.01 and every box near its anchor."""
    torch.manual_seed(0)
    model = create_model("efficientdet-lite0", num_classes=3).train()
    out = run(model, images(2))
    assert float(out.class_logits.sigmoid().mean()) == pytest.approx(0.01, rel=0.02)
    assert 0.01 < float(out.box_deltas.std()) < 0.15


def test_a_model_moves_and_casts() -> None:
    """Nothing in it is tied to fp32: fp64 in, fp64 out, near the fp32 answer."""
    model = create_model(small()).eval()
    randomise(model)
    single = run(model, images())
    double = run(model.double(), images().double())
    for a, b in zip(single, double, strict=True):
        assert (a.dtype, b.dtype) == (torch.float32, torch.float64)
        assert off_by(a.double(), b) < 1e-4


def test_weights_bring_their_classes_to_a_name_and_only_weights_to_a_config(tmp_path: Path) -> None:
    path = tmp_path / "three.safetensors"
    named = create_model("efficientdet-lite0", class_names=["a", "b", "c"])
    save_model(named, path)
    assert create_model("efficientdet-lite0", pretrained=path).config.class_names == ("a", "b", "c")
    assert create_model("efficientdet-lite0", pretrained=path, num_classes=3).config.class_names == ("a", "b", "c")
    mine = replace(named.config, {"class_names": ("x", "y", "z"), "image_size_hw": (256, 384), "name": "mine"})
    loaded = create_model(mine, pretrained=path)
    assert loaded.config == mine
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), named.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"predicts 3 classes, .* asked for 2"):
        create_model(replace(mine, {"class_names": ("x", "y")}), pretrained=path)
    fresh = create_model(replace(mine, {"class_names": ("x", "y")}), pretrained=path, replace_head=True)
    assert fresh.config.num_classes == 2


@pytest.mark.parametrize("wrong", [True, 3, "imagenet"])
def test_pretrained_of_another_kind(wrong: object) -> None:
    with pytest.raises(ConfigError, match='"backbone" or "coco"'):
        create_model("efficientdet-lite0", pretrained=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='or "imagenet"'):
        create_classifier("efficientnet-lite0", pretrained="backbone")


def test_class_names_have_an_order() -> None:
    with pytest.raises(ConfigError, match="list of names"):
        create_model("efficientdet-lite0", class_names={"cat", "dog"})  # type: ignore[arg-type]


def test_a_fresh_predictor_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(create_model(small()), tmp_path / "m.safetensors")
    create_model(small(), num_classes=2, pretrained=tmp_path / "m.safetensors", replace_head=True)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "starts fresh" in caplog.text


def test_gates_have_the_gradients_that_their_formula_has() -> None:
    """The means' gradient is added to the maps' by hand: against finite differences, in fp64."""
    torch.manual_seed(0)
    gate = SqueezeExcite(4, 2).double()
    maps = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gate, (maps,))
    with torch.no_grad():
        plain = maps * torch.sigmoid(gate.expand(gate.act(gate.reduce(maps.mean((2, 3), keepdim=True)))))
        assert torch.equal(gate(maps), plain)
    assert torch.equal(gate(maps), plain)
