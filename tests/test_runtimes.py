"""Networks as other people's tools leave them, and processes that are forked."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

from export_models import CONFIGS, some_model
from phidet.core.errors import CheckpointError
from phidet.export.export import ExportOptions, export
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork
from phidet.inference.runtimes.open_model import find_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export(some_model(), path)
    return path


def test_what_the_runtime_refuses_is_one_line(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value += 32
    onnx.save(model, tmp_path / "wider.onnx")
    images = np.zeros((1, 3, *OnnxNetwork(exported).config.image_size_hw), np.float32)
    with pytest.raises(CheckpointError, match=r"wider\.onnx cannot be (loaded|run): [^\n]+$"):
        OnnxNetwork(tmp_path / "wider.onnx", 1)(images)


@pytest.mark.parametrize("kind", ["tiny", "lite", "resnet"])
def test_onnx_runtimes_quantizer_takes_a_half_export(kind: str, tmp_path: Path) -> None:
    """A tool of other people's, which wants every bias to stand beside a weight without a cast, or alone."""
    model = some_model(CONFIGS[kind])
    path, quantized = tmp_path / "half.onnx", tmp_path / "quantized.onnx"
    export(model, path, ExportOptions(precision="fp16"))
    quantize_dynamic(path, quantized)
    size_hw = model.config.image_size_hw
    images = np.random.default_rng(0).normal(size=(1, 3, *size_hw)).astype(np.float32)
    wanted, found = OnnxNetwork(path, 1)(images), OnnxNetwork(quantized, 1)(images)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert np.corrcoef(found[name].ravel(), wanted[name].ravel())[0, 1] > 0.9


def test_onnx_runtimes_quantizer_takes_the_bundled_model(tmp_path: Path) -> None:
    quantize_dynamic(find_model("person"), tmp_path / "quantized.onnx")
    assert "ConvInteger" in {node.op_type for node in onnx.load(tmp_path / "quantized.onnx").graph.node}


FORK = """
import os, signal, sys, time, warnings
warnings.simplefilter("ignore")  # newer versions of Python warn of forks beside threads
import numpy as np
from phidet import Detector

detector = Detector("person", runtime=sys.argv[1], threads=2)
image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
wanted = detector(image).to_json()
for used in (True, False):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends the child where it would hang
        sys.exit(0 if not used or detector(image).to_json() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0, f"used: {used}"
assert detector(image).to_json() == wanted
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_forked_process_answers_and_ends(runtime: str) -> None:
    if find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed here")
    done = subprocess.run(
        [sys.executable, "-c", FORK, runtime], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
