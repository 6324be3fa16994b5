"""A detector with random weights and a small input, as an ONNX file: for what must run, not for what must be right."""

from __future__ import annotations

from pathlib import Path

import torch

from phidet.export.onnx_file import build_onnx
from phidet.weights.create import create_model


def write_tiny_model(path: Path, class_names: tuple[str, ...] = ("person",)) -> Path:
    """EfficientDet-lite0 at 128×128, whose scores lie about 0.5 so that something is found everywhere."""
    torch.manual_seed(0)
    model = create_model("efficientdet-lite0", class_names=class_names, image_size=128).eval()
    with torch.no_grad():
        model.class_head.predict.pointwise.bias.fill_(0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build_onnx(model).SerializeToString())
    return path
