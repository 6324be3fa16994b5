"""bf16, and the search for the fastest way to run a model: what is measured, chosen and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phidet.cli import bench_best
from phidet.cli.main import main
from phidet.core.errors import CheckpointError, ConfigError
from phidet.detections.boxes import elementwise_iou
from phidet.images.decode import read_image
from phidet.inference.bench import best
from phidet.inference.bench.best import Found, Way, measure_ways
from phidet.inference.detector import Detector
from phidet.inference.runtimes import kept as kept_module
from phidet.inference.runtimes.kept import keep, kept_choice, kept_path
from phidet.inference.runtimes.open_model import find_model

IMAGE = np.zeros((40, 40, 3), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    path.write_bytes(find_model("person").read_bytes())
    return path


def test_bf16_needs_openvino(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"only OpenVINO computes in bf16.* got mine.onnx on onnxruntime"):
        Detector(model, runtime="onnxruntime", precision="bf16")
    assert main(["detect", "p.jpg", "-m", str(model), "--runtime", "onnxruntime", "--precision", "bf16"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_processor_without_bf16_gives_one_message(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino", exc_type=ImportError)
    asked: list[dict[str, Any]] = []
    capabilities = ["FP32", "INT8"]

    class Core(openvino.Core):  # type: ignore[name-defined,misc]
        def get_property(self, device: str, name: str) -> Any:
            return capabilities

        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            asked.append(options)
            return super().compile_model(model, device, {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr("phidet.inference.runtimes.openvino_runtime.ov.Core", Core)
    with pytest.raises(ConfigError, match="processor does not compute in bf16"):
        Detector(model, precision="bf16")
    capabilities.append("BF16")
    assert Detector(model, precision="bf16", threads=1, at_once=3).network.precision == "bf16"  # type: ignore[attr-defined]
    assert Detector(model, runtime="openvino", threads=2).network.precision == "fp16"  # type: ignore[attr-defined]
    assert [options["INFERENCE_PRECISION_HINT"] for options in asked] == ["bf16", "f32"]
    assert [options["INFERENCE_NUM_THREADS"] for options in asked] == [3, 2]
    assert [options["PERFORMANCE_HINT"] for options in asked] == ["THROUGHPUT", "LATENCY"]


def test_bf16_is_near(model: Path) -> None:
    openvino = pytest.importorskip("openvino", exc_type=ImportError)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    matplotlib = pytest.importorskip("matplotlib")
    photo = read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    exact, rounded = (Detector(model, runtime="openvino", precision=p)(photo) for p in ("file", "bf16"))  # type: ignore[arg-type]
    assert len(exact) == len(rounded) == 1
    assert 1e-5 < abs(float(exact.scores[0] - rounded.scores[0])) < 0.03  # rounded, and no more than that
    assert elementwise_iou(exact.boxes_xyxy, rounded.boxes_xyxy, "iou")[0] > 0.97


def test_a_choice_is_kept_for_this_file_and_this_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_choice(model) is None
    path = keep(model, "litert", "file", 3)
    assert path == kept_path(model) == model.with_name("mine.onnx.run.json")
    choice = kept_choice(model)
    assert choice is not None
    assert (choice.runtime, choice.threads) == ("litert", 3)
    with pytest.raises(CheckpointError, match="cannot be run by litert"):
        Detector(model)  # it is followed
    Detector(model, precision="file")  # unless something is asked for
    Detector(model, runtime="onnxruntime")
    monkeypatch.setattr(kept_module, "processor_name", lambda: "another")
    assert kept_choice(model) is None
    Detector(model)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        Detector(model)


def of(way: Way, rate: float, difference: float) -> Found:
    return Found(way, rate, 1e3 / rate, difference)


@pytest.fixture
def found(model: Path, monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    """What a measurement says, in place of one."""
    name = str(model)
    exact, several = Way(name, "onnxruntime", "file", 2, 1), Way(name, "onnxruntime", "file", 1, 2)
    bf16, other = Way(name, "openvino", "bf16", 1, 2), Way("other.onnx", "onnxruntime", "file", 1, 2)
    result = [of(exact, 10, 0.0), of(several, 15, 0.0), of(bf16, 30, 0.004), of(other, 40, 0.02)]
    monkeypatch.setattr(best, "measure_ways", lambda *_: result)
    return result


@pytest.mark.parametrize(
    ("words", "chosen"),
    [([], "bf16"), (["--within", "0"], "several"), (["--within", "0.004"], "bf16"), (["--within", "0.05"], "other")],
)
def test_the_fastest_within_the_bound_is_chosen(
    words: list[str], chosen: str, model: Path, found: list[Found], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(model), "--best", "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["images_per_second"] for row in rows] == [40, 30, 15, 10]
    (best_row,) = (row for row in rows if row["best"])
    wanted = found[{"several": 1, "bf16": 2, "other": 3}[chosen]]
    assert best_row["images_per_second"] == wanted.images_per_second
    assert (best_row["runtime"], best_row["precision"]) == (wanted.way.runtime, wanted.way.precision)


def test_it_is_kept_on_request_only(model: Path, found: list[Found], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), "--best"]) == 0
    assert not kept_path(model).exists()
    assert main(["bench", str(model), "--best", "--keep"]) == 0
    assert f"wrote {kept_path(model)}" in capsys.readouterr().err
    choice = kept_choice(model)
    assert choice is not None
    assert (choice.runtime, choice.precision, choice.threads) == ("openvino", "bf16", 1)
    assert main(["bench", str(model), "--best", "--keep", "--within", "1"]) == 2
    assert "other.onnx is another file than" in capsys.readouterr().err
    assert main(["bench", str(model), "--keep"]) == 2
    assert "--keep and --within go with --best" in capsys.readouterr().err


def test_ways_are_measured_in_turns_and_compared_with_the_first(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    order: list[Way] = []
    opened: dict[int, Way] = {}

    class Fake:
        def __init__(self, way: Way) -> None:
            if way.runtime == "litert":
                raise CheckpointError("not here")
            opened[id(self)] = way

    def rate(detector: Fake, images: object, at_once: int) -> float:
        order.append(opened[id(detector)])
        return float(at_once)

    compared: list[tuple[Way, Way]] = []

    def difference(first: Fake, other: Fake) -> float:
        compared.append((opened[id(first)], opened[id(other)]))
        return 0.5

    monkeypatch.setattr(best, "_open", Fake)
    monkeypatch.setattr(best, "_rate", rate)
    monkeypatch.setattr(best, "_milliseconds", lambda *_: 7.0)
    name = str(model)
    ways = [
        Way(name, "onnxruntime", "file", 1, 2),
        Way(name, "litert", "file", 1, 2),
        Way(name, "onnxruntime", "file", 2, 1),
    ]
    failures: list[Way] = []
    refused: Callable[[Way, object], None] = lambda way, _: failures.append(way)  # noqa: E731
    result = measure_ways(ways, [IMAGE], difference, 0.0, refused)  # type: ignore[arg-type]
    assert failures == [ways[1]]
    assert order == [ways[0], ways[2]]  # one turn each, however little time there is
    assert compared == [(ways[0], ways[0])]  # threads change nothing
    assert result == [Found(ways[0], 2.0, 7.0, 0.5), Found(ways[2], 1.0, 7.0, 0.5)]
    with pytest.raises(CheckpointError):
        measure_ways(ways[1:], [IMAGE], difference, 0.0, refused)  # type: ignore[arg-type]


@pytest.mark.repeated
def test_a_real_search_ends_and_the_file_agrees_with_itself(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_best, "SECONDS", 0.0)
    assert main(["bench", str(model), "--best", "--runtime", "onnxruntime", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["difference"] for row in rows} == {0.0}
    assert sum(row["best"] for row in rows) == 1
