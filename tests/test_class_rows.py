"""Classes of the same name go on from a file of other classes, wherever they stand in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peers
from phidet import create_classifier, create_model, save_model
from phidet.architectures.base import Architecture
from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.efficientdet.published import detector_config
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, DownloadError
from phidet.core.structs import replace
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.plan import choose_start, open_start, plan_run
from phidet.weights import create
from phidet.weights.class_rows import PredictorRows, carry, same_classes
from phidet.weights.load import load_into, open_source
from phidet.weights.mapping import weights_of
from test_detr_dialects import small as small_detr
from test_setdet import TINY as TINY_SETDET
from test_setdet import lively
from test_train_run import CLASSES as SQUARES
from test_train_run import write_squares

NAMES = ("ant", "Traffic Light", "bee")


def test_names_are_compared_without_what_people_write_differently() -> None:
    assert same_classes(("cat", "Traffic_Light", "hot dog"), ("traffic light", "CAT", "hot-dog", "HotDog", "dog")) == [
        *(1, 0, 2, 2, None),
    ]
    assert same_classes(("Cat", "cat"), ("cat", "Cat", "CAT")) == [1, 0, 0], "an equal name comes first"
    assert same_classes(("straße", "a"), ("STRASSE",)) == [0]
    assert same_classes((), ("a",)) == [None]


def test_rows_of_groups_and_rows_of_no_class() -> None:
    # Two groups of (a, b, other); the value says group, class.
    held = torch.tensor([[10.0], [11], [19], [20], [21], [29]])
    fresh = torch.zeros(8, 1)
    assert carry(held, fresh, PredictorRows(2, 1), [1, None, 0]).flatten().tolist() == [11, 0, 10, 19, 21, 0, 20, 29]
    assert carry(held, fresh[:4], PredictorRows(2, 1), [None]).flatten().tolist() == [0, 19, 0, 29]


def detector(class_names: tuple[str, ...]) -> Any:
    return replace(peers.tiny_detector(class_names), {"image_size_hw": (128, 128)})


def setdet(class_names: tuple[str, ...]) -> Any:
    return replace(TINY_SETDET, {"class_names": class_names})


def detr(class_names: tuple[str, ...]) -> DetrConfig:
    config: DetrConfig = small_detr(class_names=class_names)
    return config


def classifier(class_names: tuple[str, ...]) -> Any:
    return peers.tiny_classifier(class_names)


KINDS = pytest.mark.parametrize("config", [detector, setdet, classifier])


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[Callable[[tuple[str, ...]], Any]], tuple[Model, Path]]:
    """A network of ``NAMES`` with weights unlike those of any fresh one, and its file."""

    def make(config: Callable[[tuple[str, ...]], Any]) -> tuple[Model, Path]:
        network = architecture_of(config(NAMES)).build(config(NAMES)).eval()
        lively(network)
        save_model(network, tmp_path / "trained.safetensors")
        return network, tmp_path / "trained.safetensors"

    return make


def started(config: Any, path: Path) -> Model:
    build = create_classifier if "classes" in architecture_of(config).says else create_model
    model = build(config, class_names=config.class_names, pretrained=path, replace_head=True).eval()
    assert model.config.class_names == config.class_names
    return model


def answers(model: Model) -> dict[str, Tensor]:
    torch.manual_seed(5)
    architecture: Architecture[Any] = architecture_of(model.config)
    height, width = model.config.image_size_hw
    images = torch.randn(2, 3, height, width)
    inputs = (images, torch.tensor([[height, width]] * 2)) if architecture.takes_valid_hw else (images,)
    with torch.no_grad():
        return architecture.named_outputs(model(*inputs))


@KINDS
def test_the_same_classes_in_another_order_start_with_the_same_answers(config: Any, trained: Any) -> None:
    before, path = trained(config)
    after = started(config(("bee", "ant", "traffic_light")), path)
    old, new = answers(before), answers(after)
    others = old["class_logits"].shape[-1] - 3  # "no object" stays where it is
    order = [2, 0, 1, *range(3, 3 + others)]
    assert torch.equal(new["class_logits"], old["class_logits"][..., order])
    assert all(torch.equal(new[name], old[name]) for name in old if name not in ("class_logits", "best_logits"))


@pytest.mark.parametrize("config", [detector, classifier])
@pytest.mark.parametrize("wanted", [("bee",), ("bee", "TRAFFIC LIGHT"), ("wasp", "bee", "fly", "ant", "TrafficLight")])
def test_some_of_the_classes_and_more_of_them(config: Any, wanted: tuple[str, ...], trained: Any) -> None:
    before, path = trained(config)
    after = started(config(wanted), path)
    old, new = answers(before)["class_logits"], answers(after)["class_logits"]
    matches = same_classes(NAMES, wanted)
    for mine, theirs in enumerate(matches):
        if theirs is not None:
            torch.testing.assert_close(new[..., mine], old[..., theirs], rtol=1e-5, atol=1e-5)
        else:
            assert not any(torch.allclose(new[..., mine], old[..., c]) for c in range(3))


def test_every_predictor_of_a_set_predictor_goes_on(trained: Any) -> None:
    before, path = trained(setdet)
    after = started(setdet(("wasp", "bee")), path)
    old, new = weights_of(before), weights_of(after)
    heads = [name for name in new if name.startswith(architecture_of(after.config).predictors)]
    assert len(heads) == 2 * (1 + TINY_SETDET.decoder.layers + 1) + 1
    for name in heads:
        assert torch.equal(new[name][1], old[name][2]), name
        assert not torch.equal(new[name][0], old[name][0]), name
    assert torch.equal(new["decoder.noisy_class.weight"][-1], old["decoder.noisy_class.weight"][-1])
    assert all(torch.equal(new[name], old[name]) for name in new if name not in heads)


def test_no_object_goes_on_as_it_is(tmp_path: Path) -> None:
    before = architecture_of(detr(NAMES)).build(detr(NAMES))
    save_model(before, tmp_path / "trained.safetensors")
    after = started(detr(("bee", "wasp", "fly", "ant")), tmp_path / "trained.safetensors")
    for name in ("class_head.weight", "class_head.bias"):
        old, new = weights_of(before)[name], weights_of(after)[name]
        assert torch.equal(new[[0, 3, 4]], old[[2, 0, 3]])
        assert not torch.equal(new[1], old[1])


def test_the_report_says_which(trained: Any) -> None:
    _, path = trained(detector)
    source = open_source(path)
    model = create_model(detector(("wasp", "bee", "traffic light")))
    fresh = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    report = load_into(model, source, replace_head=True, held_names=NAMES)
    said = "2 of 3 classes carried over by name (bee, traffic light ← Traffic Light), fresh: wasp"
    assert said in str(report)
    assert not report.fresh
    bias = weights_of(model)["class_head.predict.pointwise.bias"].reshape(-1, 3)
    assert torch.equal(bias[:, 0], fresh["class_head.predict.pointwise.bias"].reshape(-1, 3)[:, 0])

    # As many classes, all others: nothing goes on by its mere place.
    model = create_model(detector(("x", "y", "z")))
    fresh = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    report = load_into(model, source, replace_head=True, held_names=NAMES)
    assert "no class of that name in the file" in str(report)
    heads = [name for name in fresh if name.startswith("class_head.predict.pointwise.")]
    assert heads
    assert all(torch.equal(weights_of(model)[name], fresh[name]) for name in heads)


def test_training_goes_on_with_classes_of_a_model_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = create_model(detector(("WASHER", "cat", "bolt")))
    lively(own)
    save_model(own, tmp_path / "own.safetensors")
    data = write_squares(tmp_path / "data")
    request = Request(data=str(data), model=str(tmp_path / "own.safetensors"), val_split="none")
    plan = plan_run(request, RunSettings(out=tmp_path / "run", workers=0, accelerator="cpu"))
    assert plan.model.config.class_names == SQUARES == ("bolt", "nut", "washer")
    old, new = (weights_of(model)["class_head.predict.pointwise.weight"] for model in (own, plan.model))
    old, new = old.reshape(9, 3, -1), new.reshape(9, 3, -1)
    assert torch.equal(new[:, [0, 2]], old[:, [2, 0]])
    assert not torch.equal(new[:, 1], old[:, 1])


@pytest.fixture
def coco_weights(tmp_path: Path) -> Path:
    """Weights of a published detector as effdet keeps them: without names."""
    torch.manual_seed(0)
    network = create_model("efficientdet-lite0")
    lively(network)
    from phidet import convert  # noqa: PLC0415

    save_model(network, tmp_path / "lite0.safetensors")
    convert(tmp_path / "lite0.safetensors", tmp_path / "lite0.pth", to="effdet")
    return tmp_path / "lite0.pth"


def test_published_weights_bring_cocos_names(coco_weights: Path) -> None:
    model = create_model(
        "efficientdet-lite0", class_names=("zebra", "mug", "Stop_Sign"), pretrained=coco_weights, replace_head=True
    )
    old = open_source(coco_weights).find("class_head.predict.pointwise.bias", detector_config("efficientdet-lite0"))
    assert old is not None
    new = weights_of(model)["class_head.predict.pointwise.bias"].reshape(-1, 3)
    old = old.reshape(-1, 90)
    assert torch.equal(new[:, 0], old[:, COCO_CLASS_NAMES.index("zebra")])
    assert torch.equal(new[:, 2], old[:, COCO_CLASS_NAMES.index("stop sign")])


@pytest.mark.parametrize("reached", [True, False])
def test_the_usual_start_is_coco_where_it_can_be_had(
    reached: bool, coco_weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def fetch(file: Any) -> Path:
        asked.append(file.name)
        if reached:
            return coco_weights
        raise DownloadError("cannot download it: no route. Or bring it from elsewhere and put it at /x")

    monkeypatch.setattr(create, "fetch", fetch)
    caplog.set_level(logging.INFO, "phidet")
    chosen = choose_start(Request(data="d", model="efficientdet-lite0"), open_start("efficientdet-lite0"))
    assert chosen.pretrained == ("coco" if reached else "person")
    assert len(asked) == 1
    assert len(caplog.messages) == 1, "one line"
    if reached:
        assert f"starts from detection weights of COCO, {coco_weights}" in caplog.text
    else:
        said = "starts from the person detector (pretrained: person), because detection weights of COCO"
        assert f"{said} cannot be had: cannot download it: no route" in caplog.text
        assert "bring it" not in caplog.text
        # Another network than the bundled one has only its backbone's.
        caplog.clear()
        other = choose_start(Request(data="d", model="efficientdet-d0"), open_start("efficientdet-d0"))
        assert other.pretrained == "backbone"
        said = "efficientdet-d0 starts from ImageNet weights of its backbone (pretrained: backbone), because"
        assert said in caplog.text
    # Whoever says where to start is not asked again, and nothing is fetched for what has no weights of that kind.
    asked.clear()
    for word in ("none", "backbone", "coco", "own.pth"):
        request = Request(data="d", model="efficientdet-lite0", pretrained=word)
        assert choose_start(request, open_start("efficientdet-lite0")) == request
    assert choose_start(Request(data="d", model="setdet-lite0"), open_start("setdet-lite0")).pretrained == "backbone"
    assert not asked


def test_what_is_no_start_is_still_told() -> None:
    for word in ("imagenet", "cocoo"):
        with pytest.raises(ConfigError, match=f'pretrained must be .*"coco" .*"person", got {word!r}'):
            create_model("efficientdet-lite0", pretrained=word)
