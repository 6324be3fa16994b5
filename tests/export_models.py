"""Small models of every kind, to be exported, and images to compare them on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from conftest import randomise
from peers import tiny_detector
from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.decode import NetworkOutputs
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.architectures.feature_networks.config import FeatureNetworkConfig
from phidet.core.structs import replace
from phidet.detections.settings import PostprocessSettings
from phidet.export.export import export
from phidet.weights.create import create_model
from phidet.weights.native import save_model

Image = NDArray[np.uint8]
LOOSE = PostprocessSettings(score=0.05, max_detections=20)


def some_model(config: ModelConfig | None = None) -> EfficientDet:
    torch.manual_seed(0)
    model = create_model(config or tiny_detector())
    randomise(model)
    return model.eval()


def exported_tiny(folder: Path) -> Path:
    """A tiny model whose scores are spread, so that images have objects, as ONNX; its source is beside it."""
    model = some_model()
    with torch.no_grad():
        model.class_head.predict.pointwise.bias.add_(3.0)  # type: ignore[operator,union-attr]
    path = folder / "tiny.onnx"
    export(model, path)
    save_model(model, path.with_suffix(".safetensors"))
    return path


def picture(height: int, width: int, seed: int = 0) -> Image:
    """Smooth blobs: noise would be averaged away by the resize."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, 0).repeat(16, 1)[:height, :width])


def lite() -> ModelConfig:
    return replace(
        tiny_detector(("one",)),
        {
            "backbone": BackboneConfig(architecture="efficientnet-lite", width=0.25, depth=0.3),
            "feature_network": FeatureNetworkConfig(channels=16, repeats=1, fusion="sum"),
            "activation": "relu6",
            "image_size_hw": (150, 130),  # no multiple of anything
        },
    )


CONFIGS = {
    "tiny": tiny_detector(),
    "lite": lite(),
    "softmax": replace(
        tiny_detector(), {"feature_network": FeatureNetworkConfig(channels=16, repeats=1, fusion="softmax")}
    ),
    "unbounded": replace(  # the only fusion with negative factors
        tiny_detector(), {"feature_network": FeatureNetworkConfig(channels=12, repeats=1, fusion="unbounded")}
    ),
    "panet": replace(tiny_detector(), {"feature_network": FeatureNetworkConfig(channels=8, repeats=1, graph="panet")}),
    "fully-connected": replace(
        tiny_detector(),
        {"feature_network": FeatureNetworkConfig(channels=8, repeats=1, graph="fully-connected-fpn")},
    ),
    "resnet": replace(tiny_detector(), {"backbone": BackboneConfig(architecture="resnet18", width=0.125)}),
    "bottlenecks": replace(
        tiny_detector(), {"backbone": BackboneConfig(architecture="resnet50", width=0.125, depth=0.3)}
    ),
    "mobilenet": replace(tiny_detector(), {"backbone": BackboneConfig(architecture="mobilenet-v2", width=0.25)}),
    "no layers": replace(tiny_detector(), {"head_layers": 0}),
}


def by_anchor(outputs: Mapping[str, npt.NDArray[np.float32]], model: EfficientDet) -> NetworkOutputs:
    """What an exported file gives for a batch, (B, cells, …), as rows of anchors, (B, A, …)."""
    batch = len(outputs["class_logits"])
    logits = outputs["class_logits"].reshape(batch, -1, model.config.num_classes)
    best = outputs["best_logits"] if "best_logits" in outputs else logits.max(-1)
    return NetworkOutputs(best, logits, outputs["box_deltas"].reshape(batch, -1, 4))
