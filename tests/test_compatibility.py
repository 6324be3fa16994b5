"""What version 0.1 wrote is read, run, resumed and served; ``data/version-0.1/make.py`` says how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from phidet import load_model
from phidet.architectures.classifier.middle import classifier_input
from phidet.architectures.classifier.network import Classifier
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.cli.main import main
from phidet.detections.settings import PostprocessSettings
from phidet.images.prepare import prepare
from phidet.inference.detector import Detector
from phidet.serve.models.model import detector_loader
from serve_server import b64, serving, settings_for

KEPT = Path(__file__).parent / "data" / "version-0.1"
HOME = "/home/user"  # in the runs' run.json
LOOSE = PostprocessSettings(score=0.05, max_detections=20)

Arrays = Mapping[str, npt.NDArray[np.float32]]


def expected(prefix: str, file: str = "expected.npz") -> Arrays:
    with np.load(KEPT / file) as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def image() -> Image.Image:
    with Image.open(KEPT / "image.png") as file:
        return file.convert("RGB")


def answers(model: nn.Module) -> Arrays:
    """The network's own outputs for the kept image."""
    pixels = np.array(image())
    with torch.no_grad():
        if isinstance(model, Classifier):
            return {"logits": model(classifier_input(pixels, model.config)[None])[0].numpy()}
        assert isinstance(model, EfficientDet)
        prepared, _ = prepare(pixels, model.config.image_size_hw, model.config.preprocess)
        outputs = model(torch.from_numpy(prepared)[None])
        return {"class_logits": outputs.class_logits[0].numpy(), "box_deltas": outputs.box_deltas[0].numpy()}


def assert_same(found: Arrays, wanted: Arrays, relative: float = 1e-6) -> None:
    """Equal within a part of the largest value."""
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=relative * np.abs(values).max(), err_msg=name)


@pytest.mark.parametrize("name", ["detector", "classifier"])
def test_weights_answer_as_then(name: str) -> None:
    model = load_model(KEPT / f"tiny-{name}.safetensors").eval()
    assert model.config.name == f"tiny-{name}"
    assert_same(answers(model), expected(f"{name}/"))


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        ("tiny-detector.safetensors", None),
        ("served/1/model.onnx", None),
        ("tiny-detector-fp16.onnx", None),
        ("tiny-detector.xml", "openvino"),
        ("tiny-detector.tflite", "ai_edge_litert"),
    ],
)
def test_every_kind_of_export_finds_what_it_found_then(file: str, needs: str | None) -> None:
    if needs is not None:
        pytest.importorskip(needs, reason="run in .venv-runtimes", exc_type=ImportError)
    wanted = expected(f"{'tiny-detector.onnx' if file.startswith('served') else file}/", answers_of(needs))
    with Detector(KEPT / file) as detector:
        assert detector.class_names == ("bolt", "nut")
        found = detector(image(), LOOSE)
    assert len(wanted["scores"]) > 5
    assert found.class_ids.tolist() == wanted["class_ids"].tolist()
    assert_same({"scores": found.scores, "boxes": found.boxes_xyxy},
                {"scores": wanted["scores"], "boxes": wanted["boxes_xyxy"]})  # fmt: skip


def answers_of(needs: str | None) -> str:
    return "expected.npz" if needs is None else "expected-exports.npz"


@pytest.mark.parametrize("name", ["detect", "classify"])
@pytest.mark.repeated
def test_an_interrupted_run_goes_on_to_what_it_would_have_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs were done, two are left; data, augmentation and the optimizer go on as if nothing had happened."""
    home = tmp_path / "home"
    shutil.copytree(KEPT / "data" / name, home / "data" / name)
    run = shutil.copytree(KEPT / f"run-{name}", tmp_path / "run")
    about = run / "run.json"
    about.write_text(about.read_text().replace(HOME, str(home)))
    assert main(["train", "--resume", str(run), "--workers", "0", "--accelerator", "cpu"]) == 0

    rows = json.loads((run / "metrics.json").read_text())
    wanted = json.loads((KEPT / "expected-metrics.json").read_text())[name]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    measured = set(wanted[-1]) - {"seconds", "images_per_second"}
    for row, then in zip(rows, wanted, strict=True):
        # Another processor rounds otherwise, and training makes more of it. Two detections may then change places, a
        # step for AP: it is compared to a tenth of a point, the last digit that papers give.
        for key in measured:
            bound = {"abs": 1e-3} if key in ("ap", "ap50") else {"rel": 1e-3}
            assert row[key] == pytest.approx(then[key], **bound), key
    # AdamW's first steps make 1e-3 of another rounding; a lost optimizer or another seed is 2e-2 away.
    assert_same(answers(load_model(run / "last.safetensors").eval()), expected(f"resumed-{name}/"), relative=5e-3)
    assert (run / "report" / "report.json").is_file()


def test_a_published_version_is_served(tmp_path: Path) -> None:
    base = shutil.copytree(KEPT / "served", tmp_path / "m")
    load = detector_loader(LOOSE, partial(Detector, threads=1))
    with serving(settings_for(base), load) as server:
        body = {"instances": [b64((KEPT / "image.png").read_bytes())]}
        [answer] = server.post("/v1/models/m:predict", body).json["predictions"]
    wanted = expected("tiny-detector.onnx/")
    count = len(wanted["scores"])
    assert answer["num_detections"] == count
    y1, x1, y2, x2 = np.array(answer["detection_boxes"][:count]).T
    width, height = image().size
    found = {"boxes": np.stack((x1 * width, y1 * height, x2 * width, y2 * height), 1),
             "scores": np.array(answer["detection_scores"][:count])}  # fmt: skip
    assert_same(found, {"boxes": wanted["boxes_xyxy"], "scores": wanted["scores"]})
    assert [class_id - 1 for class_id in answer["detection_classes"][:count]] == wanted["class_ids"].tolist()
