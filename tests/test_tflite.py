"""TensorFlow Lite files say what PyTorch says. Run by `make test` in `.venv-runtimes`, which has litert-torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("litert_torch", reason="run in .venv-runtimes", exc_type=ImportError)

import litert_torch
from ai_edge_litert.interpreter import Interpreter
from scipy.optimize import linear_sum_assignment

from conftest import slowly
from export_models import CONFIGS, by_anchor, picture, some_model
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.cli.main import main
from phidet.core.errors import CheckpointError
from phidet.core.structs import from_json, replace
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.detections.settings import PostprocessSettings
from phidet.export.export import ExportOptions, export
from phidet.inference.detector import Detector
from phidet.inference.runtimes.litert_runtime import LiteRtNetwork
from phidet.serve.models.publish import publish
from phidet.weights.native import save_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of JAX, torchao and xDSL, about one another

LOOSE = PostprocessSettings(score=0.5, max_detections=20)


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    """A Lite whose scores are to be told apart."""
    model = some_model(replace(CONFIGS["lite"], {"class_names": ("bolt", "nut", "washer")}))
    with torch.no_grad():
        predict = model.class_head.predict.pointwise
        predict.bias.zero_()  # type: ignore[union-attr]
        images = torch.randn(1, 3, *model.config.image_size_hw, generator=torch.Generator().manual_seed(0))
        predict.weight.div_(model(images).class_logits.std())  # type: ignore[operator]
    return model


@pytest.fixture(scope="module", autouse=True)
def converted_once() -> Iterator[None]:
    """litert-torch takes most of a minute to translate a network, and gives the same for the same: once is enough."""
    translate, translated = litert_torch.convert, {}

    def convert(network: torch.nn.Module, sample_kwargs: dict[str, torch.Tensor]) -> Any:
        weights = [tensor.numpy().tobytes() for tensor in network.state_dict().values()]
        key = hashlib.sha256(b"".join(weights)).digest()
        if key not in translated:
            translated[key] = translate(network, sample_kwargs=sample_kwargs)
        return translated[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_torch, "convert", convert)
        yield


@pytest.fixture(scope="module")
def saved(model: EfficientDet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, its export to ONNX and to TFLite, side by side."""
    path = tmp_path_factory.mktemp("tflite") / "lite.safetensors"
    save_model(model, path)
    for kind in ("onnx", "tflite"):
        assert main(["export", str(path), "--to", kind]) == 0
    return path


@pytest.mark.parametrize("name", ["lite", *slowly("unbounded", "mobilenet")])
def test_every_kind_of_part_is_translated(name: str, model: EfficientDet, tmp_path: Path) -> None:
    model = model if name == "lite" else some_model(CONFIGS[name])
    agreement = export(model, tmp_path / "model.tflite", ExportOptions("tflite")).agreement
    assert agreement.score < 1e-4
    assert agreement.iou > 0.9999
    images = torch.randn(2, 3, *model.config.image_size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(images)
    found = by_anchor(LiteRtNetwork(tmp_path / "model.tflite", 2)(images.numpy()), model)
    np.testing.assert_allclose(found.class_logits, wanted.class_logits.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.box_deltas, wanted.box_deltas.numpy(), atol=1e-3)


def test_it_finds_what_onnx_runtime_finds(saved: Path) -> None:
    exported = Detector(saved.with_suffix(".tflite"))
    assert exported.runtime_name == "litert"
    pictures = [picture(120, 160), picture(300, 200, 1)]
    everything = PostprocessSettings(score=0.3, nms="none", max_detections=100_000)  # scores are too near for a choice
    in_onnx = Detector(saved.with_suffix(".onnx"))
    for found, wanted in zip(exported(pictures, everything), in_onnx(pictures, everything), strict=True):
        assert len(found) == len(wanted) > 100
        assert found.names == ("bolt", "nut", "washer")
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        # Each with the one in its place, as equal scores may come in any order; classes are far from each other.
        rows, others = (np.column_stack([1e4 * d.class_ids, d.boxes_xyxy]) for d in (found, wanted))
        off = np.abs(rows[:, None] - others).max(-1)
        assert off[linear_sum_assignment(off)].max() < 2e-2


def test_threads_share_it(saved: Path) -> None:
    detector = Detector(saved.with_suffix(".tflite"))
    pictures = [picture(100 + 10 * i, 150, i) for i in range(6)]
    alone = [detector(p, LOOSE) for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda p: detector(p, LOOSE), pictures * 3), alone * 3, strict=True):
            np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)


def test_a_file_says_what_it_is_and_runs_without_phidet(saved: Path) -> None:
    path = saved.with_suffix(".tflite")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"bolt\nnut\nwasher\n"
        metadata = json.loads(archive.read("phidet.json"))
    assert from_json(metadata["config"], ModelConfig).class_names == ("bolt", "nut", "washer")
    assert metadata["precision"] == "fp32"
    signature = Interpreter(str(path)).get_signature_list()["serving_default"]
    assert signature["inputs"] == ["images"]
    assert sorted(signature["outputs"]) == ["box_deltas", "class_logits"]


def test_it_can_be_published(saved: Path, tmp_path: Path) -> None:
    version = publish(saved.with_suffix(".tflite"), tmp_path / "models")
    assert Detector(version / "model.tflite")(picture(128, 160), LOOSE).names == ("bolt", "nut", "washer")


def test_fewer_bits(tmp_path: Path, blood_cells: Dataset, model: EfficientDet, saved: Path) -> None:
    half = export(model, tmp_path / "half.tflite", ExportOptions("tflite", "fp16"), blood_cells)
    eighth = export(model, tmp_path / "int8.tflite", ExportOptions("tflite", "int8"), blood_cells)
    assert half.megabytes < 0.75 * saved.with_suffix(".tflite").stat().st_size / 1e6
    assert eighth.megabytes < half.megabytes
    assert half.agreement.score < 5e-3
    assert 1e-5 < eighth.agreement.score < 0.05
    assert LiteRtNetwork(tmp_path / "int8.tflite").precision == "int8"


@pytest.fixture
def blood_cells(shared: Path) -> Dataset:
    folder = open_data(shared / "data" / "bccd")
    return folder.read("val", None)


@pytest.mark.parametrize("damage", ["half", "no header", "nothing"])
def test_a_damaged_file_is_refused(damage: str, saved: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "damaged.tflite", saved.with_suffix(".tflite").read_bytes()
    if damage == "no header":
        shutil.copy(saved.with_suffix(".tflite"), path)
        with zipfile.ZipFile(saved.with_suffix(".tflite")) as archive:
            start = min(entry.header_offset for entry in archive.infolist())
        path.write_bytes(whole[:start])
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    with pytest.raises(CheckpointError, match=r"damaged\.tflite is not a phidet detector"):
        Detector(path)


def test_a_damaged_model_behind_a_good_header_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tflite"
    with zipfile.ZipFile(saved.with_suffix(".tflite")) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    path.write_bytes(b"no flatbuffer at all, and long enough for its magic to be missed")
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"damaged\.tflite cannot be loaded"):
        Detector(path)
