"""Published weights become a network for ONNX Runtime without PyTorch: the same one as with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import randomise
from phidet.architectures.costs import build_on_meta
from phidet.architectures.efficientdet.architecture import EFFICIENTDET
from phidet.architectures.efficientdet.published import DETECTOR_NAMES
from phidet.architectures.efficientdet.published_files import COCO_DETECTORS
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.weights import Weights
from phidet.cli.main import main
from phidet.core.errors import CheckpointError
from phidet.export.onnx_file import build_onnx
from phidet.export.published import network_of
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork
from phidet.weights.create import create_model
from phidet.weights.dialects import known_dialects
from phidet.weights.mapping import to_theirs, weights_of
from phidet.weights.read import read_arrays, read_tensors
from test_detr_export import published_file

NAME = "efficientdet-lite0"


@pytest.fixture(scope="module")
def effdet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as effdet publishes it, of random weights."""
    torch.manual_seed(0)
    model = create_model(NAME)
    randomise(model)
    path = tmp_path_factory.mktemp("published") / "tf_efficientdet_lite0-00000000.pth"
    torch.save(to_theirs(weights_of(model), known_dialects()["effdet"][1], model.config), path)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_it_is_the_exporters_file(half: bool, effdet_file: Path) -> None:
    model = create_model(NAME, pretrained=effdet_file)
    assert network_of(effdet_file, NAME, half) == build_onnx(model, half).SerializeToString()


@pytest.mark.parametrize("name", ["efficientdet-lite0", "efficientdet-d0"])
def test_official_files_give_what_pytorch_computes(name: str, shared: Path, tmp_path: Path) -> None:
    official = shared / "reference" / f"{name}.h5"
    (tmp_path / "n.onnx").write_bytes(network_of(official, name))
    network = OnnxNetwork(tmp_path / "n.onnx", 1)
    model = create_model(name, pretrained=official).eval()
    images = torch.randn(1, 3, *model.config.image_size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(images)
    found = network(images.numpy())
    for key, ours in (("class_logits", wanted.class_logits), ("box_deltas", wanted.box_deltas)):
        theirs = found[key].reshape(ours.shape)
        error = float(np.sqrt(np.mean((theirs - ours.numpy()) ** 2)) / ours.numpy().std())
        assert error < 1e-4, (key, error)


@pytest.mark.parametrize("name", DETECTOR_NAMES)
def test_every_published_detector_uses_each_of_its_weights_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EFFICIENTDET.published_config(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights_of(build_on_meta(config)).items()}
    asked: list[str] = []

    class Shapes(dict[str, tuple[int, ...]]):
        def __getitem__(self, key: str) -> Any:
            asked.append(key)
            # No memory, however large the network is.
            return np.broadcast_to(np.float32(1), super().__getitem__(key))

    def fold(conv: Weights, norm: Weights | None, factor: float = 1.0, with_bias: bool = True, _: float = 0.0) -> Any:
        for part, leaves in ((conv, ["bias"] * with_bias), (norm, ["weight", "bias", "running_mean", "running_var"])):
            for leaf in leaves if part is not None else ():
                assert part[leaf].shape == conv["weight"].shape[:1]  # type: ignore[index]
        return conv["weight"], np.broadcast_to(np.float32(0), conv["weight"].shape[:1])

    monkeypatch.setattr("phidet.architectures.program.fold_arrays", fold)
    monkeypatch.setattr("phidet.architectures.efficientdet.lower_arrays.fold_arrays", fold)
    program = EFFICIENTDET.lower_arrays(config, Weights(Shapes(shapes)))  # type: ignore[arg-type]
    assert program is not None
    assert set(program.outputs) == {"class_logits", "box_deltas"}
    assert set(asked) == set(shapes)


def test_arrays_are_read_as_tensors_are(effdet_file: Path, tmp_path: Path) -> None:
    content = {
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "part": torch.arange(10)[2:7:2],
        "half": torch.randn(5).half(),
        "brain": torch.randn(7).bfloat16(),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(True),
    }
    torch.save(content, tmp_path / "t.pth")
    arrays = read_arrays(tmp_path / "t.pth")
    for name, tensor in read_tensors(tmp_path / "t.pth").tensors.items():
        wanted = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        assert arrays[name].dtype == wanted.dtype
        np.testing.assert_array_equal(arrays[name], wanted)


def test_a_tensor_that_reaches_past_its_numbers_is_refused(tmp_path: Path) -> None:
    large = torch.arange(8.0)
    torch.save({"w": large}, tmp_path / "t.pth")
    content = (tmp_path / "t.pth").read_bytes()
    # The size in the pickle, of one byte, as large as it can be.
    assert content.count(b"K\x08\x85") == 1
    (tmp_path / "t.pth").write_bytes(content.replace(b"K\x08\x85", b"K\xff\x85"))
    with pytest.raises(CheckpointError, match="is damaged or truncated"):
        read_arrays(tmp_path / "t.pth")


def test_files_of_other_networks_are_refused(effdet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit efficientdet-lite1: it lacks"):
        network_of(effdet_file, "efficientdet-lite1")
    content = torch.load(effdet_file)
    torch.save({**content, "backbone.blocks.9.0.conv_pw.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: backbone\.blocks\.9"):
        network_of(tmp_path / "more.pth", NAME)
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds no weights of efficientdet-lite0"):
        network_of(tmp_path / "other.pth", NAME)


@contextmanager
def served(path: Path) -> Iterator[PublishedFile]:
    """The file at a server on this machine, in the publisher's place."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(path.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield PublishedFile(f"http://127.0.0.1:{server.server_port}/{path.name}", digest[:8], "CC0-1.0 (tests)")
        server.shutdown()


@pytest.fixture
def publisher(effdet_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishedFile]:
    with served(effdet_file) as file:
        monkeypatch.setitem(COCO_DETECTORS, NAME, file)
        yield file


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHIDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PHIDET_OFFLINE", raising=False)
    Image.new("RGB", (90, 60), (90, 120, 40)).save("photo.jpg")


_WITHOUT_PYTORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "safetensors")))  # None: as if they were not installed
from phidet.architectures.detr.published_files import DETECTORS
from phidet.architectures.efficientdet.published_files import COCO_DETECTORS
from phidet.architectures.published_file import PublishedFile
name = sys.argv[1]
(DETECTORS if name in DETECTORS else COCO_DETECTORS)[name] = PublishedFile(*sys.argv[2:5])
from phidet.cli.main import main
sys.exit(main(sys.argv[5:]))
"""


def test_first_boxes_without_pytorch(publisher: PublishedFile, tmp_path: Path) -> None:
    check_first_boxes(NAME, publisher, 100, tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [("detr-r50", "detr"), ("detr-r50-panoptic", "detr-panoptic")],
)
@pytest.mark.slow
def test_first_boxes_of_a_set_predictor_without_pytorch(name: str, dialect: str, tmp_path: Path) -> None:
    Image.new("RGB", (180, 16), (90, 120, 40)).save("photo.jpg")  # 118×1333 as input, a tenth of the usual
    (tmp_path / "site").mkdir()
    with served(published_file(name, dialect, tmp_path / "site" / "detr-00000000.pth")) as file:
        check_first_boxes(name, file, 5, tmp_path / "cache")


def check_first_boxes(name: str, publisher: PublishedFile, count: int, cache: Path) -> None:
    words = ["detect", "-m", name, "photo.jpg", "--json", "--download", "--score", "0"]
    command = [sys.executable, "-c", _WITHOUT_PYTORCH, name, *publisher[:3], *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["detections"]) == count
    assert f"converting {publisher.name} from 127.0.0.1, CC0-1.0 (tests)" in done.stderr
    assert (cache / f"{name}.onnx").is_file()
    # The second time nothing is asked for, and nothing is said.
    again = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PHIDET_OFFLINE": "1"}
    )
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "converting" not in again.stderr


def test_nothing_is_fetched_without_a_yes(
    publisher: PublishedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["detect", "-m", NAME, "photo.jpg", "--json"]
    assert main(words) == 4
    assert "give --download to fetch and convert it" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "no\n", raising=False)
    assert main(words) == 4
    said = capsys.readouterr().err
    assert f"{NAME} is not on this machine. Download its weights from 127.0.0.1, CC0-1.0 (tests)? [Y/n]" in said
    assert "was not downloaded" in said
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("sys.stdin.readline", lambda: "\n", raising=False)
    assert main(words) == 0
    assert (tmp_path / "cache" / f"{NAME}.onnx").is_file()


def test_export_does_the_same_where_pytorch_is_absent(publisher: PublishedFile, tmp_path: Path) -> None:
    words = ["export", NAME, "--half", "-o", "half.onnx"]
    command = [sys.executable, "-c", _WITHOUT_PYTORCH, NAME, *publisher[:3], *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "wrote half.onnx (not compared with PyTorch, which is not installed)" in done.stdout
    assert OnnxNetwork(tmp_path / "half.onnx", 1).precision == "fp16"
