"""Networks on detections as ONNX files: equal to PyTorch, run without it, and used by ``phidet detect``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import peers  # noqa: F401 - effdet scripts functions, which fails once torch_geometric is imported

pytest.importorskip("torch_geometric")

import phidet
from phidet import Detections, Detector, MissingExtraError, Relations, save_model
from phidet.architectures.relations.config import Layer
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError, ExportError, InputError
from phidet.detections.settings import PostprocessSettings
from phidet.export import onnx_relations, quiet
from phidet.export.export import ExportOptions, export
from phidet.inference.runtimes.onnx_runtime import run_once
from phidet.training.relations_task import TorchRelations
from relations_data import NAMES, SIZE_HW, answers_of, detections, graph, network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a network and its export."""
    folder = tmp_path_factory.mktemp("run")
    model = network("attention").float()
    save_model(model, folder / "best.safetensors")
    assert main(["export", str(folder)]) == 0
    return folder


def check_equal(path: Path, layer: Layer) -> None:
    model = network(layer).float()
    for count in (0, 1, 2, 5, 60):
        found = graph(count, seed=count)
        ours = answers_of(model, found)
        theirs = run_once(path, dict(onnx_relations.architecture_of(model.config).relating(model.config).inputs(found)))
        assert set(ours) == set(theirs)
        for name, values in ours.items():
            np.testing.assert_allclose(theirs[name], values, rtol=1e-4, atol=1e-5)


def test_an_export_equals_the_network_for_any_number_of_nodes(exported: Path) -> None:
    check_equal(exported / "best.onnx", "attention")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["gated", "sage", "chebyshev", "gcn"])
def test_exports_of_the_other_layers_equal_their_networks(layer: Layer, tmp_path: Path) -> None:
    report = export(network(layer).float(), tmp_path / "relations.onnx")
    assert report.agreement.score < 1e-4
    check_equal(report.paths[0], layer)


def test_an_export_that_differs_is_not_written(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = (exported / "best.onnx").read_bytes()

    class Wrong:
        @staticmethod
        def SerializeToString() -> bytes:  # noqa: N802
            return file

    monkeypatch.setattr("phidet.export.export.relations_onnx", lambda model: Wrong)
    other = network("attention", seed=5).float()
    with pytest.raises(ExportError, match="disagrees with PyTorch, so it was not written"):
        export(other, tmp_path / "relations.onnx")
    assert not list(tmp_path.iterdir())


def test_what_relates_detections_is_the_same_in_both_runtimes(exported: Path) -> None:
    relations = Relations(exported)
    with_pytorch = TorchRelations(network("attention").float(), torch.device("cpu"))
    assert relations.class_names == NAMES
    assert relations.settings() == PostprocessSettings(score=0.1, max_detections=100)
    for count in (0, 1, 30):
        found = detections(count, 1)
        ours, theirs = relations.relate(found), with_pytorch(found)
        assert ours.right == pytest.approx(theirs.right, abs=1e-5)
        np.testing.assert_allclose(ours.together, theirs.together, atol=1e-4)
        np.testing.assert_allclose(ours.detections.scores, theirs.detections.scores, atol=1e-4)
        np.testing.assert_allclose(ours.detections.boxes_xyxy, theirs.detections.boxes_xyxy, atol=1e-2)
        assert set(relations(found).fields) == {"group", "right", "detected_class_id", "detected_score"}


def test_detections_below_the_networks_score_are_left_out(exported: Path) -> None:
    found = Detections(np.array([[0, 0, 9, 9.0]] * 2), np.array([0.9, 0.04]), np.array([0, 1]), NAMES, SIZE_HW)
    assert len(Relations(exported)(found)) == 1


def test_relations_need_no_pytorch(exported: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torch_geometric', 'scipy', 'networkx', 'onnx')))\n"
        "import numpy as np, phidet\n"
        f"relations = phidet.Relations({str(exported)!r})\n"
        f"boxes = np.array([[5, 5, 30, 30], [40, 5, 60, 30.]])\n"
        f"found = phidet.Detections(boxes, [0.9, 0.8], [0, 1], {NAMES}, (99, 99))\n"
        "print(len(relations(found)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2\n", "")


class Found:
    """A detector that finds the same in every image."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.class_names = NAMES
        self.settings: list[PostprocessSettings] = []

    def detect(self, arrays: Any, settings: PostprocessSettings) -> list[Detections]:
        self.settings.append(settings)
        return [detections(12, 3).filter(settings.score, settings.classes) for _ in arrays]

    def close(self) -> None:
        pass


def test_detect_corrects_what_it_found(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = Found()
    monkeypatch.setattr("phidet.inference.detector.Detector", lambda *_, **__: finder)
    image = tmp_path / "board.png"
    Image.new("RGB", (SIZE_HW[1], SIZE_HW[0])).save(image)
    words = ["detect", str(image), "--json", "--relations", str(exported)]
    assert main([*words, "--score", "0.4", "--classes", "nut,bolt"]) == 0
    line = json.loads(capsys.readouterr().out)
    # Detected from the network's own score on, of all classes; what the user wants is chosen of the corrected ones.
    assert (finder.settings[0].score, finder.settings[0].classes) == (0.1, None)
    expected = Relations(exported)(detections(12, 3)).filter(0.4, ["nut", "bolt"])
    assert 0 < len(expected) < 12
    assert [d["label"] for d in line["detections"]] == expected.labels
    assert [d["group"] for d in line["detections"]] == expected.fields["group"].tolist()
    assert [d["score"] for d in line["detections"]] == pytest.approx(expected.scores.tolist())


def test_mistakes_are_one_message(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="relates detections and looks at no image: detect with a detector, and give"):
        Detector(exported / "best.onnx")
    with pytest.raises(ConfigError, match="efficientdet-lite0 detects in images"):
        Relations("person")
    save_model(network("gcn").float(), tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"is not an export: write one beside it with 'phidet export"):
        Relations(tmp_path)
    with pytest.raises(InputError, match="expected detections with image_size_hw"):
        Relations(exported)(Detections(np.array([[0, 0, 9, 9.0]]), np.array([0.9]), np.array([0]), NAMES))
    for options in (ExportOptions(precision="fp16"), ExportOptions(nms=True)):
        with pytest.raises(ConfigError, match="it is exported as ONNX in fp32, without images"):
            export(network().float(), tmp_path / "relations.onnx", options)

    image = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(image)
    assert main(["detect", str(image), "--relations", str(exported), "--json"]) == 2
    assert "relates detections of bolt, nut, washer, the detector finds person" in capsys.readouterr().err
    monkeypatch.setattr(quiet, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"phidet\[train\]"):
        onnx_relations.relations_onnx(network().float())
    assert phidet.Relations is Relations


def test_info_describes_a_network_on_detections(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(exported / "best.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == sum(p.numel() for p in network("attention").parameters())
    assert told["config"]["class_names"] == list(NAMES)
    assert main(["info", "relations-gcn"]) == 0
    text = capsys.readouterr().out
    assert "3 × gcn, 64 channels" in text
    assert "8 nearest" in text
    assert main(["info", "relations-gcn", "--image-size", "64"]) == 2
    assert "relations-gcn takes no image: leave the other options out" in capsys.readouterr().err
