"""The bundled detector as a start: the same network as the one that detects, with norms that can be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import Image
from torch import nn

from phidet import create_model
from phidet.core import bundled
from phidet.core.bundled import bundled_file
from phidet.core.errors import CheckpointError
from phidet.detections.settings import PostprocessSettings
from phidet.export.source import load_detector, target_of
from phidet.inference.detector import Detector
from phidet.inference.runtimes.open_model import open_network
from phidet.training.about import Request
from phidet.training.fit import RunSettings
from phidet.training.plan import plan_run
from phidet.weights.mapping import weights_of
from phidet.weights.native import load_model
from test_train_run import CLASSES, write_squares


def test_what_is_trained_on_is_what_detects() -> None:
    """Weights in 16 bits and norms that were put back: the same numbers up to the rounding of 16 bits."""
    noise = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    # Blurred, it has edges of all sizes.
    images = nn.functional.interpolate(noise, size=(448, 448), mode="bilinear").clamp(-1, 1).numpy()
    exported = open_network("person", "onnxruntime")(images)
    trained = open_network("person", "torch")(images)
    for name in ("class_logits", "box_deltas"):
        wanted = exported[name].reshape(trained[name].shape)
        assert np.sqrt(np.mean((trained[name] - wanted) ** 2)) < 1e-3 * wanted.std()


def test_its_threshold_is_the_same_in_both_files_and_is_used() -> None:
    """``--score auto`` finds what that score, as a number, finds."""
    detector = Detector("person")
    stored = detector.thresholds
    assert stored == load_model(bundled_file("person", ".safetensors")).thresholds
    photo = Path(get_data_path(), "sample_data/grace_hopper.jpg")
    assert stored is not None
    assert detector(photo, PostprocessSettings(score="auto")) == detector(
        photo, PostprocessSettings(score=stored.scores[0])
    )


def test_its_norms_have_the_statistics_of_photographs() -> None:
    """Norms being trained use the batch's mean and variance: were those that are stored others, a step would forget."""
    with Image.open(Path(get_data_path(), "sample_data/grace_hopper.jpg")) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((448, 448)), np.float32)
    image = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]
    model, differences = load_model(bundled_file("person", ".safetensors")), []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):

            def differ(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
                differences.append((norm.running_var / inputs[0].var((0, 2, 3))).log().abs())

            module.register_forward_pre_hook(differ)
    with torch.no_grad():
        model(torch.cat([image, image.flip(3)]))
    # One photograph is not many: coarse levels have few pixels of it.
    assert float(torch.cat(differences).median()) < np.log(2)


@pytest.mark.parametrize(("model", "size"), [("efficientdet-lite0", 320), ("person", 448)])
def test_a_run_starts_from_it(model: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default where COCO's weights cannot be had, at the size of the network that was asked for; or by its name."""
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path / "cache"))
    data = write_squares(tmp_path / "squares")
    request = Request(data=str(data), model=model)
    plan = plan_run(request, RunSettings(out=tmp_path / "run"))
    assert plan.model.config.image_size_hw == (size, size)
    assert plan.model.config.class_names == tuple(CLASSES)
    held, here = weights_of(load_model(bundled_file("person", ".safetensors"))), weights_of(plan.model)
    fresh = {name for name in here if here[name].shape != held[name].shape or not torch.equal(here[name], held[name])}
    assert fresh == {"class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias"}


def test_whoever_looks_for_people_keeps_what_it_knows_of_them() -> None:
    names = ["dog", "Person"]
    model = create_model("efficientdet-lite0", class_names=names, pretrained="person", replace_head=True)
    held = load_model(bundled_file("person", ".safetensors"))
    rows = model.class_head.predict.pointwise.weight.detach().reshape(-1, 2, 64)
    assert torch.equal(rows[:, 1], held.class_head.predict.pointwise.weight.detach().reshape(-1, 64))


def test_an_export_of_it_leaves_the_installation_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path))
    assert load_detector("person").config.class_names == ("person",)
    assert target_of("person", "-int8.onnx") == tmp_path / "person-int8.onnx"


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_damaged_installation_is_told(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=rf"lacks its person model, .*person\{suffix}: reinstall"):
        bundled_file("person", suffix)
