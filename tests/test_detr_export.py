"""DETR as a network for ONNX Runtime: written from arrays, with PyTorch and without, it answers as PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.costs import build_on_meta
from phidet.architectures.detr.architecture import DETR
from phidet.architectures.detr.config import DetrConfig, MaskConfig, TransformerConfig
from phidet.architectures.detr.published import PUBLISHED, detr_config
from phidet.architectures.header import Header
from phidet.architectures.weights import Weights
from phidet.core.errors import CheckpointError
from phidet.core.structs import replace
from phidet.export.onnx_file import build_onnx, program_onnx
from phidet.export.published import network_of, published_detector
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork
from phidet.weights.create import create_model
from phidet.weights.dialects import known_dialects
from phidet.weights.mapping import to_theirs, weights_of
from phidet.weights.read import read_arrays, read_tensors
from test_detr_dialects import randomised

SIZES = TransformerConfig(width=64, heads=4, encoder_layers=2, decoder_layers=2, feed_forward=96)
MASKED = TransformerConfig(width=128, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=96)
R50 = BackboneConfig(architecture="resnet50", width=0.25)
MASKS: dict[str, Any] = {"transformer": MASKED, "masks": MaskConfig()}
CASES: dict[str, dict[str, Any]] = {
    "r50": {"backbone": R50},
    "dc5": {"backbone": R50, "dilation": True},
    "panoptic": {"backbone": R50, **MASKS},
    "panoptic dc5": {"backbone": R50, "dilation": True, **MASKS},
    "fixed panoptic": {"input_size": "fixed", **MASKS},
    "fixed": {"input_size": "fixed"},
    "norms before": {"transformer": replace(SIZES, {"pre_norm": True})},
    "no encoder": {"transformer": replace(SIZES, {"encoder_layers": 0, "pre_norm": True})},
    "learned": {"position": "learned"},
    "demo": {"form": "demo", "position": "learned"},
    "lite0": {"backbone": BackboneConfig(architecture="efficientnet-lite", width=0.5, depth=0.5)},
    "b0": {"backbone": BackboneConfig(architecture="efficientnet", width=0.5, depth=0.5)},
    "mobilenet": {"backbone": BackboneConfig(architecture="mobilenet-v2", width=0.5)},
}


def some(**changes: Any) -> Any:
    """A small DETR whose answers are spread, so that one taken for another shows."""
    fields: dict[str, Any] = {
        "name": "some",
        "backbone": BackboneConfig(architecture="resnet18", width=0.5),
        "class_names": ("a", "b", "c"),
        "transformer": SIZES,
        "queries": 12,
        "image_size_hw": (96, 128),
    }
    model = randomised(DetrConfig(**{**fields, **changes}))
    torch.nn.init.normal_(model.class_head.weight)
    return model


def apart(model: Any, network: OnnxNetwork, size_hw: tuple[int, int], valid_hw: list[list[int]]) -> float:
    """The largest difference of an output, in units of its deviation, for a batch of images padded to one size."""
    images = torch.randn(len(valid_hw), 3, *size_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = DETR.named_outputs(model(images, torch.tensor(valid_hw)))
    found = network(images.numpy(), np.array(valid_hw, np.int64))
    assert found.keys() == wanted.keys()
    errors = []
    for name, ours in wanted.items():
        assert found[name].shape == ours.shape
        errors.append(float(np.abs(found[name] - ours.numpy()).max() / ours.std()))
    return max(errors)


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_pytorch_does(case: str, tmp_path: Path) -> None:
    """In batches, of any size where that varies, with and without padding."""
    model = some(**CASES[case])
    graph = build_onnx(model)
    (tmp_path / "n.onnx").write_bytes(graph.SerializeToString())
    network = OnnxNetwork(tmp_path / "n.onnx", 1)
    assert apart(model, network, (96, 128), [[96, 128], [40, 77]]) < 1e-4
    if model.config.input_size == "varying":
        assert apart(model, network, (97, 65), [[97, 65]]) < 1e-4
        assert apart(model, network, (33, 250), [[33, 250], [1, 1], [33, 64]]) < 1e-4
        assert apart(model, network, (1, 90), [[1, 90]]) < 1e-4, "smaller than a cell"
    # Nothing of PyTorch's exporter, which would leave its names.
    assert graph.producer_name == "phidet"


def test_half_precision_keeps_sixteen_bits(tmp_path: Path) -> None:
    model = some(**MASKS)
    sizes = {}
    for half in (False, True):
        path = tmp_path / f"{half}.onnx"
        path.write_bytes(build_onnx(model, half).SerializeToString())
        sizes[half] = path.stat().st_size
    assert sizes[True] < 0.55 * sizes[False]
    assert 1e-5 < apart(model, OnnxNetwork(tmp_path / "True.onnx", 1), (96, 128), [[96, 128]]) < 0.1


# ---- published files, without PyTorch


def published_file(name: str, dialect: str, path: Path) -> Path:
    """A file as it is published, but of one layer on both sides and of five queries."""
    config = detr_config(name)
    sizes = replace(config.transformer, {"encoder_layers": 1, "decoder_layers": 1})
    model = randomised(replace(config, {"transformer": sizes, "queries": 5}))
    foreign = to_theirs(weights_of(model), known_dialects()[dialect][1], model.config)
    if path.suffix == ".safetensors":
        save_file(foreign, path)
    else:
        torch.save({"model": foreign}, path)
    return path


@pytest.mark.parametrize(
    ("name", "dialect", "ending"),
    [
        ("detr-r50", "detr", ".pth"),
        pytest.param("detr-r50-dc5", "transformers", ".safetensors", marks=pytest.mark.slow),
        pytest.param("detr-r50", "transformers-no-timm", ".safetensors", marks=pytest.mark.slow),
        pytest.param("detr-r50-panoptic", "detr-panoptic", ".pth", marks=pytest.mark.slow),
        pytest.param("detr-r50-panoptic", "transformers", ".safetensors", marks=pytest.mark.slow),
        pytest.param("detr-demo", "detr-demo", ".pth", marks=pytest.mark.slow),
    ],
)
def test_it_is_the_exporters_file(name: str, dialect: str, ending: str, tmp_path: Path) -> None:
    path = published_file(name, dialect, tmp_path / f"their{ending}")
    model = create_model(name, pretrained=path)
    assert model.config.queries == 5 or name == "detr-demo"
    for half in (False, True):
        assert network_of(str(path), name, half) == build_onnx(model, half).SerializeToString()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_detector_uses_all_of_its_weights(name: str) -> None:
    config = detr_config(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights_of(build_on_meta(config)).items()}
    asked: set[str] = set()

    class Shapes(dict[str, tuple[int, ...]]):
        def __getitem__(self, key: str) -> Any:
            asked.add(key)
            return np.broadcast_to(np.float32(1), super().__getitem__(key))

    program = DETR.lower_arrays(config, Weights(Shapes(shapes)))  # type: ignore[arg-type]
    graph = program_onnx(program, Header(config, "fp32"))
    assert asked == set(shapes)
    assert [value.name for value in graph.graph.input] == ["images", "valid_hw"]
    assert [value.name for value in graph.graph.output] == list(DETR.output_shapes(config))
    assert published_detector(name) is not None


def test_names_without_weights_are_no_published_detectors() -> None:
    assert published_detector("detr-mobilenet-v2") is None


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    path = published_file("detr-r50", "detr", tmp_path / "their.pth")
    with pytest.raises(CheckpointError, match=r"does not fit detr-r101: it lacks backbone\.0\.body\.layer3\.6"):
        network_of(path, "detr-r101")
    with pytest.raises(CheckpointError, match="does not fit detr-r50-panoptic: it lacks"):
        network_of(path, "detr-r50-panoptic")


def test_safetensors_are_read_as_arrays(tmp_path: Path) -> None:
    content = {
        "half": torch.randn(2, 3).half(),
        "brain": torch.randn(7).bfloat16(),
        "double": torch.randn(1, dtype=torch.float64),
        "whole": torch.arange(4),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(True),
    }
    save_file(content, tmp_path / "t.safetensors")
    arrays = read_arrays(tmp_path / "t.safetensors")
    for name, tensor in read_tensors(tmp_path / "t.safetensors").tensors.items():
        wanted = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        assert arrays[name].dtype == wanted.dtype
        np.testing.assert_array_equal(arrays[name], wanted)
    save_file({"eighth": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "t.safetensors")
    with pytest.raises(CheckpointError, match="a tensor of type F8_E4M3, which NumPy lacks"):
        read_arrays(tmp_path / "t.safetensors")
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_arrays(tmp_path / "t.safetensors")
