"""Exports whose batch somebody has fixed, as some devices need: any number of images is answered, and served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from phidet import Detector
from phidet.cli.main import main
from phidet.detections.settings import PostprocessSettings
from phidet.serve.configuration import Source
from phidet.serve.models.model import detector_loader
from serve_server import b64, encoded, picture, serving, settings_for
from tiny_model import write_tiny_model

SETTINGS = PostprocessSettings(score=0.05)


def with_fixed_batch(path: Path, batch: int) -> Path:
    """As ``onnxruntime.tools.make_dynamic_shape_fixed --dim_param batch --dim_value BATCH``."""
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "batch":
                dim.dim_value = batch
    fixed = path.with_name(f"fixed-{batch}.onnx")
    onnx.save(model, str(fixed))
    return fixed


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "free.onnx")


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_any_number_of_images_gets_the_answers_of_the_free_export(free: Path, batch: int) -> None:
    images = [picture(90 + 10 * i, 120, seed=i) for i in range(5)]
    reference = Detector(free, threads=1).detect(images, SETTINGS)
    detector = Detector(with_fixed_batch(free, batch), threads=1)
    for count in (1, 2, 3, 5):
        found = detector.detect(images[:count], SETTINGS)
        assert len(found) == count
        for ours, theirs in zip(found, reference, strict=False):
            assert len(ours.scores) == len(theirs.scores) > 0
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
            np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.05)


@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_detected_with_in_batches(
    free: Path, batch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(seed=i)))
    fixed = str(with_fixed_batch(free, batch))
    assert main(["detect", str(tmp_path), "-m", fixed, "--batch", "2", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("batch", [1, 4])
def test_it_is_served(free: Path, batch: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(with_fixed_batch(free, batch).read_bytes())
    settings = settings_for(tmp_path, sources=(Source("m", tmp_path),))
    bodies = [{"instances": [b64(encoded(picture(seed=i)))] * (1 + i % 3)} for i in range(6)]
    load = detector_loader(SETTINGS, partial(Detector, threads=1))
    with serving(settings, load) as server, ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda body: server.post("/v1/models/m:predict", body), bodies))
    assert [len(reply.json["predictions"]) for reply in replies] == [1, 2, 3, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
