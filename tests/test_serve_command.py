"""``phidet publish`` and ``phidet serve`` as processes of their own, with the bundled model; PyTorch is not needed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import phidet
from phidet.cli.main import main
from phidet.detections.boxes import xyxy_to_yxyx
from serve_process import client, command_line_server
from serve_server import PREDICT, b64, until


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    assert main(["publish", "person", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def photo() -> Path:
    """A portrait that comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_the_served_answer_is_the_detectors(base: Path, photo: Path) -> None:
    found = phidet.Detector("person")(photo)
    with Image.open(photo) as image:
        width, height = image.size
    with command_line_server(base, "--score", "0.3", stdout=subprocess.DEVNULL) as (process, port):
        reply = client(port).post(PREDICT, {"instances": [b64(photo.read_bytes())]})
        infer = client(port).get("/v2/models/m").json
        process.send_signal(signal.SIGTERM)
        assert process.wait() in (0, -signal.SIGTERM)
    (answer,) = reply.json["predictions"]
    n = len(found)
    assert answer["num_detections"] == n > 0
    boxes = xyxy_to_yxyx(found.boxes_xyxy) / np.float32([height, width, height, width])
    np.testing.assert_allclose(answer["detection_boxes"][:n], boxes, atol=1e-5)
    np.testing.assert_allclose(answer["detection_scores"][:n], found.scores, atol=1e-5)
    assert infer["platform"] == "phidet_onnxruntime"


def test_port_0_is_any_that_is_free_and_is_said(base: Path) -> None:
    command = [sys.executable, "-m", "phidet.cli.main", "serve", "--model_base_path", str(base), "--rest_api_port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "http://" in line)
            port = re.search(r"on http://127\.0\.0\.1:(\d+)$", said.strip())
            assert port is not None, said
            until(client(int(port[1])).is_ready)
        finally:
            process.kill()
