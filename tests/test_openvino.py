"""OpenVINO says what PyTorch and ONNX Runtime say. Run by `make test` in `.venv-runtimes`, which has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="run in .venv-runtimes", exc_type=ImportError)

from export_models import CONFIGS, LOOSE, by_anchor, exported_tiny, picture, some_model
from phidet.cli.main import main
from phidet.data.layouts import open_data
from phidet.export.export import ExportOptions, export
from phidet.inference.detector import Detector
from phidet.inference.runtimes.openvino_runtime import OpenVinoNetwork


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny(tmp_path_factory.mktemp("exported"))


def test_it_finds_what_onnx_runtime_finds(exported: Path, tmp_path: Path) -> None:
    image = picture(128, 160)
    wanted = Detector(exported)(image, LOOSE)
    source = str(exported.with_suffix(".safetensors"))
    assert main(["export", source, "--to", "openvino", "-o", f"{tmp_path}/t.xml"]) == 0
    for path in (tmp_path / "t.xml", exported):
        detector = Detector(path, runtime="openvino")
        found = detector(image, LOOSE)
        assert detector.class_names == ("bolt", "nut", "washer")
        np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=2e-2)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "lite", "unbounded", "panet", "resnet"])
def test_every_kind_of_part_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    model = some_model(CONFIGS[name])
    export(model, tmp_path / "model.xml", ExportOptions("openvino"))
    images = torch.randn(3, 3, *model.config.image_size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(images)
    network = OpenVinoNetwork(tmp_path / "model.xml", 1)
    found = by_anchor(network(images.numpy()), model)
    np.testing.assert_allclose(found.class_logits, wanted.class_logits.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.box_deltas, wanted.box_deltas.numpy(), atol=1e-3)
    alone = by_anchor(network(images[1:2].numpy()), model)
    np.testing.assert_array_equal(alone.class_logits[0], found.class_logits[1])


def test_int8_is_near(tmp_path: Path, shared: Path) -> None:
    cells = open_data(shared / "data" / "bccd").read("val", None)
    report = export(some_model(CONFIGS["lite"]), tmp_path / "model.xml", ExportOptions("openvino", "int8"), cells)
    assert 1e-6 < report.agreement.score < 0.05
    assert OpenVinoNetwork(tmp_path / "model.xml").precision == "int8"
