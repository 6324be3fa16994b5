"""An architecture of another package trains, resumes, evaluates, exports, detects and is served, as a built-in one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from blobs import Box, painted
from doctor_data import coco
from interrupted import interrupted_after, same_weights
from phidet import Detector, create_model, load_model, save_model
from phidet.architectures.registry import all_architectures, architecture_named, registered
from phidet.cli.main import main
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.settings import PostprocessSettings
from phidet.export.source import load_detector, target_of
from phidet.inference.runtimes.open_model import find_model
from phidet.serve.models.model import detector_loader
from serve_server import PREDICT, b64, encoded, serving, settings_for

pytestmark = pytest.mark.usefixtures("unrendered")
PLUGIN = Path(__file__).parent / "plugin"
NAMES = ["person", "dog"]
CHANGES = ("learning_rate=0.01", "augmentation.mosaic=0", "augmentation.colour=0", "evaluate_every=24")
PLAIN = [word for change in CHANGES for word in ("--set", change)]
QUICK = ["--model", "centre-point-small", "--batch-size", "8", "--workers", "0", "--accelerator", "cpu"]


def install(folder: Path, line: str) -> None:
    """What ``pip install`` leaves of a package with this entry point."""
    about = folder / "centre_point-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: centre-point\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[phidet.architectures]\n{line}\n")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(tmp_path / "site", "centre-point = centre_point:CENTRE_POINT")
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registered.cache_clear()
    yield
    registered.cache_clear()


def scenes(count: int, seed: int) -> list[tuple[np.ndarray, list[tuple[str, list[float]]]]]:
    """Red and blue rectangles of different sizes on grey."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        objects: list[tuple[Box, int]] = []
        for class_id, left in ((0, 0), (1, 48)):
            w, h = rng.integers(16, 40, 2)
            x, y = left + int(rng.integers(0, 48 - w)), int(rng.integers(0, 96 - h))
            objects.append(((x, y, x + int(w), y + int(h)), class_id))
        boxes = [(NAMES[c], [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]) for (x1, y1, x2, y2), c in objects]
        made.append((painted(96, 96, *objects), boxes))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return coco(tmp_path / "data", {"train": scenes(40, 0), "val": scenes(8, 1)}, NAMES)


def test_it_goes_every_way_that_a_built_in_one_goes(
    plugin: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = ["train", str(data), *QUICK, "--epochs", "24", "--recipe", "small", *PLAIN]
    assert main([*whole, "--out", "whole"]) == 0

    capsys.readouterr()
    assert main(["eval", "whole", str(data), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["coco"]["ap50"] > 0.8  # red and blue rectangles are easy

    assert main(["export", "whole"]) == 0
    assert main(["export", "whole", "--half", "--out", "half.onnx"]) == 0
    image, settings = scenes(1, 1)[0][0], PostprocessSettings(score=0.3)
    answers = [Detector(path, threads=1)(image, settings) for path in ("whole/best.safetensors", "whole/best.onnx")]
    assert answers[0].labels
    assert sorted(answers[0].labels) == sorted(answers[1].labels)
    np.testing.assert_allclose(answers[0].boxes_xyxy, answers[1].boxes_xyxy, atol=1e-2)
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=1e-4)

    assert main(["publish", "whole/best.onnx", "models/m"]) == 0
    load = detector_loader(settings, partial(Detector, threads=1))
    with serving(settings_for(tmp_path / "models" / "m"), load) as server:
        body = json.dumps({"instances": [b64(encoded(image))]}).encode()
        status, _, answer = server.request("POST", PREDICT, body)
        assert status == 200
        served = json.loads(answer)["predictions"][0]
        assert served["num_detections"] == len(answers[1])


def test_an_interrupted_run_resumes_to_the_same_weights(
    plugin: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", str(data), *QUICK, "--epochs", "4", "--recipe", "small", *PLAIN, "--val-split", "none"]
    assert main([*words, "--out", "whole"]) == 0
    with interrupted_after(2):
        assert main([*words, "--out", "cut"]) == 130
    assert main(["train", "--resume", "cut", "--workers", "0", "--accelerator", "cpu"]) == 0
    assert same_weights(Path("whole/last.safetensors"), Path("cut/last.safetensors"))


def test_files_name_their_architecture_and_are_refused_without_it(
    plugin: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("centre-point-small", class_names=NAMES, image_size=(64, 128))
    assert model.config.image_size_hw == (64, 128)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    assert again.config == model.config
    assert main(["info", str(tmp_path / "model.safetensors")]) == 0
    assert "trunk" in capsys.readouterr().out


def test_a_file_of_an_architecture_that_is_not_installed_says_so(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path[:0] = [{str(PLUGIN)!r}, {str(tmp_path / "site")!r}]
from phidet import create_model, save_model
save_model(create_model("centre-point-small"), {str(tmp_path / "model.safetensors")!r})
"""
    install(tmp_path / "site", "centre-point = centre_point:CENTRE_POINT")
    import sys  # noqa: PLC0415

    subprocess.run([sys.executable, "-c", script], check=True)
    registered.cache_clear()
    with pytest.raises(Exception, match=r"unknown architecture 'centre-point'.*package that has it installed"):
        load_model(tmp_path / "model.safetensors")


def test_a_broken_package_does_not_stop_models_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "site", "broken = no_such_module:X")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path / "cache"))
    registered.cache_clear()
    try:
        run = tmp_path / "run"
        run.mkdir()
        save_model(create_model("efficientdet-lite0", num_classes=1, image_size=128), run / "best.safetensors")
        for source, target in (
            ("efficientdet-lite0", tmp_path / "cache/efficientdet-lite0.onnx"),
            (str(run), run / "best.onnx"),
            (str(run / "best.safetensors"), run / "best.onnx"),
        ):
            assert target_of(source, ".onnx") == target
        assert find_model(run) == run / "best.safetensors"
        assert type(load_detector(run)) is type(load_model(run / "best.safetensors"))
        # Where no name and no file of ours fits, it may be the broken package's, which is what the user must know.
        assert main(["export", "centre-point-small"]) == ConfigError.exit_code
        assert "'broken' of centre-point cannot be loaded" in capsys.readouterr().err
    finally:
        registered.cache_clear()


def test_what_registers_and_is_none_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line, what in (
        ("broken = no_such_module:X", "cannot be loaded: ModuleNotFoundError"),
        ("other = json:dumps", "is a function, expected an instance of Architecture"),
        ("efficientdet = phidet.architectures.efficientdet.architecture:EFFICIENTDET", "as another architecture"),
    ):
        site = tmp_path / line.split()[0]
        install(site, line)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(site))
            registered.cache_clear()
            with pytest.raises(ConfigError, match=what):
                all_architectures()
    registered.cache_clear()
    assert architecture_named("efficientdet").name == "efficientdet"
    with pytest.raises(UnknownNameError, match="Did you mean efficientdet"):
        architecture_named("efficientdt")
