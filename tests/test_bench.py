"""``phidet bench``: metrics, runtimes that are installed, and messages for mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import data_factory
from conftest import randomise
from peers import tiny_detector
from phidet.architectures.efficientdet.mask_config import MaskConfig
from phidet.cli.main import main
from phidet.core.structs import replace
from phidet.export.onnx_file import build_onnx
from phidet.inference.bench.measure import Measurement, Times
from phidet.inference.bench.plot import save_latency_accuracy
from phidet.weights.create import create_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model(tiny_detector())
    randomise(model)
    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    path.write_bytes(build_onnx(model).SerializeToString())
    return path


def test_metrics_of_a_model(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runtime", "onnxruntime", "--runs", "3", "--threads", "1", "--batch", "1,2", "--json"]
    assert main(["bench", str(exported), *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["runtime"], row["precision"], row["size_hw"], row["ap"]) == ("onnxruntime", "fp32", [128, 160], None)
    assert set(row["stages"]) == {"decode", "resize", "network", "post"}
    assert row["stages"]["network"] == row["network"]
    assert all(0 < times["median"] <= times["p95"] + 1e-9 for times in row["stages"].values())
    assert set(row["images_per_second"]) == {"1", "2"}
    assert row["images_per_second"]["1"] < 1e5
    assert 1 < row["memory_mib"] < 2000
    assert row["decoding"] == {}  # no masks


def test_masks_are_measured_beside_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = create_model(replace(tiny_detector(), {"masks": MaskConfig(prototypes=8, channels=8, layers=0)}))
    randomise(model)
    path = tmp_path / "masks.onnx"
    path.write_bytes(build_onnx(model).SerializeToString())
    words = ["bench", str(path), "--runtime", "onnxruntime", "--runs", "3", "--batch", "1"]
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    boxes, masks = row["decoding"]["boxes"], row["decoding"]["masks"]
    assert masks["times"]["median"] > boxes["times"]["median"] > 0
    assert masks["memory_mib"] > boxes["memory_mib"] > 0
    assert main(words) == 0
    assert "masks, MiB" in capsys.readouterr().out


def test_what_cannot_be_measured(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nowhere.onnx"]) == 4
    assert "there is no model 'nowhere.onnx'" in capsys.readouterr().err
    assert main(["bench", str(exported), "--plot", "p.png"]) == 2
    assert "say with --eval on which data" in capsys.readouterr().err
    assert main(["bench", str(exported), "--runs", "0"]) == 2
    assert "--runs must be a whole number ≥ 1, got 0" in capsys.readouterr().err
    broken = exported.with_name("broken.onnx")
    broken.write_bytes(b"not a model")
    assert main(["bench", str(broken), "--runtime", "onnxruntime"]) == 4
    assert "broken.onnx cannot be loaded" in capsys.readouterr().err
    assert main(["bench", str(exported), "--image", "nope.jpg"]) == 3
    assert "there is no image at nope.jpg" in capsys.readouterr().err
    assert main(["bench", str(exported), "--runtime", "torch"]) == 4
    assert "tiny.onnx cannot be run by torch: " in capsys.readouterr().err


def test_one_model_that_cannot_be_measured_does_not_take_the_others_along(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    words = ["--runtime", "onnxruntime", "--runs", "1", "--batch", "1", "--json"]
    assert main(["bench", str(broken), str(exported), *words]) == 4
    out, err = capsys.readouterr()
    assert [row["model"] for row in json.loads(out)] == [str(exported)]
    assert "broken.onnx cannot be loaded" in err
    assert "1 of 2 could not be measured" in err
    words += ["--eval", str(data_factory.coco(tmp_path / "data")), "--plot", str(tmp_path / "p.png")]
    assert main(["bench", str(broken), *words]) == 4
    assert json.loads(capsys.readouterr().out) == []
    assert not (tmp_path / "p.png").exists()


def test_what_ap_is_measured_on_is_looked_at_first(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_factory.coco(tmp_path)
    words = ["bench", str(exported), "--runtime", "onnxruntime", "--runs", "1", "--batch", "1", "--eval"]
    assert main([*words, str(root), "--plot", str(tmp_path / "p.foo")]) == 2
    assert "expected an ending of" in capsys.readouterr().err
    assert main([*words, str(root)]) == 3
    assert "has no object of the classes of" in capsys.readouterr().err
    label = root / "annotations" / "instances_train.json"
    label.write_text(label.read_text().replace('"ant"', '"bolt"'))
    assert main([*words, str(root), "--json", "--plot", str(tmp_path / "p.png")]) == 0
    out, err = capsys.readouterr()
    assert 0 <= json.loads(out)[0]["ap"] <= 1
    assert "wrote" in err
    assert (tmp_path / "p.png").is_file()


def test_the_image_is_written(tmp_path: Path) -> None:
    def measured(runtime: str, precision: str, median: float) -> Measurement:
        times = Times(mean=median, deviation=1.0, median=median, p95=1.3 * median)
        return Measurement(
            model="person.onnx",
            runtime=runtime,
            precision=precision,
            threads=None,
            size_hw=(320, 320),
            load_ms=1.0,
            network=times,
            stages={},
            images_per_second={},
            memory_mib=None,
        )

    points = [
        (measured("onnxruntime", "fp32", 13.0), 0.412),
        (measured("onnxruntime", "int8", 6.0), 0.405),
        (measured("openvino", "fp32", 10.0), 0.412),
    ]
    save_latency_accuracy(points, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
